/* stats.h - what the node counts: since its start, cheap enough for every message.
 *
 * Any thread; relaxed atomics; no GIL.
 */
#ifndef PYNODE_STATS_H
#define PYNODE_STATS_H

#include "buf.h"

enum stats_counter {
    STATS_CALLS,     /* requests that were run */
    STATS_ERRORS,    /* of these, ended in a Python exception */
    STATS_CANCELLED, /* taken off the queue because nobody waits any more */
    STATS_REFUSED,   /* overloaded, draining */
    STATS_DROPPED,   /* messages to nobody */
    STATS_FRAMES_IN,
    STATS_BYTES_IN,
    STATS_BYTES_OUT,
    STATS_PINGS,
    STATS_CONNECTS, /* handshakes that succeeded */
    STATS_HANDSHAKES_FAILED,
    STATS_MAILBOX_DROPPED, /* messages to a process whose mailbox was full */
    STATS_LEAD_TAKEN,      /* times the io thread took the lead from a worker in Python */
    STATS_END
};

void stats_add(enum stats_counter counter, uint64_t n);
uint64_t stats_get(enum stats_counter counter);

/* The counter's name as an Erlang atom's text: "calls", ... */
const char *stats_name(enum stats_counter counter);

/* What it counts, as a sentence for people. */
const char *stats_help(enum stats_counter counter);

#endif
