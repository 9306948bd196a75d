/* test_callback.c - calls from Python to Erlang over the node's connection: the answer, the time limit,
 * a connection that is lost, an interruption, a signal, the turns of those that are answered at once,
 * those that nobody waits for, many threads. Runs under TSan as well.
 */
#include "config.h"

#include "callback.h"
#include "clock.h"
#include "tap.h"
#include "term.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { SECONDS = 60 };

static int peer_fd;

static struct conn *open_conn(void) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    peer_fd = fds[1];
    return conn_new(fds[0], "a@h");
}

/* Lets go of the connection: whether nobody else holds it. */
static bool close_conn(struct conn *c) {
    bool last = atomic_load(&c->refs) == 1;

    conn_unref(c);
    close(peer_fd);
    return last;
}

static int64_t in_seconds(int seconds) {
    return clock_now() + (int64_t)seconds * 1000000000;
}

/* The answer to a call of this number that went out over c. */
static bool answer_over(struct conn *c, uint64_t id, const char *text) {
    struct buf term = {0};
    bool found;

    term_put(&term, text);
    found = callback_answer(c, id, (struct slice){term.data, term.len});
    memset(term.data, 0xee, term.len);
    buf_done(&term);
    return found;
}

static bool answer(const struct callback *cb, const char *text) {
    return answer_over(cb->conn, cb->id, text);
}

static const char *answer_of(const struct callback *cb) {
    return term_text((struct slice){cb->answer.len ? cb->answer.data : NULL, cb->answer.len});
}

static void test_answer(struct conn *c) {
    struct callback cb, other;
    struct conn *elsewhere = open_conn();
    uint64_t id;

    ok(!answer_over(c, 1, "x"), "nobody waits: nothing is an answer");
    is_int(callback_count(), 0, "none is counted");
    callback_begin(&cb, conn_ref(c));
    callback_begin(&other, conn_ref(c));
    is_int(callback_count(), 2, "two wait");
    id = cb.id;
    ok(id != other.id, "each with a number of its own");
    ok(!answer_over(c, id + 16384, "wrong"), "another number is no answer");
    ok(!answer_over(elsewhere, id, "wrong"), "nor is one over another connection");
    ok(answer(&cb, "{ok,1}"), "its number is");
    ok(answer(&cb, "second"), "a second one is, too");
    is_int(callback_wait(&cb, 0), CALLBACK_ANSWERED, "it has been answered");
    is_str(answer_of(&cb), "{ok,1}", "with the first");
    is_int(callback_wait(&cb, 0), CALLBACK_ANSWERED, "which stays so");
    is_int(callback_wait(&other, clock_now()), CALLBACK_WAITING, "the other has not");
    callback_end(&cb);
    is_int(callback_count(), 1, "one waits");
    ok(!answer_over(c, id, "late"), "a late answer is none");
    callback_end(&other);
    is_int(callback_count(), 0, "none does");
    ok(close_conn(elsewhere), "nothing holds the other connection");
}

/* Whether the waiter has been woken; it is asleep again then. */
static bool is_woken(struct callback *cb) {
    return sem_trywait(&cb->woken) == 0;
}

/* Of those that are answered at once each is woken when the one before has entered Python. */
static void test_turns(struct conn *c) {
    struct callback cb[5];

    for (int i = 0; i < 5; i++)
        callback_begin(&cb[i], conn_ref(c));
    for (int i = 0; i < 4; i++)
        answer(&cb[i], "x");
    ok(is_woken(&cb[0]), "the first that is answered is woken");
    ok(!is_woken(&cb[1]) && !is_woken(&cb[2]) && !is_woken(&cb[3]), "the others are not yet");
    ok(callback_more(), "there are more to be woken");
    callback_entered(&cb[0]);
    ok(is_woken(&cb[1]), "when it has entered, the second is");
    ok(!is_woken(&cb[0]) && !is_woken(&cb[2]), "and no other");
    callback_entered(&cb[0]);
    ok(!is_woken(&cb[2]), "who has entered passes on once");
    callback_entered(&cb[2]); /* its limit has passed, say */
    callback_end(&cb[1]);
    ok(!is_woken(&cb[2]) && is_woken(&cb[3]), "who woke by itself is passed over");
    ok(!callback_more(), "no more are to be woken");
    callback_end(&cb[3]);
    answer(&cb[4], "x");
    ok(is_woken(&cb[4]), "nobody is on its way: the next one is woken at once");
    callback_end(&cb[4]);
    callback_end(&cb[0]);
    callback_end(&cb[2]);
    is_int(callback_count(), 0, "none waits");
}

