/* test_channel.c - a thread's own connection to an Erlang node: calls and what becomes of them, the
 * pool, names, ticks, malformed and large frames, a full socket, many threads, fork(2).
 *
 * The connections are socket pairs. In most tests the main thread plays the node at the other end,
 * too: what that says waits in the socket. In the others a thread does, which answers by itself. Runs
 * under TSan as well.
 */
#include "config.h"

#include "channels.h"
#include "clock.h"
#include "log.h"
#include "peer.h"
#include "tap.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sysexits.h>

enum { MAX = 8, MAX_FRAME = 8 << 20, SECONDS = 60, ME = 11, OTHER = 12 };

#define H "<a@h,20,0,3>" /* handlers */
#define H2 "<a@h,21,0,3>"
#define P "<a@h,1,2,3>" /* another process there */
#define R "#<a@h,7,8,9>"

/* The other ends of all channels there have been, in the order of their connecting. */

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

static void shrink(int fd, int size) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static int connect_cb(const char *alive, uint32_t creation, const char *peer, int64_t deadline,
                      struct err *e) {
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

static struct end *last_end(void) {
    return &net.ends[net.n - 1];
}

/* A life's name and creation are no other's, but for the rarest chance. */
static struct end *end_of(const struct channel *ch) {
    size_t len = strcspn(ch->name, "@");

    for (int i = net.n - 1; i >= 0; i--)
        if (net.ends[i].creation == etf_be32(ch->pid_tail + 8) &&
            strlen(net.ends[i].alive) == len && memcmp(net.ends[i].alive, ch->name, len) == 0)
            return &net.ends[i];
    tap_bail("%s: no such channel", ch->name);
}

/* Closes what is left of the other ends. */
static void forget_ends(void) {
    for (int i = 0; i < net.n; i++) {
        if (net.ends[i].fd >= 0)
            close(net.ends[i].fd);
        buf_done(&net.ends[i].in);
    }
    net.n = 0;
}

static void hang_up(struct end *end) {
    close(end->fd);
    end->fd = -1;
}

static void say_bytes(const struct end *end, const void *data, size_t len) {
    if (send(end->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
        tap_bail("the socket takes no %zu bytes", len);
}

/* The node sends a frame. */
static void say(const struct end *end, const char *control, const char *payload) {
    struct buf b = {0};

    term_put_frame(&b, control, payload);
    say_bytes(end, b.data, b.len);
    buf_done(&b);
}

/* All that the node has got so far, as text. */
static const char *heard(const struct end *end) {
    static uint8_t bytes[1 << 16];
    ssize_t n = recv(end->fd, bytes, sizeof bytes, MSG_DONTWAIT);

    return n > 0 ? term_frames(bytes, (size_t)n) : n == 0 ? "closed" : "";
}

/* printf(3) into a ring of buffers. */
__attribute__((format(printf, 1, 2))) static const char *line(const char *fmt, ...) {
    static char ring[32][1024];
    static int next;
    char *text = ring[next++ % 32];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof ring[0], fmt, ap);
    va_end(ap);
    return text;
}

/* The channel's pid as text. */
static const char *self(const struct channel *ch) {
    return term_text((struct slice){ch->self.data, ch->self.len});
}

/* A message to the channel. */
static void say_to(const struct end *end, const struct channel *ch, const char *message) {
    say(end, line("{2,'',%s}", self(ch)), message);
}

/* All nodes send a tick. */
static void tick_all(void) {
    pthread_mutex_lock(&net.lock);
    for (int i = 0; i < net.n; i++)
        if (net.ends[i].fd >= 0)
            (void)!send(net.ends[i].fd, "\0\0\0", 4, MSG_NOSIGNAL | MSG_DONTWAIT);
    pthread_mutex_unlock(&net.lock);
}

static int64_t in_seconds(int seconds) {
    return clock_now() + (int64_t)seconds * 1000000000;
}

static struct channel *take(const char *peer) {
    struct err e = {0};
    struct channel *ch = channels_take(peer, ME, false, 0, &e);

    if (!ch)
        tap_bail("no channel: %s", e.text);
    return ch;
}

static int all(void) {
    int n, pooled;

    channels_count(&n, &pooled);
    return n;
}

static int pooled(void) {
    int n, pooled;

    channels_count(&n, &pooled);
    return pooled;
}

/* All channels end, those that are held, too. */
static void close_all(struct channel *held) {
    forget_ends();
    if (held)
        channels_give(held);
    channels_tick();
    if (all() != 0)
        tap_bail("%d channels are left", all());
}

/* A channel with the handler H. */
static struct channel *take_ready(void) {
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
static void put_call(struct channel *ch, struct buf *out) {
    size_t begin = channel_put(ch, out);

    term_put(out, "<<\"f\">>");
    term_put(out, "[1]");
    dist_end(out, begin);
}

/* A call that nobody has answered yet is sent and waited for. */
static enum channel_result call(struct channel *ch, int64_t deadline) {
    struct buf out = {0};
    enum channel_result result;

    put_call(ch, &out);
    result = channel_call(ch, &out, deadline);
    buf_done(&out);
    return result;
}

/* The terms that the answer is, with spaces. */
static const char *answer(const struct channel *ch) {
    struct etf at = {ch->answer.data, ch->answer.data + ch->answer.len};
    struct slice term;
    const char *text = "";

    while (etf_left(&at) > 0 && etf_get_term(&at, &term) == 0)
        text = line("%s%s%s", text, *text ? " " : "", term_text(term));
    return etf_left(&at) > 0 ? "bytes that are no term" : text;
}

/* The answer to the call under way waits in the socket before it is sent. */
static enum channel_result call_answered(struct channel *ch, const char *rest) {
    struct buf out = {0};
    enum channel_result result;

    put_call(ch, &out);
    say_to(end_of(ch), ch, line("{py_reply,%" PRIu64 ",%s}", ch->tag, rest));
    result = channel_call(ch, &out, 0);
    buf_done(&out);
    return result;
}

static void test_take(void) {
    int64_t deadline = in_seconds(SECONDS);
    struct err e = {0};
    struct channel *ch = channels_take("a@h", ME, false, deadline, &e), *second, *third;

    ok(ch && net.n == 1, "a channel is connected");
    is_str(ch->name, "py-thread-1@h", "its name");
    is_str(last_end()->alive, "py-thread-1", "by which it connects");
    is_str(last_end()->peer, "a@h", "to the node");
    ok(last_end()->deadline == deadline, "until the deadline");
    is_str(self(ch), line("<py-thread-1@h,1,0,%u>", last_end()->creation), "its pid");
    is_int(all(), 1, "there is one");
    is_int(pooled(), 0, "which is not in the pool");
    second = take("a@h");
    is_str(second->name, "py-thread-2@h", "the next one has another name");
    channels_give(ch);
    is_int(pooled(), 1, "one that is given back is in the pool");
    ok(take("a@h") == ch && net.n == 2, "and is taken again, instead of a new one");
    channels_give(ch);
    channels_give(second);
    ok(take("a@h") == second, "the latest is the first");
    ok(take("a@h") == ch, "then the other one");
    is_int(all(), 2, "two in all");
    channels_give(second);
    channels_give(ch);
    hang_up(end_of(ch));
    ok(take("a@h") == second, "one whose node has gone is passed over");
    is_int(all(), 1, "and is no more");
    third = take("b@h");
    is_str(last_end()->peer, "b@h", "each node has its own");
    channels_give(third);
    channels_give(second);
    ok(take("a@h") == second && take("b@h") == third, "also in the pool");
    channels_give(third);
    close_all(second);
    is_int(pooled(), 0, "when all nodes have gone, no channel is left");
}

/* It counted as unused since the machine was started. */
static void test_new_stays(void) {
    struct channel *ch = take("a@h");

    channels_give(ch);
    channels_tick();
    is_int(pooled(), 1, "one that is new and has called nothing stays in the pool");
    close_all(NULL);
}

/* The first reference in a text. */
static const char *ref_in(const char *text) {
    const char *at = strstr(text, "#<");

    return at ? line("%.*s", (int)strcspn(at, ">") + 1, at) : "no reference";
}

static void test_handler(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    const char *text, *me = self(ch);

    channel_begin(ch);
    ok(!channel_check(ch), "at first there is no handler");
    is_str(heard(end), "", "and none is asked for");
    say_to(end, ch, "{py_handler," H "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "then one is there");
    text = heard(end);
    is_str(text,
           line("{19,%s,py_coordinator,%s}\n{6,%s,'',py_coordinator} + {py_thread,%s}", me,
                ref_in(text), me, me),
           "the coordinator is watched and asked");
    ok(channel_check(ch), "the handler is known");
    is_str(heard(end), line("{20,%s,py_coordinator,%s}", me, ref_in(text)),
           "and the coordinator is not watched any more");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "it is still there");
    channel_end(ch);
    channels_give(ch);
    ok(take("a@h") == ch, "it goes into the pool with its channel");
    channel_begin(ch);
    ok(channel_check(ch), "and comes back with it");
    is_str(heard(end), "", "nobody is asked again");
    channel_end(ch);
    close_all(ch);
}

static void test_call(void) {
    struct channel *ch = take_ready();
    uint64_t first;

    channel_begin(ch);
    ok(channel_check(ch), "a call");
    is_int(call_answered(ch, "ok,{a,1},[]"), CHANNEL_ANSWERED, "that is answered");
    is_str(answer(ch), "ok {a,1} []", "class, value and stack");
    first = ch->tag;
    is_str(heard(end_of(ch)), line("{2,''," H "} + {py_call,%" PRIu64 ",<<\"f\">>,[1]}", first),
           "what the handler got");
    channel_end(ch);
    ok(!ch->answer.data, "then the answer is gone");
    channel_begin(ch);
    channel_check(ch);
    is_int(call_answered(ch, "error,badarg,[]"), CHANNEL_ANSWERED, "the next one");
    is_str(answer(ch), "error badarg []", "has its own answer");
    ok(ch->tag != first, "by a tag of its own");
    channel_end(ch);
    close_all(ch);
}

/* What is not the answer does not end the waiting. */
static void test_dropped(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    uint32_t creation = end->creation;
    const char *name = ch->name;
    struct buf out = {0};

    channel_begin(ch);
    say_to(end, ch, "{py_reply,0,ok,wrong,[]}");
    ok(channel_check(ch), "an answer before there is a call");
    put_call(ch, &out);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong,[]}", ch->tag - 1));
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong,[]}", ch->tag + 1));
    say_to(end, ch, "{py_reply,tag,ok,wrong,[]}");
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong}", ch->tag));
    say_to(end, ch, line("{py_answer,%" PRIu64 ",ok,wrong,[]}", ch->tag));
    say_to(end, ch, "{py_handler,none}");
    say_to(end, ch, "{1,2}");
    say_to(end, ch, "hello");
    say(end, line("{2,'',<%s,1,0,%u>}", name, creation + 1),
        line("{py_reply,%" PRIu64 ",ok,earlier,[]}", ch->tag));
    say(end, line("{2,'',<%s,2,0,%u>}", name, creation),
        line("{py_reply,%" PRIu64 ",ok,other,[]}", ch->tag));
    say(end, "{2,'',name}", line("{py_reply,%" PRIu64 ",ok,name,[]}", ch->tag));
    say(end, line("{3," P ",%s,oops}", self(ch)), NULL);
    say(end, line("{24," H2 ",%s}", self(ch)), "oops");
    say(end, line("{8," P ",%s,kill}", self(ch)), NULL);
    say(end, line("{28,py_coordinator,%s," R "}", self(ch)), "noproc");
    say(end, line("{36,1," P ",%s}", self(ch)), NULL);
    say_bytes(end, "\0\0\0", 4);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,right,[]}", ch->tag));
    is_int(channel_call(ch, &out, 0), CHANNEL_ANSWERED, "much that is no answer to the call");
    is_str(answer(ch), "ok right []", "is passed over: wrong tags, earlier lives, others' ends");
    channel_end(ch);
    buf_done(&out);
    close_all(ch);
}

