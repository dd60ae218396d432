"""Moving bytes from one end of a connection to the other: copied through the worker's hot buffer, or spliced.

Each end keeps what was read from it and not yet written to the other one: a `tail` (copied bytes) or a `pipe`
(spliced ones), never both, and nothing while idle.

Edge-triggered epoll asks for care: an end is READABLE until a read says otherwise, WRITABLE until a write says
otherwise, and whoever stops early for fairness is told MORE.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from meshlb cimport _linux as sys
from meshlb._reach cimport reach_beyond
from meshlb._record cimport record_time
from meshlb._stream cimport (
    BROKEN, DOOMED, FINISHED, HUNG_UP, KEPT_URGENT, PROMPT, READABLE, REGISTERED, SHUT, URGENT, WATCHES_OUT,
    WRITABLE, WRITTEN, conn_t, end_t, pipe_t, streams_of, streams_t,
)
from meshlb._types cimport (
    KIND_CLIENT, SCRATCH, backend_counters, event_data, histogram_add, port_counters, worker_t,
)

cdef enum:
    ROUNDS = 4  # reads per direction and turn, so that no stream starves another
    PIPE = 262144  # bytes asked for a pipe; what the kernel grants is used
    POOLED_PIPES = 64  # idle pipes kept per worker


# -- Pipes: a pool per worker. A pipe with bytes in it is never pooled

cdef pipe_t *_pipe_take(worker_t *w) noexcept nogil:
    """An empty pipe, or NULL when there are no more: then bytes are copied."""
    cdef streams_t *streams = streams_of(w)
    cdef pipe_t *pipe = streams.pipes
    cdef int fds[2]
    if pipe != NULL:
        streams.pipes = pipe.next
        streams.pooled_pipes -= 1
        return pipe
    if w.pipes_made - w.pipes_closed >= sys.load_relaxed_uint(&w.plane.pipes):
        return NULL
    if sys.pipe2(fds, sys.O_NONBLOCK | sys.O_CLOEXEC) != 0:
        return NULL
    pipe = <pipe_t *>malloc(sizeof(pipe_t))
    if pipe == NULL or reach_beyond(w, fds[0]) or reach_beyond(w, fds[1]):
        free(pipe)
        sys.close(fds[0])
        sys.close(fds[1])
        return NULL
    sys.fcntl(fds[1], sys.F_SETPIPE_SZ, <int>PIPE)  # refused beyond the user's soft limit: the default does
    pipe.source, pipe.sink, pipe.held, pipe.next = fds[0], fds[1], 0, NULL
    sys.bump(&w.pipes_made, 1)
    return pipe


cdef void _pipe_drop(worker_t *w, end_t *end) noexcept nogil:
    cdef streams_t *streams = streams_of(w)
    cdef pipe_t *pipe = end.pipe
    end.pipe = NULL
    if pipe.held == 0 and streams.pooled_pipes < POOLED_PIPES:
        pipe.next = streams.pipes
        streams.pipes = pipe
        streams.pooled_pipes += 1
        return
    _pipe_close(w, pipe)


cdef void pipes_close(worker_t *w) noexcept nogil:
    """Gives the pool back."""
    cdef streams_t *streams = streams_of(w)
    cdef pipe_t *pipe
    while streams.pipes != NULL:
        pipe = streams.pipes
        streams.pipes = pipe.next
        streams.pooled_pipes -= 1
        _pipe_close(w, pipe)


cdef void _pipe_close(worker_t *w, pipe_t *pipe) noexcept nogil:
    sys.close(pipe.source)
    sys.close(pipe.sink)
    free(pipe)
    sys.bump(&w.pipes_closed, 1)


# -- Ends: what epoll knows of them

cdef bint end_watch(worker_t *w, conn_t *c, end_t *end, bint out) noexcept nogil:
    """Has epoll report the end's reads, and with `out` its writes as well. False when the kernel refuses."""
    cdef sys.epoll_event event
    cdef int operation = sys.EPOLL_CTL_ADD
    cdef uint16_t known = REGISTERED
    if end.flags & REGISTERED:
        if not out or end.flags & WATCHES_OUT:
            return True
        operation = sys.EPOLL_CTL_MOD  # reports at once if it has become writable meanwhile: nothing is missed
    event.events = sys.EPOLLIN | sys.EPOLLRDHUP | sys.EPOLLPRI | sys.EPOLLET
    if out:
        event.events |= sys.EPOLLOUT
        known |= WATCHES_OUT
    event.data.u64 = event_data(c.generation if end.kind == KIND_CLIENT else c.attempt, c.index, end.kind)
    if sys.epoll_ctl(w.epoll, operation, end.fd, &event) != 0:
        return False
    end.flags |= known
    return True


