"""The life of TCP connections: screened, given a backend, served, ended. `_stream.pxd` draws the states.

Every connection ends in `_conn_end`, which alone closes its fds and counts. Functions that may end it are the last
thing that their callers do with it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from meshlb cimport _linux as sys
from meshlb._access cimport address16, admitted, networks_contain, rate_allows
from meshlb._balance cimport backend_failed, backend_succeeded, choose_and_take, source_hash, some_are_full
from meshlb._move cimport (
    DONE, LATER, MORE, RESET, WAIT, count_bytes, end_forget, end_start, end_urgent, end_watch, move, pending,
    pipes_close, tail_keep, tail_rest,
)
from meshlb._proxy_header cimport (
    PROXY_HEADER_ROOM, proxy_begins, proxy_format, proxy_header_t, proxy_parse,
)
from meshlb._reach cimport reach_as, reach_face, reach_socket
from meshlb._record cimport (
    OVER_BACKEND, OVER_CLIENT, OVER_DONE, OVER_DRAINED, OVER_GONE, OVER_IDLE, OVER_STOPPED, record_end, record_new,
    record_time,
)
from meshlb._stream cimport (
    BROKEN, CHUNK, CONNECTING, DEAD, DOOMED, EXPECTING, FINISHED, HEADER, HUNG_UP, LINGERING, OPEN, PARTING,
    READABLE, REGISTERED, SHUT, SNIFFED, UNASKED, URGENT, WAITING, WATCHED, WRITABLE, WRITTEN, conn_t, end_t,
    origin_t, queue_t, streams_of, streams_t,
)
from meshlb._timer cimport timer_clear, timer_set, timer_t
from meshlb._tried cimport tried_add, tried_clear, tried_in
from meshlb._types cimport (
    KIND_BACKEND, KIND_CLIENT, REFUSED_DENIED, REFUSED_FULL, REFUSED_HEADER, REFUSED_NO_BACKEND, REFUSED_RATE,
    REFUSED_RESOURCES, SCRATCH, STANDING_GOOD, address_t, backend_counters, choice_t, histogram_add, port_counters,
    port_t, route_of, route_t, worker_t,
)

cdef enum:
    LAST_ATTEMPT = 5000  # milliseconds given to the last backend that is left to try
    HEADER_TIME = 5000  # milliseconds given to a PROXY header
    FIRST = 2048  # bytes read of a client whose backend is being connected to: a request, not an upload
    SNIFF_TIME = 1000  # milliseconds given to what may become one
    CHANGES = 255  # attempts of a connection beyond one at each backend
    MOST = 65535  # attempts of a connection
    RETRY = 100  # milliseconds between two looks of the waiting at backends that do not answer
    LOOK = 1000  # milliseconds after which who waits looks for a place in any case
    PAUSE = 50  # milliseconds until it is asked again for what the kernel ran out of
    KEEPALIVE = 60000  # milliseconds: older connections have keepalive on the backend's side, too
    PROBE = 63  # every so many connections, try again whether a backend connects at once
    SHORTEST_CHAT = 64  # connections of a port for which its clients are taken to send more before they are answered
    LONGEST_CHAT = 65536
    HUSH = 8  # milliseconds
    SAMPLE = 1024  # one in so many turns of connections has its TCP_INFO looked at


# -- The slab

cdef conn_t *_conn_at(streams_t *streams, uint32_t index) noexcept nogil:
    return &streams.chunks[index // CHUNK][index % CHUNK]


cdef conn_t *_slot_take(streams_t *streams) noexcept nogil:
    """A free slot; NULL without memory."""
    cdef conn_t *c
    if streams.free == NULL and not _chunk_add(streams):
        return NULL
    c = streams.free
    streams.free = c.next
    return c


cdef bint _chunk_add(streams_t *streams) noexcept nogil:
    cdef conn_t **chunks = streams.chunks
    cdef conn_t *chunk
    cdef uint32_t i, room
    if streams.chunk_count == streams.chunk_room:
        room = streams.chunk_room * 2 + 16
        chunks = <conn_t **>realloc(chunks, room * sizeof(conn_t *))
        if chunks == NULL:
            return False
        streams.chunks, streams.chunk_room = chunks, room
    chunk = <conn_t *>calloc(CHUNK, sizeof(conn_t))
    if chunk == NULL:
        return False
    chunks[streams.chunk_count] = chunk
    for i in range(<uint32_t>CHUNK):  # the lowest index is taken first
        chunk[CHUNK - 1 - i].index = streams.chunk_count * CHUNK + CHUNK - 1 - i
        chunk[CHUNK - 1 - i].state = DEAD
        chunk[CHUNK - 1 - i].next = streams.free
        streams.free = &chunk[CHUNK - 1 - i]
    streams.chunk_count += 1
    return True


cdef void _conn_start(worker_t *w, conn_t *c, port_t *port, int fd) noexcept nogil:
    """Makes a slot's holder of an accepted socket; what tells late events apart stays."""
    cdef uint32_t index = c.index
    cdef uint32_t generation = c.generation
    cdef uint32_t attempt = c.attempt
    memset(c, 0, sizeof(conn_t))
    c.index, c.generation, c.attempt, c.timer.kind = index, generation, attempt, KIND_CLIENT
    end_start(&c.client, KIND_CLIENT, fd)
    end_start(&c.backend_end, KIND_BACKEND, -1)
    c.client.flags = READABLE | WRITABLE
    c.state = CONNECTING
    c.port = port
    c.begun_us = w.now_us
    c.active = <uint32_t>w.now


cdef void conns_bury(worker_t *w) noexcept nogil:
    """The slots of those that ended in this turn are free from here on."""
    cdef streams_t *streams = streams_of(w)
    cdef conn_t *c
    while streams.dead != NULL:
        c = streams.dead
        streams.dead = c.next
        c.next = streams.free
        streams.free = c


# -- The beginning: who may come in

cdef void conn_accepted(worker_t *w, port_t *port, int fd, const address_t *peer) noexcept nogil:
    """A client's socket. `peer` is only looked at where the port's route wants it, and not after the return."""
    cdef port_counters *counters = &port.counters[w.index]
    cdef conn_t *c = _slot_take(streams_of(w))
    cdef route_t *route = route_of(w, port)
    sys.bump(&counters.accepted, 1)
    if c == NULL:
        sys.close(fd)
        sys.bump(&counters.refused[REFUSED_RESOURCES], 1)
        sys.bump_last(&counters.closed, 1)
        return
    _conn_start(w, c, port, fd)
    if route != NULL and route.access_log:
        _conn_record(w, c)
    if route == NULL:
        _conn_refuse(w, c, REFUSED_NO_BACKEND)
        return
    if route.wants_peer:
        streams_of(w).newcomer, streams_of(w).newcomer_address = c, peer
    if route.wants_source:
        _conn_screen(w, c, route, peer)
    else:
        _conn_enter(w, c, route)
    streams_of(w).newcomer = NULL


