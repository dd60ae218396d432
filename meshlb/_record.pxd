# What the access log says of a connection, from its beginning to its end, and the ring in which it waits to be taken.
#
# A connection has a record only where its port keeps an access log. When it ends, its worker copies the record into
# its own ring, and the control thread takes it from there: one writes, one reads, nobody waits. Where a ring is full,
# the record is lost, and counted.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshlb._types cimport LINE, REFUSALS, worker_t

cdef enum:
    RECORDS = 4096  # of a worker that may wait: a power of two
    NEVER = 0xffffffff  # microseconds until what has not happened; the backend of who has none

cdef enum:  # why it ended, as meshlb.records names it; before these those of REFUSED_*
    OVER_DONE = REFUSALS  # both sides had said all
    OVER_CLIENT  # the client reset it, or left before it had a backend
    OVER_BACKEND  # the backend reset it
    OVER_IDLE  # silent for as long as it may be
    OVER_DRAINED  # its backend drains, and its time was up
    OVER_GONE  # its backend has left the table
    OVER_EVICTED  # of UDP: it made room for another
    OVER_STOPPED  # the agent has ended

cdef struct record_t:  # as meshlb.records decodes it: native byte order
    uint8_t client[16]
    uint64_t ended_us  # of the workers' clock
    uint64_t duration_us
    uint64_t received  # bytes
    uint64_t sent
    uint32_t connect_us
    uint32_t first_byte_us
    uint32_t port
    uint32_t backend
    uint16_t client_port
    uint16_t attempts
    uint8_t reason
    uint8_t unused[3]

cdef struct records_t:
    uint64_t put  # shared: records so far; written by the worker
    uint64_t lost  # read by anyone
    uint8_t unused[LINE - 16]
    uint64_t taken  # shared: of them; written by the control thread
    uint8_t unused_too[LINE - 8]
    record_t items[RECORDS]

cdef record_t *record_new(worker_t *w, uint32_t port) noexcept nogil
cdef void record_end(worker_t *w, record_t *record, uint8_t reason, uint64_t begun_us) noexcept nogil
cdef uint32_t record_time(worker_t *w, uint64_t begun_us) noexcept nogil

cdef uint32_t records_count(records_t *records) noexcept
cdef void records_take(records_t *records, uint32_t count, void *into) noexcept
