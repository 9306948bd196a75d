/* pool.h - the threads that serve requests: those of the pool and those of queues.
 *
 * The pool holds `target` threads; while those are blocked and requests wait, the io thread's looks
 * (pool_supervise) let it grow up to `max`, and threads idle for a while leave again. The thread of
 * a queue waits for requests of that queue alone, and is not counted. All is under exec's lock; any
 * thread; no GIL.
 */
#ifndef PYNODE_POOL_H
#define PYNODE_POOL_H

#include "exec.h"

struct pool_numbers {
    int workers, idle; /* of the pool */
    int queues;        /* threads of queues */
    int running, blocked;
    size_t queued;
};

/* Starts the first workers: 0, or -1 with errno. */
int pool_start(void);

/* Ends the workers that are not in Python, and waits up to seconds: whether all have ended. In
 * between the leader has to be woken (lead_stop). */
void pool_stop_begin(void);
bool pool_stop_wait(double seconds);

/* Wakes a thread that sleeps, if there is one, for what is in the queue. */
void pool_wake(void);

/* One look by the io thread: adds threads when requests wait and the others are blocked. In how many milliseconds
 * the next one is due, or -1: none while nothing waits. */
int pool_supervise(int64_t now);

/* The calling thread, if it is of the pool, waits for Erlang, which may call back: while it does it
 * counts neither as one that runs nor against the maximum. Without the lock. */
void pool_wait_begin(void);
void pool_wait_end(void);

/* The calling thread, which runs r, waits until r has credit, is interrupted, or the deadline (clock_now();
 * 0: none) has passed. Others take its place meanwhile. credit: false to wait for no credit. Only a thread
 * of the pool or of a queue can. */
bool pool_is_worker(void);
void pool_await(const struct request *r, bool credit, int64_t deadline);

void pool_read_numbers(struct pool_numbers *n);

/* Calls fn for each worker, under the lock. */
typedef void pool_list_cb(void *arg, const struct exec_worker *w);
void pool_list(pool_list_cb *fn, void *arg);

/* Calls fn, under the lock, for each worker that has to be interrupted now; if it answers that it has done
 * so, the request is marked as interrupted. After exec_claim() there is no interruption any more, so the
 * worker looks at the mark then, and takes back what it has not felt yet. Whether one is left that has to
 * be looked at again. */
typedef bool pool_interrupt_cb(const struct exec_worker *w);
bool pool_each_interrupt(pool_interrupt_cb *fn);

/* Calls fn, under the lock, for each request of the application that has been running for a
 * millisecond and is not known there to: how many. */
int pool_report(int64_t now, void (*fn)(const struct request *r));

/* For exec, which holds the lock where the name says so. */

void pool_init(int target, int max, const struct exec_hooks *hooks);
bool pool_is_stopping_locked(void);

/* Starts a thread for q: 0, or -1 with errno. */
int pool_start_queue_locked(struct queue *q);

/* The worker that runs r, if it is in pool_await(), looks again. */
void pool_notify_locked(const struct request *r);

/* Something has been marked to be interrupted: whether the caller has to start a thread for that. */
bool pool_needs_interrupter_locked(void);
void pool_start_interrupter(void);

#endif
