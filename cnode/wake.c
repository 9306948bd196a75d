/* wake.c - one thread wakes another that waits in epoll or poll. */
#include "config.h"

#include "wake.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wake_init(struct wake *w) {
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->fd < 0 ? -1 : 0;
}

void wake_done(struct wake *w) {
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}

/* A full counter (EAGAIN) is set already, so the result does not matter. */
void wake_set(struct wake *w) {
    const uint64_t one = 1;
    int saved = errno;
    ssize_t n = write(w->fd, &one, sizeof one);

    (void)n;
    errno = saved;
}

void wake_clear(struct wake *w) {
    uint64_t count;
    ssize_t n = read(w->fd, &count, sizeof count);

    (void)n;
}
