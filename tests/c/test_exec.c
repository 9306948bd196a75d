/* test_exec.c - the queue and the pool: order, lanes, cancelling, growth, shrinking, many threads.
 *
 * The first half plays the worker itself, in one thread; the second half starts a true pool whose
 * hooks stand for Python, with the main thread as the io thread. Runs under TSan as well.
 */
#include "config.h"

#include "exec.h"
#include "tap.h"
#include "term.h"
#include "watched.h"

#include <sched.h>

enum { LIMIT = 100, TARGET = 3, MAX = 40, SECONDS = 60 };

/* What stands for connections: exec compares their addresses only. */
static char conns[4];
#define CONN(n) ((struct conn *)&conns[n])

static struct slice ref_of(const char *ref) {
    return (struct slice){(const uint8_t *)ref, strlen(ref)};
}

/* A request with a text for its reference: exec wants no more of it than its bytes. */
static struct request *request(int conn, const char *ref, struct exec_lane *lane) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_SERVER_CALL;
    r->conn = CONN(conn);
    r->ref = ref_of(ref);
    r->lane = lane;
    return r;
}

static void push(int conn, const char *ref, struct exec_lane *lane) {
    if (!exec_push(request(conn, ref, lane)))
        tap_bail("%s was not taken", ref);
}

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

/* Frees a list of cancelled requests: how many there were. */
static int drop(struct request *r) {
    int n = 0;

    for (; r; n++) {
        struct request *next = r->next;

        request_free(r);
        r = next;
    }
    return n;
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

/* Stands for a connection that takes no answers, the conn'th. */
static _Atomic int full = -1;

static bool hold_cb(const struct request *r) {
    int conn = atomic_load(&full);

    return conn >= 0 && r->conn == CONN(conn);
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

/* Frames that exec let out, for exec_exit() and exec_announce(). */
static struct buf sent;

static void put(const struct request *r, struct buf *out) {
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

/* From here on: a true pool. */

static int started, stopped; /* threads */
static int served, claimed;  /* requests */
static int inside;           /* requests that block now */
static int release;          /* those that block may go on */

/* Plays the io thread until *what is as wanted, looking after the pool every millisecond: whether
 * it came to that in time. */
static bool supervise_until(const int *what, int wanted) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct timespec t;
    int64_t now;

    while ((now = clock_now()) < end && look(what) != wanted) {
        exec_supervise(now);
        now += 1000000;
        t = (struct timespec){now / 1000000000, now % 1000000000};
        pthread_mutex_lock(&lock);
        if (*what != wanted)
            pthread_cond_timedwait(&changed, &lock, &t);
        pthread_mutex_unlock(&lock);
    }
    return look(what) == wanted;
}

static void start_cb(struct exec_worker *w) {
    w->context = w;
    change(&started, 1);
}

static void stop_cb(struct exec_worker *w) {
    if (w->context == w)
        change(&stopped, 1);
}

/* What a lane's requests change without a lock: exec promises that no two of them run at once. */
struct counter {
    struct exec_lane lane;
    int next, wrong;
};

/* What a request means: the text of its reference. */
static void serve_one(const struct request *r) {
    if (r->ref.len == 5 && memcmp(r->ref.data, "block", 5) == 0) {
        pthread_mutex_lock(&lock);
        inside++;
        pthread_cond_broadcast(&changed);
        while (!release)
            pthread_cond_wait(&changed, &lock);
        inside--;
        pthread_mutex_unlock(&lock);
    } else if (r->lane) {
        struct counter *c = (struct counter *)r->lane;

        c->wrong += r->pid_serial != (uint32_t)c->next++;
    }
}

static void serve_cb(struct exec_worker *w) {
    struct request *r;

    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w))) {
        bool wanted;

        serve_one(r);
        wanted = exec_claim(r);
        exec_finish(w, r);
        request_free(r);
        pthread_mutex_lock(&lock);
        served++;
        claimed += wanted;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
}

/* These workers do not read sockets. */
static bool lead_cb(struct exec_worker *w) {
    (void)w;
    return false;
}

static const struct exec_hooks hooks = {start_cb, serve_cb, lead_cb, stop_cb, hold_cb};

static struct exec_numbers numbers(void) {
    struct exec_numbers n;

    exec_read_numbers(&n);
    return n;
}

static void start_pool(size_t limit) {
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    exec_init(TARGET, MAX, limit, &hooks);
    is_int(exec_start(), 0, "the pool starts");
    ok(supervise_until(&started, TARGET), "with its target of threads");
    is_int(numbers().workers, TARGET, "which are counted");
}

/* Requests that block: more and more threads, so that in the end as many as may be run at once. */
static void test_growth(void) {
    int i;

    served = 0;
    for (i = 0; i < MAX + 5; i++)
        push(0, "block", NULL);
    ok(supervise_until(&inside, MAX), "%d requests block at once", MAX);
    for (i = 0; i < 100; i++)
        exec_supervise(clock_now());
    is_int(numbers().workers, MAX, "no more threads than the cap");
    is_int(numbers().running, MAX, "all of them busy");
    is_int(exec_queued(), 5, "the rest waits");
    change(&release, 1);
    ok(supervise_until(&served, MAX + 5), "all end when they may");
    change(&release, -1);
    is_int(exec_load(), 0, "nothing is left");
}

