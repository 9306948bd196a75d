/* test_tasks.c - the requests of the event loop: order, wake-ups, cancelling, credit, giving up and back.
 *
 * One thread, which plays the loop and a worker.
 */
#include "config.h"

#include "queues.h"
#include "requests.h"
#include "tasks.h"
#include "tap.h"

#include <poll.h>

enum { LIMIT = 5, MAX = 4 };

static struct exec_worker me;
static int starts;
static bool can_start;

static bool start_cb(void) {
    starts++;
    return can_start;
}

static struct request *task(int conn, const char *ref) {
    struct request *r = request(conn, ref, NULL);

    r->kind = REQUEST_APP_CALL;
    r->options.loop = true;
    return r;
}

static void push_task(int conn, const char *ref) {
    if (!exec_push(task(conn, ref)))
        tap_bail("%s was not taken", ref);
}

static bool readable(void) {
    struct pollfd p = {tasks_fd(), POLLIN, 0};

    return poll(&p, 1, 0) == 1;
}

static void end(struct request *r) {
    exec_claim(r);
    exec_finish(NULL, r);
    request_free(r);
}

/* A worker runs what waits in the queue. */
static void work_one(void) {
    struct request *r = exec_pop(&me);

    exec_finish(&me, r);
    request_free(r);
}

static bool is_ref(const struct request *r, const char *ref) {
    return r && slice_equal(r->ref, ref_of(ref));
}

static struct request *take(void) {
    struct request *r = NULL;

    return tasks_take(&r, 1) == 1 ? r : NULL;
}

/* The references of all that waits, which begins and ends: "a b c". */
static const char *run_all(void) {
    static char text[256];
    struct request *r;

    *text = 0;
    while ((r = take())) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%.*s", *text ? " " : "",
                 (int)r->ref.len, (const char *)r->ref.data);
        end(r);
    }
    return text;
}

static void test_start(void) {
    push_task(0, "a");
    is_int(starts, 1, "the first task has the loop begin");
    push_task(0, "b");
    is_int(starts, 2, "it could not: the second one tries again");
    can_start = true;
    tasks_start();
    is_int(starts, 3, "it can be had without a task");
    push_task(0, "c");
    is_int(starts, 3, "and begins once");
    is_str(run_all(), "a b c", "nothing is lost");
}

static void test_order(void) {
    struct request *taken[8];

    push_task(0, "a");
    push_task(1, "b");
    push(0, "x", NULL);
    is_int(tasks_count(), 2, "two tasks");
    is_int(exec_queued(), 1, "which are not in the queue");
    is_int(exec_load(), 3, "three requests in all");
    ok(tasks_due() && readable(), "there is something to do, and the descriptor says so");
    is_int(tasks_take(taken, 8), 2, "both are taken at once");
    ok(is_ref(taken[0], "a") && is_ref(taken[1], "b"), "in order");
    ok(!tasks_due() && !readable(), "then there is nothing to do");
    is_int(tasks_count(), 2, "both have begun");
    ok(taken[0]->since > 0, "and know when");
    end(taken[0]);
    end(taken[1]);
    is_int(tasks_count(), 0, "both have ended");
    work_one();
}

static void test_wake(void) {
    struct request *a;

    push_task(0, "a");
    push_task(0, "b");
    a = take();
    ok(readable(), "as long as one waits the descriptor is readable");
    end(a);
    end(take());
    ok(!readable(), "afterwards it is not");
    tasks_wake();
    ok(readable() && !tasks_due(), "a signal wakes the loop although there is no task");
    ok(!take() && !readable(), "which finds out");
    tasks_set_looking(true);
    push_task(0, "c");
    ok(tasks_due() && !readable(), "who looks by itself need not be woken");
    tasks_set_looking(false);
    end(take());
    push_task(0, "d");
    ok(readable(), "who has looked has to");
    end(take());
}

static void test_limit(void) {
    struct request *first, *one_more = task(0, "e");

    push_task(0, "a");
    push_task(0, "b");
    push_task(0, "c");
    push_task(0, "d");
    first = take();
    ok(!exec_push(one_more), "tasks that wait and that have begun are bounded");
    push(0, "x", NULL);
    work_one();
    ok(true, "others have a bound of their own");
    end(first);
    ok(exec_push(one_more), "with room again it is taken");
    is_str(run_all(), "b c d e", "all come");
}

