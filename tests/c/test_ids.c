/* test_ids.c - remembered ids: what is sent twice runs once, whoever cancels, goes, or ends meanwhile.
 *
 * First the main thread plays the leader, the workers and two peers, message by message. Then the bounds, and then
 * threads that end requests while the main thread sends, cancels and closes at random. Runs under TSan as well.
 */
#include "config.h"

#include "answer.h"
#include "control.h"
#include "ends.h"
#include "home.h"
#include "ids.h"
#include "io.h"
#include "log.h"
#include "pool.h"
#include "tap.h"
#include "tasks.h"
#include "term.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

enum { LIMIT = 100, IDS = 4, MIB = 1 << 20 };

#define P "<a@h,1,2,3>"
#define HA "<a@h,20,0,3>"
#define HB "<b@h,20,0,3>"
#define REF(n) "#<a@h,3," #n ",1>"
#define CALL(n, id) "{call," REF(n) ",m,f,[],#{id=><<\"" id "\">>}}"
#define TASK(n, id) "{call," REF(n) ",m,f,[],#{id=><<\"" id "\">>,loop=>true}}"
#define CANCEL(n) "{cancel," REF(n) "}"
#define TO_A(items) "{2,''," HA "} + [" items "]"
#define TO_B(items) "{2,''," HB "} + [" items "]"
#define OK(n, value) "{" REF(n) ",{ok," value "}}"
#define ERROR(n, reason) "{" REF(n) ",{error," reason "}}"
#define ENDED(n) "{ended," REF(n) "}"
#define STARTED(n) "{started," REF(n) "}"

static struct end a, b;

static void attached_cb(void) {
}

static void worker_cb(struct exec_worker *w) {
    (void)w;
}

static void wait_for(sem_t *s) {
    while (sem_wait(s) < 0)
        ;
}

static bool start_loop_cb(void) {
    return true;
}

/* Sends a list of one to the name pynode: what the peer gets. */
static const char *say(struct end *e, const char *item) {
    return tell(e, "{6," P ",'',pynode}", line("[%s]", item));
}

/* Attaches; the report of the load that the home gets is no part of what is tested. */
static void attach(struct end *e, const char *home) {
    tell(e, "{6," P ",'',pynode}", line("{attach,%s}", home));
    got(e);
}

static void open_home(struct end *e, const char *peer, const char *home) {
    open_end(e, peer);
    attach(e, home);
}

/* The connection ends. */
static void lose(struct end *e) {
    outbox_close(&e->conn->out);
    route_closed(e->conn);
}

static struct slice slice(const struct buf *buf) {
    return (struct slice){buf->data, buf->len};
}

static void touch_cb(void *arg, struct conn *c) {
    (void)arg;
    (void)c;
}

/* What a request ends in. */
enum { FINE, FAILS, CANCELLED };

/* Ends a request as a worker does, or the loop if w is NULL (py_reply.c). */
static void answer(struct exec_worker *w, struct request *r, int how, const char *value) {
    struct buf out = {0}, term = {0};
    bool wanted = exec_claim(r), heard = true;
    size_t begin;

    term_put(&term, value);
    if (wanted && how == CANCELLED) {
        answer_refuse(r, &out, "cancelled");
    } else if (wanted && how == FAILS) {
        answer_error(r, &out, slice(&term), slice(&term));
    } else if (wanted && answer_begin(r, &out, &begin)) {
        etf_put_slice(&out, slice(&term));
        answer_end(r, &out, begin);
    }
    if (r->id)
        heard = route_repeats(r, &out, wanted && how != CANCELLED, touch_cb, NULL);
    if (!heard)
        out.len = 0;
    else if (!wanted)
        home_put_ended(r->conn, r->ref);
    route_put(r, &out);
    if (wanted && heard && r->reported)
        home_put_ended(r->conn, r->ref);
    exec_finish(w, r);
    route_ended(r, slice(&term));
    buf_done(&out);
    buf_done(&term);
}

static struct request *pop(void) {
    struct request *r = exec_pop(&me);

