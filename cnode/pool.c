/* pool.c - the threads that serve requests: those of the pool and those of queues. */
#include "config.h"

#include "pool.h"
#include "log.h"
#include "queues.h"
#include "thread.h"

#include <errno.h>
#include <stdlib.h>

enum {
    POOL_IDLE_SECONDS = 10,   /* after which a thread beyond the target leaves */
    POOL_GROWTH_MAX = 64,     /* threads added at one look */
    POOL_LOOK_NS = 100000,    /* the shortest time between two looks at a processor clock */
    POOL_LOOK_MAX_MS = 10,    /* the longest, while requests wait */
    POOL_MOMENT_NS = 150000,  /* less than a turn with the GIL */
    POOL_BUSY_SHARE = 10,     /* blocked: less than 1/10 of the time on a processor */
    POOL_REPORT_NS = 1000000, /* after which the application is told that a request runs */
    POOL_WAITING_MAX =
        8192, /* threads that wait for Erlang and may be replaced beyond the maximum */
};

/* Under exec's lock. */
static struct {
    struct exec_hooks hooks;
    int target, max;
    struct exec_worker *workers; /* of the pool and of queues */
    struct exec_worker *idle;
    int n_workers, n_idle; /* of the pool */
    int growth;            /* how many threads the next look may add */
    bool stopping;
    bool interrupting;    /* a thread is on its way to interrupt whom it has to be done to */
    int interrupters;     /* such threads that have not ended */
    pthread_cond_t ended; /* a thread has */
    _Atomic int waiting;  /* threads that wait for Erlang; without the lock */
} pool;

static _Thread_local struct exec_worker
    *pool_self; /* the thread, if it is of the pool or a queue's */

static void pool_cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void pool_init(int target, int max, const struct exec_hooks *hooks) {
    pool.hooks = *hooks;
    pool.target = target;
    pool.max = max < target ? target : max;
    pool.growth = 1;
    pool_cond_init(&pool.ended);
}

bool pool_is_stopping_locked(void) {
    return pool.stopping;
}

/* Threads that are stuck in what nobody waits for, as far as others may replace them. */
static int pool_stuck_locked(void) {
    int n = exec_stuck_locked();

    return n < pool.max ? n : pool.max;
}

/* Threads that may be replaced beyond the maximum. */
static int pool_spare_locked(void) {
    int waiting = atomic_load(&pool.waiting);

    return pool_stuck_locked() + (waiting < POOL_WAITING_MAX ? waiting : POOL_WAITING_MAX);
}

/* Whether the pool needs all the threads that it has. */
static bool pool_is_lean_locked(void) {
    return pool.n_workers - pool_spare_locked() <= pool.target;
}

void pool_wait_begin(void) {
    if (!pool_self)
        return;
    atomic_store(&pool_self->waiting, true);
    if (!pool_self->queue)
        atomic_fetch_add(&pool.waiting, 1);
}

void pool_wait_end(void) {
    if (!pool_self)
        return;
    atomic_store(&pool_self->waiting, false);
    if (!pool_self->queue)
        atomic_fetch_sub(&pool.waiting, 1);
}

void pool_notify_locked(const struct request *r) {
    for (struct exec_worker *w = pool.workers; w; w = w->next)
        if (w->current == r && atomic_load(&w->waiting))
            pthread_cond_signal(&w->wake);
}

bool pool_is_worker(void) {
    return pool_self != NULL;
}

void pool_await(const struct request *r, bool credit, int64_t deadline) {
    struct timespec until = {deadline / 1000000000, deadline % 1000000000};
    struct exec_worker *w = pool_self;
    int error = 0;

    pool_wait_begin();
    exec_lock();
    while (!error && !(credit && r->credit > 0) && !r->interrupted)
        error = deadline > 0 ? pthread_cond_timedwait(&w->wake, &exec_mutex, &until)
                             : pthread_cond_wait(&w->wake, &exec_mutex);
    exec_unlock();
    pool_wait_end();
}

static void pool_deadline(struct timespec *t, double seconds) {
    int64_t ns;

    clock_gettime(CLOCK_MONOTONIC, t);
    ns = t->tv_nsec + (int64_t)(seconds * 1e9);
    t->tv_sec += ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
}

static void pool_idle_remove(struct exec_worker *w) {
    struct exec_worker **at = &pool.idle;

    while (*at != w)
        at = &(*at)->idle_next;
    *at = w->idle_next;
    pool.n_idle--;
}

