/* taskpool.c - a bounded queue of tasks and the fixed set of threads that run them. */
#include "config.h"

#include "taskpool.h"
#include "buf.h"
#include "clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    TASKPOOL_SPIN_NS = 50000,    /* an awake look for the next task, or for the end of one */
    TASKPOOL_NAP_NS = 500000000, /* the longest sleep of one that has to hear signals */
    TASKPOOL_NAME = 16,
};

struct taskpool_worker {
    struct taskpool *pool;
    struct taskpool_worker *idle_next;
    int number;
    pthread_t thread;
    pthread_cond_t wake;
    bool woken;
};

struct taskpool {
    _Atomic int refs; /* the owner's and each thread's */
    struct taskpool_hooks hooks;
    void *context;
    size_t limit;
    int threads;
    unsigned forks; /* how often this process had been forked when the pool was made */
    char name[TASKPOOL_NAME];

    pthread_mutex_t lock; /* guards what follows */
    struct taskpool_task *head, *tail;
    _Atomic size_t queued; /* also read without the lock */
    _Atomic bool closed;
    struct taskpool_worker *idle; /* asleep, the latest first */
    int n_idle, n_waking, n_looking, n_busy, n_live, n_starting;
    int n_room; /* who waits for room */
    bool joined;

    sem_t started, room, ended;
    struct taskpool_worker workers[];
};

static _Thread_local struct taskpool *taskpool_of_thread;
static _Atomic unsigned taskpool_forks;
static atomic_flag taskpool_worker_looks = ATOMIC_FLAG_INIT;
static atomic_flag taskpool_waiter_looks = ATOMIC_FLAG_INIT;
static _Atomic int taskpool_processors;

/* The threads of all pools, and who waits for their end. */
static _Atomic int taskpool_all_live;
static _Atomic bool taskpool_all_waited_for;
static sem_t taskpool_all_ended;

/* Whether the caller may look instead of sleeping, as the only one of its kind in the process; to
 * be given back by atomic_flag_clear(). */
static bool taskpool_may_look(atomic_flag *flag) {
    return atomic_load_explicit(&taskpool_processors, memory_order_relaxed) > 1 &&
           !atomic_flag_test_and_set_explicit(flag, memory_order_acquire);
}

static void taskpool_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void taskpool_count_fork(void) {
    atomic_fetch_add(&taskpool_forks, 1);
    atomic_flag_clear(&taskpool_worker_looks);
    atomic_flag_clear(&taskpool_waiter_looks);
    atomic_store(&taskpool_all_live, 0);
}

static void taskpool_once(void) {
    sem_init(&taskpool_all_ended, 0, 0);
    atomic_store(&taskpool_processors, (int)sysconf(_SC_NPROCESSORS_ONLN));
    pthread_atfork(NULL, NULL, taskpool_count_fork);
}

/* Whether this is the thread that signals interrupt. */
static bool taskpool_hears_signals(void) {
#ifdef __linux__
    return gettid() == getpid();
#else
    return true;
#endif
}

/* Waits for a post until the monotonic time, INT64_MAX is never: OK, FULL (it is that late) or
 * INTERRUPTED. The last also when nothing was heard for a while: a signal that came just before the
 * sleep, or to another thread, wakes nobody. */
static enum taskpool_result taskpool_await(sem_t *sem, int64_t until) {
    struct timespec end;
    int64_t left;

    if (until == INT64_MAX && !taskpool_hears_signals())
        return sem_wait(sem) == 0 ? TASKPOOL_OK : TASKPOOL_INTERRUPTED;
    left = until - clock_now();
    if (left <= 0)
        return sem_trywait(sem) == 0 ? TASKPOOL_OK : TASKPOOL_FULL;
    left = left < TASKPOOL_NAP_NS ? left : TASKPOOL_NAP_NS;
    clock_gettime(CLOCK_REALTIME, &end); /* sem_timedwait(3) knows no other */
    end.tv_nsec += left;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    if (sem_timedwait(sem, &end) == 0)
        return TASKPOOL_OK;
    return errno == ETIMEDOUT && clock_now() >= until ? TASKPOOL_FULL : TASKPOOL_INTERRUPTED;
}

