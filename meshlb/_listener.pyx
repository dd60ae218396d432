"""Accepting: a worker's listening TCP sockets, level-triggered.

How many connections are taken at once is learnt: one, as long as they come one at a time, so that no accept is
spent on finding out that there is no second; more, when the next turn finds more of them.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

from meshlb cimport _linux as sys
from meshlb._connection cimport conn_accepted
from meshlb._stream cimport listener_t, streams_of, streams_t
from meshlb._types cimport (
    KIND_LISTENER, address_t, event_data, port_t, route_of, route_t, tell_short, watch, worker_t,
)

cdef enum:
    ACCEPTS = 16  # connections taken from a listener per turn at most, so that no port starves another
    DRAINED = 65536  # connections taken from a listener that closes at most
    PAUSE = 50  # milliseconds without accepting after the kernel ran out of something


cdef void listener_open(worker_t *w, port_t *port, int fd) noexcept nogil:
    """The socket is the worker's from here on."""
    cdef listener_t *listener = _listener_new(w)
    if listener == NULL:
        sys.close(fd)
        sys.fetch_add_int(&port.listeners, -1)
        return
    listener.fd, listener.port, listener.budget = fd, port, 1
    _watch(w, listener)


cdef void _watch(worker_t *w, listener_t *listener) noexcept nogil:
    cdef uint64_t data = event_data(listener.generation, listener.index, KIND_LISTENER)
    listener.watched = watch(w, listener.fd, 0 if streams_of(w).paused else sys.EPOLLIN, data)


cdef void listeners_watch(worker_t *w) noexcept nogil:
    """Asks epoll once more to watch those that it would not."""
    cdef streams_t *streams = streams_of(w)
    cdef uint32_t i
    for i in range(streams.listener_room):
        if streams.listeners[i] != NULL and not streams.listeners[i].watched:
            _watch(w, streams.listeners[i])


cdef listener_t *_listener_new(worker_t *w) noexcept nogil:
    """One with the lowest free index; NULL without memory."""
    cdef streams_t *streams = streams_of(w)
    cdef listener_t **room
    cdef uint32_t index = 0
    while index < streams.listener_room and streams.listeners[index] != NULL:
        index += 1
    if index == streams.listener_room:
        room = <listener_t **>realloc(streams.listeners, (index + 1) * sizeof(listener_t *))
        if room == NULL:
            return NULL
        streams.listeners, streams.listener_room = room, index + 1
        room[index] = NULL
    streams.listeners[index] = <listener_t *>calloc(1, sizeof(listener_t))
    if streams.listeners[index] != NULL:
        streams.listener_serial += 1
        streams.listeners[index].index, streams.listeners[index].generation = index, streams.listener_serial
    return streams.listeners[index]


cdef bint _passing(int error) noexcept nogil:
    """Whether the next client can be accepted all the same."""
    return error == 0 or error == sys.ECONNABORTED or error == sys.EINTR or error == sys.EPROTO


cdef int _take(worker_t *w, listener_t *listener) noexcept nogil:
    """Accepts one connection. 0 on success, else errno."""
    cdef route_t *route = route_of(w, listener.port)
    cdef address_t peer
    cdef sys.socklen_t size = sizeof(peer)
    cdef int fd
    if route != NULL and route.wants_peer:
        fd = sys.accept4(listener.fd, &peer.any, &size, sys.SOCK_NONBLOCK | sys.SOCK_CLOEXEC)
    else:
        fd = sys.accept4(listener.fd, NULL, NULL, sys.SOCK_NONBLOCK | sys.SOCK_CLOEXEC)
    if fd < 0:
        return sys.errno
    if <uint32_t>fd >= sys.load_relaxed_uint(&w.plane.fd_limit):  # descriptors are given out lowest first
        streams_of(w).exhausted = sys.EMFILE
    conn_accepted(w, listener.port, fd, &peer)
    return 0


