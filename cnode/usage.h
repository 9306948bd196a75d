/* usage.h - what this process uses of the machine: memory, descriptors, processor time.
 *
 * Any thread; no GIL. It reads /proc, so it is for once in a while.
 */
#ifndef PYNODE_USAGE_H
#define PYNODE_USAGE_H

#include <stdint.h>

struct usage {
    int64_t resident; /* bytes; -1: not known, as below */
    int fds;          /* open descriptors */
    double cpu;       /* seconds, of all threads, user and system */
    double started;   /* seconds since 1970 */
};

/* The process starts now. Once, before any other thread. */
void usage_init(void);

void usage_read(struct usage *u);

#endif
