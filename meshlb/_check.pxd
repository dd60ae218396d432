# What the loop calls of active checks.

from libc.stdint cimport uint32_t, uint64_t

from meshlb._timer cimport timer_t
from meshlb._types cimport worker_t

cdef int checks_prepare(worker_t *w) except -1
cdef void checks_free(worker_t *w) noexcept
cdef void checks_sweep(worker_t *w) noexcept nogil
cdef void check_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil
cdef void check_timer(worker_t *w, timer_t *timer) noexcept nogil
cdef void checks_end(worker_t *w) noexcept nogil