cdef void listener_event(worker_t *w, uint64_t data) noexcept nogil:
    """What is not taken in this turn is reported again in the next."""
    cdef streams_t *streams = streams_of(w)
    cdef uint32_t index = <uint32_t>data >> 3
    cdef listener_t *listener
    if index >= streams.listener_room:
        return
    listener = streams.listeners[index]
    if listener == NULL or listener.generation != <uint32_t>(data >> 32):
        return
    if listener.turn + 1 == streams.turn:
        listener.budget = listener.budget * 2 if listener.budget < ACCEPTS // 2 else ACCEPTS
    listener.turn = streams.turn
    _take_some(w, listener)


cdef void _take_some(worker_t *w, listener_t *listener) noexcept nogil:
    cdef streams_t *streams = streams_of(w)
    cdef int error = 0
    cdef int left = listener.budget
    while left and _passing(error) and not streams.paused and not streams.exhausted:
        error = _take(w, listener)
        left -= 1
    if error == sys.EAGAIN:
        listener.budget = 1
    elif not _passing(error):
        streams.exhausted = error  # descriptors or memory, or anything else that asking at once will not cure


cdef void listeners_settle(worker_t *w) noexcept nogil:
    """Out of descriptors or memory: clients wait in the backlog for a while, and established ones go on."""
    cdef streams_t *streams = streams_of(w)
    streams.turn += 1
    if streams.paused and w.now >= streams.resume_at and not _is_room(w):
        streams.exhausted = sys.EMFILE
    if streams.exhausted:
        tell_short(w, streams.exhausted)
        streams.exhausted = 0
        streams.resume_at = w.now + PAUSE
        if not streams.paused:
            streams.paused = True
            _watch_all(w, 0)
    elif streams.paused and w.now >= streams.resume_at:
        streams.paused = False
        _watch_all(w, sys.EPOLLIN)


cdef bint _is_room(worker_t *w) noexcept nogil:
    """Whether the next descriptor would be one for a client: asked for after a pause, so that pauses do not add up."""
    cdef int next_one = sys.dup(w.wake)
    if next_one >= 0:
        sys.close(next_one)
    return 0 <= next_one and <uint32_t>next_one < sys.load_relaxed_uint(&w.plane.fd_limit)


cdef int listeners_wait(worker_t *w) noexcept nogil:
    """Milliseconds until accepting goes on, or epoll is asked again; -1 when neither is awaited."""
    cdef streams_t *streams = streams_of(w)
    cdef uint64_t at = streams.resume_at if streams.paused else w.watch_at
    if at == 0:
        return -1
    at = w.watch_at if w.watch_at and w.watch_at < at else at
    return <int>(at - w.now) if at > w.now else 0


cdef void _watch_all(worker_t *w, uint32_t events) noexcept nogil:
    cdef streams_t *streams = streams_of(w)
    cdef sys.epoll_event event
    cdef uint32_t i
    event.events = events
    for i in range(streams.listener_room):
        if streams.listeners[i] != NULL:
            event.data.u64 = event_data(streams.listeners[i].generation, i, KIND_LISTENER)
            sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_MOD, streams.listeners[i].fd, &event)


cdef void listeners_close(worker_t *w, port_t *port, bint drain) noexcept nogil:
    """Those of one port, or all with NULL. With `drain`, what has completed its handshake is taken first:
    closing would reset it."""
    cdef streams_t *streams = streams_of(w)
    cdef uint32_t i
    for i in range(streams.listener_room):
        if streams.listeners[i] != NULL and (port == NULL or streams.listeners[i].port == port):
            if drain:
                _drain(w, streams.listeners[i])
            _close(w, streams.listeners[i])
            streams.listeners[i] = NULL
    if port == NULL:
        free(streams.listeners)
        streams.listeners, streams.listener_room = NULL, 0


cdef void _drain(worker_t *w, listener_t *listener) noexcept nogil:
    cdef int left = DRAINED
    cdef int error = 0
    while left and _passing(error):
        error = _take(w, listener)
        left -= 1


cdef void _close(worker_t *w, listener_t *listener) noexcept nogil:
    # While the process forks, a child shares the socket until it execs: closing alone would leave it in epoll,
    # and with it clients that nobody accepts.
    sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_DEL, listener.fd, NULL)
    sys.close(listener.fd)
    sys.fetch_add_int(&listener.port.listeners, -1)
    free(listener)
