/* stats.c - what the node counts: since its start, cheap enough for every message. */
#include "config.h"

#include "stats.h"

#include <stdatomic.h>

static _Atomic uint64_t stats_counters[STATS_END];

static const char *const stats_names[STATS_END] = {
    [STATS_CALLS] = "calls",
    [STATS_ERRORS] = "errors",
    [STATS_CANCELLED] = "cancelled",
    [STATS_REFUSED] = "refused",
    [STATS_DROPPED] = "dropped",
    [STATS_FRAMES_IN] = "frames_in",
    [STATS_BYTES_IN] = "bytes_in",
    [STATS_BYTES_OUT] = "bytes_out",
    [STATS_PINGS] = "pings",
    [STATS_CONNECTS] = "connects",
    [STATS_HANDSHAKES_FAILED] = "handshakes_failed",
    [STATS_MAILBOX_DROPPED] = "mailbox_dropped",
    [STATS_LEAD_TAKEN] = "lead_taken",
};

void stats_add(enum stats_counter counter, uint64_t n) {
    atomic_fetch_add_explicit(&stats_counters[counter], n, memory_order_relaxed);
}

uint64_t stats_get(enum stats_counter counter) {
    return atomic_load_explicit(&stats_counters[counter], memory_order_relaxed);
}

const char *stats_name(enum stats_counter counter) {
    return stats_names[counter];
}
