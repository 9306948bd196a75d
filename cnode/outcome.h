/* outcome.h - how requests have ended, and how long they took from their arrival to the answer.
 *
 * Any thread; relaxed atomics, so cheap enough for every request; no GIL. The clock is only looked at
 * when somebody wants to see the times (outcome_measure()).
 */
#ifndef PYNODE_OUTCOME_H
#define PYNODE_OUTCOME_H

#include "clock.h"

#include <stdatomic.h>
#include <stdbool.h>

enum outcome {
    OUTCOME_OK,
    OUTCOME_ERROR,
    OUTCOME_CANCELLED, /* nobody waited any more, or it was stopped */
    OUTCOME_REFUSED,   /* never run: overloaded, draining */
    OUTCOME_END
};

enum { OUTCOME_BUCKETS = 18 };

/* The upper ends of the buckets, in nanoseconds, in rising order. */
extern const int64_t outcome_limits[OUTCOME_BUCKETS];

/* How many took at most as long as each limit says and longer than the one before, how many took
 * longer than all, and the sum of all times. */
struct outcome_times {
    uint64_t in[OUTCOME_BUCKETS + 1];
    uint64_t sum; /* ns */
};

/* Times are taken from here on. */
void outcome_measure(void);

extern _Atomic bool outcome_measured;

/* Now, for what arrives; 0 when times are not taken. */
static inline int64_t outcome_now(void) {
    return atomic_load_explicit(&outcome_measured, memory_order_relaxed) ? clock_now() : 0;
}

/* One request has ended so. */
void outcome_add(enum outcome what);

/* The same, and it is answered now; arrived: outcome_now() of then. */
void outcome_answered(enum outcome what, int64_t arrived);

uint64_t outcome_count(enum outcome what);
void outcome_read_times(struct outcome_times *times);

/* "ok", "error", ... */
const char *outcome_name(enum outcome what);

#endif
