"""UDP: receivers, and flows between clients and backends. `_flow.pxd` draws their life.

Each event takes one batch from one socket; what is left is reported again (level-triggered), so that a flow that
floods gets no more turns than another.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

import os

from meshlb cimport _linux as sys
from meshlb._access cimport address16, admitted, flows_add, flows_of, rate_allows
from meshlb._balance cimport backend_failed, backend_lasted, backend_succeeded, choose_and_take, source_hash
from meshlb._flow cimport AGES, ASSURED, FRESH, datagrams_of, datagrams_t, flow_t, receiver_t
from meshlb._packets cimport (
    BATCH, is_gone, packets_free, packets_new, packets_receive, packets_send, packets_t, passed_t, train_datagrams,
    train_t,
)
from meshlb._reach cimport reach_as, reach_face, reach_socket
from meshlb._record cimport (
    OVER_EVICTED, OVER_IDLE, OVER_STOPPED, record_end, record_new, record_time,
)
from meshlb._timer cimport timer_clear, timer_set, timer_t
from meshlb._tried cimport tried_add, tried_clear, tried_in
from meshlb._types cimport (
    KIND_FLOW, KIND_UDP_LISTENER, REFUSED_DENIED, REFUSED_FULL, REFUSED_NO_BACKEND, REFUSED_RATE, REFUSED_RESOURCES,
    choice_t, event_data, histogram_add, port_counters, port_t, route_of, route_t, watch, worker_t,
)

cdef enum:
    CHUNK = 64  # flows per allocation
    FEWEST_BUCKETS = 256
    MOST = 65535  # attempts since the last answer
    SETTLED = 5000  # milliseconds without an error: who need not answer is there; ARP gives up after three seconds
    FRESH_TIMEOUT = 30000  # milliseconds: one question, one answer, and silence
    LEAST_SILENCE = 1000  # milliseconds: of a conversation that may be ended for a new one
    KEPT = 1500  # bytes of the longest datagram that is kept for another backend
    BUSY = 8  # datagrams at once from which on the kernel is asked to join them

cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")  # so that nobody can aim at a bucket


# -- Receivers

cdef void receiver_open(worker_t *w, port_t *port, int fd) noexcept nogil:
    """The socket is the worker's from here on."""
    cdef receiver_t *receiver = _receiver_new(w) if _prepared(w, fd) else NULL
    cdef int on = 1
    if receiver == NULL:
        sys.close(fd)
        sys.fetch_add_int(&port.listeners, -1)
        return
    receiver.fd, receiver.port = fd, port
    sys.setsockopt(fd, sys.SOL_UDP, sys.UDP_GRO, &on, sizeof(on))
    _watch(w, receiver)


cdef void _watch(worker_t *w, receiver_t *receiver) noexcept nogil:
    cdef uint64_t data = event_data(receiver.generation, receiver.index, KIND_UDP_LISTENER)
    receiver.watched = watch(w, receiver.fd, sys.EPOLLIN, data)


cdef void receivers_watch(worker_t *w) noexcept nogil:
    """Asks epoll once more to watch those that it would not."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef receiver_t *receiver
    cdef uint32_t i
    for i in range(datagrams.receiver_room):
        receiver = datagrams.receivers[i]
        if receiver != NULL and not receiver.watched and not receiver.released:
            _watch(w, receiver)


cdef bint _prepared(worker_t *w, int fd) noexcept nogil:
    """Memory that only a worker with UDP ports needs."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    if datagrams.packets == NULL:
        datagrams.packets = packets_new(fd)
    if datagrams.buckets == NULL:
        datagrams.buckets = <flow_t **>calloc(FEWEST_BUCKETS, sizeof(flow_t *))
        datagrams.bucket_count = FEWEST_BUCKETS
    return datagrams.packets != NULL and datagrams.buckets != NULL


