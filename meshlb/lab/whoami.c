/* The server in the lab's image: HTTP on PORT (8000) says which container answered, ECHO_PORT (9000) echoes;
 * of UDP its answers begin with the container's name and a new line.
 *
 * One epoll loop and a deep accept queue, so that under load it is never the server that fails. busybox's
 * httpd, which stands in for it where there is no C compiler, queues nine connections; the tenth waits a second.
 *
 * START_DELAY: seconds until it listens. STOP_DELAY: seconds that it serves on after SIGTERM. Then it closes its
 * listeners, answers those whom it has accepted, and exits, as a well-behaved server does: with 1 when it could not.
 * NODE, TASK: said in the answer, for example --env NODE={{.Node.Hostname}} --env TASK={{.Task.Name}}.
 * GREET=1: of TCP, too, what ECHO_PORT says begins with the container's name and a new line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum kind { HTTP_LISTENER, ECHO_LISTENER, DATAGRAMS, HTTP, ECHO };

/* `size` bytes wait in `data`: of a request that is not complete, or to be sent from `sent` on. */
struct conn {
    int fd;
    enum kind kind;
    int sending, closing, owed; /* owed: a client that waits for its answer */
    size_t size, sent;
    char data[8192];
};

static int epoll;
static char identity[1024];
static struct conn *listeners[3];
static int waiting; /* connections that are owed an answer */
static volatile sig_atomic_t stopping;

static void stop(int signal) { (void)signal; stopping = 1; }

static void pause_for(const char *variable) {
    const char *text = getenv(variable);
    double seconds = text ? atof(text) : 0;
    struct timespec left = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    if (seconds > 0)
        nanosleep(&left, NULL); /* a signal ends it early */
}

static void identify(void) {
    char host[256] = "";
    const char *node = getenv("NODE"), *task = getenv("TASK");
    gethostname(host, sizeof host - 1);
    snprintf(identity, sizeof identity, "%s\n%s%.300s%s%s%.300s%s", host, node ? "node: " : "", node ? node : "",
             node ? "\n" : "", task ? "task: " : "", task ? task : "", task ? "\n" : "");
}

static void watch(struct conn *conn, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll, operation, conn->fd, &event) < 0)
        perror("epoll_ctl"), exit(1);
}

static void owe(struct conn *conn, int owed) {
    waiting += owed - conn->owed;
    conn->owed = owed;
}

static struct conn *add(int fd, enum kind kind) {
    struct conn *conn = malloc(sizeof *conn);
    if (!conn)
        perror("malloc"), exit(1);
    conn->fd = fd, conn->kind = kind, conn->sending = conn->closing = conn->owed = 0, conn->size = conn->sent = 0;
    owe(conn, kind == HTTP);
    watch(conn, EPOLL_CTL_ADD, EPOLLIN);
    return conn;
}

static void drop(struct conn *conn) {
    owe(conn, 0);
    close(conn->fd);
    free(conn);
}

static int bound(int family, int type, int port) {
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(family, type | SOCK_NONBLOCK, 0), on = 1, off = 0;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (family == AF_INET6 ? bind(fd, (struct sockaddr *)&v6, sizeof v6) : bind(fd, (struct sockaddr *)&v4, sizeof v4))
        return close(fd), -1;
    return fd;
}

static struct conn *serve(const char *variable, int port, enum kind kind) {
    const char *text = getenv(variable);
    int type = kind == DATAGRAMS ? SOCK_DGRAM : SOCK_STREAM;
    int fd = bound(AF_INET6, type, text ? atoi(text) : port);
    if (fd < 0) /* no IPv6 here */
        fd = bound(AF_INET, type, text ? atoi(text) : port);
    if (fd < 0 || (kind != DATAGRAMS && listen(fd, 4096) < 0))
        perror("listen"), exit(1);
    return add(fd, kind);
}

static void flush(struct conn *conn) {
    while (conn->sent < conn->size) {
        ssize_t count = send(conn->fd, conn->data + conn->sent, conn->size - conn->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) {
            if (!conn->sending)
                watch(conn, EPOLL_CTL_MOD, EPOLLOUT);
            conn->sending = 1;
            return;
        }
        if (count < 0) {
            drop(conn);
            return;
        }
        conn->sent += count;
    }
    if (conn->closing) {
        drop(conn);
        return;
    }
    owe(conn, 0);
    if (conn->sending)
        watch(conn, EPOLL_CTL_MOD, EPOLLIN);
    conn->sending = 0, conn->size = conn->sent = 0;
}

