/* test_stats.c - the counters: each for itself, by many threads, and their names. */
#include "config.h"

#include "stats.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 100000 };

/* In the order of enum stats_counter, as docs/protocol.md names them. */
static const char *const names[STATS_END] = {
    "calls",    "errors",    "cancelled", "refused",  "dropped",           "frames_in",
    "bytes_in", "bytes_out", "pings",     "connects", "handshakes_failed", "mailbox_dropped",
    "lead_taken",
};

static void test_start(void) {
    int zero = 0;

    for (int i = 0; i < STATS_END; i++)
        zero += stats_get((enum stats_counter)i) == 0;
    is_int(zero, STATS_END, "all begin at zero");
}

static void test_names(void) {
    for (int i = 0; i < STATS_END; i++)
        is_str(stats_name((enum stats_counter)i), names[i], "counter %d is %s", i, names[i]);
}

/* A different amount for each, so that two that share a place would be seen. */
static void test_each(void) {
    int wrong = 0;

    for (int i = 0; i < STATS_END; i++)
        stats_add((enum stats_counter)i, (uint64_t)1 << i);
    for (int i = 0; i < STATS_END; i++)
        wrong += stats_get((enum stats_counter)i) != (uint64_t)1 << i;
    is_int(wrong, 0, "each counts for itself");
    stats_add(STATS_CALLS, 0);
    is_int(stats_get(STATS_CALLS), 1, "adding nothing changes nothing");
    stats_add(STATS_CALLS, 41);
    is_int(stats_get(STATS_CALLS), 42, "what is added is added to what was there");
}

static void test_large(void) {
    uint64_t before = stats_get(STATS_BYTES_IN);

    stats_add(STATS_BYTES_IN, UINT32_MAX);
    stats_add(STATS_BYTES_IN, UINT32_MAX);
    ok(stats_get(STATS_BYTES_IN) == before + 2 * (uint64_t)UINT32_MAX,
       "more than 32 bits of bytes are counted");
    ok(stats_get(STATS_BYTES_OUT) == (uint64_t)1 << STATS_BYTES_OUT, "in its own counter only");
}

static _Atomic bool ended;
static bool went_back;

static void *adder_main(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        stats_add(STATS_FRAMES_IN, 1);
        stats_add(STATS_BYTES_OUT, 3);
    }
    return arg;
}

/* A counter that is read while others add to it never goes back. */
static void *reader_main(void *arg) {
    uint64_t last = 0;

    while (!atomic_load(&ended)) {
        uint64_t now = stats_get(STATS_FRAMES_IN);

        went_back = went_back || now < last;
        last = now;
    }
    return arg;
}

static void test_threads(void) {
    uint64_t frames = stats_get(STATS_FRAMES_IN), bytes = stats_get(STATS_BYTES_OUT);
    pthread_t threads[THREADS], reader;
    int i;

    if (pthread_create(&reader, NULL, reader_main, NULL) != 0)
        tap_bail("no thread");
    for (i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, adder_main, NULL) != 0)
            tap_bail("no thread");
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&ended, true);
    pthread_join(reader, NULL);
    is_int(stats_get(STATS_FRAMES_IN) - frames, THREADS * ROUNDS, "%d threads: none is lost",
           THREADS);
    is_int(stats_get(STATS_BYTES_OUT) - bytes, 3 * THREADS * ROUNDS, "in no counter");
    ok(!went_back, "nobody sees a counter go back");
}

int main(void) {
    test_start();
    test_names();
    test_each();
    test_large();
    test_threads();
    return tap_end();
}