cdef receiver_t *_receiver_new(worker_t *w) noexcept nogil:
    """One with the lowest free index; NULL without memory."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef receiver_t **room
    cdef uint32_t index = 0
    while index < datagrams.receiver_room and datagrams.receivers[index] != NULL:
        index += 1
    if index == datagrams.receiver_room:
        room = <receiver_t **>realloc(datagrams.receivers, (index + 1) * sizeof(receiver_t *))
        if room == NULL:
            return NULL
        datagrams.receivers, datagrams.receiver_room = room, index + 1
        room[index] = NULL
    datagrams.receivers[index] = <receiver_t *>calloc(1, sizeof(receiver_t))
    if datagrams.receivers[index] != NULL:
        datagrams.receiver_serial += 1
        datagrams.receivers[index].index = index
        datagrams.receivers[index].generation = datagrams.receiver_serial
    return datagrams.receivers[index]


cdef void receivers_close(worker_t *w, port_t *port) noexcept nogil:
    """Those of one port, or all with NULL, and their flows, which answer through them."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef receiver_t *receiver
    cdef uint32_t i
    for i in range(datagrams.receiver_room):
        receiver = datagrams.receivers[i]
        if receiver != NULL and (port == NULL or receiver.port == port):
            _flows_end(w, receiver)
            _receiver_close(w, receiver)


cdef void receivers_release(worker_t *w) noexcept nogil:
    """Another process receives from now on. Flows that are under way are still answered through the socket."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef receiver_t *receiver
    cdef uint32_t i
    for i in range(datagrams.receiver_room):
        receiver = datagrams.receivers[i]
        if receiver != NULL and not receiver.released:
            sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_DEL, receiver.fd, NULL)
            receiver.released = datagrams.over = True
            sys.fetch_add_int(&receiver.port.listeners, -1)


cdef void receivers_bury(worker_t *w) noexcept nogil:
    """Frees released receivers that have no flows any more: the address is not ours to hold."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef uint32_t i
    if not datagrams.over:
        return
    datagrams.over = False
    for i in range(datagrams.receiver_room):
        if datagrams.receivers[i] != NULL and datagrams.receivers[i].released and datagrams.receivers[i].flows == 0:
            _receiver_close(w, datagrams.receivers[i])


cdef void _receiver_close(worker_t *w, receiver_t *receiver) noexcept nogil:
    cdef port_t *of = NULL if receiver.released else receiver.port
    if of != NULL:
        # A child that the process forks shares the socket until it execs.
        sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_DEL, receiver.fd, NULL)
    sys.close(receiver.fd)
    datagrams_of(w).receivers[receiver.index] = NULL
    free(receiver)
    if of != NULL:
        sys.fetch_add_int(&of.listeners, -1)


cdef void receiver_event(worker_t *w, uint64_t data) noexcept nogil:
    """Clients have sent something."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef uint32_t index = <uint32_t>data >> 3
    cdef receiver_t *receiver
    cdef route_t *route
    cdef flow_t *flow
    cdef uint32_t done = 0  # bit i: train i has been passed on
    cdef int count, i
    if index >= datagrams.receiver_room or datagrams.receivers[index] == NULL:
        return
    receiver = datagrams.receivers[index]
    if receiver.generation != <uint32_t>(data >> 32):
        return
    count = packets_receive(datagrams.packets, receiver.fd, True)
    route = route_of(w, receiver.port)
    for i in range(count):
        if not done >> i & 1:
            flow = _flow_of(w, receiver, route, &datagrams.packets.trains[i])
            if flow != NULL:
                done |= _flow_pass(w, flow, i, count)


cdef uint32_t _flow_pass(worker_t *w, flow_t *flow, int first, int count) noexcept nogil:
    """Sends what the batch has of one flow, whose first train is known; the bits of what has been sent."""
    cdef packets_t *packets = datagrams_of(w).packets
    cdef train_t *trains[BATCH]
    cdef uint32_t done = 0
    cdef uint32_t own = 0
    cdef int i
    for i in range(first, count):
        if i == first or _is_of(flow, &packets.trains[i], flow.receiver):
            trains[own] = &packets.trains[i]
            done |= <uint32_t>1 << i
            own += 1
    _upstream(w, flow, trains, own)
    return done


# -- Which flow a datagram belongs to

cdef uint32_t _hash(const train_t *train, const receiver_t *receiver) noexcept nogil:
    """Of the client's address and port, our address and our port."""
    cdef uint64_t hashed = SEED ^ (<uint64_t>receiver.generation << 32 | train.source.v4.sin_port)
    cdef uint64_t parts[4]
    cdef int i
    address16(&train.source, <uint8_t *>&parts[0])
    memcpy(&parts[2], train.own, 16)
    for i in range(4):
        hashed = (hashed ^ parts[i]) * <uint64_t>0x9e3779b97f4a7c15
        hashed ^= hashed >> 29
    return <uint32_t>(hashed >> 16)


