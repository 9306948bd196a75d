/* ends.h - connections over socket pairs, for tests whose main thread plays the leader and the peers.
 *
 * A frame is fed as a part of a buffer that is overwritten afterwards, or as a buffer of its own.
 */
#ifndef PYNODE_ENDS_H
#define PYNODE_ENDS_H

#include "route.h"
#include "stats.h"
#include "tap.h"
#include "term.h"

#include <sys/socket.h>

/* A connection and what its peer holds of it. */
struct end {
    struct conn *conn;
    int peer;
};

TAP_UNUSED static void open_end(struct end *e, const char *name) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    e->conn = conn_new(fds[0], name);
    e->peer = fds[1];
}

/* Lets go of the connection: whether nobody else holds it. */
TAP_UNUSED static bool close_end(struct end *e) {
    bool last = atomic_load(&e->conn->refs) == 1;

    conn_unref(e->conn);
    close(e->peer);
    return last;
}

static bool whole; /* how the next frames are fed */

/* Routes one frame: why the connection would have to be closed, NULL if not. */
static const char *feed(struct end *e, const char *control, const char *payload) {
    struct buf bytes = {0};
    struct frame frame = {.whole = whole};
    const char *why = "no reason was given";
    size_t offset = whole ? 0 : 11;
    int result;

    buf_put(&bytes, "other bytes", offset);
    if (control)
        term_put_frame(&bytes, control, payload);
    else
        buf_put(&bytes, "\0\0\0", 4);
    frame.data = bytes.data + offset;
    frame.len = bytes.len - offset;
    result = route_frame(e->conn, &frame, &why);
    if (!whole) {
        memset(bytes.data, 0xee, bytes.len);
        buf_done(&bytes);
    }
    return result < 0 ? why : NULL;
}

/* All that the peer has been sent, as text. */
static const char *got(struct end *e) {
    uint8_t bytes[8192];
    ssize_t n;

    if (outbox_flush(&e->conn->out) != OUTBOX_EMPTY)
        tap_bail("the outbox cannot be written");
    n = recv(e->peer, bytes, sizeof bytes, MSG_DONTWAIT);
    return n > 0 ? term_frames(bytes, (size_t)n) : "";
}

/* Routes a frame that does not close the connection: what the peer gets. */
TAP_UNUSED static const char *tell(struct end *e, const char *control, const char *payload) {
    const char *why = feed(e, control, payload);

    return why ? why : got(e);
}

static struct exec_worker me; /* the worker that the main thread plays */

/* Ends a request as its worker would. */
TAP_UNUSED static void finish(struct request *r, const char *reason) {
    struct buf why = {0};

    term_put(&why, reason);
    exec_claim(r);
    exec_finish(&me, r);
    route_ended(r, (struct slice){why.data, why.len});
    buf_done(&why);
}

/* How many messages were dropped since this was last asked. */
TAP_UNUSED static uint64_t dropped(void) {
    static uint64_t before;
    uint64_t now = stats_get(STATS_DROPPED), more = now - before;

    before = now;
    return more;
}

#endif
