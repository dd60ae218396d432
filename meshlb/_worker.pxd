# A worker: a thread that owns an epoll, its listeners and connections, and serves the table.

from meshlb._types cimport plane_t, port_t, worker_t

cdef int worker_start(plane_t *plane, worker_t *w, int index) except -1
cdef void worker_free(worker_t *w) noexcept
cdef void worker_serve(worker_t *w) noexcept nogil
cdef bint worker_listen(worker_t *w, port_t *port, int fd) noexcept
cdef bint worker_unlisten(worker_t *w, port_t *port) noexcept
cdef bint worker_release(worker_t *w) noexcept
cdef void worker_wake(worker_t *w) noexcept nogil
cdef void *lines(size_t size) except NULL