cdef bint _is_of(const flow_t *flow, const train_t *train, const receiver_t *receiver) noexcept nogil:
    if flow.receiver != receiver or flow.client.to.v4.sin_port != train.source.v4.sin_port:
        return False
    if memcmp(flow.client.own, train.own, 16) != 0:
        return False
    if train.source.any.sa_family == sys.AF_INET:
        return flow.client.to.v4.sin_addr.s_addr == train.source.v4.sin_addr.s_addr
    return memcmp(&flow.client.to.v6.sin6_addr, &train.source.v6.sin6_addr, 16) == 0 and (
        flow.client.to.v6.sin6_scope_id == train.source.v6.sin6_scope_id)


cdef flow_t *_flow_of(worker_t *w, receiver_t *receiver, route_t *route, const train_t *train) noexcept nogil:
    """The datagrams' flow, a new one where there is none; NULL when they are not to be passed on."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef uint32_t hashed = _hash(train, receiver)
    cdef flow_t *flow = datagrams.buckets[hashed & (datagrams.bucket_count - 1)]
    while flow != NULL and not (flow.hash == hashed and _is_of(flow, train, receiver)):
        flow = flow.chain
    if flow == NULL:
        flow = _flow_begin(w, receiver, route, train, hashed)
    elif flow.answered and flow.age == FRESH:
        _age_leave(datagrams, flow)
        flow.age = ASSURED
        _age_enter(datagrams, flow)
    return flow


# -- The beginning of a flow

cdef flow_t *_flow_begin(
    worker_t *w, receiver_t *receiver, route_t *route, const train_t *train, uint32_t hashed
) noexcept nogil:
    """A new client's flow; NULL, and counted, where it is not let in."""
    cdef port_counters *counters = &receiver.port.counters[w.index]
    cdef uint8_t client[16]
    cdef flow_t *flow = NULL
    cdef int refusal
    address16(&train.source, client)
    refusal = _refusal(w, receiver.port, route, client)
    if refusal < 0:
        flow = _flow_new(w)
        refusal = REFUSED_RESOURCES
    if flow != NULL and not _place_take(receiver.port, route):
        _flow_free(datagrams_of(w), flow)
        flow, refusal = NULL, REFUSED_FULL
    sys.bump(&counters.accepted, 1)
    if flow == NULL:
        sys.bump(&counters.refused[refusal], 1)
        sys.bump(&counters.dropped, train_datagrams(train))
        sys.bump_last(&counters.closed, 1)
        return NULL
    flow.receiver, flow.hash, flow.begun_us = receiver, hashed, w.now_us
    receiver.flows += 1
    flow.source = source_hash(client, route.source_prefix4, route.source_prefix6)
    flow.client.to = train.source
    memcpy(flow.client.own, train.own, 16)
    flow.client.interface = train.interface if _is_link_local(train) else 0
    flow.counted = flows_add(receiver.port, client, 1)
    if route.access_log:
        _flow_record(w, flow, client)
    _flow_enter(w, flow)
    _flow_watch(w, flow)
    return flow


cdef void _flow_record(worker_t *w, flow_t *flow, const uint8_t *client) noexcept nogil:
    """Gives it a record."""
    flow.record = record_new(w, flow.receiver.port.id)
    if flow.record != NULL:
        memcpy(flow.record.client, client, 16)
        # The port stands at the same place for both families.
        flow.record.client_port = sys.ntohs(flow.client.to.v4.sin_port)


cdef int _refusal(worker_t *w, port_t *port, route_t *route, const uint8_t *client) noexcept nogil:
    """Why a client may not have one more flow: REFUSED_*, or -1 when it may."""
    if route == NULL:
        return REFUSED_NO_BACKEND
    if not admitted(route, client):
        return REFUSED_DENIED
    if route.flows_per_source and flows_of(port, client) >= route.flows_per_source:
        return REFUSED_RATE
    if route.rate_interval and not rate_allows(port, route, client, w.now_us):
        return REFUSED_RATE
    return -1


cdef bint _place_take(port_t *port, const route_t *route) noexcept nogil:
    """Takes one of the port's places, if one is left."""
    if sys.fetch_add(&port.open, 1) < route.max_conn or route.max_conn == 0:
        return True
    sys.fetch_add(&port.open, <uint32_t>-1)
    return False


