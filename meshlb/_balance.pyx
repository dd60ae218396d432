"""Which backend gets the next connection: balancers, and what keeps connections away from backends that fail.

A balancer is one function: of a tier's backends it names the candidate for a turn. Whether the candidate may be taken
(not tried before, not set aside, has room) is `choose_and_take`'s to say; it asks for further turns until one may.
When none may, because all of them fail, they are taken all the same: a guess about health never closes a port.

A backend that fails FAILURES times in a row is set aside. When its pause is over, single connections probe it: the
one that moves `probe_at` on is the probe. Every further failure doubles the pause. A connection probes with its first
attempt alone: however many backends fail, it tries one of them in vain at most.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from array import array
from math import gcd

from meshlb cimport _linux as sys
from meshlb._tried cimport tried_has, tried_t
from meshlb._types cimport (
    STANDING_ASIDE, STANDING_GOOD, TIERS, backend_t, balancer_t, choice_t, port_t, route_t, tier_t,
)

cdef enum:
    FAILURES = 3  # in a row set a backend aside
    SHORTEST_PAUSE = 250  # milliseconds
    LONGEST_PAUSE = 8000
    LEAST_SHARE = 16  # one in so many of its turns is what slow start begins with

BALANCERS = ("roundrobin", "leastconn", "p2c", "random", "source")
LONGEST_MAGLEV = 65521
# Primes; a hundred places for each backend keep shares within 1 %.
MAGLEV_SIZES = (251, 1021, 4093, 16381, LONGEST_MAGLEV)
LONGEST_SCHEDULE = 65535


cdef uint64_t _mixed(uint64_t value) noexcept nogil:
    """The finaliser of splitmix64."""
    value = (value ^ (value >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    value = (value ^ (value >> 27)) * <uint64_t>0x94d049bb133111eb
    return value ^ (value >> 31)


cdef uint64_t _random(uint64_t *state) noexcept nogil:
    """splitmix64."""
    state[0] += <uint64_t>0x9e3779b97f4a7c15
    return _mixed(state[0])


cdef uint32_t random_below(uint64_t *state, uint32_t limit) noexcept nogil:
    return <uint32_t>(((_random(state) >> 32) * limit) >> 32)


cdef uint32_t source_hash(const uint8_t *address, uint8_t bits4, uint8_t bits6) noexcept nogil:
    """Of the first bits of a client's 16 bytes of address, IPv4 as ::ffff:a.b.c.d; the same on every machine."""
    cdef uint64_t high = 0
    cdef uint64_t low = 0
    cdef uint32_t bits = bits6
    cdef int i
    for i in range(8):
        high = high << 8 | address[i]
        low = low << 8 | address[8 + i]
    if high == 0 and low >> 32 == 0xffff:
        bits = 96 + bits4
    if bits < 64:
        high = high >> (64 - bits) if bits else 0
    low = low >> (128 - bits) if 64 < bits else 0
    return <uint32_t>(_mixed(_mixed(high + 1) ^ low) >> 32)


cdef uint32_t backend_key(const uint8_t *address, uint16_t port) noexcept nogil:
    """The same on every node, so that all nodes send a client to the same task."""
    return <uint32_t>(_mixed(<uint64_t>source_hash(address, 32, 128) << 16 | port) >> 32)


# -- Balancers: the candidate of a turn, an index into the tier's backends

cdef uint32_t _slot(const tier_t *tier, uint32_t number) noexcept nogil:
    return tier.schedule[number % tier.slots] if tier.slots else number % tier.count


cdef uint32_t _any(const tier_t *tier, choice_t *choice) noexcept nogil:
    return _slot(tier, random_below(choice.random, tier.slots if tier.slots else tier.count))