/* So many seconds from now, for taskpool_await(). */
static int64_t taskpool_deadline(double seconds) {
    return seconds < 1e9 ? clock_now() + (int64_t)(seconds * 1e9) : INT64_MAX;
}

static void taskpool_lock(struct taskpool *pool) {
    pthread_mutex_lock(&pool->lock);
}

static void taskpool_unlock(struct taskpool *pool) {
    pthread_mutex_unlock(&pool->lock);
}

static void taskpool_unref(struct taskpool *pool) {
    if (atomic_fetch_sub(&pool->refs, 1) > 1)
        return;
    for (int i = 0; i < pool->threads; i++)
        pthread_cond_destroy(&pool->workers[i].wake);
    pthread_mutex_destroy(&pool->lock);
    sem_destroy(&pool->started);
    sem_destroy(&pool->room);
    sem_destroy(&pool->ended);
    free(pool);
}

/* The queue. */

static size_t taskpool_queued(const struct taskpool *pool) {
    return atomic_load_explicit(&pool->queued, memory_order_relaxed);
}

/* Threads that are about to look into the queue. */
static size_t taskpool_free_threads_locked(const struct taskpool *pool) {
    return (size_t)(pool->n_idle + pool->n_waking + pool->n_looking);
}

static void taskpool_unlink_locked(struct taskpool *pool, struct taskpool_task *task) {
    *(task->prev ? &task->prev->next : &pool->head) = task->next;
    *(task->next ? &task->next->prev : &pool->tail) = task->prev;
    task->next = task->prev = NULL;
    task->queued = false;
    atomic_fetch_sub_explicit(&pool->queued, 1, memory_order_relaxed);
    if (pool->n_room > 0)
        sem_post(&pool->room);
}

static void taskpool_append_locked(struct taskpool *pool, struct taskpool_task *task) {
    task->queued = true;
    task->next = NULL;
    task->prev = pool->tail;
    *(pool->tail ? &pool->tail->next : &pool->head) = task;
    pool->tail = task;
    atomic_fetch_add_explicit(&pool->queued, 1, memory_order_relaxed);
}

/* Wakes a thread unless those that are about to look suffice. */
static void taskpool_wake_locked(struct taskpool *pool) {
    struct taskpool_worker *w = pool->idle;

    if (!w || taskpool_queued(pool) <= (size_t)(pool->n_waking + pool->n_looking))
        return;
    pool->idle = w->idle_next;
    pool->n_idle--;
    pool->n_waking++;
    w->woken = true;
    pthread_cond_signal(&w->wake);
}

static enum taskpool_result taskpool_push_locked(struct taskpool *pool, struct taskpool_task *task,
                                                 size_t limit) {
    if (atomic_load_explicit(&pool->closed, memory_order_relaxed))
        return TASKPOOL_CLOSED;
    if (taskpool_queued(pool) >= limit)
        return TASKPOOL_FULL;
    taskpool_append_locked(pool, task);
    taskpool_wake_locked(pool);
    return TASKPOOL_OK;
}

static size_t taskpool_limit_locked(const struct taskpool *pool) {
    return pool->limit ? pool->limit + taskpool_free_threads_locked(pool) : SIZE_MAX;
}

enum taskpool_result taskpool_push(struct taskpool *pool, struct taskpool_task *task) {
    enum taskpool_result result;

    task->since = clock_now();
    taskpool_lock(pool);
    result = taskpool_push_locked(pool, task, taskpool_limit_locked(pool));
    taskpool_unlock(pool);
    return result;
}

enum taskpool_result taskpool_push_over(struct taskpool *pool, struct taskpool_task *task) {
    enum taskpool_result result;

    task->since = clock_now();
    taskpool_lock(pool);
    result = taskpool_push_locked(pool, task, SIZE_MAX);
    taskpool_unlock(pool);
    return result;
}

enum taskpool_result taskpool_push_if_idle(struct taskpool *pool, struct taskpool_task *task) {
    enum taskpool_result result;

    task->since = clock_now();
    taskpool_lock(pool);
    result = taskpool_push_locked(pool, task, taskpool_free_threads_locked(pool));
    taskpool_unlock(pool);
    return result;
}

