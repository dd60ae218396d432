# Accepting: a worker's listening TCP sockets.

from libc.stdint cimport uint32_t, uint64_t

from meshlb._types cimport port_t, worker_t

cdef void listener_open(worker_t *w, port_t *port, int fd) noexcept nogil
cdef void listeners_close(worker_t *w, port_t *port, bint drain) noexcept nogil
cdef void listeners_watch(worker_t *w) noexcept nogil
cdef void listener_event(worker_t *w, uint64_t data) noexcept nogil
cdef void listeners_settle(worker_t *w) noexcept nogil
cdef int listeners_wait(worker_t *w) noexcept nogil