cdef uint32_t _roundrobin(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil:
    return _slot(tier, sys.fetch_add(&port.ticket, 1))


cdef bint _less_loaded(const tier_t *tier, uint32_t one, uint32_t other) noexcept nogil:
    """Whether the one has fewer connections for its weight."""
    cdef uint64_t of_one = sys.load_relaxed_uint(&tier.backends[one].active)
    cdef uint64_t of_other = sys.load_relaxed_uint(&tier.backends[other].active)
    return of_one * tier.weights[other] < of_other * tier.weights[one]


cdef uint32_t _leastconn(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil:
    """The least loaded of those that may be taken, after one that may be back; equal ones have their turns."""
    cdef uint32_t first = sys.fetch_add(&port.ticket, 1) % tier.count
    cdef uint32_t best = tier.count
    cdef uint32_t i, index
    if turn > 1 or (turn and not choice.probing):  # the best cannot be taken: comparing again would find no other
        return (first + turn) % tier.count
    for i in range(tier.count):
        index = (first + i) % tier.count
        if _unfit(tier.backends[index]):
            if turn == 0 and choice.probing and _may_be_back(tier.backends[index], choice.now):
                return index  # else it would not be tried for as long as another is fit
        elif best == tier.count or _less_loaded(tier, index, best):
            best = index
    return best if best < tier.count else first


cdef uint32_t _p2c(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil:
    """The less loaded of two."""
    cdef uint32_t one = _any(tier, choice)
    cdef uint32_t other = _any(tier, choice)
    cdef int tries = 8
    while other == one and tries and tier.count > 1:
        other = _any(tier, choice)
        tries -= 1
    return other if _less_loaded(tier, other, one) else one


cdef uint32_t _at_random(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil:
    return _any(tier, choice)


cdef uint32_t _source(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil:
    """The same client, the same backend; the clients of one that may not be taken spread over the others."""
    return _slot(tier, choice.source if turn == 0 else <uint32_t>_mixed(<uint64_t>choice.source << 32 | turn))


cdef balancer_t balancer_numbered(int number):
    """By its index in BALANCERS."""
    cdef balancer_t[5] balancers = [_roundrobin, _leastconn, _p2c, _at_random, _source]
    return balancers[number]


# -- The choice

cdef inline bint _unfit(const backend_t *backend) noexcept nogil:
    return sys.load_relaxed_uint(<uint32_t *>&backend.standing) != STANDING_GOOD


cdef bint _warm(const backend_t *backend, const route_t *route, choice_t *choice) noexcept nogil:
    """Whether a backend in its slow start takes this turn: the older, the likelier."""
    cdef uint64_t age = choice.now - backend.since if choice.now > backend.since else 0
    cdef uint32_t least = route.slow_start // LEAST_SHARE
    if age >= route.slow_start:
        return True
    return random_below(choice.random, route.slow_start) < (age if age > least else least)


cdef bint _may_be_back(backend_t *backend, uint64_t now) noexcept nogil:
    """Whether it was set aside, and its pause is over."""
    if sys.load_relaxed_uint(&backend.standing) != STANDING_ASIDE or _has_drained(backend, now):
        return False
    return sys.load_relaxed(&backend.probe_at) <= now


cdef bint _probes(backend_t *backend, uint64_t now) noexcept nogil:
    """Whether this connection is the one that looks whether a backend that was set aside is back."""
    cdef uint64_t probe_at = sys.load_relaxed(&backend.probe_at)
    return _may_be_back(backend, now) and sys.compare_exchange(&backend.probe_at, probe_at, now + _pause(backend))


cdef inline bint _has_drained(backend_t *backend, uint64_t now) noexcept nogil:
    cdef uint64_t drain_until = sys.load_relaxed(&backend.drain_until)
    return drain_until != 0 and drain_until <= now


cdef bint some_are_full(route_t *route, const tried_t *tried, uint64_t now, bint spent) noexcept nogil:
    """Where there is no backend for a connection: whether one would take it, had it room.

    As long as its attempts are not `spent`, all that it has not tried were full, though one may have room by now.
    """
    cdef backend_t *backend
    cdef uint32_t base = 0
    cdef uint32_t i
    cdef int number
    if route.max_conn_backend == 0:
        return False
    for number in range(TIERS):
        for i in range(route.tiers[number].count):
            backend = route.tiers[number].backends[i]
            if tried_has(tried, base + i) or _has_drained(backend, now):
                continue
            if not spent or sys.load_relaxed_uint(&backend.active) >= route.max_conn_backend:
                return True
        base += route.tiers[number].count
    return False


cdef bint _open_to(const route_t *route, backend_t *backend, choice_t *choice, uint32_t position) noexcept nogil:
    """Whether it could take the connection at all."""
    if tried_has(choice.tried, position) or _has_drained(backend, choice.now):
        return False
    return route.max_conn_backend == 0 or sys.load_relaxed_uint(&backend.active) < route.max_conn_backend


cdef bint _usable(const route_t *route, backend_t *backend, choice_t *choice) noexcept nogil:
    """Whether it is likely to serve it."""
    if _unfit(backend):
        return choice.probing and _probes(backend, choice.now)
    return route.slow_start == 0 or _warm(backend, route, choice)


cdef backend_t *choose_and_take(route_t *route, port_t *port, choice_t *choice) noexcept nogil:
    """The backend for the next attempt, with the connection counted as its; NULL when none can take it."""
    cdef backend_t *backend = _choose(route, port, choice)
    while backend != NULL and not _take(backend, route):
        backend = _choose(route, port, choice)  # another worker was faster
    return backend


cdef bint _take(backend_t *backend, const route_t *route) noexcept nogil:
    """Counts one more connection of the backend, within its limit."""
    if sys.fetch_add(&backend.active, 1) < route.max_conn_backend or route.max_conn_backend == 0:
        return True
    sys.fetch_add(&backend.active, <uint32_t>-1)
    return False


cdef backend_t *_choose(route_t *route, port_t *port, choice_t *choice) noexcept nogil:
    """The backend for the next attempt, its place in `choice.position`; NULL when none can take the connection."""
    cdef backend_t *backend
    cdef uint32_t base = 0
    cdef int i
    for i in range(TIERS):
        if route.tiers[i].count:
            backend = _of_tier(route, &route.tiers[i], port, choice, base)
            if backend != NULL:
                return backend
            base += route.tiers[i].count
    return _of_all(route, port, choice)


cdef backend_t *_of_tier(
    route_t *route, tier_t *tier, port_t *port, choice_t *choice, uint32_t base
) noexcept nogil:
    """One of the tier that is usable: the balancer's candidates first, then whoever stands next."""
    cdef uint32_t turn = 0
    cdef uint32_t index = 0
    while turn < 2 * tier.count:
        index = route.balance(tier, port, choice, turn)
        if _open_to(route, tier.backends[index], choice, base + index):
            if _usable(route, tier.backends[index], choice):
                choice.position = base + index
                return tier.backends[index]
        turn += 1
    for _ in range(tier.count):
        index = (index + 1) % tier.count
        if _open_to(route, tier.backends[index], choice, base + index) and not _unfit(tier.backends[index]):
            choice.position = base + index
            return tier.backends[index]
    return NULL


cdef backend_t *_of_all(route_t *route, port_t *port, choice_t *choice) noexcept nogil:
    """None is usable: one that fails is better than none."""
    cdef tier_t *tier
    cdef uint32_t base = 0
    cdef uint32_t first, i, index
    cdef int number
    for number in range(TIERS):
        tier = &route.tiers[number]
        first = route.balance(tier, port, choice, 0) if tier.count else 0
        for i in range(tier.count):
            index = (first + i) % tier.count
            if _open_to(route, tier.backends[index], choice, base + index):
                choice.position = base + index
                return tier.backends[index]
        base += tier.count
    return NULL


# -- Health, as connections see it

cdef uint64_t _pause(backend_t *backend) noexcept nogil:
    """Milliseconds until the next probe."""
    cdef uint32_t failures = sys.load_relaxed_uint(&backend.failures)
    cdef uint32_t doublings = failures - FAILURES if failures > FAILURES else 0
    return LONGEST_PAUSE if doublings >= 5 else SHORTEST_PAUSE << doublings


cdef void backend_failed(backend_t *backend, uint64_t now, uint64_t *random) noexcept nogil:
    """It refused a connection, or did not answer."""
    cdef uint64_t pause
    sys.store_relaxed(&backend.failed_at, now)
    if sys.fetch_add(&backend.failures, 1) + 1 < FAILURES:
        return
    pause = _pause(backend)
    sys.store_relaxed(&backend.probe_at, now + pause - pause // 10 + random_below(random, <uint32_t>pause // 5))
    sys.compare_exchange_uint(&backend.standing, STANDING_GOOD, STANDING_ASIDE)


cdef void backend_succeeded(backend_t *backend) noexcept nogil:
    """It took a connection."""
    if sys.load_relaxed_uint(&backend.failures) == 0:
        return
    sys.store_relaxed_uint(&backend.failures, 0)
    sys.compare_exchange_uint(&backend.standing, STANDING_ASIDE, STANDING_GOOD)


cdef void backend_lasted(backend_t *backend, uint64_t since) noexcept nogil:
    """Nothing is known against it from one that has used it since then; what has failed later counts."""
    if since > sys.load_relaxed(&backend.failed_at):
        backend_succeeded(backend)


# -- Schedules, made by the control thread

cdef int tier_fill(tier_t *tier, int balancer) except -1:
    """Makes the schedule that the balancer wants of a tier whose backends and weights are set."""
    weights = [tier.weights[i] for i in range(tier.count)]
    if not weights:
        return 0
    if BALANCERS[balancer] == "source":
        slots = maglev([tier.backends[i].key for i in range(tier.count)], weights)
    elif len(set(weights)) == 1:
        return 0
    else:
        slots = schedule(weights)
    cdef uint32_t i
    tier.schedule = <uint16_t *>malloc(len(slots) * sizeof(uint16_t))
    if tier.schedule == NULL:
        raise MemoryError
    tier.slots = len(slots)
    for i in range(tier.slots):
        tier.schedule[i] = slots[i]
    return 0


def schedule(weights):
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    while sum(shares) > LONGEST_SCHEDULE:
        shares = [(share + 1) // 2 for share in shares]
    total, current, turns = sum(shares), [0] * len(shares), array("H")
    for _ in range(total):
        current = [value + share for value, share in zip(current, shares)]
        best = max(range(len(current)), key=current.__getitem__)
        current[best] -= total
        turns.append(best)
    return turns


def maglev(keys, weights):
    size = next((size for size in MAGLEV_SIZES if size >= 100 * len(keys)), LONGEST_MAGLEV)
    # By key, so that the order in which a node learnt of them does not matter.
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    return _maglev(order, keys, weights, size)


cdef _maglev(list order, keys, weights, uint32_t size):
    """Eisenbud et al., Maglev (NSDI 2016), section 3.4: each fills its next free place, as often as its weight says."""
    cdef uint32_t count = len(order)
    cdef uint32_t *state = <uint32_t *>calloc(4 * count, sizeof(uint32_t))
    cdef uint16_t *table = <uint16_t *>malloc(size * sizeof(uint16_t))
    cdef uint32_t i
    if state == NULL or table == NULL:
        free(state)
        free(table)
        raise MemoryError
    heaviest = max(weights)
    for i in range(count):
        state[4 * i] = <uint32_t>(_mixed(<uint64_t>(keys[order[i]]) + 1) % size)
        state[4 * i + 1] = <uint32_t>(_mixed(<uint64_t>(keys[order[i]]) + (<uint64_t>1 << 40)) % (size - 1)) + 1
        state[4 * i + 2] = <uint32_t>(<uint64_t>weights[order[i]] * 65536 // heaviest)
    _maglev_fill(table, size, state, count)
    places = array("H", [order[table[i]] for i in range(size)])
    free(state)
    free(table)
    return places


cdef void _maglev_fill(uint16_t *table, uint32_t size, uint32_t *state, uint32_t count) noexcept nogil:
    """`state` has four numbers for each: its next place, its stride, its weight, what it has saved up."""
    cdef uint32_t filled = 0
    cdef uint32_t i
    cdef uint32_t *of
    memset(table, 0xff, size * sizeof(uint16_t))
    while True:
        for i in range(count):
            of = &state[4 * i]
            of[3] += of[2]
            if of[3] < 65536:
                continue
            of[3] -= 65536
            while table[of[0]] != 0xffff:
                of[0] = (of[0] + of[1]) % size
            table[of[0]] = <uint16_t>i
            filled += 1
            if filled == size:
                return
