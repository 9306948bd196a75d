/* channel.c - a Python thread's own connection to an Erlang node, and its handler process there. */
#include "config.h"

#include "channel.h"
#include "answer.h"
#include "clock.h"
#include "log.h"
#include "stats.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum {
    CHANNEL_SILENT = 4,         /* ticks in a row that brought nothing, as io's */
    CHANNEL_SPIN_NS = 100000,   /* the only caller looks this long before it sleeps */
    CHANNEL_HANDLER_MS = 5000,  /* the longest that the coordinator is waited for */
    CHANNEL_HOMELESS_MS = 1000, /* and while there is none: it may be about to be started again */
    CHANNEL_PAUSE_MS = 10,
    CHANNEL_READS = 16, /* at one look; who sends faster than it is read would hold up the leader */
};

/* Not an answer: nothing of what was read ends the waiting. */
enum { CHANNEL_NOTHING = -1 };

static struct {
    size_t max_frame;
    _Atomic uint64_t next_tag;
    _Atomic int calls; /* that wait for their answer */
    _Atomic bool spinning;
} channel_common = {.next_tag = 1};

void channel_init(size_t max_frame) {
    channel_common.max_frame = max_frame;
}

/* The read side: one at a time has it. The tick, the only other one, never keeps it for long. */

static bool channel_try_reading(struct channel *ch) {
    return !atomic_exchange_explicit(&ch->reading, true, memory_order_acquire);
}

void channel_start_reading(struct channel *ch) {
    while (!channel_try_reading(ch))
        sched_yield();
}

void channel_stop_reading(struct channel *ch) {
    atomic_store_explicit(&ch->reading, false, memory_order_release);
}

static struct slice channel_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

static void channel_forget_answer(struct channel *ch) {
    if (ch->kept.whole)
        free(ch->kept.data);
    ch->kept = (struct frame){0};
    ch->answer = (struct slice){0};
}

/* Beginning and end. */

struct channel *channel_new(const char *name, int number, uint32_t creation, int fd,
                            const char *peer, unsigned long thread) {
    struct channel *ch = xcalloc(1, sizeof *ch);

    ch->number = number;
    ch->thread = thread;
    ch->used = clock_now();
    ch->conn = conn_new(fd, peer);
    conn_set_blocking(ch->conn);
    snprintf(ch->name, sizeof ch->name, "%s", name);
    etf_put_pid(&ch->self, ch->name, 1, 0, creation);
    memcpy(ch->pid_tail, ch->self.data + ch->self.len - sizeof ch->pid_tail, sizeof ch->pid_tail);
    return ch;
}

void channel_free(struct channel *ch) {
    channel_forget_answer(ch);
    conn_unref(ch->conn);
    buf_done(&ch->self);
    buf_done(&ch->handler);
    buf_done(&ch->watch);
    free(ch);
}

/* What arrives. */

/* Closes a frame of a few bytes that was begun in out and sends it. */
static void channel_put_frame(struct channel *ch, struct buf *out, size_t begin) {
    if (dist_end(out, begin) < 0)
        fatal("channel: a control message of %zu bytes", out->len);
    stats_add(STATS_BYTES_OUT, out->len);
    outbox_put_buf(&ch->conn->out, out);
}

/* Whether a pid is that of this channel's own life: its name may have been another's before. */
static bool channel_is_self(const struct channel *ch, struct slice pid) {
    return pid.len > sizeof ch->pid_tail &&
           memcmp(pid.data + pid.len - sizeof ch->pid_tail, ch->pid_tail, sizeof ch->pid_tail) == 0;
}

static bool channel_is_handler(const struct channel *ch, struct slice pid) {
    return ch->handler.len > 0 && slice_equal(pid, channel_slice(&ch->handler));
}

/* The coordinator is not watched any more. */
static void channel_unwatch(struct channel *ch) {
    struct buf out = {0}, name = {0};
    size_t begin = dist_begin(&out);

    if (ch->watch.len > 0) {
        etf_put_atom(&name, "py_coordinator");
        dist_put_demonitor(&out, channel_slice(&ch->self), channel_slice(&name),
                           channel_slice(&ch->watch));
        channel_put_frame(ch, &out, begin);
    }
    ch->watch.len = 0;
    buf_done(&name);
    buf_done(&out);
}