static void test_late(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    int64_t deadline;
    uint64_t tag;

    channel_begin(ch);
    channel_check(ch);
    is_int(call(ch, 1), CHANNEL_LATE, "a deadline that has passed already");
    deadline = clock_now() + 5000000;
    is_int(channel_wait(ch, deadline), CHANNEL_LATE, "one that passes");
    ok(clock_now() >= deadline, "not before its time");
    tag = ch->tag;
    heard(end);
    channel_abandon(ch);
    is_str(heard(end), line("{26,%s," H "} + kill", self(ch)), "abandoned: the handler is killed");
    channel_end(ch);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,late,[]}", tag));
    say(end, line("{24," H ",%s}", self(ch)), "killed");
    channel_begin(ch);
    ok(!channel_check(ch), "the next call needs another handler");
    say_to(end, ch, "{py_handler," H2 "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "which comes");
    heard(end);
    is_int(call_answered(ch, "ok,2,[]"), CHANNEL_ANSWERED, "and is called");
    is_str(answer(ch), "ok 2 []", "the late answer and the end of the first are none to it");
    has_str(heard(end), "{2,''," H2 "} + ", "the second handler got the call");
    channel_abandon(ch);
    channel_abandon(ch);
    is_str(heard(end), line("{26,%s," H2 "} + kill", self(ch)), "it is killed once");
    channel_end(ch);
    close_all(ch);
}

