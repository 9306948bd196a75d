/* stats.c - what the node counts: since its start, cheap enough for every message. */
#include "config.h"

#include "stats.h"

#include <stdatomic.h>

static _Atomic uint64_t stats_counters[STATS_END];

static const struct {
    const char *name, *help;
} stats_texts[STATS_END] = {
    [STATS_CALLS] = {"calls", "Requests that were run."},
    [STATS_ERRORS] = {"errors", "Of these, ended in a Python exception."},
    [STATS_CANCELLED] =
        {"cancelled",
         "Requests that were taken off the queue because nobody waited any more, or stopped."},
    [STATS_REFUSED] = {"refused", "Requests that were refused: overloaded or draining."},
    [STATS_DROPPED] = {"dropped", "Messages to nobody."},
    [STATS_FRAMES_IN] = {"frames_in", "Frames that peers have sent."},
    [STATS_BYTES_IN] = {"bytes_in", "Bytes that peers have sent."},
    [STATS_BYTES_OUT] = {"bytes_out", "Bytes that were put into connections."},
    [STATS_PINGS] = {"pings", "Pings that were answered."},
    [STATS_CONNECTS] = {"connects", "Handshakes that succeeded."},
    [STATS_HANDSHAKES_FAILED] = {"handshakes_failed", "Handshakes that failed."},
    [STATS_MAILBOX_DROPPED] = {"mailbox_dropped", "Messages to a process whose mailbox was full."},
    [STATS_LEAD_TAKEN] = {"lead_taken",
                          "Times that the io thread took the lead from a worker in Python."},
};

void stats_add(enum stats_counter counter, uint64_t n) {
    atomic_fetch_add_explicit(&stats_counters[counter], n, memory_order_relaxed);
}

uint64_t stats_get(enum stats_counter counter) {
    return atomic_load_explicit(&stats_counters[counter], memory_order_relaxed);
}

const char *stats_name(enum stats_counter counter) {
    return stats_texts[counter].name;
}

const char *stats_help(enum stats_counter counter) {
    return stats_texts[counter].help;
}
