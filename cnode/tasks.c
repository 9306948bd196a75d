/* tasks.c - the requests that Python's event loop runs: which wait for it, and which have begun. */
#include "config.h"

#include "tasks.h"
#include "wake.h"

static struct {
    size_t max;
    bool (*start)(void);
    struct wake wake;

    /* Under exec's lock. */
    struct exec_row waiting;
    struct request *first, *last; /* that have begun, in that order */
    struct request *unreported;   /* the first of them that may have to be reported */
    bool started, woken;
    _Atomic bool signalled;           /* woken without the lock */
    _Atomic size_t count;             /* waiting or begun */
    _Atomic size_t n_waiting;         /* of these */
    struct request *told, **told_end; /* begun, and to be told something */
    _Atomic size_t n_told;
} tasks = {.wake = {-1}, .told_end = &tasks.told};

static _Thread_local bool tasks_looking;

int tasks_init(size_t max, bool (*start)(void)) {
    tasks.max = max;
    tasks.start = start;
    return wake_init(&tasks.wake);
}

int tasks_fd(void) {
    return tasks.wake.fd;
}

void tasks_wake(void) {
    atomic_store(&tasks.signalled, true);
    wake_set(&tasks.wake);
}

bool tasks_due(void) {
    return tasks_waiting() > 0 || atomic_load_explicit(&tasks.n_told, memory_order_relaxed) > 0;
}

size_t tasks_waiting(void) {
    return atomic_load_explicit(&tasks.n_waiting, memory_order_relaxed);
}

size_t tasks_count(void) {
    return atomic_load_explicit(&tasks.count, memory_order_relaxed);
}

void tasks_set_looking(bool looking) {
    tasks_looking = looking;
}

bool tasks_have_room_locked(void) {
    return tasks_count() < tasks.max;
}

static void tasks_start_locked(void) {
    tasks.started = tasks.started || tasks.start();
}

void tasks_start(void) {
    exec_lock();
    tasks_start_locked();
    exec_unlock();
}

/* One wake-up is enough for all that is found at it. */
static void tasks_wake_locked(void) {
    if (!tasks.woken && !tasks_looking) {
        tasks.woken = true;
        wake_set(&tasks.wake);
    }
    tasks_start_locked();
}

void tasks_append_locked(struct request *r) {
    r->task = true;
    exec_row_append(&tasks.waiting, r);
    atomic_fetch_add_explicit(&tasks.n_waiting, 1, memory_order_relaxed);
    tasks_wake_locked();
}

void tasks_add_locked(struct request *r) {
    atomic_fetch_add_explicit(&tasks.count, 1, memory_order_relaxed);
    tasks_append_locked(r);
}

void tasks_withdraw_locked(struct request *r) {
    if (r->row == &tasks.waiting)
        atomic_fetch_sub_explicit(&tasks.n_waiting, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&tasks.count, 1, memory_order_relaxed);
}

/* Those that have begun. */

static void tasks_begin_locked(struct request *r, int64_t now) {
    exec_row_remove(r);
    atomic_fetch_sub_explicit(&tasks.n_waiting, 1, memory_order_relaxed);
    r->since = now;
    r->task_next = NULL;
    r->task_prev = tasks.last;
    *(tasks.last ? &tasks.last->task_next : &tasks.first) = r;
    tasks.last = r;
    if (!tasks.unreported)
        tasks.unreported = r;
    exec_begin_locked(r);
}

static void tasks_unlink_locked(struct request *r) {
    if (tasks.unreported == r)
        tasks.unreported = r->task_next;
    *(r->task_prev ? &r->task_prev->task_next : &tasks.first) = r->task_next;
    *(r->task_next ? &r->task_next->task_prev : &tasks.last) = r->task_prev;
    r->task_next = r->task_prev = NULL;
}

size_t tasks_take(struct request **into, size_t max) {
    int64_t now = clock_now();
    struct request *r;
    size_t n = 0;

    exec_lock();
    while (n < max && (r = tasks.waiting.head)) {
        if (exec_hold_back_locked(r)) {
            atomic_fetch_sub_explicit(&tasks.n_waiting, 1, memory_order_relaxed);
            continue;
        }
        tasks_begin_locked(r, now);
        into[n++] = r;
    }
    if (!tasks.waiting.head && !tasks.told) { /* what is told since wakes the loop again */
        if (atomic_exchange(&tasks.signalled, false) || tasks.woken)
            wake_clear(&tasks.wake);
        tasks.woken = false;
    }
    exec_unlock();
    return n;
}

static void tasks_tell_locked(struct request *r) {
    if (r->told)
        return;
    r->told = true;
    r->told_next = NULL;
    *tasks.told_end = r;
    tasks.told_end = &r->told_next;
    atomic_fetch_add_explicit(&tasks.n_told, 1, memory_order_relaxed);
    tasks_wake_locked();
}

void tasks_cancel_locked(struct request *r) {
    r->interrupt = true;
    tasks_tell_locked(r);
}

void tasks_credit_locked(struct request *r) {
    tasks_tell_locked(r);
}

/* The loop has been told, or has no need to know any more. */
static void tasks_untell_locked(struct request *r) {
    struct request **at = &tasks.told;

    if (!r->told)
        return;
    while (*at != r)
        at = &(*at)->told_next;
    *at = r->told_next;
    if (!*at)
        tasks.told_end = at;
    r->told = false;
    r->interrupted = r->interrupted || r->interrupt;
    atomic_fetch_sub_explicit(&tasks.n_told, 1, memory_order_relaxed);
}

struct request *tasks_take_told(bool *cancelled) {
    struct request *r;

    if (atomic_load_explicit(&tasks.n_told, memory_order_relaxed) == 0)
        return NULL;
    exec_lock();
    r = tasks.told;
    if (r) {
        tasks_untell_locked(r);
        *cancelled = r->interrupt;
        r->interrupt = false;
    }
    exec_unlock();
    return r;
}

void tasks_end_locked(struct request *r) {
    tasks_untell_locked(r);
    tasks_unlink_locked(r);
    atomic_fetch_sub_explicit(&tasks.count, 1, memory_order_relaxed);
}

bool tasks_requeue(struct request *r) {
    bool wanted;

    exec_lock();
    wanted = !r->abandoned;
    if (wanted) {
        tasks_untell_locked(r);
        tasks_unlink_locked(r);
        exec_pause_locked(r);
        tasks_append_locked(r);
    }
    exec_unlock();
    return wanted;
}

/* They have begun in their order, so those that are due are the first. */
int tasks_report(int64_t now, int64_t after, void (*fn)(const struct request *r)) {
    int told = 0;

    exec_lock();
    while (tasks.unreported && now - tasks.unreported->since >= after) {
        struct request *r = tasks.unreported;

        tasks.unreported = r->task_next;
        if (exec_report_locked(r)) {
            fn(r);
            told++;
        }
    }
    exec_unlock();
    return told;
}