static void channel_kill(struct channel *ch, struct slice pid) {
    struct buf out = {0};
    size_t begin = dist_begin(&out);

    dist_put_exit2(&out, channel_slice(&ch->self), pid);
    etf_put_atom(&out, "kill");
    channel_put_frame(ch, &out, begin);
    buf_done(&out);
}

/* {py_handler, Pid}: the handler that was asked for; or one too much, if the one who was asked was late
 * and was asked again. */
static int channel_take_handler(struct channel *ch, struct etf *at) {
    struct slice pid;

    if (etf_get_term(at, &pid) < 0 || pid.data[0] != ETF_NEW_PID || channel_is_handler(ch, pid))
        return CHANNEL_NOTHING;
    if (ch->watch.len == 0) {
        if (atomic_load(&ch->conn->out.bytes) <= CONN_HIGH)
            channel_kill(ch, pid);
        return CHANNEL_NOTHING;
    }
    ch->handler.len = 0;
    buf_put(&ch->handler, pid.data, pid.len);
    channel_unwatch(ch);
    return CHANNEL_ANSWERED;
}

/* {py_reply, Tag, Class, Value, Stack}: the answer if the tag is that of the call under way. */
static int channel_take_reply(struct channel *ch, struct etf *at) {
    int64_t tag;

    if (etf_get_integer(at, &tag) < 0 || ch->tag == 0 || (uint64_t)tag != ch->tag)
        return CHANNEL_NOTHING;
    ch->answer = (struct slice){at->p, etf_left(at)};
    return CHANNEL_ANSWERED;
}

static int channel_take_message(struct channel *ch, const struct dist_msg *msg) {
    struct etf at = {msg->payload.data, msg->payload.data + msg->payload.len};
    struct slice what;
    uint32_t arity;

    if (!channel_is_self(ch, msg->to) || etf_get_tuple(&at, &arity) < 0 ||
        etf_get_atom(&at, &what) < 0)
        return CHANNEL_NOTHING;
    if (arity == 2 && etf_atom_is(what, "py_handler"))
        return channel_take_handler(ch, &at);
    if (arity == 5 && etf_atom_is(what, "py_reply"))
        return channel_take_reply(ch, &at);
    return CHANNEL_NOTHING;
}

/* {shutdown, retired}: the reason of a handler that takes no more calls, and has not taken the one
 * that is on its way. */
static bool channel_is_retired(struct slice reason) {
    struct etf at = {reason.data, reason.data + reason.len};
    struct slice first, second;
    uint32_t arity;

    return etf_get_tuple(&at, &arity) == 0 && arity == 2 && etf_get_atom(&at, &first) == 0 &&
           etf_atom_is(first, "shutdown") && etf_get_atom(&at, &second) == 0 &&
           etf_atom_is(second, "retired");
}

/* The handler, to which the channel is linked, has ended. */
static int channel_take_exit(struct channel *ch, const struct dist_msg *msg) {
    if (!channel_is_handler(ch, msg->from))
        return CHANNEL_NOTHING;
    ch->handler.len = 0;
    if (ch->tag == 0)
        return CHANNEL_NOTHING;
    ch->answer = msg->reason;
    return channel_is_retired(msg->reason) ? CHANNEL_RETIRED : CHANNEL_ENDED;
}

/* The coordinator that was asked for a handler is not there, or has ended since. */
static int channel_take_down(struct channel *ch, const struct dist_msg *msg) {
    if (ch->watch.len == 0 || !slice_equal(msg->ref, channel_slice(&ch->watch)))
        return CHANNEL_NOTHING;
    ch->watch.len = 0;
    return CHANNEL_HOMELESS;
}

static bool channel_is_to(const struct dist_msg *msg, const char *name) {
    struct etf at = {msg->to.data, msg->to.data + msg->to.len};
    struct slice to;

    return etf_get_atom(&at, &to) == 0 && etf_atom_is(to, name);
}

