# What the loop calls of UDP.

from libc.stdint cimport uint32_t, uint64_t

from meshlb._timer cimport timer_t
from meshlb._types cimport port_t, worker_t

cdef void receiver_open(worker_t *w, port_t *port, int fd) noexcept nogil
cdef void receivers_close(worker_t *w, port_t *port) noexcept nogil
cdef void receivers_release(worker_t *w) noexcept nogil
cdef void receivers_bury(worker_t *w) noexcept nogil
cdef void receivers_watch(worker_t *w) noexcept nogil
cdef void receiver_event(worker_t *w, uint64_t data) noexcept nogil
cdef void flow_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil
cdef void flow_timer(worker_t *w, timer_t *timer) noexcept nogil
cdef void flows_sweep(worker_t *w) noexcept nogil
cdef void datagrams_end(worker_t *w) noexcept nogil
