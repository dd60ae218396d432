/* Preloaded into a plane's process: its workers' clock runs HURRY times as fast as the true one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ({ static typeof(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

enum { SECOND = 1000000000 };

static long long pace = 1, start;

static long long true_time(void) {
    struct timespec now;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * SECOND + now.tv_nsec;
}

__attribute__((constructor)) static void begin(void) {
    pace = atoll(getenv("HURRY"));
    start = true_time();
}

/* Python's own waiting, in the main thread, is in true time. */
static int hurries(void) { return gettid() != getpid(); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_MONOTONIC || !hurries())
        return REAL(clock_gettime)(clock, now);
    long long time = start + (true_time() - start) * pace;
    now->tv_sec = time / SECOND;
    now->tv_nsec = time % SECOND;
    return 0;
}

int epoll_wait(int epoll, struct epoll_event *events, int room, int timeout) {
    if (timeout > 0 && hurries())
        timeout = (timeout + pace - 1) / pace;
    return REAL(epoll_wait)(epoll, events, room, timeout);
}
