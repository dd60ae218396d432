# The life of TCP connections, from the accepted socket to its end. See _stream.pxd for the states.

from libc.stdint cimport uint32_t, uint64_t

from meshlb._timer cimport timer_t
from meshlb._types cimport address_t, port_t, route_t, worker_t

cdef void conn_accepted(worker_t *w, port_t *port, int fd, const address_t *peer) noexcept nogil
cdef void conn_event(worker_t *w, uint64_t data, uint32_t events) noexcept nogil
cdef void conn_timer(worker_t *w, timer_t *timer) noexcept nogil
cdef void conns_run_ready(worker_t *w) noexcept nogil
cdef void conns_woken(worker_t *w) noexcept nogil
cdef void conns_run_queues(worker_t *w) noexcept nogil
cdef void conns_bury(worker_t *w) noexcept nogil
cdef void conns_sweep(worker_t *w) noexcept nogil
cdef void conns_end(worker_t *w) noexcept nogil
