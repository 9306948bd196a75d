/* exec.c - the bounded queue of requests and the pool of threads that serve it. */
#include "config.h"

#include "exec.h"
#include "answer.h"
#include "log.h"

#include <errno.h>
#include <stdlib.h>

enum {
    EXEC_TABLE = 4096,      /* buckets of the table of requests, a power of two */
    EXEC_IDLE_SECONDS = 10, /* after which a thread beyond the target leaves */
    EXEC_GROWTH_MAX = 64,   /* threads added at one look */
    EXEC_LOOK_NS = 100000,  /* the shortest time between two looks at a processor clock */
    EXEC_BUSY_SHARE = 10,   /* blocked: less than 1/10 of the time on a processor */
};

static struct {
    pthread_mutex_t lock; /* guards all below */
    struct exec_hooks hooks;
    int target, max;
    size_t limit;
    struct exec_row queue;
    struct exec_row held;  /* kept back: their connections take no answers at present */
    _Atomic size_t ready;  /* in the queue */
    _Atomic size_t queued; /* in the queue, in lanes and kept back */
    _Atomic size_t load;   /* queued and running */
    _Atomic size_t
        unannounced; /* of these, have a process whose pid the caller does not know yet */
    struct request *table[EXEC_TABLE];
    struct exec_worker *workers, *idle;
    int n_workers, n_idle;
    int growth; /* how many threads the next look may add */
    bool stopping;
    pthread_cond_t ended; /* a worker has ended */
} exec = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void exec_lock(void) {
    pthread_mutex_lock(&exec.lock);
}

static void exec_unlock(void) {
    pthread_mutex_unlock(&exec.lock);
}

