# What the data plane uses of libc and the kernel, and nothing of its own: sockets, epoll, splice, setns,
# clocks and C11-style atomics. Everything here is `noexcept nogil`; results follow the C conventions.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN, ECONNABORTED, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH
        EINPROGRESS
        EINTR, EINVAL, EIO, EMFILE, EMSGSIZE, ENETUNREACH, ENFILE, ENOBUFS, ENOMEM, ENOPROTOOPT, EPERM, EPROTO
        ETIMEDOUT

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int dup(int fd)
    ssize_t write(int fd, const void *data, size_t size)

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    int fcntl(int fd, int command, ...)
    int pipe2(int *fds, int flags)
    ssize_t splice(int source, void *, int sink, void *, size_t size, unsigned int flags)

cdef extern from "<sched.h>" nogil:
    enum:
        CLONE_NEWNET
    int setns(int fd, int kind)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    unsigned int EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int room, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    enum:
        AF_INET, AF_INET6, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, SHUT_WR, SO_ERROR, SO_KEEPALIVE
        SO_OOBINLINE, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET
    struct sockaddr:
        unsigned short sa_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *about)
    unsigned char *CMSG_DATA(cmsghdr *about)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int bind(int fd, const sockaddr *own, socklen_t size)
    int accept4(int fd, sockaddr *peer, socklen_t *size, int flags)
    int connect(int fd, const sockaddr *peer, socklen_t size)
    int getpeername(int fd, sockaddr *peer, socklen_t *size)
    int getsockname(int fd, sockaddr *own, socklen_t *size)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
    int shutdown(int fd, int how)
    int socket(int family, int kind, int protocol)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IP_BIND_ADDRESS_NO_PORT, IP_PKTINFO, IP_TRANSPARENT, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_PKTINFO
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    uint16_t htons(uint16_t host)
    uint16_t ntohs(uint16_t network)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *out, size_t size, const char *format, ...)

cdef extern from "<netinet/udp.h>" nogil:
    """
    /* Newer than the C libraries that we still build with. */
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    #ifndef SOL_UDP
    #define SOL_UDP 17
    #endif
    """
    enum:
        SOL_UDP, UDP_GRO, UDP_SEGMENT

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_INFO, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY, TCP_QUICKACK
    struct tcp_info:
        uint32_t tcpi_rtt  # microseconds
        uint32_t tcpi_total_retrans

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <linux/sockios.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* A broken invariant ends a debug build at once; Cython's `assert` would print and go on. */
    #ifdef MESHLB_DEBUG
    #define CHECK(condition) \\
        do { if (!(condition)) { fprintf(stderr, "meshlb: broken invariant: %s (%s:%d)\\n", #condition, \\
             __FILE__, __LINE__); abort(); } } while (0)
    #else
    #define CHECK(condition) ((void)0)
    #endif

    #define load_acquire(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define store_release(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    #define exchange(place, value) __atomic_exchange_n((place), (value), __ATOMIC_ACQ_REL)
    #define compare_exchange(place, expected, value) __sync_bool_compare_and_swap((place), (expected), (value))
    #define fetch_add_release(place, value) __atomic_fetch_add((place), (value), __ATOMIC_RELEASE)
    #define fetch_add_ordered(place, value) __atomic_fetch_add((place), (value), __ATOMIC_ACQ_REL)
    #define leading_zeros(value) __builtin_clzll(value)
    #define fetch_add(place, value) __atomic_fetch_add((place), (value), __ATOMIC_RELAXED)
    #define load_relaxed(place) __atomic_load_n((place), __ATOMIC_RELAXED)
    #define store_relaxed(place, value) __atomic_store_n((place), (value), __ATOMIC_RELAXED)

    /* Whether what is read next is the byte that the peer marked as urgent. */
    static inline int at_mark(int fd) {
        int at = 0;
        return ioctl(fd, SIOCATMARK, &at) == 0 && at;
    }

    /* What the socket will be closed with is an RST. */
    static inline void reset_on_close(int fd) {
        struct linger at_once = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }

    /* Two descriptors in one call where they are neighbours, which those of a connection mostly are. */
    static inline void close_both(int one, int other) {
    #ifdef SYS_close_range
        static int refused = 0;
        if ((one - other == 1 || other - one == 1) && !__atomic_load_n(&refused, __ATOMIC_RELAXED)) {
            if (syscall(SYS_close_range, one < other ? one : other, one < other ? other : one, 0) == 0)
                return;
            __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
        }
    #endif
        close(one);
        close(other);
    }

    /* One thread writes a counter and any thread reads it: no lock prefix, and never a torn 64-bit value. */
    static inline void bump(uint64_t *counter, uint64_t by) {
        __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
    }
    /* The same, ordered: whoever sees the new value also sees all that the thread did before. */
    static inline void bump_last(uint64_t *counter, uint64_t by) {
        __atomic_store_n(counter, *counter + by, __ATOMIC_RELEASE);
    }
    """
    void CHECK(bint condition) noexcept nogil
    void *load_acquire_pointer "load_acquire" (void **place) noexcept nogil
    void *exchange_pointer "exchange" (void **place, void *value) noexcept nogil
    uint64_t load_acquire(uint64_t *place) noexcept nogil
    int32_t load_acquire_int "load_acquire" (int32_t *place) noexcept nogil
    bint compare_exchange_pointer "compare_exchange" (void **place, void *expected, void *value) noexcept nogil
    void store_release_pointer "store_release" (void **place, void *value) noexcept nogil
    void store_release(uint64_t *place, uint64_t value) noexcept nogil
    void store_release_int "store_release" (int32_t *place, int32_t value) noexcept nogil
    uint32_t fetch_add(uint32_t *place, uint32_t value) noexcept nogil
    uint32_t fetch_add_ordered(uint32_t *place, uint32_t value) noexcept nogil
    int32_t fetch_add_int "fetch_add_release" (int32_t *place, int32_t value) noexcept nogil
    uint64_t load_relaxed(uint64_t *place) noexcept nogil
    void store_relaxed(uint64_t *place, uint64_t value) noexcept nogil
    bint compare_exchange(uint64_t *place, uint64_t expected, uint64_t value) noexcept nogil
    bint compare_exchange_uint "compare_exchange" (uint32_t *place, uint32_t expected, uint32_t value) noexcept nogil
    int leading_zeros(uint64_t value) noexcept nogil  # not of 0
    bint at_mark(int fd) noexcept nogil
    void reset_on_close(int fd) noexcept nogil
    void close_both(int one, int other) noexcept nogil
    uint32_t load_relaxed_uint "load_relaxed" (uint32_t *place) noexcept nogil
    void store_relaxed_uint "store_relaxed" (uint32_t *place, uint32_t value) noexcept nogil
    void bump(uint64_t *counter, uint64_t by) noexcept nogil
    void bump_last(uint64_t *counter, uint64_t by) noexcept nogil