cdef void end_start(end_t *end, uint8_t kind, int fd) noexcept nogil:
    memset(end, 0, sizeof(end_t))
    end.kind = kind
    end.fd = fd


cdef void end_forget(worker_t *w, end_t *end) noexcept nogil:
    """Gives back what is kept of its bytes."""
    free(end.tail)
    end.tail = NULL
    end.tail_size = 0
    end.flags &= ~KEPT_URGENT
    if end.pipe != NULL:
        _pipe_drop(w, end)


cdef void end_urgent(end_t *end) noexcept nogil:
    """Urgent data has come by: from here on reads stop at its mark, and it is read in its place."""
    cdef int on = 1
    if not end.flags & URGENT:
        end.flags |= URGENT
        sys.setsockopt(end.fd, sys.SOL_SOCKET, sys.SO_OOBINLINE, &on, sizeof(on))


cdef bint tail_keep(end_t *end, const char *data, uint32_t size) noexcept nogil:
    """Keeps bytes that were read from the end and could not be passed on yet. False without memory."""
    sys.CHECK(end.tail == NULL and (end.pipe == NULL or end.pipe.held == 0))
    end.tail = <char *>malloc(size)
    if end.tail == NULL:
        return False
    memcpy(end.tail, data, size)
    end.tail_start, end.tail_size = 0, size
    return True


cdef bint tail_rest(end_t *end, const char *data, uint32_t size, uint32_t written) noexcept nogil:
    """Keeps what a first write left over, be it fresh or kept already. False without memory."""
    if end.tail == NULL:
        return written == size or tail_keep(end, data + written, size - written)
    end.tail_start += written
    end.tail_size -= written
    if end.tail_size == 0:
        free(end.tail)
        end.tail = NULL
    return True


# -- Moving bytes

cdef void count_bytes(worker_t *w, conn_t *c, end_t *source, uint64_t size) noexcept nogil:
    """Bytes that have been handed to the other end."""
    cdef port_counters *port = &c.port.counters[w.index]
    cdef backend_counters *backend = &c.backend.counters[w.index]
    if source.kind == KIND_CLIENT:
        if c.header_left:
            size = _after_header(c, size)
        sys.bump(&port.received, size)
        sys.bump(&backend.received, size)
        if c.record != NULL:
            c.record.received += size
        return
    if not c.client.flags & WRITTEN:
        c.client.flags |= WRITTEN
        histogram_add(&port.first_byte, w.now_us - c.begun_us)
        histogram_add(&backend.first_byte, w.now_us - c.begun_us)
        if c.record != NULL:
            c.record.first_byte_us = record_time(w, c.begun_us)
    sys.bump(&port.sent, size)
    sys.bump(&backend.sent, size)
    if c.record != NULL:
        c.record.sent += size


cdef uint64_t _after_header(conn_t *c, uint64_t size) noexcept nogil:
    """How many of these bytes are the client's, and not our own PROXY header."""
    cdef uint8_t header = c.header_left if c.header_left < size else <uint8_t>size
    c.header_left -= header
    return size - header


cdef void _prompt(end_t *sink) noexcept nogil:
    """TCP_NODELAY on the backend's socket, from its second write on: the first never waits for an ACK.

    Clients' sockets have it from their listener.
    """
    cdef int on = 1
    if sink.kind == KIND_CLIENT:
        return
    if sink.flags & (WRITTEN | PROMPT) == WRITTEN:
        sys.setsockopt(sink.fd, sys.IPPROTO_TCP, sys.TCP_NODELAY, &on, sizeof(on))
        sink.flags |= PROMPT
    sink.flags |= WRITTEN


