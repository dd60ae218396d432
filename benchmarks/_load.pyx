"""Clients and servers for the benchmarks: epoll loops without the GIL, one process each.

Every function runs for a bounded time or number of requests, except the servers: their processes are killed.
Times are nanoseconds of CLOCK_MONOTONIC, addresses IPv4 in text.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINPROGRESS, ETIMEDOUT, ENODATA, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec *)

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int TFD_NONBLOCK, TFD_TIMER_ABSTIME
    int timerfd_create(int, int)
    int timerfd_settime(int, int, itimerspec *, itimerspec *)

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int AF_INET, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR, SO_RCVBUF
    int socket(int, int, int)
    int connect(int, sockaddr *, uint32_t)
    int accept4(int, sockaddr *, uint32_t *, int)
    int getsockopt(int, int, int, void *, uint32_t *)
    int setsockopt(int, int, int, void *, uint32_t)
    ssize_t send(int, void *, size_t, int)
    ssize_t recv(int, void *, size_t, int)
    int recvmmsg(int, mmsghdr *, unsigned int, int, timespec *)
    int sendmmsg(int, mmsghdr *, unsigned int, int)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    uint16_t htons(uint16_t)

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int, const char *, void *)

cdef extern from "<unistd.h>" nogil:
    int close(int)
    ssize_t read(int, void *, size_t)

DEF FDS = 65536
DEF EVENTS = 512
DEF BATCH = 64
DEF CELLS = 2048
DEF LARGEST = 2048
DEF REASONS = 256

cdef char *END = b"\r\n\r\n"  # of a request
cdef int64_t SECOND = 1_000_000_000
cdef int64_t PATIENCE = 5 * SECOND  # that what is under way at the end may still take
cdef int64_t SILENCE = 50_000_000  # after which datagrams count as lost


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * SECOND + t.tv_nsec


cdef inline int cell(int64_t value) noexcept nogil:
    """Its place in a histogram of 32 cells for each power of two: off by 3 % at the most."""
    cdef int shift = 0
    if value < 0:
        value = 0
    while value >= 64:
        value >>= 1
        shift += 1
    return shift * 32 + <int>value


cdef sockaddr_in to_address(bytes host, int port):
    cdef sockaddr_in address
    memset(&address, 0, sizeof(address))
    address.sin_family = AF_INET
    address.sin_port = htons(port)
    if inet_pton(AF_INET, host, &address.sin_addr) != 1:
        raise ValueError(f"{host!r} is no IPv4 address")
    return address


cdef inline void watch(int epoll, int how, int fd, uint32_t events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u32 = fd
    epoll_ctl(epoll, how, fd, &event)


# Servers

cdef struct Kind:
    const char *reply
    size_t size
    bint closes


cdef struct Peer:
    int kind
    int matched  # bytes of an empty line that have been seen
    int owed  # replies that were asked for
    size_t sent  # bytes of the reply under way


cdef class Server:
    """Answers HTTP requests on listeners of several kinds; it only looks for the empty line that ends each."""

    cdef Kind kinds[8]
    cdef int listeners
    cdef int epoll
    cdef Peer *peers
    cdef int *kind_of
    cdef list kept

    def __cinit__(self):
        self.peers = <Peer *>calloc(FDS, sizeof(Peer))
        self.kind_of = <int *>calloc(FDS, sizeof(int))
        self.epoll = epoll_create1(0)
        self.kept = []

    def __dealloc__(self):
        free(self.peers)
        free(self.kind_of)

    def add(self, int listener, bytes reply, bint closes):
        """Answer what a non-blocking listener accepts with `reply`; then close the connection or keep it."""
        cdef int kind = self.listeners
        self.kept.append(reply)
        self.kinds[kind] = Kind(reply, len(reply), closes)
        self.kind_of[listener] = kind + 1
        self.listeners += 1
        watch(self.epoll, EPOLL_CTL_ADD, listener, EPOLLIN)

    def run(self):
        """Serve until the process is killed."""
        with nogil:
            self.turn()

    cdef void turn(self) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef int count, i, fd
        while True:
            count = epoll_wait(self.epoll, events, EVENTS, -1)
            for i in range(count):
                fd = events[i].data.u32
                if self.kind_of[fd]:
                    self.accept(fd)
                elif events[i].events & EPOLLOUT:
                    self.answer(fd)
                else:
                    self.take(fd)

    cdef void accept(self, int listener) noexcept nogil:
        cdef int fd, on = 1, _n
        for _n in range(BATCH):
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)
            if fd < 0:
                return
            if fd >= FDS:
                close(fd)
                return
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
            self.peers[fd] = Peer(self.kind_of[listener] - 1, 0, 0, 0)
            watch(self.epoll, EPOLL_CTL_ADD, fd, EPOLLIN)
            self.take(fd)

    cdef void take(self, int fd) noexcept nogil:
        cdef char data[4096]
        cdef ssize_t size = recv(fd, data, sizeof(data), 0)
        cdef ssize_t i
        cdef Peer *peer = &self.peers[fd]
        if size < 0 and errno == EAGAIN:
            return
        if size <= 0:
            close(fd)
            return
        for i in range(size):
            if data[i] == END[peer.matched]:
                peer.matched += 1
            else:
                peer.matched = data[i] == END[0]
            if peer.matched == 4:
                peer.matched = 0
                peer.owed += 1
        if peer.owed:
            self.answer(fd)

    cdef void answer(self, int fd) noexcept nogil:
        cdef Peer *peer = &self.peers[fd]
        cdef Kind *kind = &self.kinds[peer.kind]
        cdef ssize_t size
        cdef bint waited = peer.sent > 0
        while peer.owed:
            size = send(fd, kind.reply + peer.sent, kind.size - peer.sent, MSG_NOSIGNAL)
            if size < 0:
                if errno == EAGAIN:
                    watch(self.epoll, EPOLL_CTL_MOD, fd, EPOLLOUT)
                else:
                    close(fd)
                return
            peer.sent += size
            if peer.sent == kind.size:
                peer.sent = 0
                peer.owed -= 1
                if kind.closes:
                    close(fd)
                    return
        if waited:
            watch(self.epoll, EPOLL_CTL_MOD, fd, EPOLLIN)


cdef struct Batch:
    mmsghdr heads[BATCH]
    iovec parts[BATCH]
    sockaddr_in names[BATCH]
    char data[BATCH * LARGEST]


cdef void prepare(Batch *batch, size_t size, bint named) noexcept nogil:
    cdef int i
    memset(batch.heads, 0, sizeof(batch.heads))
    for i in range(BATCH):
        batch.parts[i].iov_base = &batch.data[i * LARGEST]
        batch.parts[i].iov_len = size
        batch.heads[i].msg_hdr.msg_iov = &batch.parts[i]
        batch.heads[i].msg_hdr.msg_iovlen = 1
        if named:
            batch.heads[i].msg_hdr.msg_name = &batch.names[i]
            batch.heads[i].msg_hdr.msg_namelen = sizeof(sockaddr_in)


def echo_datagrams(int fd):
    """Send every datagram of a blocking socket back, until the process is killed."""
    cdef Batch *batch = <Batch *>calloc(1, sizeof(Batch))
    cdef int count, i
    with nogil:
        while True:
            prepare(batch, LARGEST, True)
            count = recvmmsg(fd, batch.heads, BATCH, 0x10000, NULL)  # MSG_WAITFORONE
            if count < 0:
                continue
            for i in range(count):
                batch.parts[i].iov_len = batch.heads[i].msg_len
            sendmmsg(fd, batch.heads, count, 0)


# Clients

cdef struct Call:
    int64_t begun
    size_t got
    bint connected


cdef class Load:
    """Requests to one address. What became of them is in `report`."""

    cdef sockaddr_in address
    cdef bytes kept
    cdef char *request
    cdef size_t size, expected
    cdef int epoll
    cdef Call *calls
    cdef uint64_t done, failed
    cdef uint64_t cells[CELLS]
    cdef uint64_t reasons[REASONS]

    def __cinit__(self, str host, int port, bytes request, size_t expected):
        self.address = to_address(host.encode(), port)
        self.kept, self.request, self.size, self.expected = request, request, len(request), expected
        self.epoll = epoll_create1(0)
        self.calls = <Call *>calloc(FDS, sizeof(Call))

    def __dealloc__(self):
        close(self.epoll)
        free(self.calls)

    def report(self, double seconds):
        """What there is to know of a run: `done`, `failed` by errno (ENODATA: a short answer), `cells`."""
        return {
            "seconds": seconds,
            "done": self.done,
            "failed": {str(i): self.reasons[i] for i in range(REASONS) if self.reasons[i]},
            "cells": {str(i): self.cells[i] for i in range(CELLS) if self.cells[i]},
        }

    cdef void record(self, int64_t took) noexcept nogil:
        self.done += 1
        self.cells[cell(took)] += 1

    cdef void fail(self, int reason) noexcept nogil:
        self.failed += 1
        self.reasons[reason if 0 <= reason < REASONS else ETIMEDOUT] += 1

    cdef int dial(self) noexcept nogil:
        """A connection under way, or -1."""
        cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1
        if fd < 0 or fd >= FDS:
            self.fail(errno)
            if fd >= 0:
                close(fd)
            return -1
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        self.calls[fd] = Call(now(), 0, False)
        if connect(fd, <sockaddr *>&self.address, sizeof(self.address)) < 0 and errno != EINPROGRESS:
            self.fail(errno)
            close(fd)
            return -1
        watch(self.epoll, EPOLL_CTL_ADD, fd, EPOLLOUT)
        return fd

    cdef int ask(self, int fd) noexcept nogil:
        """Send a request; an errno where that fails."""
        if send(fd, self.request, self.size, MSG_NOSIGNAL) < 0:
            return errno
        return 0

    cdef int connected(self, int fd) noexcept nogil:
        cdef int error = 0
        cdef uint32_t size = sizeof(error)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)
        self.calls[fd].connected = True
        watch(self.epoll, EPOLL_CTL_MOD, fd, EPOLLIN)
        return error

    def churn(self, int connections, double seconds, uint64_t total=0):
        """Short connections, so many at once: connect, ask, read to the end. For a time, or for a number of them."""
        cdef int64_t begun = now(), end
        with nogil:
            end = self.churning(connections, begun + <int64_t>(seconds * SECOND), total)
        return self.report((end - begun) / <double>SECOND)

    cdef int64_t churning(self, int connections, int64_t until, uint64_t total) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef int open = 0, count, i
        cdef uint64_t begun = 0
        cdef bint more = True
        cdef int64_t ended = 0
        while True:
            more = more and now() < until and not (total and begun >= total)
            if not more:
                ended = ended or now()
                if not open or now() > until + PATIENCE:
                    break
            while more and open < connections and not (total and begun >= total):
                begun += 1
                if self.dial() >= 0:
                    open += 1
            count = epoll_wait(self.epoll, events, EVENTS, 20)
            for i in range(count):
                open -= self.step(events[i].data.u32)
        while open > 0:
            open -= 1
            self.fail(ETIMEDOUT)
        return ended

    cdef int step(self, int fd) noexcept nogil:
        """Go on with a short connection; 1 when it is over."""
        cdef char data[65536]
        cdef ssize_t size
        cdef int error
        if not self.calls[fd].connected:
            error = self.connected(fd) or self.ask(fd)
            if error:
                return self.over(fd, error)
            return 0
        size = recv(fd, data, sizeof(data), 0)
        if size < 0:
            return 0 if errno == EAGAIN else self.over(fd, errno)
        if size:
            self.calls[fd].got += size
            return 0
        return self.over(fd, 0 if self.calls[fd].got == self.expected else ENODATA)

    cdef int over(self, int fd, int error) noexcept nogil:
        if error:
            self.fail(error)
        else:
            self.record(now() - self.calls[fd].begun)
        close(fd)
        return 1

    def paced(self, int connections, double rate, double seconds):
        """Requests over lasting connections, begun by the clock: a late answer delays no other request's time."""
        cdef int64_t begun = 0
        cdef int *idle = <int *>calloc(connections, sizeof(int))
        cdef int opened = self.open_all(connections, idle)
        with nogil:
            begun = now()
            self.pacing(idle, opened, begun, SECOND / rate, <uint64_t>(rate * seconds))
        free(idle)
        return self.report((now() - begun) / <double>SECOND)

    cdef int open_all(self, int connections, int *idle):
        """Connections, ready for requests; each of them is taken up within PATIENCE."""
        cdef epoll_event events[EVENTS]
        cdef int _i, i, count, fd, opened = 0
        cdef int64_t end = now() + PATIENCE
        for _i in range(connections):
            self.dial()
        while opened < connections and now() < end:
            PyErr_CheckSignals()
            count = epoll_wait(self.epoll, events, EVENTS, 20)
            for i in range(count):
                fd = events[i].data.u32
                if not self.calls[fd].connected and not self.connected(fd):
                    idle[opened] = fd
                    opened += 1
        if opened < connections:
            raise ConnectionError(f"{connections - opened} of {connections} connections could not be opened")
        return opened

    cdef void pacing(self, int *idle, int ready, int64_t begun, double gap, uint64_t total) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), count, i, fd, error
        cdef uint64_t asked = 0, over = 0, ticks
        cdef int64_t until = begun + <int64_t>(gap * total) + PATIENCE, due
        watch(self.epoll, EPOLL_CTL_ADD, timer, EPOLLIN)
        while over < total and now() < until:
            due = begun + <int64_t>(gap * asked)
            while asked < total and ready and due <= now():
                ready -= 1
                fd = idle[ready]
                self.calls[fd].begun, self.calls[fd].got = due, 0
                error = self.ask(fd)
                if error:
                    self.fail(error)
                    over += 1
                asked += 1
                due = begun + <int64_t>(gap * asked)
            if asked < total and ready:
                self.wake_at(timer, due)
            count = epoll_wait(self.epoll, events, EVENTS, 20)
            for i in range(count):
                fd = events[i].data.u32
                if fd == timer:
                    read(timer, &ticks, sizeof(ticks))
                elif self.answered(fd):
                    over += 1
                    idle[ready] = fd
                    ready += 1
        while over < total:
            over += 1
            self.fail(ETIMEDOUT)
        close(timer)

    cdef void wake_at(self, int timer, int64_t due) noexcept nogil:
        cdef itimerspec wanted
        memset(&wanted, 0, sizeof(wanted))
        wanted.it_value.tv_sec = due // SECOND
        wanted.it_value.tv_nsec = due % SECOND
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &wanted, NULL)

    cdef bint answered(self, int fd) noexcept nogil:
        """Whether an answer is complete. A connection that breaks stays unanswered, and is told as timed out."""
        cdef char data[65536]
        cdef ssize_t size = recv(fd, data, sizeof(data), 0)
        if size <= 0:
            if size == 0 or errno != EAGAIN:
                close(fd)
            return False
        self.calls[fd].got += size
        if self.calls[fd].got < self.expected:
            return False
        self.record(now() - self.calls[fd].begun)
        return True