    if (!r)
        tap_bail("nothing is queued");
    return r;
}

/* The one that is queued runs. */
static void run(const char *value) {
    answer(&me, pop(), FINE, value);
}

static const struct conn *held; /* its requests are kept back */

static bool hold_cb(const struct request *r) {
    return held && r->conn == held;
}

static void forget_all(void) {
    ids_sweep(INT64_MAX);
}

static void test_once(void) {
    is_str(say(&a, CALL(1, "x")), "", "a call with an id");
    is_str(say(&a, CALL(2, "x")), "", "the same once more");
    is_str(say(&b, CALL(3, "x")), "", "and from another connection");
    is_str(say(&a, CALL(4, "y")), "", "another id");
    is_int(exec_queued(), 2, "each id is queued once");
    run("1");
    is_str(got(&a), TO_A(OK(2, "1") "," OK(1, "1")), "who sent it has the answer, twice");
    is_str(got(&b), TO_B(OK(3, "1")), "and so has the other");
    run("2");
    is_str(got(&a), TO_A(OK(4, "2")), "the other id has its own");
    is_str(say(&b, CALL(5, "x")), TO_B(OK(5, "1")), "later it is answered from memory");
    is_str(tell(&a, "{6," P ",'',pynode}", CALL(6, "x")),
           "{33,<py@h,0,0,77>," REF(6) "} + {py_response," REF(6) ",{ok,1}}", "at its alias, too");
    is_int(exec_load(), 0, "and nothing runs");
    forget_all();
    is_str(say(&a, CALL(9, "x")), "", "what is forgotten runs again");
    run("3");
    is_str(got(&a), TO_A(OK(9, "3")), "with another value");
}

static struct request *take_task(void) {
    struct request *r = NULL;

    if (tasks_take(&r, 1) != 1)
        tap_bail("no task waits");
    return r;
}

static void test_task(void) {
    say(&a, TASK(7, "z"));
    say(&a, CALL(8, "z"));
    is_int(exec_queued() + tasks_waiting(), 1, "a task and a call are one, too");
    answer(NULL, take_task(), FINE, "9");
    is_str(got(&a), TO_A(OK(8, "9") "," OK(7, "9")), "both have the task's answer");
    forget_all();
}

static void test_errors(void) {
    say(&a, CALL(1, "x"));
    say(&b, CALL(2, "x"));
    answer(&me, pop(), FAILS, "{python_error,'ValueError',<<\"no\">>}");
    is_str(got(&b), TO_B(ERROR(2, "{'ValueError',<<\"no\">>}")), "an error is everybody's");
    got(&a);
    is_str(say(&a, CALL(3, "x")), TO_A(ERROR(3, "{'ValueError',<<\"no\">>}")), "and remembered");
    say(&a, CALL(4, "c"));
    say(&b, CALL(5, "c"));
    answer(&me, pop(), CANCELLED, "x");
    is_str(got(&a), TO_A(ERROR(4, "cancelled")), "that it was cancelled");
    is_str(got(&b), TO_B(ERROR(5, "cancelled")), "is told to all");
    is_str(say(&a, CALL(6, "c")), "", "but not remembered");
    run("1");
    got(&a);
    for (int i = 0; i < LIMIT; i++)
        say(&a, "{cast,m,f,[],#{}}");
    is_str(say(&a, CALL(7, "full")), TO_A(ERROR(7, "overloaded")), "the queue is full");
    is_str(say(&b, CALL(8, "c")), TO_B(OK(8, "1")), "what is known is answered all the same");
    for (int i = 0; i < LIMIT; i++)
        run("1");
    is_str(say(&a, CALL(9, "full")), "", "a refusal is not remembered");
    run("5");
    is_str(got(&a), TO_A(OK(9, "5")), "it runs when there is room");
    is_str(say(&a, "{call," REF(1) ",m,f,[],#{id=>x}}"), TO_A(ERROR(1, "{bad_option,id}")), "an id that is none");
    is_str(say(&a, "{call," REF(1) ",pynode,ready,[],#{id=><<\"c\">>}}"), TO_A(OK(1, "false")),
           "what the node is asked itself has no use for one");
    forget_all();
}