/* Each place that becomes free while somebody waits is one post; who is woken tries again. */
enum taskpool_result taskpool_push_wait(struct taskpool *pool, struct taskpool_task *task) {
    enum taskpool_result result;
    bool interrupted = false;

    task->since = clock_now();
    taskpool_lock(pool);
    while ((result = taskpool_push_locked(pool, task, taskpool_limit_locked(pool))) ==
               TASKPOOL_FULL &&
           !interrupted) {
        pool->n_room++;
        taskpool_unlock(pool);
        interrupted = taskpool_await(&pool->room, INT64_MAX) == TASKPOOL_INTERRUPTED;
        taskpool_lock(pool);
        pool->n_room--;
    }
    taskpool_unlock(pool);
    return result == TASKPOOL_FULL ? TASKPOOL_INTERRUPTED : result;
}

struct taskpool_task *taskpool_next(struct taskpool *pool) {
    struct taskpool_task *task;

    if (taskpool_queued(pool) == 0)
        return NULL;
    taskpool_lock(pool);
    task = pool->head;
    if (task)
        taskpool_unlink_locked(pool, task);
    taskpool_unlock(pool);
    return task;
}

bool taskpool_withdraw(struct taskpool *pool, struct taskpool_task *task) {
    bool queued;

    taskpool_lock(pool);
    queued = task->queued;
    if (queued)
        taskpool_unlink_locked(pool, task);
    taskpool_unlock(pool);
    return queued;
}

/* Threads. */

/* Looks for a moment whether a task or the end comes. */
static void taskpool_look_locked(struct taskpool *pool) {
    int64_t until = clock_now() + TASKPOOL_SPIN_NS;

    pool->n_looking++;
    taskpool_unlock(pool);
    while (taskpool_queued(pool) == 0 && !taskpool_closed(pool) && clock_now() < until)
        taskpool_pause();
    taskpool_lock(pool);
    pool->n_looking--;
}

static void taskpool_sleep_locked(struct taskpool *pool, struct taskpool_worker *w) {
    w->woken = false;
    w->idle_next = pool->idle;
    pool->idle = w;
    pool->n_idle++;
    while (!w->woken)
        pthread_cond_wait(&w->wake, &pool->lock);
    pool->n_waking--;
}

/* Waits for a task: NULL at the end, when none is left. */
static struct taskpool_task *taskpool_take(struct taskpool *pool, struct taskpool_worker *w) {
    struct taskpool_task *task;
    bool looked = false;

    taskpool_lock(pool);
    while (!(task = pool->head) && !taskpool_closed(pool)) {
        if (!looked && taskpool_may_look(&taskpool_worker_looks)) {
            taskpool_look_locked(pool);
            atomic_flag_clear_explicit(&taskpool_worker_looks, memory_order_release);
            looked = true;
        } else {
            taskpool_sleep_locked(pool, w);
        }
    }
    if (task) {
        taskpool_unlink_locked(pool, task);
        pool->n_busy++;
    }
    taskpool_unlock(pool);
    return task;
}

static void *taskpool_main(void *arg) {
    struct taskpool_worker *w = arg;
    struct taskpool *pool = w->pool;
    struct taskpool_task *task;

    taskpool_of_thread = pool;
    pool->hooks.start(pool->context, w->number);
    taskpool_lock(pool);
    if (--pool->n_starting == 0)
        sem_post(&pool->started);
    taskpool_unlock(pool);
    while ((task = taskpool_take(pool, w))) {
        pool->hooks.serve(pool->context, task);
        if (taskpool_forked(pool)) /* by the task: the only thread of a new process */
            return NULL;
        taskpool_lock(pool);
        pool->n_busy--;
        taskpool_unlock(pool);
    }
    pool->hooks.stop(pool->context);
    taskpool_lock(pool);
    if (--pool->n_live == 0)
        sem_post(&pool->ended);
    taskpool_unlock(pool);
    taskpool_unref(pool);
    if (atomic_fetch_sub(&taskpool_all_live, 1) == 1 && atomic_load(&taskpool_all_waited_for))
        sem_post(&taskpool_all_ended);
    return NULL;
}

