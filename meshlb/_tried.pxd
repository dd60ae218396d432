# Which backends of a route somebody has tried in vain: a bit for each position, tiers one after another.
#
# Nobody needs more than 64 bits as long as no backend beyond the 64th has failed, so those stand here; the others are
# allocated then, and given back by `tried_clear`. Positions are those of one table: `tried_in` forgets those of others.

from libc.stdint cimport uint32_t, uint64_t

cdef struct tried_t:  # zeroed memory is nobody
    uint64_t first  # positions 0 to 63
    uint64_t *others  # from 64 on; NULL: none of them
    uint32_t generation  # low bits of the table's

cdef inline bint tried_has(const tried_t *tried, uint32_t position) noexcept nogil:
    if position < 64:
        return tried.first >> position & 1
    return tried.others != NULL and tried.others[position // 64 - 1] >> (position % 64) & 1

cdef void tried_in(tried_t *tried, uint64_t generation) noexcept nogil
cdef bint tried_add(tried_t *tried, uint32_t position, uint32_t count) noexcept nogil
cdef void tried_clear(tried_t *tried) noexcept nogil
