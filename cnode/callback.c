/* callback.c - calls from Python to Erlang over the node's own connection that wait for their answer. */
#include "config.h"

#include "callback.h"
#include "clock.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

enum { CALLBACK_TABLE = 16384 }; /* buckets, a power of two */

static struct {
    pthread_mutex_t lock; /* guards the table, and all below */
    struct callback *table[CALLBACK_TABLE];
    uint64_t next;
    struct callback *ready, **ready_end; /* answered and not woken yet */
    bool entering;                       /* one that was woken has not entered Python yet */
    struct callback_sink *due;           /* to be woken */
    _Atomic bool any_due;
    _Atomic int count, n_ready;
} callbacks = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready_end = &callbacks.ready};

static struct callback **callback_bucket(uint64_t id) {
    return &callbacks.table[id & (CALLBACK_TABLE - 1)];
}

static void callback_add(struct callback *cb) {
    struct callback **bucket;

    pthread_mutex_lock(&callbacks.lock);
    cb->id = ++callbacks.next;
    bucket = callback_bucket(cb->id);
    cb->next = *bucket;
    *bucket = cb;
    pthread_mutex_unlock(&callbacks.lock);
    atomic_fetch_add(&callbacks.count, 1);
}

static void callback_remove_locked(struct callback *cb) {
    struct callback **at = callback_bucket(cb->id);

    while (*at != cb)
        at = &(*at)->next;
    *at = cb->next;
    atomic_fetch_sub(&callbacks.count, 1);
}

