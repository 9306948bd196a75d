/* callback.c - calls from Python to Erlang over the node's own connection that wait for their answer. */
#include "config.h"

#include "callback.h"
#include "clock.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum { CALLBACK_TABLE = 256 }; /* buckets, a power of two */

static struct {
    pthread_mutex_t lock; /* guards the table, and all below */
    struct callback *table[CALLBACK_TABLE];
    uint64_t next;
    struct callback *ready, **ready_end; /* answered and not woken yet */
    bool entering;                       /* one that was woken has not entered Python yet */
    _Atomic int count, n_ready;
} callbacks = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready_end = &callbacks.ready};

static struct callback **callback_bucket(uint64_t id) {
    return &callbacks.table[id & (CALLBACK_TABLE - 1)];
}

void callback_begin(struct callback *cb, struct conn *conn) {
    struct callback **bucket;

    *cb = (struct callback){.conn = conn};
    sem_init(&cb->woken, 0, 0);
    pthread_mutex_lock(&callbacks.lock);
    cb->id = ++callbacks.next;
    bucket = callback_bucket(cb->id);
    cb->next = *bucket;
    *bucket = cb;
    pthread_mutex_unlock(&callbacks.lock);
    atomic_fetch_add(&callbacks.count, 1);
    if (outbox_is_closed(&conn->out)) /* callback_closed() may have been before */
        atomic_store(&cb->state, CALLBACK_LOST);
}

enum callback_state callback_wait(struct callback *cb, int64_t deadline) {
    struct timespec until = {deadline / 1000000000, deadline % 1000000000};

    if (atomic_load(&cb->state) == CALLBACK_WAITING) {
        if (deadline > 0)
            sem_clockwait(&cb->woken, CLOCK_MONOTONIC, &until);
        else
            sem_wait(&cb->woken);
    }
    return (enum callback_state)atomic_load(&cb->state);
}

/* Takes one out of the row of those that are ready. */
static void callback_unqueue_locked(struct callback *cb) {
    struct callback **at = &callbacks.ready;

    while (*at != cb)
        at = &(*at)->ready;
    *at = cb->ready;
    if (!*at)
        callbacks.ready_end = at;
    cb->queued = false;
    atomic_fetch_sub_explicit(&callbacks.n_ready, 1, memory_order_relaxed);
}

/* Takes the first of those that are ready, which is to be woken: counted, or NULL. */
static struct callback *callback_next_locked(void) {
    struct callback *cb = callbacks.ready;

    callbacks.entering = cb != NULL;
    if (!cb)
        return NULL;
    callback_unqueue_locked(cb);
    cb->turn = true;
    atomic_fetch_add(&cb->posting, 1);
    return cb;
}

/* Wakes it, without the lock: it needs that at once. */
static void callback_post(struct callback *cb) {
    if (!cb)
        return;
    sem_post(&cb->woken);
    atomic_fetch_sub(&cb->posting, 1);
}

/* Who has entered, or has woken by itself, at its deadline or by a signal: the next one is to be woken. */
static struct callback *callback_pass_locked(struct callback *cb) {
    if (cb->queued)
        callback_unqueue_locked(cb);
    if (!cb->turn)
        return NULL;
    cb->turn = false;
    return callback_next_locked();
}

void callback_entered(struct callback *cb) {
    struct callback *next;

    pthread_mutex_lock(&callbacks.lock);
    next = callback_pass_locked(cb);
    pthread_mutex_unlock(&callbacks.lock);
    callback_post(next);
}

bool callback_more(void) {
    return atomic_load_explicit(&callbacks.n_ready, memory_order_relaxed) > 0;
}

void callback_end(struct callback *cb) {
    struct callback **at = callback_bucket(cb->id), *next;

    pthread_mutex_lock(&callbacks.lock);
    next = callback_pass_locked(cb);
    while (*at != cb)
        at = &(*at)->next;
    *at = cb->next;
    pthread_mutex_unlock(&callbacks.lock);
    atomic_fetch_sub(&callbacks.count, 1);
    callback_post(next);
    while (atomic_load(&cb->posting) > 0)
        sched_yield();
    sem_destroy(&cb->woken);
    buf_done(&cb->answer);
    conn_unref(cb->conn);
}

/* One that is answered gets into the row. */
static void callback_queue_locked(struct callback *cb) {
    atomic_store(&cb->state, CALLBACK_ANSWERED);
    cb->queued = true;
    cb->ready = NULL;
    *callbacks.ready_end = cb;
    callbacks.ready_end = &cb->ready;
    atomic_fetch_add_explicit(&callbacks.n_ready, 1, memory_order_relaxed);
}

bool callback_answer(const struct conn *conn, uint64_t id, struct slice terms) {
    struct callback *cb, *next = NULL;

    if (callback_count() == 0)
        return false;
    pthread_mutex_lock(&callbacks.lock);
    cb = *callback_bucket(id);
    while (cb && (cb->id != id || cb->conn != conn))
        cb = cb->next;
    if (cb && atomic_load(&cb->state) == CALLBACK_WAITING) {
        buf_put(&cb->answer, terms.data, terms.len);
        callback_queue_locked(cb);
        next = callbacks.entering ? NULL : callback_next_locked();
    }
    pthread_mutex_unlock(&callbacks.lock);
    callback_post(next);
    return cb != NULL;
}

/* Wakes those that wait over conn, or in the thread. */
static void callback_wake(const struct conn *conn, unsigned long thread,
                          enum callback_state state) {
    pthread_mutex_lock(&callbacks.lock);
    for (int i = 0; i < CALLBACK_TABLE; i++)
        for (struct callback *cb = callbacks.table[i]; cb; cb = cb->next)
            if ((conn ? cb->conn == conn : cb->thread == thread) &&
                atomic_load(&cb->state) == CALLBACK_WAITING) {
                atomic_store(&cb->state, state);
                sem_post(&cb->woken); /* under the lock, so that it cannot be gone */
            }
    pthread_mutex_unlock(&callbacks.lock);
}

void callback_closed(const struct conn *conn) {
    callback_wake(conn, 0, CALLBACK_LOST);
}

void callback_interrupt(unsigned long thread) {
    if (callback_count() > 0)
        callback_wake(NULL, thread, CALLBACK_INTERRUPTED);
}

int callback_count(void) {
    return atomic_load_explicit(&callbacks.count, memory_order_relaxed);
}
