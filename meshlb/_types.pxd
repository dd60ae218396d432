# The nouns that the data plane's modules share: ports, backends, routes, the table, the worker.
#
# Who writes what. A table and its routes are written once, by the control thread, before any worker sees them.
# Ports and backends outlive tables; what workers share of them is atomic and stands on a cache line of its own.
# Counters have one row per worker, written by it alone and summed by whoever reads. A worker is its thread's own,
# except for the fields said to be shared.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from meshlb cimport _linux as sys
from meshlb._timer cimport timer_wheels
from meshlb._tried cimport tried_t

cdef extern from *:
    """
    /* Bytes of the one hot buffer that all reads of a worker share: it should stay in the second-level cache. */
    #define SCRATCH (sizeof(void *) == 8 ? 65536 : 32768)
    """
    const uint32_t SCRATCH

cdef enum:
    LINE = 64  # bytes of a cache line; what two threads write must not share one
    BUCKETS = 24  # of a histogram: bucket i counts what took up to 2 ** (i - 14) seconds, the last all others
    PER_MICROSECOND = 17179  # times 2 ** 20: so many 2 ** -14 seconds, rounded down by 1 in 20,000
    CALM = 1000  # milliseconds without being short of something after which that is another time
    WATCH_PAUSE = 50  # milliseconds until epoll is asked again
    TIERS = 2  # groups of a route's backends; the second is for when the first has none that is usable

cdef enum:  # what an epoll event or a timer points to: the low bits of event data, timer_t.kind
    KIND_CLIENT, KIND_BACKEND, KIND_LISTENER, KIND_INBOX, KIND_UDP_LISTENER, KIND_FLOW, KIND_CHECK

cdef enum:  # why a client was turned away: index into port_counters.refused
    REFUSED_NO_BACKEND  # none could be reached
    REFUSED_FULL  # max-conn, and no place in the queue, or too long in it
    REFUSED_RATE  # too many new connections of this source
    REFUSED_DENIED  # by allow or deny
    REFUSED_HEADER  # a PROXY header that is malformed, missing, late, or from who may not send one
    REFUSED_RESOURCES  # the kernel or the allocator has run out of something
    REFUSALS

cdef enum:  # backend_t.standing, what keeps new connections away from a backend
    STANDING_GOOD = 0
    STANDING_ASIDE = 1  # it failed several times in a row; single connections probe it now and then
    STANDING_FAILING = 2  # its active check fails

cdef struct histogram_t:
    uint64_t total  # microseconds of all samples
    uint64_t buckets[BUCKETS]  # 32 bits would be over after weeks, and look like a start from zero

cdef struct port_counters:  # one row per worker, written by it alone
    uint64_t accepted  # connections, or flows of UDP
    uint64_t closed
    uint64_t failovers  # attempts after the first
    uint64_t waited  # connections that had to wait for a backend, or for a place at one
    uint64_t received  # bytes from clients
    uint64_t sent  # bytes to clients
    uint64_t dropped  # datagrams that could not be passed on
    uint64_t masked  # attempts that showed a node's address though the client's own was wanted
    uint32_t chatty  # not a count: connections until clients are expected to wait for their answer again
    uint32_t chatty_next  # the same, when that expectation fails the next time
    uint64_t refused[REFUSALS]
    histogram_t connect
    histogram_t first_byte
    histogram_t duration

cdef struct backend_counters:  # one row per worker, written by it alone
    uint64_t chosen  # attempts begun
    uint64_t ended  # attempts failed and connections over: the others still refer to the backend
    uint64_t connected
    uint64_t failed
    uint64_t received
    uint64_t sent
    uint64_t sampled  # connections whose TCP_INFO was looked at
    uint64_t rtt  # microseconds, summed over the samples
    uint64_t retransmitted  # segments, summed over the samples
    histogram_t connect
    histogram_t first_byte
    histogram_t duration
    uint64_t unused[4]  # to a whole number of cache lines

