/* test_pool.c - the pool of threads: growth, shrinking, lanes, many threads at once, the end.
 *
 * The hooks stand for Python, and the main thread is the io thread. Runs under TSan as well.
 */
#include "config.h"

#include "pool.h"
#include "requests.h"
#include "tap.h"
#include "watched.h"

#include <sched.h>

enum { TARGET = 3, MAX = 40, SECONDS = 60 };

/* What is announced: nothing here has a process. */
static void put(struct request *r, struct buf *out) {
    (void)r;
    (void)out;
}

static int started, stopped; /* threads */
static int served, claimed;  /* requests */
static int inside;           /* requests that block now */
static int release;          /* those that block may go on */
static int waiting;          /* requests that wait for Erlang now */
static int answered;         /* these may go on */
static int computing;        /* requests that compute now */
static _Atomic bool computed; /* they may end */

/* Plays the io thread until *what is as wanted, looking after the pool every millisecond: whether
 * it came to that in time. */
static bool supervise_until(const int *what, int wanted) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct timespec t;
    int64_t now;

    while ((now = clock_now()) < end && look(what) != wanted) {
        pool_supervise(now);
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
    } else if (r->ref.len == 6 && memcmp(r->ref.data, "erlang", 6) == 0) {
        pool_wait_begin();
        pthread_mutex_lock(&lock);
        waiting++;
        pthread_cond_broadcast(&changed);
        while (!answered)
            pthread_cond_wait(&changed, &lock);
        waiting--;
        pthread_mutex_unlock(&lock);
        pool_wait_end();
    } else if (r->ref.len == 7 && memcmp(r->ref.data, "compute", 7) == 0) {
        change(&computing, 1);
        while (!atomic_load(&computed))
            ;
        change(&computing, -1);
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

static const struct exec_hooks hooks = {start_cb, serve_cb, lead_cb, stop_cb, hold_cb, NULL};

static struct pool_numbers numbers(void) {
    struct pool_numbers n;

    pool_read_numbers(&n);
    return n;
}

static void start_pool(size_t limit) {
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    exec_init(TARGET, MAX, limit, &hooks);
    is_int(pool_start(), 0, "the pool starts");
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
        pool_supervise(clock_now());
    is_int(numbers().workers, MAX, "no more threads than the cap");
    is_int(numbers().running, MAX, "all of them busy");
    is_int(exec_queued(), 5, "the rest waits");
    change(&release, 1);
    ok(supervise_until(&served, MAX + 5), "all end when they may");
    change(&release, -1);
    is_int(exec_load(), 0, "nothing is left");
}

/* Who waits for Erlang, which may call back, takes no place of those that there may be. */
static void test_waiting_at_maximum(void) {
    struct request *r = request(1, "erlang", NULL);
    bool runs;
    int i;

    served = 0;
    for (i = 0; i < MAX - 1; i++)
        push(0, "block", NULL);
    push(0, "erlang", NULL);
    ok(supervise_until(&inside, MAX - 1) && supervise_until(&waiting, 1),
       "as many as there may be threads: one waits for Erlang");
    push(0, "x", NULL);
    ok(supervise_until(&served, 1), "the next request is served all the same");
    is_int(numbers().workers, MAX + 1, "by a thread beyond the maximum");
    push(0, "block", NULL);
    ok(supervise_until(&inside, MAX), "which may block");
    push(0, "x", NULL);
    r->kind = REQUEST_APP_CALL;
    r->options.queue = ref_of("q");
    if (!exec_push(r))
        tap_bail("not taken");
    ok(supervise_until(&waiting, 2), "in a queue one waits for Erlang, too");
    for (i = 0; i < 100; i++)
        pool_supervise(clock_now());
    is_int(exec_ready(), 1, "that leaves no place in the pool");
    is_int(numbers().workers, MAX + 1, "and there are no more threads");
    change(&answered, 1);
    ok(supervise_until(&waiting, 0), "both are answered");
    ok(supervise_until(&served, 4), "the thread that has waited serves what is left");
    change(&release, 1);
    ok(supervise_until(&served, MAX + 4), "all end");
    change(&release, -1);
    change(&answered, -1);
    exec_drop_queue(ref_of("q"), &runs);
    is_int(exec_load(), 0, "nothing is left");
}

static void *elsewhere_main(void *arg) {
    pool_wait_begin();
    pool_wait_end();
    return arg;
}

/* A thread that is not the pool's may wait: that is nothing to the pool. */
static void test_waiting_elsewhere(void) {
    pthread_t thread;

    pool_wait_begin();
    if (pthread_create(&thread, NULL, elsewhere_main, NULL) != 0)
        tap_bail("no thread");
    pthread_join(thread, NULL);
    is_int(numbers().blocked, 0, "a thread that is not the pool's waits: nobody is blocked");
    pool_wait_end();
}

/* The threads beyond the target leave when there is nothing to do, and the pool still works. */
static void test_shrinking(void) {
    ok(supervise_until(&stopped, look(&started) - TARGET), "idle threads beyond the target leave");
    is_int(numbers().workers, TARGET, "the target stays");
    served = 0;
    push(0, "x", NULL);
    ok(supervise_until(&served, 1), "and serves");
}

static _Atomic int told_of[3]; /* by kind: calls of the application, of its in a queue, others */

static void told_cb(const struct request *r) {
    atomic_fetch_add(&told_of[r->kind != REQUEST_APP_CALL ? 2 : r->options.queue.len > 0], 1);
}

/* When the latest of those that run has begun. */
static void since_cb(void *arg, const struct exec_worker *w) {
    int64_t *since = arg;

    if (w->current && w->since > *since)
        *since = w->since;
}

/* What runs for a millisecond is told of, once. */
static void test_report(void) {
    static const enum request_kind kinds[] = {REQUEST_APP_CALL, REQUEST_APP_CALL, REQUEST_APP_CAST,
                                              REQUEST_SERVER_CALL};
    enum { N = sizeof kinds / sizeof *kinds, MS = 1000000 };
    int64_t latest = 0;
    bool runs;

    served = 0;
    for (int i = 0; i < N; i++) {
        struct request *r = request(0, "block", NULL);

        r->kind = kinds[i];
        if (i == 0)
            r->options.queue = ref_of("q");
        if (!exec_push(r))
            tap_bail("not taken");
    }
    ok(supervise_until(&inside, N), "requests of several kinds run");
    pool_list(since_cb, &latest);
    is_int(pool_report(latest - 1000 * MS, told_cb), 0, "none is told of before it has for a while");
    is_int(exec_unreported(), 2, "two will be");
    is_int(pool_report(latest + MS, told_cb), 2, "after a millisecond they are");
    is_int(told_of[0], 1, "the application's call");
    is_int(told_of[1], 1, "and the one in a queue");
    is_int(told_of[2], 0, "and no other");
    is_int(exec_unreported(), 0, "none is to be told of any more");
    is_int(pool_report(latest + 1000 * MS, told_cb), 0, "none is told of twice");
    change(&release, 1);
    ok(supervise_until(&served, N), "all end");
    change(&release, -1);
    exec_drop_queue(ref_of("q"), &runs);
    is_int(pool_report(latest + 1000 * MS, told_cb), 0, "nothing runs");
}

/* One that has run for 0.999999 ms has not run for a millisecond. */
static void test_report_limit(void) {
    struct request *r = request(0, "block", NULL);
    int64_t since = 0;

    served = 0;
    r->kind = REQUEST_APP_CALL;
    if (!exec_push(r))
        tap_bail("not taken");
    ok(supervise_until(&inside, 1), "a call of the application runs");
    pool_list(since_cb, &since);
    is_int(pool_report(since, told_cb), 0, "it has just begun");
    is_int(pool_report(since + 999999, told_cb), 0, "a millisecond has not passed");
    is_int(pool_report(since + 1000000, told_cb), 1, "a millisecond has");
    change(&release, 1);
    ok(supervise_until(&served, 1), "it ends");
    change(&release, -1);
}

/* Those that nobody waits for any more do not take others' places. */
static void test_stuck(void) {
    int i;

    served = 0;
    for (i = 0; i < MAX; i++)
        push(0, "block", NULL);
    ok(supervise_until(&inside, MAX), "as many block as there may be threads");
    push(1, "x", NULL);
    for (i = 0; i < 100; i++)
        pool_supervise(clock_now());
    is_int(exec_queued(), 1, "the next one waits");
    is_int(drop(exec_cancel(CONN(0), ref_of("block"))), 0, "one that runs is given up");
    ok(supervise_until(&served, 1), "another thread takes its place");
    is_int(numbers().workers, MAX + 1, "beyond the cap");
    is_int(drop(exec_cancel_conn(CONN(0))), 0, "all that run are");
    for (i = 0; i < MAX + 5; i++)
        push(1, "block", NULL);
    ok(supervise_until(&inside, MAX + MAX), "as many again can block");
    for (i = 0; i < 100; i++)
        pool_supervise(clock_now());
    is_int(numbers().workers, MAX + MAX, "and no more");
    is_int(drop(exec_cancel_conn(CONN(1))), 5, "these are given up, too");
    push(2, "x", NULL);
    for (i = 0; i < 100; i++)
        pool_supervise(clock_now());
    is_int(numbers().workers, MAX + MAX, "there is an end to it");
    change(&release, 1);
    ok(supervise_until(&served, MAX + MAX + 2), "all end when they may");
    change(&release, -1);
    is_int(exec_load(), 0, "nothing is left");
}

/* The pool's looks with a clock that stands, by which nobody is blocked, until *what is as wanted. */
static bool glance_until(const int *what, int wanted) {
    int64_t now = clock_now(), end = now + (int64_t)SECONDS * 1000000000;

    while (look(what) != wanted && clock_now() < end) {
        pool_supervise(now);
        sched_yield();
    }
    return look(what) == wanted;
}

/* Nor does it count as running. */
static void test_waiting(void) {
    int i;

    served = 0;
    for (i = 0; i < TARGET; i++)
        push(0, "erlang", NULL);
    ok(glance_until(&waiting, TARGET), "as many wait for Erlang as shall make progress");
    push(0, "x", NULL);
    ok(glance_until(&served, 1), "the next one is served at once, whoever is seen as blocked");
    is_int(numbers().blocked, TARGET, "they are told as blocked");
    is_int(numbers().running, TARGET, "of those that run");
    change(&answered, 1);
    ok(supervise_until(&served, TARGET + 1), "all end");
    change(&answered, -1);
    is_int(numbers().blocked, 0, "and none is blocked any more");
}

/* Waits until all threads that run nothing sleep: none of them is still on its way to what was there before, and
 * takes what comes next. Whether it came to that in time. */
static bool others_sleep(void) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct pool_numbers n = numbers();

    for (; n.idle + n.running < n.workers && clock_now() < end; n = numbers())
        sched_yield();
    return n.idle + n.running == n.workers;
}