/* Signals are not blocked: the programs that a task starts would inherit that. */
static int taskpool_spawn(struct taskpool *pool, struct taskpool_worker *w,
                          const pthread_attr_t *attr) {
    int error = pthread_create(&w->thread, attr, taskpool_main, w);

#ifdef __linux__
    if (!error && *pool->name) {
        char name[TASKPOOL_NAME + 16];

        snprintf(name, sizeof name, "%.10s_%d", pool->name, w->number);
        name[TASKPOOL_NAME - 1] = 0;
        pthread_setname_np(w->thread, name);
    }
#endif
    return error;
}

/* Starts the threads: 0, or an errno when not all could be started; then those that were end. */
static int taskpool_start(struct taskpool *pool, size_t stack) {
    pthread_attr_t attr;
    int error = 0, n = 0;

    pthread_attr_init(&attr);
    if (stack)
        error = pthread_attr_setstacksize(&attr, stack);
    taskpool_lock(pool);
    for (; n < pool->threads && !error; n++) {
        struct taskpool_worker *w = &pool->workers[n];

        *w = (struct taskpool_worker){.pool = pool, .number = n};
        pthread_cond_init(&w->wake, NULL);
        atomic_fetch_add(&pool->refs, 1);
        atomic_fetch_add(&taskpool_all_live, 1);
        pool->n_live++;
        pool->n_starting++;
        error = taskpool_spawn(pool, w, &attr);
        if (error) {
            pthread_cond_destroy(&w->wake);
            atomic_fetch_sub(&pool->refs, 1);
            atomic_fetch_sub(&taskpool_all_live, 1);
            pool->n_live--;
            pool->n_starting--;
            break;
        }
    }
    pool->threads = n;
    taskpool_unlock(pool);
    pthread_attr_destroy(&attr);
    return error;
}

struct taskpool *taskpool_new(int threads, size_t limit, size_t stack, const char *name,
                              const struct taskpool_hooks *hooks, void *context, int *started) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t size = sizeof(struct taskpool) + (size_t)threads * sizeof(struct taskpool_worker);
    struct taskpool *pool = calloc(1, size);
    int error;

    pthread_once(&once, taskpool_once);
    *started = 0;
    if (!pool)
        return NULL;
    atomic_store(&pool->refs, 1);
    pool->hooks = *hooks;
    pool->context = context;
    pool->limit = limit;
    pool->threads = threads;
    pool->forks = atomic_load(&taskpool_forks);
    snprintf(pool->name, sizeof pool->name, "%s", name ? name : "");
    pthread_mutex_init(&pool->lock, NULL);
    sem_init(&pool->started, 0, 0);
    sem_init(&pool->room, 0, 0);
    sem_init(&pool->ended, 0, 0);
    error = taskpool_start(pool, stack);
    *started = pool->threads;
    if (error) {
        taskpool_free(pool);
        errno = error;
        return NULL;
    }
    return pool;
}

void taskpool_free(struct taskpool *pool) {
    bool joined;

    taskpool_close(pool, false);
    taskpool_lock(pool);
    joined = pool->joined;
    pool->joined = true;
    taskpool_unlock(pool);
    for (int i = 0; i < pool->threads && !joined; i++)
        pthread_detach(pool->workers[i].thread);
    taskpool_unref(pool);
}

bool taskpool_wait_started(struct taskpool *pool) {
    if (taskpool_await(&pool->started, INT64_MAX) != TASKPOOL_OK)
        return false;
    sem_post(&pool->started); /* others may wait, too */
    return true;
}

bool taskpool_closed(const struct taskpool *pool) {
    return atomic_load_explicit(&pool->closed, memory_order_acquire);
}

struct taskpool_task *taskpool_close(struct taskpool *pool, bool cancel) {
    struct taskpool_task *list = NULL;

    taskpool_lock(pool);
    atomic_store_explicit(&pool->closed, true, memory_order_release);
    if (cancel) {
        list = pool->head;
        for (struct taskpool_task *task = list; task; task = task->next)
            task->queued = false;
        pool->head = pool->tail = NULL;
        atomic_store(&pool->queued, 0);
    }
    for (struct taskpool_worker *w = pool->idle; w; w = w->idle_next) {
        w->woken = true;
        pool->n_waking++;
        pthread_cond_signal(&w->wake);
    }
    pool->idle = NULL;
    pool->n_idle = 0;
    for (int i = 0; i < pool->n_room; i++)
        sem_post(&pool->room);
    taskpool_unlock(pool);
    return list;
}

