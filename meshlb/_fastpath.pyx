"""The data plane: worker threads that accept, choose a backend, connect and splice, without the GIL.

Threads. One control thread (Python, holding the GIL) owns the tables; each worker thread runs `_serve` and
owns its epoll, its listeners, its connections and its pipes. Between them there are two things only:

  table    control builds an immutable `table_t` and publishes it by one pointer store. A worker loads the
           pointer once per turn of its loop and says so in `seen`; a table that every worker has seen past is
           freed. Ports and backends outlive the tables that name them for as long as a connection refers to
           them (`chosen - ended`), so the turn of round robin and every counter survive a swap.
  inbox    control hands a worker commands (open this listener, close those) through a lock-free stack.

A connection joins two ends, the client's and the backend's. Each end keeps what was read from it and not yet
written to the other one: a `tail` (copied bytes) or a `pipe` (spliced ones), never both, and nothing while idle.

             accept4            connected                both ends EOF, all written
   (listener) ────► CONNECTING ───────────► OPEN ────────────────────────────────────► closed with FIN
                     │      ▲                 │
             refused,└──────┘ next backend    └── reset, or an error on either end ───► closed with RST
             late    │
                     └── no backend left ─────────────────────────────────────────────► closed with RST

Every end's fd is closed in `_conn_end` alone. A closed connection is freed at the end of the turn, because an event
for it may still stand in the batch that epoll returned.

Edge-triggered epoll asks for care: an end is READABLE until a read says otherwise, WRITABLE until a write says
otherwise, and whoever stops early for fairness puts the connection on the `ready` list of the next turn.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

from meshlb cimport _linux as sys

cdef extern from *:
    """
    /* Bytes of the one hot buffer that all reads of a worker share: it should stay in the second-level cache. */
    #define SCRATCH (sizeof(void *) == 8 ? 65536 : 32768)
    """
    const uint32_t SCRATCH

cdef enum:
    LINE = 64  # bytes of a cache line; what two threads write must not share one
    EVENTS = 256  # taken from epoll at once
    ACCEPTS = 16  # connections taken from a listener per turn, so that no port starves another
    ROUNDS = 4  # reads per direction and turn, so that no stream starves another
    PIPE = 262144  # bytes asked for a pipe; what the kernel grants is used
    POOLED_PIPES = 64  # idle pipes kept per worker
    STREAK = 3  # full reads in a row that make a stream (HAProxy's rule), small ones that unmake it
    TICK = 16  # milliseconds per slot of the timer wheel
    SLOTS = 256
    LAST_ATTEMPT = 5000  # milliseconds given to the last backend that is left to try
    PAUSE = 50  # milliseconds without accepting after the kernel ran out of something
    PROBE = 63  # every so many connections, try again whether a backend connects at once

cdef enum:  # what an epoll event points to; first byte of each of these structs
    KIND_CLIENT, KIND_BACKEND, KIND_LISTENER, KIND_INBOX

cdef enum:  # end_t.flags
    REGISTERED = 1  # known to epoll
    READABLE = 2
    WRITABLE = 4
    WATCHES_OUT = 8  # epoll reports when it becomes writable
    HUNG_UP = 16  # epoll has reported its FIN: a short read is the last one
    FINISHED = 32  # its FIN has been read, or nothing more is to be read from it
    SHUT = 64  # we have sent our FIN to it
    BROKEN = 128  # it was reset while we wrote to it
    URGENT = 256  # urgent data came by: a short read proves nothing
    WRITTEN = 512  # it has got its first bytes
    PROMPT = 1024  # TCP_NODELAY is set

cdef enum:  # conn_t.state
    CONNECTING, OPEN, DEAD

cdef enum:  # what moving bytes in one direction came to
    WAIT, MORE, DONE, RESET

cdef enum:  # command_t.kind
    LISTEN, UNLISTEN

ctypedef conn_s conn_t
ctypedef listener_s listener_t
ctypedef table_s table_t
ctypedef command_s command_t
ctypedef pipe_s pipe_t

cdef struct port_counters:  # one per worker, written by it alone
    uint64_t accepted
    uint64_t closed
    uint64_t failed
    uint64_t failovers
    uint64_t received
    uint64_t sent
    uint64_t unused[2]

cdef struct backend_counters:  # one per worker, written by it alone
    uint64_t chosen  # attempts begun
    uint64_t ended  # attempts failed and connections over: the others still refer to the backend
    uint64_t connected
    uint64_t failed
    uint64_t received
    uint64_t sent
    uint64_t unused[2]

cdef struct port_t:
    uint32_t ticket  # shared: whose turn is next. Alone on its cache line
    uint8_t unused[LINE - 4]
    uint32_t id
    int32_t listeners  # shared: not closed yet
    uint64_t retired  # the first generation without it; 0 while a table names it
    port_counters *counters  # per worker

cdef union address_t:
    sys.sockaddr any
    sys.sockaddr_in v4
    sys.sockaddr_in6 v6

cdef struct backend_t:
    address_t address
    sys.socklen_t address_size
    uint32_t id
    uint32_t late  # shared hint: 1 when the last connect was not established by the time it returned
    uint64_t retired
    backend_counters *counters  # per worker

cdef struct route_t:  # one port's part of a table
    backend_t **backends
    uint32_t count
    uint32_t connect_timeout  # milliseconds
    bint used

cdef struct table_s:
    uint64_t generation
    uint64_t namespace_id  # 0 is the one that the process started in
    int namespace_fd  # owned
    uint32_t ports
    route_t *routes  # by port id
    backend_t **backends  # the storage of all routes
    table_t *next  # retired tables, newest first

cdef struct command_s:
    int kind
    listener_t *listener  # LISTEN: the worker owns it from here on
    port_t *port  # UNLISTEN: NULL is all of them
    command_t *next

cdef struct listener_s:
    uint8_t kind
    int fd
    port_t *port
    listener_t *next

cdef struct pipe_s:
    int source
    int sink
    uint32_t held
    pipe_t *next

cdef struct end_t:
    uint8_t kind
    uint8_t full_reads
    uint8_t small_reads
    uint16_t flags
    int fd
    uint32_t tail_start
    uint32_t tail_size
    char *tail
    pipe_t *pipe

cdef struct conn_s:
    end_t client  # first, so that its address is the connection's
    end_t backend_end
    uint8_t state
    bint ready  # on the ready list
    bint timed  # on the timer wheel
    uint16_t attempts
    uint32_t ticket
    uint64_t deadline
    port_t *port
    backend_t *backend
    conn_t *next  # all of a worker's connections
    conn_t *previous
    conn_t *next_ready  # the ready list, then the dead list
    conn_t *next_timer
    conn_t *previous_timer

cdef struct worker_t:
    uint8_t inbox_kind  # what the inbox's epoll event points to
    int index
    int epoll
    int wake
    bint paused
    uint64_t resume_at
    plane_t *plane
    table_t *table
    char *scratch
    uint64_t namespace_id  # where this thread creates sockets
    uint64_t now  # milliseconds
    uint64_t tick
    uint32_t timers
    conn_t *wheel[SLOTS]
    conn_t *connections
    conn_t *ready
    conn_t *dead
    pipe_t *pipes
    uint32_t pooled_pipes
    listener_t *listeners
    uint8_t unused[LINE]
    void *inbox  # shared
    uint64_t seen  # shared: the generation of the table in use
    uint64_t pipes_made  # read by anyone
    uint64_t pipes_closed

cdef struct plane_t:
    int workers
    worker_t *worker
    int32_t stopping  # shared
    void *table  # shared


# ---- Timers: a hashed wheel. Whoever has no deadline costs nothing ----------------------------------------

cdef void _timer_set(worker_t *w, conn_t *c, uint32_t delay) noexcept nogil:
    cdef uint32_t slot
    _timer_clear(w, c)
    c.deadline = w.now + delay
    slot = (c.deadline // TICK + 1) % SLOTS
    c.previous_timer = NULL
    c.next_timer = w.wheel[slot]
    if c.next_timer != NULL:
        c.next_timer.previous_timer = c
    w.wheel[slot] = c
    c.timed = True
    w.timers += 1


cdef void _timer_clear(worker_t *w, conn_t *c) noexcept nogil:
    if not c.timed:
        return
    if c.next_timer != NULL:
        c.next_timer.previous_timer = c.previous_timer
    if c.previous_timer != NULL:
        c.previous_timer.next_timer = c.next_timer
    else:
        w.wheel[(c.deadline // TICK + 1) % SLOTS] = c.next_timer
    c.timed = False
    w.timers -= 1


cdef void _timers_run(worker_t *w) noexcept nogil:
    """Every slot that the clock has passed since the last turn, each at most once."""
    cdef uint64_t now_tick = w.now // TICK
    cdef conn_t *c
    cdef conn_t *following
    if now_tick - w.tick > SLOTS:
        w.tick = now_tick - SLOTS
    while w.tick < now_tick:
        w.tick += 1
        c = w.wheel[w.tick % SLOTS]
        while c != NULL:
            following = c.next_timer
            if c.deadline <= w.now:
                _timer_clear(w, c)
                _conn_retry(w, c)
            c = following


cdef int _timeout(worker_t *w) noexcept nogil:
    """Milliseconds that epoll may sleep; -1 for as long as it likes."""
    cdef uint64_t ahead, due
    if w.ready != NULL:
        return 0
    cdef int limit = -1
    if w.paused:
        limit = <int>(w.resume_at - w.now) if w.resume_at > w.now else 0
    if w.timers == 0:
        return limit
    for ahead in range(1, SLOTS + 1):
        if w.wheel[(w.tick + ahead) % SLOTS] != NULL:
            due = (w.tick + ahead) * TICK
            due = due - w.now if due > w.now else 0
            return <int>due if limit < 0 or <int>due < limit else limit
    return limit


# ---- Pipes: a pool per worker. A pipe with bytes in it is never pooled ---------------------------------------

cdef pipe_t *_pipe_take(worker_t *w) noexcept nogil:
    """An empty pipe, or NULL when the kernel gives none: then bytes are copied."""
    cdef pipe_t *pipe = w.pipes
    cdef int fds[2]
    if pipe != NULL:
        w.pipes = pipe.next
        w.pooled_pipes -= 1
        return pipe
    if sys.pipe2(fds, sys.O_NONBLOCK | sys.O_CLOEXEC) != 0:
        return NULL
    pipe = <pipe_t *>malloc(sizeof(pipe_t))
    if pipe == NULL:
        sys.close(fds[0])
        sys.close(fds[1])
        return NULL
    sys.fcntl(fds[1], sys.F_SETPIPE_SZ, <int>PIPE)  # refused beyond the user's soft limit: the default does
    pipe.source, pipe.sink, pipe.held, pipe.next = fds[0], fds[1], 0, NULL
    sys.bump(&w.pipes_made, 1)
    return pipe


cdef void _pipe_drop(worker_t *w, end_t *end) noexcept nogil:
    cdef pipe_t *pipe = end.pipe
    end.pipe = NULL
    if pipe.held == 0 and w.pooled_pipes < POOLED_PIPES:
        pipe.next = w.pipes
        w.pipes = pipe
        w.pooled_pipes += 1
        return
    _pipe_close(w, pipe)


cdef void _pipe_close(worker_t *w, pipe_t *pipe) noexcept nogil:
    sys.close(pipe.source)
    sys.close(pipe.sink)
    free(pipe)
    sys.bump(&w.pipes_closed, 1)


# ---- Ends: what epoll knows of them ---------------------------------------------------------------------------

cdef bint _watch(worker_t *w, end_t *end, bint out) noexcept nogil:
    """Has epoll report the end's reads, and with `out` its writes as well. False when the kernel refuses."""
    cdef sys.epoll_event event
    cdef int operation = sys.EPOLL_CTL_ADD
    if end.flags & REGISTERED:
        if not out or end.flags & WATCHES_OUT:
            return True
        operation = sys.EPOLL_CTL_MOD  # reports at once if it has become writable meanwhile: nothing is missed
    event.events = sys.EPOLLIN | sys.EPOLLRDHUP | sys.EPOLLPRI | sys.EPOLLET
    if out:
        event.events |= sys.EPOLLOUT
        end.flags |= WATCHES_OUT
    event.data.ptr = end
    end.flags |= REGISTERED
    return sys.epoll_ctl(w.epoll, operation, end.fd, &event) == 0


