/* load.c - what being loaded costs: how long the GIL is waited for, how much memory there is. */
#include "config.h"

#include "load.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum {
    LOAD_UNIT_BITS =
        30, /* 2^30 ns, a good second: a wait counts in full in that and the next one, */
    LOAD_FADE_BITS = 8, /* and a 256th of that with each one more */
};

static struct {
    _Atomic uint64_t
        longest;           /* the longest wait of late: microseconds << 32 | the unit it ended in */
    _Atomic int entering;  /* threads that wait for the GIL */
    _Atomic int64_t moved; /* when one of them last got it, or when the first began to wait */
} load;

static uint32_t load_unit(int64_t now) {
    return (uint32_t)(now >> LOAD_UNIT_BITS);
}

/* What a wait still counts for. */
static uint64_t load_left(uint64_t longest, int64_t now) {
    uint32_t age = load_unit(now) - (uint32_t)longest;

    if (age <= 1)
        return longest >> 32;
    return age <= 4 ? longest >> 32 >> (age - 1) * LOAD_FADE_BITS : 0;
}

int64_t load_entering(void) {
    int64_t now = clock_now();

    if (atomic_load(&load.entering) == 0)
        atomic_store(&load.moved, now);
    atomic_fetch_add(&load.entering, 1);
    return now;
}

void load_entered(int64_t since) {
    int64_t now = clock_now();
    uint64_t waited = (uint64_t)(now - since) / 1000, longest = atomic_load(&load.longest);

    atomic_store(&load.moved, now);
    atomic_fetch_sub(&load.entering, 1);
    if (waited > UINT32_MAX)
        waited = UINT32_MAX;
    while (waited > load_left(longest, now) &&
           !atomic_compare_exchange_weak(&load.longest, &longest, waited << 32 | load_unit(now)))
        ;
}

uint64_t load_gil_wait(int64_t now) {
    uint64_t wait = load_left(atomic_load(&load.longest), now);
    int64_t going_on = atomic_load(&load.entering) > 0 ? now - atomic_load(&load.moved) : 0;

    return going_on > 0 && (uint64_t)going_on / 1000 > wait ? (uint64_t)going_on / 1000 : wait;
}

/* The second number in statm is what is resident, in pages. */
uint64_t load_rss(void) {
    char text[128] = "";
    unsigned long long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        close(fd);
    if (n <= 0 || sscanf(text, "%*s %llu", &pages) != 1)
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
