"""The Python surface of the data plane: called by one control thread, holding the GIL.

It owns ports, backends and tables; the workers (`_worker`) serve them. `docs/dataplane.md` describes the whole.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from meshlb cimport _linux as sys
from meshlb._access cimport address16, flows_prepare, networks_fill, rate_prepare
from meshlb._balance cimport backend_key, balancer_numbered, tier_fill
from meshlb._counts cimport backend_row_t, backend_sum, port_row_t, port_sum, worker_read, worker_row_t
from meshlb._record cimport record_t, records_count, records_t, records_take
from meshlb._types cimport (
    TIERS, backend_counters, backend_t, plane_t, port_counters, port_t, route_t, table_t, tier_t, worker_t,
)
from meshlb._worker cimport (
    lines, worker_free, worker_listen, worker_release, worker_serve, worker_start, worker_unlisten, worker_wake,
)

cdef enum:
    OVER = 1000  # milliseconds of accepting after which nothing is short any more
    MOST_WORKERS = 256
    LEARNT = 16  # connections of a port that show whether its clients wait for their answers


cdef class Forwarder:
    """The workers, what they serve, and what they count. `_fastpath.pyi` says how to use it."""

    cdef plane_t plane
    cdef list free_ports, free_backends  # ids to use again
    cdef port_t **ports  # by id
    cdef backend_t **backends
    cdef uint32_t port_room, backend_room
    cdef uint64_t generation
    cdef table_t *retired

    def __cinit__(self, int workers):
        cdef int i
        if not 1 <= workers <= MOST_WORKERS:
            raise ValueError(f"workers must be 1 to {MOST_WORKERS}")
        self.free_ports, self.free_backends = [], []
        self.share_out(0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff)
        self.plane.worker = <worker_t *>lines(workers * sizeof(worker_t))
        for i in range(workers):
            self.plane.worker[i].epoll = self.plane.worker[i].wake = -1
            self.plane.workers += 1
            worker_start(&self.plane, &self.plane.worker[i], i)
        self.publish((), -1, 0)
        for i in range(workers):  # so that a worker has a table from its first turn on
            self.plane.worker[i].table = <table_t *>self.plane.table

    def __dealloc__(self):
        cdef uint32_t i
        cdef table_t *table = <table_t *>self.plane.table
        if table != NULL:
            table.next = self.retired
            self.retired = table
        while self.retired != NULL:
            table = self.retired
            self.retired = table.next
            _table_free(table)
        for i in range(<uint32_t>self.plane.workers):
            worker_free(&self.plane.worker[i])
        for i in range(self.port_room):
            _port_free(self.ports[i])
        for i in range(self.backend_room):
            _backend_free(self.backends[i])
        free(self.ports)
        free(self.backends)
        free(self.plane.worker)

    def share_out(self, uint32_t clients, uint32_t end, uint32_t flows, uint32_t pipes):
        sys.store_relaxed_uint(&self.plane.fd_limit, clients)
        sys.store_relaxed_uint(&self.plane.fd_end, end)
        sys.store_relaxed_uint(&self.plane.flows, flows)
        sys.store_relaxed_uint(&self.plane.pipes, pipes)

    def shortage(self):
        cdef uint64_t now = _milliseconds()
        cdef uint64_t since, at
        cdef int i, error = 0
        cdef uint64_t longest = 0
        for i in range(self.plane.workers):
            at = sys.load_relaxed(&self.plane.worker[i].short_at)
            since = sys.load_relaxed(&self.plane.worker[i].short_since)
            if since <= at and now < at + OVER and at - since > longest:
                longest, error = at - since, <int>sys.load_relaxed_uint(&self.plane.worker[i].short_of)
        return longest, error

    def run(self, int worker):
        cdef worker_t *w = self._worker(worker)
        with nogil:
            worker_serve(w)

    def stop(self):
        sys.store_release_int(&self.plane.stopping, 1)
        self._wake()

    def add_port(self, uint16_t published, bint datagrams=False):
        cdef port_t *port
        cdef uint32_t id = self._free_port_id()
        port = <port_t *>lines(sizeof(port_t))
        self.ports[id] = port
        port.id, port.published, port.datagrams = id, published, datagrams
        port.counters = <port_counters *>lines(self.plane.workers * sizeof(port_counters))
        for i in range(self.plane.workers):
            port.counters[i].chatty = port.counters[i].chatty_next = LEARNT
        return id

    def add_backend(self, bytes address, int port):
        cdef backend_t *backend
        cdef uint32_t id
        if len(address) not in (4, 16):
            raise ValueError("an address has 4 or 16 bytes")
        id = self._free_backend_id()
        backend = <backend_t *>lines(sizeof(backend_t))
        self.backends[id] = backend
        backend.id = id
        backend.counters = <backend_counters *>lines(self.plane.workers * sizeof(backend_counters))
        backend.since = _milliseconds()
        _address_set(backend, address, len(address), port)
        return id

    def prepare_backend(self, uint32_t backend, bint prepared):
        sys.store_release_int(&self._backend(backend).prepared, prepared)

    def end_backend(self, uint32_t backend, after=None):
        cdef backend_t *of = self._backend(backend)
        if after is None:
            sys.store_relaxed(&of.drain_until, 0)
        elif after == 0:
            sys.store_release_int(&of.dead, 1)
        else:
            sys.store_relaxed(&of.drain_until, _milliseconds() + <uint64_t>after)

    def listen(self, int worker, uint32_t port, int fd):
        cdef worker_t *w = self._worker(worker)
        cdef port_t *of = self._port(port)
        sys.fetch_add_int(&of.listeners, 1)
        if not worker_listen(w, of, fd):
            sys.fetch_add_int(&of.listeners, -1)
            raise MemoryError
        self._wake()

    def close_listeners(self, port=None):
        cdef int i
        cdef port_t *of = NULL if port is None else self._port(port)
        for i in range(self.plane.workers):
            if not worker_unlisten(&self.plane.worker[i], of):
                raise MemoryError
        self._wake()

    def release_listeners(self):
        cdef int i
        for i in range(self.plane.workers):
            if not worker_release(&self.plane.worker[i]):
                raise MemoryError
        self._wake()

    def listening(self, uint32_t port):
        return sys.load_acquire_int(&self._port(port).listeners) != 0

    def publish(self, tuple routes, int namespace_fd, uint64_t namespace_id):
        cdef table_t *table = self._table(routes)
        cdef table_t *old = <table_t *>self.plane.table
        self.generation += 1
        table.generation = self.generation
        table.namespace_fd, table.namespace_id = namespace_fd, namespace_id
        table.idle_since = self.generation if _idle_sooner(old, table) else old.idle_since if old != NULL else 0
        sys.store_release_pointer(&self.plane.table, table)
        if old != NULL:
            old.next = self.retired
            self.retired = old
        self._wake()

    def retire_port(self, uint32_t port):
        self._port(port).retired = self.generation

    def retire_backend(self, uint32_t backend):
        self._backend(backend).retired = self.generation

    def reap(self):
        cdef uint64_t seen = self._seen()
        cdef uint32_t i
        cdef list ports = [], backends = []
        self._reap_tables(seen)
        for i in range(self.port_room):
            if self.ports[i] != NULL and self._port_over(self.ports[i], seen):
                ports.append((i, self.port_rows([i])))
                _port_free(self.ports[i])
                self.ports[i] = NULL
                self.free_ports.append(i)
        for i in range(self.backend_room):
            if self.backends[i] != NULL and self._backend_over(self.backends[i], seen):
                _backend_free(self.backends[i])
                self.backends[i] = NULL
                backends.append(i)
        self.free_backends += backends
        return ports, backends

    def port_rows(self, list ports):
        cdef bytearray rows = bytearray(len(ports) * sizeof(port_row_t))
        cdef port_row_t *row = <port_row_t *><char *>rows
        cdef uint32_t id
        for id in ports:
            port_sum(row, self._port(id), self.plane.workers)
            row += 1
        return rows

    def backend_rows(self, list backends):
        cdef bytearray rows = bytearray(len(backends) * sizeof(backend_row_t))
        cdef backend_row_t *row = <backend_row_t *><char *>rows
        cdef uint32_t id
        for id in backends:
            backend_sum(row, self._backend(id), self.plane.workers)
            row += 1
        return rows

    def records(self):
        cdef uint32_t counts[MOST_WORKERS]
        cdef uint32_t total = 0
        cdef bytearray rows
        cdef char *row
        cdef int i
        for i in range(self.plane.workers):
            counts[i] = records_count(<records_t *>self.plane.worker[i].records)
            total += counts[i]
        rows = bytearray(total * sizeof(record_t))
        row = rows
        for i in range(self.plane.workers):
            if counts[i]:
                records_take(<records_t *>self.plane.worker[i].records, counts[i], row)
                row += counts[i] * sizeof(record_t)
        return rows

    def records_lost(self):
        cdef uint64_t lost = 0
        cdef int i
        for i in range(self.plane.workers):
            if self.plane.worker[i].records != NULL:
                lost += sys.load_relaxed(&(<records_t *>self.plane.worker[i].records).lost)
        return lost

    def worker_rows(self):
        cdef bytearray rows = bytearray(self.plane.workers * sizeof(worker_row_t))
        cdef worker_row_t *row = <worker_row_t *><char *>rows
        cdef int i
        for i in range(self.plane.workers):
            worker_read(row + i, &self.plane.worker[i])
        return rows

    def held(self):
        cdef uint32_t i
        ports = sum(self.ports[i] != NULL for i in range(self.port_room))
        return ports, sum(self.backends[i] != NULL for i in range(self.backend_room))

    def pipes(self):
        cdef uint64_t closed = 0, made = 0
        cdef int i
        for i in range(self.plane.workers):
            closed += sys.load_relaxed(&self.plane.worker[i].pipes_closed)
            made += sys.load_relaxed(&self.plane.worker[i].pipes_made)
        return made, closed

    # -- what the methods above share

    cdef worker_t *_worker(self, int index) except NULL:
        if not 0 <= index < self.plane.workers:
            raise IndexError(f"no worker {index}")
        return &self.plane.worker[index]

    cdef port_t *_port(self, uint32_t id) except NULL:
        if id >= self.port_room or self.ports[id] == NULL:
            raise KeyError(id)
        return self.ports[id]

    cdef backend_t *_backend(self, uint32_t id) except NULL:
        if id >= self.backend_room or self.backends[id] == NULL:
            raise KeyError(id)
        return self.backends[id]

    cdef uint32_t _free_port_id(self) except? 0xffffffff:
        if not self.free_ports:
            self.ports = <port_t **>_grow(self.ports, &self.port_room, self.free_ports)
        return self.free_ports.pop()

    cdef uint32_t _free_backend_id(self) except? 0xffffffff:
        if not self.free_backends:
            self.backends = <backend_t **>_grow(self.backends, &self.backend_room, self.free_backends)
        return self.free_backends.pop()

    cdef table_t *_table(self, tuple routes) except NULL:
        cdef table_t *table = <table_t *>calloc(1, sizeof(table_t))
        if table == NULL:
            raise MemoryError
        table.namespace_fd = -1
        try:
            self._fill(table, routes)
        except BaseException:
            _table_free(table)
            raise
        return table

    cdef int _fill(self, table_t *table, tuple routes) except -1:
        cdef port_t *port
        cdef uint32_t i
        table.routes = <route_t *>calloc(self.port_room + 1, sizeof(route_t))
        if table.routes == NULL:
            raise MemoryError
        table.ports = self.port_room
        for route in routes:
            port = self._port(route.port)
            self._fill_route(&table.routes[port.id], route)
            if route.rate_interval:
                rate_prepare(port)
            if port.datagrams:  # nobody could tell whether they are taken
                table.routes[port.id].check_interval = 0
            table.checks = table.checks or table.routes[port.id].check_interval != 0
            if route.flows_per_source:
                flows_prepare(port)
        for i in range(self.backend_room):
            if self.backends[i] != NULL and (self.backends[i].dead or self.backends[i].drain_until):
                table.sweep = True
        return 0

    cdef int _fill_route(self, route_t *to, route) except -1:
        cdef int i
        to.used = True
        for i in range(TIERS):
            self._fill_tier(&to.tiers[i], route.tiers[i], route.balance)
            to.count += to.tiers[i].count
        to.balance = balancer_numbered(route.balance)
        to.connect_timeout, to.retries, to.hold = route.connect_timeout, route.retries, route.hold
        to.slow_start, to.idle_timeout = route.slow_start, route.idle_timeout
        to.max_conn, to.max_conn_backend = route.max_conn, route.max_conn_backend
        to.queue, to.queue_timeout = route.queue, route.queue_timeout
        to.rate_interval, to.rate_burst = route.rate_interval, route.rate_burst
        to.flow_timeout, to.flows_per_source = route.flow_timeout, route.flows_per_source
        to.check_interval, to.check_timeout = route.check_interval, route.check_timeout
        to.check_rise, to.check_fall = route.check_rise, route.check_fall
        to.proxy_protocol, to.access_log = route.proxy_protocol, route.access_log
        if to.access_log:
            self._prepare_records()
        to.transparent, to.unmasked = route.transparent, route.unmasked
        to.source_prefix4, to.source_prefix6 = route.source_prefix
        networks_fill(&to.allow, route.allow)
        networks_fill(&to.deny, route.deny)
        networks_fill(&to.accept_proxy, route.accept_proxy)
        networks_fill(&to.masked, route.masked)
        to.wants_source = bool(
            route.by_source or route.rate_interval or route.allow or route.deny or route.accept_proxy
        )
        to.wants_peer = bool(to.wants_source or to.transparent or to.proxy_protocol)
        return 0

    cdef int _prepare_records(self) except -1:
        """Rings for all workers, before any of them can see a route that wants them."""
        cdef int i
        for i in range(self.plane.workers):
            if self.plane.worker[i].records == NULL:
                self.plane.worker[i].records = lines(sizeof(records_t))
        return 0

    cdef int _fill_tier(self, tier_t *tier, members, int balancer) except -1:
        cdef uint32_t i = 0
        tier.backends = <backend_t **>calloc(len(members) + 1, sizeof(backend_t *))
        tier.weights = <uint16_t *>calloc(len(members) + 1, sizeof(uint16_t))
        if tier.backends == NULL or tier.weights == NULL:
            raise MemoryError
        for backend, weight in members:
            tier.backends[i], tier.weights[i] = self._backend(backend), weight
            i += 1
        tier.count = i
        return tier_fill(tier, balancer)

    cdef void _wake(self) noexcept:
        cdef int i
        for i in range(self.plane.workers):
            worker_wake(&self.plane.worker[i])

    cdef uint64_t _seen(self) noexcept:
        """The oldest generation that a worker may still use."""
        cdef uint64_t seen = self.generation
        cdef uint64_t of_worker
        cdef int i
        for i in range(self.plane.workers):
            of_worker = sys.load_acquire(&self.plane.worker[i].seen)
            seen = of_worker if of_worker < seen else seen
        return seen

    cdef void _reap_tables(self, uint64_t seen) noexcept:
        cdef table_t **place = &self.retired
        cdef table_t *table
        while place[0] != NULL:
            table = place[0]
            if table.generation < seen:
                place[0] = table.next
                _table_free(table)
            else:
                place = &table.next

    cdef bint _port_over(self, port_t *port, uint64_t seen) noexcept:
        cdef uint64_t closed = 0, accepted = 0
        cdef int i
        if port.retired == 0 or port.retired > seen or sys.load_acquire_int(&port.listeners):
            return False
        for i in range(self.plane.workers):
            closed += sys.load_acquire(&port.counters[i].closed)
            accepted += sys.load_relaxed(&port.counters[i].accepted)
        return closed == accepted

    cdef bint _backend_over(self, backend_t *backend, uint64_t seen) noexcept:
        cdef uint64_t ended = 0, chosen = 0
        cdef int i
        if backend.retired == 0 or backend.retired > seen:
            return False
        for i in range(self.plane.workers):
            ended += sys.load_acquire(&backend.counters[i].ended)
            chosen += sys.load_relaxed(&backend.counters[i].chosen)
        return ended == chosen


def enter_namespace(int fd):
    if sys.setns(fd, sys.CLONE_NEWNET) != 0:
        raise OSError(sys.errno, "setns")


cdef void *_grow(void *items, uint32_t *room, list free_ids) except NULL:
    """An array of pointers with twice the room; its new ids are free, the lowest last."""
    cdef uint32_t old = room[0]
    cdef uint32_t new = old * 2 if old else 16
    cdef void **grown = <void **>calloc(new, sizeof(void *))
    if grown == NULL:
        raise MemoryError
    if old:
        memcpy(grown, items, old * sizeof(void *))
    free(items)
    free_ids.extend(range(new - 1, old - 1, -1) if old else range(new - 1, -1, -1))
    room[0] = new
    return grown


cdef void _address_set(backend_t *backend, const char *address, size_t size, int port) noexcept:
    cdef uint8_t key[16]
    if size == 4:
        backend.address.v4.sin_family = sys.AF_INET
        backend.address.v4.sin_port = sys.htons(<uint16_t>port)
        memcpy(&backend.address.v4.sin_addr, address, 4)
        backend.address_size = sizeof(sys.sockaddr_in)
    else:
        backend.address.v6.sin6_family = sys.AF_INET6
        backend.address.v6.sin6_port = sys.htons(<uint16_t>port)
        memcpy(&backend.address.v6.sin6_addr, address, 16)
        backend.address_size = sizeof(sys.sockaddr_in6)
    address16(&backend.address, key)
    backend.key = backend_key(key, <uint16_t>port)


cdef uint64_t _milliseconds() noexcept:
    """The workers' clock."""
    cdef sys.timespec now
    sys.clock_gettime(sys.CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef bint _idle_sooner(const table_t *old, const table_t *table) noexcept:
    """Whether connections of some port may be silent for less than before."""
    cdef uint32_t i, before
    for i in range(table.ports):
        if old == NULL or i >= old.ports or not old.routes[i].used:
            continue  # a new port has no connections
        before = old.routes[i].idle_timeout
        if table.routes[i].idle_timeout and (before == 0 or table.routes[i].idle_timeout < before):
            return True
    return False


cdef void _table_free(table_t *table) noexcept:
    cdef uint32_t i
    if table.namespace_fd >= 0:
        sys.close(table.namespace_fd)
    for i in range(table.ports):
        _route_free(&table.routes[i])
    free(table.routes)
    free(table)


cdef void _route_free(route_t *route) noexcept:
    cdef int i
    for i in range(TIERS):
        free(route.tiers[i].backends)
        free(route.tiers[i].weights)
        free(route.tiers[i].schedule)
    free(route.allow.items)
    free(route.deny.items)
    free(route.accept_proxy.items)
    free(route.masked.items)


cdef void _port_free(port_t *port) noexcept:
    if port != NULL:
        free(port.counters)
        free(port.sources)
        free(port.flows)
        free(port)


cdef void _backend_free(backend_t *backend) noexcept:
    if backend != NULL:
        free(backend.counters)
        free(backend)
