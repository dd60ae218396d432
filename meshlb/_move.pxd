# Moving bytes from one end of a connection to the other, and what epoll knows of an end.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from meshlb._stream cimport conn_t, end_t
from meshlb._types cimport worker_t

cdef enum:  # what moving bytes in one direction came to
    WAIT  # for epoll to report something
    MORE  # could go on, but has had its share of the turn
    LATER  # the kernel is short of memory: nothing will be reported
    DONE  # the source's FIN has come, and everything before it is written
    RESET

cdef bint end_watch(worker_t *w, conn_t *c, end_t *end, bint out) noexcept nogil
cdef void end_start(end_t *end, uint8_t kind, int fd) noexcept nogil
cdef void end_forget(worker_t *w, end_t *end) noexcept nogil
cdef void end_urgent(end_t *end) noexcept nogil
cdef bint tail_keep(end_t *end, const char *data, uint32_t size) noexcept nogil
cdef bint tail_rest(end_t *end, const char *data, uint32_t size, uint32_t written) noexcept nogil
cdef void count_bytes(worker_t *w, conn_t *c, end_t *source, uint64_t size) noexcept nogil
cdef int move(worker_t *w, conn_t *c, end_t *source, end_t *sink) noexcept nogil
cdef bint pending(end_t *source) noexcept nogil
cdef void pipes_close(worker_t *w) noexcept nogil
