"""Sockets that live where the backends can be reached: in the network namespace that the table names."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from meshlb cimport _linux as sys
from meshlb._access cimport networks_contain
from meshlb._types cimport address_t, backend_t, route_t, worker_t


cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]


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


cdef bint reach_face(route_t *route, const uint8_t *address) noexcept nogil:
    """Whether backends may see a client's own address (16 bytes): IPv4 alone, and not where it is theirs, too."""
    return memcmp(address, MAPPED, sizeof(MAPPED)) == 0 and not networks_contain(&route.masked, address)


cdef bint reach_as(int fd, const uint8_t *address, uint16_t port) noexcept nogil:
    """Gives a socket of IPv4 a client's address and port, or another port where that is taken. False with errno."""
    cdef address_t own
    cdef int on = 1
    memset(&own, 0, sizeof(own))
    own.v4.sin_family, own.v4.sin_port = sys.AF_INET, sys.htons(port)
    memcpy(&own.v4.sin_addr, address + 12, 4)
    if sys.setsockopt(fd, sys.IPPROTO_IP, sys.IP_TRANSPARENT, &on, sizeof(on)) != 0:
        return False
    if sys.bind(fd, &own.any, sizeof(own.v4)) == 0:
        return True
    if sys.errno != sys.EADDRINUSE:
        return False
    # The port is then chosen by connect(), of those that are free towards this backend.
    own.v4.sin_port = 0
    if sys.setsockopt(fd, sys.IPPROTO_IP, sys.IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) != 0:
        return False
    return sys.bind(fd, &own.any, sizeof(own.v4)) == 0


cdef bint reach_beyond(worker_t *w, int fd) noexcept nogil:
    """Whether a descriptor is one of the last, which are left to Python."""
    return <uint32_t>fd >= sys.load_relaxed_uint(&w.plane.fd_end)