static void test_cancel(void) {
    struct request *r;

    say(&a, CALL(1, "x"));
    is_str(say(&a, CANCEL(1)), TO_A(ENDED(1)), "one that waits is cancelled");
    is_int(exec_load(), 0, "and gone");
    is_str(say(&a, CALL(2, "x")), "", "as is its id");
    r = pop();
    is_str(say(&a, CANCEL(2)), "", "one that runs is cancelled");
    ok(r->abandoned && r->interrupt, "so it is interrupted");
    is_str(say(&a, CALL(3, "x")), "", "a repeat meanwhile");
    is_int(exec_queued(), 1, "is a new one");
    answer(&me, r, FINE, "1");
    is_str(got(&a), TO_A(ENDED(2)), "the first has ended");
    run("2");
    is_str(got(&a), TO_A(OK(3, "2")), "and the second has its own answer");
    is_str(say(&a, CALL(4, "x")), TO_A(OK(4, "2")), "which is the one that is remembered");
    forget_all();
}

/* Who cancels takes nothing from the others. */
static void test_cancel_shared(void) {
    struct request *r;

    say(&a, CALL(1, "x"));
    say(&b, CALL(2, "x"));
    r = pop();
    is_str(say(&b, CANCEL(2)), TO_B(ENDED(2)), "who waits can cancel");
    ok(!r->abandoned && !r->interrupt, "it goes on for the first");
    say(&b, CALL(3, "x"));
    is_str(say(&a, CANCEL(1)), TO_A(ENDED(1)), "the first can, too");
    ok(!r->abandoned && !r->interrupt, "it goes on for who waits");
    is_str(say(&a, CANCEL(1)), TO_A(ENDED(1)), "and nothing is changed by saying it twice");
    ok(!r->abandoned && !r->interrupt, "it still does");
    is_str(say(&a, CANCEL(3)), TO_A(ENDED(3)), "nor by another connection");
    answer(&me, r, FINE, "1");
    is_str(got(&a), "", "who has cancelled gets no answer");
    is_str(got(&b), TO_B(OK(3, "1")), "who has not does");
    is_str(say(&a, CALL(4, "x")), TO_A(OK(4, "1")), "it is remembered");
    forget_all();

    say(&a, CALL(1, "x"));
    say(&b, CALL(2, "x"));
    say(&b, CALL(3, "x"));
    r = pop();
    say(&a, CANCEL(1));
    say(&b, CANCEL(3));
    ok(!r->abandoned, "one is left");
    is_str(say(&b, CANCEL(2)), TO_B(ENDED(2)), "the last cancels");
    ok(r->abandoned && r->interrupt, "then it is interrupted");
    answer(&me, r, FINE, "1");
    is_str(got(&a), "", "nobody is told of its end");
    is_str(got(&b), "", "for all know");
    is_str(say(&a, CALL(4, "x")), "", "it is forgotten");
    say(&b, CALL(5, "x"));
    say(&a, CANCEL(4));
    is_int(exec_queued(), 1, "also one that only waits goes on for others");
    say(&b, CANCEL(5));
    is_int(exec_load(), 0, "until the last has cancelled");
}