static void test_timeout(struct conn *c) {
    struct callback cb;
    int64_t begin = clock_now(), deadline = begin + 20000000;

    callback_begin(&cb, conn_ref(c));
    is_int(callback_wait(&cb, 1), CALLBACK_WAITING, "a limit that has passed already");
    is_int(callback_wait(&cb, deadline), CALLBACK_WAITING, "one that passes");
    ok(clock_now() >= deadline, "not before its time");
    answer(&cb, "x");
    is_int(callback_wait(&cb, 1), CALLBACK_ANSWERED, "an answer that is there counts all the same");
    callback_end(&cb);
}

/* Some to a bucket, answered in another order. */
static void test_many(struct conn *c) {
    enum { MANY = 40000 };
    static struct callback all[MANY];
    int wrong = 0;

    for (int i = 0; i < MANY; i++)
        callback_begin(&all[i], conn_ref(c));
    is_int(callback_count(), MANY, "%d wait", MANY);
    for (int i = 0; i < MANY; i++) {
        struct callback *cb = &all[i * 7 % MANY];
        char text[16];

        snprintf(text, sizeof text, "%d", i * 7 % MANY);
        wrong += !answer(cb, text);
    }
    for (int i = 0; i < MANY; i++) {
        char text[16];

        snprintf(text, sizeof text, "%d", i);
        wrong += callback_wait(&all[i], 0) != CALLBACK_ANSWERED || all[i].answer.len == 0 ||
                 strcmp(answer_of(&all[i]), text) != 0;
    }
    for (int i = 0; i < MANY; i++)
        callback_end(&all[i * 3 % MANY]);
    is_int(wrong, 0, "each has its own answer");
    is_int(callback_count(), 0, "none waits any more");
}

static void test_lost(struct conn *c) {
    struct conn *lost = open_conn();
    struct callback waits, answered, other;

    callback_begin(&waits, conn_ref(lost));
    callback_begin(&answered, conn_ref(lost));
    callback_begin(&other, conn_ref(c));
    answer(&answered, "x");
    callback_closed(lost);
    is_int(callback_wait(&waits, 0), CALLBACK_LOST,
           "who waits over a connection is told of its end");
    is_int(callback_wait(&answered, 0), CALLBACK_ANSWERED, "who has the answer keeps it");
    is_int(callback_wait(&other, 1), CALLBACK_WAITING, "who waits over another is not told");
    ok(answer(&waits, "late"), "an answer that comes then");
    is_int(callback_wait(&waits, 0), CALLBACK_LOST, "changes nothing");
    is_str(answer_of(&waits), "-", "at all");
    callback_closed(lost);
    callback_closed(c);
    is_int(callback_wait(&other, 0), CALLBACK_LOST, "until that one is lost, too");
    callback_end(&waits);
    callback_end(&answered);
    callback_end(&other);
    ok(close_conn(lost), "nothing holds the lost connection");
}

/* The connection had ended just before, and nobody tells of it again: this waited for ever. */
static void test_lost_before(void) {
    struct conn *lost = open_conn();
    struct callback cb;

    outbox_close(&lost->out);
    callback_closed(lost);
    callback_begin(&cb, conn_ref(lost));
    is_int(callback_wait(&cb, in_seconds(2)), CALLBACK_LOST,
           "a call over a connection that has ended is lost");
    callback_end(&cb);
    ok(close_conn(lost), "nothing holds the connection");
}