cdef bint _is_link_local(const train_t *train) noexcept nogil:
    """Whether our address means something on one interface alone."""
    return train.own[0] == 0xfe and train.own[1] & 0xc0 == 0x80


cdef flow_t *_flow_new(worker_t *w) noexcept nogil:
    """Zeroed, but for what tells its events apart. NULL where there is no room, or no memory."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef uint32_t most = sys.load_relaxed_uint(&w.plane.flows) // <uint32_t>w.plane.workers
    cdef flow_t *flow
    cdef uint32_t index, generation
    if datagrams.count >= most and not _flow_evict(w, NULL):
        return NULL
    if datagrams.free == NULL and not _chunk_add(datagrams):
        return NULL
    if datagrams.count >= datagrams.bucket_count:
        _buckets_double(datagrams)
    flow = datagrams.free
    datagrams.free = flow.chain
    index, generation = flow.index, flow.generation
    memset(flow, 0, sizeof(flow_t))
    flow.index, flow.generation, flow.fd, flow.timer.kind = index, generation, -1, KIND_FLOW
    return flow


cdef void _flow_free(datagrams_t *datagrams, flow_t *flow) noexcept nogil:
    flow.chain = datagrams.free
    datagrams.free = flow


cdef bint _flow_evict(worker_t *w, const flow_t *wanting) noexcept nogil:
    """Makes room: the oldest fresh flow goes, or else the oldest of all, if it has been silent for a while.

    The one that wants it stays, and so do those behind it in its list: `flows_sweep` may be on its way to them.
    """
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef flow_t *oldest = datagrams.oldest[FRESH]
    if oldest == NULL or oldest == wanting:
        oldest = datagrams.oldest[ASSURED]
        if oldest == NULL or oldest == wanting or <uint32_t>w.now - oldest.active < LEAST_SILENCE:
            return False
    if oldest.since and w.now - oldest.since >= SETTLED:
        _flow_settle(oldest)
    _flow_end(w, oldest, OVER_EVICTED)
    return True


cdef bint _chunk_add(datagrams_t *datagrams) noexcept nogil:
    cdef flow_t **chunks = datagrams.chunks
    cdef flow_t *chunk
    cdef uint32_t i, room
    if datagrams.chunk_count == datagrams.chunk_room:
        room = datagrams.chunk_room * 2 + 16
        chunks = <flow_t **>realloc(chunks, room * sizeof(flow_t *))
        if chunks == NULL:
            return False
        datagrams.chunks, datagrams.chunk_room = chunks, room
    chunk = <flow_t *>calloc(CHUNK, sizeof(flow_t))
    if chunk == NULL:
        return False
    chunks[datagrams.chunk_count] = chunk
    for i in range(<uint32_t>CHUNK):
        chunk[i].index = datagrams.chunk_count * CHUNK + i
        chunk[i].chain = datagrams.free
        datagrams.free = &chunk[i]
    datagrams.chunk_count += 1
    return True


cdef void _buckets_double(datagrams_t *datagrams) noexcept nogil:
    """Without memory the chains grow instead."""
    cdef uint32_t count = datagrams.bucket_count * 2
    cdef flow_t **buckets = <flow_t **>calloc(count, sizeof(flow_t *))
    cdef flow_t *flow
    cdef flow_t *following
    cdef uint32_t i
    if buckets == NULL:
        return
    for i in range(datagrams.bucket_count):
        flow = datagrams.buckets[i]
        while flow != NULL:
            following = flow.chain
            flow.chain = buckets[flow.hash & (count - 1)]
            buckets[flow.hash & (count - 1)] = flow
            flow = following
    free(datagrams.buckets)
    datagrams.buckets, datagrams.bucket_count = buckets, count


cdef void _flow_enter(worker_t *w, flow_t *flow) noexcept nogil:
    """From here on it is found."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef flow_t **bucket = &datagrams.buckets[flow.hash & (datagrams.bucket_count - 1)]
    flow.chain = bucket[0]
    bucket[0] = flow
    datagrams.count += 1
    flow.active = <uint32_t>w.now
    _age_enter(datagrams, flow)


cdef void _age_enter(datagrams_t *datagrams, flow_t *flow) noexcept nogil:
    """As the newest of its age."""
    flow.older, flow.newer = datagrams.newest[flow.age], NULL
    if flow.older != NULL:
        flow.older.newer = flow
    else:
        datagrams.oldest[flow.age] = flow
    datagrams.newest[flow.age] = flow