static void test_lost(void) {
    struct end c, d;
    struct request *r;

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "x"));
    r = pop();
    say(&c, "{call," REF(9) ",m,f,[],#{}}");
    lose(&c);
    is_int(exec_load(), 1, "a connection is lost: what has no id goes");
    ok(!r->abandoned && !r->interrupt, "what has one and runs goes on");
    is_str(say(&a, CALL(1, "x")), "", "it is asked for again while it runs");
    is_int(exec_queued(), 0, "but not run again");
    answer(&me, r, FINE, "1");
    is_str(got(&a), TO_A(OK(1, "1")), "and answered when it has ended");
    is_str(say(&b, CALL(2, "x")), TO_B(OK(2, "1")), "or later");
    ok(close_end(&c), "nothing holds the connection");

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "y"));
    r = pop();
    lose(&c);
    answer(&me, r, FINE, "2");
    ok(close_end(&c), "it ends while nobody is there");
    is_str(say(&a, CALL(3, "y")), TO_A(OK(3, "2")), "the answer that could not be sent is remembered");

    open_home(&c, "c@h", "<c@h,20,0,3>");
    open_home(&d, "d@h", "<d@h,20,0,3>");
    say(&c, CALL(1, "z"));
    say(&d, CALL(2, "z"));
    say(&c, CALL(3, "z"));
    r = pop();
    lose(&d);
    ok(close_end(&d), "one that waits is lost, and nothing holds it");
    lose(&c);
    ok(!r->abandoned && !r->interrupt, "the first, too: it goes on");
    is_str(say(&a, CALL(4, "z")), "", "somebody asks");
    is_str(say(&a, CANCEL(4)), TO_A(ENDED(4)), "and cancels");
    ok(r->abandoned && r->interrupt, "so it is given up: nobody else is there");
    answer(&me, r, FINE, "3");
    ok(close_end(&c), "nothing holds the first");
    is_str(say(&a, CALL(5, "z")), "", "it is forgotten");
    run("4");
    got(&a);
    forget_all();
}

/* What has not begun is not held on to, unless somebody waits. */
static void test_lost_queued(void) {
    struct end c;

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "x"));
    lose(&c);
    ok(close_end(&c), "what waits goes with its connection");
    is_int(exec_load(), 0, "and does not run");
    is_str(say(&a, CALL(1, "x")), "", "a repeat does");
    run("1");
    is_str(got(&a), TO_A(OK(1, "1")), "as if it were the first");

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "y"));
    say(&c, TASK(2, "t"));
    say(&a, CALL(3, "y"));
    say(&a, CALL(4, "t"));
    lose(&c);
    is_int(exec_queued() + tasks_waiting(), 2, "for those who wait it stays, tasks as well");
    run("2");
    is_str(got(&a), TO_A(OK(3, "2")), "and is their answer");
    answer(NULL, take_task(), FINE, "5");
    is_str(got(&a), TO_A(OK(4, "5")), "the task's, too");
    ok(close_end(&c), "nothing holds the connection");
    forget_all();
}

/* One that was kept back, and one that has begun and waits for its turn to go on. */
static void test_lost_elsewhere(void) {
    static char context;
    struct request *r;
    struct end c;

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "x"));
    say(&c, TASK(2, "t"));
    held = c.conn;
    ok(!exec_pop(&me) && tasks_take(&r, 1) == 0, "requests of a peer that takes no answers are kept back");
    say(&a, CALL(3, "x"));
    say(&a, CALL(4, "t"));
    lose(&c);
    held = NULL;
    run("1");
    answer(NULL, take_task(), FINE, "2");
    is_str(got(&a), TO_A(OK(3, "1") "," OK(4, "2")), "it goes: those that others wait for run");
    ok(close_end(&c), "nothing holds the connection");

    open_home(&c, "c@h", "<c@h,20,0,3>");
    say(&c, CALL(1, "y"));
    r = pop();
    r->context = &context;
    ok(exec_requeue(&me, r), "one has begun, and goes on later");
    lose(&c);
    is_int(exec_queued(), 1, "it does without its connection");
    is_str(say(&a, CALL(2, "y")), "", "somebody asks for it");
    r = pop();
    r->context = NULL;
    answer(&me, r, FINE, "3");
    is_str(got(&a), TO_A(OK(2, "3")), "and has the answer");
    ok(close_end(&c), "nothing holds the connection");
    forget_all();
}

static void started_cb(const struct request *r) {
    home_put_started(r->conn, r->ref);
}

