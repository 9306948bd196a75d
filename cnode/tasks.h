/* tasks.h - the requests that Python's event loop runs: which wait for it, and which have begun.
 *
 * exec pushes, cancels and counts them as all others; one thread, that of the loop, takes them, and each
 * ends by exec_claim() and exec_finish(). All is under exec's lock, which is held where the name says
 * so; no GIL.
 */
#ifndef PYNODE_TASKS_H
#define PYNODE_TASKS_H

#include "exec.h"

/* At most so many wait or have begun. start() is called for the first one, by any thread, under the lock:
 * has the loop begin, false if it cannot. 0, or -1 with errno. */
int tasks_init(size_t max, bool (*start)(void));

/* Has the loop begin, without a task. */
void tasks_start(void);

/* Readable when the loop has something to do here: put it into its selector. tasks_wake() is any
 * thread's and any signal handler's. */
int tasks_fd(void);
void tasks_wake(void);

/* Whether tasks_take() or tasks_take_told() would find something. Without the lock. */
bool tasks_due(void);

/* How many wait; wait or have begun. Without the lock. */
size_t tasks_waiting(void);
size_t tasks_count(void);

/* The rest is the loop's thread's. */

/* Takes up to max of those that wait, which begin by that; when none waits afterwards tasks_fd() is not
 * readable any more. */
size_t tasks_take(struct request **into, size_t max);

/* One that has begun and was cancelled since, or has got credit: NULL when there is no more. */
struct request *tasks_take_told(bool *cancelled);

/* r, which has begun, goes back to those that wait: r->context says how it goes on. False, and it does not,
 * when nobody waits for it any more. */
bool tasks_requeue(struct request *r);

/* While this thread looks by itself it need not be woken for what it adds. */
void tasks_set_looking(bool looking);

/* Calls fn, under the lock, for each request of the application that began a while before now and is
 * not known there to run: how many. Any thread. */
int tasks_report(int64_t now, int64_t after, void (*fn)(const struct request *r));

/* For exec, which holds the lock. */
bool tasks_have_room_locked(void);
void tasks_add_locked(struct request *r);
void tasks_append_locked(struct request *r);   /* one that was added, and kept back */
void tasks_withdraw_locked(struct request *r); /* it has not begun */
void tasks_cancel_locked(struct request *r);   /* it has begun */
void tasks_credit_locked(struct request *r);   /* the same: r->credit has grown */
void tasks_end_locked(struct request *r);

#endif
