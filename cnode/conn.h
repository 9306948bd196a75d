/* conn.h - one connection to a peer node: its socket, what it sent, what it is to be sent.
 *
 * Counted. The read side belongs to the leader (leader.h), the outbox to any thread. The
 * descriptor is closed with the last reference, so it is never another's by mistake. No GIL.
 */
#ifndef PYNODE_CONN_H
#define PYNODE_CONN_H

#include "outbox.h"
#include "request.h"

struct conn {
    _Atomic int refs;
    char *peer; /* a@host */
    int fd;
    struct outbox out;
    _Atomic bool want_write; /* a flush met a full socket; the leader waits for room */
    _Atomic int64_t soon;    /* since when something waits to be written with more; 0: nothing */
    _Atomic bool held;       /* requests are kept back until the outbox is shorter */

    /* The leader's. */
    size_t load; /* its requests that had not ended, when that was last counted (home.c) */
    struct conn *next, **at;
    uint8_t *in;
    size_t in_start, in_len, in_cap;
    size_t want;                       /* length of the large frame being read, or 0 */
    uint64_t received;                 /* bytes, ever */
    int64_t arrived;                   /* when the last of them were read: outcome_now() */
    uint64_t tick_received, tick_sent; /* as they were at the last tick */
    int64_t ticked;                    /* when a tick was last answered */
    int silent;                        /* ticks in a row that brought nothing */
    bool paused;                       /* not read until the outbox is shorter */
    uint32_t events;                   /* what epoll watches */
};

enum {
    CONN_HIGH = 4 << 20, /* bytes in an outbox from which on the peer is not read nor served */
    CONN_LOW = 1 << 20,  /* and below which it is again */
};

enum conn_result { CONN_MORE, CONN_EMPTY, CONN_CLOSED };

/* Takes fd, which has shaken hands, and makes it non-blocking. peer is copied. */
struct conn *conn_new(int fd, const char *peer);
struct conn *conn_ref(struct conn *c);
void conn_unref(struct conn *c);

/* Ends it at once, for a peer that is not heard, but may hear: an end in good order would have to
 * wait until the peer has acknowledged what was sent to it before. */
void conn_reset(struct conn *c);

/* Whether so much waits for the peer that nothing more is to be made for it; if so, one of the
 * next conn_release() is true: after a flush, when what was kept back may go on. */
bool conn_hold(struct conn *c);
bool conn_release(struct conn *c);

/* Bytes that have come but are not read yet. */
size_t conn_unread(const struct conn *c);

/* Reads once: MORE when there may be more, EMPTY when the socket is, CLOSED with *why. */
enum conn_result conn_read(struct conn *c, const char **why);

/* For a connection that one thread reads alone: reads that wait, until there is something, the
 * connection ends or a signal comes (EMPTY, and nothing was read). Writing never waits. */
void conn_set_blocking(struct conn *c);
enum conn_result conn_await(struct conn *c, const char **why);

/* The next whole frame that has been read: 1; 0 when there is none; -1 when it is longer than
 * max bytes. The frame is good until the next conn_next() or conn_read(). */
int conn_next(struct conn *c, size_t max, struct frame *frame);

#endif
