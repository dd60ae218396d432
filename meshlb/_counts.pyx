"""Sums the workers' counters. Nobody stops for it: each number is read whole, and all of them while they go on."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from meshlb cimport _linux as sys
from meshlb._types cimport (
    BUCKETS, REFUSALS, backend_counters, backend_t, histogram_t, histogram_add, port_counters, port_t, worker_t,
)


cdef void port_sum(port_row_t *total, port_t *port, int workers) noexcept nogil:
    cdef port_counters *of
    cdef int i
    memset(total, 0, sizeof(port_row_t))
    for i in range(workers):  # before `accepted`: never more closed than accepted
        total.closed += sys.load_acquire(&port.counters[i].closed)
    for i in range(workers):
        of = &port.counters[i]
        total.accepted += sys.load_relaxed(&of.accepted)
        _add(&total.failovers, &of.failovers, 6)  # to `masked`
        _add(total.refused, of.refused, REFUSALS)
        _add_histogram(&total.connect, &of.connect)
        _add_histogram(&total.first_byte, &of.first_byte)
        _add_histogram(&total.duration, &of.duration)


cdef void backend_sum(backend_row_t *total, backend_t *backend, int workers) noexcept nogil:
    cdef backend_counters *of
    cdef int i
    memset(total, 0, sizeof(backend_row_t))
    total.active = sys.load_relaxed_uint(&backend.active)
    total.standing = sys.load_relaxed_uint(&backend.standing)
    for i in range(workers):
        total.ended += sys.load_acquire(&backend.counters[i].ended)
    for i in range(workers):
        of = &backend.counters[i]
        total.chosen += sys.load_relaxed(&of.chosen)
        _add(&total.connected, &of.connected, 7)  # to `retransmitted`
        _add_histogram(&total.connect, &of.connect)
        _add_histogram(&total.first_byte, &of.first_byte)
        _add_histogram(&total.duration, &of.duration)


cdef void worker_read(worker_row_t *row, worker_t *w) noexcept nogil:
    memset(row, 0, sizeof(worker_row_t))
    row.turns = sys.load_relaxed(&w.turns)
    _add_histogram(&row.turn, &w.turn)


cdef void _add(uint64_t *totals, uint64_t *counters, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        totals[i] += sys.load_relaxed(&counters[i])


cdef void _add_histogram(histogram_row_t *total, histogram_t *of) noexcept nogil:
    """Adds the counts too: who reads ten thousand rows would not want to add up all of their buckets."""
    cdef uint64_t microseconds = sys.load_relaxed(&of.total)
    cdef uint64_t count
    cdef int i
    total.total += microseconds
    for i in range(BUCKETS):
        count = sys.load_relaxed(&of.buckets[i])
        total.buckets[i] += count
        total.count += count


def histogram_row(list buckets, uint64_t microseconds):
    cdef histogram_t histogram
    cdef histogram_row_t row
    cdef int i
    memset(&histogram, 0, sizeof(histogram))
    memset(&row, 0, sizeof(row))
    for i in range(BUCKETS):
        histogram.buckets[i] = buckets[i]
    histogram_add(&histogram, microseconds)
    _add_histogram(&row, &histogram)
    _add_histogram(&row, &histogram)
    return (<char *>&row)[:sizeof(row)]
