/* A wall clock that is an hour ahead, for a Redis server: LD_PRELOAD of what this is compiled to.
 *
 * libfaketime cannot be used there: it and jemalloc call each other before either is ready. Redis asks only these two.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define AHEAD_S 3600

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    long code = syscall(SYS_gettimeofday, now, zone);
    if (code == 0 && now)
        now->tv_sec += AHEAD_S;
    return (int)code;
}

time_t time(time_t *out) {
    struct timeval now;
    gettimeofday(&now, NULL);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
