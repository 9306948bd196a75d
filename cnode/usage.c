/* usage.c - what this process uses of the machine: descriptors, processor time. */
#include "config.h"

#include "usage.h"

#include <dirent.h>
#include <sys/resource.h>
#include <time.h>

static double usage_started;

static double usage_seconds(struct timeval t) {
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

void usage_init(void) {
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    usage_started = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Without the one that reads the directory. */
static int usage_fds(void) {
    DIR *directory = opendir("/proc/self/fd");
    int n = -1;

    if (!directory)
        return -1;
    for (struct dirent *entry; (entry = readdir(directory));)
        n += entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

void usage_read(struct usage *u) {
    struct rusage used = {0};

    getrusage(RUSAGE_SELF, &used);
    *u = (struct usage){
        .fds = usage_fds(),
        .cpu = usage_seconds(used.ru_utime) + usage_seconds(used.ru_stime),
        .started = usage_started,
    };
}
