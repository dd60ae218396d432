"""Which backends of a route somebody has tried in vain. `_tried.pxd` says how they are kept."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef void tried_in(tried_t *tried, uint64_t generation) noexcept nogil:
    """From here on it speaks of the table of this generation."""
    if tried.generation != <uint32_t>generation:
        tried_clear(tried)
        tried.generation = <uint32_t>generation


cdef bint tried_add(tried_t *tried, uint32_t position, uint32_t count) noexcept nogil:
    """One more, of a route of `count` backends. False without memory."""
    if position < 64:
        tried.first |= <uint64_t>1 << position
        return True
    if tried.others == NULL:
        tried.others = <uint64_t *>calloc(_words(count), sizeof(uint64_t))
        if tried.others == NULL:
            return False
    tried.others[position // 64 - 1] |= <uint64_t>1 << (position % 64)
    return True


cdef void tried_clear(tried_t *tried) noexcept nogil:
    """Nobody, from here on."""
    tried.first = 0
    free(tried.others)
    tried.others = NULL


cdef uint32_t _words(uint32_t count) noexcept nogil:
    return (count - 1) // 64
