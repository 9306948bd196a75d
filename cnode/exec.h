/* exec.h - the bounded queue of requests: what waits, what runs, what is cancelled.
 *
 * Any thread pushes and cancels; workers, the threads of pool.h, pop. What a worker does with a
 * request, and what Python is, exec does not know: the functions in struct exec_hooks do. A
 * request may ask for a queue (queues.h), whose thread serves nothing else. One lock guards all
 * here, in pool, in queues and in table; inside it only an outbox's lock and those of callback.h and ids.h are
 * taken. No GIL.
 */
#ifndef PYNODE_EXEC_H
#define PYNODE_EXEC_H

#include "clock.h"
#include "request.h"

#include <pthread.h>
#include <sys/types.h>
#include <stdatomic.h>

struct exec_row {
    struct request *head, *tail;
};

static inline void exec_row_append(struct exec_row *row, struct request *r) {
    r->row = row;
    r->next = NULL;
    r->prev = row->tail;
    *(row->tail ? &row->tail->next : &row->head) = r;
    row->tail = r;
}

static inline void exec_row_remove(struct request *r) {
    struct exec_row *row = r->row;

    *(r->prev ? &r->prev->next : &row->head) = r->next;
    *(r->next ? &r->next->prev : &row->tail) = r->prev;
    r->row = NULL;
    r->next = r->prev = NULL;
}

/* Requests of one lane run one after another, in the order of their arrival. */
struct exec_lane {
    struct exec_row waiting;
    bool busy;           /* one of them is in the queue or runs */
    struct queue *queue; /* whose thread alone serves it, instead of that; or NULL */
};

enum exec_state {
    EXEC_IDLE,
    EXEC_LEADING,  /* reads the sockets, or is about to */
    EXEC_ENTERING, /* has work and waits for the interpreter */
    EXEC_RUNNING,  /* in Python */
};

struct exec_worker {
    struct exec_worker *next;      /* all workers */
    struct exec_worker *idle_next; /* those that sleep */
    uint32_t number;               /* from 1: the smallest free one; its name as a leader */
    _Atomic int state;
    pthread_t thread;
    pid_t thread_id;         /* the same for the kernel */
    unsigned long python_id; /* the thread's name in Python: the hooks' own */
    pthread_cond_t wake;
    bool woken;
    struct queue *queue;     /* the only one that it serves; NULL: it is of the pool */
    struct request *current; /* what it runs */
    int64_t since;           /* and since when: monotonic, ns */
    bool in_a_row;           /* it has looked for no other work in between */
    int64_t seen, cpu_seen;  /* the last look at its processor time */
    bool blocked;            /* used next to none between the last two looks */
    _Atomic bool waiting;    /* for Erlang: pool_wait_begin() */
    struct buf out;          /* the worker's own: frames being encoded */
    void *context;           /* the hooks' own */
};

/* Called by the worker's own thread, without the lock. */
struct exec_hooks {
    void (*start)(struct exec_worker *w);
    void (*serve)(struct exec_worker *w); /* pops and runs until nothing is queued */
    bool (*lead)(struct exec_worker *w);  /* leads until work is queued; false: cannot lead */
    void (*stop)(struct exec_worker *w);
    bool (*hold)(const struct request *r); /* keep it back until exec_release(); under the lock */
    void (*interrupt)(void);               /* enters Python and calls pool_each_interrupt() */
};

/* Puts frames into the connection of r. Called under the lock. */
typedef void exec_put_cb(struct request *r, struct buf *out);

void exec_init(int target, int max, size_t limit, const struct exec_hooks *hooks);

/* Takes r, into the queue that its options ask for, if they do; false, and r stays the caller's,
 * when there is no room, or no thread for a queue. */
bool exec_push(struct request *r);

/* The worker's next request, or NULL. The worker runs it, asks exec_claim() whether its answer
 * is still wanted, puts the answer into the connection's outbox, and calls exec_finish(),
 * after which r is the worker's alone. */