cdef void _conn_record(worker_t *w, conn_t *c) noexcept nogil:
    """Gives it a record, with the client that it has now: one that has gone is nobody's any more."""
    cdef origin_t origin
    c.record = record_new(w, c.port.id)
    if c.record != NULL and _client(w, c, &origin):
        memcpy(c.record.client, origin.source, 16)
        c.record.client_port = origin.source_port


cdef void _conn_screen(worker_t *w, conn_t *c, route_t *route, const address_t *peer) noexcept nogil:
    cdef uint8_t address[16]
    address16(peer, address)
    if route.accept_proxy.count == 0:
        _conn_admit(w, c, route, address)
    elif networks_contain(&route.accept_proxy, address):
        c.state = HEADER
        timer_set(&w.timers, &c.timer, w.now, HEADER_TIME)
        _header_read(w, c, route)
    else:
        c.client.flags |= SNIFFED
        _conn_admit(w, c, route, address)


cdef void _conn_admit(worker_t *w, conn_t *c, route_t *route, const uint8_t *address) noexcept nogil:
    """The client's own address is known by now."""
    if not admitted(route, address):
        _conn_refuse(w, c, REFUSED_DENIED)
        return
    if route.rate_interval and not rate_allows(c.port, route, address, w.now_us):
        _conn_refuse(w, c, REFUSED_RATE)
        return
    c.source = source_hash(address, route.source_prefix4, route.source_prefix6)
    _conn_enter(w, c, route)


