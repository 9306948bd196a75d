/* test_channels.c - the channels of many threads to a node that answers by itself: calls, a coordinator that is not
 * there, interrupts, a full socket.
 *
 * The node is a thread. Runs under TSan as well.
 */
#include "config.h"

#include "channel_ends.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>

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

int main(void) {
    begin_channels();
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
    end_channels();
    return tap_end();
}
