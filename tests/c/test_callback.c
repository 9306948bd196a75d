/* test_callback.c - calls from Python to Erlang: the answer, the time limit, a connection that is
 * lost, an interruption, a signal, many threads at once. Runs under TSan as well.
 */
#include "config.h"

#include "callback.h"
#include "clock.h"
#include "tap.h"
#include "term.h"

#include <sched.h>
#include <signal.h>
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

/* A message to the pid. */
static bool answer(uint32_t id, uint32_t serial, const char *text) {
    struct buf term = {0};
    bool found;

    term_put(&term, text);
    found = callback_answer(id, serial, (struct slice){term.data, term.len});
    memset(term.data, 0xee, term.len);
    buf_done(&term);
    return found;
}

static const char *answer_of(const struct callback *cb) {
    return term_text((struct slice){cb->answer.len ? cb->answer.data : NULL, cb->answer.len});
}

static void test_answer(struct conn *c) {
    struct callback cb, other;
    uint32_t id, serial;

    ok(!answer(1, 1, "x"), "nobody waits: a message is no answer");
    is_int(callback_count(), 0, "none is counted");
    callback_begin(&cb, conn_ref(c));
    callback_begin(&other, conn_ref(c));
    is_int(callback_count(), 2, "two wait");
    id = cb.id;
    serial = cb.serial;
    ok(id != other.id || serial != other.serial, "each with a pid of its own");
    ok(callback_alive(id, serial), "which lives");
    ok(!callback_alive(id, serial + 1) && !callback_alive(id ^ 256, serial), "as no other does");
    ok(!answer(id, serial + 1, "wrong"), "a message to another serial is no answer");
    ok(!answer(id ^ 256, serial, "wrong"), "nor to another id");
    ok(answer(id, serial, "{py_reply,ok,1}"), "a message to its pid is");
    ok(answer(id, serial, "second"), "a second one is, too");
    is_int(callback_wait(&cb, 0), CALLBACK_ANSWERED, "it has been answered");
    is_str(answer_of(&cb), "{py_reply,ok,1}", "with the first");
    is_int(callback_wait(&cb, 0), CALLBACK_ANSWERED, "which stays so");
    is_int(callback_wait(&other, clock_now()), CALLBACK_WAITING, "the other has not");
    callback_end(&cb);
    is_int(callback_count(), 1, "one waits");
    ok(!callback_alive(id, serial), "the other lives no more");
    ok(!answer(id, serial, "late"), "a late message is no answer");
    callback_end(&other);
    is_int(callback_count(), 0, "none does");
    ok(!callback_alive(other.id, other.serial), "and none lives");
}

static void test_timeout(struct conn *c) {
    struct callback cb;
    int64_t begin = clock_now(), deadline = begin + 20000000;

    callback_begin(&cb, conn_ref(c));
    is_int(callback_wait(&cb, 1), CALLBACK_WAITING, "a limit that has passed already");
    is_int(callback_wait(&cb, deadline), CALLBACK_WAITING, "one that passes");
    ok(clock_now() >= deadline, "not before its time");
    answer(cb.id, cb.serial, "x");
    is_int(callback_wait(&cb, 1), CALLBACK_ANSWERED, "an answer that is there counts all the same");
    callback_end(&cb);
}

