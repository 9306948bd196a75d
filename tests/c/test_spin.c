/* test_spin.c - how long a look lasts: after rare traffic, after frequent, and where others want the processor. */
#include "config.h"

#include "spin.h"
#include "clock.h"
#include "tap.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { US = 1000, SECONDS = 30, THREADS = 64 };

static bool crowded;
static int asked;

static bool crowded_cb(void) {
    asked++;
    return crowded;
}

static struct spin s = {.crowded = crowded_cb};

/* How many microseconds a look lasts that finds nothing. */
static int look(void) {
    int us = 0;

    spin_begin(&s);
    while (us < 1000 && spin_goes_on(&s, (int64_t)us * US))
        us++;
    return us;
}

static void test_rare(void) {
    is_int(look(), 50, "the first look");
    spin_slept(&s, 5000 * US);
    is_int(look(), 50, "after a long sleep it is no longer");
    is_int(asked, 0, "and nobody has been asked");
}

static void test_frequent(void) {
    spin_slept(&s, 120 * US);
    is_int(look(), 100, "after a short sleep it is twice as long");
    is_int(asked, 1, "for which is asked once");
    spin_slept(&s, 120 * US);
    spin_slept(&s, 120 * US);
    is_int(look(), 200, "and at most so long");
    is_int(look(), 200, "also when that finds nothing");
    spin_slept(&s, 200 * US);
    is_int(look(), 50, "a sleep that no look would have met ends that");
}

static void test_crowded(void) {
    spin_slept(&s, 60 * US);
    spin_slept(&s, 60 * US);
    crowded = true;
    is_int(look(), 50, "where others want the processor it is short");
    crowded = false;
    is_int(look(), 50, "and so is the next one");
    spin_slept(&s, 60 * US);
    is_int(look(), 100, "until a short sleep");
}

static _Atomic bool ends;

static void *spin_main(void *arg) {
    while (!atomic_load(&ends))
        ;
    return arg;
}

/* More threads than processors, and this one computes as they do: sooner or later it is interrupted. */
static void test_interrupted(void) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    pthread_t threads[THREADS];
    bool found = false;

    spin_is_crowded();
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, spin_main, NULL);
    while (!found && clock_now() < end)
        found = spin_is_crowded();
    atomic_store(&ends, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ok(found, "among threads that compute it is seen that others want the processor");
}

int main(void) {
    test_rare();
    test_frequent();
    test_crowded();
    test_interrupted();
    return tap_end();
}