def ping_datagrams(str host, int port, int size, int sockets, int window, double seconds):
    """Datagrams of `size` bytes from so many sockets, `window` under way on each: how many came back, or did not."""
    cdef Batch *batch = <Batch *>calloc(1, sizeof(Batch))
    cdef int64_t *heard = <int64_t *>calloc(FDS, sizeof(int64_t))
    cdef sockaddr_in address = to_address(host.encode(), port)
    cdef int64_t begun = now(), until = begun + <int64_t>(seconds * SECOND)
    cdef uint64_t came = 0, silences = 0
    cdef int epoll = epoll_create1(0), i, _i, room = 1 << 20, first = -1, fd = -1
    if not 0 < size <= LARGEST or not 0 < window <= BATCH:
        raise ValueError("size and window are 1 to 2048 and 1 to 64")
    for _i in range(sockets):
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)
        first = fd if first < 0 else first
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room))
        if connect(fd, <sockaddr *>&address, sizeof(address)) < 0:
            raise OSError(errno, "connect")
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN)
    with nogil:
        pinging(epoll, batch, heard, first, fd, size, window, until, &came, &silences)
    for i in range(first, fd + 1):
        close(i)
    close(epoll)
    free(batch)
    free(heard)
    return {"seconds": (now() - begun) / <double>SECOND, "done": came, "silences": silences}


cdef void pinging(int epoll, Batch *batch, int64_t *heard, int first, int last, int size, int window,
                  int64_t until, uint64_t *came, uint64_t *silences) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int count, i, fd, got
    cdef int64_t time = now(), looked = 0
    while time < until:
        if time - looked > SILENCE:
            looked = time
            for fd in range(first, last + 1):
                if time - heard[fd] > SILENCE:  # never heard, or all of its window is lost
                    silences[0] += heard[fd] != 0
                    prepare(batch, size, False)
                    sendmmsg(fd, batch.heads, window, 0)
        count = epoll_wait(epoll, events, EVENTS, 20)
        time = now()
        for i in range(count):
            fd = events[i].data.u32
            prepare(batch, LARGEST, False)
            got = recvmmsg(fd, batch.heads, BATCH, 0, NULL)
            if got > 0:
                came[0] += got
                heard[fd] = time
                prepare(batch, size, False)
                sendmmsg(fd, batch.heads, got, 0)
