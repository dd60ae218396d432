"""Active checks: a TCP connect to each backend of a port whose policy asks for it, now and then.

Every backend is one worker's to check. A table names what is checked; a check that it no longer names is over, and its
backend counts as good. After `check-fall` failures in a row a backend gets no new connections (unless none of its port
is better, see _balance), after `check-rise` successes it gets them again.

A check ends with an RST instead of the handshake's last ACK, so a server does not see it as a connection.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from meshlb cimport _linux as sys
from meshlb._balance cimport random_below
from meshlb._reach cimport reach_socket
from meshlb._timer cimport timer_clear, timer_set, timer_t
from meshlb._types cimport (
    KIND_CHECK, STANDING_FAILING, STANDING_GOOD, TIERS, backend_t, event_data, route_t, worker_t,
)

cdef enum:
    FIRST = 1000  # milliseconds within which a new backend is looked at

ctypedef check_s check_t

cdef struct check_s:
    timer_t timer  # the first: what is due is the check
    backend_t *backend
    int fd  # -1 between two looks
    uint32_t index  # its place
    uint32_t generation  # of its sockets
    uint64_t due  # when it is looked at next
    uint32_t interval  # milliseconds, as all times here
    uint32_t timeout
    uint16_t rise
    uint16_t fall
    uint16_t streak  # results in a row that speak against the standing
    bint named  # by the table in use

cdef struct checks_t:
    check_t **places  # by backend id // workers
    uint32_t room
    uint32_t count
    uint32_t serial


cdef inline checks_t *_checks_of(worker_t *w) noexcept nogil:
    return <checks_t *>w.checks


cdef int checks_prepare(worker_t *w) except -1:
    w.checks = calloc(1, sizeof(checks_t))
    if w.checks == NULL:
        raise MemoryError
    return 0


cdef void checks_free(worker_t *w) noexcept:
    free(w.checks)


# -- Which backends are checked

cdef void checks_sweep(worker_t *w) noexcept nogil:
    """After a change of the table: begins and ends checks."""
    cdef checks_t *checks = _checks_of(w)
    cdef uint32_t i
    if checks.count == 0 and not w.table.checks:
        return
    for i in range(checks.room):
        if checks.places[i] != NULL:
            checks.places[i].named = False
    for i in range(w.table.ports):
        if w.table.routes[i].used and w.table.routes[i].check_interval:
            _route_sweep(w, &w.table.routes[i])
    for i in range(checks.room):
        if checks.places[i] != NULL and not checks.places[i].named:
            _check_end(w, checks.places[i])


cdef void _route_sweep(worker_t *w, const route_t *route) noexcept nogil:
    cdef backend_t *backend
    cdef check_t *check
    cdef uint32_t i
    cdef int tier
    for tier in range(TIERS):
        for i in range(route.tiers[tier].count):
            backend = route.tiers[tier].backends[i]
            if backend.id % <uint32_t>w.plane.workers != <uint32_t>w.index:
                continue
            check = _check_of(w, backend)
            if check != NULL:  # without memory it is not checked, until the next change
                check.named = True
                check.interval, check.rise, check.fall = route.check_interval, route.check_rise, route.check_fall
                check.timeout = route.check_timeout
                if check.fd < 0 and check.due > w.now + check.interval + check.interval // 5:
                    _later(w, check)  # it was further away before


cdef check_t *_check_of(worker_t *w, backend_t *backend) noexcept nogil:
    """The backend's check, a new one where there is none; NULL without memory."""
    cdef checks_t *checks = _checks_of(w)
    cdef uint32_t index = backend.id // <uint32_t>w.plane.workers
    cdef check_t *check
    if index >= checks.room and not _room_for(checks, index):
        return NULL
    if checks.places[index] != NULL:
        return checks.places[index]
    check = <check_t *>calloc(1, sizeof(check_t))
    if check == NULL:
        return NULL
    checks.places[index] = check
    checks.count += 1
    checks.serial += 1
    check.backend, check.index, check.fd, check.timer.kind = backend, index, -1, KIND_CHECK
    check.generation = checks.serial << 16  # of a past holder of the place no event is taken for one's own
    timer_set(&w.timers, &check.timer, w.now, random_below(&w.random, FIRST))
    return check


cdef bint _room_for(checks_t *checks, uint32_t index) noexcept nogil:
    cdef uint32_t room = index * 2 + 16
    cdef check_t **places = <check_t **>realloc(checks.places, room * sizeof(check_t *))
    if places == NULL:
        return False
    memset(places + checks.room, 0, (room - checks.room) * sizeof(check_t *))
    checks.places, checks.room = places, room
    return True