static struct request *work(const char *ref, struct exec_lane *lane) {
    struct request *r = request(0, ref, lane);

    r->kind = REQUEST_APP_CALL;
    exec_push(r);
    return exec_pop(&me);
}

static void test_cancel(void) {
    struct request *waiting = NULL, *a, *b, *r;
    bool cancelled = false;

    push_task(0, "a");
    push_task(0, "b");
    push_task(0, "c");
    a = take();
    b = take();
    is_int(exec_interrupt(CONN(0), ref_of("c"), &waiting), EXEC_WITHDRAWN, "one that waits");
    ok(is_ref(waiting, "c") && tasks_count() == 2, "is taken out");
    request_free(waiting);
    is_int(exec_interrupt(CONN(0), ref_of("b"), &waiting), EXEC_INTERRUPTED, "one that has begun");
    ok(tasks_due() && readable(), "the loop is woken for it");
    exec_interrupt(CONN(0), ref_of("b"), &waiting);
    ok(tasks_take_told(&cancelled) == b && cancelled, "it is told to the loop");
    ok(b->interrupted, "which has heard of it");
    ok(!tasks_take_told(&cancelled), "once");
    ok(!exec_claim(b), "its answer is not wanted");
    exec_finish(NULL, b);
    request_free(b);
    exec_interrupt(CONN(0), ref_of("a"), &waiting);
    end(a);
    ok(!tasks_take_told(&cancelled) && !tasks_due(), "one that has ended first is not told of");
    push_task(1, "d");
    a = take();
    push_task(1, "e");
    is_int(drop(exec_cancel_conn(CONN(1))), 1, "with its connection what waits is withdrawn");
    ok(tasks_take_told(&cancelled) == a && cancelled, "and what has begun cancelled");
    end(a);
    push(0, "f", NULL); /* no call of the application */
    r = exec_pop(&me);
    exec_adopt(&me, r);
    take();
    ok(!exec_cancel(CONN(0), ref_of("f")), "one of erpc's whose coroutine is awaited");
    ok(tasks_take_told(&cancelled) == r && cancelled, "is cancelled, too");
    end(r);
    is_int(exec_load(), 0, "none is left");
    take();
}

static void test_credit(void) {
    struct request *r = task(0, "s");
    bool cancelled = true;

    r->credit = 2;
    exec_push(r);
    exec_credit(CONN(0), ref_of("s"), 3);
    is_int(r->credit, 5, "credit for a stream that waits");
    ok(!tasks_take_told(&cancelled), "which needs not be told");
    take();
    ok(exec_credit(CONN(0), ref_of("s"), 1), "for one that has begun");
    ok(!take() && readable(), "a loop that has looked for that before finds it at the next turn");
    ok(tasks_take_told(&cancelled) == r && !cancelled && r->credit == 6, "the loop is told");
    ok(!take() && !readable(), "and sleeps then");
    ok(!exec_credit(CONN(1), ref_of("s"), 1), "for another connection's there is none");
    r->credit = (int64_t)INT32_MAX + 1;
    exec_credit(CONN(0), ref_of("s"), INT32_MAX);
    is_int(r->credit, (int64_t)INT32_MAX + 1, "more than there can be use for is not counted");
    exec_credit(CONN(0), ref_of("s"), 1);
    exec_cancel_conn(CONN(0));
    ok(tasks_take_told(&cancelled) == r && cancelled, "credit and an end are one message: the end");
    ok(!tasks_take_told(&cancelled), "no other follows");
    end(r);
    ok(!exec_credit(CONN(0), ref_of("s"), 1), "for one that has ended there is none");
}

