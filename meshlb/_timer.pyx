"""Deadlines on two hashed wheels. `_timer.pxd` says what holds."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef void timers_start(timer_wheels *wheels, uint64_t now) noexcept nogil:
    wheels.tick, wheels.coarse_tick = now // TICK, now // COARSE_TICK


cdef void timer_set(timer_wheels *wheels, timer_t *timer, uint64_t now, uint64_t delay) noexcept nogil:
    """Fires in `delay` milliseconds, instead of when it was set to fire before."""
    timer_clear(wheels, timer)
    if delay <= TICK * (SLOTS - 2):
        timer.slot = <uint16_t>(((now + delay) // TICK + 1) % SLOTS)
        wheels.fine_count += 1
    else:
        delay = delay if delay <= COARSE_TICK * (SLOTS - 2) else COARSE_TICK * (SLOTS - 2)
        timer.slot = <uint16_t>(SLOTS + ((now + delay) // COARSE_TICK + 1) % SLOTS)
        wheels.coarse_count += 1
    _link(wheels, timer)


cdef void _link(timer_wheels *wheels, timer_t *timer) noexcept nogil:
    timer.is_set = True
    timer.previous = NULL
    timer.next = wheels.slots[timer.slot]
    if timer.next != NULL:
        timer.next.previous = timer
    wheels.slots[timer.slot] = timer


cdef void timer_clear(timer_wheels *wheels, timer_t *timer) noexcept nogil:
    if not timer.is_set:
        return
    if timer.next != NULL:
        timer.next.previous = timer.previous
    if timer.previous != NULL:
        timer.previous.next = timer.next
    else:
        wheels.slots[timer.slot] = timer.next
    timer.is_set = False
    if timer.slot < SLOTS:
        wheels.fine_count -= 1
    elif timer.slot < DUE:
        wheels.coarse_count -= 1


cdef void timers_advance(timer_wheels *wheels, uint64_t now) noexcept nogil:
    """Makes due what the clock has passed. Call it whenever `now` has changed, before any timer is set."""
    _advance(wheels, 0, &wheels.tick, now // TICK, wheels.fine_count)
    _advance(wheels, SLOTS, &wheels.coarse_tick, now // COARSE_TICK, wheels.coarse_count)


cdef void _advance(timer_wheels *wheels, uint32_t first, uint64_t *tick, uint64_t end, uint32_t count) noexcept nogil:
    cdef timer_t *timer
    if count and end - tick[0] > SLOTS:
        tick[0] = end - SLOTS
    while count and tick[0] < end:
        tick[0] += 1
        while wheels.slots[first + tick[0] % SLOTS] != NULL:
            timer = wheels.slots[first + tick[0] % SLOTS]
            timer_clear(wheels, timer)
            timer.slot = DUE
            _link(wheels, timer)
    tick[0] = end


cdef timer_t *timer_due(timer_wheels *wheels) noexcept nogil:
    """The next timer whose time has come, cleared; NULL when there is none. What it wakes may set and clear any."""
    cdef timer_t *timer = wheels.slots[DUE]
    if timer != NULL:
        timer_clear(wheels, timer)
    return timer


cdef int timers_wait(timer_wheels *wheels, uint64_t now) noexcept nogil:
    """Milliseconds until the next one is due; -1 when none is set."""
    if wheels.slots[DUE] != NULL:
        return 0
    cdef int fine = _wait(wheels, 0, wheels.tick, TICK, now) if wheels.fine_count else -1
    cdef int coarse = _wait(wheels, SLOTS, wheels.coarse_tick, COARSE_TICK, now) if wheels.coarse_count else -1
    if fine < 0 or (0 <= coarse < fine):
        return coarse
    return fine


cdef int _wait(timer_wheels *wheels, uint32_t first, uint64_t tick, uint32_t length, uint64_t now) noexcept nogil:
    cdef uint64_t due
    cdef uint32_t ahead
    for ahead in range(<uint32_t>SLOTS):
        if wheels.slots[first + (tick + ahead) % SLOTS] != NULL:
            due = (tick + ahead) * length
            return <int>(due - now) if due > now else 0
    return 0