cdef void _age_leave(datagrams_t *datagrams, flow_t *flow) noexcept nogil:
    if flow.older != NULL:
        flow.older.newer = flow.newer
    else:
        datagrams.oldest[flow.age] = flow.newer
    if flow.newer != NULL:
        flow.newer.older = flow.older
    else:
        datagrams.newest[flow.age] = flow.older


cdef void _flow_stir(worker_t *w, flow_t *flow) noexcept nogil:
    """It is not silent."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    flow.active = <uint32_t>w.now
    if datagrams.newest[flow.age] != flow:
        _age_leave(datagrams, flow)
        _age_enter(datagrams, flow)


# -- From the client to a backend

cdef void _upstream(worker_t *w, flow_t *flow, train_t **trains, uint32_t count) noexcept nogil:
    """Sends a client's datagrams to its backend; when that is gone, to another."""
    cdef port_counters *counters = &flow.receiver.port.counters[w.index]
    cdef passed_t passed
    cdef uint64_t datagrams = 0
    cdef uint32_t i
    cdef bint is_over = False
    passed.datagrams = passed.bytes = 0
    for i in range(count):
        datagrams += train_datagrams(trains[i])
    if flow.since and w.now - flow.since >= SETTLED:
        _flow_settle(flow)
    _flow_stir(w, flow)
    _keep(flow, trains[0] if count == 1 and datagrams == 1 else NULL)
    if flow.backend == NULL:
        flow.attempts = 0
        is_over = not _backend_find(w, flow)
    while not is_over and packets_send(
        datagrams_of(w).packets, flow.fd, NULL, trains, count, &flow.upstream_singly, &passed
    ) != 0:
        backend_failed(flow.backend, w.now, &w.random)
        _backend_leave(w, flow, True)
        passed.datagrams = passed.bytes = 0  # all of it is for the next one
        is_over = not _backend_find(w, flow)
    sys.bump(&counters.received, passed.bytes)
    if flow.record != NULL:
        flow.record.received += passed.bytes
    if passed.datagrams < datagrams:
        sys.bump(&counters.dropped, datagrams - passed.datagrams)
    if is_over:
        _flow_refuse(w, flow)
    else:
        sys.bump(&flow.backend.counters[w.index].received, passed.bytes)


cdef void _flow_settle(flow_t *flow) noexcept nogil:
    """Nobody has said that its backend is gone: of those that never answer, that is all that can be known."""
    backend_lasted(flow.backend, flow.since)
    flow.since = 0


cdef void _keep(flow_t *flow, const train_t *train) noexcept nogil:
    """Keeps a single datagram until it is answered; without memory, or with NULL, none."""
    cdef char *room
    flow.kept_size = 0
    if train == NULL or train.size == 0 or train.size > KEPT:
        return
    room = <char *>realloc(flow.kept, train.size)
    if room != NULL:
        memcpy(room, train.data, train.size)
        flow.kept, flow.kept_size = room, <uint16_t>train.size


cdef bint _backend_find(worker_t *w, flow_t *flow) noexcept nogil:
    """Connects the flow to a backend that it has not tried since the last answer. False when none is left."""
    cdef port_t *port = flow.receiver.port
    cdef route_t *route = route_of(w, port)
    cdef choice_t choice
    while route != NULL and flow.attempts <= route.retries and flow.attempts < MOST:
        tried_in(&flow.tried, w.table.generation)
        choice.now, choice.random, choice.source = w.now, &w.random, flow.source
        choice.tried, choice.probing = &flow.tried, flow.attempts == 0
        flow.backend = choose_and_take(route, port, &choice)
        if flow.backend == NULL:
            return False
        flow.position = choice.position
        flow.attempts += 1
        sys.bump(&flow.backend.counters[w.index].chosen, 1)
        if flow.attempts > 1:
            sys.bump(&port.counters[w.index].failovers, 1)
        if _connected(w, flow, route):
            sys.bump(&flow.backend.counters[w.index].connected, 1)
            flow.since, flow.short_of = w.now, False
            return True
        flow.short_of = flow.short_of or not _has_socket(w, flow)
        _backend_leave(w, flow, True)
    return False