cdef void _end_init(end_t *end, uint8_t kind, int fd) noexcept nogil:
    memset(end, 0, sizeof(end_t))
    end.kind = kind
    end.fd = fd


cdef void _end_free(worker_t *w, end_t *end) noexcept nogil:
    free(end.tail)
    end.tail = NULL
    end.tail_size = 0
    if end.pipe != NULL:
        _pipe_drop(w, end)


cdef void _end_close(worker_t *w, end_t *end, bint reset) noexcept nogil:
    cdef sys.linger at_once
    if end.fd < 0:
        return
    if reset:
        at_once.l_onoff, at_once.l_linger = 1, 0
        sys.setsockopt(end.fd, sys.SOL_SOCKET, sys.SO_LINGER, &at_once, sizeof(at_once))
    # While the process forks, a child shares the socket until it execs: closing alone would leave it in epoll,
    # which would then report events for a connection that is freed.
    if end.flags & REGISTERED:
        sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_DEL, end.fd, NULL)
    sys.close(end.fd)
    end.fd = -1


cdef bint _tail_keep(end_t *end, const char *data, uint32_t size) noexcept nogil:
    """Keeps bytes that were read from the end and could not be passed on yet. False without memory."""
    CHECK_EMPTY(end)
    end.tail = <char *>malloc(size)
    if end.tail == NULL:
        return False
    memcpy(end.tail, data, size)
    end.tail_start, end.tail_size = 0, size
    return True