static void test_adopt(void) {
    struct request *waiting, *r = work("a", NULL);
    struct queue queue = {.lane = {.queue = &queue}};
    struct exec_lane lane = {0};

    ok(exec_adopt(&me, r) && !me.current, "a worker gives up what it runs");
    is_int(tasks_count(), 1, "the loop has it");
    ok(take() == r, "and takes it");
    end(r);
    r = work("b", NULL);
    exec_interrupt(CONN(0), ref_of("b"), &waiting);
    ok(!exec_adopt(&me, r) && me.current == r, "one that was cancelled stays the worker's");
    ok(r->interrupted, "who learns of it");
    exec_claim(r);
    exec_finish(&me, r);
    request_free(r);
    is_int(exec_stuck_locked(), 0, "nothing is counted as stuck");
    r = work("c", &lane);
    push(0, "d", &lane);
    exec_adopt(&me, r);
    ok(!exec_pop(&me), "its lane waits for it");
    exec_interrupt(CONN(0), ref_of("c"), &waiting);
    request_free(waiting);
    r = exec_pop(&me);
    ok(is_ref(r, "d"), "until it is withdrawn");
    exec_adopt(&me, r);
    end(take());
    ok(!lane.busy, "or has ended");
    r = work("q", NULL);
    r->lane = &queue.lane;
    exec_adopt(&me, r);
    ok(!r->lane, "one of a queue's does not need the queue any more, which may be freed");
    end(take());
    for (int i = 0; i < MAX + 2; i++)
        exec_adopt(&me, work("x", NULL));
    is_int(tasks_count(), MAX + 2, "what runs already is taken beyond the maximum");
    while ((r = take()))
        end(r);
    is_int(exec_unreported(), 0, "none is counted twice");
}

static void test_requeue(void) {
    struct request *r = work("a", NULL), *other;

    push(0, "b", NULL);
    ok(exec_requeue(&me, r) && !me.current, "a worker puts back what it runs");
    other = exec_pop(&me);
    ok(is_ref(other, "b"), "behind all that waits");
    exec_finish(&me, other);
    request_free(other);
    ok(exec_pop(&me) == r, "then it comes again");
    exec_claim(r);
    exec_finish(&me, r);
    request_free(r);
    push_task(0, "c");
    r = take();
    push_task(0, "d");
    ok(tasks_requeue(r), "the loop puts back what it runs");
    ok(readable(), "and is woken for it");
    is_str(run_all(), "d c", "behind all that waits, too");
    push_task(0, "e");
    r = take();
    exec_interrupt(CONN(0), ref_of("e"), &other);
    ok(!tasks_requeue(r), "but not what was cancelled");
    end(r);
    is_int(exec_unreported() + exec_queued() + exec_load(), 0, "none is left");
}

static int reported;

static void report_cb(const struct request *r) {
    (void)r;
    reported++;
}

static void test_report(void) {
    struct request *a, *b, *c;
    int64_t later = clock_now() + 1000000000;

    push_task(0, "a");
    push_task(0, "b");
    push_task(0, "c");
    a = take();
    b = take();
    c = take();
    is_int(exec_unreported(), 3, "three run, of which the application is to be told");
    is_int(tasks_report(clock_now(), 1000000000, report_cb), 0, "not yet");
    end(b);
    is_int(tasks_report(later, 1000000, report_cb), 2, "after a while it is told of those that run still");
    is_int(reported, 2, "of each");
    is_int(tasks_report(later, 1000000, report_cb), 0, "once");
    push_task(0, "d");
    b = take();
    is_int(tasks_report(later + 1000000000, 1000000, report_cb), 1, "and of one that comes later");
    end(a);
    end(b);
    end(c);
    is_int(exec_unreported(), 0, "none is left");
}

static void test_hold(void) {
    struct request *waiting;

    push_task(0, "a");
    push_task(1, "b");
    push_task(0, "c");
    atomic_store(&full, 0);
    is_str(run_all(), "b", "those of a peer that takes no answers are kept back");
    ok(!tasks_due(), "and do not keep the loop awake");
    is_int(exec_interrupt(CONN(0), ref_of("a"), &waiting), EXEC_WITHDRAWN, "one of them is cancelled");
    request_free(waiting);
    atomic_store(&full, -1);
    exec_release(CONN(0));
    ok(tasks_due() && readable(), "when there is room the loop is woken");
    is_str(run_all(), "c", "and runs the rest");
    is_int(tasks_count() + exec_load(), 0, "none is left");
}

int main(void) {
    static const struct exec_hooks hooks = {.hold = hold_cb};

    request_init("py@h", 77);
    exec_init(1, 1, LIMIT, &hooks);
    tasks_init(MAX, start_cb);
    test_start();
    test_order();
    test_wake();
    test_limit();
    test_cancel();
    test_credit();
    test_adopt();
    test_requeue();
    test_report();
    test_hold();
    return tap_end();
}