cdef bint _connected(worker_t *w, flow_t *flow, route_t *route) noexcept nogil:
    """Gives it a socket that speaks to its backend. False without one."""
    cdef sys.epoll_event event
    flow.fd = reach_socket(w, flow.backend, sys.SOCK_DGRAM)
    if not _has_socket(w, flow) or (route.transparent and not _as_client(w, flow, route)):
        return False
    if not _connects(flow) and not (_makes_room(w, flow) and _connects(flow)):
        return False
    event.events = sys.EPOLLIN
    event.data.u64 = event_data(flow.generation, flow.index, KIND_FLOW)
    return sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, flow.fd, &event) == 0


cdef bint _connects(flow_t *flow) noexcept nogil:
    """Connects its socket, which takes a local port that no other has. False with errno."""
    return sys.connect(flow.fd, &flow.backend.address.any, flow.backend.address_size) == 0


cdef bint _makes_room(worker_t *w, flow_t *flow) noexcept nogil:
    """Whether another flow has gone for one that found no local port: they run out before descriptors may.

    Where it does not help, because others have the ports, no second one goes.
    """
    cdef bint again = flow.short_of
    flow.short_of = again or sys.errno == sys.EAGAIN or sys.errno == sys.EADDRNOTAVAIL
    return sys.errno == sys.EAGAIN and not again and _flow_evict(w, flow)


cdef bint _as_client(worker_t *w, flow_t *flow, route_t *route) noexcept nogil:
    """Gives its socket the client's own address, or leaves it the mesh's. False when neither may be."""
    cdef uint8_t address[16]
    address16(&flow.client.to, address)
    if reach_face(route, address) and sys.load_acquire_int(&flow.backend.prepared):
        # The port stands at the same place for both families.
        if reach_as(flow.fd, address, sys.ntohs(flow.client.to.v4.sin_port)):
            return True
        sys.close(flow.fd)
        flow.fd = reach_socket(w, flow.backend, sys.SOCK_DGRAM)
        if not _has_socket(w, flow):
            return False
    sys.bump(&flow.receiver.port.counters[w.index].masked, 1)
    return not route.unmasked


cdef bint _has_socket(worker_t *w, const flow_t *flow) noexcept nogil:
    """Whether there is one, of those that clients may have."""
    return flow.fd >= 0 and <uint32_t>flow.fd < sys.load_relaxed_uint(&w.plane.fd_limit)


cdef void _backend_leave(worker_t *w, flow_t *flow, bint failed) noexcept nogil:
    """The flow refers to its backend no longer. Where that has failed, it is remembered as tried."""
    cdef route_t *route = route_of(w, flow.receiver.port)
    if failed and route != NULL and flow.tried.generation == <uint32_t>w.table.generation:
        if not tried_add(&flow.tried, flow.position, route.count):
            flow.attempts, flow.short_of = <uint16_t>MOST, True
    if failed:
        sys.bump(&flow.backend.counters[w.index].failed, 1)
    sys.fetch_add(&flow.backend.active, <uint32_t>-1)
    sys.bump_last(&flow.backend.counters[w.index].ended, 1)
    flow.backend = NULL
    flow.since = 0
    flow.generation += 1  # events of that socket are late from here on
    flow.joins = flow.upstream_singly = False
    if flow.fd >= 0:
        sys.close(flow.fd)
        flow.fd = -1


cdef void _flow_move(worker_t *w, flow_t *flow, bint failed) noexcept nogil:
    """Leaves its backend. What the client said last, and nobody has answered, is said again to another."""
    cdef train_t train
    cdef train_t *trains[1]
    cdef passed_t passed
    _backend_leave(w, flow, failed)
    if flow.kept_size == 0:
        return
    passed.datagrams = passed.bytes = 0
    train.data, train.size, train.segment, trains[0] = flow.kept, flow.kept_size, flow.kept_size, &train
    while _backend_find(w, flow):
        if packets_send(datagrams_of(w).packets, flow.fd, NULL, trains, 1, &flow.upstream_singly, &passed) == 0:
            sys.bump(&flow.backend.counters[w.index].received, passed.bytes)
            return
        backend_failed(flow.backend, w.now, &w.random)
        _backend_leave(w, flow, True)
    _flow_refuse(w, flow)


# -- From the backend to the client