/* That it runs is told to all who wait for it, and to those who come later. */
static void test_started(void) {
    struct request *r;

    say(&a, CALL(1, "x"));
    say(&b, CALL(2, "x"));
    r = pop();
    r->reported = true;
    ok(ids_start(r->id, started_cb), "it runs: its own caller is to be told");
    is_str(got(&b), TO_B(STARTED(2)), "who waits is");
    is_str(say(&b, CALL(3, "x")), TO_B(STARTED(3)), "so is who comes later");
    say(&a, CANCEL(1));
    ok(!ids_start(r->id, started_cb), "a caller that has cancelled is not");
    got(&b);
    answer(&me, r, FINE, "1");
    is_str(got(&b), TO_B(OK(2, "1") "," ENDED(2) "," OK(3, "1") "," ENDED(3)), "the end is told as for any other");
    is_str(got(&a), "", "but to nobody who has cancelled");
    forget_all();
}

/* The thread of a queue: each request runs until it is let go. */

static sem_t entered, let_go, ended;

static void serve_cb(struct exec_worker *w) {
    struct request *r;

    while ((r = exec_pop(w))) {
        sem_post(&entered);
        wait_for(&let_go);
        answer(w, r, CANCELLED, "x");
        sem_post(&ended);
    }
}

#define QUEUED(n, id) "{call," REF(n) ",m,f,[],#{id=><<\"" id "\">>,queue=>q}}"

static void wait_for_no_queue(void) {
    struct pool_numbers n;

    for (pool_read_numbers(&n); n.queues > 0; pool_read_numbers(&n))
        sched_yield();
}

static void test_drop_queue(void) {
    say(&a, QUEUED(1, "runs"));
    wait_for(&entered);
    say(&a, QUEUED(2, "waits"));
    say(&b, CALL(3, "runs"));
    say(&b, CALL(4, "waits"));
    is_int(exec_queued(), 1, "one runs in a queue, one waits; others wait for both");
    is_str(say(&a, "{drop_queue,q}"), TO_A(ERROR(2, "cancelled")), "the queue is dropped");
    is_str(got(&b), TO_B(ERROR(4, "cancelled")), "who waits for what waits is told, too");
    sem_post(&let_go);
    wait_for(&ended);
    is_str(got(&a), TO_A(ERROR(1, "cancelled")), "what runs ends");
    is_str(got(&b), TO_B(ERROR(3, "cancelled")), "for both");
    is_str(say(&a, CALL(5, "waits")), "", "and is forgotten");
    run("1");
    got(&a);
    forget_all();
    wait_for_no_queue();
}

/* The bounds. */

static void test_many(void) {
    static const char *const names[] = {"n1", "n2", "n3", "n4", "n5"};

    for (int i = 0; i < IDS + 1; i++) {
        say(&a, line("{call,#<a@h,3,%d,1>,m,f,[],#{id=><<\"%s\">>}}", i + 10, names[i]));
        run("1");
    }
    got(&a);
    is_str(say(&a, CALL(2, "n2")), TO_A(OK(2, "1")), "of %d ids the last %d are remembered", IDS + 1, IDS);
    is_str(say(&a, CALL(1, "n1")), "", "the first is not");
    run("2");
    is_str(got(&a), TO_A(OK(1, "2")), "it runs again");
    is_str(say(&a, CALL(2, "n2")), "", "which takes the place of the next");
    run("2");
    got(&a);
    forget_all();
    for (int i = 0; i < IDS; i++)
        say(&a, line("{call,#<a@h,3,%d,1>,m,f,[],#{id=><<\"%s\">>}}", i + 10, names[i]));
    say(&a, CALL(1, "n5"));
    say(&a, CALL(2, "n5"));
    is_int(exec_queued(), IDS + 2, "as many wait or run: one more is not remembered");
    is_str(say(&a, CALL(3, "n1")), "", "the others still are");
    is_int(exec_queued(), IDS + 2, "and run once");
    while (exec_queued() > 0)
        run("3");
    got(&a);
    forget_all();
}

static void test_waiting(void) {
    say(&a, CALL(1, "x"));
    for (int i = 0; i < 16; i++)
        say(&b, line("{call,#<a@h,3,%d,1>,m,f,[],#{id=><<\"x\">>}}", i + 10));
    is_str(say(&b, CALL(2, "x")), TO_B(ERROR(2, "overloaded")), "16 may wait for one, and no more");
    say(&b, CANCEL(10));
    is_str(say(&b, CALL(3, "x")), "", "when one has gone there is room");
    run("1");
    has_str(got(&b), OK(3, "1"), "and an answer");
    got(&a);
    forget_all();
}