/* Sleeps until there may be work: false when the thread is to end. The latest to go to sleep is
 * the first to be woken, so that those nobody needs can leave. */
static bool pool_sleep(struct exec_worker *w) {
    struct timespec until;
    bool stay = true;

    exec_lock();
    if (exec_ready() > 0 && !pool.stopping) {
        exec_unlock();
        return true;
    }
    atomic_store(&w->state, EXEC_IDLE);
    w->woken = false;
    w->idle_next = pool.idle;
    pool.idle = w;
    pool.n_idle++;
    pool_deadline(&until, POOL_IDLE_SECONDS);
    while (!w->woken && !pool.stopping) {
        if (pool_is_lean_locked()) {
            pthread_cond_wait(&w->wake, &exec_mutex);
        } else if (pthread_cond_timedwait(&w->wake, &exec_mutex, &until) == ETIMEDOUT &&
                   !w->woken) {
            stay = pool_is_lean_locked();
            break;
        }
    }
    if (!w->woken)
        pool_idle_remove(w);
    stay = stay && !pool.stopping;
    if (!stay) {
        pool.n_workers--; /* at once, so that no other leaves for the same reason */
        w->current = NULL;
    }
    exec_unlock();
    return stay;
}

static void pool_remove_locked(struct exec_worker *w) {
    struct exec_worker **at = &pool.workers;

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    pthread_cond_broadcast(&pool.ended);
}

static void pool_free(struct exec_worker *w) {
    pthread_cond_destroy(&w->wake);
    buf_done(&w->out);
    free(w);
}

static void *pool_main(void *arg) {
    struct exec_worker *w = arg;
    bool new = w->number <= (uint32_t)pool.target; /* nobody leads before one of these has */

    pool_self = w;
    w->thread_id = thread_id();
    pool.hooks.start(w);
    for (;; new = false) {
        if (exec_ready() > 0 && !new) {
            atomic_store(&w->state, EXEC_ENTERING);
            pool.hooks.serve(w);
        }
        atomic_store(&w->state, EXEC_LEADING);
        if (!pool.hooks.lead(w) && !pool_sleep(w))
            break;
    }
    pool.hooks.stop(w);
    exec_lock();
    pool_remove_locked(w);
    exec_unlock();
    pool_free(w);
    return NULL;
}

static uint32_t pool_free_number_locked(void) {
    for (uint32_t n = 1;; n++) {
        struct exec_worker *w = pool.workers;

        while (w && w->number != n)
            w = w->next;
        if (!w)
            return n;
    }
}

/* Starts a worker with that number, which is of q or of the pool: NULL with errno. */
static struct exec_worker *pool_spawn_locked(uint32_t number, struct queue *q,
                                             void *(*body)(void *)) {
    struct exec_worker *w = xcalloc(1, sizeof *w);
    pthread_attr_t attr;
    int error;

    pool_cond_init(&w->wake);
    atomic_store(&w->state, EXEC_ENTERING);
    w->number = number;
    w->queue = q;
    w->next = pool.workers;
    pool.workers = w;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&w->thread, &attr, body, w);
    pthread_attr_destroy(&attr);
    if (!error)
        return w;
    pool_remove_locked(w);
    pool_free(w);
    errno = error;
    return NULL;
}

/* Starts one more thread of the pool: 0, or -1 with errno. */
static int pool_spawn(void) {
    bool started;

    exec_lock();
    started = pool_spawn_locked(pool_free_number_locked(), NULL, pool_main);
    pool.n_workers += started;
    exec_unlock();
    return started ? 0 : -1;
}

int pool_start(void) {
    for (int i = 0; i < pool.target; i++)
        if (pool_spawn() < 0)
            return -1;
    return 0;
}

void pool_stop_begin(void) {
    exec_lock();
    pool.stopping = true;
    for (struct exec_worker *w = pool.workers; w; w = w->next)
        pthread_cond_signal(&w->wake);
    exec_unlock();
}

bool pool_stop_wait(double seconds) {
    struct timespec until;
    bool all;

    pool_deadline(&until, seconds);
    exec_lock();
    while (pool.workers || pool.interrupters > 0)
        if (pthread_cond_timedwait(&pool.ended, &exec_mutex, &until) == ETIMEDOUT)
            break;
    all = !pool.workers && pool.interrupters == 0;
    exec_unlock();
    return all;
}