cdef ssize_t _write(
    worker_t *w, conn_t *c, end_t *source, end_t *sink, const char *data, size_t size, int flags
) noexcept nogil:
    """Bytes written, 0 when the sink takes none now, -1 when it is broken."""
    cdef ssize_t written
    _prompt(sink)
    if source.flags & (FINISHED | BROKEN | DOOMED) == FINISHED:
        flags |= sys.MSG_MORE  # the FIN then leaves in the segment of the last bytes; a reset would forget them
    written = sys.send(sink.fd, data, size, sys.MSG_NOSIGNAL | flags)
    if written < 0:
        return 0 if _takes_none_now(c, sink) else -1
    if <size_t>written < size:
        sink.flags &= ~WRITABLE
    if written:
        count_bytes(w, c, source, written)
    return written


cdef bint _takes_none_now(conn_t *c, end_t *sink) noexcept nogil:
    """Whether a write has failed for now alone: epoll tells when there is room, the clock when to ask for memory."""
    if sys.errno == sys.ENOBUFS or sys.errno == sys.ENOMEM:
        c.later = True
    elif sys.errno != sys.EAGAIN and sys.errno != sys.EINTR:
        return False
    sink.flags &= ~WRITABLE
    return True


cdef bint _flush_tail(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Writes kept bytes. False when the sink is broken."""
    cdef int flags = sys.MSG_OOB if source.flags & KEPT_URGENT else 0
    cdef ssize_t written = _write(w, c, source, sink, source.tail + source.tail_start, source.tail_size, flags)
    if written < 0:
        return False
    if written:
        source.flags &= ~KEPT_URGENT
    return tail_rest(source, NULL, source.tail_size, <uint32_t>written)


cdef bint _flush_pipe(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Splices what the pipe holds to the sink. False when the sink is broken."""
    cdef ssize_t moved
    _prompt(sink)
    while source.pipe.held:
        moved = sys.splice(
            source.pipe.source, NULL, sink.fd, NULL, source.pipe.held, sys.SPLICE_F_MOVE | sys.SPLICE_F_NONBLOCK
        )
        if moved <= 0:
            return _takes_none_now(c, sink)
        source.pipe.held -= <uint32_t>moved
        count_bytes(w, c, source, moved)
    return True


cdef int _read_failed(end_t *source) noexcept nogil:
    """What a failed or empty read means. MORE: it can be asked no more now."""
    if sys.errno == sys.EAGAIN:
        source.flags &= ~READABLE
        return MORE
    if sys.errno == sys.EINTR:
        return MORE
    if sys.errno == sys.ENOBUFS or sys.errno == sys.ENOMEM:
        return LATER
    return RESET


cdef int _splice_in(worker_t *w, end_t *source) noexcept nogil:
    """Fills the pipe from the source once. MORE, or RESET."""
    cdef ssize_t moved = sys.splice(
        source.fd, NULL, source.pipe.sink, NULL, PIPE, sys.SPLICE_F_MOVE | sys.SPLICE_F_NONBLOCK
    )
    if moved < 0:
        return _read_failed(source)  # the pipe is empty here, so EAGAIN can only mean the socket
    source.pipe.held = <uint32_t>moved
    if moved:
        _learn(source, <uint32_t>moved)
    else:
        source.usual = 0  # the end, or urgent data: a copying read tells
    # splice() stops short of an urgent byte that no event has told of yet; recv() would go past it.
    if not _is_stream(source) and sys.at_mark(source.fd):
        end_urgent(source)
    return MORE


cdef void _learn(end_t *source, uint32_t size) noexcept nogil:
    """One more read counts for a quarter of what is usual: a small one between large ones changes little."""
    source.usual = (3 * source.usual + size) // 4


cdef bint _is_stream(end_t *source) noexcept nogil:
    """Whether so much is usually read that splicing costs less than copying: more than a quarter of the hot buffer.

    Two full reads in a row are that; so are answers that take a full read and a little one each.
    """
    return source.usual > SCRATCH // 4


cdef int _copy_in(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Reads once into the hot buffer and writes it on; keeps what the sink does not take."""
    cdef ssize_t size = sys.recv(source.fd, w.scratch, SCRATCH, 0)
    if size < 0:
        return _read_failed(source)
    if size == 0:
        source.flags |= FINISHED
        return MORE
    _learn(source, <uint32_t>size)
    if size < SCRATCH:
        # A short read has emptied the queue. What comes later is announced by a new edge, and after a FIN
        # nothing comes; urgent data stops a read short, so it is the exception.
        if not source.flags & URGENT:
            source.flags |= FINISHED if source.flags & HUNG_UP else 0
            source.flags &= ~READABLE
    return _pass_on(w, c, source, sink, size, 0)


cdef int _pass_on(
    worker_t *w, conn_t *c, end_t *source, end_t *sink, ssize_t size, int flags
) noexcept nogil:
    """Writes what has just been read into the hot buffer; keeps what the sink does not take."""
    cdef ssize_t written = _write(w, c, source, sink, w.scratch, size, flags)
    if written < 0:
        return _sink_broken(w, source, sink)
    if written < size and not tail_keep(source, w.scratch + written, <uint32_t>(size - written)):
        return RESET
    return MORE


cdef int _urgent_in(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Reads the one urgent byte at the mark and passes it on as such."""
    cdef ssize_t size = sys.recv(source.fd, w.scratch, 1, 0)
    cdef int result
    if size < 0:
        return _read_failed(source)  # the mark has come ahead of its byte
    source.flags &= ~URGENT
    if size == 0:
        source.flags |= FINISHED
        return MORE
    result = _pass_on(w, c, source, sink, size, sys.MSG_OOB)
    if source.tail != NULL:
        source.flags |= KEPT_URGENT
    return result


cdef int _sink_broken(worker_t *w, end_t *source, end_t *sink) noexcept nogil:
    """The sink was reset under a write. What it sent before is still to be delivered, then the reset is."""
    sink.flags |= BROKEN | READABLE
    source.flags |= FINISHED
    sink.flags |= SHUT
    end_forget(w, source)
    return DONE


cdef int _step(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """One read or one write of one direction. WAIT when it can do neither."""
    if pending(source):
        if not sink.flags & WRITABLE:
            return WAIT
        if source.tail != NULL:
            return MORE if _flush_tail(w, c, source, sink) else _sink_broken(w, source, sink)
        return MORE if _flush_pipe(w, c, source, sink) else _sink_broken(w, source, sink)
    if source.flags & FINISHED:
        return DONE
    if not source.flags & READABLE or not sink.flags & WRITABLE:
        return WAIT
    if source.flags & URGENT and sys.at_mark(source.fd):
        return _urgent_in(w, c, source, sink)
    if _spliced(w, source):
        return _splice_in(w, source)
    return _copy_in(w, c, source, sink)


cdef bint _spliced(worker_t *w, end_t *source) noexcept nogil:
    """Whether the source is a stream, and has a pipe. splice() never gets past urgent data, so that is copied."""
    if not _is_stream(source) or source.flags & URGENT:
        return False
    if source.pipe == NULL:
        source.pipe = _pipe_take(w)
        if source.pipe == NULL:
            source.usual = 0
    return source.pipe != NULL


cdef int move(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Moves bytes of one direction until it must wait, is done, or has had its share of the turn."""
    cdef int result = MORE
    cdef int steps = 2 * ROUNDS  # a read and a write each
    while result == MORE and steps:
        result = _step(w, c, source, sink)
        steps -= 1
    if source.pipe != NULL and source.pipe.held == 0 and result != MORE:
        _pipe_drop(w, source)  # an idle connection holds none
    if result == DONE and source.flags & BROKEN:
        return RESET  # its last bytes are delivered: now its reset is
    if result == WAIT and source.flags & DOOMED and not pending(source) and not source.flags & READABLE:
        return RESET
    return result


cdef bint pending(end_t *source) noexcept nogil:
    """Whether bytes that were read from it are still to be written."""
    return source.tail != NULL or (source.pipe != NULL and source.pipe.held != 0)
