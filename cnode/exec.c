/* exec.c - the bounded queue of requests: what waits, what runs, what is cancelled. */
#include "config.h"

#include "exec.h"
#include "answer.h"
#include "ids.h"
#include "log.h"
#include "pool.h"
#include "queues.h"
#include "table.h"
#include "tasks.h"

#include <errno.h>

pthread_mutex_t exec_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock. */
static struct {
    bool (*hold)(const struct request *r);
    size_t limit;
    struct exec_row queue;
    struct exec_row held;  /* kept back: their connections take no answers at present */
    _Atomic size_t ready;  /* in the queue */
    _Atomic size_t queued; /* in the queue, in lanes and kept back */
    _Atomic size_t load;   /* queued and running: what the table holds */
    _Atomic size_t
        unannounced;           /* of these, have a process whose pid the caller does not know yet */
    _Atomic size_t unreported; /* run for the application, which does not know that they do */
    uint64_t timed, timed_ns;  /* those that workers have run in a row, and how long that took */
    int stuck;                 /* run on the pool, and nobody waits for them any more */
    bool failing;              /* the last thread for a queue could not be started */
} exec;

void exec_init(int target, int max, size_t limit, const struct exec_hooks *hooks) {
    exec.hold = hooks->hold;
    exec.limit = limit;
    pool_init(target, max, hooks);
}

int exec_stuck_locked(void) {
    return exec.stuck;
}

size_t exec_ready(void) {
    return atomic_load_explicit(&exec.ready, memory_order_relaxed);
}

size_t exec_queued(void) {
    return atomic_load_explicit(&exec.queued, memory_order_relaxed);
}

size_t exec_unannounced(void) {
    return atomic_load_explicit(&exec.unannounced, memory_order_relaxed);
}

size_t exec_unreported(void) {
    return atomic_load_explicit(&exec.unreported, memory_order_relaxed);
}

size_t exec_load(void) {
    return atomic_load_explicit(&exec.load, memory_order_relaxed);
}

bool exec_wanted(void) {
    struct table_walk walk = {0};
    struct request *r;

    exec_lock();
    while ((r = table_step(&walk)) && r->kind == REQUEST_APP_CALL && r->abandoned)
        ;
    exec_unlock();
    return r != NULL;
}

/* The queue. */

static void exec_queue_append(struct request *r) {
    exec_row_append(&exec.queue, r);
    atomic_fetch_add_explicit(&exec.ready, 1, memory_order_relaxed);
}

/* Takes r out of the row that it waits in. */
static void exec_take_out(struct request *r) {
    if (r->row == &exec.queue)
        atomic_fetch_sub_explicit(&exec.ready, 1, memory_order_relaxed);
    exec_row_remove(r);
}

static bool exec_is_unannounced(const struct request *r) {
    return r->pid_id != 0 && !r->announced && !r->answering;
}

/* Takes r into the queue that it asks for: 0; -1 when there can be no more queues; an errno when
 * there is no thread for it. */
static int exec_enqueue_locked(struct request *r) {
    struct queue *q = r->options.thread ? queues_new() : queues_get(r->options.queue);

    if (!q)
        return -1;
    if (!q->worker && pool_start_queue_locked(q) < 0) {
        queues_free(q);
        return errno;
    }
    r->lane = &q->lane;
    exec_row_append(&q->lane.waiting, r);
    pthread_cond_signal(&q->worker->wake);
    return 0;
}

/* Puts r where it has to wait: as exec_enqueue_locked(). */
static int exec_place_locked(struct request *r) {
    struct exec_lane *lane = r->lane;

    if (r->options.thread || r->options.queue.len > 0)
        return exec_enqueue_locked(r);
    if (lane && lane->busy) {
        exec_row_append(&lane->waiting, r);
    } else {
        if (lane)
            lane->busy = true;
        exec_queue_append(r);
    }
    return 0;
}

/* Whether that r cannot have its queue has to be said: once, until one can be had. */
static bool exec_fails_locked(const struct request *r, int error) {
    bool before = exec.failing;

    if (r->options.thread || r->options.queue.len > 0)
        exec.failing = error != 0;
    return error != 0 && !before;
}

