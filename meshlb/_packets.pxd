# Datagrams in batches: what one system call brings from a socket, and what it takes to one.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshlb cimport _linux as sys
from meshlb._types cimport address_t

cdef enum:
    BATCH = 32  # messages of one call
    MESSAGE = 65536  # bytes of the longest: the kernel joins datagrams of one sender (UDP_GRO)
    CONTROL = 96  # bytes of a message's ancillary data

cdef struct train_t:  # datagrams of one sender in one message: all of `segment` bytes, the last may have less
    char *data
    uint32_t size
    uint16_t segment
    uint32_t interface  # the one it came in by
    uint8_t own[16]  # the address that it was sent to
    address_t source

cdef struct reply_t:  # where datagrams of an unconnected socket go, and from which of our addresses
    address_t to
    uint8_t own[16]
    uint32_t interface  # 0: by routing

cdef struct passed_t:  # what a socket took
    uint64_t datagrams
    uint64_t bytes

cdef struct packets_t:  # a worker's buffers, and what the kernel can do
    bint segments  # UDP_SEGMENT: several datagrams of one length in one message
    char *data  # BATCH * MESSAGE bytes, of which the kernel backs what has been used
    train_t trains[BATCH]
    sys.mmsghdr received[BATCH]
    sys.iovec received_parts[BATCH]
    char received_control[BATCH][CONTROL]
    sys.mmsghdr sent[BATCH]
    sys.iovec sent_parts[BATCH]
    char sent_control[BATCH][CONTROL]
    uint32_t sent_first[BATCH]  # the train that a message begins with
    uint32_t sent_datagrams[BATCH]

cdef packets_t *packets_new(int fd) noexcept nogil
cdef void packets_free(packets_t *p) noexcept nogil
cdef int packets_receive(packets_t *p, int fd, bint from_anyone) noexcept nogil
cdef int packets_send(
    packets_t *p, int fd, const reply_t *reply, train_t **trains, uint32_t count, bint *singly,
    passed_t *passed
) noexcept nogil
cdef bint is_gone(int error) noexcept nogil
cdef uint32_t train_datagrams(const train_t *train) noexcept nogil