void callback_begin(struct callback *cb, struct conn *conn) {
    *cb = (struct callback){.conn = conn};
    sem_init(&cb->woken, 0, 0);
    callback_add(cb);
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

void callback_release(struct callback *cb) {
    buf_done(&cb->answer);
    conn_unref(cb->conn);
}

void callback_end(struct callback *cb) {
    struct callback *next;

    pthread_mutex_lock(&callbacks.lock);
    next = callback_pass_locked(cb);
    callback_remove_locked(cb);
    pthread_mutex_unlock(&callbacks.lock);
    callback_post(next);
    while (atomic_load(&cb->posting) > 0)
        sched_yield();
    sem_destroy(&cb->woken);
    callback_release(cb);
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

static void callback_sink_due_locked(struct callback_sink *sink) {
    if (sink->woken || sink->is_due)
        return;
    sink->is_due = true;
    sink->due = callbacks.due;
    callbacks.due = sink;
    atomic_store_explicit(&callbacks.any_due, true, memory_order_relaxed);
}

/* One that nobody waits for gets into its sink. */
static void callback_sink_locked(struct callback *cb, enum callback_state state) {
    struct callback_sink *sink = cb->sink;

    atomic_store(&cb->state, state);
    cb->ready = NULL;
    *sink->ended_end = cb;
    sink->ended_end = &cb->ready;
    callback_sink_due_locked(sink);
}

/* Under the lock, so that none can be gone. */
static void callback_wake_sinks_locked(void) {
    for (struct callback_sink *sink; (sink = callbacks.due);) {
        callbacks.due = sink->due;
        sink->is_due = false;
        sink->woken = true;
        wake_set(&sink->wake);
    }
    atomic_store_explicit(&callbacks.any_due, false, memory_order_relaxed);
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
        if (cb->sink) {
            callback_sink_locked(cb, CALLBACK_ANSWERED);
        } else {
            callback_queue_locked(cb);
            next = callbacks.entering ? NULL : callback_next_locked();
        }
    }
    pthread_mutex_unlock(&callbacks.lock);
    callback_post(next);
    return cb != NULL;
}

void callback_answered(void) {
    if (!atomic_load_explicit(&callbacks.any_due, memory_order_relaxed))
        return;
    pthread_mutex_lock(&callbacks.lock);
    callback_wake_sinks_locked();
    pthread_mutex_unlock(&callbacks.lock);
}

/* Whoever waits for it, if anybody does, is told. */
static void callback_end_locked(struct callback *cb, enum callback_state state) {
    if (atomic_load(&cb->state) != CALLBACK_WAITING)
        return;
    if (cb->sink) {
        callback_sink_locked(cb, state);
    } else {
        atomic_store(&cb->state, state);
        sem_post(&cb->woken); /* under the lock, so that it cannot be gone */
    }
}

void callback_closed(const struct conn *conn) {
    pthread_mutex_lock(&callbacks.lock);
    for (int i = 0; i < CALLBACK_TABLE; i++)
        for (struct callback *cb = callbacks.table[i]; cb; cb = cb->next)
            if (cb->conn == conn)
                callback_end_locked(cb, CALLBACK_LOST);
    callback_wake_sinks_locked();
    pthread_mutex_unlock(&callbacks.lock);
}

/* A sink's calls go on: its thread is to look, and decides. */
void callback_interrupt(unsigned long thread) {
    if (callback_count() == 0)
        return;
    pthread_mutex_lock(&callbacks.lock);
    for (int i = 0; i < CALLBACK_TABLE; i++)
        for (struct callback *cb = callbacks.table[i]; cb; cb = cb->next)
            if (cb->sink && cb->sink->thread == thread) {
                atomic_store(&cb->sink->interrupted, true);
                callback_sink_due_locked(cb->sink);
            } else if (!cb->sink && cb->thread == thread) {
                callback_end_locked(cb, CALLBACK_INTERRUPTED);
            }
    callback_wake_sinks_locked();
    pthread_mutex_unlock(&callbacks.lock);
}

int callback_count(void) {
    return atomic_load_explicit(&callbacks.count, memory_order_relaxed);
}

/* Calls that nobody waits for. */

int callback_sink_init(struct callback_sink *sink) {
    *sink = (struct callback_sink){.ended_end = &sink->ended};
    return wake_init(&sink->wake);
}

void callback_sink_done(struct callback_sink *sink) {
    struct callback_sink **at = &callbacks.due;

    pthread_mutex_lock(&callbacks.lock);
    while (*at && *at != sink)
        at = &(*at)->due;
    if (*at)
        *at = sink->due;
    pthread_mutex_unlock(&callbacks.lock);
    wake_done(&sink->wake);
}

void callback_begin_in(struct callback *cb, struct conn *conn, struct callback_sink *sink) {
    *cb = (struct callback){.conn = conn, .sink = sink};
    callback_add(cb);
    if (!outbox_is_closed(&conn->out))
        return;
    pthread_mutex_lock(&callbacks.lock); /* callback_closed() may have been before */
    callback_end_locked(cb, CALLBACK_LOST);
    callback_wake_sinks_locked();
    pthread_mutex_unlock(&callbacks.lock);
}

/* The wake is cleared before the lock is taken: what is answered in between is taken here, too. */
struct callback *callback_take(struct callback_sink *sink, int max) {
    struct callback *first, *last = NULL;

    wake_clear(&sink->wake);
    pthread_mutex_lock(&callbacks.lock);
    first = sink->ended;
    for (struct callback *cb = first; cb && max > 0; cb = cb->ready, max--) {
        callback_remove_locked(cb);
        last = cb;
    }
    if (last) {
        sink->ended = last->ready;
        last->ready = NULL;
    }
    if (!sink->ended)
        sink->ended_end = &sink->ended;
    sink->woken = sink->ended != NULL;
    if (sink->woken)
        wake_set(&sink->wake);
    pthread_mutex_unlock(&callbacks.lock);
    return last ? first : NULL;
}

struct callback *callback_find(const struct callback_sink *sink, uint64_t id) {
    struct callback *cb;

    pthread_mutex_lock(&callbacks.lock);
    cb = *callback_bucket(id);
    while (cb && (cb->id != id || cb->sink != sink))
        cb = cb->next;
    pthread_mutex_unlock(&callbacks.lock);
    return cb;
}

bool callback_withdraw(struct callback *cb) {
    bool waiting;

    pthread_mutex_lock(&callbacks.lock);
    waiting = atomic_load(&cb->state) == CALLBACK_WAITING;
    if (waiting)
        callback_remove_locked(cb);
    pthread_mutex_unlock(&callbacks.lock);
    return waiting;
}
