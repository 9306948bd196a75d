/* wake.h - one thread wakes another that waits in epoll or poll.
 *
 * Any thread and any signal handler may set it; the waiting thread clears it. No GIL.
 */
#ifndef PYNODE_WAKE_H
#define PYNODE_WAKE_H

struct wake {
    int fd; /* readable while set; put it into the epoll set */
};

int wake_init(struct wake *w); /* 0, or -1 with errno */
void wake_done(struct wake *w);
void wake_set(struct wake *w); /* async-signal-safe */
void wake_clear(struct wake *w);

#endif