cdef void _conn_enter(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Counts it against the port's limit, behind those that came before."""
    cdef bint limited = route.max_conn != 0 or route.max_conn_backend != 0
    if sys.load_relaxed_uint(&c.port.waiting) and (limited or route.hold) and _queue_of(w, c.port) != NULL:
        _conn_wait(w, c, route, REFUSED_FULL if limited else REFUSED_NO_BACKEND)
    else:
        _conn_place(w, c, route)


cdef void _conn_place(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Takes one of the port's places, if one is left."""
    c.counted = True
    if sys.fetch_add(&c.port.open, 1) >= route.max_conn and route.max_conn:
        _conn_wait(w, c, route, REFUSED_FULL)
    else:
        _conn_choose(w, c)


# -- PROXY headers, from clients and to backends

cdef void _header_read(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Takes what has come of the client's PROXY header; goes on when it is complete."""
    cdef end_t *client = &c.client
    cdef uint32_t have = client.tail_size
    cdef proxy_header_t header
    cdef ssize_t size, used
    if have:
        memcpy(w.scratch, client.tail, have)
    size = sys.recv(client.fd, w.scratch + have, SCRATCH - have, 0)
    if size < 0 and sys.errno == sys.EAGAIN:
        client.flags &= ~READABLE
        if not end_watch(w, c, client, False):
            _conn_refuse(w, c, REFUSED_RESOURCES)
        return
    used = proxy_parse(w.scratch, have + size, &header) if size > 0 else -1
    end_forget(w, client)
    if used < 0 or (used == 0 and not tail_keep(client, w.scratch, have + <uint32_t>size)):
        _conn_refuse(w, c, REFUSED_HEADER)
    elif used == 0:
        _header_read(w, c, route)  # until nothing more is there: the parser bounds what it takes
    else:
        _header_use(w, c, route, &header, w.scratch + used, have + <uint32_t>size - <uint32_t>used)


cdef void _header_use(
    worker_t *w, conn_t *c, route_t *route, const proxy_header_t *header, const char *rest, uint32_t size
) noexcept nogil:
    cdef uint8_t address[16]
    cdef bint known = True
    c.state = CONNECTING
    timer_clear(&w.timers, &c.timer)
    if size and not tail_keep(&c.client, rest, size):
        known = False
    elif header.local:
        known = _peer_address(c.client.fd, address)
    else:
        memcpy(address, header.source, 16)
        known = _origin_keep(c, header)
    if known:
        _conn_admit(w, c, route, address)
    else:
        _conn_refuse(w, c, REFUSED_RESOURCES)


cdef bint _origin_keep(conn_t *c, const proxy_header_t *header) noexcept nogil:
    c.origin = <origin_t *>malloc(sizeof(origin_t))
    if c.origin == NULL:
        return False
    memcpy(c.origin.source, header.source, 16)
    memcpy(c.origin.destination, header.destination, 16)
    c.origin.source_port, c.origin.destination_port = header.source_port, header.destination_port
    return True


cdef bint _peer_address(int fd, uint8_t *address) noexcept nogil:
    cdef address_t peer
    cdef sys.socklen_t size = sizeof(peer)
    if sys.getpeername(fd, &peer.any, &size) != 0:
        return False
    address16(&peer, address)
    return True


cdef bint _header_write(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Puts our own PROXY header before the client's first bytes. False without memory, or the client has gone."""
    cdef origin_t origin
    cdef char header[PROXY_HEADER_ROOM]
    cdef char *data
    if not _client(w, c, &origin) or not _called(c, &origin):
        return False
    c.header_left = <uint8_t>proxy_format(
        header, route.proxy_protocol, origin.source, origin.source_port, origin.destination, origin.destination_port
    )
    data = <char *>realloc(c.client.tail, c.client.tail_size + c.header_left)
    if data == NULL:
        return False
    memmove(data + c.header_left, data, c.client.tail_size)
    memcpy(data, header, c.header_left)
    c.client.tail = data
    c.client.tail_size += c.header_left
    return True


cdef bint _client(worker_t *w, conn_t *c, origin_t *origin) noexcept nogil:
    """The client's address and port: of a PROXY header, of accepting, or asked for. False when it has gone."""
    cdef address_t address
    cdef sys.socklen_t size = sizeof(address)
    if c.origin != NULL:
        memcpy(origin.source, c.origin.source, 16)
        origin.source_port = c.origin.source_port
        return True
    if streams_of(w).newcomer == c:
        address = streams_of(w).newcomer_address[0]
    elif sys.getpeername(c.client.fd, &address.any, &size) != 0:
        return False
    address16(&address, origin.source)
    # The port stands at the same place for both families.
    origin.source_port = sys.ntohs(address.v4.sin_port)
    return True


cdef bint _called(conn_t *c, origin_t *origin) noexcept nogil:
    """The address that the client spoke to; the port is the published one even where it was redirected."""
    cdef address_t address
    cdef sys.socklen_t size = sizeof(address)
    if c.origin != NULL:
        memcpy(origin.destination, c.origin.destination, 16)
        origin.destination_port = c.origin.destination_port
        return True
    if sys.getsockname(c.client.fd, &address.any, &size) != 0:
        return False
    address16(&address, origin.destination)
    origin.destination_port = c.port.published
    return True


cdef bint _sniffed_out(worker_t *w, conn_t *c) noexcept nogil:
    """Looks for a PROXY header of a client that may not send one. True when there was one, and it ended."""
    cdef char first[16]
    cdef ssize_t size = sys.recv(c.client.fd, first, sizeof(first), sys.MSG_PEEK)
    cdef int begins = proxy_begins(first, size) if size > 0 else (0 if size < 0 and sys.errno == sys.EAGAIN else -1)
    if begins > 0:
        _conn_refuse(w, c, REFUSED_HEADER)
        return True
    if begins == 0 and not c.client.flags & HUNG_UP:
        if size > 0:
            timer_set(&w.timers, &c.timer, w.now, SNIFF_TIME)
        c.client.flags &= ~READABLE
        return False
    c.client.flags &= ~SNIFFED
    return False


# -- Waiting for a backend, or for a place at one

cdef queue_t *_queue_of(worker_t *w, port_t *port) noexcept nogil:
    cdef queue_t *queue = streams_of(w).queues
    while queue != NULL and queue.port != port:
        queue = queue.next
    return queue


cdef void _conn_wait(worker_t *w, conn_t *c, route_t *route, uint8_t refusal) noexcept nogil:
    """Puts it into its port's queue; before all that came after it when it has waited before."""
    cdef bint again = c.waits_until != 0
    cdef bint had_place = again and c.refusal == REFUSED_FULL  # in the queue, which newcomers may have filled since
    _conn_uncount(c)
    c.refusal = refusal
    if refusal == REFUSED_NO_BACKEND:
        c.waits_until = _held_until(c, route)
    elif not again:
        c.waits_until = w.now + route.queue_timeout
    if c.waits_until <= w.now or (refusal == REFUSED_FULL and not had_place and _is_queue_full(c.port, route)):
        _conn_refuse(w, c, refusal)
        return
    c.state = WAITING
    c.attempts = 0
    tried_clear(&c.tried)
    timer_set(&w.timers, &c.timer, w.now, c.waits_until - w.now)
    # Its reset is to be noticed; its bytes stay where they are.
    if not end_watch(w, c, &c.client, False) or not _queue_put(w, c, again):
        _conn_refuse(w, c, REFUSED_RESOURCES)
        return
    if not again:
        sys.bump(&c.port.counters[w.index].waited, 1)


cdef bint _is_queue_full(port_t *port, const route_t *route) noexcept nogil:
    return sys.load_relaxed_uint(&port.waiting) >= route.queue


cdef uint64_t _held_until(conn_t *c, route_t *route) noexcept nogil:
    """Milliseconds: `hold` counts from the beginning, attempts included; who has queued for longer may go on to."""
    cdef uint64_t end = c.begun_us // 1000 + route.hold
    return end if end > c.waits_until else c.waits_until


cdef bint _is_held_out(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Whether its `hold` is over, and it has had an attempt."""
    return route.hold != 0 and (c.attempts or c.waits_until) and _held_until(c, route) <= w.now


cdef bint _queue_put(worker_t *w, conn_t *c, bint again) noexcept nogil:
    """Last in line, or before those that were accepted later. False without memory."""
    cdef queue_t *queue = _queue_of(w, c.port)
    cdef conn_t *before
    if queue == NULL:
        queue = <queue_t *>calloc(1, sizeof(queue_t))
        if queue == NULL:
            return False
        queue.port, queue.next = c.port, streams_of(w).queues
        streams_of(w).queues = queue
    before = _queue_older(queue, c) if again else queue.last
    c.next = queue.first if before == NULL else before.next
    if before == NULL:
        queue.first = c
    else:
        before.next = c
    if queue.last == before:
        queue.last = c
    queue.length += 1
    c.queued = True
    sys.fetch_add_ordered(&c.port.waiting, 1)  # before it is looked for a place: see _waiting_for
    return True


cdef conn_t *_queue_older(queue_t *queue, const conn_t *c) noexcept nogil:
    """The last of those at the front that were accepted before it; NULL when there is none."""
    cdef conn_t *before = NULL
    cdef conn_t *place = queue.first
    while place != NULL and place.begun_us < c.begun_us:
        before = place
        place = place.next
    return before


cdef void _queue_remove(worker_t *w, conn_t *c) noexcept nogil:
    """Takes it out of its queue, wherever it stands."""
    cdef queue_t *queue = _queue_of(w, c.port)
    cdef conn_t *before = NULL
    cdef conn_t *place = queue.first
    while place != c:
        before = place
        place = place.next
    if before == NULL:
        queue.first = c.next
    else:
        before.next = c.next
    if queue.last == c:
        queue.last = before
    c.next = NULL
    c.queued = False
    queue.length -= 1
    sys.fetch_add(&c.port.waiting, <uint32_t>-1)


cdef void conns_run_queues(worker_t *w) noexcept nogil:
    """Gives those that wait what has become free. Empty queues go."""
    cdef streams_t *streams = streams_of(w)
    cdef queue_t **place = &streams.queues
    cdef queue_t *queue
    while place[0] != NULL:
        queue = place[0]
        _queue_run(w, queue)
        if queue.first == NULL:
            place[0] = queue.next
            free(queue)
        else:
            if not streams.queue_timer.is_set:  # another worker may have given a place back unseen
                timer_set(&w.timers, &streams.queue_timer, w.now, LOOK)
            place = &queue.next


cdef void _queue_run(worker_t *w, queue_t *queue) noexcept nogil:
    """One after another until the first has to wait again, or its attempt is under way and may fail as others did."""
    cdef route_t *route
    cdef conn_t *c
    cdef uint8_t refusal
    cdef uint32_t left = queue.length
    while left and queue.first != NULL and w.now >= queue.retry_at:
        left -= 1
        route = route_of(w, queue.port)
        c = queue.first
        refusal = c.refusal
        if route == NULL:
            _conn_refuse(w, c, REFUSED_NO_BACKEND)
            continue
        if not _is_room(queue.port, route):
            return
        _queue_remove(w, c)
        timer_clear(&w.timers, &c.timer)
        _conn_place(w, c, route)
        if queue.first == c:
            return
        if c.state == CONNECTING and (refusal == REFUSED_NO_BACKEND or _is_doubtful(c)):
            _queue_later(w, queue)


cdef bint _is_doubtful(const conn_t *c) noexcept nogil:
    """Whether the backend that it is being connected to has failed lately."""
    return sys.load_relaxed_uint(&c.backend.standing) != STANDING_GOOD


cdef bint _is_room(port_t *port, route_t *route) noexcept nogil:
    return route.count != 0 and (route.max_conn == 0 or sys.load_relaxed_uint(&port.open) < route.max_conn)


cdef void _queue_later(worker_t *w, queue_t *queue) noexcept nogil:
    """Nobody of the queue tries before the time is up, or a connection of the port has got its backend or ended."""
    cdef streams_t *streams = streams_of(w)
    queue.retry_at = w.now + RETRY
    timer_set(&w.timers, &streams.queue_timer, w.now, RETRY)


cdef void _queue_now(worker_t *w, port_t *port) noexcept nogil:
    cdef queue_t *queue = _queue_of(w, port)
    if queue != NULL:
        queue.retry_at = 0


cdef uint32_t _waiting_for(worker_t *w, port_t *port) noexcept nogil:
    """How many wait for the place that has just been given back.

    Where there are limits, reading is adding nothing, because additions to one number have an order: if another worker
    adds its client later, it sees the free place; if it has done so, the client is seen here.
    """
    cdef route_t *route = route_of(w, port)
    if route == NULL or (route.max_conn == 0 and route.max_conn_backend == 0):
        return sys.load_relaxed_uint(&port.waiting)
    return sys.fetch_add_ordered(&port.waiting, 0)


cdef void conns_woken(worker_t *w) noexcept nogil:
    """Another thread has woken this one: maybe a place has become free."""
    cdef queue_t *queue = streams_of(w).queues
    cdef uint32_t freed
    while queue != NULL:
        freed = sys.load_relaxed_uint(&queue.port.freed)
        if queue.freed != freed and queue.first != NULL and queue.first.refusal == REFUSED_FULL:
            queue.retry_at = 0
        queue.freed = freed
        queue = queue.next


cdef void _tell_waiting(worker_t *w, port_t *port) noexcept nogil:
    """A place has become free: the queues of this worker are looked at in this turn, the others' if woken."""
    cdef queue_t *queue = _queue_of(w, port)
    cdef uint64_t one = 1
    cdef int i
    if sys.load_relaxed_uint(&port.waiting) == (queue.length if queue != NULL else 0):
        return
    sys.fetch_add(&port.freed, 1)
    for i in range(w.plane.workers):
        if i != w.index:
            sys.write(w.plane.worker[i].wake, &one, sizeof(one))


# -- Attempts

cdef void _conn_choose(worker_t *w, conn_t *c) noexcept nogil:
    """Tries backends until one may answer; waits, or ends the connection, when none is left."""
    cdef route_t *route = route_of(w, c.port)
    c.state = CONNECTING
    while route != NULL and _backend_next(w, c, route):
        if _attempt(w, c, route):
            return
        _attempt_failed(w, c)
    _conn_without(w, c, route)


cdef bint _backend_next(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    cdef choice_t choice
    tried_in(&c.tried, w.table.generation)
    if c.attempts > route.retries or c.attempts >= _most_attempts(route) or _is_held_out(w, c, route):
        return False
    choice.now, choice.random, choice.source = w.now, &w.random, c.source
    choice.tried, choice.probing = &c.tried, c.attempts == 0
    c.backend = choose_and_take(route, c.port, &choice)
    if c.backend == NULL:
        return False
    c.position = choice.position
    c.attempts += 1
    c.attempt_us = <uint32_t>w.now_us
    sys.bump(&c.backend.counters[w.index].chosen, 1)
    if c.attempts > 1:
        sys.bump(&c.port.counters[w.index].failovers, 1)
    return True


cdef uint32_t _most_attempts(const route_t *route) noexcept nogil:
    """Each backend once, and some more for tables that change meanwhile: with each all begins anew."""
    return route.count + CHANGES if route.count < MOST - CHANGES else MOST


cdef void _conn_without(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """No backend is left to try: what a direct client of a dead server sees is a reset."""
    cdef uint8_t refusal = REFUSED_RESOURCES if c.short_of else REFUSED_NO_BACKEND
    cdef bint failed = c.attempts != 0
    if route == NULL:
        _conn_refuse(w, c, refusal)
    elif some_are_full(route, &c.tried, w.now, c.attempts > route.retries):
        _conn_wait(w, c, route, REFUSED_FULL)
    elif route.hold:
        _conn_wait(w, c, route, REFUSED_NO_BACKEND)
    else:
        _conn_refuse(w, c, refusal)
    if failed and c.state == WAITING:
        _queue_later(w, _queue_of(w, c.port))


cdef bint _attempt(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Connects to the chosen backend. False when that has failed already; else the connection goes on, or is over."""
    cdef int fd = reach_socket(w, c.backend, sys.SOCK_STREAM)
    if fd < 0:
        return _exhausted(sys.errno) and _attempt_later(w, c)
    end_start(&c.backend_end, KIND_BACKEND, fd)
    if route.transparent and not _as_client(w, c, route):
        return _exhausted(sys.errno) and _attempt_later(w, c)
    if route.proxy_protocol and c.header_left == 0 and not _header_write(w, c, route):
        _conn_refuse(w, c, REFUSED_RESOURCES)
        return True
    return _attempt_with_first_bytes(w, c, route)


cdef bint _attempt_with_first_bytes(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Reads what the client has said before it connects, so that the kernel need not end the handshake empty-handed."""
    cdef bint early = _connects_at_once(w, c)
    cdef char *data = NULL
    cdef ssize_t size = _first_bytes(w, c, &data, SCRATCH if early else FIRST)
    cdef int error
    if size < 0:
        _conn_end(w, c, True, OVER_CLIENT)  # the client has gone already
        return True
    error = _connect(c, size != 0)
    if error == 0 and early and size:
        return _attempt_early(w, c, route, data, size)
    if not _first_bytes_kept(w, c, data, size):
        return True
    return _attempt_wait(w, c, route) if error == 0 else _attempt_impossible(w, c, error)


cdef bint _connects_at_once(worker_t *w, conn_t *c) noexcept nogil:
    """On this machine's own bridges a connect is established by the time it returns; one in a while finds out."""
    if c.client.flags & SNIFFED:
        return False
    return sys.load_relaxed_uint(&c.backend.late) == 0 or c.backend.counters[w.index].chosen & PROBE == 0


cdef ssize_t _first_bytes(worker_t *w, conn_t *c, char **data, size_t room) noexcept nogil:
    """How many bytes are to be sent first, kept ones or at most `room` new ones; -1 when the client has gone."""
    cdef end_t *client = &c.client
    cdef ssize_t size
    if client.tail != NULL:
        data[0] = client.tail + client.tail_start
        return client.tail_size
    if client.flags & SNIFFED:
        return 0
    data[0] = w.scratch
    size = sys.recv(client.fd, data[0], room, 0)
    if size < 0 and _exhausted(sys.errno):
        return 0  # its bytes are read when the backend has answered
    # What comes after a short read is reported, once epoll knows the socket. A FIN or urgent data that it has told of
    # already, while the client waited, is not told again.
    if size < <ssize_t>room and size != 0 and not client.flags & (HUNG_UP | URGENT):
        client.flags &= ~READABLE
    return 0 if size < 0 and sys.errno == sys.EAGAIN else size


cdef bint _first_bytes_kept(worker_t *w, conn_t *c, const char *data, ssize_t size) noexcept nogil:
    """Keeps them for whoever answers. False without memory: no backend may get the stream without its beginning."""
    if size == 0 or c.client.tail != NULL or tail_keep(&c.client, data, <uint32_t>size):
        return True
    _conn_end(w, c, True, REFUSED_RESOURCES)
    return False


cdef int _connect(conn_t *c, bint at_hand) noexcept nogil:
    """Begins to connect; 0, or an error of errno. With bytes at hand they go out with the last ACK of the handshake."""
    cdef int off = 0
    if at_hand:
        sys.setsockopt(c.backend_end.fd, sys.IPPROTO_TCP, sys.TCP_QUICKACK, &off, sizeof(off))
    if sys.connect(c.backend_end.fd, &c.backend.address.any, c.backend.address_size) == 0:
        return 0
    return 0 if sys.errno == sys.EINPROGRESS else sys.errno


cdef bint _attempt_impossible(worker_t *w, conn_t *c, int error) noexcept nogil:
    """The kernel does not even begin to connect. False: another backend may be tried."""
    if _exhausted(error):
        sys.errno = error
        return _attempt_later(w, c)
    c.short_of = c.short_of or _is_ours(error)
    if not _is_ours(error):
        backend_failed(c.backend, w.now, &w.random)
    return False


cdef bint _as_client(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Gives the backend's socket the client's own address, or leaves it the mesh's. False when neither may be."""
    cdef origin_t origin
    sys.errno = 0
    if _client(w, c, &origin) and reach_face(route, origin.source) and sys.load_acquire_int(&c.backend.prepared):
        if reach_as(c.backend_end.fd, origin.source, origin.source_port):
            return True
        if not _fresh(w, c):
            return False
    sys.bump(&c.port.counters[w.index].masked, 1)
    return not route.unmasked


cdef bint _fresh(worker_t *w, conn_t *c) noexcept nogil:
    """Another socket, in place of one that may be bound or half of it."""
    sys.close(c.backend_end.fd)
    c.backend_end.fd = reach_socket(w, c.backend, sys.SOCK_STREAM)
    return c.backend_end.fd >= 0


cdef bint _exhausted(int error) noexcept nogil:
    """Whether the kernel has run out of descriptors or memory."""
    return error == sys.EMFILE or error == sys.ENFILE or error == sys.ENOBUFS or error == sys.ENOMEM


cdef bint _is_ours(int error) noexcept nogil:
    """Whether an attempt failed for want of local ports or of conntrack's room: no fault of the backend's."""
    return error == sys.EADDRNOTAVAIL or error == sys.EPERM or error == sys.EAGAIN


cdef bint _attempt_later(worker_t *w, conn_t *c) noexcept nogil:
    """The kernel has nothing left for the backend's socket: asks again, and keeps further clients in the backlog."""
    streams_of(w).exhausted = sys.errno
    _backend_close(c)
    c.attempts -= 1  # the same backend again
    timer_set(&w.timers, &c.timer, w.now, PAUSE)
    return True


cdef bint _attempt_early(
    worker_t *w, conn_t *c, route_t *route, const char *data, ssize_t size
) noexcept nogil:
    """Writes the first bytes without being told that the backend takes them: that saves a turn."""
    cdef ssize_t written = sys.send(c.backend_end.fd, data, size, sys.MSG_NOSIGNAL)
    if written < 0:
        return _attempt_unwritten(w, c, route, data, size)
    sys.store_relaxed_uint(&c.backend.late, 0)
    c.backend_end.flags |= WRITTEN
    count_bytes(w, c, &c.client, written)
    if not tail_rest(&c.client, data, <uint32_t>size, <uint32_t>written):
        _conn_end(w, c, True, REFUSED_RESOURCES)
        return True
    _conn_connected(w, c)
    return True


cdef bint _attempt_unwritten(
    worker_t *w, conn_t *c, route_t *route, const char *data, ssize_t size
) noexcept nogil:
    """The connect is still under way, or refused: keeps the client's first bytes for whoever answers."""
    cdef int error = sys.errno
    if not _first_bytes_kept(w, c, data, size):
        return True
    if error == sys.EAGAIN or _exhausted(error):
        sys.store_relaxed_uint(&c.backend.late, 1)
        return _attempt_wait(w, c, route)
    backend_failed(c.backend, w.now, &w.random)
    return False


cdef bint _attempt_wait(worker_t *w, conn_t *c, route_t *route) noexcept nogil:
    """Leaves the attempt to epoll and the clock. The last backend that is left gets more time than the others.

    Nobody gets more than is left of `hold`.
    """
    cdef uint64_t patience = route.connect_timeout
    cdef uint64_t end
    if not end_watch(w, c, &c.backend_end, True):
        c.short_of = True
        return False
    if (c.attempts >= route.count or c.attempts > route.retries) and patience < LAST_ATTEMPT:
        patience = LAST_ATTEMPT
    if route.hold:
        end = _held_until(c, route)
        patience = min(patience, end - w.now) if end > w.now else 0
    timer_set(&w.timers, &c.timer, w.now, patience)
    return True


cdef void _attempt_failed(worker_t *w, conn_t *c) noexcept nogil:
    """Remembers the backend as tried, and leaves it."""
    cdef route_t *route = route_of(w, c.port)
    if route != NULL and c.tried.generation == <uint32_t>w.table.generation:
        if not tried_add(&c.tried, c.position, route.count):
            c.attempts, c.short_of = <uint16_t>MOST, True
    sys.bump(&c.backend.counters[w.index].failed, 1)
    timer_clear(&w.timers, &c.timer)
    _backend_close(c)
    _backend_leave(w, c)


cdef void _backend_close(conn_t *c) noexcept nogil:
    if c.backend_end.fd >= 0:
        sys.close(c.backend_end.fd)
        c.backend_end.fd = -1
        c.attempt += 1  # events of that socket are late from here on


cdef void _backend_leave(worker_t *w, conn_t *c) noexcept nogil:
    """The connection refers to its backend no longer."""
    sys.fetch_add(&c.backend.active, <uint32_t>-1)
    sys.bump_last(&c.backend.counters[w.index].ended, 1)
    c.backend = NULL


cdef void _attempt_refused(worker_t *w, conn_t *c) noexcept nogil:
    """The attempt was refused."""
    backend_failed(c.backend, w.now, &w.random)
    _attempt_failed(w, c)
    _conn_choose(w, c)


cdef void _attempt_late(worker_t *w, conn_t *c) noexcept nogil:
    """Its time has passed. What the end of `hold` has cut short says nothing about the backend."""
    cdef route_t *route = route_of(w, c.port)
    cdef uint32_t took = (<uint32_t>w.now_us - c.attempt_us) // 1000 + 1  # the clock is cut to milliseconds
    if route == NULL or took >= route.connect_timeout:
        backend_failed(c.backend, w.now, &w.random)
    _attempt_failed(w, c)
    _conn_choose(w, c)


# -- Open connections

cdef void _conn_connected(worker_t *w, conn_t *c) noexcept nogil:
    cdef port_counters *port = &c.port.counters[w.index]
    cdef backend_counters *backend = &c.backend.counters[w.index]
    c.state = OPEN
    c.backend_end.flags |= WRITABLE
    sys.bump(&backend.connected, 1)
    histogram_add(&port.connect, w.now_us - c.begun_us)
    histogram_add(&backend.connect, <uint32_t>w.now_us - c.attempt_us)
    backend_succeeded(c.backend)
    if c.record != NULL:
        c.record.connect_us = record_time(w, c.begun_us)
    if c.tried.others != NULL:
        tried_clear(&c.tried)
    if sys.load_relaxed_uint(&c.port.waiting):
        _queue_now(w, c.port)
    _open_timer(w, c)
    _conn_pump(w, c)


cdef void _open_timer(worker_t *w, conn_t *c) noexcept nogil:
    """Sets the timer to the next time at which an open connection wants to be looked at."""
    cdef route_t *route = route_of(w, c.port)
    cdef uint64_t drain_until = sys.load_relaxed(&c.backend.drain_until)
    cdef uint64_t delay = 0 if c.kept_alive else KEEPALIVE
    cdef uint64_t idle = 0
    if route != NULL and route.idle_timeout:
        idle = <uint32_t>w.now - c.active
        idle = route.idle_timeout - idle if idle < route.idle_timeout else 1
        delay = idle if delay == 0 or idle < delay else delay
    if drain_until:
        drain_until = drain_until - w.now if drain_until > w.now else 1
        delay = drain_until if delay == 0 or drain_until < delay else delay
    if c.hush == EXPECTING or c.hush == PARTING:
        delay = HUSH
    elif c.later:
        delay = PAUSE
    if delay:
        timer_set(&w.timers, &c.timer, w.now, delay)
    else:
        timer_clear(&w.timers, &c.timer)


cdef void _open_due(worker_t *w, conn_t *c) noexcept nogil:
    """The clock has something to say to an open connection."""
    cdef route_t *route = route_of(w, c.port)
    cdef uint64_t drain_until = sys.load_relaxed(&c.backend.drain_until)
    if drain_until and drain_until <= w.now:
        _conn_end(w, c, True, OVER_DRAINED)
        return
    if route != NULL and route.idle_timeout and <uint32_t>w.now - c.active >= route.idle_timeout:
        # A FIN would make what the other side has got look complete.
        _conn_end(w, c, _has_more(&c.client) or _has_more(&c.backend_end), OVER_IDLE)
        return
    if not c.kept_alive and w.now_us - c.begun_us >= <uint64_t>KEEPALIVE * 1000:
        c.kept_alive = True
        _keep_alive(c.backend_end.fd)
    if c.hush == EXPECTING or c.hush == PARTING:
        _hush_over(w, c)
        return
    if c.later:
        c.later = False
        c.client.flags |= WRITABLE
        c.backend_end.flags |= WRITABLE
        _open_timer(w, c)
        _conn_pump(w, c)
        return
    _open_timer(w, c)
    if c.client.flags & SNIFFED and not _says_something(c.client.fd):
        return
    if c.client.flags & SNIFFED:
        c.client.flags &= ~SNIFFED
        c.client.flags |= READABLE
        _conn_pump(w, c)


cdef bint _has_more(end_t *source) noexcept nogil:
    """Whether there may be bytes of it that the other end has not got."""
    return pending(source) or source.flags & (READABLE | FINISHED) == READABLE


cdef bint _says_something(int fd) noexcept nogil:
    cdef char first
    return sys.recv(fd, &first, 1, sys.MSG_PEEK) > 0


cdef void _keep_alive(int fd) noexcept nogil:
    """As the listeners have it for clients. Late, because most connections do not live to need it."""
    cdef int on = 1
    cdef int idle = 60
    cdef int interval = 10
    cdef int count = 6
    sys.setsockopt(fd, sys.IPPROTO_TCP, sys.TCP_KEEPIDLE, &idle, sizeof(idle))
    sys.setsockopt(fd, sys.IPPROTO_TCP, sys.TCP_KEEPINTVL, &interval, sizeof(interval))
    sys.setsockopt(fd, sys.IPPROTO_TCP, sys.TCP_KEEPCNT, &count, sizeof(count))
    sys.setsockopt(fd, sys.SOL_SOCKET, sys.SO_KEEPALIVE, &on, sizeof(on))


cdef void _conn_pump(worker_t *w, conn_t *c) noexcept nogil:
    """Moves what can be moved both ways, and ends the connection when that is what has come."""
    cdef end_t *client = &c.client
    cdef end_t *backend = &c.backend_end
    cdef int up, down
    if client.flags & SNIFFED and client.flags & READABLE and _sniffed_out(w, c):
        return
    up = move(w, c, client, backend)
    down = RESET
    if up != RESET:
        down = move(w, c, backend, client)
        if client.flags & BROKEN:
            up = move(w, c, client, backend)
    if up == RESET or down == RESET:
        _conn_end(w, c, True, OVER_CLIENT if up == RESET else OVER_GONE if backend.flags & DOOMED else OVER_BACKEND)
    elif down == DONE and (up == DONE or backend.flags & DOOMED):
        _conn_end(w, c, False, OVER_DONE if up == DONE else OVER_GONE)
    else:
        _conn_settle(w, c, up, down)


cdef void _conn_settle(worker_t *w, conn_t *c, int up, int down) noexcept nogil:
    """Passes on a FIN, and sees to it that the connection is looked at again when there is something to do."""
    cdef end_t *client = &c.client
    cdef end_t *backend = &c.backend_end
    _sample(w, c)
    if up == DONE:
        _pass_fin(backend)
    if down == DONE:
        _pass_fin(client)
    c.later = c.later or up == LATER or down == LATER
    if up == WAIT and not c.later and not client.flags & REGISTERED and not pending(client) and _hushed(w, c, down):
        return
    if not end_watch(w, c, client, not client.flags & WRITABLE):
        _conn_end(w, c, True, REFUSED_RESOURCES)
    elif not end_watch(w, c, backend, not backend.flags & WRITABLE):
        _conn_end(w, c, True, REFUSED_RESOURCES)
    elif c.later:
        _open_timer(w, c)
    elif up == MORE or down == MORE:
        _conn_ready(w, c)


cdef bint _hushed(worker_t *w, conn_t *c, int down) noexcept nogil:
    """Whether the client may stay unknown to epoll for now: see `hush` in _stream.pxd.

    It saves the call, and the wake-up for its FIN, of most short connections. Where clients send more before they are
    answered (or the answers take long), the port is `chatty` and they are made known at once. Finding that out costs
    one connection some milliseconds, and twice as many go by until it is tried again, up to LONGEST_CHAT.
    """
    cdef port_counters *port = &c.port.counters[w.index]
    if down == DONE:
        if c.hush < PARTING:
            c.hush = PARTING
            _open_timer(w, c)
        return c.hush == PARTING
    if c.client.flags & WRITTEN:
        if c.hush != EXPECTING:
            c.hush = WATCHED
            return False
        c.hush = LINGERING
        port.chatty_next = SHORTEST_CHAT
        _conn_ready(w, c)
        return True
    if c.hush == UNASKED and port.chatty:
        port.chatty -= 1
        c.hush = WATCHED
    if c.hush == WATCHED or not end_watch(w, c, &c.backend_end, not c.backend_end.flags & WRITABLE):
        return False
    if c.hush == UNASKED:
        c.hush = EXPECTING
        _open_timer(w, c)
    return True


cdef void _chat(port_counters *port) noexcept nogil:
    """A client was kept waiting for an answer that did not come: longer than the last time nobody else will be."""
    port.chatty = port.chatty_next
    if port.chatty_next < LONGEST_CHAT:
        port.chatty_next *= 2


cdef void _chat_on(port_counters *port) noexcept nogil:
    """A client has sent more, or ended, before it was answered."""
    if port.chatty < SHORTEST_CHAT:
        port.chatty = SHORTEST_CHAT


cdef void _hush_over(worker_t *w, conn_t *c) noexcept nogil:
    """The client has been unknown to epoll for a tick, and what was expected has not come."""
    if c.hush == EXPECTING:
        _chat(&c.port.counters[w.index])
        c.hush = WATCHED
        _open_timer(w, c)
        if not end_watch(w, c, &c.client, False):  # reports what has come meanwhile
            _conn_end(w, c, True, REFUSED_RESOURCES)
        return
    c.hush = WATCHED
    c.client.flags |= READABLE
    _open_timer(w, c)
    _conn_pump(w, c)


cdef void _pass_fin(end_t *sink) noexcept nogil:
    if not sink.flags & SHUT:
        sink.flags |= SHUT
        sys.shutdown(sink.fd, sys.SHUT_WR)


cdef void _sample(worker_t *w, conn_t *c) noexcept nogil:
    """Now and then, what the kernel knows of the way to a backend."""
    cdef streams_t *streams = streams_of(w)
    cdef backend_counters *counters = &c.backend.counters[w.index]
    cdef sys.tcp_info info
    cdef sys.socklen_t size = sizeof(info)
    streams.until_sample -= 1
    if streams.until_sample:
        return
    streams.until_sample = SAMPLE
    if sys.getsockopt(c.backend_end.fd, sys.IPPROTO_TCP, sys.TCP_INFO, &info, &size) == 0:
        sys.bump(&counters.sampled, 1)
        sys.bump(&counters.rtt, info.tcpi_rtt)
        sys.bump(&counters.retransmitted, info.tcpi_total_retrans)


cdef void _conn_ready(worker_t *w, conn_t *c) noexcept nogil:
    if not c.ready:
        c.ready = True
        c.next = streams_of(w).ready
        streams_of(w).ready = c


cdef void conns_run_ready(worker_t *w) noexcept nogil:
    """Those that had more to do than one turn's share."""
    cdef conn_t *c = streams_of(w).ready
    cdef conn_t *following
    streams_of(w).ready = NULL
    while c != NULL:
        following = c.next
        c.ready = False
        if c.state == DEAD:
            _slot_dead(w, c)
        else:
            _conn_pump(w, c)
        c = following


# -- Events

cdef void conn_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil:
    cdef conn_t *c = _conn_at(streams_of(w), <uint32_t>data >> 3)
    cdef end_t *end = &c.client if data & 7 == KIND_CLIENT else &c.backend_end
    if (c.generation if end.kind == KIND_CLIENT else c.attempt) != <uint32_t>(data >> 32) or c.state == DEAD:
        return  # an event for who had the slot before, or for a backend that was tried before
    c.active = <uint32_t>w.now
    _end_event(end, events)
    if c.state == OPEN:
        if end.kind == KIND_CLIENT and not end.flags & WRITTEN:
            _chat_on(&c.port.counters[w.index])
        _open_event(w, c, end, events)
    elif end.kind == KIND_CLIENT:
        _client_event(w, c, events)
    elif events & (sys.EPOLLERR | sys.EPOLLHUP):
        _attempt_refused(w, c)
    elif events & sys.EPOLLOUT:
        timer_clear(&w.timers, &c.timer)
        _conn_connected(w, c)


cdef void _end_event(end_t *end, uint32_t events) noexcept nogil:
    if events & (sys.EPOLLRDHUP | sys.EPOLLHUP):
        end.flags |= HUNG_UP
    if events & sys.EPOLLPRI:
        end_urgent(end)  # a lone urgent byte is reported as nothing else
    if events & (sys.EPOLLIN | sys.EPOLLPRI | sys.EPOLLRDHUP | sys.EPOLLHUP | sys.EPOLLERR):
        end.flags |= READABLE


cdef void _open_event(worker_t *w, conn_t *c, end_t *end, uint32_t events) noexcept nogil:
    # The only sign of a reset that may come: a short read that has seen the FIN before does not ask for more.
    if events & sys.EPOLLERR:
        end.flags |= BROKEN
    if events & (sys.EPOLLOUT | sys.EPOLLERR | sys.EPOLLHUP):
        end.flags |= WRITABLE
    # A reset whose bytes cannot be passed on any more, because the other end has stopped taking them, is passed on now.
    if end.flags & BROKEN and _stuck(end, &c.backend_end if end.kind == KIND_CLIENT else &c.client):
        _conn_end(w, c, True, OVER_CLIENT if end.kind == KIND_CLIENT else OVER_BACKEND)
        return
    _conn_pump(w, c)


cdef bint _stuck(end_t *source, end_t *sink) noexcept nogil:
    return not sink.flags & WRITABLE and (source.tail != NULL or source.pipe != NULL)


cdef void _client_event(worker_t *w, conn_t *c, uint32_t events) noexcept nogil:
    """A client that has no backend yet."""
    cdef route_t *route = route_of(w, c.port)
    if events & (sys.EPOLLERR | sys.EPOLLHUP):
        _conn_end(w, c, True, OVER_CLIENT)
    elif c.state == HEADER:
        if route == NULL:
            _conn_refuse(w, c, REFUSED_NO_BACKEND)
        else:
            _header_read(w, c, route)


cdef void conn_timer(worker_t *w, timer_t *timer) noexcept nogil:
    cdef conn_t *c = <conn_t *>(<char *>timer - 2 * sizeof(end_t))
    if c.state == OPEN:
        _open_due(w, c)
    elif c.state == HEADER:
        _conn_refuse(w, c, REFUSED_HEADER)
    elif c.state == WAITING:
        _wait_due(w, c)
    elif c.backend_end.fd < 0:  # the kernel had nothing left for it
        _backend_leave(w, c)
        _conn_choose(w, c)
    else:
        _attempt_late(w, c)


cdef void _wait_due(worker_t *w, conn_t *c) noexcept nogil:
    if c.waits_until > w.now:  # further away than the wheel reaches
        timer_set(&w.timers, &c.timer, w.now, c.waits_until - w.now)
    else:
        _conn_refuse(w, c, c.refusal)


cdef void conns_sweep(worker_t *w) noexcept nogil:
    """After a change of the table: whose backend has gone or is to go, who waits for one, who may be silent no more."""
    cdef streams_t *streams = streams_of(w)
    cdef queue_t *queue = streams.queues
    cdef bint idle = streams.generation < w.table.idle_since
    cdef uint32_t i
    if streams.generation == w.table.generation:
        return
    streams.generation = w.table.generation
    while queue != NULL:
        queue.retry_at = 0
        queue = queue.next
    if w.table.sweep or idle:
        for i in range(streams.chunk_count * CHUNK):
            _conn_swept(w, _conn_at(streams, i), idle)


cdef void _conn_swept(worker_t *w, conn_t *c, bint idle) noexcept nogil:
    if c.state == DEAD or c.backend == NULL:
        return
    if sys.load_acquire_int(&c.backend.dead):
        if c.state == OPEN:
            c.backend_end.flags |= DOOMED | READABLE
            _conn_pump(w, c)
        else:
            _attempt_failed(w, c)
            _conn_choose(w, c)
    elif c.state == OPEN and (idle or sys.load_relaxed(&c.backend.drain_until)):
        _open_timer(w, c)


# -- The end

cdef void _conn_refuse(worker_t *w, conn_t *c, uint8_t refusal) noexcept nogil:
    sys.bump(&c.port.counters[w.index].refused[refusal], 1)
    _conn_end(w, c, True, refusal)


cdef void _conn_end(worker_t *w, conn_t *c, bint reset, uint8_t reason) noexcept nogil:
    """The one place where a connection ends: closes both ends and counts. Its slot is free after the turn.

    `reason` is one of OVER_* or REFUSED_*.
    """
    cdef port_counters *counters = &c.port.counters[w.index]
    sys.CHECK(c.state != DEAD)
    timer_clear(&w.timers, &c.timer)
    if c.queued:
        _queue_remove(w, c)
    if c.record != NULL:
        _record_over(w, c, reason)
    end_forget(w, &c.client)
    end_forget(w, &c.backend_end)
    free(c.origin)
    c.origin = NULL
    tried_clear(&c.tried)
    _close(c, reset)
    c.state = DEAD
    c.generation += 1
    c.attempt += 1
    if c.backend != NULL:
        histogram_add(&counters.duration, w.now_us - c.begun_us)
        histogram_add(&c.backend.counters[w.index].duration, w.now_us - c.begun_us)
        _backend_leave(w, c)
    if c.counted:
        _conn_uncount(c)
        if _waiting_for(w, c.port):
            _queue_now(w, c.port)
            _tell_waiting(w, c.port)
    if not c.ready:
        _slot_dead(w, c)
    sys.bump_last(&counters.closed, 1)


cdef void _record_over(worker_t *w, conn_t *c, uint8_t reason) noexcept nogil:
    """Completes its record, while the backend is still known by its id."""
    if c.origin != NULL:
        memcpy(c.record.client, c.origin.source, 16)
        c.record.client_port = c.origin.source_port
    if c.backend != NULL:
        c.record.backend = c.backend.id
    c.record.attempts = c.attempts
    record_end(w, c.record, reason, c.begun_us)
    c.record = NULL


cdef void _conn_uncount(conn_t *c) noexcept nogil:
    """Gives its place among the port's connections back."""
    if c.counted:
        c.counted = False
        sys.fetch_add(&c.port.open, <uint32_t>-1)


cdef void _close(conn_t *c, bint reset) noexcept nogil:
    if reset:
        sys.reset_on_close(c.client.fd)
        if c.state == OPEN:
            sys.reset_on_close(c.backend_end.fd)
    if c.backend_end.fd < 0:
        sys.close(c.client.fd)
    else:
        sys.close_both(c.client.fd, c.backend_end.fd)
    c.client.fd = c.backend_end.fd = -1


cdef void _slot_dead(worker_t *w, conn_t *c) noexcept nogil:
    c.next = streams_of(w).dead
    streams_of(w).dead = c


cdef void conns_end(worker_t *w) noexcept nogil:
    """The end of a worker: what is still open is reset, and everything is given back."""
    cdef streams_t *streams = streams_of(w)
    cdef uint32_t i
    for i in range(streams.chunk_count * CHUNK):
        if _conn_at(streams, i).state != DEAD:
            _conn_end(w, _conn_at(streams, i), True, OVER_STOPPED)
    conns_run_queues(w)
    conns_run_ready(w)
    timer_clear(&w.timers, &streams.queue_timer)
    for i in range(streams.chunk_count):
        free(streams.chunks[i])
    free(streams.chunks)
    streams.chunks, streams.chunk_count, streams.chunk_room = NULL, 0, 0
    streams.free = streams.dead = NULL
    pipes_close(w)