/* Who asks for a handler in vain asks once more; the one that comes then too much was left alive. */
static void test_late_handler(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    const char *first, *sent;

    channel_begin(ch);
    channel_check(ch);
    is_int(channel_ready(ch, clock_now() + 1000000), CHANNEL_LATE, "no handler in time");
    first = ref_in(heard(end));
    say_to(end, ch, "{py_handler," H "}");
    say_to(end, ch, "{py_handler," H2 "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "asked again: two come");
    has_str(heard(end), line("{20,%s,py_coordinator,%s}", self(ch), first),
            "the first monitor is given up");
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "the first is called");
    ok(channel_check(ch), "and stays");
    sent = heard(end);
    has_str(sent, "{2,''," H "} + {py_call,", "it has got the call");
    has_str(sent, line("{26,%s," H2 "} + kill", self(ch)), "the second is killed");
    channel_end(ch);
    close_all(ch);
}

static void test_retired(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);

    channel_begin(ch);
    channel_check(ch);
    say(end, line("{24," H ",%s}", self(ch)), "{shutdown,retired}");
    is_int(call(ch, 0), CHANNEL_RETIRED, "a handler that ended before it took the call");
    channel_end(ch);
    channel_begin(ch);
    ok(!channel_check(ch), "is not there any more");
    say_to(end, ch, "{py_handler," H "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "another one is");
    channel_end(ch);
    say(end, line("{24," H ",%s}", self(ch)), "{shutdown,retired}");
    channel_begin(ch);
    ok(!channel_check(ch), "one that ends between two calls is seen before the next");
    channel_end(ch);
    close_all(ch);
}

static void test_ended(void) {
    static const char *const reasons[] = {"killed", "{shutdown,x}", "{shutdown,retired,x}",
                                          "retired", "{retired,shutdown}"};

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        struct channel *ch = take_ready();

        channel_begin(ch);
        channel_check(ch);
        if (i % 2)
            say(end_of(ch), line("{3," H ",%s,%s}", self(ch), reasons[i]), NULL);
        else
            say(end_of(ch), line("{24," H ",%s}", self(ch)), reasons[i]);
        is_int(call(ch, 0), CHANNEL_ENDED, "the handler ends in the middle of a call");
        is_str(answer(ch), reasons[i], "with a reason");
        ok(!channel_check(ch), "and is there no more");
        channel_end(ch);
        close_all(ch);
    }
}

/* The connection ends at each step. */
static void test_lost(void) {
    struct channel *ch = take("a@h");
    struct buf frame = {0};

    hang_up(end_of(ch));
    channel_begin(ch);
    ok(!channel_check(ch), "the node goes before anything was asked");
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "lost");
    channel_end(ch);
    close_all(ch);

    ch = take("a@h");
    channel_begin(ch);
    channel_check(ch);
    hang_up(end_of(ch));
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "or before there is a handler: lost");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    hang_up(end_of(ch));
    is_int(call(ch, 0), CHANNEL_LOST, "or before the call is sent: lost");
    channel_end(ch);
    close_all(ch);

    for (int size = 10; size <= 100000; size *= 100) {
        struct buf out = {0}, payload = {0};
        char *text = xcalloc(1, (size_t)size + 1);

        ch = take_ready();
        memset(text, 'x', (size_t)size);
        channel_begin(ch);
        channel_check(ch);
        put_call(ch, &out);
        etf_put_tuple(&payload, 5);
        etf_put_atom(&payload, "py_reply");
        etf_put_integer(&payload, (int64_t)ch->tag);
        etf_put_atom(&payload, "ok");
        etf_put_binary(&payload, text, (uint32_t)size);
        etf_put_nil(&payload);
        frame.len = 0;
        term_put_frame_of(&frame, line("{2,'',%s}", self(ch)),
                          (struct slice){payload.data, payload.len});
        say_bytes(end_of(ch), frame.data, frame.len - 3);
        is_int(channel_call(ch, &out, clock_now() + 1000000), CHANNEL_LATE,
               "most of an answer with %d bytes is none", size);
        hang_up(end_of(ch));
        is_int(channel_wait(ch, 0), CHANNEL_LOST, "and then the node goes: lost");
        ok(ch->broken, "the channel is of no use any more");
        channel_abandon(ch);
        channel_end(ch);
        close_all(ch);
        free(text);
        buf_done(&out);
        buf_done(&payload);
    }

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    frame.len = 0;
    put_call(ch, &frame);
    say_to(end_of(ch), ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", ch->tag));
    is_int(channel_call(ch, &frame, 0), CHANNEL_ANSWERED, "an answer just before the node goes");
    hang_up(end_of(ch));
    is_str(answer(ch), "ok 1 []", "is one");
    channel_end(ch);
    is_int(all(), 1, "the channel is there");
    channels_give(ch);
    channels_tick();
    is_int(all(), 0, "until somebody looks");
    forget_ends();
    buf_done(&frame);
}

/* The call that a thread has under way, or is about to begin, or has just ended. */
static void test_interrupt_early(void) {
    struct channel *ch = take_ready();

    channels_interrupt(ME);
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(OTHER);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "neither another thread's nor before");
    channel_end(ch);
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(ME);
    is_int(call(ch, 0), CHANNEL_INTERRUPTED, "a call that is interrupted before it is sent");
    ok(ch->broken, "its channel ends with it");
    channel_end(ch);
    close_all(ch);

    ch = take("a@h");
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(ME);
    is_int(channel_ready(ch, 0), CHANNEL_INTERRUPTED, "one that has no handler yet");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "one that has its answer");
    channels_interrupt(ME);
    is_str(answer(ch), "ok 1 []", "keeps it");
    channel_end(ch);
    channel_begin(ch);
    ok(!channel_check(ch), "but the channel has ended");
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "as the next call sees, which is not interrupted");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channels_give(ch);
    channels_interrupt(ME);
    channels_interrupt(0);
    ok(take("a@h") == ch, "what is in the pool is nobody's, and stays");
    close_all(ch);
}

/* Whether a node that has refused after since is not asked again: that is so for a second. */
static bool is_refused(const char *peer, int64_t since) {
    struct err e = {0};
    int n = net.n;

    return (!channels_take(peer, ME, false, 0, &e) && e.code == EX_TEMPFAIL && net.n == n) ||
           clock_now() - since >= 1000000000;
}