struct request *exec_pop(struct exec_worker *w);
bool exec_claim(struct request *r);
void exec_finish(struct exec_worker *w, struct request *r); /* w: NULL for a task */

/* w gives up what it runs: it goes on as a task (tasks.h), or, later, in the queue that it came from;
 * r->context says how. False, and w has it still, when it was cancelled meanwhile; it then counts as
 * interrupted. */
bool exec_adopt(struct exec_worker *w, struct request *r);
bool exec_requeue(struct exec_worker *w, struct request *r);

/* What was kept back of conn's may be popped again. */
void exec_release(const struct conn *conn);

/* Cancels what conn sent with ref: a queued request is taken out and returned to the caller, a
 * running one loses its audience, and a task is cancelled. conn alone: all of it, as a list by next; a running call of the
 * application is interrupted, too, but goes on if it has an id (ids.h), since it will be asked for again. */
struct request *exec_cancel(const struct conn *conn, struct slice ref);
struct request *exec_cancel_conn(const struct conn *conn);

/* The same, but what runs is interrupted, too, unless it has ended and only its answer is under
 * way: that is not found. A withdrawn request is returned by *waiting. One that others wait for (ids.h) goes on
 * for them. */
enum exec_cancelled { EXEC_NOT_FOUND, EXEC_WITHDRAWN, EXEC_INTERRUPTED, EXEC_GOES_ON };
enum exec_cancelled exec_interrupt(const struct conn *conn, struct slice ref,
                                   struct request **waiting);

/* n more items of the stream that conn began with ref may be sent: false when there is none. */
bool exec_credit(const struct conn *conn, struct slice ref, int64_t n);

/* The thread of w's queue ends with the request that w runs; a new one serves what comes after. */
void exec_end_queue(struct exec_worker *w);

/* Takes out what waits in the queue of that name: a list by next, in its order. What runs is
 * interrupted (*runs says whether something does), and its thread then ends; what comes after goes
 * to a new queue and does not wait for it. */
struct request *exec_drop_queue(struct slice name, bool *runs);

/* Tells the process (id, serial) to exit: its watchers get reason, the rest as exec_cancel.
 * exec_alive() says whether there is such a process. */
struct request *exec_exit(uint32_t id, uint32_t serial, struct slice reason, exec_put_cb *put);
bool exec_alive(uint32_t id, uint32_t serial);

/* Sends the SPAWN_REPLY of all that wait or run, so that a caller's time-out can reach us. */
void exec_announce(exec_put_cb *put);

/* How many of them there are; without the lock. */
size_t exec_unannounced(void);

/* How many requests of the application run that it has not been told of (pool_report()). */
size_t exec_unreported(void);

/* Requests that a worker could take now; those that wait, behind others of their lane, too; and
 * those that have not ended. Without the lock. */
size_t exec_ready(void);
size_t exec_queued(void);
size_t exec_load(void);

/* How many requests workers have run one right after another, and how many ns that took. */
void exec_times(uint64_t *timed, uint64_t *ns);

/* Calls fn with the connection of each that has not ended, under the lock. */
void exec_each_conn(void (*fn)(struct conn *conn));

/* Whether there is a request that a node which goes has to wait for: any but those that run although
 * the application has cancelled them. */
bool exec_wanted(void);

/* For pool: the lock, and how many of its threads run what nobody waits for any more. */
extern pthread_mutex_t exec_mutex;
int exec_stuck_locked(void);

/* r runs: whether the application is to be told, which it is once. */
bool exec_report_locked(struct request *r);

/* For tasks: whether r, which waits, is kept back from here on; it begins; and stops, though it has not
 * ended. */
bool exec_hold_back_locked(struct request *r);
void exec_begin_locked(struct request *r);
void exec_pause_locked(struct request *r);

static inline void exec_lock(void) {
    pthread_mutex_lock(&exec_mutex);
}

static inline void exec_unlock(void) {
    pthread_mutex_unlock(&exec_mutex);
}

#endif
