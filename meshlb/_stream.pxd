# The nouns of TCP: an end, a connection of two ends, a listener, and what a worker has of them.
#
#              accept4            connected                both ends EOF, all written
#    (listener) ────► CONNECTING ───────────► OPEN ────────────────────────────────────► closed with FIN
#        │             │  ▲   │                 │
#        │     refused,└──┘   │                 └── reset, or an error on either end ───► closed with RST
#        │     late: next     │
#        ▼                    ▼
#     HEADER ──────────► no backend, or none with room ────────────────────────────────► closed with RST
#     (PROXY header           │      ▲
#      expected)              ▼      │ a backend, a place, or the time is up
#                          WAITING ──┘
#
# A connection's memory is a slot of its worker's slab. It is never given back, so an event for a past holder finds
# a slot whose generation tells that it is late. The fds of both ends are closed in conn_end alone, and a slot is
# used again from the next turn on.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from meshlb._record cimport record_t
from meshlb._timer cimport timer_t
from meshlb._tried cimport tried_t
from meshlb._types cimport address_t, backend_t, port_t, worker_t

cdef enum:
    CHUNK = 64  # connections per allocation of the slab

cdef enum:  # end_t.flags
    REGISTERED = 1  # known to epoll
    READABLE = 2
    WRITABLE = 4
    WATCHES_OUT = 8  # epoll reports when it becomes writable
    HUNG_UP = 16  # epoll has reported its FIN: a short read is the last one
    FINISHED = 32  # its FIN has been read, or nothing more is to be read from it
    SHUT = 64  # we have sent our FIN to it
    BROKEN = 128  # it was reset while we wrote to it
    URGENT = 256  # urgent data came by: reads stop at its mark
    WRITTEN = 512  # it has got its first bytes
    PROMPT = 1024  # TCP_NODELAY is set
    KEPT_URGENT = 2048  # the kept tail is one urgent byte
    DOOMED = 4096  # its backend is gone: once its last bytes are delivered, its connection is reset
    SNIFFED = 8192  # its first bytes may not be a PROXY header

cdef enum:  # conn_t.state
    HEADER, CONNECTING, WAITING, OPEN, DEAD

cdef enum:  # conn_t.hush: whether an open connection's client is known to epoll; most short ones never need it
    UNASKED
    EXPECTING  # the backend's answer: nothing more is likely to come from the client before it
    LINGERING  # the answer is out: one turn is waited whether the backend's FIN follows
    PARTING  # the backend's FIN is out: the client's own is on its way
    WATCHED

ctypedef conn_s conn_t
ctypedef listener_s listener_t
ctypedef pipe_s pipe_t
ctypedef queue_s queue_t

cdef struct pipe_s:
    int source
    int sink
    uint32_t held
    pipe_t *next

cdef struct end_t:
    uint8_t kind  # KIND_CLIENT or KIND_BACKEND
    uint16_t flags
    int fd
    uint32_t usual  # bytes of a read, a moving average: what makes it a stream
    uint32_t tail_start
    uint32_t tail_size
    char *tail
    pipe_t *pipe

cdef struct origin_t:  # the addresses that a PROXY header gave
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port

cdef struct conn_s:
    end_t client
    end_t backend_end
    timer_t timer
    uint8_t state
    uint8_t ready  # on the ready list
    uint8_t counted  # in port.open
    uint8_t kept_alive  # keepalive is set on the backend's socket, too
    uint8_t hush
    uint8_t later  # the kernel has no memory for its bytes: asked again when its timer fires
    uint8_t header_left  # bytes of our own PROXY header that the client's tail begins with
    uint8_t refusal  # WAITING: REFUSED_* when its time is up
    uint8_t queued  # stands in its port's queue
    uint8_t short_of  # an attempt failed for want of something on this machine
    uint16_t attempts
    uint32_t index  # of its slot
    uint32_t generation  # of the slot's holder
    uint32_t attempt  # of the backend's sockets that this slot has had
    uint32_t source  # hash of the client's address, where the balancer wants it
    uint32_t attempt_us  # low bits of the clock at the last attempt
    uint32_t active  # low bits of the milliseconds of the last event
    uint32_t position  # of its backend in the route
    tried_t tried
    uint64_t begun_us
    uint64_t waits_until  # milliseconds; 0: has not waited yet
    port_t *port
    backend_t *backend
    origin_t *origin
    record_t *record  # for the access log; NULL without one
    conn_t *next  # of the ready, dead, free list, or the queue

cdef struct listener_s:
    int fd
    uint32_t index
    uint32_t generation
    uint8_t budget  # connections to take at once
    bint watched  # known to epoll
    uint64_t turn  # of the last event
    port_t *port

cdef struct queue_s:  # a port's connections that wait, first come first served
    port_t *port
    uint32_t length
    uint32_t freed  # the port's, when this was last looked at
    uint64_t retry_at  # milliseconds: not before, after an attempt has failed
    conn_t *first
    conn_t *last
    queue_t *next

cdef struct streams_t:
    conn_t **chunks
    uint32_t chunk_count
    uint32_t chunk_room
    conn_t *free
    conn_t *ready
    conn_t *dead
    queue_t *queues
    timer_t queue_timer
    conn_t *newcomer  # the one that is being accepted, and its client's address; NULL where that is not known
    const address_t *newcomer_address
    pipe_t *pipes
    uint32_t pooled_pipes
    uint32_t until_sample
    listener_t **listeners
    uint32_t listener_room
    uint32_t listener_serial
    uint64_t turn
    bint paused  # no accepting: the kernel ran out of something
    int exhausted  # errno of what it has just run out of; 0: nothing
    uint64_t resume_at
    uint64_t generation  # of the table that was swept last


cdef inline streams_t *streams_of(worker_t *w) noexcept nogil:
    return <streams_t *>w.streams