static void welcome(struct conn *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct conn *conn = add(fd, listener->kind == HTTP_LISTENER ? HTTP : ECHO);
        if (conn->kind == ECHO && getenv("GREET")) {
            conn->size = strcspn(identity, "\n") + 1;
            memcpy(conn->data, identity, conn->size);
            flush(conn);
        }
    }
}

static void name_client(int fd, char *text, size_t size) {
    struct sockaddr_in6 peer; /* the larger of the two */
    struct sockaddr_in *v4 = (struct sockaddr_in *)&peer;
    socklen_t length = sizeof peer;
    char address[INET6_ADDRSTRLEN] = "?";
    *text = 0;
    if (getpeername(fd, (struct sockaddr *)&peer, &length))
        return;
    if (peer.sin6_family == AF_INET)
        inet_ntop(AF_INET, &v4->sin_addr, address, sizeof address);
    else if (IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr))
        inet_ntop(AF_INET, &peer.sin6_addr.s6_addr[12], address, sizeof address);
    else
        inet_ntop(AF_INET6, &peer.sin6_addr, address, sizeof address);
    snprintf(text, size, "client: %s %d\n", address, ntohs(peer.sin6_port)); /* the port is at one place in both */
}

static void respond(struct conn *conn) {
    char client[100];
    int lasting = strcasestr(conn->data, " HTTP/1.1\r\n") && !strcasestr(conn->data, "\r\nConnection: close\r\n");
    name_client(conn->fd, client, sizeof client);
    conn->closing = !lasting;
    conn->size = snprintf(conn->data, sizeof conn->data,
                          "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n%s%s",
                          strlen(identity) + strlen(client), lasting ? "" : "Connection: close\r\n", identity, client);
    conn->sent = 0;
    flush(conn);
}

static void receive(struct conn *conn) {
    ssize_t count = recv(conn->fd, conn->data + conn->size, sizeof conn->data - 1 - conn->size, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        drop(conn);
        return;
    }
    conn->size += count;
    owe(conn, conn->kind == HTTP);
    conn->data[conn->size] = 0;
    if (conn->kind == ECHO)
        flush(conn);
    else if (strstr(conn->data, "\r\n\r\n"))
        respond(conn);
    else if (conn->size == sizeof conn->data - 1) /* no request is that long */
        drop(conn);
}

static void reply(int fd) {
    char data[65536];
    struct sockaddr_in6 peer; /* the larger of the two */
    socklen_t length = sizeof peer;
    size_t name = strcspn(identity, "\n") + 1;
    ssize_t count;
    memcpy(data, identity, name);
    while ((count = recvfrom(fd, data + name, sizeof data - name, 0, (struct sockaddr *)&peer, &length)) >= 0) {
        sendto(fd, data, name + count, 0, (struct sockaddr *)&peer, length);
        length = sizeof peer;
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[256];
    int count = epoll_wait(epoll, events, 256, milliseconds);
    for (int i = 0; i < count; i++) {
        struct conn *conn = events[i].data.ptr;
        if (conn->kind == HTTP_LISTENER || conn->kind == ECHO_LISTENER)
            welcome(conn);
        else if (conn->kind == DATAGRAMS)
            reply(conn->fd);
        else if (conn->sending)
            flush(conn);
        else
            receive(conn);
    }
}

int main(void) {
    /* Process 1 has no default signal actions: without a handler a stop would take the whole grace period. */
    struct sigaction on_stop = {.sa_handler = stop};
    sigaction(SIGTERM, &on_stop, NULL);
    sigaction(SIGINT, &on_stop, NULL);
    identify();
    pause_for("START_DELAY");
    epoll = epoll_create1(0);
    listeners[0] = serve("PORT", 8000, HTTP_LISTENER);
    listeners[1] = serve("ECHO_PORT", 9000, ECHO_LISTENER);
    listeners[2] = serve("ECHO_PORT", 9000, DATAGRAMS);
    while (!stopping)
        turn(1000); /* bounded: a signal may come just before the wait */
    const char *delay = getenv("STOP_DELAY");
    for (time_t end = time(NULL) + (delay ? atoi(delay) : 0); time(NULL) < end;)
        turn(100);
    for (int i = 0; i < 2; i++)
        welcome(listeners[i]), drop(listeners[i]);
    reply(listeners[2]->fd), drop(listeners[2]);
    for (int turns = 0; waiting && turns < 200; turns++)
        turn(10);
    return waiting != 0;
}
