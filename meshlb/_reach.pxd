# Sockets that live where the backends can be reached.

from libc.stdint cimport uint8_t, uint16_t

from meshlb._types cimport backend_t, route_t, worker_t

cdef bint reach_enter(worker_t *w) noexcept nogil
cdef bint reach_face(route_t *route, const uint8_t *address) noexcept nogil
cdef bint reach_as(int fd, const uint8_t *address, uint16_t port) noexcept nogil
cdef int reach_socket(worker_t *w, const backend_t *backend, int kind) noexcept nogil
cdef bint reach_beyond(worker_t *w, int fd) noexcept nogil
