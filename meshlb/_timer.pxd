# Deadlines on two hashed wheels: a fine one for attempts and waits, a coarse one for what takes long, so that a
# thousand idle connections wake a worker at most once a second. Whoever has no deadline costs nothing.
#
# A timer fires a little late, never early: by up to TICK on the fine wheel and up to COARSE_TICK on the coarse one.
# A deadline further away than the coarse wheel reaches fires at its reach; its owner looks at the clock and sets
# it again.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    TICK = 16  # milliseconds per slot
    COARSE_TICK = 1024
    SLOTS = 256  # per wheel
    DUE = 2 * SLOTS  # the list of those whose time has come

cdef struct timer_t:  # stands within what it wakes; zeroed memory is a timer that is not set
    timer_t *next
    timer_t *previous
    uint16_t slot
    uint8_t kind  # KIND_*: what it stands in
    bint is_set

cdef struct timer_wheels:
    uint64_t tick  # the slots up to this one are due or empty; in units of TICK
    uint64_t coarse_tick
    uint32_t fine_count
    uint32_t coarse_count
    timer_t *slots[2 * SLOTS + 1]  # the fine wheel's, the coarse one's, those that are due

cdef void timers_start(timer_wheels *wheels, uint64_t now) noexcept nogil
cdef void timer_set(timer_wheels *wheels, timer_t *timer, uint64_t now, uint64_t delay) noexcept nogil
cdef void timer_clear(timer_wheels *wheels, timer_t *timer) noexcept nogil
cdef void timers_advance(timer_wheels *wheels, uint64_t now) noexcept nogil
cdef timer_t *timer_due(timer_wheels *wheels) noexcept nogil
cdef int timers_wait(timer_wheels *wheels, uint64_t now) noexcept nogil