/* A request with that id, of a's. */
static struct request *bare(const char *id) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_APP_CALL;
    r->conn = a.conn;
    r->options.id = (struct slice){(const uint8_t *)id, strlen(id)};
    return r;
}

/* What meets r there, which is then freed: n, e, or ? */
static char meet(const char *id, int64_t now) {
    struct request *r = bare(id);
    struct buf result = {0};
    bool heard;
    char c = '?';

    switch (ids_meet(r, now, &result, started_cb)) {
    case IDS_NEW:
        c = 'n';
        if (r->id)
            ids_end(r, (struct slice){0}, false, now, &heard);
        break;
    case IDS_ENDED:
        c = 'e';
        break;
    default:
        break;
    }
    buf_done(&result);
    request_free(r);
    return c;
}

/* One that has come to so many bytes. */
static void remember(const char *id, size_t len, int64_t now) {
    struct request *r = bare(id);
    uint8_t *bytes = xcalloc(1, len + 1);
    struct buf none = {0};
    bool heard;

    if (ids_meet(r, now, &none, started_cb) != IDS_NEW || !r->id)
        tap_bail("%s is known", id);
    ids_end(r, (struct slice){bytes, len}, true, now, &heard);
    request_free(r);
    free(bytes);
}

static void test_bytes(void) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                        "j", "k", "l", "m", "n", "o", "p", "q"};

    ids_init(100);
    remember("large", MIB, 0);
    ok(meet("large", 0) == 'e', "a result of 1 MiB is remembered");
    remember("larger", MIB + 1, 0);
    ok(meet("larger", 0) == 'n', "one that is longer is not");
    forget_all();
    for (int i = 0; i < 16; i++)
        remember(names[i], MIB, 0);
    ok(meet("a", 0) == 'e', "16 MiB are");
    remember("q", MIB, 0);
    ok(meet("a", 0) == 'n' && meet("b", 0) == 'e', "of more the first is forgotten");
    ok(meet("p", 0) == 'e' && meet("q", 0) == 'e', "the others are not");
    forget_all();
    ids_init(IDS);
}

static void test_time(void) {
    int64_t minute = (int64_t)60 * 1000000000;

    remember("x", 10, 0);
    ok(meet("x", 10 * minute - 1) == 'e', "for ten minutes it is remembered");
    ok(meet("x", 10 * minute) == 'n', "then not");
    remember("x", 10, 0);
    remember("y", 10, minute);
    ids_sweep(10 * minute);
    ok(meet("x", 0) == 'n' && meet("y", 0) == 'e', "what is too old goes by itself, too");
    forget_all();
}

static void test_off(void) {
    ids_init(0);
    say(&a, CALL(1, "x"));
    say(&a, CALL(2, "x"));
    is_int(exec_queued(), 2, "with no ids to be remembered each call runs");
    run("1");
    run("2");
    is_str(got(&a), TO_A(OK(1, "1") "," OK(2, "2")), "with a value of its own");
    is_str(say(&a, CALL(3, "x")), "", "and again");
    run("3");
    got(&a);
    ids_init(IDS);
}

/* Threads: workers end what is queued while the main thread, which is the leader, sends. */

enum { WORKERS = 3, SENT = 60000, EACH = 6, KINDS = 5 };

static _Atomic bool stopping;
static _Atomic int ran;

/* What has come of the calls, by the first word of their references. */
static struct outcome {
    struct end *from; /* NULL: its connection was lost */
    int answers, ended, value;
    bool cancelled;
} outcomes[SENT];

/* The number as text, in a place of that worker's. */
static const char *line_of(const int *worker, int n) {
    static char texts[WORKERS][16];

    snprintf(texts[*worker], sizeof texts[0], "%d", n);
    return texts[*worker];
}

