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

/* How many microseconds a look lasts that finds nothing, after so many requests. */
static int look(size_t requests) {
    int us = 0;

    spin_begin(&s, requests);
    while (us < 1000 && spin_goes_on(&s, (int64_t)us * US))
        us++;
    return us;
}

/* So many sleeps, after looks that were too short for a single request. */
static void sleep_often(int times) {
    while (times-- > 0) {
        spin_begin(&s, 1);
        spin_slept(&s, 120 * US);
    }
}

static void test_rare(void) {
    is_int(look(1), 50, "the first look");
    spin_slept(&s, 5000 * US);
    is_int(look(1), 50, "after a long sleep it is no longer");
}

static void test_frequent(void) {
    sleep_often(SPIN_STREAK - 1);
    is_int(look(1), 50, "nor after some short ones");
    sleep_often(1);
    is_int(look(1), 200, "but after many in a row");
    is_int(look(1), 200, "also when that finds nothing");
    is_int(look(2), 50, "if no more than one request has come at once");
    is_int(look(0), 200, "as it does with none");
    spin_slept(&s, 200 * US);
    is_int(look(1), 50, "a sleep that no look would have met ends that");
    sleep_often(SPIN_STREAK - 1);
    spin_slept(&s, 200 * US);
    sleep_often(1);
    is_int(look(1), 50, "and begins the row anew");
    spin_slept(&s, 200 * US);
}

static void test_several(void) {
    for (int i = 0; i < SPIN_STREAK; i++) {
        spin_begin(&s, 8);
        spin_slept(&s, 120 * US);
    }
    is_int(look(1), 50, "sleeps after several requests at once are no reason");
}

static void test_crowded(void) {
    sleep_often(SPIN_STREAK);
    asked = 0;
    crowded = true;
    is_int(look(1), 50, "where others want the processor it is short");
    is_int(asked, 1, "for which is asked once");
    crowded = false;
    is_int(look(1), 50, "and so is the next one");
    sleep_often(SPIN_STREAK);
    is_int(look(1), 200, "until many sleeps were short again");
    crowded = true;
    sleep_often(1);
    crowded = false;
    is_int(look(1), 50, "it is seen after a sleep, too");
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
    test_several();
    test_crowded();
    test_interrupted();
    return tap_end();
}
