/* usage.h - what this process uses of the machine: descriptors, processor time.
 *
 * Any thread; no GIL. It reads /proc, so it is for once in a while.
 */
#ifndef PYNODE_USAGE_H
#define PYNODE_USAGE_H

struct usage {
    int fds;        /* open descriptors; -1: not known */
    double cpu;     /* seconds, of all threads, user and system */
    double started; /* seconds since 1970 */
};

/* The process starts now. Once, before any other thread. */
void usage_init(void);

void usage_read(struct usage *u);

#endif
