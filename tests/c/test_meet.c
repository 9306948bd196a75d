/* test_meet.c - two nodes that connect at once: whose attempt stays, who waits for whom. */
#include "config.h"

#include "meet.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static const char self[] = "m@host", lesser[] = "a@host", greater[] = "z@host";

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    nanosleep(&t, NULL);
}

static void test_alone(void) {
    struct meet ours, theirs;

    ok(meet_plan(&ours, lesser), "nobody else: we may connect");
    ok(meet_dial(&ours), "and go on to connect(2)");
    meet_end(&ours);
    is_int(meet_greet(&theirs, lesser), MEET_OK, "a peer that comes alone is welcome");
    meet_end(&theirs);
    is_int(meet_greet(&theirs, greater), MEET_OK, "whatever its name");
    meet_end(&theirs);
    meet_end(&theirs);
    ok(meet_plan(&ours, greater), "what has ended, even twice, is in nobody's way");
    meet_end(&ours);
}

static void test_crossing(void) {
    struct meet ours, theirs;

    meet_plan(&ours, lesser);
    meet_dial(&ours);
    is_int(meet_greet(&theirs, lesser), MEET_NOK, "both at once: ours stays, our name is greater");
    meet_end(&theirs);
    meet_end(&ours);
    meet_plan(&ours, greater);
    meet_dial(&ours);
    is_int(meet_greet(&theirs, greater), MEET_OK_SIMULTANEOUS, "theirs stays if theirs is greater");
    meet_end(&ours);
    meet_end(&theirs);
    meet_plan(&ours, lesser);
    meet_dial(&ours);
    is_int(meet_greet(&theirs, greater), MEET_OK, "another peer is not concerned");
    meet_end(&ours);
    meet_end(&theirs);
}

static void test_theirs_first(void) {
    struct meet ours, theirs;

    meet_plan(&ours, lesser);
    is_int(meet_greet(&theirs, lesser), MEET_OK, "before we call connect(2) the peer is welcome");
    ok(!meet_dial(&ours), "and we do not connect any more");
    meet_end(&ours);
    meet_end(&theirs);
}

static struct meet first;
static double delay;

static void *end_first(void *arg) {
    nap(delay);
    meet_end(&first);
    return arg;
}

/* How long meet_plan() or meet_wait() waits for what ends after a while. */
static double waited(bool plan, bool *got) {
    pthread_t thread;
    struct meet m;
    double start = now();

    pthread_create(&thread, NULL, end_first, NULL);
    if (plan)
        *got = meet_plan(&m, lesser);
    else
        meet_wait(lesser);
    start = now() - start;
    pthread_join(thread, NULL);
    if (plan)
        meet_end(&m);
    return start;
}

static void test_waiting(void) {
    double took;
    bool got;

    delay = 0.05;
    meet_plan(&first, lesser);
    took = waited(true, &got);
    ok(!got && took > 0.04 && took < 1.5, "a second attempt of ours waits for the first: %.3f s",
       took);
    meet_greet(&first, lesser);
    took = waited(true, &got);
    ok(!got && took > 0.04 && took < 1.5, "and for the peer's: %.3f s", took);
    meet_greet(&first, lesser);
    took = waited(false, &got);
    ok(took > 0.04 && took < 1.5, "meet_wait() waits for the peer's: %.3f s", took);
    meet_plan(&first, lesser);
    took = waited(false, &got);
    ok(took < 0.04, "not for ours: %.3f s", took);
    delay = 4;
    meet_greet(&first, lesser);
    took = waited(true, &got);
    ok(!got && took > 1.9 && took < 3.9, "who only says a name holds up nobody for long: %.3f s",
       took);
}

enum { THREADS = 8, ROUNDS = 5000 };

static _Atomic int inside[2], most;

/* Plays one of many threads that connect to two peers. */
static void *dial(void *arg) {
    static const char *const peers[] = {lesser, greater};
    struct meet m;

    for (int i = 0; i < ROUNDS; i++) {
        int n;

        if (!meet_plan(&m, peers[i & 1]))
            continue;
        n = atomic_fetch_add(&inside[i & 1], 1) + 1;
        if (n > atomic_load(&most))
            atomic_store(&most, n);
        meet_dial(&m);
        atomic_fetch_sub(&inside[i & 1], 1);
        meet_end(&m);
    }
    return arg;
}

static void test_threads(void) {
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, dial, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    is_int(atomic_load(&most), 1, "of %d threads one at a time connects to a peer", THREADS);
}

int main(void) {
    meet_init(self);
    test_alone();
    test_crossing();
    test_theirs_first();
    test_waiting();
    test_threads();
    return tap_end();
}