/* As many as may be: those of the pool give way to who wants to go elsewhere. */
static void test_cap(void) {
    struct channel *held[MAX], *ch;
    struct err e = {0};
    int64_t since;
    int connected;

    for (int i = 0; i < MAX; i++)
        held[i] = take("a@h");
    is_int(all(), MAX, "as many as may be");
    connected = net.n;
    ok(!channels_take("a@h", ME, true, 0, &e) && e.code == EX_TEMPFAIL, "one more is refused");
    has_str(e.text, "node: no connection of its own to a@h", "and says so");
    ok(!channels_take("b@h", ME, true, 0, &e) && e.code == EX_TEMPFAIL, "to another node, too");
    is_int(net.n, connected, "nobody is asked for that");
    channels_give(held[3]);
    channels_give(held[5]);
    ch = take("b@h");
    is_int(net.n, connected + 1, "one of the pool gives way to a connection elsewhere");
    ok(take("a@h") == held[5], "the one that was unused for longer: the other is still there");
    is_int(all(), MAX, "and there are no more");
    is_int(pooled(), 0, "none of them in the pool");
    net.refuse = true;
    channels_give(held[5]);
    since = clock_now();
    ok(!channels_take("c@h", ME, false, 0, &e) && e.code == EX_UNAVAILABLE,
       "to a node that refuses");
    is_int(all(), MAX - 1, "one gives way in vain");
    net.refuse = false;
    held[3] = take("a@h");
    channels_give(held[3]);
    net.refuse = true;
    ok(is_refused("c@h", since), "when it is known to refuse");
    ok(pooled() == 1 || clock_now() - since >= 1000000000, "none does");
    net.refuse = false;
    held[3] = take("a@h");
    for (int i = 0; i < MAX; i++)
        if (i != 5)
            channels_give(held[i]);
    close_all(ch);
}

/* No channel at all: in a process of its own, as it is said once. */
static void none_scene(void) {
    struct err e = {0};

    channel_init(MAX_FRAME);
    channels_init("none@h", connect_cb, 0);
    if (channels_take("a@h", ME, true, 0, &e) || e.code != EX_TEMPFAIL || net.n > 0)
        _exit(1);
    channels_tick();
    channels_interrupt(ME);
}

/* A node that takes no connection is not asked again at once. */
static void test_refused(void) {
    int64_t since = clock_now();
    struct channel *ch;
    struct err e = {0};
    char peer[16];
    int n = net.n, wrong = 0;

    net.refuse = true;
    ok(!channels_take("no@h", ME, false, 0, &e), "a node that takes no connection");
    is_int(e.code, EX_UNAVAILABLE, "the reason is that of the connecting");
    is_str(e.text, "no@h takes nobody", "with its text");
    is_int(all(), 0, "nothing is left of it");
    ok(is_refused("no@h", since), "is remembered, and not asked");
    net.refuse = false;
    ch = take("a@h");
    ok(ch, "others are");
    channels_give(ch);
    ch = channels_take("no@h", ME, true, 0, &e);
    ok(ch && net.n == n + 2, "unless that is forced");
    channels_give(ch);
    ok(channels_take("no@h", ME, false, 0, &e) == ch, "then it is in the pool and taken from there");
    close_all(ch);
    net.refuse = true;
    for (int i = 0; i < 100; i++) {
        snprintf(peer, sizeof peer, "no%d@h", i);
        since = clock_now();
        wrong += channels_take(peer, ME, false, 0, &e) || e.code != EX_UNAVAILABLE;
        wrong += !is_refused(peer, since);
    }
    is_int(wrong, 0, "100 such nodes, each remembered for a while");
    net.refuse = false;
    is_int(all(), 0, "nothing is left of them");
}

/* Names are of a small number, and none is another's at once: the node might still know it. */
static void test_names(void) {
    int last = 0, again = 0, out_of_bounds = 0;
    int64_t freed = 0;

    for (int i = 0; i < 4 * MAX; i++) {
        struct channel *ch = take("a@h");

        again += ch->number == last && clock_now() - freed < 2000000000;
        last = ch->number;
        out_of_bounds += ch->number < 1 || ch->number > MAX;
        freed = clock_now();
        close_all(ch);
    }
    is_int(out_of_bounds, 0, "%d channels have %d names", 4 * MAX, MAX);
    is_int(again, 0, "none the one that was given up last");
}

/* Ticks. */

static char *log_path;

/* What the log has said since this was last asked. */
static const char *logged(void) {
    static char said[8192];
    static size_t seen;
    char *text = tap_slurp(log_path);

    snprintf(said, sizeof said, "%s", text + seen);
    seen = strlen(text);
    free(text);
    return said;
}

static void test_ticks(void) {
    struct channel *ch = take_ready(), *idle = take("a@h");
    struct end *end = end_of(ch);

    heard(end);
    channels_give(idle);
    channels_tick();
    heard(end);
    channels_tick();
    is_str(heard(end), "tick", "a channel to which nothing was sent sends a tick");
    is_str(heard(end_of(idle)), "tick\ntick", "also in the pool");
    channel_begin(ch);
    channel_check(ch);
    call_answered(ch, "ok,1,[]");
    channel_end(ch);
    heard(end);
    channels_tick();
    is_str(heard(end), "", "not when something else was sent");
    channel_begin(ch);
    channels_tick();
    is_str(heard(end), "tick", "in the middle of a call, too");
    channel_end(ch);
    channels_give(ch);
    close_all(NULL);
}

/* Others that ask something of a node that runs nothing. */
static void test_questions(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    const char *me = self(ch);

    say(end, "{29," R "," P "," P ",{m,f,0},[monitor]}", "[]");
    say(end, "{19," P ",rex," R "}", NULL);
    say(end, line("{19," P ",%s," R "}", me), NULL);
    say(end, line("{35,7," P ",%s}", me), NULL);
    say(end, "{1," P ",<py@h,9,9,9>}", NULL);
    say(end, line("{1," P ",%s}", me), NULL);
    say(end, "{6," P ",'',net_kernel}", "{'$gen_call',{" P "," R "},{is_auth,a@h}}");
    say(end, "{6," P ",'',rex}", "{'$gen_call',{" P "," R "},{call,m,f,[],user}}");
    say(end, "{6," P ",'',net_kernel}", "hello");
    say(end, "{20," P ",rex," R "}", NULL);
    channels_tick();
    is_str(heard(end),
           line("{31," R "," P ",0,notsup}\n{28,rex," P "," R "} + noproc\n"
                "{28,%s," P "," R "} + noproc\n{36,7,%s," P "}\n{3,<py@h,9,9,9>," P ",noproc}\n"
                "{2,''," P "} + {" R ",yes}",
                me, me),
           "spawn, monitors, unlink, a link to nobody, a ping are answered by the tick");
    channel_begin(ch);
    channel_check(ch);
    say(end, "{19," P ",rex," R "}", NULL);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "in the middle of a call");
    channel_end(ch);
    channels_tick();
    has_str(heard(end), "{28,rex," P "," R "} + noproc", "questions are answered, too");
    close_all(ch);
}