cdef flow_t *_flow_at(datagrams_t *datagrams, uint32_t index) noexcept nogil:
    return &datagrams.chunks[index // CHUNK][index % CHUNK]


cdef void flow_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil:
    """A backend has answered, or the network says that it does not listen."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef flow_t *flow = _flow_at(datagrams, <uint32_t>data >> 3)
    cdef int count
    if flow.generation != <uint32_t>(data >> 32) or flow.backend == NULL:
        return
    count = packets_receive(datagrams.packets, flow.fd, False)
    if count > 0:
        _downstream(w, flow, <uint32_t>count)
    elif count < 0 and (is_gone(sys.errno) or sys.errno == sys.ECONNABORTED):  # the last: an administrator's end
        _flow_gone(w, flow)
    # Any other error is off the socket by now, and says nothing about the backend: a router wants shorter packets.


cdef void _flow_gone(worker_t *w, flow_t *flow) noexcept nogil:
    """Nobody listens at its backend's any more. What it had answered before lies behind the error."""
    cdef uint16_t kept_size = flow.kept_size
    cdef int count = packets_receive(datagrams_of(w).packets, flow.fd, False)
    if count > 0:
        _downstream(w, flow, <uint32_t>count)
        flow.kept_size = kept_size  # it was the last that the client has sent that was refused
    backend_failed(flow.backend, w.now, &w.random)
    _flow_move(w, flow, True)


cdef void _downstream(worker_t *w, flow_t *flow, uint32_t count) noexcept nogil:
    """Sends a backend's datagrams to the client, from the address that it has spoken to."""
    cdef packets_t *packets = datagrams_of(w).packets
    cdef port_counters *counters = &flow.receiver.port.counters[w.index]
    cdef train_t *trains[BATCH]
    cdef passed_t passed
    cdef uint64_t datagrams = 0
    cdef uint32_t i
    cdef int on = 1
    passed.datagrams = passed.bytes = 0
    for i in range(count):
        trains[i] = &packets.trains[i]
        datagrams += train_datagrams(trains[i])
    if not flow.answered:
        histogram_add(&counters.first_byte, w.now_us - flow.begun_us)
        histogram_add(&flow.backend.counters[w.index].first_byte, w.now_us - flow.begun_us)
        if flow.record != NULL:
            flow.record.first_byte_us = record_time(w, flow.begun_us)
    flow.answered, flow.kept_size, flow.attempts = True, 0, 1
    tried_clear(&flow.tried)
    backend_succeeded(flow.backend)
    _flow_stir(w, flow)
    packets_send(packets, flow.receiver.fd, &flow.client, trains, count, &flow.downstream_singly, &passed)
    sys.bump(&counters.sent, passed.bytes)
    sys.bump(&flow.backend.counters[w.index].sent, passed.bytes)
    if flow.record != NULL:
        flow.record.sent += passed.bytes
    if passed.datagrams < datagrams:
        sys.bump(&counters.dropped, datagrams - passed.datagrams)
    if count >= BUSY and not flow.joins:
        flow.joins = True
        sys.setsockopt(flow.fd, sys.SOL_UDP, sys.UDP_GRO, &on, sizeof(on))


# -- The clock, changes of the table, and the end

cdef uint64_t _patience(const flow_t *flow, const route_t *route) noexcept nogil:
    """Milliseconds of silence that end it."""
    if flow.age == FRESH and route.flow_timeout > FRESH_TIMEOUT:
        return FRESH_TIMEOUT
    return route.flow_timeout


cdef void _flow_watch(worker_t *w, flow_t *flow) noexcept nogil:
    """Sets the timer to the next time at which the flow wants to be looked at; not at every datagram."""
    cdef route_t *route = route_of(w, flow.receiver.port)
    cdef uint64_t delay = FRESH_TIMEOUT if route == NULL else _patience(flow, route)
    cdef uint64_t silent = <uint32_t>w.now - flow.active
    cdef uint64_t drain_until = 0 if flow.backend == NULL else sys.load_relaxed(&flow.backend.drain_until)
    delay = delay - silent if silent < delay else 1
    if drain_until:
        drain_until = drain_until - w.now if drain_until > w.now else 1
        delay = drain_until if drain_until < delay else delay
    timer_set(&w.timers, &flow.timer, w.now, delay)


cdef void flow_timer(worker_t *w, timer_t *timer) noexcept nogil:
    cdef flow_t *flow = <flow_t *>timer
    cdef route_t *route = route_of(w, flow.receiver.port)
    cdef uint64_t drain_until = 0 if flow.backend == NULL else sys.load_relaxed(&flow.backend.drain_until)
    if route == NULL or <uint32_t>w.now - flow.active >= _patience(flow, route):
        if flow.since:
            _flow_settle(flow)
        _flow_end(w, flow, OVER_IDLE)
        return
    _flow_watch(w, flow)
    if drain_until and drain_until <= w.now:
        _flow_change(w, flow)


cdef void _flow_change(worker_t *w, flow_t *flow) noexcept nogil:
    """Leaves a backend that has gone."""
    flow.attempts = 0
    tried_clear(&flow.tried)
    _flow_move(w, flow, False)


cdef void flows_sweep(worker_t *w) noexcept nogil:
    """After a change of the table: flows leave backends that have gone, or will when their time has come."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef flow_t *flow
    cdef flow_t *following
    cdef int age
    if not w.table.sweep:
        return
    for age in range(<int>AGES):
        flow = datagrams.oldest[age]
        while flow != NULL:
            following = flow.newer
            if flow.backend != NULL and sys.load_acquire_int(&flow.backend.dead):
                _flow_change(w, flow)
            elif flow.backend != NULL and sys.load_relaxed(&flow.backend.drain_until):
                _flow_watch(w, flow)
            flow = following


cdef void _flow_refuse(worker_t *w, flow_t *flow) noexcept nogil:
    """No backend is left to try."""
    cdef uint8_t refusal = REFUSED_RESOURCES if flow.short_of else REFUSED_NO_BACKEND
    sys.bump(&flow.receiver.port.counters[w.index].refused[refusal], 1)
    _flow_end(w, flow, refusal)


cdef void _flow_end(worker_t *w, flow_t *flow, uint8_t reason) noexcept nogil:
    """The one place where a flow ends. `reason` is one of OVER_* or REFUSED_*."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef port_t *port = flow.receiver.port
    cdef uint8_t client[16]
    timer_clear(&w.timers, &flow.timer)
    _flow_leave(datagrams, flow)
    if flow.record != NULL:
        _record_over(w, flow, reason)
    if flow.backend != NULL:
        histogram_add(&flow.backend.counters[w.index].duration, w.now_us - flow.begun_us)
        _backend_leave(w, flow, False)
    histogram_add(&port.counters[w.index].duration, w.now_us - flow.begun_us)
    free(flow.kept)
    flow.kept = NULL
    tried_clear(&flow.tried)
    if flow.counted:
        address16(&flow.client.to, client)
        flows_add(port, client, -1)
    sys.fetch_add(&port.open, <uint32_t>-1)
    flow.receiver.flows -= 1
    datagrams.over = datagrams.over or flow.receiver.released
    _flow_free(datagrams, flow)
    sys.bump_last(&port.counters[w.index].closed, 1)


cdef void _record_over(worker_t *w, flow_t *flow, uint8_t reason) noexcept nogil:
    """Completes its record, while the backend is still known by its id."""
    if flow.backend != NULL:
        flow.record.backend = flow.backend.id
    flow.record.attempts = flow.attempts
    record_end(w, flow.record, reason, flow.begun_us)
    flow.record = NULL


cdef void _flow_leave(datagrams_t *datagrams, flow_t *flow) noexcept nogil:
    """From here on it is not found any more."""
    cdef flow_t **place = &datagrams.buckets[flow.hash & (datagrams.bucket_count - 1)]
    while place[0] != flow:
        place = &place[0].chain
    place[0] = flow.chain
    datagrams.count -= 1
    _age_leave(datagrams, flow)


cdef void _flows_end(worker_t *w, const receiver_t *receiver) noexcept nogil:
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef flow_t *flow
    cdef flow_t *following
    cdef int age
    for age in range(<int>AGES):
        flow = datagrams.oldest[age]
        while flow != NULL:
            following = flow.newer
            if flow.receiver == receiver:
                _flow_end(w, flow, OVER_STOPPED)
            flow = following


cdef void datagrams_end(worker_t *w) noexcept nogil:
    """The end of a worker: everything is given back."""
    cdef datagrams_t *datagrams = datagrams_of(w)
    cdef uint32_t i
    receivers_close(w, NULL)
    for i in range(datagrams.chunk_count):
        free(datagrams.chunks[i])
    free(datagrams.chunks)
    free(datagrams.receivers)
    free(datagrams.buckets)
    packets_free(datagrams.packets)
    memset(datagrams, 0, sizeof(datagrams_t))