/* The threads of queues. */

/* Sleeps until something waits in w's queue: false when the thread is to end. */
static bool pool_queue_sleep(struct exec_worker *w) {
    struct queue *q = w->queue;
    bool stay;

    exec_lock();
    atomic_store(&w->state, EXEC_IDLE);
    while (!q->lane.waiting.head && q->name.len > 0 && !q->ending && !pool.stopping)
        pthread_cond_wait(&w->wake, &exec_mutex);
    stay = q->lane.waiting.head && !q->ending && !pool.stopping;
    atomic_store(&w->state, EXEC_ENTERING);
    exec_unlock();
    return stay;
}

/* Leaves the queue to a new thread if something waits there: whether w can go. */
static bool pool_queue_leave(struct exec_worker *w) {
    struct queue *q = w->queue;
    bool waits, leave;

    exec_lock();
    q->ending = false;
    waits = q->lane.waiting.head;
    leave = !waits || pool.stopping || pool_start_queue_locked(q) == 0;
    if (leave)
        pool_remove_locked(w);
    if (!waits)
        queues_free(q);
    else if (pool.stopping)
        q->worker = NULL; /* what waits will never run */
    exec_unlock();
    return leave;
}

static void *pool_queue_main(void *arg) {
    struct exec_worker *w = arg;

    pool_self = w;
    do {
        pool.hooks.start(w);
        while (pool_queue_sleep(w))
            pool.hooks.serve(w);
        pool.hooks.stop(w);
    } while (!pool_queue_leave(w));
    pool_free(w);
    return NULL;
}

/* Starts a thread for q: 0, or -1 with errno. Its number is none that one of the pool can have. */
int pool_start_queue_locked(struct queue *q) {
    static uint32_t count;
    struct exec_worker *w = pool_spawn_locked((uint32_t)pool.max * 2 + ++count, q, pool_queue_main);

    if (w)
        q->worker = w;
    return w ? 0 : -1;
}

/* The look at the pool. */

/* Looks whether a busy worker has used the processor since the last look. One that has not, as others had
 * it, is not blocked: more threads would only take turns with it. */
static void pool_look(struct exec_worker *w, int64_t now) {
    struct timespec t;
    clockid_t clock;
    int64_t cpu;
    bool idle;

    if (w->seen && now - w->seen < POOL_LOOK_NS)
        return;
    if (pthread_getcpuclockid(w->thread, &clock) != 0 || clock_gettime(clock, &t) < 0)
        return;
    cpu = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    idle = w->seen && (cpu - w->cpu_seen) * POOL_BUSY_SHARE < now - w->seen;
    w->blocked = idle && (w->blocked || !thread_is_runnable(w->thread_id));
    w->seen = now;
    w->cpu_seen = cpu;
}

/* Counts who of the pool runs what somebody waits for, and since when they all do; whether a thread is there
 * that will take the next request by itself. all: looks at each, also when as many as the target run. */
static bool pool_survey_locked(int64_t now, bool all, int *running, int64_t *since) {
    *running = 0;
    *since = 0;
    for (struct exec_worker *w = pool.workers; w; w = w->next) {
        if (w->queue)
            continue;
        switch (atomic_load(&w->state)) {
        case EXEC_LEADING:
        case EXEC_ENTERING:
            return true;
        case EXEC_RUNNING:
            if ((w->current && w->current->abandoned) || atomic_load(&w->waiting))
                break;
            pool_look(w, now);
            *running += !w->blocked;
            if (w->since > *since)
                *since = w->since;
            break;
        default:
            break;
        }
        if (*running >= pool.target && !all)
            return true;
    }
    return *running >= pool.target;
}

/* The longer they have been running the less often they are looked at: each look takes a processor from them. */
static int pool_next_look(int64_t since, int64_t now) {
    int64_t next = (now - since) / 4000000;

    return next < 1 ? 1 : next < POOL_LOOK_MAX_MS ? (int)next : POOL_LOOK_MAX_MS;
}

/* The same. Where looks are rare, all who take turns with the GIL have had some since the last: they are looked
 * at once more after a moment in which only one can compute. */