/* Who asks and reads no answers gets none: they would take all memory. */
static void test_deaf(void) {
    struct channel *ch;
    struct buf b = {0};

    net.small = 4096;
    ch = take("a@h");
    net.small = 0;
    while (b.len < 60000)
        term_put_frame(&b, "{19," P ",rex," R "}", NULL);
    for (int i = 0; i < 400; i++) {
        size_t done = 0;

        while (done < b.len) {
            ssize_t n = send(end_of(ch)->fd, b.data + done, b.len - done, MSG_DONTWAIT);

            done += n > 0 ? (size_t)n : 0;
            if (n <= 0)
                channels_tick();
        }
    }
    channels_tick();
    ok(atomic_load(&ch->conn->out.bytes) < CONN_HIGH + 65536,
       "24 MB of questions by who reads nothing leave no more than 4 MB of answers");
    diag("%zu bytes wait", atomic_load(&ch->conn->out.bytes));
    buf_done(&b);
    close_all(ch);
}

static void test_dead(void) {
    struct channel *ch = take_ready(), *waiting = take("a@h");
    int n;

    channels_give(waiting);
    hang_up(end_of(waiting));
    hang_up(end_of(ch));
    logged();
    channels_tick();
    is_int(pooled(), 0, "a channel in the pool whose node has gone is closed by the tick");
    is_int(all(), 1, "one that is held is its holder's");
    for (n = 0; n < 10; n++)
        channels_tick();
    is_str(logged(), "", "nothing is said of it, however long that takes");
    channel_begin(ch);
    ok(!channel_check(ch), "who sees");
    channel_end(ch);
    close_all(ch);
}

static void test_silent(void) {
    struct channel *ch = take_ready(), *waiting = take("a@h"), *busy = take("a@h");
    const char *last = line("channel %d to a@h: closed: heartbeat missed", waiting->number);
    struct buf half = {0};

    logged();
    channels_give(waiting);
    channel_begin(busy);
    for (int i = 0; i < 10; i++) {
        say_bytes(end_of(ch), "\0\0\0", 4);
        say_bytes(end_of(waiting), "\0\0\0", 4);
        say_bytes(end_of(busy), "\0\0\0", 4); /* nobody reads them */
        channels_tick();
    }
    is_int(all(), 3, "channels that are ticked live");
    is_str(logged(), "", "whether somebody reads the ticks or not");
    term_put_frame(&half, line("{2,'',%s}", self(ch)), "hello");
    say_bytes(end_of(ch), half.data, half.len / 2);
    for (int i = 0; i < 3; i++)
        channels_tick();
    is_int(all(), 3, "three ticks without any news: they live still");
    say_bytes(end_of(waiting), "\0\0\0", 4);
    channels_tick();
    is_int(all(), 3, "one more");
    has_str(logged(), line("channel %d to a@h: closed: heartbeat missed", busy->number),
            "is too much for the one in a call");
    channels_tick();
    has_str(logged(), line("channel %d to a@h: closed: heartbeat missed", ch->number),
            "and for the other that is held");
    is_int(call(busy, 0), CHANNEL_LOST, "the call ends");
    channel_end(busy);
    for (int i = 0; i < 10; i++)
        channels_tick();
    is_int(all(), 2, "the one in the pool is gone, too");
    has_str(logged(), last, "which is said");
    is_str(logged(), "", "once");
    buf_done(&half);
    channels_give(busy);
    close_all(ch);
}

/* A peer's bytes close the channel, with a line in the log. */
static void test_malformed(void) {
    static const struct {
        const char *bytes, *why;
        size_t len;
    } garbage[] = {
        {"\0\0\0\1x", "not a pass-through frame", 5},
        {"\0\0\0\1p", "no control tuple", 5},
        {"\0\0\0\6p\x83h\1a\x63", "unknown control message", 10},
        {"\x7f\xff\xff\xff", "frame longer than --max-frame", 4},
        {"\0\x80\0\1", "frame longer than --max-frame", 4},
    };
    struct buf large = {0};

    logged();
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        struct channel *ch = take_ready();
        const char *want = line("channel %d to a@h: closed: %s", ch->number, garbage[i].why);

        channel_begin(ch);
        channel_check(ch);
        say_bytes(end_of(ch), garbage[i].bytes, garbage[i].len);
        is_int(call(ch, 0), CHANNEL_LOST, "%s: the call is lost", garbage[i].why);
        channel_end(ch);
        has_str(logged(), want, "which is logged");
        close_all(ch);
        ch = take_ready();
        say_bytes(end_of(ch), garbage[i].bytes, garbage[i].len);
        channels_give(ch);
        channels_tick();
        is_int(all(), 0, "the same between two calls");
        logged();
        forget_ends();
    }
    buf_put(&large, "\0\2\0\0", 4);
    while (large.len < 4 + 0x20000)
        buf_put(&large, "x", 1);
    for (int i = 0; i < 2; i++) {
        struct channel *ch = take_ready();

        channel_begin(ch);
        channel_check(ch);
        say_bytes(end_of(ch), large.data, large.len);
        is_int(call(ch, 0), CHANNEL_LOST, "a large frame of nothing: lost");
        channel_end(ch);
        close_all(ch);
    }
    buf_done(&large);
}

/* Large frames that are no answer and such as end the waiting are freed: the leak was of the end of a
 * coordinator with much to say. */
static void test_large_frames(void) {
    enum { SIZE = 100000 };
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    char *name = xcalloc(1, SIZE + 64);
    struct buf out = {0};

    snprintf(name, 64, "<<\"");
    memset(name + 3, 'x', SIZE);
    strcpy(name + 3 + SIZE, "\">>");
    channel_begin(ch);
    channel_check(ch);
    for (int i = 0; i < 2; i++) {
        struct buf frame = {0};
        size_t begin = dist_begin(&frame);

        /* SEND, with much where the cookie was once */
        etf_put_tuple(&frame, 3);
        etf_put_integer(&frame, 2);
        etf_put_binary(&frame, name, SIZE);
        etf_put_slice(&frame, (struct slice){ch->self.data, ch->self.len});
        etf_put_version(&frame);
        term_put(&frame, "{py_handler," H "}");
        dist_end(&frame, begin);
        say_bytes(end, frame.data, frame.len);
        if (channel_ready(ch, 0) != CHANNEL_ANSWERED)
            tap_bail("no handler");
        if (i == 0) {
            say(end, line("{24," H ",%s}", self(ch)), name);
            is_int(call(ch, 0), CHANNEL_ENDED, "a handler that ends with much to say");
        }
        buf_done(&frame);
    }
    put_call(ch, &out);
    say_to(end, ch, name);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", ch->tag));
    is_int(channel_call(ch, &out, 0), CHANNEL_ANSWERED, "a large message that is no answer");
    channel_end(ch);
    say_to(end, ch, name);
    channels_tick();
    ok(!ch->kept.data, "none is kept between calls");
    buf_done(&out);
    free(name);
    close_all(ch);
}

/* A node of its own thread. */

static struct {
    _Atomic bool coordinator; /* is there */
    _Atomic int asked, called, killed, homeless, handlers;
    _Atomic bool slow; /* reads little at a time */
    pthread_t thread;
} node;