/* Tasks have a bound of their own, for many of them wait at once when they have begun. */
static bool exec_has_room_locked(const struct request *r) {
    bool room = r->options.loop ? tasks_have_room_locked() : exec_queued() < exec.limit;

    return room && !pool_is_stopping_locked();
}

bool exec_push(struct request *r) {
    bool room, fails = false;
    int error = 0;

    exec_lock();
    room = exec_has_room_locked(r);
    if (room && r->options.loop) {
        tasks_add_locked(r);
    } else if (room) {
        error = exec_place_locked(r);
        fails = exec_fails_locked(r, error);
        room = error == 0;
    }
    if (room) {
        table_add(r);
        atomic_fetch_add_explicit(&exec.load, 1, memory_order_relaxed);
        exec.unannounced += exec_is_unannounced(r);
        if (!r->task)
            atomic_fetch_add_explicit(&exec.queued, 1, memory_order_relaxed);
    }
    exec_unlock();
    if (fails)
        log_warning("exec: cannot start a thread for a queue: %s",
                    error < 0 ? "there are as many as may be" : strerror(error));
    return room;
}

bool exec_hold_back_locked(struct request *r) {
    if (!exec.hold || !exec.hold(r))
        return false;
    exec_take_out(r);
    exec_row_append(&exec.held, r);
    return true;
}

/* The request that w takes next, or NULL. */
static struct request *exec_next_locked(const struct exec_worker *w) {
    struct request *r;

    if (w->queue)
        return w->queue->ending ? NULL : w->queue->lane.waiting.head;
    while ((r = exec.queue.head) && !r->lane && exec_hold_back_locked(r))
        ;
    return r;
}

/* w begins: what it ran before took until now, if it has not waited in between. */
static void exec_time_locked(struct exec_worker *w, int64_t now) {
    if (w->in_a_row) {
        exec.timed++;
        exec.timed_ns += (uint64_t)(now - w->since);
    }
    w->since = now;
    w->in_a_row = true;
}

struct request *exec_pop(struct exec_worker *w) {
    struct request *r;

    if (!w->queue && exec_ready() == 0) {
        w->in_a_row = false;
        return NULL;
    }
    exec_lock();
    r = exec_next_locked(w);
    if (r) {
        exec_take_out(r);
        atomic_fetch_sub_explicit(&exec.queued, 1, memory_order_relaxed);
        w->current = r;
        exec_time_locked(w, clock_now());
        w->seen = 0;
        w->blocked = false;
        exec_begin_locked(r);
    } else {
        w->in_a_row = false;
    }
    exec_unlock();
    return r;
}

void exec_begin_locked(struct request *r) {
    exec.unreported += r->kind == REQUEST_APP_CALL && !r->reported;
}

void exec_pause_locked(struct request *r) {
    exec.unreported -= r->kind == REQUEST_APP_CALL && !r->reported;
}

bool exec_report_locked(struct request *r) {
    if (r->kind != REQUEST_APP_CALL || r->reported || r->answering)
        return false;
    r->reported = true;
    exec.unreported--;
    return true;
}

/* What was kept back waits again where it did before. */
static void exec_release_locked(struct request *r) {
    exec_take_out(r);
    if (r->task)
        tasks_append_locked(r);
    else
        exec_queue_append(r);
}

void exec_release(const struct conn *conn) {
    struct request *r, *next;

    exec_lock();
    for (r = exec.held.head; r; r = next) {
        next = r->next;
        if (r->conn == conn)
            exec_release_locked(r);
    }
    exec_unlock();
}

bool exec_claim(struct request *r) {
    bool wanted;

    exec_lock();
    wanted = !r->abandoned;
    exec.unannounced -= exec_is_unannounced(r);
    exec_pause_locked(r);
    r->answering = true;
    exec_unlock();
    return wanted;
}

/* The next of r's lane may run now that r has left the queue or ended. */
static void exec_lane_next(struct request *r) {
    struct exec_lane *lane = r->lane;
    struct request *next;

    if (!lane || lane->queue)
        return;
    next = lane->waiting.head;
    if (!next) {
        lane->busy = false;
        return;
    }
    exec_take_out(next);
    exec_queue_append(next);
}

static void exec_forget_locked(struct request *r) {
    table_remove(r);
    atomic_fetch_sub_explicit(&exec.load, 1, memory_order_relaxed);
}

