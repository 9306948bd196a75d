/* callback.c - calls from Python to Erlang that wait for their answer. */
#include "config.h"

#include "callback.h"
#include "clock.h"

#include <stdlib.h>
#include <time.h>

enum { CALLBACK_TABLE = 256 }; /* buckets, a power of two */

static struct {
    pthread_mutex_t lock; /* guards the table */
    struct callback *table[CALLBACK_TABLE];
    _Atomic int count;
} callbacks = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct callback **callback_bucket(uint32_t id) {
    return &callbacks.table[id & (CALLBACK_TABLE - 1)];
}

void callback_begin(struct callback *cb, struct conn *conn) {
    struct callback **bucket;

    *cb = (struct callback){.conn = conn};
    sem_init(&cb->woken, 0, 0);
    request_new_pid(&cb->id, &cb->serial);
    bucket = callback_bucket(cb->id);
    pthread_mutex_lock(&callbacks.lock);
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

void callback_end(struct callback *cb) {
    struct callback **at = callback_bucket(cb->id);

    pthread_mutex_lock(&callbacks.lock);
    while (*at != cb)
        at = &(*at)->next;
    *at = cb->next;
    pthread_mutex_unlock(&callbacks.lock);
    atomic_fetch_sub(&callbacks.count, 1);
    sem_destroy(&cb->woken);
    buf_done(&cb->answer);
    conn_unref(cb->conn);
}

/* Under the lock, so that the waiter cannot be gone in between. */
static void callback_wake_locked(struct callback *cb, enum callback_state state) {
    atomic_store(&cb->state, state);
    sem_post(&cb->woken);
}

static struct callback *callback_find_locked(uint32_t id, uint32_t serial) {
    struct callback *cb = *callback_bucket(id);

    while (cb && (cb->id != id || cb->serial != serial))
        cb = cb->next;
    return cb;
}

bool callback_alive(uint32_t id, uint32_t serial) {
    bool alive;

    if (callback_count() == 0)
        return false;
    pthread_mutex_lock(&callbacks.lock);
    alive = callback_find_locked(id, serial);
    pthread_mutex_unlock(&callbacks.lock);
    return alive;
}

bool callback_answer(uint32_t id, uint32_t serial, struct slice term) {
    struct callback *cb;

    if (callback_count() == 0)
        return false;
    pthread_mutex_lock(&callbacks.lock);
    cb = callback_find_locked(id, serial);
    if (cb && atomic_load(&cb->state) == CALLBACK_WAITING) {
        buf_put(&cb->answer, term.data, term.len);
        callback_wake_locked(cb, CALLBACK_ANSWERED);
    }
    pthread_mutex_unlock(&callbacks.lock);
    return cb != NULL;
}

/* Wakes those that wait over conn, or in the thread. */
static void callback_wake(const struct conn *conn, unsigned long thread,
                          enum callback_state state) {
    pthread_mutex_lock(&callbacks.lock);
    for (int i = 0; i < CALLBACK_TABLE; i++)
        for (struct callback *cb = callbacks.table[i]; cb; cb = cb->next)
            if ((conn ? cb->conn == conn : cb->thread == thread) &&
                atomic_load(&cb->state) == CALLBACK_WAITING)
                callback_wake_locked(cb, state);
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