/* The lock keeps ticks out of the frame. */
static void node_send(struct end *end, struct buf *out) {
    size_t done = 0;

    pthread_mutex_lock(&net.lock);
    while (done < out->len) {
        ssize_t n = send(end->fd, out->data + done, out->len - done, MSG_NOSIGNAL);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    pthread_mutex_unlock(&net.lock);
    buf_done(out);
    *out = (struct buf){0};
}

static void node_exit(struct end *end, struct slice from, struct slice to, const char *reason) {
    struct buf out = {0};
    size_t begin = dist_begin(&out);

    dist_put_exit(&out, from, to);
    term_put(&out, reason);
    dist_end(&out, begin);
    node_send(end, &out);
}

/* The channel's pid, of that end. */
static struct slice node_pid(const struct end *end, struct buf *b) {
    char name[80];

    snprintf(name, sizeof name, "%s@h", end->alive);
    etf_put_pid(b, name, 1, 0, end->creation);
    return (struct slice){b->data, b->len};
}

static void node_reply(struct end *end, struct slice to, int64_t tag, struct slice value, size_t n,
                       bool half) {
    struct buf out = {0};
    size_t begin = dist_begin(&out);

    dist_put_send(&out, to);
    etf_put_tuple(&out, 5);
    etf_put_atom(&out, "py_reply");
    etf_put_integer(&out, tag);
    etf_put_atom(&out, "ok");
    if (n > 0) {
        char *text = xcalloc(1, n);

        memset(text, 'y', n);
        etf_put_binary(&out, text, (uint32_t)n);
        free(text);
    } else {
        etf_put_slice(&out, value);
    }
    etf_put_nil(&out);
    dist_end(&out, begin);
    if (half)
        out.len /= 2;
    node_send(end, &out);
}

/* What the function of that name does. */
static void node_call(struct end *end, const struct dist_msg *msg) {
    struct etf at = {msg->payload.data, msg->payload.data + msg->payload.len}, size;
    struct slice what, name, args;
    struct buf me = {0};
    struct slice to = node_pid(end, &me);
    uint32_t arity;
    int64_t tag, n = 0;

    if (etf_get_tuple(&at, &arity) < 0 || arity != 4 || etf_get_atom(&at, &what) < 0 ||
        !etf_atom_is(what, "py_call") || etf_get_integer(&at, &tag) < 0 ||
        etf_get_text(&at, &name) < 0 || etf_get_term(&at, &args) < 0)
        tap_bail("the node does not understand a call");
    atomic_fetch_add(&node.called, 1);
    size = (struct etf){args.data, args.data + args.len};
    if (etf_get_list(&size, &arity) < 0 || etf_get_integer(&size, &n) < 0)
        n = (int64_t)args.len;
    if (etf_atom_is(name, "echo")) {
        node_reply(end, to, tag, args, 0, false);
    } else if (etf_atom_is(name, "length")) {
        struct buf b = {0};

        etf_put_integer(&b, (int64_t)args.len);
        node_reply(end, to, tag, (struct slice){b.data, b.len}, 0, false);
        buf_done(&b);
    } else if (etf_atom_is(name, "large")) {
        node_reply(end, to, tag, args, (size_t)n, false);
    } else if (etf_atom_is(name, "retire")) {
        node_reply(end, to, tag, args, 0, false);
        node_exit(end, msg->to, to, "{shutdown,retired}");
    } else if (etf_atom_is(name, "die")) {
        node_exit(end, msg->to, to, "killed");
    } else if (etf_atom_is(name, "half")) {
        node_reply(end, to, tag, args, 0, true);
        shutdown(end->fd, SHUT_RDWR);
    }
    buf_done(&me);
}

static void node_frame(struct end *end, const uint8_t *frame, size_t len) {
    struct buf out = {0}, handler = {0};
    struct dist_msg msg;
    const char *why;
    size_t begin;

    if (dist_parse(frame, len, &msg, &why) < 0)
        tap_bail("the node got a malformed frame: %s", why);
    switch (msg.op) {
    case DIST_MONITOR:
        if (atomic_load(&node.coordinator))
            break;
        begin = dist_begin(&out);
        dist_put_monitor_exit(&out, msg.to, msg.from, msg.ref);
        etf_put_atom(&out, "noproc");
        dist_end(&out, begin);
        node_send(end, &out);
        atomic_fetch_add(&node.homeless, 1);
        break;
    case DIST_REG_SEND:
        if (!atomic_load(&node.coordinator))
            break;
        begin = dist_begin(&out);
        node_pid(end, &handler);
        dist_put_send(&out, (struct slice){handler.data, handler.len});
        etf_put_tuple(&out, 2);
        etf_put_atom(&out, "py_handler");
        etf_put_pid(&out, "a@h", 100 + (uint32_t)atomic_fetch_add(&node.handlers, 1), 0, 3);
        dist_end(&out, begin);
        node_send(end, &out);
        atomic_fetch_add(&node.asked, 1);
        break;
    case DIST_SEND:
        node_call(end, &msg);
        break;
    case DIST_EXIT2:
        atomic_fetch_add(&node.killed, 1);
        break;
    default:
        break;
    }
    buf_done(&handler);
    buf_done(&out);
}

/* Reads what has come, and plays it. */
static void node_read(struct end *end) {
    size_t size = atomic_load(&node.slow) ? 5000 : 1 << 16, at = 0, total;
    ssize_t n;

    if (buf_reserve(&end->in, size) < 0)
        tap_bail("no memory");
    n = recv(end->fd, end->in.data + end->in.len, size, MSG_DONTWAIT);
    if (n <= 0 && errno != EAGAIN) {
        pthread_mutex_lock(&net.lock);
        hang_up(end);
        pthread_mutex_unlock(&net.lock);
        return;
    }
    end->in.len += n > 0 ? (size_t)n : 0;
    while (end->in.len > at &&
           dist_next(end->in.data + at, end->in.len - at, INT32_MAX, &total) == 1) {
        node_frame(end, end->in.data + at, total);
        at += total;
    }
    if (at > 0)
        memmove(end->in.data, end->in.data + at, end->in.len - at);
    end->in.len -= at;
}

static void *node_main(void *arg) {
    struct pollfd *p = xcalloc(sizeof net.ends / sizeof *net.ends + 1, sizeof *p);
    bool stop = false;

    while (!stop) {
        char byte;
        int n;

        pthread_mutex_lock(&net.lock);
        n = net.n;
        for (int i = 0; i < n; i++)
            p[i] = (struct pollfd){net.ends[i].fd, POLLIN, 0};
        pthread_mutex_unlock(&net.lock);
        p[n] = (struct pollfd){node_wake[0], POLLIN, 0};
        poll(p, (nfds_t)n + 1, -1);
        for (int i = 0; i < n; i++)
            if (p[i].fd >= 0 && p[i].revents)
                node_read(&net.ends[i]);
        if (p[n].revents)
            stop = read(node_wake[0], &byte, 1) == 1 && byte == '.';
    }
    free(p);
    return arg;
}

static void start_node(void) {
    forget_ends();
    atomic_store(&node.coordinator, true);
    if (pipe(node_wake) < 0 || pthread_create(&node.thread, NULL, node_main, NULL) != 0)
        tap_bail("no node");
}

static void stop_node(void) {
    if (write(node_wake[1], ".", 1) != 1)
        tap_bail("the node does not end");
    pthread_join(node.thread, NULL);
    close(node_wake[0]);
    close(node_wake[1]);
    node_wake[0] = node_wake[1] = -1;
}

/* A call, as a thread of Python makes it: a channel and a handler are seen to. The value, as a text of
 * the caller's; or what has come of it. */
static const char *run(unsigned long thread, const char *peer, const char *name, const char *args,
                       int64_t deadline, char *text, size_t size) {
    static const char *const words[] = {"answered",    "late",  "signalled", "lost",
                                        "interrupted", "ended", "retired",   "homeless"};
    enum channel_result result = CHANNEL_RETIRED;
    struct channel *ch = NULL;

    while (result == CHANNEL_RETIRED) {
        struct buf out = {0};
        struct err e;

        if (!ch)
            ch = channels_take(peer, thread, false, deadline, &e);
        if (!ch)
            return "none";
        channel_begin(ch);
        result = channel_check(ch) ? CHANNEL_ANSWERED : channel_ready(ch, deadline);
        if (result == CHANNEL_ANSWERED) {
            size_t begin = channel_put(ch, &out);

            etf_put_string(&out, name);
            term_put(&out, args);
            dist_end(&out, begin);
            result = channel_call(ch, &out, deadline);
            while (result == CHANNEL_SIGNALLED)
                result = channel_wait(ch, deadline);
            if (result == CHANNEL_LATE)
                channel_abandon(ch);
        }
        snprintf(text, size, "%s", words[result]);
        if (result == CHANNEL_ANSWERED || result == CHANNEL_ENDED) {
            struct etf at = {ch->answer.data, ch->answer.data + ch->answer.len};
            struct slice class, term = {0};
            struct term_out o = {text, 0};

            if (result == CHANNEL_ENDED || etf_get_atom(&at, &class) == 0)
                etf_get_term(&at, &term);
            if (term.len < 1000)
                term_add_one(&o, term.data);
            else
                snprintf(text, size, "%zu bytes", term.len);
        }
        channel_end(ch);
        buf_done(&out);
        if (ch->broken) {
            channels_give(ch);
            ch = NULL;
        }
    }
    if (ch)
        channels_give(ch);
    return text;
}

static char text[TERM_TEXT_MAX];

/* The same in the main thread. */
static const char *run_here(const char *name, const char *args, int64_t deadline) {
    return run(ME, "a@h", name, args, deadline, text, sizeof text);
}

static void test_node(void) {
    is_str(run_here("echo", "[1,2]", 0), "[1,2]", "a call");
    is_str(run_here("echo", "[3]", in_seconds(SECONDS)), "[3]", "another");
    is_int(atomic_load(&node.asked), 1, "by the same handler");
    is_str(run_here("retire", "[4]", 0), "[4]", "one after which the handler goes");
    is_str(run_here("echo", "[5]", 0), "[5]", "does not hurt the next");
    is_int(atomic_load(&node.asked), 2, "which has another handler");
    is_str(run_here("die", "[6]", 0), "killed", "a handler that is killed in the middle");
    is_str(run_here("half", "[7]", 0), "lost", "half an answer");
    is_str(run_here("never", "[8]", clock_now() + 5000000), "late", "none");
    is_str(run_here("echo", "[9]", 0), "[9]", "and then one again");
    is_str(run_here("large", "[10000]", 0), "10005 bytes", "an answer of 10 kB");
    is_str(run_here("large", "[1000000]", 0), "1000005 bytes", "one of a megabyte");
    is_str(run_here("large", "[8000000]", 0), "8000005 bytes", "one of eight");
    is_str(run_here("large", "[9000000]", 0), "lost", "one that is longer than may be");
    is_str(run_here("echo", "[10]", 0), "[10]", "and then one again");
}

static void test_homeless(void) {
    int homeless = atomic_load(&node.homeless);

    run_here("die", "[]", 0);
    atomic_store(&node.coordinator, false);
    is_str(run_here("echo", "[1]", 0), "homeless", "no coordinator");
    ok(atomic_load(&node.homeless) > homeless + 1, "it is asked for more than once");
}

static void *homeless_main(void *arg) {
    static char mine[TERM_TEXT_MAX];

    *(const char **)arg = run(OTHER, "a@h", "echo", "[1]", 0, mine, sizeof mine);
    return NULL;
}

/* Waits until a counter is more than it was. */
static bool more_than(_Atomic int *counter, int before) {
    int64_t end = in_seconds(SECONDS);

    while (atomic_load(counter) <= before && clock_now() < end)
        sched_yield();
    return atomic_load(counter) > before;
}

/* It is looked for for a second. So that a slow machine is none too slow, the looking is repeated. */
static void test_home_again(void) {
    const char *got = "homeless";
    int64_t since = 0;

    while (strcmp(got, "homeless") == 0 && (since == 0 || clock_now() - since > 500000000)) {
        int homeless = atomic_load(&node.homeless);
        pthread_t thread;

        atomic_store(&node.coordinator, false);
        since = clock_now();
        if (pthread_create(&thread, NULL, homeless_main, &got) != 0)
            tap_bail("no thread");
        more_than(&node.homeless, homeless);
        atomic_store(&node.coordinator, true);
        pthread_join(thread, NULL);
    }
    is_str(got, "[1]", "a coordinator that comes back is found");
}

static void *never_main(void *arg) {
    static char mine[2][TERM_TEXT_MAX];
    int which = *(const char **)arg != NULL;

    *(const char **)arg =
        run(which ? OTHER : ME, "a@h", "never", "[1]", 0, mine[which], sizeof mine[which]);
    return NULL;
}

/* Two threads wait; one is interrupted. */
static void test_interrupt(void) {
    const char *got[] = {NULL, "other"};
    pthread_t threads[2];
    int called = atomic_load(&node.called);

    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, never_main, &got[i]) != 0)
            tap_bail("no thread");
    ok(more_than(&node.called, called + 1), "two threads call");
    channels_interrupt(ME);
    pthread_join(threads[0], NULL);
    is_str(got[0], "interrupted", "one is interrupted");
    channels_interrupt(ME);
    channels_interrupt(OTHER);
    pthread_join(threads[1], NULL);
    is_str(got[1], "interrupted", "the other one not until it is its turn");
}