static void *worker_main(void *arg) {
    struct exec_worker w = {.number = 1};
    struct request *r;

    while (!atomic_load(&stopping) || exec_queued() > 0) {
        r = exec_pop(&w);
        if (r)
            answer(&w, r, FINE, line_of(arg, atomic_fetch_add(&ran, 1)));
        else
            sched_yield();
    }
    buf_done(&w.out);
    return arg;
}

static struct outcome *outcome_of(struct slice ref) {
    uint32_t n = ref.len > 8 ? etf_be32(ref.data + ref.len - 8) : SENT;

    if (n >= SENT)
        tap_bail("an answer to nobody");
    return &outcomes[n];
}

/* {Ref, {ok, N}}, {Ref, {error, overloaded}} or {ended, Ref} */
static void take_item(struct etf *at) {
    struct slice what, ref;
    int64_t value = -1;
    uint32_t arity;

    if (etf_get_tuple(at, &arity) < 0)
        tap_bail("no item");
    if (etf_get_atom(at, &what) == 0 && etf_get_term(at, &ref) == 0) {
        outcome_of(ref)->ended++;
    } else if (etf_get_term(at, &ref) == 0 && etf_get_tuple(at, &arity) == 0 &&
               etf_get_atom(at, &what) == 0 &&
               (etf_get_integer(at, &value) == 0 || etf_get_term(at, &what) == 0)) {
        outcome_of(ref)->answers++;
        outcome_of(ref)->value = (int)value;
    } else {
        tap_bail("no answer");
    }
}

/* Takes all that the peer has been sent. */
static void take_all(struct end *e) {
    static uint8_t bytes[1 << 20];
    enum outbox_result result;
    size_t len = 0, at = 0, total;

    do {
        ssize_t n;

        result = outbox_flush(&e->conn->out);
        n = recv(e->peer, bytes + len, sizeof bytes - len, MSG_DONTWAIT);
        if (n > 0)
            len += (size_t)n;
    } while (result == OUTBOX_FULL);
    for (; dist_next(bytes + at, len - at, INT32_MAX, &total) == 1; at += total) {
        struct dist_msg msg;
        const char *why;
        struct etf items;
        uint32_t n;

        if (dist_parse(bytes + at, total, &msg, &why) < 0)
            tap_bail("%s", why);
        items = (struct etf){msg.payload.data, msg.payload.data + msg.payload.len};
        for (etf_get_list(&items, &n); n > 0; n--)
            take_item(&items);
    }
    if (at != len)
        tap_bail("a frame that is not whole");
}

static void send_call(struct end *e, int n, int id) {
    outcomes[n] = (struct outcome){.from = e};
    feed(e, "{6," P ",'',pynode}", line("[{call,#<a@h,3,%d,1>,m,f,[],#{id=><<\"%d\">>}}]", n, id));
}

static void start_workers(pthread_t *threads) {
    static int numbers[WORKERS] = {0, 1, 2};

    atomic_store(&ran, 0);
    atomic_store(&stopping, false);
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&threads[i], NULL, worker_main, &numbers[i]) != 0)
            tap_bail("no thread");
}

static void stop_workers(pthread_t *threads) {
    atomic_store(&stopping, true);
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    take_all(&a);
    take_all(&b);
}

/* Each id is sent a few times, while it waits, runs, is just ending, or has ended. */
static void test_threads(void) {
    int unanswered = 0, different = 0;
    pthread_t threads[WORKERS];

    ids_init(SENT);
    start_workers(threads);
    for (int n = 0; n < SENT; n++) {
        send_call(n % 2 ? &a : &b, n, n / EACH);
        if (n % 64 == 0) {
            take_all(&a);
            take_all(&b);
        }
        while (exec_queued() > LIMIT / 2)
            sched_yield();
    }
    stop_workers(threads);
    for (int n = 0; n < SENT; n++) {
        unanswered += outcomes[n].answers != 1 || outcomes[n].ended != 0;
        different += outcomes[n].value != outcomes[n / EACH * EACH].value;
    }
    is_int(atomic_load(&ran), SENT / EACH, "%d calls with %d ids: each id runs once", SENT, SENT / EACH);
    is_int(unanswered, 0, "each call has one answer");
    is_int(different, 0, "that of its id");
    forget_all();
}