/* The threads' names are Python's: any number will do, and 0 is no name. */
static void test_interrupt(struct conn *c) {
    struct callback mine, answered, other, nameless;

    callback_interrupt(5);
    callback_begin(&mine, conn_ref(c));
    callback_begin(&answered, conn_ref(c));
    callback_begin(&other, conn_ref(c));
    callback_begin(&nameless, conn_ref(c));
    mine.thread = answered.thread = 5;
    other.thread = 6;
    answer(&answered, "x");
    callback_interrupt(5);
    is_int(callback_wait(&mine, 0), CALLBACK_INTERRUPTED, "who waits in a thread is interrupted");
    is_int(callback_wait(&answered, 0), CALLBACK_ANSWERED, "who has the answer keeps it");
    is_int(callback_wait(&other, 1), CALLBACK_WAITING, "who waits in another is not");
    is_int(callback_wait(&nameless, 1), CALLBACK_WAITING, "nor who waits in none");
    ok(answer(&mine, "late"), "an answer that comes then");
    callback_closed(c);
    is_int(callback_wait(&mine, 0), CALLBACK_INTERRUPTED, "changes nothing, nor does a loss");
    is_str(answer_of(&mine), "-", "at all");
    callback_end(&mine);
    callback_end(&answered);
    callback_end(&other);
    callback_end(&nameless);
}

/* Calls that nobody waits for. */

static bool is_set(const struct callback_sink *sink) {
    struct pollfd p = {sink->wake.fd, POLLIN, 0};

    return poll(&p, 1, 0) == 1;
}

/* Takes at most so many and lets them go: their answers, "lost" for one without; "" for none. */
static const char *taken(struct callback_sink *sink, int max) {
    static char text[200];
    struct callback *cb = callback_take(sink, max);

    text[0] = '\0';
    while (cb) {
        struct callback *next = cb->ready;
        size_t at = strlen(text);

        snprintf(text + at, sizeof text - at, "%s%s", at > 0 ? " " : "",
                 atomic_load(&cb->state) == CALLBACK_LOST ? "lost" : answer_of(cb));
        callback_release(cb);
        cb = next;
    }
    return text;
}

static void test_sink(struct conn *c) {
    struct callback cb[4], other, thread;
    struct callback_sink sink, elsewhere;
    struct conn *another = open_conn();
    int counted = callback_count();

    ok(callback_sink_init(&sink) == 0 && callback_sink_init(&elsewhere) == 0, "two sinks");
    is_str(taken(&sink, 9), "", "nothing is in it");
    for (int i = 0; i < 4; i++)
        callback_begin_in(&cb[i], conn_ref(c), &sink);
    callback_begin_in(&other, conn_ref(c), &elsewhere);
    callback_begin(&thread, conn_ref(c));
    is_int(callback_count() - counted, 6, "all are counted");
    ok(callback_find(&sink, cb[2].id) == &cb[2], "one is found by its number");
    ok(!callback_find(&elsewhere, cb[2].id), "but not in another sink");
    ok(!callback_find(&sink, thread.id), "nor one that a thread waits for");
    ok(!answer_over(another, cb[0].id, "x"), "an answer over another connection is none");
    ok(answer(&cb[2], "c") && answer(&cb[0], "a"), "two are answered");
    ok(!is_set(&sink), "the sink is not woken for each of them");
    callback_answered();
    ok(is_set(&sink) && !is_set(&elsewhere), "but when no more are at hand, and no other sink");
    ok(!is_woken(&thread), "no thread is, either");
    ok(answer(&cb[1], "b"), "one more is answered");
    callback_answered();
    is_str(taken(&sink, 2), "c a", "the first two are taken, in order");
    ok(is_set(&sink), "it stays woken for the third");
    ok(!callback_find(&sink, cb[0].id), "what is taken is not found");
    ok(callback_find(&sink, cb[1].id) == &cb[1], "what has only ended is");
    ok(!callback_withdraw(&cb[1]), "and cannot be withdrawn");
    is_str(taken(&sink, 9), "b", "the third is taken");
    ok(!is_set(&sink), "it is not woken any more");
    callback_answered();
    ok(!is_set(&sink), "not without another end");
    ok(callback_withdraw(&cb[3]), "the last is withdrawn");
    ok(!answer(&cb[3], "late"), "an answer to it is none");
    callback_release(&cb[3]);
    ok(answer(&other, "x"), "the other sink's call is answered");
    ok(answer(&thread, "y"), "and the thread's");
    ok(is_woken(&thread), "which is woken at once");
    callback_sink_done(&sink);
    is_str(taken(&elsewhere, 9), "x", "what has not been told yet can be taken, too");
    callback_answered();
    ok(is_set(&elsewhere), "who is told then finds nothing");
    is_str(taken(&elsewhere, 9), "", "at all");
    callback_end(&thread);
    callback_sink_done(&elsewhere);
    is_int(callback_count(), counted, "nothing is left");
    ok(close_conn(another), "nor does anything hold the other connection");
}

