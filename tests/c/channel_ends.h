/* channel_ends.h - channels over socket pairs, and the other ends of all there have been.
 *
 * Who says something from the other end before it is read lets it wait in the socket.
 */
#ifndef PYNODE_CHANNEL_ENDS_H
#define PYNODE_CHANNEL_ENDS_H

#include "channels.h"
#include "clock.h"
#include "log.h"
#include "peer.h"
#include "tap.h"
#include "term.h"

#include <sysexits.h>

enum { MAX = 8, MAX_FRAME = 8 << 20, SECONDS = 60, ME = 11, OTHER = 12 };

#define H "<a@h,20,0,3>" /* the handler that take_ready() gives */

/* In the order of their connecting. */
struct end {
    int fd;
    char alive[64], peer[64];
    uint32_t creation;
    int64_t deadline;
    struct buf in; /* the node's thread's */
};

static struct {
    pthread_mutex_t lock;
    struct end ends[4096];
    int n;
    bool refuse;
    int small; /* the buffer of the next sockets, 0: as it is */
} net = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int node_wake[2] = {-1, -1}; /* a byte: the node's thread looks for new ends, or ends */

TAP_UNUSED static void shrink(int fd, int size) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

TAP_UNUSED static int connect_cb(const char *alive, uint32_t creation, const char *peer,
                                 int64_t deadline, struct err *e) {
    struct end *end;
    int fds[2];

    pthread_mutex_lock(&net.lock);
    if (net.refuse) {
        pthread_mutex_unlock(&net.lock);
        return err_set(e, EX_UNAVAILABLE, "%s takes nobody", peer);
    }
    if (net.n == (int)(sizeof net.ends / sizeof *net.ends) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    if (net.small)
        shrink(fds[0], net.small);
    end = &net.ends[net.n++];
    *end = (struct end){.fd = fds[1], .creation = creation, .deadline = deadline};
    snprintf(end->alive, sizeof end->alive, "%s", alive);
    snprintf(end->peer, sizeof end->peer, "%s", peer);
    pthread_mutex_unlock(&net.lock);
    if (node_wake[1] >= 0 && write(node_wake[1], "+", 1) != 1)
        tap_bail("the node's thread cannot be woken");
    return fds[0];
}

TAP_UNUSED static struct end *last_end(void) {
    return &net.ends[net.n - 1];
}

/* A life's name and creation are no other's, but for the rarest chance. */
TAP_UNUSED static struct end *end_of(const struct channel *ch) {
    size_t len = strcspn(ch->name, "@");

    for (int i = net.n - 1; i >= 0; i--)
        if (net.ends[i].creation == etf_be32(ch->pid_tail + 8) &&
            strlen(net.ends[i].alive) == len && memcmp(net.ends[i].alive, ch->name, len) == 0)
            return &net.ends[i];
    tap_bail("%s: no such channel", ch->name);
}

/* Closes what is left of the other ends. */
TAP_UNUSED static void forget_ends(void) {
    for (int i = 0; i < net.n; i++) {
        if (net.ends[i].fd >= 0)
            close(net.ends[i].fd);
        buf_done(&net.ends[i].in);
    }
    net.n = 0;
}

TAP_UNUSED static void hang_up(struct end *end) {
    close(end->fd);
    end->fd = -1;
}

TAP_UNUSED static void say_bytes(const struct end *end, const void *data, size_t len) {
    if (send(end->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
        tap_bail("the socket takes no %zu bytes", len);
}

/* The node sends a frame. */
TAP_UNUSED static void say(const struct end *end, const char *control, const char *payload) {
    struct buf b = {0};

    term_put_frame(&b, control, payload);
    say_bytes(end, b.data, b.len);
    buf_done(&b);
}

/* All that the node has got so far, as text. */
TAP_UNUSED static const char *heard(const struct end *end) {
    static uint8_t bytes[1 << 16];
    ssize_t n = recv(end->fd, bytes, sizeof bytes, MSG_DONTWAIT);

    return n > 0 ? term_frames(bytes, (size_t)n) : n == 0 ? "closed" : "";
}

/* The channel's pid as text. */
TAP_UNUSED static const char *self(const struct channel *ch) {
    return term_text((struct slice){ch->self.data, ch->self.len});
}

/* A message to the channel. */
TAP_UNUSED static void say_to(const struct end *end, const struct channel *ch,
                              const char *message) {
    say(end, line("{2,'',%s}", self(ch)), message);
}

/* All nodes send a tick. */
TAP_UNUSED static void tick_all(void) {
    pthread_mutex_lock(&net.lock);
    for (int i = 0; i < net.n; i++)
        if (net.ends[i].fd >= 0)
            (void)!send(net.ends[i].fd, "\0\0\0", 4, MSG_NOSIGNAL | MSG_DONTWAIT);
    pthread_mutex_unlock(&net.lock);
}

TAP_UNUSED static int64_t in_seconds(int seconds) {
    return clock_now() + (int64_t)seconds * 1000000000;
}

TAP_UNUSED static struct channel *take(const char *peer) {
    struct err e = {0};
    struct channel *ch = channels_take(peer, ME, false, 0, &e);

    if (!ch)
        tap_bail("no channel: %s", e.text);
    return ch;
}

TAP_UNUSED static int all(void) {
    int n, pooled;

    channels_count(&n, &pooled);
    return n;
}

TAP_UNUSED static int pooled(void) {
    int n, pooled;

    channels_count(&n, &pooled);
    return pooled;
}

/* All channels end, those that are held, too. */
TAP_UNUSED static void close_all(struct channel *held) {
    forget_ends();
    if (held)
        channels_give(held);
    channels_tick();
    if (all() != 0)
        tap_bail("%d channels are left", all());
}

/* A channel with the handler H. */
TAP_UNUSED static struct channel *take_ready(void) {
    struct channel *ch = take("a@h");

    channel_begin(ch);
    channel_check(ch);
    say_to(end_of(ch), ch, "{py_handler," H "}");
    if (channel_ready(ch, 0) != CHANNEL_ANSWERED)
        tap_bail("no handler");
    channel_check(ch); /* writes what is left */
    channel_end(ch);
    heard(end_of(ch));
    return ch;
}

/* Begins a call of f(1): its frame is in out. */
TAP_UNUSED static void put_call(struct channel *ch, struct buf *out) {
    size_t begin = channel_put(ch, out);

    term_put(out, "<<\"f\">>");
    term_put(out, "[1]");
    dist_end(out, begin);
}

/* A call that nobody has answered yet is sent and waited for. */
TAP_UNUSED static enum channel_result call(struct channel *ch, int64_t deadline) {
    struct buf out = {0};
    enum channel_result result;

    put_call(ch, &out);
    result = channel_call(ch, &out, deadline);
    buf_done(&out);
    return result;
}

/* The terms that the answer is, with spaces. */
TAP_UNUSED static const char *answer(const struct channel *ch) {
    struct etf at = {ch->answer.data, ch->answer.data + ch->answer.len};
    struct slice term;
    const char *text = "";

    while (etf_left(&at) > 0 && etf_get_term(&at, &term) == 0)
        text = line("%s%s%s", text, *text ? " " : "", term_text(term));
    return etf_left(&at) > 0 ? "bytes that are no term" : text;
}

/* The answer to the call under way waits in the socket before it is sent. */
TAP_UNUSED static enum channel_result call_answered(struct channel *ch, const char *rest) {
    struct buf out = {0};
    enum channel_result result;

    put_call(ch, &out);
    say_to(end_of(ch), ch, line("{py_reply,%" PRIu64 ",%s}", ch->tag, rest));
    result = channel_call(ch, &out, 0);
    buf_done(&out);
    return result;
}

static char *log_path;

/* What the log has said since this was last asked. */
TAP_UNUSED static const char *logged(void) {
    static char said[8192];
    static size_t seen;
    char *text = tap_slurp(log_path);

    snprintf(said, sizeof said, "%s", text + seen);
    seen = strlen(text);
    free(text);
    return said;
}

/* As main() does it. */
TAP_UNUSED static void begin_channels(void) {
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    channel_init(MAX_FRAME);
    channels_init("py@h", connect_cb, MAX);
}

TAP_UNUSED static void end_channels(void) {
    free(log_path);
}

#endif
