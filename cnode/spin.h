/* spin.h - how long the leader looks for the next traffic before it sleeps.
 *
 * A sleep that ends soon was a look that ended too early. After many of these in a row looks are long, as long as nobody
 * else wants the processor. The leader's; no GIL.
 */
#ifndef PYNODE_SPIN_H
#define PYNODE_SPIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPIN_SHORT_NS = 50000, /* since the last traffic: a look in any case, */
    SPIN_LONG_NS = 200000, /* and a long one */
    SPIN_STREAK = 32, /* sleeps in a row that a long look would have spared, until looks are long */
};

struct spin {
    int streak;            /* of such sleeps */
    bool single;           /* it follows a single request */
    bool asked;            /* in this look, whether others want the processor */
    bool (*crowded)(void); /* whether they have, since it was called last by this thread */
};

/* For crowded: the thread has been interrupted for another one. */
bool spin_is_crowded(void);

/* A look begins after so many requests at once: who has sent several has more use for the time. Whether it goes on, so
 * many ns after the last traffic. */
void spin_begin(struct spin *s, size_t requests);
bool spin_goes_on(struct spin *s, int64_t since);

/* The leader has slept, and there was traffic again so many ns after the last. */
void spin_slept(struct spin *s, int64_t gap);

#endif
