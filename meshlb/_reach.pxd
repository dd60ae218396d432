# Sockets that live where the backends can be reached.

from meshlb._types cimport backend_t, worker_t

cdef bint reach_enter(worker_t *w) noexcept nogil
cdef int reach_socket(worker_t *w, const backend_t *backend, int kind) noexcept nogil
cdef bint reach_beyond(worker_t *w, int fd) noexcept nogil
