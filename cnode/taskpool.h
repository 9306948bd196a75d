/* taskpool.h - a bounded queue of tasks and the fixed set of threads that run them.
 *
 * What a task does, and what Python is, it does not know: the hooks do. A task that somebody
 * waits for belongs to a group, by which any number of tasks are waited for at once; a wait ends
 * early when a signal arrives, so that Ctrl-C is heard; in the main thread it may also end early
 * for nothing. Any thread calls any function; those that wait say so, and must not be called with
 * the GIL. One lock a pool, a leaf. At most one worker and one waiter in the process look for a
 * moment before they sleep; idle threads sleep.
 */
#ifndef PYNODE_TASKPOOL_H
#define PYNODE_TASKPOOL_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct taskpool;

/* Tasks that are waited for together. Counted: by the waiter, and by each task. */
struct taskpool_group {
    _Atomic int refs;
    _Atomic size_t pending; /* tasks that have not ended, and 1 until the waiter waits */
    bool waiting;           /* the waiter's own */
    sem_t ended;            /* posted when none is pending any more */
};

/* The head of a task; what follows is its owner's. Counted, and freed by free(3): whoever runs it
 * or takes it out of the queue has emptied it before. */
struct taskpool_task {
    struct taskpool_task *next, *prev;
    _Atomic int refs;
    bool queued; /* under the pool's lock */
    struct taskpool_group *group;
    int64_t since; /* monotonic ns: when it was queued */
};

struct taskpool_hooks {
    /* In each worker, before the first and after the last task. */
    void (*start)(void *context, int number);
    void (*stop)(void *context);
    /* Runs the task, which it takes, and all that taskpool_next() gives. */
    void (*serve)(void *context, struct taskpool_task *task);
};

enum taskpool_result { TASKPOOL_OK, TASKPOOL_FULL, TASKPOOL_CLOSED, TASKPOOL_INTERRUPTED };

struct taskpool_numbers {
    int threads, live, busy; /* all; that have not ended; that run a task */
    size_t queued;
};

/* A pool of so many threads with so many places in its queue (0: any number) and so much stack for
 * each thread (bytes; 0: the system's size); NULL with errno. The threads exist when it returns; each
 * calls hooks->start by itself. So do those that could be started when not all could: *started is
 * how many. name, at most 15 characters with the number, is what the system shows; NULL: none. */
struct taskpool *taskpool_new(int threads, size_t limit, size_t stack, const char *name,
                              const struct taskpool_hooks *hooks, void *context, int *started);

/* The owner's last call: what is queued is still run, then the threads end by themselves and the
 * pool is freed. The context has to live on; hooks->stop of the last thread is its last use. */
void taskpool_free(struct taskpool *pool);

/* Waits until all threads have called hooks->start: false when a signal came before. */
bool taskpool_wait_started(struct taskpool *pool);

/* Takes the task, one reference of it, into the queue, unless OK is not what it returns. With
 * threads that have nothing to do a full queue has as many places more. taskpool_push_wait() waits
 * for room. */
enum taskpool_result taskpool_push(struct taskpool *pool, struct taskpool_task *task);
enum taskpool_result taskpool_push_wait(struct taskpool *pool, struct taskpool_task *task);

/* As taskpool_push(), whatever the queue's limit is: never FULL. */
enum taskpool_result taskpool_push_over(struct taskpool *pool, struct taskpool_task *task);

/* As taskpool_push(), but FULL unless a thread is free that will take it: for a thread of the pool
 * that is going to wait for the task. */
enum taskpool_result taskpool_push_if_idle(struct taskpool *pool, struct taskpool_task *task);

/* The worker's next task, or NULL. Does not wait. */
struct taskpool_task *taskpool_next(struct taskpool *pool);

/* Takes the task out of the queue again, with the queue's reference: false when it is not there. */
bool taskpool_withdraw(struct taskpool *pool, struct taskpool_task *task);

/* No new tasks from now on. With cancel those that wait are taken out of the queue and returned,
 * as a list by next. */
struct taskpool_task *taskpool_close(struct taskpool *pool, bool cancel);
bool taskpool_closed(const struct taskpool *pool);

/* Waits for up to so many seconds until all threads have ended: OK, FULL (when they have not) or
 * INTERRUPTED. */
enum taskpool_result taskpool_join(struct taskpool *pool, double seconds);

/* The same for the threads of all pools, those included whose owner is gone. */
enum taskpool_result taskpool_join_all(double seconds);

void taskpool_read_numbers(struct taskpool *pool, struct taskpool_numbers *n);

/* The pool whose thread this is, or NULL; whether pool was made before this process was forked. */
struct taskpool *taskpool_mine(void);
bool taskpool_forked(const struct taskpool *pool);

/* A task of size bytes, at least a struct taskpool_task, with one reference, else zero; NULL. */
void *taskpool_task_new(size_t size);
void taskpool_task_unref(struct taskpool_task *task);

struct taskpool_group *taskpool_group_new(void);
void taskpool_group_unref(struct taskpool_group *group);

/* The task joins the group, before it is pushed; a task that has ended, or is not run, leaves it. */
void taskpool_group_join(struct taskpool_group *group, struct taskpool_task *task);
void taskpool_group_leave(struct taskpool_task *task);

/* Waits until all of the group have ended: false when a signal came before. */
bool taskpool_group_wait(struct taskpool_group *group);

#endif
