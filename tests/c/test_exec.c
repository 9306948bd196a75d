/* test_exec.c - the queue of requests: order, lanes, cancelling, announcing.
 *
 * One thread, which plays the worker itself.
 */
#include "config.h"

#include "exec.h"
#include "requests.h"
#include "tap.h"
#include "term.h"

enum { LIMIT = 100 };

static struct exec_worker me; /* the worker that the main thread plays */

static void finish(struct request *r) {
    exec_finish(&me, r);
    request_free(r);
}

/* The references that can be popped now, in order: "a b c". Each is finished at once. */
static const char *pop_all(void) {
    static char text[1024];
    struct request *r;

    *text = 0;
    while ((r = exec_pop(&me))) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%.*s", *text ? " " : "",
                 (int)r->ref.len, (const char *)r->ref.data);
        finish(r);
    }
    return text;
}

static void test_queue(void) {
    struct request *r;

    ok(!exec_pop(&me), "an empty queue has nothing");
    push(0, "a", NULL);
    push(1, "b", NULL);
    push(0, "c", NULL);
    is_int(exec_queued(), 3, "three wait");
    is_int(exec_load(), 3, "three have not ended");
    r = exec_pop(&me);
    is_mem(r->ref.data, r->ref.len, "a", 1, "the first comes first");
    is_int(exec_queued(), 2, "two wait");
    is_int(exec_load(), 3, "three have not ended still");
    ok(me.current == r && me.since > 0, "the worker knows what it runs, and since when");
    ok(exec_claim(r), "its answer is wanted");
    finish(r);
    ok(!me.current, "and that it has ended");
    is_int(exec_load(), 2, "two have not ended");
    is_str(pop_all(), "b c", "the rest in order");
    is_int(exec_load(), 0, "all have ended");
}

/* What a worker runs without having waited for it in between is timed. */
static void test_times(void) {
    uint64_t before, timed, ns_before, ns;

    pop_all();
    exec_times(&before, &ns_before);
    push(0, "a", NULL);
    push(0, "b", NULL);
    finish(exec_pop(&me));
    exec_times(&timed, &ns);
    is_int((int)(timed - before), 0, "the first one is not timed: it may have waited for itself");
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    finish(exec_pop(&me));
    exec_times(&timed, &ns);
    is_int((int)(timed - before), 1, "when the next one is taken it is");
    ok(ns - ns_before >= 2000000, "with the time that it took");
    ok(!exec_pop(&me), "nothing is left");
    push(0, "c", NULL);
    finish(exec_pop(&me));
    exec_times(&timed, &ns);
    is_int((int)(timed - before), 1, "what has waited for a request is not timed");
}

static void test_limit(void) {
    struct request *r = request(0, "one more", NULL);
    int i;

    for (i = 0; i < LIMIT; i++)
        push(0, "x", NULL);
    ok(!exec_push(r), "a full queue takes no more");
    is_int(exec_queued(), LIMIT, "and is as it was");
    finish(exec_pop(&me));
    ok(exec_push(r), "with room again it does");
    is_int(drop(exec_cancel_conn(CONN(0))), LIMIT, "all are cancelled with their connection");
    is_int(exec_queued() + exec_load(), 0, "none is left");
}

/* Those of one lane follow each other; the other lanes and those without do not wait for them. */
static void test_lanes(void) {
    struct exec_lane one = {0}, two = {0};
    struct request *a1, *b1;

    push(0, "a1", &one);
    push(0, "a2", &one);
    push(0, "b1", &two);
    push(0, "a3", &one);
    push(0, "c", NULL);
    is_int(exec_queued(), 5, "five wait");
    a1 = exec_pop(&me);
    is_mem(a1->ref.data, a1->ref.len, "a1", 2, "the first of lane a");
    b1 = exec_pop(&me);
    is_mem(b1->ref.data, b1->ref.len, "b1", 2, "lane b does not wait for lane a");
    is_str(pop_all(), "c", "nor does what has no lane");
    ok(!exec_pop(&me), "lane a waits for its first");
    is_int(exec_queued(), 2, "with two");
    finish(a1);
    is_str(pop_all(), "a2 a3", "which then come in order");
    finish(b1);
    ok(!one.busy && !two.busy, "both lanes are free again");
    push(0, "a4", &one);
    is_str(pop_all(), "a4", "and can be used again");
}