static bool pool_survey_closely_locked(int64_t now, int *running, int64_t *since) {
    const struct timespec moment = {0, POOL_MOMENT_NS};
    bool served = pool_survey_locked(now, false, running, since);

    if (*running < pool.target || pool_next_look(*since, now) == 1)
        return served;
    pool_survey_locked(now, true, running, since);
    if (*running == 1) /* it takes turns with nobody */
        return served;
    exec_unlock();
    nanosleep(&moment, NULL);
    exec_lock();
    return exec_ready() == 0 || pool.stopping ||
           pool_survey_locked(clock_now(), false, running, since);
}

static void pool_wake_locked(void) {
    struct exec_worker *w = pool.idle;

    pool_idle_remove(w);
    w->woken = true;
    atomic_store(&w->state, EXEC_ENTERING);
    pthread_cond_signal(&w->wake);
}

void pool_wake(void) {
    exec_lock();
    if (pool.idle)
        pool_wake_locked();
    exec_unlock();
}

int pool_supervise(int64_t now) {
    int running, wanted, spawn = 0, next = 1;
    int64_t since;

    exec_lock();
    if (exec_ready() == 0 || pool.stopping) {
        pool.growth = 1;
        next = -1;
    } else if (pool_survey_closely_locked(now, &running, &since)) {
        next = running >= pool.target ? pool_next_look(since, now) : 1;
    } else {
        bool idle = pool.idle;

        for (wanted = pool.growth; wanted > 0 && pool.idle; wanted--)
            pool_wake_locked();
        spawn = pool.max + pool_spare_locked() - pool.n_workers;
        if (spawn > wanted)
            spawn = wanted;
        if (spawn > 0 && (size_t)spawn > exec_ready())
            spawn = (int)exec_ready();
        if (pool.growth < POOL_GROWTH_MAX)
            pool.growth *= 2;
        if (!idle && spawn <= 0)
            next = POOL_LOOK_MAX_MS;
    }
    exec_unlock();
    for (; spawn > 0; spawn--)
        if (pool_spawn() < 0) {
            log_warning("pool: cannot start another thread: %s", strerror(errno));
            break;
        }
    return next;
}

void pool_read_numbers(struct pool_numbers *n) {
    exec_lock();
    *n = (struct pool_numbers){.workers = pool.n_workers, .idle = pool.n_idle};
    n->queued = exec_queued();
    for (struct exec_worker *w = pool.workers; w; w = w->next) {
        n->queues += w->queue != NULL;
        if (w->current) {
            n->running++;
            n->blocked += w->blocked || atomic_load(&w->waiting);
        }
    }
    exec_unlock();
}

void pool_list(pool_list_cb *fn, void *arg) {
    exec_lock();
    for (struct exec_worker *w = pool.workers; w; w = w->next)
        fn(arg, w);
    exec_unlock();
}

/* Interrupting. */

bool pool_needs_interrupter_locked(void) {
    if (pool.interrupting || pool.stopping || !pool.hooks.interrupt)
        return false;
    pool.interrupting = true;
    pool.interrupters++;
    return true;
}

static void *pool_interrupt_main(void *arg) {
    pool.hooks.interrupt();
    exec_lock();
    pool.interrupters--;
    pthread_cond_broadcast(&pool.ended);
    exec_unlock();
    return arg;
}

/* All other threads may be computing, so one of its own sees to it. */
void pool_start_interrupter(void) {
    int error = thread_start(pool_interrupt_main, NULL);

    if (!error)
        return;
    exec_lock();
    pool.interrupting = false;
    pool.interrupters--;
    exec_unlock();
    log_warning("pool: cannot start a thread to interrupt: %s", strerror(error));
}

bool pool_each_interrupt(pool_interrupt_cb *fn) {
    bool left = false;

    exec_lock();
    for (struct exec_worker *w = pool.workers; w; w = w->next) {
        struct request *r = w->current;

        if (!r || !r->interrupt || r->answering)
            continue;
        r->interrupted = fn(w);
        r->interrupt = !r->interrupted;
        if (r->interrupted && atomic_load(&w->waiting))
            pthread_cond_signal(&w->wake); /* pool_await() */
        left = left || r->interrupt;
    }
    left = left && !pool.stopping;
    pool.interrupting = left; /* by the same thread */
    exec_unlock();
    return left;
}

int pool_report(int64_t now, void (*fn)(const struct request *r)) {
    int told = 0;

    exec_lock();
    for (struct exec_worker *w = pool.workers; w; w = w->next)
        if (w->current && now - w->since >= POOL_REPORT_NS && exec_report_locked(w->current)) {
            fn(w->current);
            told++;
        }
    exec_unlock();
    return told;
}
