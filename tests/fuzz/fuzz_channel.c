/* fuzz_channel.c - any bytes as what an Erlang node sends to a Python thread's own connection.
 *
 * The input is sent to three channels: to one that is in no call, to one that asks for a handler, to
 * one in a call; half of it first, then the rest. So that it can be what is waited for, pid, handler,
 * tag and references are fixed. What decides the waiting is held against the promises of channel.h,
 * what goes back must be whole frames, and nothing may be left. One thread.
 */
#include "config.h"

#include "channels.h"
#include "log.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FUZZ_FRAME_MAX = 1 << 20, FUZZ_SIZE_MAX = 1 << 16, FUZZ_TAG = 7, FUZZ_CREATION = 77 };

enum fuzz_way { FUZZ_IDLE, FUZZ_ASKING, FUZZ_CALLING };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fuzz_peer; /* the node's end */

static void fuzz_hold(bool held) {
    if (!held)
        abort();
}

static int fuzz_connect(const char *alive, uint32_t creation, const char *peer, int64_t deadline,
                        struct err *e) {
    int fds[2];

    (void)alive;
    (void)creation;
    (void)peer;
    (void)deadline;
    (void)e;
    fuzz_hold(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    fuzz_peer = fds[1];
    return fds[0];
}

/* A channel whose pid is <py-thread-N@h,1,0,77>, whatever it is called, and whose socket does not
 * wait: when there is nothing to read it looks like a signal. */
static struct channel *fuzz_take(void) {
    struct err e;
    struct channel *ch = channels_take("a@h", 1, true, 0, &e);

    fuzz_hold(ch != NULL);
    etf_set_be32(ch->pid_tail + 8, FUZZ_CREATION);
    etf_set_be32(ch->self.data + ch->self.len - 4, FUZZ_CREATION);
    fuzz_hold(fcntl(ch->conn->fd, F_SETFL, O_NONBLOCK) == 0);
    return ch;
}

static void fuzz_send(const uint8_t *data, size_t size) {
    if (size > 0)
        fuzz_hold(send(fuzz_peer, data, size, MSG_NOSIGNAL) == (ssize_t)size);
}

/* What the node has got is whole frames that this one would take, too. */
static void fuzz_read(void) {
    static uint8_t bytes[1 << 20];
    ssize_t n = recv(fuzz_peer, bytes, sizeof bytes, MSG_DONTWAIT);
    size_t at = 0, total;

    while (n > 0 && at < (size_t)n) {
        struct dist_msg msg;
        const char *why;

        fuzz_hold(dist_next(bytes + at, (size_t)n - at, INT32_MAX, &total) == 1);
        fuzz_hold(dist_parse(bytes + at, total, &msg, &why) == 0);
        at += total;
    }
}

/* The answer is n whole terms. */
static void fuzz_terms(struct slice answer, int n) {
    struct etf at = {answer.data, answer.data + answer.len};
    struct slice term;

    for (; n > 0; n--)
        fuzz_hold(etf_get_term(&at, &term) == 0);
    fuzz_hold(at.p == at.end);
}

/* What has come of the waiting is so. */
static void fuzz_result(const struct channel *ch, enum channel_result result, enum fuzz_way way) {
    switch (result) {
    case CHANNEL_ANSWERED:
        if (way == FUZZ_CALLING)
            fuzz_terms(ch->answer, 3);
        else
            fuzz_hold(ch->handler.len > 0 && ch->handler.data[0] == ETF_NEW_PID &&
                      ch->watch.len == 0);
        break;
    case CHANNEL_ENDED:
        fuzz_hold(way == FUZZ_CALLING && ch->handler.len == 0);
        fuzz_terms(ch->answer, 1);
        break;
    case CHANNEL_RETIRED:
        fuzz_hold(way == FUZZ_CALLING && ch->handler.len == 0);
        break;
    case CHANNEL_HOMELESS:
        fuzz_hold(ch->watch.len == 0);
        break;
    case CHANNEL_LOST:
        fuzz_hold(ch->broken);
        break;
    default:
        fuzz_hold(result == CHANNEL_SIGNALLED);
        break;
    }
}

static void fuzz_ask(struct channel *ch) {
    ch->watch.len = 0;
    etf_put_ref(&ch->watch, "py@h", FUZZ_CREATION, (const uint32_t[]){1, 2, 3}, 3);
}

static void fuzz_call(struct channel *ch) {
    struct buf out = {0};
    size_t begin;

    if (ch->handler.len == 0)
        etf_put_pid(&ch->handler, "a@h", 20, 0, 3);
    begin = channel_put(ch, &out);
    etf_put_string(&out, "f");
    etf_put_nil(&out);
    fuzz_hold(dist_end(&out, begin) == 0);
    ch->tag = FUZZ_TAG;
    outbox_put_buf(&ch->conn->out, &out);
    buf_done(&out);
}

/* Waits until nothing more decides anything. */
static void fuzz_wait(struct channel *ch, enum fuzz_way way) {
    enum channel_result result;

    do {
        if (way == FUZZ_ASKING)
            fuzz_ask(ch);
        else
            fuzz_call(ch);
        result = channel_wait(ch, 0);
        fuzz_result(ch, result, way);
        fuzz_read();
    } while (result != CHANNEL_SIGNALLED && result != CHANNEL_LOST);
}

static void fuzz_channel(const uint8_t *data, size_t size, enum fuzz_way way) {
    struct channel *ch = fuzz_take();
    int all, pooled;

    if (way != FUZZ_IDLE)
        channel_begin(ch);
    for (int half = 0; half < 2 && !ch->broken; half++) {
        fuzz_send(half ? data + size / 2 : data, half ? size - size / 2 : size / 2);
        if (way == FUZZ_IDLE)
            channels_tick();
        else
            fuzz_wait(ch, way);
        fuzz_read();
    }
    if (way != FUZZ_IDLE) {
        channel_abandon(ch);
        channel_end(ch);
    }
    fuzz_read();
    fuzz_hold(!ch->kept.data && !ch->answer.data);
    close(fuzz_peer);
    channels_give(ch);
    channels_tick();
    channels_count(&all, &pooled);
    fuzz_hold(all == 0 && pooled == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool ready;

    if (!ready) {
        log_open(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "/dev/null");
        request_init("py@h", FUZZ_CREATION);
        channel_init(FUZZ_FRAME_MAX);
        channels_init("py@h", fuzz_connect, 4);
    }
    ready = true;
    if (size > FUZZ_SIZE_MAX)
        return 0;
    fuzz_channel(data, size, FUZZ_IDLE);
    fuzz_channel(data, size, FUZZ_ASKING);
    fuzz_channel(data, size, FUZZ_CALLING);
    return 0;
}