static void signalled_cb(int signo) {
    (void)signo;
}

static struct {
    struct channel *ch;
    int64_t deadline;
    _Atomic int result;
} waiter;

static void *waiter_main(void *arg) {
    struct buf out = {0};

    put_call(waiter.ch, &out);
    out.len = 0;
    atomic_store(&waiter.result, (int)channel_wait(waiter.ch, waiter.deadline));
    buf_done(&out);
    return arg;
}

/* Signals until the thread returns: one may come before it has begun to wait. */
static void test_signal(int64_t deadline) {
    struct sigaction action = {.sa_handler = signalled_cb}; /* without SA_RESTART */
    int64_t end = in_seconds(SECONDS);
    pthread_t thread;

    sigaction(SIGUSR1, &action, NULL);
    waiter.ch = take_ready();
    waiter.deadline = deadline;
    atomic_store(&waiter.result, -1);
    channel_begin(waiter.ch);
    if (pthread_create(&thread, NULL, waiter_main, NULL) != 0)
        tap_bail("no thread");
    while (atomic_load(&waiter.result) < 0 && clock_now() < end) {
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    is_int(atomic_load(&waiter.result), CHANNEL_SIGNALLED, "a signal ends the wait %s a deadline",
           deadline ? "with" : "without");
    pthread_join(thread, NULL);
    say_to(end_of(waiter.ch), waiter.ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", waiter.ch->tag));
    is_int(channel_wait(waiter.ch, deadline), CHANNEL_ANSWERED, "not the call");
    channel_end(waiter.ch);
    close_all(waiter.ch);
}

/* More than the socket takes, both ways at once. */
static void test_full(void) {
    char *args = xcalloc(1, (3 << 20) + 64);

    memcpy(args, "[<<\"", 4);
    memset(args + 4, 'z', 3 << 20);
    strcpy(args + 4 + (3 << 20), "\">>]");
    net.small = 4096;
    is_str(run(ME, "full@h", "length", args, 0, text, sizeof text), "3145739",
           "a call of three megabytes through a narrow socket");
    is_str(run(ME, "full@h", "length", args, in_seconds(SECONDS), text, sizeof text), "3145739",
           "with a deadline, too");
    is_str(run(ME, "full@h", "echo", args, 0, text, sizeof text), "3145739 bytes",
           "and as much back");
    atomic_store(&node.slow, true);
    is_str(run(ME, "full@h", "length", args, 1, text, sizeof text), "late",
           "one that is late before it is sent");
    atomic_store(&node.slow, false);
    is_str(run(ME, "full@h", "echo", "[1]", 0, text, sizeof text), "[1]", "leaves a whole frame");
    net.small = 0;
    free(args);
}

/* Many threads. */

enum { THREADS = 6, CALLS = 150 };

struct caller {
    int number, wrong, answered;
};

static _Atomic int callers;

static void *caller_main(void *arg) {
    static const char *const peers[] = {"a@h", "b@h"};
    struct caller *c = arg;
    char mine[TERM_TEXT_MAX], args[64];

    for (int i = 0; i < CALLS; i++) {
        const char *name = i % 29 == 28   ? "half"
                           : i % 13 == 12 ? "never"
                           : i % 7        ? "echo"
                                          : "retire";
        int64_t deadline = *name == 'n' ? clock_now() + 100000 : i % 2 ? in_seconds(SECONDS) : 0;
        const char *got;

        snprintf(args, sizeof args, "[%d,%d]", c->number + 1000, i);
        got = run((unsigned long)c->number, peers[i % 3 == 0], name, args, deadline, mine,
                  sizeof mine);
        c->answered += strcmp(got, args) == 0;
        c->wrong += *name == 'n'   ? strcmp(got, "late") != 0
                    : *name == 'h' ? strcmp(got, "lost") != 0
                                   : strcmp(got, args) != 0;
    }
    atomic_fetch_sub(&callers, 1);
    return NULL;
}

static void test_threads(void) {
    struct caller seen[THREADS] = {{0}};
    pthread_t threads[THREADS];
    int wrong = 0, answered = 0, ticks = 0;

    atomic_store(&callers, THREADS);
    for (int i = 0; i < THREADS; i++) {
        seen[i].number = 100 + i;
        if (pthread_create(&threads[i], NULL, caller_main, &seen[i]) != 0)
            tap_bail("no thread");
    }
    for (; atomic_load(&callers) > 0; ticks++) {
        tick_all(); /* none is silent */
        channels_tick();
        channels_interrupt(OTHER);
        moment();
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += seen[i].wrong;
        answered += seen[i].answered;
    }
    is_int(wrong, 0, "%d threads: each call has its own answer, or what was to be expected",
           THREADS);
    diag("%d answered, %d ticks", answered, ticks);
    ok(all() == pooled() && all() <= MAX, "all channels are in the pool");
}

/* The child's copies are closed: who is at the other end sees the connection go with the node. */
static void test_fork(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    struct pollfd p = {end->fd, POLLIN, 0};
    int fds[2], status = -1;
    char byte;
    pid_t pid;

    if (pipe(fds) < 0)
        tap_bail("no pipe");
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(fds[1]);
        (void)!read(fds[0], &byte, 1); /* until the parent closes it */
        _exit(fcntl(ch->conn->fd, F_GETFD) < 0 && errno == EBADF ? 0 : 1);
    }
    close(fds[0]);
    ok(fcntl(ch->conn->fd, F_GETFD) >= 0, "after fork(2) a channel is the parent's");
    say_bytes(end, "\0\0\0\1x", 5);
    channel_begin(ch);
    channel_check(ch);
    channel_end(ch);
    channels_give(ch);
    ok(poll(&p, 1, SECONDS * 1000) == 1 && recv(end->fd, &byte, 1, 0) == 0,
       "its end is seen while the child lives");
    close(fds[1]);
    waitpid(pid, &status, 0);
    is_int(status, 0, "which has closed its copy");
    is_int(all(), 0, "no channel is left");
    logged();
    forget_ends();
}

int main(void) {
    is_int(tap_child(none_scene, NULL), 0, "a node that may have no channels has none");
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    channel_init(MAX_FRAME);
    channels_init("py@h", connect_cb, MAX);
    test_take();
    test_new_stays();
    test_handler();
    test_call();
    test_dropped();
    test_late();
    test_late_handler();
    test_retired();
    test_ended();
    test_lost();
    test_interrupt_early();
    test_cap();
    test_refused();
    test_names();
    test_ticks();
    test_questions();
    test_deaf();
    test_dead();
    test_silent();
    test_malformed();
    test_large_frames();
    test_signal(0);
    test_signal(in_seconds(SECONDS));
    test_fork();
    start_node();
    test_node();
    test_homeless();
    test_home_again();
    test_interrupt();
    test_full();
    test_threads();
    stop_node();
    close_all(NULL);
    is_int(all(), 0, "no channel is left");
    free(log_path);
    return tap_end();
}
