/* spin.h - how long the leader looks for the next traffic before it sleeps.
 *
 * A sleep that ends soon was a look that ended too early: the next one may be longer. A long look is only for a
 * processor that nobody else wants. The leader's; no GIL.
 */
#ifndef PYNODE_SPIN_H
#define PYNODE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SPIN_MIN_NS = 50000,  /* since the last traffic: a look in any case, */
    SPIN_MAX_NS = 200000, /* and the longest */
};

struct spin {
    int64_t limit;         /* of the next look, in ns; 0: the least */
    bool asked;            /* in this one, whether others want the processor */
    bool (*crowded)(void); /* whether they have, since it was called last by this thread */
};

/* For crowded: the thread has been interrupted for another one. */
bool spin_is_crowded(void);

/* A look begins. Whether it goes on, so many ns after the last traffic. */
void spin_begin(struct spin *s);
bool spin_goes_on(struct spin *s, int64_t since);

/* The leader has slept, and there was traffic again so many ns after the last. */
void spin_slept(struct spin *s, int64_t gap);

#endif