/* What computes holds up who comes next; what computes and is given up does not. */
static void test_given_up(void) {
    int64_t now = clock_now();
    int i;

    served = 0;
    for (i = 0; i < TARGET; i++)
        push(0, "compute", NULL);
    ok(glance_until(&computing, TARGET) && others_sleep(),
       "as many compute as shall make progress");
    push(1, "x", NULL);
    for (i = 0; i < 1000; i++)
        pool_supervise(now);
    is_int(exec_queued(), 1, "the next one waits");
    is_int(drop(exec_cancel(CONN(0), ref_of("compute"))), 0, "one of them is given up");
    ok(glance_until(&served, 1), "another thread serves");
    atomic_store(&computed, true);
    ok(supervise_until(&served, TARGET + 1), "all end");
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
    do {
        int was = atomic_exchange(&full, look(&pushing) > 0 ? turn++ % PUSHERS : -1);

        if (was >= 0)
            exec_release(CONN(was));
        pool_supervise(clock_now());
        exec_announce(put);
        exec_alive(1, 1);
        listed = 0;
        pool_list(list_cb, &listed);
        sched_yield();
    } while ((look(&pushing) > 0 || exec_load() > 0) && clock_now() < end);
    atomic_store(&full, -1);
    for (i = 0; i < PUSHERS; i++) {
        pthread_join(threads[i], NULL);
        exec_release(CONN(i));
    }
    ok(supervise_until(&served, all - look(&cancelled) - look(&refused)),
       "all are served, cancelled or refused, each once");
    ok(look(&claimed) <= look(&served), "some had lost their audience");
    is_int(exec_queued() + exec_load(), 0, "none is left");
    if (listed < TARGET || listed > 2 * MAX)
        printf("# %d\n", listed);
    ok(listed >= TARGET && listed <= 2 * MAX, /* those that run what nobody waits for are replaced */
       "the workers can be listed");
}

/* One that blocks holds pool_stop_wait() up, but not longer than told. */
static void test_stop(void) {
    struct request *r = request(0, "late", NULL);
    int threads;

    served = 0;
    push(0, "block", NULL);
    ok(supervise_until(&inside, 1), "one request blocks");
    pool_stop_begin();
    ok(!pool_stop_wait(0.05), "pool_stop_wait does not wait for it for ever");
    ok(!exec_push(r), "a pool that stops takes nothing");
    request_free(r);
    change(&release, 1);
    ok(pool_stop_wait(SECONDS), "once it has ended all threads end");
    threads = 0;
    pool_list(list_cb, &threads);
    is_int(threads, 0, "no worker is left");
    is_int(look(&stopped), look(&started), "each thread that started has stopped");
    is_int(look(&served), 1, "the one that blocked was served");
}

int main(void) {
    request_init("py@h", 77);
    start_pool(LANES * PER_LANE + 100);
    test_growth();
    test_waiting_at_maximum();
    test_waiting_elsewhere();
    test_shrinking();
    test_report();
    test_report_limit();
    test_lane_threads();
    test_threads();
    test_stuck();
    test_waiting();
    test_given_up();
    test_stop();
    return tap_end();
}
