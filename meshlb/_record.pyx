"""Records of connections for the access log: made, put into their worker's ring, taken from it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from meshlb cimport _linux as sys
from meshlb._types cimport worker_t


cdef records_t *_of(worker_t *w) noexcept nogil:
    return <records_t *>w.records


cdef record_t *record_new(worker_t *w, uint32_t port) noexcept nogil:
    """One for a connection that begins; NULL, and counted as lost, without memory."""
    cdef record_t *record = <record_t *>calloc(1, sizeof(record_t))
    if record == NULL:
        sys.bump(&_of(w).lost, 1)
        return NULL
    record.port, record.backend = port, <uint32_t>NEVER
    record.connect_us = record.first_byte_us = <uint32_t>NEVER
    return record


cdef uint32_t record_time(worker_t *w, uint64_t begun_us) noexcept nogil:
    """Microseconds since the beginning."""
    cdef uint64_t took = w.now_us - begun_us
    return <uint32_t>took if took < <uint64_t>NEVER else <uint32_t>NEVER - 1


cdef void record_end(worker_t *w, record_t *record, uint8_t reason, uint64_t begun_us) noexcept nogil:
    """The connection has ended: its record waits to be taken, or is lost."""
    cdef records_t *records = _of(w)
    cdef uint64_t put = sys.load_relaxed(&records.put)
    record.reason, record.ended_us, record.duration_us = reason, w.now_us, w.now_us - begun_us
    if put - sys.load_acquire(&records.taken) < <uint64_t>RECORDS:
        records.items[put & (RECORDS - 1)] = record[0]
        sys.store_release(&records.put, put + 1)
    else:
        sys.bump(&records.lost, 1)
    free(record)


cdef uint32_t records_count(records_t *records) noexcept:
    """How many wait; NULL has none."""
    if records == NULL:
        return 0
    return <uint32_t>(sys.load_acquire(&records.put) - sys.load_relaxed(&records.taken))


cdef void records_take(records_t *records, uint32_t count, void *into) noexcept:
    """Takes so many of those that wait."""
    cdef uint64_t taken = sys.load_relaxed(&records.taken)
    cdef record_t *to = <record_t *>into
    cdef uint32_t i
    for i in range(count):
        memcpy(&to[i], &records.items[(taken + i) & (RECORDS - 1)], sizeof(record_t))
    sys.store_release(&records.taken, taken + count)
