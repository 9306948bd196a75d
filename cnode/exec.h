/* exec.h - the bounded queue of requests and the pool of threads that serve it.
 *
 * Any thread pushes and cancels; workers pop. What a worker does with a request, and what
 * Python is, exec does not know: the functions in struct exec_hooks do. The pool holds `target`
 * threads; while those are blocked and requests wait, the io thread's looks (exec_supervise)
 * let it grow up to `max`, and threads idle for a while leave again. One lock guards all here;
 * inside it only an outbox's lock is taken. No GIL.
 */
#ifndef PYNODE_EXEC_H
#define PYNODE_EXEC_H

#include "clock.h"
#include "request.h"

#include <pthread.h>
#include <stdatomic.h>

struct exec_row {
    struct request *head, *tail;
};

/* Requests of one lane run one after another, in the order of their arrival. */
struct exec_lane {
    struct exec_row waiting;
    bool busy;
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
    pthread_cond_t wake;
    bool woken;
    struct request *current; /* what it runs */
    int64_t since;           /* and since when: monotonic, ns */
    int64_t seen, cpu_seen;  /* the last look at its processor time */
    bool blocked;            /* used next to none between the last two looks */
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
};

struct exec_numbers {
    int workers, idle, running, blocked;
    size_t queued;
};

/* Puts frames into the connection of r. Called under the lock. */
typedef void exec_put_cb(struct request *r, struct buf *out);

void exec_init(int target, int max, size_t limit, const struct exec_hooks *hooks);

/* Starts the first workers: 0, or -1 with errno. */
int exec_start(void);

/* Ends the workers that are not in Python, and waits up to seconds: whether all have ended. In
 * between the leader has to be woken (io_stop). */
void exec_stop_begin(void);
bool exec_stop_wait(double seconds);

/* Takes r; false, and r stays the caller's, when the queue is full. */
bool exec_push(struct request *r);

/* The worker's next request, or NULL. The worker runs it, asks exec_claim() whether its answer
 * is still wanted, puts the answer into the connection's outbox, and calls exec_finish(),
 * after which r is the worker's alone. */
struct request *exec_pop(struct exec_worker *w);
bool exec_claim(struct request *r);
void exec_finish(struct exec_worker *w, struct request *r);

/* What was kept back of conn's may be popped again. */
void exec_release(const struct conn *conn);

/* Cancels what conn sent with ref: a queued request is taken out and returned to the caller, a
 * running one loses its audience. conn alone: all of it, as a list by next. */
struct request *exec_cancel(const struct conn *conn, struct slice ref);
struct request *exec_cancel_conn(const struct conn *conn);

/* Tells the process (id, serial) to exit: its watchers get reason, the rest as exec_cancel.
 * exec_alive() says whether there is such a process. */
struct request *exec_exit(uint32_t id, uint32_t serial, struct slice reason, exec_put_cb *put);
bool exec_alive(uint32_t id, uint32_t serial);

/* Sends the SPAWN_REPLY of all that wait or run, so that a caller's time-out can reach us. */
void exec_announce(exec_put_cb *put);

/* How many of them there are; without the lock. */
size_t exec_unannounced(void);

/* One look by the io thread: adds threads when requests wait and the others are blocked. */
void exec_supervise(int64_t now);

/* Requests that a worker could take now; those that wait, behind others of their lane, too; and
 * those that have not ended. Without the lock. */
size_t exec_ready(void);
size_t exec_queued(void);
size_t exec_load(void);

void exec_read_numbers(struct exec_numbers *n);

/* Calls fn for each worker, under the lock. */
typedef void exec_list_cb(void *arg, const struct exec_worker *w);
void exec_list(exec_list_cb *fn, void *arg);

#endif
