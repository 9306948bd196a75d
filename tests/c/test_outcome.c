/* test_outcome.c - how requests have ended and how long they took: each in its bucket, none lost. */
#include "config.h"

#include "outcome.h"
#include "tap.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 50000 };

static uint64_t total(const struct outcome_times *t) {
    uint64_t n = 0;

    for (int i = 0; i <= OUTCOME_BUCKETS; i++)
        n += t->in[i];
    return n;
}

static void test_names(void) {
    static const char *const names[] = {"ok", "error", "cancelled", "refused"};

    for (int i = 0; i < OUTCOME_END; i++)
        is_str(outcome_name((enum outcome)i), names[i], "outcome %d is %s", i, names[i]);
}

static void test_limits(void) {
    int falls = 0;

    for (int i = 1; i < OUTCOME_BUCKETS; i++)
        falls += outcome_limits[i] <= outcome_limits[i - 1];
    is_int(falls, 0, "each limit is above the one before");
    is_int(outcome_limits[0], 100000, "the first is 0.1 ms");
    is_int(outcome_limits[OUTCOME_BUCKETS - 1], INT64_C(60000000000), "the last is a minute");
}

static void test_unmeasured(void) {
    struct outcome_times t;

    is_int(outcome_now(), 0, "nobody wants times: the clock is not looked at");
    outcome_answered(OUTCOME_OK, outcome_now());
    is_int(outcome_count(OUTCOME_OK), 1, "the outcome is counted all the same");
    outcome_read_times(&t);
    is_int(total(&t), 0, "but no time");
    outcome_measure();
    ok(outcome_now() > 0, "somebody does: now it is");
    outcome_add(OUTCOME_CANCELLED);
    outcome_add(OUTCOME_REFUSED);
    outcome_read_times(&t);
    is_int(total(&t), 0, "what was not answered has no time");
    is_int(outcome_count(OUTCOME_CANCELLED) + outcome_count(OUTCOME_REFUSED), 2, "but is counted");
}

/* Answers one that came so long ago, and tells in which bucket it has come to be. */
static int bucket_of(int64_t ago) {
    struct outcome_times before, after;
    int found = -1;

    outcome_read_times(&before);
    outcome_answered(OUTCOME_ERROR, clock_now() - ago);
    outcome_read_times(&after);
    for (int i = 0; i <= OUTCOME_BUCKETS; i++)
        if (after.in[i] == before.in[i] + 1)
            found = found < 0 ? i : -2;
    ok(after.sum - before.sum >= (uint64_t)ago, "its time is in the sum");
    return found;
}

static void test_buckets(void) {
    is_int(bucket_of(INT64_C(200000000)), 10, "0.2 s: up to 0.25");
    is_int(bucket_of(INT64_C(20000000000)), 16, "20 s: up to 30");
    is_int(bucket_of(INT64_C(59000000000)), 17, "59 s: up to 60");
    is_int(bucket_of(INT64_C(61000000000)), 18, "61 s: above all limits");
    is_int(outcome_count(OUTCOME_ERROR), 4, "four errors");
}

static void *adder_main(void *arg) {
    for (int i = 0; i < ROUNDS; i++)
        outcome_answered(OUTCOME_OK, outcome_now());
    return arg;
}

static void test_threads(void) {
    pthread_t threads[THREADS];
    struct outcome_times before, after;
    uint64_t count = outcome_count(OUTCOME_OK);

    outcome_read_times(&before);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, adder_main, NULL) != 0)
            tap_bail("no thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    outcome_read_times(&after);
    is_int(outcome_count(OUTCOME_OK) - count, THREADS * ROUNDS, "%d threads: none is lost", THREADS);
    is_int(total(&after) - total(&before), THREADS * ROUNDS, "each has a time");
}

int main(void) {
    test_names();
    test_limits();
    test_unmeasured();
    test_buckets();
    test_threads();
    return tap_end();
}