cdef struct port_t:
    uint32_t ticket  # shared: whose turn is next
    uint32_t open  # shared: connections that are served or being connected, of all workers
    uint32_t waiting  # shared: connections that wait for a backend or for a place
    uint32_t freed  # shared: how often other workers were told of a place that has become free
    uint8_t unused[LINE - 16]
    uint32_t id
    uint16_t published  # the port number that clients speak to
    bint datagrams  # UDP
    int32_t listeners  # shared: not closed yet
    uint64_t retired  # the first generation without it; 0 while a table names it
    port_counters *counters  # per worker
    uint64_t *sources  # shared, atomic: the state of the rate limit, NULL until one is set (see _access)
    uint32_t *flows  # shared, atomic: a sketch of how many each source has, NULL until a limit is set (see _access)

cdef union address_t:
    sys.sockaddr any
    sys.sockaddr_in v4
    sys.sockaddr_in6 v6

cdef struct backend_t:
    uint32_t active  # shared: connections now, of all workers
    uint32_t late  # shared hint: 1 when the last connect was not established by the time it returned
    uint32_t standing  # shared: STANDING_*
    uint32_t failures  # shared: in a row
    uint64_t probe_at  # shared: milliseconds, when one connection may try it again
    uint64_t failed_at  # shared: milliseconds, of the last failure
    uint64_t drain_until  # shared: milliseconds, when its connections are reset; 0 is never
    int32_t dead  # shared: its connections are to be reset now
    int32_t prepared  # shared: its answers to clients' own addresses find their way back to this node
    uint8_t unused[LINE - 48]
    address_t address
    sys.socklen_t address_size
    uint32_t id
    uint32_t key  # a hash of its address and port, the same on every node
    uint64_t since  # milliseconds: when it was first served, for slow start
    uint64_t retired
    backend_counters *counters  # per worker

cdef struct network_t:  # a CIDR; IPv4 as ::ffff:0:0/96
    uint8_t address[16]
    uint8_t prefix

cdef struct networks_t:
    network_t *items
    uint32_t count

cdef struct tier_t:  # some of a route's backends, of which a balancer chooses one
    backend_t **backends
    uint16_t *weights
    uint32_t count
    uint32_t total  # sum of the weights
    uint16_t *schedule  # indices into `backends` in the order of their turns, or the maglev table
    uint32_t slots  # length of `schedule`; 0: every backend in its order

cdef struct route_t  # one port's part of a table

cdef struct choice_t:  # what a balancer may look at
    uint64_t now  # milliseconds
    uint64_t *random  # the worker's generator, see _balance.random_next
    const tried_t *tried  # in the table in use
    bint probing  # may look whether a backend that was set aside is back
    uint32_t source  # hash of the client's address, cut to the route's prefix
    uint32_t position  # out: where in the route the chosen one stands, tiers one after another

ctypedef uint32_t (*balancer_t)(const tier_t *tier, port_t *port, choice_t *choice, uint32_t turn) noexcept nogil

cdef struct route_t:
    bint used
    bint wants_source  # the client's address matters before a backend is chosen
    bint wants_peer  # it matters by then, or later: accepting tells it
    balancer_t balance
    tier_t tiers[TIERS]
    uint32_t count  # backends of all tiers
    # What follows is the policy. Times are milliseconds, and 0 switches a limit off.
    uint32_t connect_timeout
    uint32_t retries  # attempts after the first
    uint32_t hold
    uint32_t slow_start
    uint32_t idle_timeout
    uint32_t max_conn
    uint32_t max_conn_backend
    uint32_t queue  # connections that may wait, of all workers
    uint32_t queue_timeout
    uint32_t rate_interval  # microseconds between two new connections of one source
    uint32_t rate_burst  # connections that a source may open at once
    uint8_t proxy_protocol  # the version sent to backends; 0: none
    bint access_log  # its connections have records
    bint transparent  # backends that are prepared see the client's own address
    bint unmasked  # or there is no connection
    networks_t masked  # clients whose own address backends must not see
    uint8_t source_prefix4  # bits of a client's address that count for `source`
    uint8_t source_prefix6
    networks_t allow
    networks_t deny
    networks_t accept_proxy
    uint32_t check_interval
    uint32_t check_timeout
    uint16_t check_rise
    uint16_t check_fall
    uint32_t flow_timeout  # UDP
    uint32_t flows_per_source