/* A sink that ends while it is about to be woken. */
static void test_sink_done(struct conn *c) {
    struct callback_sink sinks[3];
    struct callback cb[3];

    for (int i = 0; i < 3; i++) {
        callback_sink_init(&sinks[i]);
        callback_begin_in(&cb[i], conn_ref(c), &sinks[i]);
        answer(&cb[i], "x");
    }
    is_str(taken(&sinks[1], 9), "x", "a sink's last call is taken");
    callback_sink_done(&sinks[1]);
    memset(&sinks[1], 0xee, sizeof sinks[1]);
    callback_answered();
    ok(is_set(&sinks[0]) && is_set(&sinks[2]), "the others are woken, the one that is gone is not");
    for (int i = 0; i < 3; i += 2) {
        is_str(taken(&sinks[i], 9), "x", "with their calls");
        callback_sink_done(&sinks[i]);
    }
}

static void test_sink_lost(struct conn *c) {
    struct conn *lost = open_conn();
    struct callback answered, waits, withdrawn, other, late;
    struct callback_sink sink;

    callback_sink_init(&sink);
    callback_begin_in(&answered, conn_ref(lost), &sink);
    callback_begin_in(&waits, conn_ref(lost), &sink);
    callback_begin_in(&withdrawn, conn_ref(lost), &sink);
    callback_begin_in(&other, conn_ref(c), &sink);
    answer(&answered, "x");
    callback_withdraw(&withdrawn);
    callback_release(&withdrawn);
    callback_closed(lost);
    ok(is_set(&sink), "the sink is woken for the end of a connection");
    ok(answer(&waits, "late"), "an answer that comes then");
    is_str(taken(&sink, 9), "x lost", "changes nothing; what was answered stays so");
    outbox_close(&lost->out);
    callback_begin_in(&late, conn_ref(lost), &sink);
    ok(is_set(&sink), "a call over a connection that has ended");
    is_str(taken(&sink, 9), "lost", "is lost, too");
    ok(answer(&other, "y"), "one over another connection goes on");
    callback_answered();
    is_str(taken(&sink, 9), "y", "and is answered");
    callback_sink_done(&sink);
    ok(close_conn(lost), "nothing holds the lost connection");
}

/* What a thread serves was cancelled: its loop is to look, its calls go on. */
static void test_sink_interrupt(struct conn *c) {
    struct callback_sink sink, other;
    struct callback mine, others;

    callback_sink_init(&sink);
    callback_sink_init(&other);
    sink.thread = 5;
    other.thread = 6;
    callback_begin_in(&mine, conn_ref(c), &sink);
    callback_begin_in(&others, conn_ref(c), &other);
    callback_interrupt(5);
    ok(is_set(&sink) && atomic_load(&sink.interrupted), "the sink of the thread is woken and told");
    ok(!is_set(&other) && !atomic_load(&other.interrupted), "another is not");
    is_str(taken(&sink, 9), "", "nothing has ended");
    ok(answer(&mine, "x"), "its call goes on");
    is_str(taken(&sink, 9), "x", "to its answer");
    ok(callback_withdraw(&others), "and so does the other's");
    callback_release(&others);
    callback_sink_done(&sink);
    callback_sink_done(&other);
}

static void interrupted_cb(int signo) {
    (void)signo;
}

static struct callback signalled;
static _Atomic int state_seen = -1;

static void *waiter_main(void *arg) {
    (void)arg;
    atomic_store(&state_seen, (int)callback_wait(&signalled, 0));
    return NULL;
}

