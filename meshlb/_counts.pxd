# Counters summed over the workers, as `meshlb.counts` decodes them: native byte order, no padding.

from libc.stdint cimport uint32_t, uint64_t

from meshlb._types cimport BUCKETS, REFUSALS, backend_t, port_t, worker_t

cdef struct histogram_row_t:
    uint64_t total
    uint64_t count
    uint64_t buckets[BUCKETS]

cdef struct port_row_t:
    uint64_t accepted
    uint64_t closed
    uint64_t failovers
    uint64_t waited
    uint64_t received
    uint64_t sent
    uint64_t dropped
    uint64_t masked
    uint64_t refused[REFUSALS]
    histogram_row_t connect
    histogram_row_t first_byte
    histogram_row_t duration

cdef struct backend_row_t:
    uint64_t chosen
    uint64_t ended
    uint64_t connected
    uint64_t failed
    uint64_t received
    uint64_t sent
    uint64_t sampled
    uint64_t rtt
    uint64_t retransmitted
    uint32_t active
    uint32_t standing
    histogram_row_t connect
    histogram_row_t first_byte
    histogram_row_t duration

cdef struct worker_row_t:
    uint64_t turns
    histogram_row_t turn

cdef void port_sum(port_row_t *total, port_t *port, int workers) noexcept nogil
cdef void backend_sum(backend_row_t *total, backend_t *backend, int workers) noexcept nogil
cdef void worker_read(worker_row_t *row, worker_t *w) noexcept nogil