cdef struct table_t:
    uint64_t generation
    uint64_t namespace_id  # 0 is the one that the process started in
    int namespace_fd  # owned
    bint checks  # some route wants active checks
    bint sweep  # some backend's connections are to end, now or at a time
    uint64_t idle_since  # the generation in which a port was last given a shorter idle_timeout
    uint32_t ports
    route_t *routes  # by port id
    table_t *next  # retired tables, newest first

cdef struct plane_t

cdef struct worker_t:
    int index
    int epoll
    int wake
    plane_t *plane
    table_t *table
    char *scratch  # SCRATCH bytes
    uint64_t namespace_id  # where this thread creates sockets
    uint64_t now  # milliseconds, looked at once per turn
    uint64_t now_us  # the same clock
    uint64_t random
    timer_wheels timers
    void *streams  # _stream.streams_t: its TCP connections
    void *datagrams  # _flow.datagrams_t: its UDP flows
    void *checks  # _check.checks_t: the active checks that it runs
    uint8_t unused[LINE]
    void *inbox  # shared
    uint64_t seen  # shared: the generation of the table in use
    void *records  # _record.records_t: ended connections for the access log; NULL until a port keeps one
    uint64_t watch_at  # milliseconds, when epoll is asked again to watch what it has refused to; 0: nothing
    uint64_t short_since  # read by anyone: milliseconds, when it began to be short of something
    uint64_t short_at  # read by anyone: milliseconds, when it was so last; 0: never
    uint32_t short_of  # read by anyone: errno of what it was short of
    uint64_t pipes_made  # read by anyone
    uint64_t pipes_closed
    uint64_t turns  # read by anyone: of the loop
    histogram_t turn  # read by anyone: how long some of them took, without the waiting

cdef struct plane_t:
    int workers
    worker_t *worker
    uint32_t fd_limit  # shared: from this descriptor on no client is accepted, so that backends have some
    uint32_t fd_end  # shared: from this descriptor on workers open nothing: the rest is Python's
    uint32_t flows  # shared: that there may be
    uint32_t pipes  # shared: that a worker may have
    int32_t stopping  # shared
    void *table  # shared


cdef inline uint64_t event_data(uint32_t generation, uint32_t index, uint32_t kind) noexcept nogil:
    """What an epoll event carries: a slot, and its generation, so that an event for a past holder is known as such."""
    return (<uint64_t>generation << 32) | (index << 3) | kind


cdef inline void histogram_add(histogram_t *of, uint64_t microseconds) noexcept nogil:
    cdef uint32_t bucket = 0
    cdef uint64_t rest = (microseconds * PER_MICROSECOND) >> 20
    if rest:
        bucket = 64 - sys.leading_zeros(rest)
        bucket = bucket if bucket < BUCKETS else BUCKETS - 1
    sys.bump(&of.total, microseconds)
    sys.bump(&of.buckets[bucket], 1)


cdef inline void tell_short(worker_t *w, int error) noexcept nogil:
    """For who asks how long this has been so: pauses that follow each other closely are one."""
    if w.now - w.short_at > CALM:
        sys.store_relaxed(&w.short_since, w.now)
    sys.store_relaxed_uint(&w.short_of, <uint32_t>error)
    sys.store_relaxed(&w.short_at, w.now)


cdef inline bint watch(worker_t *w, int fd, uint32_t events, uint64_t data) noexcept nogil:
    """Has epoll watch a socket that clients speak to; False where it does not take it, and is asked again."""
    cdef sys.epoll_event event
    event.events, event.data.u64 = events, data
    if sys.epoll_ctl(w.epoll, sys.EPOLL_CTL_ADD, fd, &event) == 0:
        return True
    w.watch_at = w.now + WATCH_PAUSE
    tell_short(w, sys.errno)
    return False


cdef inline route_t *route_of(worker_t *w, port_t *port) noexcept nogil:
    """The port's part of the table in use; NULL when it has left it."""
    if port.id < w.table.ports and w.table.routes[port.id].used:
        return &w.table.routes[port.id]
    return NULL