/* Others that ask something of a node that runs nothing: so that they do not wait for ever. */
static void channel_take_question(struct channel *ch, const struct dist_msg *msg) {
    struct buf out = {0}, why = {0};
    struct request_gen gen;
    size_t begin;

    if (atomic_load(&ch->conn->out.bytes) > CONN_HIGH) /* it does not read what it is told */
        return;
    begin = dist_begin(&out);
    if (msg->op == DIST_SPAWN_REQUEST) {
        etf_put_atom(&why, "notsup");
        dist_put_spawn_reply(&out, msg->ref, msg->from, 0, channel_slice(&why));
    } else if (msg->op == DIST_MONITOR) {
        dist_put_monitor_exit(&out, msg->to, msg->from, msg->ref);
        etf_put_atom(&out, "noproc");
    } else if (msg->op == DIST_UNLINK_ID) {
        dist_put_unlink_ack(&out, msg->id, msg->to, msg->from);
    } else if (msg->op == DIST_LINK && !channel_is_self(ch, msg->to)) {
        dist_put_noproc(&out, msg->to, msg->from);
    } else if (msg->op == DIST_REG_SEND && channel_is_to(msg, "net_kernel") &&
               request_read_gen_call(msg->payload, &gen) == 0) {
        out.len = begin;
        begin = answer_gen_begin(&out, &gen);
        etf_put_atom(&out, "yes"); /* is_auth, net_adm:ping/1 */
    } else {
        out.len = begin;
    }
    if (out.len > begin)
        channel_put_frame(ch, &out, begin);
    buf_done(&why);
    buf_done(&out);
}

/* One message: what it means to the call under way, or NOTHING. */
static int channel_take_frame(struct channel *ch, const struct frame *frame) {
    const char *why = NULL;
    struct dist_msg msg;

    if (dist_parse(frame->data, frame->len, &msg, &why) < 0) {
        log_warning("channel %d to %s: closed: %s", ch->number, ch->conn->peer, why);
        return CHANNEL_LOST;
    }
    switch (msg.op) {
    case DIST_SEND:
        return channel_take_message(ch, &msg);
    case DIST_EXIT:
        return channel_take_exit(ch, &msg);
    case DIST_MONITOR_EXIT:
        return channel_take_down(ch, &msg);
    default:
        channel_take_question(ch, &msg);
        return CHANNEL_NOTHING;
    }
}

/* The frames that have been read, up to one that means something to the call under way. */
static int channel_look(struct channel *ch) {
    struct frame frame = {0};
    int found, result;

    while ((found = conn_next(ch->conn, channel_common.max_frame, &frame)) > 0) {
        result = channel_take_frame(ch, &frame);
        if (frame.whole && result == CHANNEL_NOTHING)
            free(frame.data);
        else if (frame.whole)
            ch->kept = frame;
        frame = (struct frame){0};
        if (result != CHANNEL_NOTHING)
            return result;
    }
    if (found < 0)
        log_warning("channel %d to %s: closed: frame longer than --max-frame", ch->number,
                    ch->conn->peer);
    return found < 0 ? CHANNEL_LOST : CHANNEL_NOTHING;
}

/* Reads once and looks: NOTHING when there was nothing of interest. */
static int channel_read(struct channel *ch, bool wait) {
    const char *why = NULL;
    enum conn_result read = wait ? conn_await(ch->conn, &why) : conn_read(ch->conn, &why);
    int result = channel_look(ch);

    atomic_store_explicit(&ch->received, ch->conn->received, memory_order_relaxed);
    if (result == CHANNEL_NOTHING && read == CONN_CLOSED)
        result = CHANNEL_LOST;
    if (result == CHANNEL_LOST)
        ch->broken = true;
    if (result == CHANNEL_LOST && atomic_load(&ch->interrupted))
        result = CHANNEL_INTERRUPTED;
    return result;
}

/* All that has come so far, of which nobody waits for anything. */
static void channel_drain(struct channel *ch) {
    uint64_t before;
    int reads = 0;

    do {
        before = ch->conn->received;
        channel_read(ch, false);
        channel_forget_answer(ch);
    } while (!ch->broken && ch->conn->received != before && ++reads < CHANNEL_READS);
    if (!ch->broken && outbox_flush(&ch->conn->out) == OUTBOX_BROKEN)
        ch->broken = true;
}

/* Waiting. */