/* Signals until the thread returns: one may come before it has begun to wait. */
static void test_signal(struct conn *c) {
    struct sigaction action = {.sa_handler = interrupted_cb}; /* without SA_RESTART */
    int64_t end = in_seconds(SECONDS);
    pthread_t thread;

    sigaction(SIGUSR1, &action, NULL);
    callback_begin(&signalled, conn_ref(c));
    if (pthread_create(&thread, NULL, waiter_main, NULL) != 0)
        tap_bail("no thread");
    while (atomic_load(&state_seen) < 0 && clock_now() < end) {
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    is_int(atomic_load(&state_seen), CALLBACK_WAITING, "a signal ends the wait, not the call");
    answer(&signalled, "x");
    pthread_join(thread, NULL);
    is_int(callback_wait(&signalled, 0), CALLBACK_ANSWERED, "the answer can still come");
    callback_end(&signalled);
}

/* Many threads: calls over two connections, one of which is lost again and again. */

enum { THREADS = 4, CALLS = 2000, POSTED = 64 };

/* What has been sent and not been answered. */
static struct {
    pthread_mutex_t lock;
    struct {
        struct conn *conn;
        uint64_t id;
        uint32_t number;
    } calls[POSTED];
    int n;
} post = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic int callers;
static struct conn *conns[2];

static void send_call(struct conn *conn, uint64_t id, uint32_t number) {
    for (bool sent = false; !sent; sched_yield()) {
        pthread_mutex_lock(&post.lock);
        sent = post.n < POSTED;
        if (sent) {
            post.calls[post.n].conn = conn;
            post.calls[post.n].id = id;
            post.calls[post.n++].number = number;
        }
        pthread_mutex_unlock(&post.lock);
    }
}

/* What a thread has seen. */
struct seen {
    uint32_t me;
    int answered, lost, late, wrong;
};

static void *caller_main(void *arg) {
    struct seen *seen = arg;

    for (uint32_t i = 0; i < CALLS; i++) {
        uint32_t number = seen->me * CALLS + i;
        struct etf at;
        struct callback cb;
        int64_t got;

        callback_begin(&cb, conn_ref(conns[i % 2]));
        send_call(cb.conn, cb.id, number);
        switch (callback_wait(&cb, i % 10 == 9 ? clock_now() + 1000 : in_seconds(SECONDS))) {
        case CALLBACK_ANSWERED:
            at = (struct etf){cb.answer.data, cb.answer.data + cb.answer.len};
            seen->wrong += etf_get_integer(&at, &got) < 0 || got != number || at.p != at.end;
            seen->answered++;
            break;
        case CALLBACK_LOST:
            seen->wrong += i % 2 == 0;
            seen->lost++;
            break;
        case CALLBACK_WAITING:
            seen->wrong += i % 10 != 9;
            seen->late++;
            break;
        case CALLBACK_INTERRUPTED:
            seen->wrong++;
            break;
        }
        if (i % 3 > 0)
            callback_entered(&cb);
        callback_end(&cb);
    }
    atomic_fetch_sub(&callers, 1);
    return NULL;
}

/* Plays the leader: answers what was sent last; some calls end with the second connection. */
static void answer_all(void) {
    while (atomic_load(&callers) > 0) {
        struct buf term = {0};
        struct conn *conn = NULL;
        uint32_t number = 0;
        uint64_t id = 0;

        pthread_mutex_lock(&post.lock);
        if (post.n > 0) {
            post.n--;
            conn = post.calls[post.n].conn;
            id = post.calls[post.n].id;
            number = post.calls[post.n].number;
            etf_put_integer(&term, number);
        }
        pthread_mutex_unlock(&post.lock);
        if (number % 20 == 1)
            callback_closed(conns[1]);
        else if (term.len > 0)
            callback_answer(conn, id, (struct slice){term.data, term.len});
        if (number % 8 == 0)
            callback_answered();
        if (term.len == 0)
            sched_yield();
        buf_done(&term);
    }
}

static void test_threads(void *(*thread_main)(void *), const char *what) {
    struct seen seen[THREADS] = {{0}};
    pthread_t threads[THREADS];
    int answered = 0, lost = 0, late = 0, wrong = 0, other;

    conns[0] = open_conn();
    other = peer_fd;
    conns[1] = open_conn();
    atomic_store(&callers, THREADS);
    for (int i = 0; i < THREADS; i++) {
        seen[i].me = (uint32_t)i;
        if (pthread_create(&threads[i], NULL, thread_main, &seen[i]) != 0)
            tap_bail("no thread");
    }
    answer_all();
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        answered += seen[i].answered;
        lost += seen[i].lost;
        late += seen[i].late;
        wrong += seen[i].wrong;
    }
    diag("answered %d, lost %d, late %d", answered, lost, late);
    is_int(answered + lost + late, THREADS * CALLS, "%d %s: each call ends once", THREADS, what);
    is_int(wrong, 0, "with its own answer, or what was to be expected");
    ok(answered > 0 && lost > 0, "some are answered, some are lost");
    is_int(callback_count(), 0, "none waits any more");
    ok(close_conn(conns[1]), "nothing holds the connections");
    peer_fd = other;
    ok(close_conn(conns[0]), "neither of them");
}