/* w is done with r. */
static void exec_leave_locked(struct exec_worker *w, struct request *r) {
    exec.stuck -= r->abandoned && !w->queue;
    w->current = NULL;
}

void exec_finish(struct exec_worker *w, struct request *r) {
    exec_lock();
    exec_forget_locked(r);
    exec_lane_next(r);
    if (w)
        exec_leave_locked(w, r);
    else
        tasks_end_locked(r);
    exec_unlock();
}

/* r is a queue's no more: the queue may end before it does. */
static void exec_leave_queue_locked(struct request *r) {
    if (r->lane && r->lane->queue)
        r->lane = NULL;
}

/* w has not done all of r, but lets go of it: false when r was cancelled. */
static bool exec_give_up_locked(struct exec_worker *w, struct request *r) {
    if (r->abandoned || r->interrupt || r->interrupted) {
        r->interrupt = false;
        r->interrupted = true;
        return false;
    }
    exec_leave_locked(w, r);
    exec_pause_locked(r);
    return true;
}

bool exec_adopt(struct exec_worker *w, struct request *r) {
    bool given;

    exec_lock();
    given = exec_give_up_locked(w, r);
    if (given) {
        exec_leave_queue_locked(r);
        tasks_add_locked(r); /* also beyond the maximum: it runs already */
    }
    exec_unlock();
    return given;
}

bool exec_requeue(struct exec_worker *w, struct request *r) {
    bool given;

    exec_lock();
    given = exec_give_up_locked(w, r);
    if (given && r->lane && r->lane->queue)
        exec_row_append(&r->lane->waiting, r);
    else if (given)
        exec_queue_append(r);
    if (given)
        atomic_fetch_add_explicit(&exec.queued, 1, memory_order_relaxed);
    exec_unlock();
    return given;
}

/* Cancelling. */

/* Nobody waits for r any more. */
static void exec_abandon_locked(struct request *r) {
    /* one of its threads runs it */
    bool pool = !r->row && !r->task && !(r->lane && r->lane->queue);

    if (!r->answering && r->id)
        ids_forget(r->id);
    exec.stuck += pool && !r->abandoned;
    r->abandoned = true;
    if (r->task && !r->row &&
        !r->answering) /* a coroutine can be cancelled, whoever has called it */
        tasks_cancel_locked(r);
}

/* Takes a request that waits out of everything. */
static void exec_withdraw(struct request *r) {
    bool next =
        r->row == &exec.queue || r->task; /* one that was in a lane before was the first of it */

    exec.unannounced -= exec_is_unannounced(r);
    if (r->task)
        tasks_withdraw_locked(r);
    else
        atomic_fetch_sub_explicit(&exec.queued, 1, memory_order_relaxed);
    exec_take_out(r);
    exec_forget_locked(r);
    if (next)
        exec_lane_next(r);
}

struct request *exec_cancel(const struct conn *conn, struct slice ref) {
    struct request *r;

    if (exec_load() == 0)
        return NULL;
    exec_lock();
    r = table_find(conn, ref);
    if (r)
        exec_abandon_locked(r);
    if (r && r->row)
        exec_withdraw(r);
    else
        r = NULL;
    exec_unlock();
    return r;
}

/* Has r's worker interrupted: whether a thread has to be started for that. */
static bool exec_mark_locked(struct request *r) {
    if (r->task) {
        tasks_cancel_locked(r);
        return false;
    }
    r->interrupt = true;
    return pool_needs_interrupter_locked();
}

/* Whether r goes on without its connection: it has an id by which it is asked for again, and has begun, or somebody
 * else waits for it already. */
static bool exec_outlives_locked(struct request *r) {
    if (r->answering || !r->id) /* from exec_claim() on its id is the worker's */
        return false;
    if (r->row && !r->context && !ids_leave(r->id))
        return false;
    ids_unhear(r->id);
    if (r->row == &exec.held) /* nothing waits in an outbox that is closed */
        exec_release_locked(r);
    return true;
}

struct request *exec_cancel_conn(const struct conn *conn) {
    struct request *found = NULL, *r;
    struct table_walk walk = {0};
    bool start = false;

