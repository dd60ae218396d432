"""A worker's loop, and what the control thread tells it.

Between the two threads there are two things only:

  table    control builds an immutable `table_t` and publishes it by one pointer store. A worker loads the
           pointer in every turn of its loop and says so in `seen`; a table that every worker has seen past is
           freed. Ports and backends outlive the tables that name them for as long as a connection refers to
           them (`chosen - ended`), so the turn of round robin and every counter survive a swap.
  inbox    control hands a worker commands (open this listener, close those) through a lock-free stack.

The clock is looked at once per turn.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from meshlb cimport _linux as sys
from meshlb._check cimport check_event, check_timer, checks_end, checks_free, checks_prepare, checks_sweep
from meshlb._connection cimport (
    conn_event, conn_timer, conns_bury, conns_end, conns_run_queues, conns_run_ready, conns_sweep,
    conns_woken,
)
from meshlb._datagram cimport (
    datagrams_end, flow_event, flow_timer, flows_sweep, receiver_event, receiver_open, receivers_bury, receivers_close,
    receivers_release, receivers_watch,
)
from meshlb._flow cimport datagrams_t
from meshlb._listener cimport (
    listener_event, listener_open, listeners_close, listeners_settle, listeners_wait, listeners_watch,
)
from meshlb._stream cimport streams_of, streams_t
from meshlb._timer cimport timer_due, timer_t, timers_advance, timers_start, timers_wait
from meshlb._types cimport (
    KIND_BACKEND, KIND_CHECK, KIND_CLIENT, KIND_FLOW, KIND_INBOX, KIND_LISTENER, KIND_UDP_LISTENER, LINE, SCRATCH,
    event_data, histogram_add, plane_t, port_t, table_t, worker_t,
)

cdef enum:
    EVENTS = 256  # taken from epoll at once
    TIMED = 64  # of so many turns one is timed: looking at the clock costs as much as a small turn's other work

cdef enum:  # command_t.kind
    LISTEN, UNLISTEN, RELEASE

ctypedef command_s command_t

cdef struct command_s:
    int kind
    int fd
    port_t *port  # UNLISTEN: NULL is all of them; RELEASE: always
    command_t *next


cdef void worker_serve(worker_t *w) noexcept nogil:
    """Serves until the plane stops."""
    cdef sys.epoll_event events[EVENTS]
    cdef int count, i
    _look_at_clock(w)
    timers_start(&w.timers, w.now)
    while not sys.load_acquire_int(&w.plane.stopping):
        count = sys.epoll_wait(w.epoll, events, EVENTS, _wait(w))
        _look_at_clock(w)
        timers_advance(&w.timers, w.now)
        _obey(w)
        _look_at_table(w)
        for i in range(count):
            _dispatch(w, events[i].data.u64, events[i].events)
        _finish_turn(w)
        _count_turn(w)
    _leave(w)


cdef void _finish_turn(worker_t *w) noexcept nogil:
    """What is due besides events: those with more to do, timers, those that wait."""
    cdef streams_t *streams = streams_of(w)
    cdef timer_t *timer = timer_due(&w.timers)
    conns_run_ready(w)
    while timer != NULL:
        _fire(w, timer)
        timer = timer_due(&w.timers)
    if streams.queues != NULL:
        conns_run_queues(w)
    listeners_settle(w)
    if w.watch_at and w.now >= w.watch_at:
        w.watch_at = 0
        listeners_watch(w)
        receivers_watch(w)
    conns_bury(w)
    receivers_bury(w)


cdef void _count_turn(worker_t *w) noexcept nogil:
    cdef uint64_t begun = w.now_us
    sys.bump(&w.turns, 1)
    if w.turns % TIMED == 0:
        _look_at_clock(w)
        histogram_add(&w.turn, w.now_us - begun)


cdef void _fire(worker_t *w, timer_t *timer) noexcept nogil:
    if timer.kind == KIND_CLIENT:
        conn_timer(w, timer)
    elif timer.kind == KIND_FLOW:
        flow_timer(w, timer)
    elif timer.kind == KIND_CHECK:
        check_timer(w, timer)
    # The queues' timer only had to wake us.


cdef void _dispatch(worker_t *w, uint64_t data, uint32_t events) noexcept nogil:
    cdef uint32_t kind = data & 7
    if kind == KIND_CLIENT or kind == KIND_BACKEND:
        conn_event(w, data, events)
    elif kind == KIND_LISTENER:
        listener_event(w, data)
    elif kind == KIND_FLOW:
        flow_event(w, data, events)
    elif kind == KIND_UDP_LISTENER:
        receiver_event(w, data)
    elif kind == KIND_CHECK:
        check_event(w, data, events)
    elif kind == KIND_INBOX:
        conns_woken(w)


cdef int _wait(worker_t *w) noexcept nogil:
    """Milliseconds that epoll may sleep; -1 for as long as it likes."""
    cdef int accepting = listeners_wait(w)
    cdef int timers
    if streams_of(w).ready != NULL:
        return 0
    timers = timers_wait(&w.timers, w.now)
    if timers < 0 or (0 <= accepting < timers):
        return accepting
    return timers


cdef void _look_at_clock(worker_t *w) noexcept nogil:
    cdef sys.timespec now
    cdef uint32_t nanoseconds  # 32-bit ARM divides these at once, and 64 bits by a function of hundreds of instructions
    sys.clock_gettime(sys.CLOCK_MONOTONIC, &now)
    nanoseconds = <uint32_t>now.tv_nsec
    w.now_us = <uint64_t>now.tv_sec * 1000000 + nanoseconds // 1000
    w.now = <uint64_t>now.tv_sec * 1000 + nanoseconds // 1000000


cdef void _look_at_table(worker_t *w) noexcept nogil:
    """From here to the next call this table is in use; every older one is not."""
    cdef table_t *table = <table_t *>sys.load_acquire_pointer(&w.plane.table)
    if table == w.table and table.generation == sys.load_relaxed(&w.seen):
        return
    w.table = table
    conns_sweep(w)
    flows_sweep(w)
    checks_sweep(w)
    sys.store_release(&w.seen, table.generation)


cdef void _leave(worker_t *w) noexcept nogil:
    """The end of a worker: what is still open is reset, and everything is given back."""
    _obey(w)
    listeners_close(w, NULL, False)
    conns_end(w)
    datagrams_end(w)
    checks_end(w)


# -- The inbox

cdef void _obey(worker_t *w) noexcept nogil:
    """Carries out the inbox's commands, oldest first."""
    cdef command_t *taken = NULL
    cdef command_t *ordered = NULL
    cdef command_t *command
    if sys.load_acquire_pointer(&w.inbox) != NULL:
        taken = <command_t *>sys.exchange_pointer(&w.inbox, NULL)
    while taken != NULL:
        command = taken
        taken = command.next
        command.next = ordered
        ordered = command
    while ordered != NULL:
        command = ordered
        ordered = command.next
        _carry_out(w, command)
        free(command)


