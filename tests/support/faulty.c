/* Preloaded into a plane's process: has the kernel refuse what its workers ask for.
 *
 * The file named by FAULTS is shared with the test: for each call, in the order of NAMES, an errno, how many times to
 * fail with it, and how often it has. The main thread is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ACCEPT4, SOCKET, CONNECT, PIPE2, SPLICE, SEND, RECV, EPOLL_CTL, SENDMMSG, RECVMMSG, NAMES };

static struct fault { int error, left, hits; } *faults;

__attribute__((constructor)) static void map(void) {
    int fd = open(getenv("FAULTS"), O_RDWR);
    faults = mmap(NULL, sizeof(struct fault) * NAMES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

static int fails(int name) {
    struct fault *fault = &faults[name];
    if (gettid() == getpid() || __atomic_load_n(&fault->left, __ATOMIC_ACQUIRE) <= 0)
        return 0;
    if (__atomic_fetch_sub(&fault->left, 1, __ATOMIC_ACQ_REL) <= 0)
        return 0;
    __atomic_fetch_add(&fault->hits, 1, __ATOMIC_ACQ_REL);
    errno = fault->error;
    return 1;
}

#define REAL(name) ({ static typeof(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

int accept4(int fd, struct sockaddr *peer, socklen_t *size, int flags) {
    return fails(ACCEPT4) ? -1 : REAL(accept4)(fd, peer, size, flags);
}
int socket(int family, int type, int protocol) { return fails(SOCKET) ? -1 : REAL(socket)(family, type, protocol); }
int connect(int fd, const struct sockaddr *peer, socklen_t size) {
    return fails(CONNECT) ? -1 : REAL(connect)(fd, peer, size);
}
int pipe2(int fds[2], int flags) { return fails(PIPE2) ? -1 : REAL(pipe2)(fds, flags); }
ssize_t splice(int source, off64_t *from, int sink, off64_t *to, size_t size, unsigned flags) {
    return fails(SPLICE) ? -1 : REAL(splice)(source, from, sink, to, size, flags);
}
ssize_t send(int fd, const void *data, size_t size, int flags) {
    return fails(SEND) ? -1 : REAL(send)(fd, data, size, flags);
}
ssize_t recv(int fd, void *data, size_t size, int flags) {
    return fails(RECV) ? -1 : REAL(recv)(fd, data, size, flags);
}
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    return operation != EPOLL_CTL_DEL && fails(EPOLL_CTL) ? -1 : REAL(epoll_ctl)(epoll, operation, fd, event);
}
int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    return fails(SENDMMSG) ? -1 : REAL(sendmmsg)(fd, messages, count, flags);
}
int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
    return fails(RECVMMSG) ? -1 : REAL(recvmmsg)(fd, messages, count, flags, timeout);
}