cdef bint _tail_rest(end_t *end, const char *data, uint32_t size, uint32_t written) noexcept nogil:
    """Keeps what a first write left over, be it fresh or kept already. False without memory."""
    if end.tail == NULL:
        return written == size or _tail_keep(end, data + written, size - written)
    end.tail_start += written
    end.tail_size -= written
    if end.tail_size == 0:
        free(end.tail)
        end.tail = NULL
    return True


cdef inline void CHECK_EMPTY(end_t *end) noexcept nogil:
    sys.CHECK(end.tail == NULL and (end.pipe == NULL or end.pipe.held == 0))


# ---- Moving bytes -------------------------------------------------------------------------------------------

cdef void _count(worker_t *w, conn_t *c, end_t *source, uint64_t size) noexcept nogil:
    """Bytes that have been handed to the other end."""
    cdef port_counters *port = &c.port.counters[w.index]
    cdef backend_counters *backend = &c.backend.counters[w.index]
    if source.kind == KIND_CLIENT:
        sys.bump(&port.received, size)
        sys.bump(&backend.received, size)
    else:
        sys.bump(&port.sent, size)
        sys.bump(&backend.sent, size)


cdef void _prompt(end_t *sink) noexcept nogil:
    """TCP_NODELAY on the backend's socket, from its second write on: the first never waits for an ACK.

    Clients' sockets have it from their listener.
    """
    cdef int on = 1
    if sink.kind == KIND_BACKEND and sink.flags & (WRITTEN | PROMPT) == WRITTEN:
        sys.setsockopt(sink.fd, sys.IPPROTO_TCP, sys.TCP_NODELAY, &on, sizeof(on))
        sink.flags |= PROMPT
    sink.flags |= WRITTEN


cdef ssize_t _write(
    worker_t *w, conn_t *c, end_t *source, end_t *sink, const char *data, size_t size
) noexcept nogil:
    """Bytes written, 0 when the sink takes none now, -1 when it is broken."""
    cdef ssize_t written
    _prompt(sink)
    # The FIN then leaves in the segment of the last bytes.
    written = sys.send(
        sink.fd, data, size, sys.MSG_NOSIGNAL | (sys.MSG_MORE if source.flags & FINISHED else 0)
    )
    if written < 0:
        if sys.errno != sys.EAGAIN and sys.errno != sys.EINTR:
            return -1
        written = 0
    if <size_t>written < size:
        sink.flags &= ~WRITABLE
    if written:
        _count(w, c, source, written)
    return written