/* Loops: each has calls in a sink of its own, drops every fourth and then takes what has ended, while
 * another thread answers, and the second connection is lost again and again. */

/* Drops it, unless it has ended. */
static void loop_drop(struct seen *seen, struct callback_sink *sink, uint64_t id) {
    struct callback *cb = callback_find(sink, id);

    if (!cb || !callback_withdraw(cb))
        return;
    callback_release(cb);
    free(cb);
    seen->late++;
}

/* The end of one: as it had to be expected. */
static void loop_take(struct seen *seen, struct callback *cb) {
    if (atomic_load(&cb->state) == CALLBACK_LOST) {
        seen->wrong += cb->conn != conns[1];
        seen->lost++;
    } else {
        struct etf at = {cb->answer.data, cb->answer.data + cb->answer.len};
        int64_t got;

        seen->wrong += etf_get_integer(&at, &got) < 0 || got != (int64_t)cb->thread;
        seen->answered++;
    }
    callback_release(cb);
    free(cb);
}

static void *loop_main(void *arg) {
    struct seen *seen = arg;
    struct callback_sink sink;

    callback_sink_init(&sink);
    for (uint32_t i = 0; i < CALLS || seen->answered + seen->lost + seen->late < CALLS;) {
        struct pollfd p = {sink.wake.fd, POLLIN, 0};

        if (i < CALLS) {
            struct callback *cb = malloc(sizeof *cb);
            uint32_t number = seen->me * CALLS + i;
            uint64_t id;

            callback_begin_in(cb, conn_ref(conns[i % 2]), &sink);
            cb->thread = number; /* nobody's: what its answer has to be */
            id = cb->id;
            if (i % 8 == 0)
                loop_drop(seen, &sink, id); /* its answer will be nobody's */
            send_call(conns[i % 2], id, number);
            if (i % 8 == 4)
                loop_drop(seen, &sink, id); /* or is there already */
            i++;
        }
        if (i % 16 == 0 && poll(&p, 1, i < CALLS ? 0 : 1000) == 1)
            for (struct callback *cb = callback_take(&sink, 10), *next; cb; cb = next) {
                next = cb->ready;
                loop_take(seen, cb);
            }
    }
    callback_sink_done(&sink);
    atomic_fetch_sub(&callers, 1);
    return NULL;
}

int main(void) {
    struct conn *c = open_conn();
    int fd = peer_fd;

    request_init("py@h", 77);
    test_answer(c);
    test_turns(c);
    test_timeout(c);
    test_many(c);
    test_lost(c);
    test_lost_before();
    test_interrupt(c);
    test_signal(c);
    test_sink(c);
    test_sink_done(c);
    test_sink_lost(c);
    test_sink_interrupt(c);
    test_threads(caller_main, "threads");
    test_threads(loop_main, "loops");
    peer_fd = fd;
    ok(close_conn(c), "nothing holds the connection any more");
    return tap_end();
}