/* A new connection in the place of b, whose calls have no outcome any more. */
static void replace_b(void) {
    for (int n = 0; n < SENT; n++)
        if (outcomes[n].from == &b)
            outcomes[n].from = NULL;
    lose(&b);
    conn_unref(b.conn); /* the last who has it closes it */
    close(b.peer);
    open_home(&b, "b@h", HB);
}

/* Few ids, and all that can happen at once. */
static void test_threads_random(void) {
    int unanswered = 0, twice = 0, unended = 0, cancelled = 0, lost = 0;
    pthread_t threads[WORKERS];
    unsigned seed = 7;

    memset(outcomes, 0, sizeof outcomes);
    ids_init(KINDS - 1);
    start_workers(threads);
    for (int n = 0; n < SENT; n++) {
        int what = rand_r(&seed) % 100, other = n > 8 ? n - rand_r(&seed) % 8 : n;

        send_call(n % 2 ? &a : &b, n, rand_r(&seed) % KINDS);
        if (what < 30 && outcomes[other].from && !outcomes[other].cancelled) {
            outcomes[other].cancelled = true;
            feed(outcomes[other].from, "{6," P ",'',pynode}", line("[{cancel,#<a@h,3,%d,1>}]", other));
        }
        if (what == 99)
            replace_b();
        if (what % 16 == 0)
            forget_all();
        if (what % 8 == 0) {
            take_all(&a);
            take_all(&b);
        }
        while (exec_queued() > LIMIT / 2)
            sched_yield();
    }
    stop_workers(threads);
    for (int n = 0; n < SENT; n++) {
        const struct outcome *o = &outcomes[n];

        lost += !o->from;
        cancelled += o->cancelled;
        twice += o->answers > 1 || o->ended > 1;
        unanswered += o->from && !o->cancelled && o->answers != 1;
        unended += o->from && o->cancelled != o->ended;
    }
    is_int(twice, 0, "%d calls, %d cancelled, %d lost: nothing is told twice", SENT, cancelled, lost);
    is_int(unanswered, 0, "what is not cancelled is answered");
    is_int(unended, 0, "what is, and nothing else, is told to have ended");
    ok(lost > 0 && cancelled > 0, "all of that has been");
    forget_all();
    is_int(exec_load(), 0, "nothing is left");
}

static void start(void) {
    static const struct exec_hooks hooks = {.start = worker_cb, .serve = serve_cb, .stop = worker_cb, .hold = hold_cb};
    static const struct control_facts facts = {.node = "py@h", .version = "1", .python = "3"};
    struct io_settings settings = {.net_ticktime = 60};
    struct err e;

    sem_init(&entered, 0, 0);
    sem_init(&let_go, 0, 0);
    sem_init(&ended, 0, 0);
    log_open(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "/dev/null");
    settings.listener = socket(AF_INET, SOCK_STREAM, 0);
    if (io_init(&settings, &e) < 0)
        tap_bail("%s", e.text);
    request_init("py@h", 77);
    route_init("py@h");
    home_init(attached_cb);
    control_init(&facts);
    exec_init(1, 1, LIMIT, &hooks);
    if (tasks_init(LIMIT, start_loop_cb) < 0)
        tap_bail("no tasks");
    ids_init(IDS);
    open_home(&a, "a@h", HA);
    open_home(&b, "b@h", HB);
}

int main(void) {
    start();
    test_once();
    test_task();
    test_errors();
    test_cancel();
    test_cancel_shared();
    test_lost();
    test_lost_queued();
    test_lost_elsewhere();
    test_started();
    test_drop_queue();
    test_many();
    test_waiting();
    test_bytes();
    test_time();
    test_off();
    test_threads();
    test_threads_random();
    lose(&a);
    lose(&b);
    ok(close_end(&a) && close_end(&b), "nothing holds the connections");
    return tap_end();
}