/* Many in few buckets, answered in another order. */
static void test_many(struct conn *c) {
    enum { MANY = 2000 };
    static struct callback all[MANY];
    int wrong = 0;

    for (int i = 0; i < MANY; i++)
        callback_begin(&all[i], conn_ref(c));
    is_int(callback_count(), MANY, "%d wait", MANY);
    for (int i = 0; i < MANY; i++) {
        struct callback *cb = &all[i * 7 % MANY];
        char text[16];

        snprintf(text, sizeof text, "%d", i * 7 % MANY);
        wrong += !answer(cb->id, cb->serial, text);
    }
    for (int i = 0; i < MANY; i++) {
        char text[16];

        snprintf(text, sizeof text, "%d", i);
        wrong += callback_wait(&all[i], 0) != CALLBACK_ANSWERED ||
                 all[i].answer.len == 0 || strcmp(answer_of(&all[i]), text) != 0;
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
    answer(answered.id, answered.serial, "x");
    callback_closed(lost);
    is_int(callback_wait(&waits, 0), CALLBACK_LOST, "who waits over a connection is told of its end");
    is_int(callback_wait(&answered, 0), CALLBACK_ANSWERED, "who has the answer keeps it");
    is_int(callback_wait(&other, 1), CALLBACK_WAITING, "who waits over another is not told");
    ok(answer(waits.id, waits.serial, "late"), "an answer that comes then");
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
    answer(answered.id, answered.serial, "x");
    callback_interrupt(5);
    is_int(callback_wait(&mine, 0), CALLBACK_INTERRUPTED, "who waits in a thread is interrupted");
    is_int(callback_wait(&answered, 0), CALLBACK_ANSWERED, "who has the answer keeps it");
    is_int(callback_wait(&other, 1), CALLBACK_WAITING, "who waits in another is not");
    is_int(callback_wait(&nameless, 1), CALLBACK_WAITING, "nor who waits in none");
    ok(answer(mine.id, mine.serial, "late"), "an answer that comes then");
    callback_closed(c);
    is_int(callback_wait(&mine, 0), CALLBACK_INTERRUPTED, "changes nothing, nor does a loss");
    is_str(answer_of(&mine), "-", "at all");
    callback_end(&mine);
    callback_end(&answered);
    callback_end(&other);
    callback_end(&nameless);
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
    answer(signalled.id, signalled.serial, "x");
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
        uint32_t id, serial, number;
    } calls[POSTED];
    int n;
} post = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic int callers;
static struct conn *conns[2];

static void send_call(const struct callback *cb, uint32_t number) {
    for (bool sent = false; !sent; sched_yield()) {
        pthread_mutex_lock(&post.lock);
        sent = post.n < POSTED;
        if (sent) {
            post.calls[post.n].id = cb->id;
            post.calls[post.n].serial = cb->serial;
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
        send_call(&cb, number);
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
        callback_end(&cb);
    }
    atomic_fetch_sub(&callers, 1);
    return NULL;
}

/* Plays the leader: answers what was sent last; some calls end with the second connection. */
static void answer_all(void) {
    while (atomic_load(&callers) > 0) {
        struct buf term = {0};
        uint32_t id = 0, serial = 0, number = 0;

        pthread_mutex_lock(&post.lock);
        if (post.n > 0) {
            post.n--;
            id = post.calls[post.n].id;
            serial = post.calls[post.n].serial;
            number = post.calls[post.n].number;
            etf_put_integer(&term, number);
        }
        pthread_mutex_unlock(&post.lock);
        if (number % 20 == 1)
            callback_closed(conns[1]);
        else if (term.len > 0)
            callback_answer(id, serial, (struct slice){term.data, term.len});
        else
            sched_yield();
        buf_done(&term);
    }
}

static void test_threads(void) {
    struct seen seen[THREADS] = {{0}};
    pthread_t threads[THREADS];
    int answered = 0, lost = 0, late = 0, wrong = 0, other;

    conns[0] = open_conn();
    other = peer_fd;
    conns[1] = open_conn();
    atomic_store(&callers, THREADS);
    for (int i = 0; i < THREADS; i++) {
        seen[i].me = (uint32_t)i;
        if (pthread_create(&threads[i], NULL, caller_main, &seen[i]) != 0)
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
    is_int(answered + lost + late, THREADS * CALLS, "%d threads: each call ends once", THREADS);
    is_int(wrong, 0, "with its own answer, or what was to be expected");
    ok(answered > 0 && lost > 0, "some are answered, some are lost");
    is_int(callback_count(), 0, "none waits any more");
    ok(close_conn(conns[1]), "nothing holds the connections");
    peer_fd = other;
    ok(close_conn(conns[0]), "neither of them");
}

int main(void) {
    struct conn *c = open_conn();
    int fd = peer_fd;

    request_init("py@h", 77);
    test_answer(c);
    test_timeout(c);
    test_many(c);
    test_lost(c);
    test_lost_before();
    test_interrupt(c);
    test_signal(c);
    test_threads();
    peer_fd = fd;
    ok(close_conn(c), "nothing holds the connection any more");
    return tap_end();
}