static void test_lane_cancel(void) {
    struct exec_lane lane = {0};
    struct request *r;

    push(0, "a1", &lane);
    push(0, "a2", &lane);
    push(0, "a3", &lane);
    is_int(drop(exec_cancel(CONN(0), ref_of("a1"))), 1, "the head of a lane is cancelled");
    is_str(pop_all(), "a2 a3", "and the next one moves up");
    push(0, "b1", &lane);
    push(0, "b2", &lane);
    push(0, "b3", &lane);
    r = exec_pop(&me);
    is_int(drop(exec_cancel(CONN(0), ref_of("b2"))), 1, "one in the middle of a lane is cancelled");
    ok(!exec_pop(&me), "which lets nobody past the one that runs");
    finish(r);
    is_str(pop_all(), "b3", "then the rest follows");
    push(0, "c1", &lane);
    push(1, "c2", &lane);
    push(0, "c3", &lane);
    push(1, "c4", &lane);
    is_int(drop(exec_cancel_conn(CONN(0))), 2, "a connection's requests leave a lane");
    is_str(pop_all(), "c2 c4", "those of the others stay in order");
    ok(!lane.busy, "the lane is free in the end");
}

static void test_hold(void) {
    struct exec_lane lane = {0};

    push(0, "a", NULL);
    push(1, "b", NULL);
    push(0, "c", NULL);
    push(0, "in a lane", &lane);
    push(1, "d", NULL);
    atomic_store(&full, 0);
    is_str(pop_all(), "b in a lane d", "what a full connection has sent is kept back, lanes go on");
    is_int(exec_ready(), 0, "nothing is there for a worker");
    is_int(exec_queued(), 2, "but two wait");
    exec_release(CONN(1));
    is_int(exec_ready(), 0, "another connection's room does not concern them");
    is_int(drop(exec_cancel(CONN(0), ref_of("a"))), 1, "one is cancelled meanwhile");
    atomic_store(&full, -1);
    exec_release(CONN(0));
    is_str(pop_all(), "c", "the other comes when there is room");
    push(0, "e", NULL);
    atomic_store(&full, 0);
    is_str(pop_all(), "", "kept back again");
    is_int(drop(exec_cancel_conn(CONN(0))), 1, "cancelled with its connection");
    atomic_store(&full, -1);
    is_int(exec_queued() + exec_load(), 0, "none is left");
}

static void test_cancel(void) {
    struct request *r;

    ok(!exec_cancel(CONN(0), ref_of("a")), "nothing to cancel when nothing is there");
    push(0, "a", NULL);
    push(1, "a", NULL);
    push(0, "b", NULL);
    ok(!exec_cancel(CONN(2), ref_of("a")), "another connection's is not cancelled");
    ok(!exec_cancel(CONN(0), ref_of("c")), "nor another reference");
    is_int(drop(exec_cancel(CONN(0), ref_of("a"))), 1, "a request that waits is taken out");
    is_int(exec_queued(), 2, "and waits no more");
    r = exec_pop(&me);
    ok(r->conn == CONN(1), "the one of the other connection is still there");
    ok(!exec_cancel(CONN(1), ref_of("a")), "one that runs cannot be taken out");
    ok(!exec_claim(r), "but its answer is not wanted");
    finish(r);
    r = exec_pop(&me);
    ok(exec_claim(r), "one that answers");
    ok(!exec_cancel(CONN(0), ref_of("b")), "comes to its end");
    finish(r);
    is_int(exec_load(), 0, "all have ended");
}

static void test_cancel_conn(void) {
    struct request *running;

    push(0, "a", NULL);
    push(0, "b", NULL);
    push(1, "c", NULL);
    push(0, "d", NULL);
    running = exec_pop(&me);
    is_int(drop(exec_cancel_conn(CONN(0))), 2, "all that wait of a connection");
    ok(!exec_claim(running), "what runs has no audience");
    finish(running);
    is_str(pop_all(), "c", "the other connection's is untouched");
    is_int(drop(exec_cancel_conn(CONN(0))), 0, "nothing is left of it");
}

