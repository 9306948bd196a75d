/* conn.c - one connection to a peer node: its socket, what it sent, what it is to be sent. */
#include "config.h"

#include "conn.h"
#include "outcome.h"
#include "stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONN_BUFFER = 64 << 10, /* one read takes up to this */
    CONN_LARGE = 16 << 10,  /* a frame from here on gets a buffer of its own, which moves on */
};

struct conn *conn_new(int fd, const char *peer) {
    struct conn *c = xcalloc(1, sizeof *c);

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    atomic_store(&c->refs, 1);
    c->peer = xstrdup(peer);
    c->fd = fd;
    outbox_init(&c->out, fd);
    return c;
}

struct conn *conn_ref(struct conn *c) {
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void conn_unref(struct conn *c) {
    if (atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    outbox_done(&c->out);
    close(c->fd);
    free(c->in);
    free(c->peer);
    free(c);
}

/* To connect to nowhere is how TCP is told, whoever else has the socket; others know only the next line. */
void conn_reset(struct conn *c) {
    static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

    connect(c->fd, &nowhere, sizeof nowhere);
    shutdown(c->fd, SHUT_RDWR);
}

/* The flag is set before the bytes are looked at again, and conn_release() does both the other way
 * round: one of the two sees what the other has done. */
bool conn_hold(struct conn *c) {
    if (atomic_load_explicit(&c->out.bytes, memory_order_relaxed) <= CONN_HIGH)
        return false;
    atomic_store(&c->held, true);
    return atomic_load(&c->out.bytes) > CONN_HIGH;
}

bool conn_release(struct conn *c) {
    return atomic_load(&c->held) && atomic_load(&c->out.bytes) < CONN_LOW &&
           atomic_exchange(&c->held, false);
}

size_t conn_unread(const struct conn *c) {
    int n;

    return ioctl(c->fd, FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}

/* Makes room to read into: the rest of the large frame, or a buffer's worth. */
static int conn_room(struct conn *c) {
    size_t have = c->in_len - c->in_start;
    size_t cap = c->want > CONN_LARGE ? c->want : CONN_BUFFER;
    uint8_t *in;

    if (c->in && c->in_cap == cap) {
        if (c->in_start > 0 && have > 0)
            memmove(c->in, c->in + c->in_start, have);
    } else {
        in = malloc(cap);
        if (!in)
            return -1;
        if (have > 0)
            memcpy(in, c->in + c->in_start, have);
        free(c->in);
        c->in = in;
        c->in_cap = cap;
    }
    c->in_start = 0;
    c->in_len = have;
    return 0;
}

/* Reads once; without MSG_DONTWAIT in flags a signal ends the waiting. */
static enum conn_result conn_read_with(struct conn *c, int flags, const char **why) {
    size_t room;
    ssize_t n;

    if (conn_room(c) < 0) {
        *why = "no memory for a frame";
        return CONN_CLOSED;
    }
    room = c->in_cap - c->in_len;
    do
        n = recv(c->fd, c->in + c->in_len, room, flags);
    while (n < 0 && errno == EINTR && flags);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            return CONN_EMPTY;
        *why = strerror(errno);
        return CONN_CLOSED;
    }
    if (n == 0) {
        *why = "peer closed";
        return CONN_CLOSED;
    }
    c->in_len += (size_t)n;
    c->received += (uint64_t)n;
    c->arrived = outcome_now();
    stats_add(STATS_BYTES_IN, (uint64_t)n);
    return (size_t)n == room ? CONN_MORE : CONN_EMPTY;
}

enum conn_result conn_read(struct conn *c, const char **why) {
    return conn_read_with(c, MSG_DONTWAIT, why);
}

enum conn_result conn_await(struct conn *c, const char **why) {
    return conn_read_with(c, 0, why);
}

void conn_set_blocking(struct conn *c) {
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) & ~O_NONBLOCK);
}

int conn_next(struct conn *c, size_t max, struct frame *frame) {
    size_t have = c->in_len - c->in_start, total;
    int found = have ? dist_next(c->in + c->in_start, have, max, &total) : 0;

    if (found <= 0) {
        c->want = found == 0 && have >= 4 ? total : 0;
        return found;
    }
    *frame = (struct frame){.data = c->in + c->in_start, .len = total};
    c->in_start += total;
    c->want = 0;
    stats_add(STATS_FRAMES_IN, 1);
    if (total > CONN_LARGE && c->in_cap == total) { /* it alone fills the buffer: give it away */
        frame->whole = true;
        c->in = NULL;
        c->in_start = c->in_len = c->in_cap = 0;
    }
    return 1;
}