    exec_lock();
    while ((r = table_step(&walk))) {
        if (r->conn != conn || exec_outlives_locked(r))
            continue;
        exec_abandon_locked(r);
        if (r->row) {
            exec_withdraw(r);
            r->next = found;
            found = r;
        } else if (r->kind == REQUEST_APP_CALL && !r->answering) {
            start = exec_mark_locked(r) || start;
        }
    }
    exec_unlock();
    if (start)
        pool_start_interrupter();
    return found;
}

enum exec_cancelled exec_interrupt(const struct conn *conn, struct slice ref,
                                   struct request **waiting) {
    enum exec_cancelled result = EXEC_NOT_FOUND;
    struct request *r;
    bool start = false;

    *waiting = NULL;
    if (exec_load() == 0)
        return result;
    exec_lock();
    r = table_find(conn, ref);
    if (r && !r->answering && r->id && ids_leave(r->id)) {
        result = EXEC_GOES_ON;
    } else if (r && !r->answering) {
        exec_abandon_locked(r);
        if (r->row) {
            exec_withdraw(r);
            *waiting = r;
            result = EXEC_WITHDRAWN;
        } else {
            start = exec_mark_locked(r);
            result = EXEC_INTERRUPTED;
        }
    }
    exec_unlock();
    if (start)
        pool_start_interrupter();
    return result;
}

struct request *exec_drop_queue(struct slice name, bool *runs) {
    struct request *found = NULL, *r;
    struct queue *q;
    bool start;

    exec_lock();
    q = queues_find(name);
    while (q && (r = q->lane.waiting.tail)) {
        exec_withdraw(r);
        r->next = found;
        found = r;
    }
    r = q && q->worker ? q->worker->current : NULL;
    start = r && !r->answering && exec_mark_locked(r);
    *runs = r != NULL;
    if (q && q->worker) { /* which frees it */
        queues_unname(q);
        pthread_cond_signal(&q->worker->wake);
    } else if (q) {
        queues_free(q);
    }
    exec_unlock();
    if (start)
        pool_start_interrupter();
    return found;
}

bool exec_credit(const struct conn *conn, struct slice ref, int64_t n) {
    struct request *r;

    exec_lock();
    r = table_find(conn, ref);
    if (r && r->credit <= INT32_MAX)
        r->credit += n;
    if (r && r->task && !r->row)
        tasks_credit_locked(r);
    else if (r && !r->row)
        pool_notify_locked(r);
    exec_unlock();
    return r != NULL;
}

void exec_end_queue(struct exec_worker *w) {
    exec_lock();
    if (w->queue)
        w->queue->ending = true;
    exec_unlock();
}

bool exec_alive(uint32_t id, uint32_t serial) {
    struct request *r;
    bool alive;

    exec_lock();
    r = table_find_pid(id, serial);
    alive = r && !r->abandoned;
    exec_unlock();
    return alive;
}

struct request *exec_exit(uint32_t id, uint32_t serial, struct slice reason, exec_put_cb *put) {
    struct request *r, *found = NULL;
    struct buf out = {0};

    exec_lock();
    r = table_find_pid(id, serial);
    if (r && !r->abandoned && !r->answering) {
        exec_abandon_locked(r);
        exec.unannounced -= exec_is_unannounced(r);
        answer_exit(r, &out, reason);
        put(r, &out);
        if (r->row) {
            exec_withdraw(r);
            found = r;
        }
    }
    exec_unlock();
    buf_done(&out);
    return found;
}

void exec_times(uint64_t *timed, uint64_t *ns) {
    exec_lock();
    *timed = exec.timed;
    *ns = exec.timed_ns;
    exec_unlock();
}

void exec_each_conn(void (*fn)(struct conn *conn)) {
    struct table_walk walk = {0};
    struct request *r;

    if (exec_load() == 0)
        return;
    exec_lock();
    while ((r = table_step(&walk)))
        fn(r->conn);
    exec_unlock();
}

void exec_announce(exec_put_cb *put) {
    struct table_walk walk = {0};
    struct buf out = {0};
    struct request *r;

    if (exec_load() == 0)
        return;
    exec_lock();
    while (exec.unannounced > 0 && (r = table_step(&walk))) {
        if (!exec_is_unannounced(r))
            continue;
        exec.unannounced--;
        answer_announce(r, &out);
        put(r, &out);
        out.len = 0;
    }
    exec_unlock();
    buf_done(&out);
}