cdef bint _flush_tail(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Writes kept bytes. False when the sink is broken."""
    cdef ssize_t written = _write(w, c, source, sink, source.tail + source.tail_start, source.tail_size)
    if written < 0:
        return False
    return _tail_rest(source, NULL, source.tail_size, <uint32_t>written)


cdef bint _flush_pipe(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Splices what the pipe holds to the sink. False when the sink is broken."""
    cdef ssize_t moved
    _prompt(sink)
    while source.pipe.held:
        moved = sys.splice(
            source.pipe.source, NULL, sink.fd, NULL, source.pipe.held, sys.SPLICE_F_MOVE | sys.SPLICE_F_NONBLOCK
        )
        if moved <= 0:
            if moved < 0 and sys.errno != sys.EAGAIN and sys.errno != sys.EINTR:
                return False
            sink.flags &= ~WRITABLE
            return True
        source.pipe.held -= <uint32_t>moved
        _count(w, c, source, moved)
    return True


cdef int _read_failed(end_t *source) noexcept nogil:
    """What a failed or empty read means. MORE: it can be asked no more now."""
    if sys.errno == sys.EAGAIN:
        source.flags &= ~READABLE
        return MORE
    if sys.errno == sys.EINTR:
        return MORE
    return RESET


cdef int _splice_in(worker_t *w, end_t *source) noexcept nogil:
    """Fills the pipe from the source once. MORE, or RESET."""
    cdef ssize_t moved = sys.splice(
        source.fd, NULL, source.pipe.sink, NULL, PIPE, sys.SPLICE_F_MOVE | sys.SPLICE_F_NONBLOCK
    )
    if moved < 0:
        return _read_failed(source)  # the pipe is empty here, so EAGAIN can only mean the socket
    if moved == 0:
        source.full_reads = 0  # the end, or urgent data: a copying read tells
        return MORE
    source.pipe.held = <uint32_t>moved
    source.small_reads = source.small_reads + 1 if moved < SCRATCH // 2 else 0
    if source.small_reads >= STREAK:
        source.full_reads = 0  # no stream any more: back to copying once the pipe is empty
    return MORE


cdef int _copy_in(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """Reads once into the hot buffer and writes it on; keeps what the sink does not take."""
    cdef ssize_t size = sys.recv(source.fd, w.scratch, SCRATCH, 0)
    cdef ssize_t written
    if size < 0:
        return _read_failed(source)
    if size == 0:
        source.flags |= FINISHED
        return MORE
    if size == SCRATCH:
        source.full_reads += 1 if source.full_reads < STREAK else 0
        source.small_reads = 0
    else:
        source.full_reads = 0
        # A short read has emptied the queue. What comes later is announced by a new edge, and after a FIN
        # nothing comes; urgent data stops a read short, so it is the exception.
        if not source.flags & URGENT:
            source.flags |= FINISHED if source.flags & HUNG_UP else 0
            source.flags &= ~READABLE
    written = _write(w, c, source, sink, w.scratch, size)
    if written < 0:
        return _sink_broken(w, source, sink)
    if written < size and not _tail_keep(source, w.scratch + written, <uint32_t>(size - written)):
        return RESET
    return MORE


cdef int _sink_broken(worker_t *w, end_t *source, end_t *sink) noexcept nogil:
    """The sink was reset under a write. What it sent before is still to be delivered, then the reset is."""
    sink.flags |= BROKEN | READABLE
    source.flags |= FINISHED
    sink.flags |= SHUT
    _end_free(w, source)
    return DONE


cdef int _step(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
    """One read or one write of one direction. WAIT when it can do neither."""
    if source.tail != NULL or (source.pipe != NULL and source.pipe.held):
        if not sink.flags & WRITABLE:
            return WAIT
        if source.tail != NULL:
            return MORE if _flush_tail(w, c, source, sink) else _sink_broken(w, source, sink)
        return MORE if _flush_pipe(w, c, source, sink) else _sink_broken(w, source, sink)
    if source.flags & FINISHED:
        return DONE
    if not source.flags & READABLE or not sink.flags & WRITABLE:
        return WAIT
    if _spliced(w, source):
        return _splice_in(w, source)
    return _copy_in(w, c, source, sink)


cdef bint _spliced(worker_t *w, end_t *source) noexcept nogil:
    """Whether the source is a stream, and has a pipe. splice() never gets past urgent data, so that is copied."""
    if source.full_reads < STREAK or source.flags & URGENT:
        return False
    if source.pipe == NULL:
        source.pipe = _pipe_take(w)
        if source.pipe == NULL:
            source.full_reads = 0
    return source.pipe != NULL


cdef int _move(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil:
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
    return result


# ---- Connections -------------------------------------------------------------------------------------------

cdef void _conn_pump(worker_t *w, conn_t *c) noexcept nogil:
    """Moves what can be moved both ways, and ends the connection when that is what has come."""
    cdef end_t *client = &c.client
    cdef end_t *backend = &c.backend_end
    cdef int up = _move(w, c, client, backend)
    cdef int down = RESET
    if up != RESET:
        down = _move(w, c, backend, client)
        if client.flags & BROKEN:
            up = _move(w, c, client, backend)
    if up == RESET or down == RESET:
        _conn_end(w, c, True)
        return
    if up == DONE and down == DONE:
        _conn_end(w, c, False)
        return
    if up == DONE:
        _pass_fin(backend)
    if down == DONE:
        _pass_fin(client)
    if not _watch(w, client, not client.flags & WRITABLE) or not _watch(w, backend, not backend.flags & WRITABLE):
        _conn_end(w, c, True)
        return
    if up == MORE or down == MORE:
        _conn_ready(w, c)


cdef void _pass_fin(end_t *sink) noexcept nogil:
    if not sink.flags & SHUT:
        sink.flags |= SHUT
        sys.shutdown(sink.fd, sys.SHUT_WR)


cdef void _conn_ready(worker_t *w, conn_t *c) noexcept nogil:
    if not c.ready:
        c.ready = True
        c.next_ready = w.ready
        w.ready = c


cdef void _conn_end(worker_t *w, conn_t *c, bint reset) noexcept nogil:
    """The one place where a connection ends: closes both ends and counts. Its memory goes after the turn."""
    sys.CHECK(c.state != DEAD)
    _timer_clear(w, c)
    _end_free(w, &c.client)
    _end_free(w, &c.backend_end)
    _end_close(w, &c.client, reset)
    _end_close(w, &c.backend_end, reset and c.state == OPEN)
    if c.next != NULL:
        c.next.previous = c.previous
    if c.previous != NULL:
        c.previous.next = c.next
    else:
        w.connections = c.next
    c.state = DEAD
    if not c.ready:
        c.next_ready = w.dead
        w.dead = c
    if c.backend != NULL:
        sys.bump_last(&c.backend.counters[w.index].ended, 1)
    sys.bump_last(&c.port.counters[w.index].closed, 1)


cdef void _conn_fail(worker_t *w, conn_t *c) noexcept nogil:
    """No backend could be reached: what a direct client of a dead server sees is a reset."""
    sys.bump(&c.port.counters[w.index].failed, 1)
    _conn_end(w, c, True)


cdef route_t *_route(worker_t *w, port_t *port) noexcept nogil:
    """The port's part of the table in use; NULL when it has left it."""
    if port.id < w.table.ports and w.table.routes[port.id].used:
        return &w.table.routes[port.id]
    return NULL


cdef bint _enter(worker_t *w) noexcept nogil:
    """Sockets that this thread makes from here on live where the backends can be reached."""
    if w.namespace_id == w.table.namespace_id:
        return True
    if sys.setns(w.table.namespace_fd, sys.CLONE_NEWNET) != 0:
        return False
    w.namespace_id = w.table.namespace_id
    return True


cdef void _conn_start(worker_t *w, conn_t *c) noexcept nogil:
    """Tries backends, each at most once, until one may answer; ends the connection when none is left."""
    cdef route_t *route = _route(w, c.port)
    while route != NULL and c.attempts < route.count:
        c.backend = route.backends[(c.ticket + c.attempts) % route.count]
        c.attempts += 1
        sys.bump(&c.backend.counters[w.index].chosen, 1)
        if c.attempts > 1:
            sys.bump(&c.port.counters[w.index].failovers, 1)
        if _attempt(w, c, route):
            return
        _attempt_failed(w, c)
    _conn_fail(w, c)


cdef bint _attempt(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Connects to the chosen backend. False when that has failed already; else the connection goes on, or is over."""
    cdef backend_t *backend = c.backend
    cdef int fd
    if not _enter(w):
        return False
    fd = sys.socket(backend.address.any.sa_family, sys.SOCK_STREAM | sys.SOCK_NONBLOCK | sys.SOCK_CLOEXEC, 0)
    if fd < 0 and _exhausted(sys.errno):
        return _attempt_later(w, c)
    if fd < 0:
        return False
    _end_init(&c.backend_end, KIND_BACKEND, fd)
    if sys.connect(fd, &backend.address.any, backend.address_size) != 0 and sys.errno != sys.EINPROGRESS:
        return False
    if sys.load_relaxed_uint(&backend.late) == 0 or c.ticket & PROBE == 0:
        return _attempt_early(w, c, route)
    return _attempt_wait(w, c, route)


cdef bint _attempt_later(worker_t *w, conn_t *c) noexcept nogil:
    """No descriptor is left for the backend: waits for one, and keeps further clients in the backlog."""
    _pause(w)
    c.attempts -= 1  # the same backend again
    _timer_set(w, c, PAUSE)
    return True


cdef bint _attempt_early(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """On this machine's own bridges a connect is established by the time it returns: writing at once saves a turn."""
    cdef end_t *client = &c.client
    cdef char *data = client.tail + client.tail_start if client.tail != NULL else NULL
    cdef ssize_t size = client.tail_size
    cdef ssize_t written
    if data == NULL:
        data = w.scratch
        size = sys.recv(client.fd, data, SCRATCH, 0)
        if size < 0 and sys.errno != sys.EAGAIN:
            _conn_end(w, c, True)  # the client has gone already
            return True
        if size < <ssize_t>SCRATCH and size != 0:
            client.flags &= ~READABLE  # what comes from here on is reported when epoll gets to know the socket
        if size <= 0:
            return _attempt_wait(w, c, route)
    written = sys.send(c.backend_end.fd, data, size, sys.MSG_NOSIGNAL)
    if written < 0:
        return _attempt_unwritten(w, c, route, data, size)
    sys.store_relaxed_uint(&c.backend.late, 0)
    c.backend_end.flags |= WRITTEN
    _count(w, c, client, written)
    if not _tail_rest(client, data, <uint32_t>size, <uint32_t>written):
        _conn_end(w, c, True)
        return True
    _conn_connected(w, c)
    return True


cdef bint _attempt_unwritten(
    worker_t *w, conn_t *c, route_t *route, const char *data, ssize_t size
) noexcept nogil:
    """The connect is still under way, or refused: keeps the client's first bytes for whoever answers."""
    cdef bint waiting = sys.errno == sys.EAGAIN
    if c.client.tail == NULL and not _tail_keep(&c.client, data, <uint32_t>size):
        _conn_end(w, c, True)  # another backend must not get the stream without its beginning
        return True
    if not waiting:
        return False
    sys.store_relaxed_uint(&c.backend.late, 1)
    return _attempt_wait(w, c, route)


cdef bint _attempt_wait(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Leaves the attempt to epoll and the clock. The last backend that is left gets more time than the others."""
    if not _watch(w, &c.backend_end, True):
        return False
    _timer_set(w, c, route.connect_timeout if c.attempts < route.count else LAST_ATTEMPT)
    return True


cdef void _attempt_failed(worker_t *w, conn_t *c) noexcept nogil:
    """Forgets the backend that was tried."""
    sys.bump(&c.backend.counters[w.index].failed, 1)
    sys.bump_last(&c.backend.counters[w.index].ended, 1)
    c.backend = NULL
    _timer_clear(w, c)
    _end_close(w, &c.backend_end, False)


cdef void _conn_retry(worker_t *w, conn_t *c) noexcept nogil:
    """The attempt was refused, or its time has passed."""
    _attempt_failed(w, c)
    _conn_start(w, c)


cdef void _conn_connected(worker_t *w, conn_t *c) noexcept nogil:
    c.state = OPEN
    c.backend_end.flags |= WRITABLE
    _timer_clear(w, c)
    sys.bump(&c.backend.counters[w.index].connected, 1)
    _conn_pump(w, c)


cdef void _conn_event(worker_t *w, conn_t *c, end_t *end, uint32_t events) noexcept nogil:
    if c.state == DEAD:
        return
    if events & (sys.EPOLLRDHUP | sys.EPOLLHUP):
        end.flags |= HUNG_UP
    if events & sys.EPOLLPRI:
        end.flags |= URGENT
    # The only sign of a reset that may come: a short read that has seen the FIN before does not ask for more.
    if events & sys.EPOLLERR and c.state == OPEN:
        end.flags |= BROKEN
    if events & (sys.EPOLLIN | sys.EPOLLRDHUP | sys.EPOLLHUP | sys.EPOLLERR):
        end.flags |= READABLE
    if c.state == CONNECTING:
        if events & (sys.EPOLLERR | sys.EPOLLHUP):
            _conn_retry(w, c)
        elif events & sys.EPOLLOUT:
            _conn_connected(w, c)
        return
    if events & (sys.EPOLLOUT | sys.EPOLLERR | sys.EPOLLHUP):
        end.flags |= WRITABLE
    # A reset whose bytes cannot be passed on any more, because the other end has stopped taking them, is passed on now.
    if end.flags & BROKEN and _stuck(end, &c.backend_end if end.kind == KIND_CLIENT else &c.client):
        _conn_end(w, c, True)
        return
    _conn_pump(w, c)


cdef bint _stuck(end_t *source, end_t *sink) noexcept nogil:
    return not sink.flags & WRITABLE and (source.tail != NULL or source.pipe != NULL)


cdef void _conn_accepted(worker_t *w, port_t *port, int fd) noexcept nogil:
    cdef conn_t *c = <conn_t *>calloc(1, sizeof(conn_t))
    cdef port_counters *counters = &port.counters[w.index]
    sys.bump(&counters.accepted, 1)
    if c == NULL:
        sys.close(fd)
        sys.bump(&counters.failed, 1)
        sys.bump_last(&counters.closed, 1)
        return
    _end_init(&c.client, KIND_CLIENT, fd)
    _end_init(&c.backend_end, KIND_BACKEND, -1)
    c.client.flags = READABLE | WRITABLE
    c.state = CONNECTING
    c.port = port
    c.next = w.connections
    if c.next != NULL:
        c.next.previous = c
    w.connections = c
    c.ticket = sys.fetch_add(&port.ticket, 1)
    _conn_start(w, c)


# ---- Listeners -----------------------------------------------------------------------------------------------

cdef bint _exhausted(int error) noexcept nogil:
    """Whether the kernel has run out of descriptors or memory."""
    return error == sys.EMFILE or error == sys.ENFILE or error == sys.ENOBUFS or error == sys.ENOMEM


cdef bint _passing(int error) noexcept nogil:
    """Whether the next client can be accepted all the same."""
    return error == 0 or error == sys.ECONNABORTED or error == sys.EINTR or error == sys.EPROTO


cdef int _listener_take(worker_t *w, listener_t *listener) noexcept nogil:
    """Accepts one connection. 0 on success, else errno."""
    cdef int fd = sys.accept4(listener.fd, NULL, NULL, sys.SOCK_NONBLOCK | sys.SOCK_CLOEXEC)
    if fd < 0:
        return sys.errno
    _conn_accepted(w, listener.port, fd)
    return 0


cdef void _listener_event(worker_t *w, listener_t *listener) noexcept nogil:
    """Level-triggered: what is not taken this turn is reported again in the next."""
    cdef int error = 0
    cdef int left = ACCEPTS
    while left and not w.paused and _passing(error):
        error = _listener_take(w, listener)
        left -= 1
    if _exhausted(error):
        _pause(w)


cdef void _listeners_watch(worker_t *w, uint32_t events) noexcept nogil:
    cdef sys.epoll_event event
    cdef listener_t *listener = w.listeners
    event.events = events
    while listener != NULL:
        event.data.ptr = listener
        sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_MOD, listener.fd, &event)
        listener = listener.next


cdef void _pause(worker_t *w) noexcept nogil:
    """Out of descriptors or memory: clients wait in the backlog, nobody spins, and established ones go on."""
    if not w.paused:
        w.paused = True
        w.resume_at = w.now + PAUSE
        _listeners_watch(w, 0)


cdef void _resume(worker_t *w) noexcept nogil:
    if w.paused and w.now >= w.resume_at:
        w.paused = False
        _listeners_watch(w, sys.EPOLLIN)


cdef void _listener_open(worker_t *w, listener_t *listener) noexcept nogil:
    cdef sys.epoll_event event
    listener.next = w.listeners
    w.listeners = listener
    event.events = 0 if w.paused else sys.EPOLLIN
    event.data.ptr = listener
    sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, listener.fd, &event)


cdef void _listener_drain(worker_t *w, listener_t *listener) noexcept nogil:
    """Takes what has completed its handshake already, since closing would reset it."""
    cdef int left = 65536
    cdef int error = 0
    while left and _passing(error):
        error = _listener_take(w, listener)
        left -= 1


cdef void _listener_close(worker_t *w, listener_t *listener) noexcept nogil:
    sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_DEL, listener.fd, NULL)  # for the same reason as an end's
    sys.close(listener.fd)
    sys.fetch_add_int(&listener.port.listeners, -1)
    free(listener)


cdef void _listeners_close(worker_t *w, port_t *port, bint drain) noexcept nogil:
    """Those of one port, or all with NULL."""
    cdef listener_t **place = &w.listeners
    cdef listener_t *listener
    while place[0] != NULL:
        listener = place[0]
        if port == NULL or listener.port == port:
            place[0] = listener.next
            if drain:
                _listener_drain(w, listener)
            _listener_close(w, listener)
        else:
            place = &listener.next


# ---- The worker's loop --------------------------------------------------------------------------------------

cdef void _obey(worker_t *w) noexcept nogil:
    """Carries out the inbox's commands, oldest first."""
    cdef command_t *taken = <command_t *>sys.exchange_pointer(&w.inbox, NULL)
    cdef command_t *ordered = NULL
    cdef command_t *command
    while taken != NULL:
        command = taken
        taken = command.next
        command.next = ordered
        ordered = command
    while ordered != NULL:
        command = ordered
        ordered = command.next
        if command.kind == LISTEN:
            _listener_open(w, command.listener)
        else:
            _listeners_close(w, command.port, True)
        free(command)


cdef void _dispatch(worker_t *w, void *target, uint32_t events) noexcept nogil:
    cdef uint8_t kind = (<uint8_t *>target)[0]
    cdef conn_t *c
    if kind == KIND_CLIENT:
        c = <conn_t *>target
        _conn_event(w, c, &c.client, events)
    elif kind == KIND_BACKEND:
        c = <conn_t *>(<char *>target - sizeof(end_t))
        _conn_event(w, c, &c.backend_end, events)
    elif kind == KIND_LISTENER:
        if not w.paused:
            _listener_event(w, <listener_t *>target)


cdef void _run_ready(worker_t *w) noexcept nogil:
    """Those that had more to do than one turn's share."""
    cdef conn_t *c = w.ready
    cdef conn_t *following
    w.ready = NULL
    while c != NULL:
        following = c.next_ready
        c.ready = False
        if c.state == DEAD:
            c.next_ready = w.dead
            w.dead = c
        else:
            _conn_pump(w, c)
        c = following


cdef void _bury(worker_t *w) noexcept nogil:
    cdef conn_t *c
    while w.dead != NULL:
        c = w.dead
        w.dead = c.next_ready
        free(c)


cdef void _look_at_clock(worker_t *w) noexcept nogil:
    cdef sys.timespec now
    sys.clock_gettime(sys.CLOCK_MONOTONIC_COARSE, &now)
    w.now = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef void _look_at_table(worker_t *w) noexcept nogil:
    """From here to the next call this table is in use; every older one is not."""
    w.table = <table_t *>sys.load_acquire_pointer(&w.plane.table)
    sys.store_release(&w.seen, w.table.generation)


cdef void _serve(worker_t *w) noexcept nogil:
    cdef sys.epoll_event events[EVENTS]
    cdef int count, i
    _look_at_clock(w)
    w.tick = w.now // TICK
    while not sys.load_acquire_int(&w.plane.stopping):
        _look_at_table(w)
        _obey(w)
        _bury(w)
        count = sys.epoll_wait(w.epoll, events, EVENTS, _timeout(w))
        _look_at_clock(w)
        _look_at_table(w)
        for i in range(count):
            _dispatch(w, events[i].data.ptr, events[i].events)
        _run_ready(w)
        _timers_run(w)
        _resume(w)
    _leave(w)


cdef void _leave(worker_t *w) noexcept nogil:
    """The end of a worker: what is still open is reset, and everything is given back."""
    cdef pipe_t *pipe
    _look_at_table(w)
    _obey(w)
    _listeners_close(w, NULL, False)
    while w.connections != NULL:
        _conn_end(w, w.connections, True)
    _run_ready(w)
    _bury(w)
    while w.pipes != NULL:
        pipe = w.pipes
        w.pipes = pipe.next
        w.pooled_pipes -= 1
        _pipe_close(w, pipe)


# ---- The Python surface: called by one control thread, holding the GIL --------------------------------------

cdef void *_lines(size_t size) except NULL:
    """Zeroed memory that begins on a cache line."""
    cdef void *memory = NULL
    if posix_memalign(&memory, LINE, size) != 0:
        raise MemoryError
    memset(memory, 0, size)
    return memory


cdef class Forwarder:
    """The workers, what they serve, and what they count. `_fastpath.pyi` says how to use it."""

    cdef plane_t plane
    cdef list free_ports, free_backends  # ids to use again
    cdef port_t **ports  # by id
    cdef backend_t **backends
    cdef uint32_t port_room, backend_room
    cdef uint64_t generation
    cdef table_t *retired

    def __cinit__(self, int workers):
        cdef int i
        if workers < 1:
            raise ValueError("workers must be at least 1")
        self.free_ports, self.free_backends = [], []
        self.plane.worker = <worker_t *>_lines(workers * sizeof(worker_t))
        for i in range(workers):
            self.plane.worker[i].epoll = self.plane.worker[i].wake = -1
            self.plane.workers += 1
            _worker_init(&self.plane, &self.plane.worker[i], i)
        self.publish((), -1, 0)

    def __dealloc__(self):
        cdef int i
        cdef table_t *table = <table_t *>self.plane.table
        if table != NULL:
            table.next = self.retired
            self.retired = table
        while self.retired != NULL:
            table = self.retired
            self.retired = table.next
            _table_free(table)
        for i in range(self.plane.workers):
            _leave_unserved(&self.plane.worker[i])
            _worker_free(&self.plane.worker[i])
        for i in range(self.port_room):
            _port_free(self.ports[i])
        for i in range(self.backend_room):
            _backend_free(self.backends[i])
        free(self.ports)
        free(self.backends)
        free(self.plane.worker)

    def run(self, int worker):
        cdef worker_t *w = self._worker(worker)
        with nogil:
            _serve(w)

    def stop(self):
        sys.store_release_int(&self.plane.stopping, 1)
        self._wake()

    def add_port(self):
        cdef port_t *port
        cdef uint32_t id = self._free_port_id()
        port = <port_t *>_lines(sizeof(port_t))
        self.ports[id] = port
        port.id = id
        port.counters = <port_counters *>_lines(self.plane.workers * sizeof(port_counters))
        return id

    def add_backend(self, bytes address, int port):
        cdef backend_t *backend
        cdef uint32_t id
        if len(address) not in (4, 16):
            raise ValueError("an address has 4 or 16 bytes")
        id = self._free_backend_id()
        backend = <backend_t *>_lines(sizeof(backend_t))
        self.backends[id] = backend
        backend.id = id
        backend.counters = <backend_counters *>_lines(self.plane.workers * sizeof(backend_counters))
        _address_set(backend, address, len(address), port)
        return id

    def listen(self, int worker, uint32_t port, int fd):
        cdef worker_t *w = self._worker(worker)
        cdef port_t *of = self._port(port)
        cdef listener_t *listener = <listener_t *>calloc(1, sizeof(listener_t))
        if listener == NULL:
            raise MemoryError
        listener.kind, listener.fd, listener.port = KIND_LISTENER, fd, of
        if not _send(w, LISTEN, listener, of):
            free(listener)
            raise MemoryError
        sys.fetch_add_int(&of.listeners, 1)
        self._wake()

    def close_listeners(self, port=None):
        cdef int i
        cdef port_t *of = NULL if port is None else self._port(port)
        for i in range(self.plane.workers):
            if not _send(&self.plane.worker[i], UNLISTEN, NULL, of):
                raise MemoryError
        self._wake()

    def publish(self, tuple routes, int namespace_fd, uint64_t namespace_id):
        cdef table_t *table = self._table(routes)
        cdef table_t *old = <table_t *>self.plane.table
        self.generation += 1
        table.generation = self.generation
        table.namespace_fd, table.namespace_id = namespace_fd, namespace_id
        sys.store_release_pointer(&self.plane.table, table)
        if old != NULL:
            old.next = self.retired
            self.retired = old
        self._wake()

    def retire_port(self, uint32_t port):
        self._port(port).retired = self.generation

    def retire_backend(self, uint32_t backend):
        self._backend(backend).retired = self.generation

    def reap(self):
        cdef uint64_t seen = self._seen()
        cdef uint32_t i
        cdef list ports = [], backends = []
        self._reap_tables(seen)
        for i in range(self.port_room):
            if self.ports[i] != NULL and self._port_over(self.ports[i], seen):
                ports.append((i, self.port_counters(i)))
                _port_free(self.ports[i])
                self.ports[i] = NULL
                self.free_ports.append(i)
        for i in range(self.backend_room):
            if self.backends[i] != NULL and self._backend_over(self.backends[i], seen):
                _backend_free(self.backends[i])
                self.backends[i] = NULL
                backends.append(i)
        self.free_backends += backends
        return ports, backends

    def port_counters(self, uint32_t port):
        cdef port_counters *counters = self._port(port).counters
        cdef uint64_t closed = 0, accepted = 0, failed = 0, failovers = 0, received = 0, sent = 0
        cdef int i
        for i in range(self.plane.workers):  # closed before accepted: never more closed than accepted
            closed += sys.load_acquire(&counters[i].closed)
            accepted += sys.load_relaxed(&counters[i].accepted)
            failed += sys.load_relaxed(&counters[i].failed)
            failovers += sys.load_relaxed(&counters[i].failovers)
            received += sys.load_relaxed(&counters[i].received)
            sent += sys.load_relaxed(&counters[i].sent)
        return accepted, closed, failed, failovers, received, sent

    def backend_counters(self, uint32_t backend):
        cdef backend_counters *counters = self._backend(backend).counters
        cdef uint64_t chosen = 0, ended = 0, connected = 0, failed = 0, received = 0, sent = 0
        cdef int i
        for i in range(self.plane.workers):
            ended += sys.load_acquire(&counters[i].ended)
            chosen += sys.load_relaxed(&counters[i].chosen)
            connected += sys.load_relaxed(&counters[i].connected)
            failed += sys.load_relaxed(&counters[i].failed)
            received += sys.load_relaxed(&counters[i].received)
            sent += sys.load_relaxed(&counters[i].sent)
        return chosen, ended, connected, failed, received, sent

    def held(self):
        cdef uint32_t i
        ports = sum(self.ports[i] != NULL for i in range(self.port_room))
        return ports, sum(self.backends[i] != NULL for i in range(self.backend_room))

    def pipes(self):
        cdef uint64_t closed = 0, made = 0
        cdef int i
        for i in range(self.plane.workers):
            closed += sys.load_relaxed(&self.plane.worker[i].pipes_closed)
            made += sys.load_relaxed(&self.plane.worker[i].pipes_made)
        return made, closed

    # -- what the methods above share

    cdef worker_t *_worker(self, int index) except NULL:
        if not 0 <= index < self.plane.workers:
            raise IndexError(f"no worker {index}")
        return &self.plane.worker[index]

    cdef port_t *_port(self, uint32_t id) except NULL:
        if id >= self.port_room or self.ports[id] == NULL:
            raise KeyError(id)
        return self.ports[id]

    cdef backend_t *_backend(self, uint32_t id) except NULL:
        if id >= self.backend_room or self.backends[id] == NULL:
            raise KeyError(id)
        return self.backends[id]

    cdef uint32_t _free_port_id(self) except? 0xffffffff:
        if not self.free_ports:
            self.ports = <port_t **>_grow(self.ports, &self.port_room, self.free_ports)
        return self.free_ports.pop()

    cdef uint32_t _free_backend_id(self) except? 0xffffffff:
        if not self.free_backends:
            self.backends = <backend_t **>_grow(self.backends, &self.backend_room, self.free_backends)
        return self.free_backends.pop()

    cdef table_t *_table(self, tuple routes) except NULL:
        cdef size_t total = sum(len(backends) for _, _, backends in routes)
        cdef table_t *table = <table_t *>calloc(1, sizeof(table_t))
        if table == NULL:
            raise MemoryError
        table.namespace_fd = -1
        try:
            self._fill(table, routes, total)
        except BaseException:
            _table_free(table)
            raise
        return table

    cdef int _fill(self, table_t *table, tuple routes, size_t total) except -1:
        cdef route_t *route
        cdef backend_t **place
        cdef uint32_t port, timeout, backend
        table.ports = self.port_room
        table.routes = <route_t *>calloc(self.port_room + 1, sizeof(route_t))
        place = table.backends = <backend_t **>calloc(total + 1, sizeof(backend_t *))
        if table.routes == NULL or table.backends == NULL:
            raise MemoryError
        for port, timeout, backends in routes:
            self._port(port)
            route = &table.routes[port]
            route.used, route.connect_timeout, route.backends = True, timeout, place
            for backend in backends:
                place[0] = self._backend(backend)
                place += 1
                route.count += 1
        return 0

    cdef void _wake(self) noexcept:
        cdef uint64_t one = 1
        cdef int i
        for i in range(self.plane.workers):
            sys.write(self.plane.worker[i].wake, &one, sizeof(one))

    cdef uint64_t _seen(self) noexcept:
        """The oldest generation that a worker may still use."""
        cdef uint64_t seen = self.generation
        cdef uint64_t of_worker
        cdef int i
        for i in range(self.plane.workers):
            of_worker = sys.load_acquire(&self.plane.worker[i].seen)
            seen = of_worker if of_worker < seen else seen
        return seen

    cdef void _reap_tables(self, uint64_t seen) noexcept:
        cdef table_t **place = &self.retired
        cdef table_t *table
        while place[0] != NULL:
            table = place[0]
            if table.generation < seen:
                place[0] = table.next
                _table_free(table)
            else:
                place = &table.next

    cdef bint _port_over(self, port_t *port, uint64_t seen) noexcept:
        cdef uint64_t closed = 0, accepted = 0
        cdef int i
        if port.retired == 0 or port.retired > seen or sys.load_acquire_int(&port.listeners):
            return False
        for i in range(self.plane.workers):
            closed += sys.load_acquire(&port.counters[i].closed)
            accepted += sys.load_relaxed(&port.counters[i].accepted)
        return closed == accepted

    cdef bint _backend_over(self, backend_t *backend, uint64_t seen) noexcept:
        cdef uint64_t ended = 0, chosen = 0
        cdef int i
        if backend.retired == 0 or backend.retired > seen:
            return False
        for i in range(self.plane.workers):
            ended += sys.load_acquire(&backend.counters[i].ended)
            chosen += sys.load_relaxed(&backend.counters[i].chosen)
        return ended == chosen


def enter_namespace(int fd):
    if sys.setns(fd, sys.CLONE_NEWNET) != 0:
        raise OSError(sys.errno, "setns")


cdef void *_grow(void *items, uint32_t *room, list free_ids) except NULL:
    """An array of pointers with twice the room; its new ids are free, the lowest last."""
    cdef uint32_t old = room[0]
    cdef uint32_t new = old * 2 if old else 16
    cdef void **grown = <void **>calloc(new, sizeof(void *))
    if grown == NULL:
        raise MemoryError
    if old:
        memcpy(grown, items, old * sizeof(void *))
    free(items)
    free_ids.extend(range(new - 1, old - 1, -1) if old else range(new - 1, -1, -1))
    room[0] = new
    return grown


cdef void _address_set(backend_t *backend, const char *address, size_t size, int port) noexcept:
    if size == 4:
        backend.address.v4.sin_family = sys.AF_INET
        backend.address.v4.sin_port = sys.htons(<uint16_t>port)
        memcpy(&backend.address.v4.sin_addr, address, 4)
        backend.address_size = sizeof(sys.sockaddr_in)
        return
    backend.address.v6.sin6_family = sys.AF_INET6
    backend.address.v6.sin6_port = sys.htons(<uint16_t>port)
    memcpy(&backend.address.v6.sin6_addr, address, 16)
    backend.address_size = sizeof(sys.sockaddr_in6)


cdef bint _send(worker_t *w, int kind, listener_t *listener, port_t *port) noexcept:
    """Puts a command into a worker's inbox. The caller wakes the worker."""
    cdef command_t *command = <command_t *>malloc(sizeof(command_t))
    if command == NULL:
        return False
    command.kind, command.listener, command.port = kind, listener, port
    # One thread sends, so nobody else pushes between these two; the worker only ever takes all.
    while True:
        command.next = <command_t *>sys.load_acquire_pointer(&w.inbox)
        if sys.compare_exchange_pointer(&w.inbox, command.next, command):
            return True


cdef int _worker_init(plane_t *plane, worker_t *w, int index) except -1:
    cdef sys.epoll_event event
    w.index, w.plane, w.inbox_kind = index, plane, KIND_INBOX
    w.epoll = sys.epoll_create1(sys.EPOLL_CLOEXEC)
    w.wake = sys.eventfd(0, sys.EFD_NONBLOCK | sys.EFD_CLOEXEC)
    w.scratch = <char *>_lines(SCRATCH)
    # Edge-triggered and never read: every write to it is an event of its own.
    event.events = sys.EPOLLIN | sys.EPOLLET
    event.data.ptr = w
    if w.epoll < 0 or w.wake < 0 or sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, w.wake, &event) != 0:
        raise OSError(sys.errno, "epoll or eventfd")
    return 0


cdef void _leave_unserved(worker_t *w) noexcept:
    """Commands that a worker has never taken, because its thread was not started or is over."""
    cdef command_t *command = <command_t *>sys.exchange_pointer(&w.inbox, NULL)
    cdef command_t *following
    while command != NULL:
        following = command.next
        if command.kind == LISTEN:
            sys.close(command.listener.fd)
            free(command.listener)
        free(command)
        command = following


cdef void _worker_free(worker_t *w) noexcept:
    if w.epoll >= 0:
        sys.close(w.epoll)
    if w.wake >= 0:
        sys.close(w.wake)
    free(w.scratch)


cdef void _table_free(table_t *table) noexcept:
    if table.namespace_fd >= 0:
        sys.close(table.namespace_fd)
    free(table.routes)
    free(table.backends)
    free(table)


cdef void _port_free(port_t *port) noexcept:
    if port != NULL:
        free(port.counters)
        free(port)


cdef void _backend_free(backend_t *backend) noexcept:
    if backend != NULL:
        free(backend.counters)
        free(backend)
