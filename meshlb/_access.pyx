"""Who may come in: addresses, networks, and how many connections of one source.

Every address has 16 bytes here; IPv4 is ::ffff:a.b.c.d.

The rate is kept by the generic cell rate algorithm: of every source one number is kept, the time at which its bucket
would be full again. All workers share a table of fixed size; a source hashes to a set of four places. When all four
are taken by others, the one whose bucket is fullest is forgotten: a flood of more sources than the table holds lets
single ones pass faster than their rate, and never costs more memory.

How many flows a source has at once is kept in a count-min sketch, again of fixed size for all sources: a source is
never taken to have fewer than it has, and only where others share all its places to have more.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

import os

from meshlb cimport _linux as sys
from meshlb._types cimport address_t, network_t, networks_t, port_t, route_t

cdef enum:
    SETS = 1024
    WAYS = 4
    UNIT = 16  # microseconds; a bucket's time has 32 bits of it, which is nineteen hours
    ROWS = 4
    COLUMNS = 4096
    MOST = 1 << 30  # units that a burst may be ahead of its rate: five hours

cdef uint8_t[12] IPV4 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]  # what every IPv4 address begins with here
cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")  # so that nobody can aim at a set


cdef void address16(const address_t *address, uint8_t *out) noexcept nogil:
    """The address alone, without its port."""
    if address.any.sa_family == sys.AF_INET:
        memset(out, 0, 10)
        out[10] = out[11] = 0xff
        memcpy(out + 12, &address.v4.sin_addr, 4)
    else:
        memcpy(out, &address.v6.sin6_addr, 16)


cdef bint _within(const network_t *network, const uint8_t *address) noexcept nogil:
    cdef uint32_t whole = network.prefix // 8
    cdef uint32_t bits = network.prefix % 8
    if memcmp(network.address, address, whole) != 0:
        return False
    return bits == 0 or (network.address[whole] ^ address[whole]) >> (8 - bits) == 0


cdef bint _is_ipv4(const uint8_t *address) noexcept nogil:
    return memcmp(address, IPV4, 12) == 0


cdef bint networks_contain(const networks_t *networks, const uint8_t *address) noexcept nogil:
    """A network that is wider than all of IPv4 is one of IPv6 alone: ::/0 says nothing about a.b.c.d."""
    cdef uint32_t least = 96 if networks.count and _is_ipv4(address) else 0
    cdef uint32_t i
    for i in range(networks.count):
        if networks.items[i].prefix >= least and _within(&networks.items[i], address):
            return True
    return False


cdef bint admitted(const route_t *route, const uint8_t *address) noexcept nogil:
    """`deny` first, then `allow`; an empty `allow` is everybody."""
    if route.deny.count and networks_contain(&route.deny, address):
        return False
    return route.allow.count == 0 or networks_contain(&route.allow, address)


cdef int networks_fill(networks_t *networks, bytes packed) except -1:
    """From 17 bytes for each network: its address and the length of its prefix."""
    cdef const uint8_t *data = packed
    cdef uint32_t i
    networks.count = len(packed) // 17
    if networks.count == 0:
        return 0
    networks.items = <network_t *>calloc(networks.count, sizeof(network_t))
    if networks.items == NULL:
        raise MemoryError
    for i in range(networks.count):
        memcpy(networks.items[i].address, data + 17 * i, 16)
        networks.items[i].prefix = data[17 * i + 16]
    return 0


cdef int rate_prepare(port_t *port) except -1:
    """Gives a port the memory that a rate needs; it keeps it."""
    if port.sources == NULL:
        port.sources = <uint64_t *>calloc(SETS * WAYS, sizeof(uint64_t))
        if port.sources == NULL:
            raise MemoryError
    return 0


cdef int flows_prepare(port_t *port) except -1:
    """Gives a port the memory that a limit of flows needs; it keeps it."""
    if port.flows == NULL:
        port.flows = <uint32_t *>calloc(ROWS * COLUMNS, sizeof(uint32_t))
        if port.flows == NULL:
            raise MemoryError
    return 0


cdef uint32_t flows_of(port_t *port, const uint8_t *address) noexcept nogil:
    """How many flows a source has, of all workers; 0 where nobody has asked for a limit."""
    cdef uint64_t hashed = _source_hash(address)
    cdef uint32_t least = 0xffffffff
    cdef uint32_t found
    cdef int row
    if port.flows == NULL:
        return 0
    for row in range(ROWS):
        found = sys.load_relaxed_uint(&port.flows[row * COLUMNS + (hashed >> (16 * row)) % COLUMNS])
        least = found if found < least else least
    return least


cdef bint flows_add(port_t *port, const uint8_t *address, int32_t by) noexcept nogil:
    """Counts flows of a source, or takes them back; False where they are not counted."""
    cdef uint64_t hashed = _source_hash(address)
    cdef int row
    if port.flows == NULL:
        return False
    for row in range(ROWS):
        sys.fetch_add(&port.flows[row * COLUMNS + (hashed >> (16 * row)) % COLUMNS], <uint32_t>by)
    return True


cdef uint64_t _mixed(uint64_t value) noexcept nogil:
    """The finaliser of splitmix64."""
    value = (value ^ (value >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    value = (value ^ (value >> 27)) * <uint64_t>0x94d049bb133111eb
    return value ^ (value >> 31)


cdef uint64_t _source_hash(const uint8_t *address) noexcept nogil:
    """Of an IPv4 address, or of an IPv6 one's /64, which is what one customer has."""
    cdef uint64_t high, low
    memcpy(&high, address, 8)
    memcpy(&low, address + 8, 8)
    return _mixed(_mixed(SEED ^ high) ^ (low if high == 0 else 0))


