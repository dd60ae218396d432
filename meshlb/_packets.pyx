"""Datagrams in batches, with as few system calls as the kernel allows.

`recvmmsg` takes up to BATCH messages, each of which may be several datagrams that the kernel has joined (UDP_GRO);
`sendmmsg` sends them on, neighbours of one length as one message that the kernel takes apart again (UDP_SEGMENT).
Where a way or a kernel does not take such messages, they go singly.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from meshlb cimport _linux as sys
from meshlb._types cimport address_t

cdef enum:
    MOST_SEGMENTS = 64  # in one message, which is what every kernel takes
    MOST_BYTES = 65000  # in one message: an IP packet's 65,535 less its headers

cdef struct cursor_t:  # what is sent next
    uint32_t train
    uint32_t offset


cdef packets_t *packets_new(int fd) noexcept nogil:
    """For sockets of the same kernel as this one; NULL without memory."""
    cdef packets_t *p = <packets_t *>calloc(1, sizeof(packets_t))
    if p == NULL:
        return NULL
    p.data = <char *>malloc(BATCH * MESSAGE)
    if p.data == NULL:
        free(p)
        return NULL
    p.segments = _knows_segments(fd)
    return p


cdef void packets_free(packets_t *p) noexcept nogil:
    if p != NULL:
        free(p.data)
        free(p)


cdef bint _knows_segments(int fd) noexcept nogil:
    """An older kernel would ignore the length of a segment and send all as one datagram."""
    cdef int value = 0
    cdef sys.socklen_t size = sizeof(value)
    return sys.getsockopt(fd, sys.SOL_UDP, sys.UDP_SEGMENT, &value, &size) == 0


cdef uint32_t train_datagrams(const train_t *train) noexcept nogil:
    return (train.size + train.segment - 1) // train.segment if train.segment else 1


# -- Receiving

cdef int packets_receive(packets_t *p, int fd, bint from_anyone) noexcept nogil:
    """Fills `trains` with what the socket has, up to BATCH. Their count, or -1 with errno."""
    cdef int count, i
    for i in range(<int>BATCH):
        _expect(p, i, from_anyone)
    count = sys.recvmmsg(fd, p.received, BATCH, sys.MSG_DONTWAIT, NULL)
    for i in range(count):
        _unpack(&p.trains[i], &p.received[i])
    return count


cdef void _expect(packets_t *p, int i, bint from_anyone) noexcept nogil:
    cdef sys.msghdr *message = &p.received[i].msg_hdr
    p.trains[i].data = p.data + <size_t>i * MESSAGE
    p.received_parts[i].iov_base, p.received_parts[i].iov_len = p.trains[i].data, MESSAGE
    message.msg_iov, message.msg_iovlen = &p.received_parts[i], 1
    message.msg_name = &p.trains[i].source if from_anyone else NULL
    message.msg_namelen = sizeof(address_t) if from_anyone else 0
    message.msg_control, message.msg_controllen = p.received_control[i], CONTROL


cdef void _unpack(train_t *train, sys.mmsghdr *received) noexcept nogil:
    cdef sys.cmsghdr *about = sys.CMSG_FIRSTHDR(&received.msg_hdr)
    cdef int segment
    train.size = received.msg_len
    train.segment = <uint16_t>received.msg_len
    while about != NULL:
        if about.cmsg_level == sys.SOL_UDP and about.cmsg_type == sys.UDP_GRO:
            memcpy(&segment, sys.CMSG_DATA(about), sizeof(segment))
            train.segment = <uint16_t>segment
        else:
            _own_address(train, about)
        about = sys.CMSG_NXTHDR(&received.msg_hdr, about)


cdef void _own_address(train_t *train, sys.cmsghdr *about) noexcept nogil:
    cdef sys.in6_pktinfo info6
    cdef sys.in_pktinfo info4
    if about.cmsg_level == sys.IPPROTO_IPV6 and about.cmsg_type == sys.IPV6_PKTINFO:
        memcpy(&info6, sys.CMSG_DATA(about), sizeof(info6))
        memcpy(train.own, &info6.ipi6_addr, 16)
        train.interface = info6.ipi6_ifindex
    elif about.cmsg_level == sys.IPPROTO_IP and about.cmsg_type == sys.IP_PKTINFO:
        memcpy(&info4, sys.CMSG_DATA(about), sizeof(info4))
        memset(train.own, 0, 10)
        memset(train.own + 10, 0xff, 2)
        memcpy(train.own + 12, &info4.ipi_addr, 4)
        train.interface = info4.ipi_ifindex


# -- Sending

cdef int packets_send(
    packets_t *p, int fd, const reply_t *reply, train_t **trains, uint32_t count, bint *singly, passed_t *passed
) noexcept nogil:
    """Sends trains, to the peer of a connected socket where `reply` is NULL. 0, or the errno by which a peer is gone.

    What the kernel does not take otherwise is dropped, as networks do: `passed` says what was taken. `singly` is the
    memory of a way that takes no joined datagrams.
    """
    cdef cursor_t at
    cdef uint32_t filled
    cdef int done
    at.train = at.offset = 0
    while at.train < count:
        filled = _fill(p, reply, trains, count, &at, singly[0] or not p.segments)
        done = _give(p, fd, filled, passed)
        if done == <int>filled:
            continue
        if p.sent_datagrams[done] > 1 and _is_too_much(sys.errno):
            p.segments = p.segments and sys.errno != sys.EIO  # EIO: no checksum offload on this way
            singly[0] = True
            at.train, at.offset = p.sent_first[done], 0
        elif is_gone(sys.errno):
            return sys.errno
        else:
            return 0  # its buffer is full, or a filter does not let us: more of the same would only cost
    return 0


cdef int _give(packets_t *p, int fd, uint32_t count, passed_t *passed) noexcept nogil:
    """Hands messages to the kernel until one is not taken; how many were, with errno."""
    cdef uint32_t done = 0
    cdef bint told = False
    cdef int taken
    while done < count:
        taken = sys.sendmmsg(fd, &p.sent[done], count - done, sys.MSG_NOSIGNAL | sys.MSG_DONTWAIT)
        if taken <= 0 and sys.errno == sys.EMSGSIZE and not told and p.sent_datagrams[done] == 1:
            told = True  # a router's word on an earlier one, which is off now
            continue
        if taken <= 0:
            return <int>done
        for _ in range(taken):
            passed.datagrams += p.sent_datagrams[done]
            passed.bytes += p.sent[done].msg_len
            done += 1
    return <int>done


cdef bint _is_too_much(int error) noexcept nogil:
    """Whether the kernel did not take joined datagrams for being joined."""
    return error == sys.EINVAL or error == sys.EMSGSIZE or error == sys.EIO


cdef bint is_gone(int error) noexcept nogil:
    """Whether the network says that a peer cannot be reached, or the peer that nobody listens."""
    return (
        error == sys.ECONNREFUSED or error == sys.EHOSTUNREACH or error == sys.ENETUNREACH
        or error == sys.EHOSTDOWN or error == sys.ENOPROTOOPT or error == sys.EACCES
    )


cdef uint32_t _fill(
    packets_t *p, const reply_t *reply, train_t **trains, uint32_t count, cursor_t *at, bint singly
) noexcept nogil:
    """Makes messages of what stands at the cursor, and moves it on; their count."""
    cdef uint32_t filled = 0
    while filled < BATCH and at.train < count:
        p.sent_first[filled] = at.train
        if singly:
            _fill_one(p, reply, trains, at, filled)
        else:
            _fill_joined(p, reply, trains, count, at, filled)
        filled += 1
    return filled


cdef void _fill_one(
    packets_t *p, const reply_t *reply, train_t **trains, cursor_t *at, uint32_t number
) noexcept nogil:
    """One datagram."""
    cdef train_t *train = trains[at.train]
    cdef uint32_t size = train.size - at.offset
    size = train.segment if size > train.segment else size
    p.sent_parts[number].iov_base, p.sent_parts[number].iov_len = train.data + at.offset, size
    _message(p, reply, number, &p.sent_parts[number], 1, 0)
    p.sent_datagrams[number] = 1
    at.offset += size
    if at.offset >= train.size:
        at.train, at.offset = at.train + 1, 0


cdef void _fill_joined(
    packets_t *p, const reply_t *reply, train_t **trains, uint32_t count, cursor_t *at, uint32_t number
) noexcept nogil:
    """As many datagrams of one length as follow each other; a shorter one may be the last."""
    cdef uint32_t first = at.train
    cdef uint32_t segment = trains[first].segment
    cdef uint32_t datagrams = 0
    cdef uint32_t bytes = 0
    while at.train < count and (at.train == first or _joins(trains[at.train], segment, datagrams, bytes)):
        p.sent_parts[at.train].iov_base = trains[at.train].data
        p.sent_parts[at.train].iov_len = trains[at.train].size
        datagrams += train_datagrams(trains[at.train])
        bytes += trains[at.train].size
        at.train += 1
    p.sent_datagrams[number] = datagrams
    _message(p, reply, number, &p.sent_parts[first], at.train - first, <uint16_t>segment if datagrams > 1 else 0)


cdef bint _joins(const train_t *train, uint32_t segment, uint32_t datagrams, uint32_t bytes) noexcept nogil:
    """Whether a train can follow `datagrams` of `segment` bytes in their message."""
    if train.size == 0 or segment == 0 or bytes % segment:
        return False
    # The kernel cuts at every `segment` bytes: what is shorter can only be one datagram, and the last.
    if train.segment != segment and (train.size > segment or train.size > train.segment):
        return False
    return datagrams + train_datagrams(train) <= MOST_SEGMENTS and bytes + train.size <= MOST_BYTES


cdef void _message(
    packets_t *p, const reply_t *reply, uint32_t number, sys.iovec *parts, uint32_t count, uint16_t segment
) noexcept nogil:
    cdef sys.msghdr *message = &p.sent[number].msg_hdr
    memset(message, 0, sizeof(sys.msghdr))
    message.msg_iov, message.msg_iovlen = parts, count
    message.msg_control = p.sent_control[number]
    if reply != NULL:
        message.msg_name = <void *>&reply.to
        message.msg_namelen = sizeof(sys.sockaddr_in6) if reply.to.any.sa_family == sys.AF_INET6 else sizeof(
            sys.sockaddr_in)
        _say_own(message, reply)
    if segment:
        _say(message, sys.SOL_UDP, sys.UDP_SEGMENT, &segment, sizeof(segment))


cdef void _say_own(sys.msghdr *message, const reply_t *reply) noexcept nogil:
    """The address that the datagrams come from."""
    cdef sys.in6_pktinfo info6
    cdef sys.in_pktinfo info4
    if reply.to.any.sa_family == sys.AF_INET6:
        memcpy(&info6.ipi6_addr, reply.own, 16)
        info6.ipi6_ifindex = reply.interface
        _say(message, sys.IPPROTO_IPV6, sys.IPV6_PKTINFO, &info6, sizeof(info6))
    else:
        memset(&info4, 0, sizeof(info4))
        memcpy(&info4.ipi_spec_dst, reply.own + 12, 4)
        info4.ipi_ifindex = reply.interface
        _say(message, sys.IPPROTO_IP, sys.IP_PKTINFO, &info4, sizeof(info4))


cdef void _say(sys.msghdr *message, int level, int kind, const void *value, size_t size) noexcept nogil:
    cdef sys.cmsghdr *about = <sys.cmsghdr *>(<char *>message.msg_control + message.msg_controllen)
    about.cmsg_level, about.cmsg_type, about.cmsg_len = level, kind, sys.CMSG_LEN(size)
    memcpy(sys.CMSG_DATA(about), value, size)
    message.msg_controllen += sys.CMSG_SPACE(size)