/* Ends the threads' bookkeeping once all have ended. */
static void taskpool_reap(struct taskpool *pool) {
    bool joined;

    taskpool_lock(pool);
    joined = pool->joined;
    pool->joined = true;
    taskpool_unlock(pool);
    for (int i = 0; i < pool->threads && !joined; i++)
        pthread_join(pool->workers[i].thread, NULL);
}

enum taskpool_result taskpool_join(struct taskpool *pool, double seconds) {
    enum taskpool_result result = taskpool_await(&pool->ended, taskpool_deadline(seconds));

    if (result == TASKPOOL_OK) {
        sem_post(&pool->ended); /* others may wait, too */
        taskpool_reap(pool);
    }
    return result;
}

enum taskpool_result taskpool_join_all(double seconds) {
    int64_t until = taskpool_deadline(seconds);
    enum taskpool_result result = TASKPOOL_OK;

    atomic_store(&taskpool_all_waited_for, true);
    while (result == TASKPOOL_OK && atomic_load(&taskpool_all_live) > 0)
        result = taskpool_await(&taskpool_all_ended, until);
    return result;
}

void taskpool_read_numbers(struct taskpool *pool, struct taskpool_numbers *n) {
    taskpool_lock(pool);
    *n =
        (struct taskpool_numbers){pool->threads, pool->n_live, pool->n_busy, taskpool_queued(pool)};
    taskpool_unlock(pool);
}

struct taskpool *taskpool_mine(void) {
    return taskpool_of_thread;
}

bool taskpool_forked(const struct taskpool *pool) {
    return pool->forks != atomic_load_explicit(&taskpool_forks, memory_order_relaxed);
}

/* Tasks and groups. */

void *taskpool_task_new(size_t size) {
    struct taskpool_task *task = calloc(1, size);

    if (task)
        atomic_store_explicit(&task->refs, 1, memory_order_relaxed);
    return task;
}

void taskpool_task_unref(struct taskpool_task *task) {
    if (atomic_fetch_sub(&task->refs, 1) == 1)
        free(task);
}

struct taskpool_group *taskpool_group_new(void) {
    struct taskpool_group *group = xcalloc(1, sizeof *group);

    atomic_store(&group->refs, 1);
    atomic_store(&group->pending, 1);
    sem_init(&group->ended, 0, 0);
    return group;
}

void taskpool_group_unref(struct taskpool_group *group) {
    if (atomic_fetch_sub(&group->refs, 1) > 1)
        return;
    sem_destroy(&group->ended);
    free(group);
}

void taskpool_group_join(struct taskpool_group *group, struct taskpool_task *task) {
    atomic_fetch_add(&group->refs, 1);
    atomic_fetch_add(&group->pending, 1);
    task->group = group;
}

void taskpool_group_leave(struct taskpool_task *task) {
    struct taskpool_group *group = task->group;

    if (!group)
        return;
    task->group = NULL;
    if (atomic_fetch_sub(&group->pending, 1) == 1)
        sem_post(&group->ended);
    taskpool_group_unref(group);
}

/* Looks for a moment whether all have ended. */
static bool taskpool_group_look(const struct taskpool_group *group) {
    int64_t until = clock_now() + TASKPOOL_SPIN_NS;
    size_t pending;

    while ((pending = atomic_load_explicit(&group->pending, memory_order_acquire)) > 0 &&
           clock_now() < until)
        taskpool_pause();
    return pending == 0;
}

bool taskpool_group_wait(struct taskpool_group *group) {
    bool ended;

    if (!group->waiting) {
        group->waiting = true;
        if (atomic_fetch_sub(&group->pending, 1) == 1)
            return true;
    }
    if (taskpool_may_look(&taskpool_waiter_looks)) {
        ended = taskpool_group_look(group);
        atomic_flag_clear_explicit(&taskpool_waiter_looks, memory_order_release);
        if (ended)
            return true;
    }
    return taskpool_await(&group->ended, INT64_MAX) == TASKPOOL_OK;
}