static void test_interrupt(void) {
    struct request *r, *waiting;

    is_int(exec_interrupt(CONN(0), ref_of("a"), &waiting), EXEC_NOT_FOUND, "there is nothing");
    push(0, "a", NULL);
    push(0, "b", NULL);
    is_int(exec_interrupt(CONN(1), ref_of("a"), &waiting), EXEC_NOT_FOUND, "not another's");
    is_int(exec_interrupt(CONN(0), ref_of("b"), &waiting), EXEC_WITHDRAWN, "what waits is taken out");
    is_int(drop(waiting), 1, "and returned");
    r = exec_pop(&me);
    is_int(exec_interrupt(CONN(0), ref_of("a"), &waiting), EXEC_INTERRUPTED, "what runs is marked");
    ok(!waiting && r->interrupt && !r->interrupted, "as one that has to be interrupted");
    ok(!exec_claim(r), "its answer is not wanted");
    finish(r);
    push(0, "c", NULL);
    r = exec_pop(&me);
    exec_claim(r);
    is_int(exec_interrupt(CONN(0), ref_of("c"), &waiting), EXEC_NOT_FOUND, "what answers has ended");
    ok(!waiting && !r->interrupt, "and is left alone");
    finish(r);
    is_int(exec_queued() + exec_load(), 0, "none is left");
}

/* Frames that exec let out, for exec_exit() and exec_announce(). */
static struct buf sent;

static void put(struct request *r, struct buf *out) {
    (void)r;
    buf_put(&sent, out->data, out->len);
}

/* A true request, with a process: a call by erpc. */
static struct request *call(const char *control) {
    struct buf b = {0};
    struct frame frame = {.whole = true};
    struct dist_msg msg;
    const char *why;
    struct request *r;

    term_put_frame(&b, control, "[1,m,f,[]]");
    frame.data = b.data;
    frame.len = b.len;
    if (dist_parse(b.data, b.len, &msg, &why) < 0 || !(r = request_from_spawn(&msg, &frame)))
        tap_bail("%s: not a request", control);
    r->conn = CONN(0);
    return r;
}

#define CALL(n) "{29,#<a@h,7," n ">,<a@h,1,2,3>,<a@h,1,2,3>,{erpc,execute_call,4},[monitor]}"

/* Text with the request's pid for %s. */
static const char *with_pid(const struct request *r, const char *before, const char *after) {
    static char line[512];

    snprintf(line, sizeof line, "%s<py@h,%u,%u,77>%s", before, r->pid_id, r->pid_serial, after);
    return line;
}

static void test_announce(void) {
    struct request *a = call(CALL("1")), *b = call(CALL("2"));
    char want[512];

    if (!exec_push(a) || !exec_push(b))
        tap_bail("not taken");
    exec_announce(put);
    snprintf(want, sizeof want, "%s", with_pid(a, "{31,#<a@h,7,1>,<a@h,1,2,3>,2,", "}"));
    has_str(term_frames(sent.data, sent.len), want, "each call that waits is announced");
    snprintf(want, sizeof want, "%s", with_pid(b, "{31,#<a@h,7,2>,<a@h,1,2,3>,2,", "}"));
    has_str(term_take(&sent), want, "the second, too");
    exec_announce(put);
    is_str(term_take(&sent), "", "and once only");
    is_int(drop(exec_cancel_conn(CONN(0))), 2, "away with them");
}

