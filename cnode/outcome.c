/* outcome.c - how requests have ended, and how long they took from their arrival to the answer. */
#include "config.h"

#include "outcome.h"

#define OUTCOME_US INT64_C(1000)
#define OUTCOME_MS INT64_C(1000000)

_Atomic bool outcome_measured;

const int64_t outcome_limits[OUTCOME_BUCKETS] = {
    100 * OUTCOME_US,   250 * OUTCOME_US,   500 * OUTCOME_US,  1 * OUTCOME_MS,
    2500 * OUTCOME_US,  5 * OUTCOME_MS,     10 * OUTCOME_MS,   25 * OUTCOME_MS,
    50 * OUTCOME_MS,    100 * OUTCOME_MS,   250 * OUTCOME_MS,  500 * OUTCOME_MS,
    1000 * OUTCOME_MS,  2500 * OUTCOME_MS,  5000 * OUTCOME_MS, 10000 * OUTCOME_MS,
    30000 * OUTCOME_MS, 60000 * OUTCOME_MS,
};

static struct {
    _Atomic uint64_t ended[OUTCOME_END];
    _Atomic uint64_t in[OUTCOME_BUCKETS + 1];
    _Atomic uint64_t sum;
} outcome;

static const char *const outcome_names[OUTCOME_END] = {
    [OUTCOME_OK] = "ok",
    [OUTCOME_ERROR] = "error",
    [OUTCOME_CANCELLED] = "cancelled",
    [OUTCOME_REFUSED] = "refused",
};

static void outcome_bump(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint64_t outcome_load(_Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void outcome_measure(void) {
    atomic_store(&outcome_measured, true);
}

void outcome_add(enum outcome what) {
    outcome_bump(&outcome.ended[what], 1);
}

/* Most requests are quick, so the search from below ends early. */
static void outcome_took(int64_t ns) {
    int i = 0;

    while (i < OUTCOME_BUCKETS && ns > outcome_limits[i])
        i++;
    outcome_bump(&outcome.in[i], 1);
    outcome_bump(&outcome.sum, (uint64_t)ns);
}

void outcome_answered(enum outcome what, int64_t arrived) {
    outcome_add(what);
    if (arrived)
        outcome_took(clock_now() - arrived);
}

uint64_t outcome_count(enum outcome what) {
    return outcome_load(&outcome.ended[what]);
}

void outcome_read_times(struct outcome_times *times) {
    for (int i = 0; i <= OUTCOME_BUCKETS; i++)
        times->in[i] = outcome_load(&outcome.in[i]);
    times->sum = outcome_load(&outcome.sum);
}

const char *outcome_name(enum outcome what) {
    return outcome_names[what];
}