/* The threads beyond the target leave when there is nothing to do, and the pool still works. */
static void test_shrinking(void) {
    ok(supervise_until(&stopped, MAX - TARGET), "idle threads beyond the target leave");
    is_int(numbers().workers, TARGET, "the target stays");
    served = 0;
    push(0, "x", NULL);
    ok(supervise_until(&served, 1), "and serves");
}

enum { LANES = 8, PER_LANE = 500 };

static void test_lane_threads(void) {
    static struct counter counters[LANES];
    int i, wrong = 0, done = 0;

    served = 0;
    for (i = 0; i < LANES * PER_LANE; i++) {
        struct request *r = request(0, "lane", &counters[i % LANES].lane);

        r->pid_serial = (uint32_t)(i / LANES);
        if (!exec_push(r))
            tap_bail("lane: not taken");
    }
    ok(supervise_until(&served, LANES * PER_LANE), "%d requests in %d lanes", LANES * PER_LANE,
       LANES);
    for (i = 0; i < LANES; i++) {
        wrong += counters[i].wrong;
        done += counters[i].next;
    }
    is_int(wrong, 0, "each lane in order, never two of a lane at once");
    is_int(done, LANES * PER_LANE, "all of them");
}

enum { PUSHERS = 3, PER_PUSHER = 3000 };

static int cancelled, refused, pushing; /* under lock */

/* Pushes, and cancels every third again, perhaps too late. */
static void *pusher_main(void *arg) {
    int conn = *(int *)arg, i;

    for (i = 0; i < PER_PUSHER; i++) {
        static const char *const refs[] = {"p", "q", "r", "s"};
        const char *ref = refs[i % 4];
        struct request *r = request(conn, ref, NULL);

        if (!exec_push(r)) {
            request_free(r);
            change(&refused, 1);
        }
        if (i % 3 == 0)
            change(&cancelled, drop(exec_cancel(CONN(conn), ref_of(ref))));
        if (i % 500 == 0)
            change(&cancelled, drop(exec_cancel_conn(CONN(conn))));
    }
    change(&pushing, -1);
    return NULL;
}

static void list_cb(void *arg, const struct exec_worker *w) {
    *(int *)arg += w->number > 0;
}

/* All at once: whatever is pushed is served or comes back, each once. */
static void test_threads(void) {
    pthread_t threads[PUSHERS];
    int ids[PUSHERS], i, turn = 0, listed = 0, all = PUSHERS * PER_PUSHER;
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    served = claimed = 0;
    pushing = PUSHERS;
    for (i = 0; i < PUSHERS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, pusher_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    while ((look(&pushing) > 0 || exec_load() > 0) && clock_now() < end) {
        int was = atomic_exchange(&full, look(&pushing) > 0 ? turn++ % PUSHERS : -1);

        if (was >= 0)
            exec_release(CONN(was));
        exec_supervise(clock_now());
        exec_announce(put);
        exec_alive(1, 1);
        listed = 0;
        exec_list(list_cb, &listed);
        sched_yield();
    }
    atomic_store(&full, -1);
    for (i = 0; i < PUSHERS; i++) {
        pthread_join(threads[i], NULL);
        exec_release(CONN(i));
    }
    ok(supervise_until(&served, all - look(&cancelled) - look(&refused)),
       "all are served, cancelled or refused, each once");
    ok(look(&claimed) <= look(&served), "some had lost their audience");
    is_int(exec_queued() + exec_load(), 0, "none is left");
    ok(listed >= TARGET && listed <= MAX, "the workers can be listed");
}

/* One that blocks holds exec_stop_wait() up, but not longer than told. */
static void test_stop(void) {
    struct request *r = request(0, "late", NULL);
    int threads;

    served = 0;
    push(0, "block", NULL);
    ok(supervise_until(&inside, 1), "one request blocks");
    exec_stop_begin();
    ok(!exec_stop_wait(0.05), "exec_stop_wait does not wait for it for ever");
    ok(!exec_push(r), "a pool that stops takes nothing");
    request_free(r);
    change(&release, 1);
    ok(exec_stop_wait(SECONDS), "once it has ended all threads end");
    threads = 0;
    exec_list(list_cb, &threads);
    is_int(threads, 0, "no worker is left");
    is_int(look(&stopped), look(&started), "each thread that started has stopped");
    is_int(look(&served), 1, "the one that blocked was served");
}

int main(void) {
    request_init("py@h", 77);
    exec_init(TARGET, MAX, LIMIT, &hooks);
    test_queue();
    test_limit();
    test_lanes();
    test_lane_cancel();
    test_cancel();
    test_cancel_conn();
    test_hold();
    test_announce();
    test_exit();
    start_pool(LANES * PER_LANE + 100);
    test_growth();
    test_shrinking();
    test_lane_threads();
    test_threads();
    test_stop();
    buf_done(&sent);
    return tap_end();
}