static void test_exit(void) {
    struct request *a = call(CALL("1")), *b = call(CALL("2"));
    struct buf reason = {0};
    struct slice killed;
    uint32_t id = a->pid_id, serial = a->pid_serial;
    char want[512];

    term_put(&reason, "killed");
    killed = (struct slice){reason.data, reason.len};
    if (!exec_push(a) || !exec_push(b))
        tap_bail("not taken");
    ok(exec_alive(id, serial), "a call that waits is a process that lives");
    ok(!exec_alive(id, serial + 1) && !exec_alive(0, 0), "another is not");
    ok(!exec_exit(id, serial + 1, killed, put), "another is not told to exit");
    snprintf(want, sizeof want, "%s", with_pid(a, "{28,", ",<a@h,1,2,3>,#<a@h,7,1>} + killed"));
    is_int(drop(exec_exit(id, serial, killed, put)), 1, "one that waits is taken out");
    has_str(term_take(&sent), want, "and its caller is told why");
    ok(!exec_alive(id, serial), "it lives no more");

    b = exec_pop(&me);
    snprintf(want, sizeof want, "%s", with_pid(b, "{28,", ",<a@h,1,2,3>,#<a@h,7,2>} + killed"));
    ok(!exec_exit(b->pid_id, b->pid_serial, killed, put), "one that runs cannot be taken out");
    has_str(term_take(&sent), want, "but its caller is told at once");
    ok(!exec_alive(b->pid_id, b->pid_serial), "to whom it lives no more");
    ok(!exec_exit(b->pid_id, b->pid_serial, killed, put), "a second exit");
    is_str(term_take(&sent), "", "tells nobody");
    ok(!exec_claim(b), "nor does its answer");
    finish(b);

    b = call(CALL("3"));
    if (!exec_push(b))
        tap_bail("not taken");
    b = exec_pop(&me);
    ok(exec_claim(b), "one that answers");
    exec_exit(b->pid_id, b->pid_serial, killed, put);
    is_str(term_take(&sent), "", "is not told to exit: there is one outcome");
    finish(b);
    buf_done(&reason);
}

static bool report(struct request *r) {
    bool told;

    exec_lock();
    told = exec_report_locked(r);
    exec_unlock();
    return told;
}

/* Takes a request of that kind into the queue and out again, to run. */
static struct request *run(enum request_kind kind, const char *ref) {
    struct request *r = request(0, ref, NULL);

    r->kind = kind;
    if (!exec_push(r))
        tap_bail("%s was not taken", ref);
    return exec_pop(&me);
}

/* The application is told once that a call of its runs, as long as it does. */
static void test_report(void) {
    static const enum request_kind others[] = {
        REQUEST_CALL,     REQUEST_CAST,        REQUEST_SPAWN,       REQUEST_REX_CALL,
        REQUEST_REX_CAST, REQUEST_REX_OLD,     REQUEST_SERVER_CALL, REQUEST_SERVER_CAST,
        REQUEST_SERVER_INFO, REQUEST_APP_CAST,
    };
    struct request *r = request(0, "a", NULL);
    int told = 0;

    r->kind = REQUEST_APP_CALL;
    exec_push(r);
    is_int(exec_unreported(), 0, "a call that waits does not run");
    is_int(drop(exec_cancel(CONN(0), ref_of("a"))), 1, "it is cancelled");
    is_int(exec_unreported(), 0, "and has never run");
    r = run(REQUEST_APP_CALL, "b");
    is_int(exec_unreported(), 1, "one that runs is to be told of");
    ok(report(r) && r->reported, "it is");
    is_int(exec_unreported(), 0, "that is done");
    ok(!report(r), "and not done twice");
    exec_claim(r);
    is_int(exec_unreported(), 0, "nor undone");
    finish(r);
    r = run(REQUEST_APP_CALL, "c");
    exec_claim(r);
    is_int(exec_unreported(), 0, "of one that is answered nothing is to be told");
    ok(!report(r) && !r->reported, "nor is it");
    finish(r);
    r = run(REQUEST_APP_CALL, "d");
    ok(!exec_cancel(CONN(0), ref_of("d")), "of one that nobody waits for");
    ok(report(r), "it can be told that it runs");
    exec_claim(r);
    finish(r);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        r = run(others[i], "x");
        told += exec_unreported() > 0 || report(r);
        exec_claim(r);
        finish(r);
    }
    is_int(told, 0, "only calls of the application are told of");
    is_int(exec_unreported(), 0, "none is left");
}

int main(void) {
    static const struct exec_hooks hooks = {.hold = hold_cb};

    request_init("py@h", 77);
    exec_init(1, 1, LIMIT, &hooks);
    test_queue();
    test_limit();
    test_times();
    test_lanes();
    test_lane_cancel();
    test_cancel();
    test_cancel_conn();
    test_interrupt();
    test_hold();
    test_announce();
    test_exit();
    test_report();
    buf_done(&sent);
    return tap_end();
}
