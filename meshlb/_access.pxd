# Who may come in: addresses, networks, and how many connections of one source.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from meshlb._types cimport address_t, networks_t, port_t, route_t

cdef void address16(const address_t *address, uint8_t *out) noexcept nogil
cdef bint networks_contain(const networks_t *networks, const uint8_t *address) noexcept nogil
cdef bint admitted(const route_t *route, const uint8_t *address) noexcept nogil
cdef bint rate_allows(port_t *port, const route_t *route, const uint8_t *address, uint64_t now_us) noexcept nogil
cdef int rate_prepare(port_t *port) except -1
cdef uint32_t flows_of(port_t *port, const uint8_t *address) noexcept nogil
cdef bint flows_add(port_t *port, const uint8_t *address, int32_t by) noexcept nogil
cdef int flows_prepare(port_t *port) except -1
cdef int networks_fill(networks_t *networks, bytes packed) except -1
