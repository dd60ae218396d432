"""Sockets that live where the backends can be reached: in the network namespace that the table names."""

from libc.stdint cimport uint32_t

from meshlb cimport _linux as sys
from meshlb._types cimport backend_t, worker_t


cdef bint reach_enter(worker_t *w) noexcept nogil:
    """Sockets that this thread makes from here on live where the backends can be reached."""
    if w.namespace_id == w.table.namespace_id:
        return True
    if sys.setns(w.table.namespace_fd, sys.CLONE_NEWNET) != 0:
        return False
    w.namespace_id = w.table.namespace_id
    return True


cdef int reach_socket(worker_t *w, const backend_t *backend, int kind) noexcept nogil:
    """A non-blocking socket of the backend's family; -1 with errno."""
    cdef int fd
    if not reach_enter(w):
        return -1
    fd = sys.socket(backend.address.any.sa_family, kind | sys.SOCK_NONBLOCK | sys.SOCK_CLOEXEC, 0)
    if fd < 0 or not reach_beyond(w, fd):
        return fd
    sys.close(fd)
    sys.errno = sys.EMFILE
    return -1


cdef bint reach_beyond(worker_t *w, int fd) noexcept nogil:
    """Whether a descriptor is one of the last, which are left to Python."""
    return <uint32_t>fd >= sys.load_relaxed_uint(&w.plane.fd_end)
