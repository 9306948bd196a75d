/* queues.h - the lanes that have a thread of their own: which there are, and their names.
 *
 * There is one table of them. It has no lock: exec's is held around all here, and exec starts and
 * ends the threads. No GIL.
 */
#ifndef PYNODE_QUEUES_H
#define PYNODE_QUEUES_H

#include "exec.h"

enum { QUEUES_MAX = 1024 };

/* One without a name ends with its thread, as soon as nothing waits in it. */
struct queue {
    struct exec_lane lane;
    struct exec_worker *worker; /* its thread, from the first request on */
    struct slice name;          /* a term; or empty */
    bool ending;                /* its thread ends with the request that it runs */
    struct queue *next;         /* in the table */
};

/* The queue of that name, made if there is none, or a new one without a name: NULL when there are
 * as many as may be. */
struct queue *queues_get(struct slice name);
struct queue *queues_new(void);

/* The queue of that name, or NULL. */
struct queue *queues_find(struct slice name);

/* Takes its name away: the next request with that name goes to another queue. */
void queues_unname(struct queue *q);

void queues_free(struct queue *q);

#endif