/* Waits until the socket can be read, or written if something is left to write: NOTHING when so. */
static int channel_poll(struct channel *ch, bool full, int64_t deadline) {
    struct pollfd p = {ch->conn->fd, (short)(POLLIN | (full ? POLLOUT : 0)), 0};
    int ms = -1, n;

    if (deadline > 0) {
        int64_t left = deadline - clock_now();

        if (left <= 0)
            return CHANNEL_LATE;
        ms = left / 1000000 < INT32_MAX ? (int)(left / 1000000) + 1 : INT32_MAX;
    }
    n = poll(&p, 1, ms);
    if (n < 0)
        return CHANNEL_SIGNALLED;
    return CHANNEL_NOTHING;
}

/* A moment awake: the only call under way is likely to be answered before a thread has gone to sleep
 * and been woken. With more of them the processors are busy, and looking would only slow them. */
static int channel_spin(struct channel *ch) {
    int64_t until;
    int result = CHANNEL_NOTHING;

    if (atomic_load_explicit(&channel_common.calls, memory_order_relaxed) > 1 ||
        atomic_exchange(&channel_common.spinning, true))
        return result;
    until = clock_now() + CHANNEL_SPIN_NS;
    do {
        sched_yield();
        result = channel_read(ch, false);
    } while (result == CHANNEL_NOTHING && clock_now() < until &&
             atomic_load_explicit(&channel_common.calls, memory_order_relaxed) <= 1);
    atomic_store(&channel_common.spinning, false);
    return result;
}

/* Until something decides the call. */
static enum channel_result channel_await(struct channel *ch, bool spin, int64_t deadline) {
    int result;

    channel_forget_answer(ch);
    result = channel_look(ch);
    while (result == CHANNEL_NOTHING) {
        enum outbox_result written = outbox_flush(&ch->conn->out);

        if (written == OUTBOX_BROKEN) {
            ch->broken = true;
            return atomic_load(&ch->interrupted) ? CHANNEL_INTERRUPTED : CHANNEL_LOST;
        }
        if (spin && written == OUTBOX_EMPTY) {
            spin = false;
            result = channel_spin(ch);
        } else if (written == OUTBOX_FULL || deadline > 0) {
            result = channel_poll(ch, written == OUTBOX_FULL, deadline);
            if (result == CHANNEL_NOTHING)
                result = channel_read(ch, false);
        } else {
            uint64_t before = ch->conn->received;

            result = channel_read(ch, true);
            if (result == CHANNEL_NOTHING && ch->conn->received == before)
                result = CHANNEL_SIGNALLED;
        }
    }
    if (result == CHANNEL_LOST)
        ch->broken = true;
    return (enum channel_result)result;
}

/* Calls. */

void channel_begin(struct channel *ch) {
    atomic_store(&ch->interrupted, false);
    atomic_store(&ch->calling, true);
    channel_start_reading(ch);
}

void channel_end(struct channel *ch) {
    channel_forget_answer(ch);
    ch->tag = 0;
    atomic_store(&ch->calling, false);
    channel_stop_reading(ch);
}

/* Asks the coordinator for a handler, and watches it meanwhile. */
static void channel_ask(struct channel *ch) {
    struct buf out = {0}, name = {0};
    uint64_t n = atomic_fetch_add(&channel_common.next_tag, 1);
    const uint32_t ids[3] = {(uint32_t)n & 0x3ffff, (uint32_t)(n >> 18), (uint32_t)(n >> 50)};
    size_t begin;

    channel_unwatch(ch);
    begin = dist_begin(&out);
    etf_put_atom(&name, "py_coordinator");
    etf_put_ref(&ch->watch, ch->name, etf_be32(ch->pid_tail + 8), ids, 3);
    dist_put_monitor(&out, channel_slice(&ch->self), channel_slice(&name),
                     channel_slice(&ch->watch));
    channel_put_frame(ch, &out, begin);
    begin = dist_begin(&out);
    dist_put_reg_send(&out, channel_slice(&ch->self), channel_slice(&name));
    etf_put_tuple(&out, 2);
    etf_put_atom(&out, "py_thread");
    etf_put_slice(&out, channel_slice(&ch->self));
    channel_put_frame(ch, &out, begin);
    buf_done(&name);
    buf_done(&out);
}

bool channel_check(struct channel *ch) {
    ch->used = clock_now();
    channel_drain(ch);
    return !ch->broken && ch->handler.len > 0;
}