cdef bint rate_allows(port_t *port, const route_t *route, const uint8_t *address, uint64_t now_us) noexcept nogil:
    """Whether one more connection of this source keeps to the rate; then it is counted."""
    cdef uint64_t hashed = _source_hash(address)
    cdef uint64_t *places = &port.sources[(hashed % SETS) * WAYS]
    cdef uint32_t tag = <uint32_t>(hashed >> 32) | 1
    cdef uint32_t now = <uint32_t>(now_us // UNIT)
    cdef uint32_t interval = route.rate_interval // UNIT + 1
    cdef uint64_t burst = <uint64_t>interval * (route.rate_burst - 1)
    cdef uint32_t room = <uint32_t>burst if burst < MOST else MOST
    cdef uint64_t before
    cdef uint32_t full_at
    cdef int place
    for _ in range(64):  # a failed exchange means that another worker has just counted one
        place = _place_of(places, tag, now)
        before = sys.load_relaxed(&places[place])
        full_at = <uint32_t>before
        # What lies further ahead than any source can get is a time long past: the clock has wrapped since.
        if <uint32_t>(before >> 32) != tag or full_at - now > room + interval:
            full_at = now
        if full_at - now > room:
            return False
        if sys.compare_exchange(&places[place], before, (<uint64_t>tag << 32) | <uint32_t>(full_at + interval)):
            return True
    return False


cdef int _place_of(uint64_t *places, uint32_t tag, uint32_t now) noexcept nogil:
    """Where this source is kept, or the place of the one that is the least worth keeping."""
    cdef int best = 0
    cdef int32_t least = 0x7fffffff
    cdef int32_t missing
    cdef uint64_t value
    cdef int i
    for i in range(WAYS):
        value = sys.load_relaxed(&places[i])
        if <uint32_t>(value >> 32) == tag:
            return i
        missing = <int32_t>(<uint32_t>value - now) if value else -0x7fffffff
        if missing < least:
            best, least = i, missing
    return best


def contains(bytes networks, bytes address) -> bool:
    cdef networks_t list_
    memset(&list_, 0, sizeof(list_))
    networks_fill(&list_, networks)
    try:
        return networks_contain(&list_, address)
    finally:
        free(list_.items)


cdef class RateLimit:
    """A rate of its own, as a port has one. `_access.pyi` says how to use it."""

    cdef port_t port
    cdef route_t route

    def __cinit__(self, uint32_t interval_us, uint32_t burst):
        self.route.rate_interval, self.route.rate_burst = interval_us, burst
        rate_prepare(&self.port)

    def __dealloc__(self):
        free(self.port.sources)

    def allows(self, bytes address, uint64_t now_us) -> bool:
        cdef const uint8_t *data = address
        cdef bint allowed
        with nogil:
            allowed = rate_allows(&self.port, &self.route, data, now_us)
        return allowed
