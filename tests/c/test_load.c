/* test_load.c - what being loaded costs: the wait for the GIL, and the memory. Runs under TSan as well. */
#include "config.h"

#include "load.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MS ((int64_t)1000000)
#define SECOND (1000 * MS)

enum { THREADS = 4, ROUNDS = 50000, PAGE = 4096, MIB = 1 << 20, MUCH = 64 * MIB };

static void test_none(void) {
    ok(load_gil_wait(clock_now()) == 0, "nobody has ever waited");
}

/* A wait of so much, as if it had ended now. */
static void waited(int64_t ns) {
    load_entered(load_entering() - ns);
}

static void test_longest(void) {
    int64_t now;
    uint64_t wait;

    waited(800 * MS);
    now = clock_now();
    wait = load_gil_wait(now);
    ok(wait >= 800000 && wait < 60000000, "a wait of 800 ms counts at once: %d us", (int)wait);
    waited(1 * MS);
    ok(load_gil_wait(now) == wait, "a shorter one does not take its place");
    ok(load_gil_wait(now + SECOND) == wait, "it counts as much a second later");
    ok(load_gil_wait(now + 3 * SECOND) <= wait / 256, "but less after that");
    ok(load_gil_wait(now + 3 * SECOND) > 0, "though it does");
    ok(load_gil_wait(now + 10 * SECOND) == 0, "and no more after a while");
    ok(load_gil_wait(now + 10000 * SECOND) == 0, "nor ever after");
    waited(5000 * MS);
    ok(load_gil_wait(clock_now()) > wait, "a longer one does");
    waited((int64_t)1 << 62);
    ok(load_gil_wait(clock_now()) > 60000000, "one of a century is none of a moment");
}

/* Nobody gets it: how long that has been so is the estimate. */
static void test_going_on(void) {
    int64_t first = load_entering(), now = clock_now() + 1000 * SECOND, second;
    uint64_t wait = load_gil_wait(now);

    ok(wait >= 999000000 && wait < 1060000000, "one who waits still: %d us", (int)wait);
    second = load_entering();
    ok(load_gil_wait(now) == wait, "a second one changes nothing");
    load_entered(first);
    ok(load_gil_wait(now) <= wait, "when the first has it, the second has waited from then on, at least");
    ok(load_gil_wait(now) > 900000000, "which counts");
    load_entered(second);
    ok(load_gil_wait(now) == 0, "when nobody waits, nothing");
}

static void *enterer_main(void *arg) {
    for (int i = 0; i < ROUNDS; i++)
        load_entered(load_entering());
    return arg;
}

static void test_threads(void) {
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, enterer_main, NULL) != 0)
            tap_bail("no thread");
    for (int i = 0; i < ROUNDS; i++)
        load_gil_wait(clock_now());
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ok(load_gil_wait(clock_now() + 100 * SECOND) == 0, "%d threads at once: none is left over",
       THREADS);
}

static void test_rss(void) {
    uint64_t before = load_rss(), after;
    volatile char *much = malloc(MUCH); /* volatile: what is written is not left out */

    ok(before > MIB / 2, "the process is in memory: %d KiB", (int)(before >> 10));
    if (!much)
        tap_bail("no memory");
    for (int i = 0; i < MUCH; i += PAGE)
        much[i] = 1;
    after = load_rss();
    ok(after >= before + MUCH / 2, "what is used of it is seen: %d KiB", (int)(after >> 10));
    free((void *)much);
}

int main(void) {
    test_none();
    test_longest();
    test_going_on();
    test_threads();
    test_rss();
    return tap_end();
}