cdef void _check_end(worker_t *w, check_t *check) noexcept nogil:
    """Nothing speaks against its backend any more."""
    cdef checks_t *checks = _checks_of(w)
    timer_clear(&w.timers, &check.timer)
    _hang_up(check)
    sys.compare_exchange_uint(&check.backend.standing, STANDING_FAILING, STANDING_GOOD)
    checks.places[check.index] = NULL
    checks.count -= 1
    free(check)


cdef void checks_end(worker_t *w) noexcept nogil:
    """The end of a worker: everything is given back."""
    cdef checks_t *checks = _checks_of(w)
    cdef uint32_t i
    for i in range(checks.room):
        if checks.places[i] != NULL:
            _check_end(w, checks.places[i])
    free(checks.places)
    memset(checks, 0, sizeof(checks_t))


# -- One look

cdef void check_timer(worker_t *w, timer_t *timer) noexcept nogil:
    """It is time to look, or time is up."""
    cdef check_t *check = <check_t *>timer
    if check.fd >= 0:
        _result(w, check, False)
    elif check.due > w.now:  # further away than the wheel reaches
        timer_set(&w.timers, &check.timer, w.now, check.due - w.now)
    else:
        _look(w, check)


cdef void _look(worker_t *w, check_t *check) noexcept nogil:
    cdef sys.epoll_event event
    cdef int off = 0
    check.fd = reach_socket(w, check.backend, sys.SOCK_STREAM)
    if check.fd < 0:
        _later(w, check)  # this machine's fault says nothing about the backend
        return
    # Then a success is told by the backend's SYN-ACK, and our own ACK waits until the RST makes it needless.
    sys.setsockopt(check.fd, sys.IPPROTO_TCP, sys.TCP_QUICKACK, &off, sizeof(off))
    if sys.connect(check.fd, &check.backend.address.any, check.backend.address_size) == 0:
        _result(w, check, True)
        return
    if sys.errno != sys.EINPROGRESS:
        _refused(w, check, sys.errno)
        return
    event.events = sys.EPOLLOUT
    event.data.u64 = event_data(check.generation, check.index, KIND_CHECK)
    if sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, check.fd, &event) == 0:
        timer_set(&w.timers, &check.timer, w.now, check.timeout)
    else:
        _later(w, check)


cdef void check_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil:
    cdef checks_t *checks = _checks_of(w)
    cdef uint32_t index = <uint32_t>data >> 3
    cdef check_t *check = checks.places[index] if index < checks.room else NULL
    cdef int error = 0
    cdef sys.socklen_t size = sizeof(error)
    if check == NULL or check.fd < 0 or check.generation != <uint32_t>(data >> 32):
        return
    sys.getsockopt(check.fd, sys.SOL_SOCKET, sys.SO_ERROR, &error, &size)
    if error:
        _refused(w, check, error)
    else:
        _result(w, check, True)


cdef void _refused(worker_t *w, check_t *check, int error) noexcept nogil:
    if error == sys.EADDRNOTAVAIL or error == sys.EPERM or error == sys.EAGAIN:
        _later(w, check)
    else:
        _result(w, check, False)


cdef void _result(worker_t *w, check_t *check, bint good) noexcept nogil:
    """Counts what speaks against the backend's standing; enough of it in a row changes that."""
    cdef uint32_t *standing = &check.backend.standing
    cdef bint failing = sys.load_relaxed_uint(standing) == STANDING_FAILING
    check.streak = check.streak + 1 if good == failing else 0
    if failing and check.streak >= check.rise:
        sys.store_relaxed_uint(&check.backend.failures, 0)
        sys.store_relaxed_uint(standing, STANDING_GOOD)
        check.streak = 0
    elif not failing and check.streak >= check.fall:
        sys.store_relaxed_uint(standing, STANDING_FAILING)
        check.streak = 0
    _later(w, check)


cdef void _later(worker_t *w, check_t *check) noexcept nogil:
    """The next look: the interval, a tenth more or less, so that the looks of many spread."""
    cdef uint64_t delay = check.interval - check.interval // 10 + random_below(&w.random, check.interval // 5 + 1)
    _hang_up(check)
    check.due = w.now + delay
    timer_set(&w.timers, &check.timer, w.now, delay)


cdef void _hang_up(check_t *check) noexcept nogil:
    if check.fd < 0:
        return
    sys.reset_on_close(check.fd)
    sys.close(check.fd)
    check.fd = -1
    check.generation += 1