cdef void _carry_out(worker_t *w, command_t *command) noexcept nogil:
    if command.kind == UNLISTEN:
        listeners_close(w, command.port, True)
        receivers_close(w, command.port)
    elif command.kind == RELEASE:
        listeners_close(w, NULL, False)
        receivers_release(w)
    elif command.port.datagrams:
        receiver_open(w, command.port, command.fd)
    else:
        listener_open(w, command.port, command.fd)


cdef bint worker_listen(worker_t *w, port_t *port, int fd) noexcept:
    """Has the worker own a socket of the port. False without memory. The caller wakes it."""
    return _send(w, LISTEN, port, fd)


cdef bint worker_unlisten(worker_t *w, port_t *port) noexcept:
    """Has the worker close the port's sockets, all with NULL. False without memory. The caller wakes it."""
    return _send(w, UNLISTEN, port, -1)


cdef bint worker_release(worker_t *w) noexcept:
    """Has the worker close its own descriptors of all sockets, whose queues are another process's now.

    False without memory. The caller wakes it.
    """
    return _send(w, RELEASE, NULL, -1)


cdef bint _send(worker_t *w, int kind, port_t *port, int fd) noexcept:
    cdef command_t *command = <command_t *>malloc(sizeof(command_t))
    if command == NULL:
        return False
    command.kind, command.port, command.fd = kind, port, fd
    # One thread sends, so nobody else pushes between these two; the worker only ever takes all.
    while True:
        command.next = <command_t *>sys.load_acquire_pointer(&w.inbox)
        if sys.compare_exchange_pointer(&w.inbox, command.next, command):
            return True


cdef void worker_wake(worker_t *w) noexcept nogil:
    """Has the worker take a turn."""
    cdef uint64_t one = 1
    sys.write(w.wake, &one, sizeof(one))


# -- Birth and death, on the control thread

cdef void *lines(size_t size) except NULL:
    """Zeroed memory that begins on a cache line."""
    cdef void *memory = NULL
    if posix_memalign(&memory, LINE, size) != 0:
        raise MemoryError
    memset(memory, 0, size)
    return memory


cdef int worker_start(plane_t *plane, worker_t *w, int index) except -1:
    """Makes a worker of zeroed memory; `worker_serve` in a thread of its own sets it to work."""
    cdef sys.epoll_event event
    w.index, w.plane, w.random = index, plane, index + 1
    w.epoll = sys.epoll_create1(sys.EPOLL_CLOEXEC)
    w.wake = sys.eventfd(0, sys.EFD_NONBLOCK | sys.EFD_CLOEXEC)
    w.scratch = <char *>lines(SCRATCH)
    w.streams = calloc(1, sizeof(streams_t))
    w.datagrams = calloc(1, sizeof(datagrams_t))
    checks_prepare(w)
    if w.streams == NULL or w.datagrams == NULL:
        raise MemoryError
    streams_of(w).until_sample = 1
    streams_of(w).queue_timer.kind = KIND_INBOX
    # Edge-triggered and never read: every write to it is an event of its own.
    event.events = sys.EPOLLIN | sys.EPOLLET
    event.data.u64 = event_data(0, 0, KIND_INBOX)
    if w.epoll < 0 or w.wake < 0 or sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, w.wake, &event) != 0:
        raise OSError(sys.errno, "epoll or eventfd")
    return 0


cdef void worker_free(worker_t *w) noexcept:
    """Gives back what `worker_start` took, and commands that no thread has taken."""
    cdef command_t *command = <command_t *>sys.exchange_pointer(&w.inbox, NULL)
    cdef command_t *following
    while command != NULL:
        following = command.next
        if command.kind != UNLISTEN:
            sys.close(command.fd)
        free(command)
        command = following
    if w.epoll >= 0:
        sys.close(w.epoll)
    if w.wake >= 0:
        sys.close(w.wake)
    free(w.scratch)
    free(w.streams)
    free(w.datagrams)
    free(w.records)
    checks_free(w)