/* A signal is not looked at here: the call that follows does it. */
enum channel_result channel_ready(struct channel *ch, int64_t deadline) {
    int64_t now = clock_now(), until = now + (int64_t)CHANNEL_HANDLER_MS * 1000000;
    int64_t homeless = now + (int64_t)CHANNEL_HOMELESS_MS * 1000000;
    enum channel_result result = CHANNEL_ANSWERED;

    if (deadline > 0 && deadline < until)
        until = deadline;
    while (!ch->broken && ch->handler.len == 0) {
        channel_ask(ch);
        do
            result = channel_await(ch, false, until);
        while (result == CHANNEL_SIGNALLED);
        if (result != CHANNEL_HOMELESS || clock_now() >= homeless || clock_now() >= until)
            break;
        poll(NULL, 0, CHANNEL_PAUSE_MS);
    }
    return ch->broken && result == CHANNEL_ANSWERED ? CHANNEL_LOST : result;
}

size_t channel_put(struct channel *ch, struct buf *out) {
    size_t begin = dist_begin(out);

    ch->tag = atomic_fetch_add_explicit(&channel_common.next_tag, 1, memory_order_relaxed);
    dist_put_send(out, channel_slice(&ch->handler));
    etf_put_tuple(out, 4);
    etf_put_atom(out, "py_call");
    etf_put_integer(out, (int64_t)ch->tag);
    return begin;
}

enum channel_result channel_call(struct channel *ch, struct buf *frame, int64_t deadline) {
    enum channel_result result;

    stats_add(STATS_BYTES_OUT, frame->len);
    outbox_put_buf(&ch->conn->out, frame);
    atomic_fetch_add_explicit(&channel_common.calls, 1, memory_order_relaxed);
    result = channel_await(ch, true, deadline);
    atomic_fetch_sub_explicit(&channel_common.calls, 1, memory_order_relaxed);
    return result;
}

enum channel_result channel_wait(struct channel *ch, int64_t deadline) {
    return channel_await(ch, false, deadline);
}

void channel_abandon(struct channel *ch) {
    ch->tag = 0;
    if (ch->handler.len > 0) {
        channel_kill(ch, channel_slice(&ch->handler));
        outbox_flush(&ch->conn->out);
    }
    ch->handler.len = 0;
}

void channel_stop(struct channel *ch) {
    atomic_store(&ch->interrupted, true);
    shutdown(ch->conn->fd, SHUT_RDWR);
}

bool channel_is_alive(struct channel *ch) {
    channel_start_reading(ch);
    channel_drain(ch);
    channel_stop_reading(ch);
    return !ch->broken;
}

/* The tick. */

/* Whether the peer has been silent for too long; what waits in the socket counts as heard. */
static bool channel_is_silent(struct channel *ch) {
    uint64_t received =
        atomic_load_explicit(&ch->received, memory_order_relaxed) + conn_unread(ch->conn);

    ch->silent = received != ch->tick_received ? 0 : ch->silent + 1;
    ch->tick_received = received;
    return ch->silent >= CHANNEL_SILENT;
}

static void channel_tick_connection(struct channel *ch) {
    static const uint8_t tick[4];
    uint64_t sent = atomic_load_explicit(&ch->conn->out.sent, memory_order_relaxed);

    if (sent == ch->tick_sent && atomic_load(&ch->conn->out.bytes) == 0)
        outbox_put(&ch->conn->out, tick, sizeof tick);
    outbox_flush(&ch->conn->out); /* also the rest of a tick that did not fit in the last time */
    ch->tick_sent = atomic_load_explicit(&ch->conn->out.sent, memory_order_relaxed);
    if (channel_is_silent(ch)) {
        log_warning("channel %d to %s: closed: heartbeat missed", ch->number, ch->conn->peer);
        shutdown(ch->conn->fd, SHUT_RDWR); /* who reads sees the end */
        ch->broken = true;
    }
}

void channel_tick(struct channel *ch) {
    bool reading = channel_try_reading(ch);

    if (reading)
        channel_drain(ch);
    if (!ch->broken)
        channel_tick_connection(ch);
    if (reading)
        channel_stop_reading(ch);
}
