# The nouns of UDP: a receiver, a flow, and what a worker has of them.
#
# A flow is one client's address and port, speaking to one of our addresses and ports. It has a socket of its own that
# is connected to its backend, so that the kernel sorts the answers and reports a port that nobody listens on.
#
#                 first datagram                client goes on after an answer
#      (receiver) ──────────────► FRESH ───────────────────────────────────────► ASSURED
#                                   │  silent for FRESH_TIMEOUT at most             │  silent for flow-timeout
#                                   ▼                                               ▼
#                                 over ◄──── no backend is left, or its port ──── over
#
# A worker that has all the flows that it may have ends the fresh one that has been silent for the longest, so that a
# flood of made-up clients does not end those that converse.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from meshlb._packets cimport packets_t, reply_t
from meshlb._record cimport record_t
from meshlb._timer cimport timer_t
from meshlb._tried cimport tried_t
from meshlb._types cimport backend_t, port_t, worker_t

cdef enum:
    FRESH, ASSURED, AGES

ctypedef flow_s flow_t

cdef struct receiver_t:  # a UDP socket that a port's clients send to
    int fd
    uint32_t index
    uint32_t generation
    uint32_t flows
    bint watched  # known to epoll
    bint released  # another process receives now; what is under way is still answered through it
    port_t *port

cdef struct flow_s:
    timer_t timer  # the first: what is due is the flow
    flow_t *chain  # of its bucket, or of those that are free
    flow_t *older  # of its age, by the last datagram
    flow_t *newer
    reply_t client
    receiver_t *receiver
    backend_t *backend  # NULL: the next datagram finds one
    record_t *record  # for the access log; NULL without one
    int fd
    uint32_t hash
    uint32_t source  # hash of the client's address for the balancer
    uint32_t index  # of its slot
    uint32_t generation  # of the slot's sockets
    uint32_t active  # low bits of the milliseconds of the last datagram
    uint32_t position  # of its backend in the route
    tried_t tried  # since the last answer
    uint64_t begun_us
    uint64_t since  # milliseconds, when it got its backend; 0 once that has been taken for good, or without one
    char *kept  # the client's last datagram, until a backend answers
    uint16_t kept_size
    uint16_t attempts  # since the last answer
    uint8_t age  # FRESH or ASSURED
    bint answered
    bint counted  # among its source's flows
    bint short_of  # an attempt failed for want of something on this machine
    bint joins  # UDP_GRO is set on its socket
    bint upstream_singly  # the ways on which the kernel takes no joined datagrams
    bint downstream_singly

cdef struct datagrams_t:
    packets_t *packets
    receiver_t **receivers
    uint32_t receiver_room
    uint32_t receiver_serial
    bint over  # a released receiver may have lost its last flow
    flow_t **chunks
    uint32_t chunk_count
    uint32_t chunk_room
    flow_t *free
    flow_t **buckets  # a power of two of them
    uint32_t bucket_count
    uint32_t count  # of flows
    flow_t *oldest[AGES]
    flow_t *newest[AGES]


cdef inline datagrams_t *datagrams_of(worker_t *w) noexcept nogil:
    return <datagrams_t *>w.datagrams
