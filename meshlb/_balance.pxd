# Which backend gets the next connection: balancers, and what keeps connections away from backends that fail.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshlb._tried cimport tried_t
from meshlb._types cimport backend_t, balancer_t, choice_t, port_t, route_t, tier_t

cdef backend_t *choose_and_take(route_t *route, port_t *port, choice_t *choice) noexcept nogil
cdef bint some_are_full(route_t *route, const tried_t *tried, uint64_t now, bint spent) noexcept nogil
cdef balancer_t balancer_numbered(int number)
cdef int tier_fill(tier_t *tier, int balancer) except -1
cdef uint32_t source_hash(const uint8_t *address, uint8_t bits4, uint8_t bits6) noexcept nogil
cdef uint32_t backend_key(const uint8_t *address, uint16_t port) noexcept nogil
cdef void backend_failed(backend_t *backend, uint64_t now, uint64_t *random) noexcept nogil
cdef void backend_succeeded(backend_t *backend) noexcept nogil
cdef void backend_lasted(backend_t *backend, uint64_t since) noexcept nogil
cdef uint32_t random_below(uint64_t *state, uint32_t limit) noexcept nogil