static void exec_cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void exec_init(int target, int max, size_t limit, const struct exec_hooks *hooks) {
    exec.hooks = *hooks;
    exec.target = target;
    exec.max = max < target ? target : max;
    exec.limit = limit;
    exec.growth = 1;
    exec_cond_init(&exec.ended);
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

size_t exec_load(void) {
    return atomic_load_explicit(&exec.load, memory_order_relaxed);
}

/* Rows. */

static void exec_row_append(struct exec_row *row, struct request *r) {
    r->row = row;
    r->next = NULL;
    r->prev = row->tail;
    if (row->tail)
        row->tail->next = r;
    else
        row->head = r;
    row->tail = r;
    if (row == &exec.queue)
        atomic_fetch_add_explicit(&exec.ready, 1, memory_order_relaxed);
}

static void exec_row_remove(struct request *r) {
    struct exec_row *row = r->row;

    *(r->prev ? &r->prev->next : &row->head) = r->next;
    *(r->next ? &r->next->prev : &row->tail) = r->prev;
    r->row = NULL;
    r->next = r->prev = NULL;
    if (row == &exec.queue)
        atomic_fetch_sub_explicit(&exec.ready, 1, memory_order_relaxed);
}

/* The table: every request that has not ended, by the reference that cancels it. */

static struct request **exec_bucket(struct slice ref) {
    uint32_t h = 2166136261u;
    size_t from = ref.len > 20 ? ref.len - 20 : 0; /* its numbers; the node name before is alike */

    for (size_t i = from; i < ref.len; i++)
        h = (h ^ ref.data[i]) * 16777619u;
    return &exec.table[(h ^ h >> 15) & (EXEC_TABLE - 1)];
}

/* What cannot be cancelled by a reference is spread by its address: thousands of casts in one
 * bucket would make each removal a walk through all of them. */
static struct request **exec_bucket_of(const struct request *r) {
    return r->ref.len > 0 ? exec_bucket(r->ref)
                          : exec_bucket((struct slice){(const uint8_t *)&r, sizeof r});
}

static void exec_table_add(struct request *r) {
    struct request **bucket = exec_bucket_of(r);

    r->table_next = *bucket;
    *bucket = r;
    atomic_fetch_add_explicit(&exec.load, 1, memory_order_relaxed);
}

static void exec_table_remove(struct request *r) {
    struct request **at = exec_bucket_of(r);

    while (*at != r)
        at = &(*at)->table_next;
    *at = r->table_next;
    atomic_fetch_sub_explicit(&exec.load, 1, memory_order_relaxed);
}

/* The queue. */

static bool exec_is_unannounced(const struct request *r) {
    return r->pid_id != 0 && !r->announced && !r->answering;
}

bool exec_push(struct request *r) {
    bool room;

    exec_lock();
    room = exec_queued() < exec.limit && !exec.stopping;
    if (room) {
        struct exec_lane *lane = r->lane;

        exec_table_add(r);
        exec.unannounced += exec_is_unannounced(r);
        atomic_fetch_add_explicit(&exec.queued, 1, memory_order_relaxed);
        if (lane && lane->busy) {
            exec_row_append(&lane->waiting, r);
        } else {
            if (lane)
                lane->busy = true;
            exec_row_append(&exec.queue, r);
        }
    }
    exec_unlock();
    return room;
}

struct request *exec_pop(struct exec_worker *w) {
    struct request *r;

    if (exec_ready() == 0)
        return NULL;
    exec_lock();
    while ((r = exec.queue.head) && !r->lane && exec.hooks.hold && exec.hooks.hold(r)) {
        exec_row_remove(r);
        exec_row_append(&exec.held, r);
    }
    if (r) {
        exec_row_remove(r);
        atomic_fetch_sub_explicit(&exec.queued, 1, memory_order_relaxed);
        w->current = r;
        w->since = clock_now();
        w->seen = 0;
        w->blocked = false;
    }
    exec_unlock();
    return r;
}

void exec_release(const struct conn *conn) {
    struct request *r, *next;

    exec_lock();
    for (r = exec.held.head; r; r = next) {
        next = r->next;
        if (r->conn == conn) {
            exec_row_remove(r);
            exec_row_append(&exec.queue, r);
        }
    }
    exec_unlock();
}

bool exec_claim(struct request *r) {
    bool wanted;

    exec_lock();
    wanted = !r->abandoned;
    exec.unannounced -= exec_is_unannounced(r);
    r->answering = true;
    exec_unlock();
    return wanted;
}

/* The next of r's lane may run now that r has left the queue or ended. */
static void exec_lane_next(struct request *r) {
    struct exec_lane *lane = r->lane;
    struct request *next;

    if (!lane)
        return;
    next = lane->waiting.head;
    if (!next) {
        lane->busy = false;
        return;
    }
    exec_row_remove(next);
    exec_row_append(&exec.queue, next);
}

void exec_finish(struct exec_worker *w, struct request *r) {
    exec_lock();
    exec_table_remove(r);
    exec_lane_next(r);
    w->current = NULL;
    exec_unlock();
}

/* Takes a request that waits out of everything. */
static void exec_withdraw(struct request *r) {
    bool in_queue = r->row == &exec.queue;

    exec.unannounced -= exec_is_unannounced(r);
    exec_row_remove(r);
    exec_table_remove(r);
    atomic_fetch_sub_explicit(&exec.queued, 1, memory_order_relaxed);
    if (in_queue)
        exec_lane_next(r);
}

struct request *exec_cancel(const struct conn *conn, struct slice ref) {
    struct request *found = NULL;

    if (exec_load() == 0)
        return NULL;
    exec_lock();
    for (struct request *r = *exec_bucket(ref); r; r = r->table_next) {
        if (r->conn != conn || !slice_equal(r->ref, ref))
            continue;
        r->abandoned = true;
        if (r->row) {
            exec_withdraw(r);
            found = r;
        }
        break;
    }
    exec_unlock();
    return found;
}

struct request *exec_cancel_conn(const struct conn *conn) {
    struct request *found = NULL, *next;

    exec_lock();
    for (int i = 0; i < EXEC_TABLE; i++)
        for (struct request *r = exec.table[i]; r; r = next) {
            next = r->table_next;
            if (r->conn != conn)
                continue;
            r->abandoned = true;
            if (r->row) {
                exec_withdraw(r);
                r->next = found;
                found = r;
            }
        }
    exec_unlock();
    return found;
}

static struct request *exec_find_pid_locked(uint32_t id, uint32_t serial) {
    for (int i = 0; i < EXEC_TABLE; i++)
        for (struct request *r = exec.table[i]; r; r = r->table_next)
            if (r->pid_id == id && r->pid_serial == serial && id != 0)
                return r;
    return NULL;
}

bool exec_alive(uint32_t id, uint32_t serial) {
    struct request *r;
    bool alive;

    exec_lock();
    r = exec_find_pid_locked(id, serial);
    alive = r && !r->abandoned;
    exec_unlock();
    return alive;
}

struct request *exec_exit(uint32_t id, uint32_t serial, struct slice reason, exec_put_cb *put) {
    struct request *r, *found = NULL;
    struct buf out = {0};

    exec_lock();
    r = exec_find_pid_locked(id, serial);
    if (r && !r->abandoned && !r->answering) {
        r->abandoned = true;
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

void exec_announce(exec_put_cb *put) {
    struct buf out = {0};

    if (exec_load() == 0)
        return;
    exec_lock();
    for (int i = 0; i < EXEC_TABLE && exec.unannounced > 0; i++)
        for (struct request *r = exec.table[i]; r; r = r->table_next) {
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

/* The pool. */

static void exec_deadline(struct timespec *t, double seconds) {
    int64_t ns;

    clock_gettime(CLOCK_MONOTONIC, t);
    ns = t->tv_nsec + (int64_t)(seconds * 1e9);
    t->tv_sec += ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
}

static void exec_idle_remove(struct exec_worker *w) {
    struct exec_worker **at = &exec.idle;

    while (*at != w)
        at = &(*at)->idle_next;
    *at = w->idle_next;
    exec.n_idle--;
}

/* Sleeps until there may be work: false when the thread is to end. The latest to go to sleep is
 * the first to be woken, so that those nobody needs can leave. */
static bool exec_sleep(struct exec_worker *w) {
    struct timespec until;
    bool stay = true;

    exec_lock();
    if (exec.queue.head && !exec.stopping) {
        exec_unlock();
        return true;
    }
    atomic_store(&w->state, EXEC_IDLE);
    w->woken = false;
    w->idle_next = exec.idle;
    exec.idle = w;
    exec.n_idle++;
    exec_deadline(&until, EXEC_IDLE_SECONDS);
    while (!w->woken && !exec.stopping) {
        if (exec.n_workers <= exec.target) {
            pthread_cond_wait(&w->wake, &exec.lock);
        } else if (pthread_cond_timedwait(&w->wake, &exec.lock, &until) == ETIMEDOUT && !w->woken) {
            stay = exec.n_workers <= exec.target;
            break;
        }
    }
    if (!w->woken)
        exec_idle_remove(w);
    stay = stay && !exec.stopping;
    if (!stay) {
        exec.n_workers--; /* at once, so that no other leaves for the same reason */
        w->current = NULL;
    }
    exec_unlock();
    return stay;
}

static void exec_forget(struct exec_worker *w, bool counted) {
    struct exec_worker **at = &exec.workers;

    exec_lock();
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    if (counted)
        exec.n_workers--;
    pthread_cond_broadcast(&exec.ended);
    exec_unlock();
    pthread_cond_destroy(&w->wake);
    buf_done(&w->out);
    free(w);
}

static void *exec_main(void *arg) {
    struct exec_worker *w = arg;
    bool new = w->number <= (uint32_t)exec.target; /* nobody leads before one of these has */

    exec.hooks.start(w);
    for (;; new = false) {
        if (exec_ready() > 0 && !new) {
            atomic_store(&w->state, EXEC_ENTERING);
            exec.hooks.serve(w);
        }
        atomic_store(&w->state, EXEC_LEADING);
        if (!exec.hooks.lead(w) && !exec_sleep(w))
            break;
    }
    exec.hooks.stop(w);
    exec_forget(w, false);
    return NULL;
}

static uint32_t exec_free_number_locked(void) {
    for (uint32_t n = 1;; n++) {
        struct exec_worker *w = exec.workers;

        while (w && w->number != n)
            w = w->next;
        if (!w)
            return n;
    }
}

/* Starts one more thread: 0, or -1 with errno. */
static int exec_spawn(void) {
    struct exec_worker *w = xcalloc(1, sizeof *w);
    pthread_attr_t attr;
    int error;

    exec_cond_init(&w->wake);
    atomic_store(&w->state, EXEC_ENTERING);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    exec_lock();
    w->number = exec_free_number_locked();
    w->next = exec.workers;
    exec.workers = w;
    exec.n_workers++;
    error = pthread_create(&w->thread, &attr, exec_main, w);
    exec_unlock();
    pthread_attr_destroy(&attr);
    if (error) {
        exec_forget(w, true);
        errno = error;
        return -1;
    }
    return 0;
}

int exec_start(void) {
    for (int i = 0; i < exec.target; i++)
        if (exec_spawn() < 0)
            return -1;
    return 0;
}

void exec_stop_begin(void) {
    exec_lock();
    exec.stopping = true;
    for (struct exec_worker *w = exec.idle; w; w = w->idle_next)
        pthread_cond_signal(&w->wake);
    exec_unlock();
}

bool exec_stop_wait(double seconds) {
    struct timespec until;
    bool all;

    exec_deadline(&until, seconds);
    exec_lock();
    while (exec.workers)
        if (pthread_cond_timedwait(&exec.ended, &exec.lock, &until) == ETIMEDOUT)
            break;
    all = !exec.workers;
    exec_unlock();
    return all;
}

/* Looks whether a busy worker has used the processor since the last look. */
static void exec_look(struct exec_worker *w, int64_t now) {
    struct timespec t;
    clockid_t clock;
    int64_t cpu;

    if (w->seen && now - w->seen < EXEC_LOOK_NS)
        return;
    if (pthread_getcpuclockid(w->thread, &clock) != 0 || clock_gettime(clock, &t) < 0)
        return;
    cpu = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    w->blocked = w->seen && (cpu - w->cpu_seen) * EXEC_BUSY_SHARE < now - w->seen;
    w->seen = now;
    w->cpu_seen = cpu;
}

/* Counts who runs; whether a thread is there that will take the next request by itself. */
static bool exec_survey_locked(int64_t now, int *running) {
    *running = 0;
    for (struct exec_worker *w = exec.workers; w; w = w->next) {
        switch (atomic_load(&w->state)) {
        case EXEC_LEADING:
        case EXEC_ENTERING:
            return true;
        case EXEC_RUNNING:
            exec_look(w, now);
            *running += !w->blocked;
            break;
        default:
            break;
        }
        if (*running >= exec.target)
            return true;
    }
    return false;
}

void exec_supervise(int64_t now) {
    int running, wanted, spawn = 0;

    exec_lock();
    if (!exec.queue.head || exec.stopping) {
        exec.growth = 1;
    } else if (!exec_survey_locked(now, &running)) {
        for (wanted = exec.growth; wanted > 0 && exec.idle; wanted--) {
            struct exec_worker *w = exec.idle;

            exec_idle_remove(w);
            w->woken = true;
            atomic_store(&w->state, EXEC_ENTERING);
            pthread_cond_signal(&w->wake);
        }
        if (wanted > 0 && exec.n_workers < exec.max)
            spawn = wanted < exec.max - exec.n_workers ? wanted : exec.max - exec.n_workers;
        if ((size_t)spawn > exec_queued())
            spawn = (int)exec_queued();
        if (exec.growth < EXEC_GROWTH_MAX)
            exec.growth *= 2;
    }
    exec_unlock();
    for (; spawn > 0; spawn--)
        if (exec_spawn() < 0) {
            log_warning("exec: cannot start another thread: %s", strerror(errno));
            break;
        }
}

void exec_read_numbers(struct exec_numbers *n) {
    exec_lock();
    *n = (struct exec_numbers){.workers = exec.n_workers, .idle = exec.n_idle};
    n->queued = exec_queued();
    for (struct exec_worker *w = exec.workers; w; w = w->next)
        if (w->current) {
            n->running++;
            n->blocked += w->blocked;
        }
    exec_unlock();
}

void exec_list(exec_list_cb *fn, void *arg) {
    exec_lock();
    for (struct exec_worker *w = exec.workers; w; w = w->next)
        fn(arg, w);
    exec_unlock();
}
