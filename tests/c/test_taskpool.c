/* test_taskpool.c - the queue, the threads and the groups of a pool. */
#include "config.h"

#include "tap.h"
#include "taskpool.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>

/* ThreadSanitizer has a thread of its own that wakes, and allows none after a fork. */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN true
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN false
#endif

/* A task as the tests want it: it counts itself, and may wait for a gate before it ends. */
struct job {
    struct taskpool_task head;
    sem_t *entered, *gate; /* NULL: neither tells nor waits */
    int number;
};

/* What the hooks of one pool have seen. */
struct seen {
    _Atomic int starts, stops, served, last_number;
    sem_t *start_gate;
};

static void post(sem_t *sem) {
    sem_post(sem);
}

/* Waits, across signals. */
static void await(sem_t *sem) {
    while (sem_wait(sem) < 0)
        ;
}

static void hook_start(void *context, int number) {
    struct seen *seen = context;

    (void)number;
    if (seen->start_gate)
        await(seen->start_gate);
    atomic_fetch_add(&seen->starts, 1);
}

static void hook_stop(void *context) {
    atomic_fetch_add(&((struct seen *)context)->stops, 1);
}

static void run(struct seen *seen, struct taskpool_task *task) {
    struct job *job = (struct job *)task;

    if (job->entered)
        post(job->entered);
    if (job->gate)
        await(job->gate);
    atomic_store(&seen->last_number, job->number);
    atomic_fetch_add(&seen->served, 1);
    taskpool_group_leave(task);
    taskpool_task_unref(task);
}

static void hook_serve(void *context, struct taskpool_task *task) {
    for (; task; task = taskpool_next(taskpool_mine()))
        run(context, task);
}

static const struct taskpool_hooks hooks = {hook_start, hook_stop, hook_serve};

static struct job *job_new(int number, sem_t *entered, sem_t *gate) {
    struct job *job = taskpool_task_new(sizeof *job);

    job->number = number;
    job->entered = entered;
    job->gate = gate;
    return job;
}

static struct taskpool *pool_new(int threads, size_t limit, struct seen *seen) {
    int started;
    struct taskpool *pool = taskpool_new(threads, limit, 0, "test", &hooks, seen, &started);

    if (!pool || started != threads)
        tap_bail("no pool: %s", strerror(errno));
    while (!taskpool_wait_started(pool))
        ;
    return pool;
}

static enum taskpool_result join(struct taskpool *pool, double seconds) {
    enum taskpool_result result;

    do
        result = taskpool_join(pool, seconds);
    while (result == TASKPOOL_INTERRUPTED);
    return result;
}

static void pool_end(struct taskpool *pool) {
    taskpool_close(pool, false);
    join(pool, 60);
    taskpool_free(pool);
}

/* Keeps so many threads busy until the gate is opened. */
static void occupy(struct taskpool *pool, int threads, sem_t *gate) {
    sem_t entered;

    sem_init(&entered, 0, 0);
    for (int i = 0; i < threads; i++) {
        taskpool_push_over(pool, &job_new(0, &entered, gate)->head);
        await(&entered);
    }
    sem_destroy(&entered);
}

static void test_runs_all(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(4, 0, &seen);
    struct taskpool_numbers n;

    is_int(seen.starts, 4, "each thread has called start when the wait for that is over");
    taskpool_read_numbers(pool, &n);
    is_int(n.threads, 4, "the pool has its threads");
    is_int(n.live, 4, "they live");
    for (int i = 0; i < 20000; i++)
        if (taskpool_push(pool, &job_new(i, NULL, NULL)->head) != TASKPOOL_OK)
            tap_bail("push");
    ok(!taskpool_closed(pool), "a pool is open");
    taskpool_close(pool, false);
    ok(taskpool_closed(pool), "and closed after taskpool_close()");
    is_int(join(pool, 60), TASKPOOL_OK, "all threads end");
    is_int(seen.served, 20000, "what was queued before the close has run, once");
    is_int(seen.stops, 4, "each thread has called stop");
    taskpool_read_numbers(pool, &n);
    is_int(n.live, 0, "none lives");
    is_int(n.busy, 0, "none is busy");
    is_int(n.queued, 0, "nothing is queued");
    is_int(join(pool, 0), TASKPOOL_OK, "a second join");
    ok(!taskpool_mine(), "this thread is no pool's");
    taskpool_free(pool);
}

static void test_order(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 0, &seen);
    sem_t gate;

    sem_init(&gate, 0, 0);
    occupy(pool, 1, &gate);
    for (int i = 1; i <= 100; i++)
        taskpool_push(pool, &job_new(i, NULL, NULL)->head);
    post(&gate);
    pool_end(pool);
    is_int(seen.last_number, 100, "one thread runs its tasks in the order of their arrival");
    sem_destroy(&gate);
}

static void test_limit(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 2, &seen);
    struct taskpool_numbers n;
    struct job *more = job_new(9, NULL, NULL);
    sem_t gate;

    sem_init(&gate, 0, 0);
    occupy(pool, 1, &gate);
    is_int(taskpool_push(pool, &job_new(1, NULL, NULL)->head), TASKPOOL_OK, "a first place");
    is_int(taskpool_push(pool, &job_new(2, NULL, NULL)->head), TASKPOOL_OK, "a second place");
    is_int(taskpool_push(pool, &more->head), TASKPOOL_FULL, "no third");
    is_int(taskpool_push_if_idle(pool, &more->head), TASKPOOL_FULL, "no thread is idle");
    taskpool_read_numbers(pool, &n);
    is_int(n.queued, 2, "two are queued");
    is_int(n.busy, 1, "one thread is busy");
    is_int(taskpool_push_over(pool, &more->head), TASKPOOL_OK, "beyond the limit when asked for");
    post(&gate);
    pool_end(pool);
    is_int(seen.served, 4, "all have run");
    is_int(seen.last_number, 9, "the one beyond the limit was the last");
    sem_destroy(&gate);
}

static void test_idle_places(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(3, 1, &seen);
    struct taskpool_group *group = taskpool_group_new();
    struct taskpool_numbers n;
    struct job *jobs[6];
    sem_t gate;
    int queued = 0;

    sem_init(&gate, 0, 0);
    do /* start has returned, but has the thread come to its queue? */
        taskpool_read_numbers(pool, &n);
    while (n.busy > 0);
    for (int i = 0; i < 6; i++) {
        jobs[i] = job_new(i, NULL, &gate);
        taskpool_group_join(group, &jobs[i]->head);
    }
    while (taskpool_push_wait(pool, &jobs[0]->head) == TASKPOOL_INTERRUPTED)
        ;
    for (int i = 1; i < 4; i++)
        while (taskpool_push_wait(pool, &jobs[i]->head) != TASKPOOL_OK)
            ;
    queued += taskpool_push(pool, &jobs[4]->head) == TASKPOOL_OK;
    queued += taskpool_push(pool, &jobs[5]->head) == TASKPOOL_OK;
    is_int(queued, 0, "three idle threads and one place take four tasks and no more");
    for (int i = 4; i < 6; i++) {
        taskpool_group_leave(&jobs[i]->head);
        taskpool_task_unref(&jobs[i]->head);
    }
    for (int i = 0; i < 4; i++)
        post(&gate);
    while (!taskpool_group_wait(group))
        ;
    taskpool_group_unref(group);
    is_int(seen.served, 4, "they run");
    pool_end(pool);
    sem_destroy(&gate);
}

/* Threads that push into a queue of one place. */
struct pusher {
    struct taskpool *pool;
    pthread_t thread;
    int pushed;
    enum taskpool_result last;
    sem_t *begun;
};

static void *push_many(void *arg) {
    struct pusher *p = arg;

    if (p->begun)
        post(p->begun);
    for (int i = 0; i < 2000; i++) {
        struct job *job = job_new(i, NULL, NULL);

        do
            p->last = taskpool_push_wait(p->pool, &job->head);
        while (p->last == TASKPOOL_INTERRUPTED);
        if (p->last != TASKPOOL_OK) {
            taskpool_task_unref(&job->head);
            break;
        }
        p->pushed++;
    }
    return NULL;
}

static void test_room(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(2, 1, &seen);
    struct pusher pushers[4];
    int pushed = 0;

    for (int i = 0; i < 4; i++) {
        pushers[i] = (struct pusher){.pool = pool};
        pthread_create(&pushers[i].thread, NULL, push_many, &pushers[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(pushers[i].thread, NULL);
        pushed += pushers[i].pushed;
    }
    is_int(pushed, 8000, "whoever waits for room gets it");
    pool_end(pool);
    is_int(seen.served, 8000, "and nothing is lost");
}

static void test_close_wakes_pusher(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 1, &seen);
    struct pusher pusher = {.pool = pool};
    sem_t gate, begun;

    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    pusher.begun = &begun;
    occupy(pool, 1, &gate);
    pthread_create(&pusher.thread, NULL, push_many, &pusher);
    await(&begun);
    taskpool_close(pool, false);
    pthread_join(pusher.thread, NULL);
    is_int(pusher.last, TASKPOOL_CLOSED, "who waits for room learns that the pool is closed");
    ok(pusher.pushed <= 1, "and has had one place at most");
    is_int(join(pool, 0.01), TASKPOOL_FULL, "a join gives up when its time is over");
    post(&gate);
    is_int(join(pool, HUGE_VAL), TASKPOOL_OK, "a join without a limit");
    is_int(seen.served, pusher.pushed + 1, "what was queued has run");
    taskpool_free(pool);
    sem_destroy(&gate);
    sem_destroy(&begun);
}

static void test_cancel(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 0, &seen);
    struct taskpool_task *list, *next;
    struct job *late = job_new(3, NULL, NULL);
    sem_t gate;
    int sum = 0;

    sem_init(&gate, 0, 0);
    occupy(pool, 1, &gate);
    taskpool_push(pool, &job_new(1, NULL, NULL)->head);
    taskpool_push(pool, &job_new(2, NULL, NULL)->head);
    list = taskpool_close(pool, true);
    for (; list; list = next) {
        next = list->next;
        sum = sum * 10 + ((struct job *)list)->number;
        taskpool_task_unref(list);
    }
    is_int(sum, 12, "a close that cancels gives what was queued, in order");
    is_int(taskpool_push(pool, &late->head), TASKPOOL_CLOSED, "a closed pool takes nothing");
    is_int(taskpool_push_over(pool, &late->head), TASKPOOL_CLOSED, "by no way");
    is_int(taskpool_push_if_idle(pool, &late->head), TASKPOOL_CLOSED, "also of its own thread");
    is_int(taskpool_push_wait(pool, &late->head), TASKPOOL_CLOSED, "nor does one wait for it");
    taskpool_task_unref(&late->head);
    ok(!taskpool_close(pool, true), "a second close finds nothing");
    post(&gate);
    pool_end(pool);
    is_int(seen.served, 1, "what ran was not touched");
    sem_destroy(&gate);
}

static void test_withdraw(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 0, &seen);
    struct job *jobs[3];
    sem_t gate;

    sem_init(&gate, 0, 0);
    occupy(pool, 1, &gate);
    for (int i = 0; i < 3; i++) {
        jobs[i] = job_new(i, NULL, NULL);
        atomic_store(&jobs[i]->head.refs, 2);
        taskpool_push(pool, &jobs[i]->head);
    }
    ok(taskpool_withdraw(pool, &jobs[1]->head), "a task is taken out of the middle");
    ok(!taskpool_withdraw(pool, &jobs[1]->head), "once");
    taskpool_task_unref(&jobs[1]->head);
    ok(taskpool_withdraw(pool, &jobs[2]->head), "and the last");
    taskpool_task_unref(&jobs[2]->head);
    post(&gate);
    taskpool_close(pool, false);
    join(pool, 60);
    is_int(seen.served, 2, "the others have run");
    ok(!taskpool_withdraw(pool, &jobs[0]->head), "one that has run is in no queue");
    taskpool_free(pool);
    for (int i = 0; i < 3; i++)
        taskpool_task_unref(&jobs[i]->head);
    sem_destroy(&gate);
}

static void test_groups(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(3, 0, &seen);
    int good = 0;

    for (int round = 0; round < 2000; round++) {
        struct taskpool_group *group = taskpool_group_new();
        int before = atomic_load(&seen.served);

        for (int i = 0; i < round % 7; i++) {
            struct job *job = job_new(i, NULL, NULL);

            taskpool_group_join(group, &job->head);
            taskpool_push(pool, &job->head);
        }
        while (!taskpool_group_wait(group))
            ;
        good += atomic_load(&seen.served) - before == round % 7;
        taskpool_group_unref(group);
    }
    is_int(good, 2000, "a group's wait ends when all of its tasks have, and not before");
    pool_end(pool);
}

static sem_t signalled;

static void on_signal(int number) {
    (void)number;
    sem_post(&signalled);
}

/* Interrupts the waiter until it says that it has noticed. */
struct pest {
    pthread_t victim, thread;
    _Atomic bool enough;
};

static void *pester(void *arg) {
    struct pest *pest = arg;

    while (!atomic_load(&pest->enough)) {
        pthread_kill(pest->victim, SIGUSR2);
        await(&signalled);
        sched_yield();
    }
    return NULL;
}

static void test_signals(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 1, &seen);
    struct taskpool_group *group = taskpool_group_new();
    struct pest pest = {.victim = pthread_self()};
    struct job *job = job_new(1, NULL, NULL), *more = job_new(2, NULL, NULL);
    sem_t gate;

    sem_init(&gate, 0, 0);
    sem_init(&signalled, 0, 0);
    occupy(pool, 1, &gate);
    taskpool_group_join(group, &job->head);
    taskpool_push(pool, &job->head);
    pthread_create(&pest.thread, NULL, pester, &pest);
    ok(!taskpool_group_wait(group), "a signal ends the wait for a group");
    is_int(taskpool_push_wait(pool, &more->head), TASKPOOL_INTERRUPTED, "the wait for room");
    taskpool_close(pool, false);
    is_int(taskpool_join(pool, HUGE_VAL), TASKPOOL_INTERRUPTED, "and the wait for the end");
    is_int(taskpool_join_all(HUGE_VAL), TASKPOOL_INTERRUPTED, "of all pools, too");
    taskpool_task_unref(&more->head);
    post(&gate);
    while (!taskpool_group_wait(group))
        ;
    ok(true, "a wait that was ended so can be gone on with");
    atomic_store(&pest.enough, true);
    pthread_join(pest.thread, NULL);
    taskpool_group_unref(group);
    pool_end(pool);
    sem_destroy(&gate);
    sem_destroy(&signalled);
}

static void test_signal_before_the_wait(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(1, 0, &seen);
    struct taskpool_group *group = taskpool_group_new();
    struct job *job;
    sem_t gate;

    sem_init(&gate, 0, 0);
    job = job_new(1, NULL, &gate);
    taskpool_group_join(group, &job->head);
    taskpool_push(pool, &job->head);
    ok(!taskpool_group_wait(group), "the main thread's wait lets it look for earlier signals");
    post(&gate);
    while (!taskpool_group_wait(group))
        ;
    taskpool_group_unref(group);
    pool_end(pool);
    sem_destroy(&gate);
}

static void test_start_is_waited_for(void) {
    struct seen seen = {0};
    struct taskpool *pool;
    sem_t gate;
    int started;

    sem_init(&gate, 0, 0);
    seen.start_gate = &gate;
    pool = taskpool_new(2, 0, 0, NULL, &hooks, &seen, &started);
    ok(!taskpool_wait_started(pool), "threads that have not called start are waited for");
    post(&gate);
    post(&gate);
    while (!taskpool_wait_started(pool))
        ;
    ok(taskpool_wait_started(pool), "and need not be a second time");
    is_int(seen.starts, 2, "both have called start");
    pool_end(pool);
    sem_destroy(&gate);
}

static void test_not_all_threads(void) {
    struct seen seen = {0};
    int started = -1;

    /* A stack that no machine has room for. */
    errno = 0;
    ok(!taskpool_new(2, 0, (size_t)1 << 60, NULL, &hooks, &seen, &started), "no thread: no pool");
    ok(errno != 0, "and errno says why");
    is_int(started, 0, "none was started");
}

static void test_owner_gone(void) {
    static struct seen seen;
    struct taskpool *pool = pool_new(2, 0, &seen);
    enum taskpool_result result;
    sem_t gate;

    sem_init(&gate, 0, 0);
    occupy(pool, 2, &gate);
    for (int i = 0; i < 50; i++)
        taskpool_push(pool, &job_new(i, NULL, NULL)->head);
    taskpool_free(pool);
    is_int(taskpool_join_all(0), TASKPOOL_FULL, "threads go on after their owner");
    post(&gate);
    post(&gate);
    do
        result = taskpool_join_all(60);
    while (result == TASKPOOL_INTERRUPTED);
    is_int(result, TASKPOOL_OK, "and can be waited for");
    is_int(seen.served, 52, "what was queued has run");
    is_int(seen.stops, 2, "both have called stop");
    sem_destroy(&gate);
}

/* Sleeping threads have nothing to wake them. */
static long switches(void) {
    char path[300], line[200];
    long total = 0, n;
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        FILE *f;

        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        if (*entry->d_name == '.' || atoi(entry->d_name) == getpid() || !(f = fopen(path, "r")))
            continue;
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
                total += n;
        fclose(f);
    }
    if (dir)
        closedir(dir);
    return total;
}

/* How often the threads sleep in half a second, when they have come to rest. */
static long switches_at_rest(void) {
    struct timespec half = {0, 500000000};
    long before;

    for (int i = 0; i < 20; i++) {
        before = switches();
        nanosleep(&half, NULL);
        if (switches() == before)
            return 0;
    }
    return switches() - before;
}

static void test_idle_threads_sleep(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(8, 0, &seen);

    if (access("/proc/self/task", R_OK) < 0 || UNDER_TSAN)
        diag("idle threads cannot be watched here");
    else
        is_int(switches_at_rest(), 0, "idle threads sleep and do not wake");
    pool_end(pool);
}

static void make_and_use_in_child(void) {
    struct seen seen = {0};
    struct taskpool *pool = pool_new(2, 0, &seen);

    for (int i = 0; i < 100; i++)
        taskpool_push(pool, &job_new(i, NULL, NULL)->head);
    pool_end(pool);
    _exit(seen.served == 100 && taskpool_join_all(0) == TASKPOOL_OK ? 7 : 8);
}

static struct taskpool *parents;

static void look_in_child(void) {
    _exit(taskpool_forked(parents) ? 7 : 8);
}

static void test_fork(void) {
    struct seen seen = {0};
    struct taskpool *pool = parents = pool_new(2, 0, &seen);
    int status;

    ok(!taskpool_forked(pool), "a pool is this process's");
    status = tap_child(look_in_child, NULL);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 7, "and not that of a child of it");
    if (!UNDER_TSAN) {
        status = tap_child(make_and_use_in_child, NULL);
        ok(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child can have a pool of its own");
    }
    pool_end(pool);
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGUSR2, &action, NULL);
    test_runs_all();
    test_order();
    test_limit();
    test_idle_places();
    test_room();
    test_close_wakes_pusher();
    test_cancel();
    test_withdraw();
    test_groups();
    test_signals();
    test_signal_before_the_wait();
    test_start_is_waited_for();
    test_not_all_threads();
    test_owner_gone();
    test_idle_threads_sleep();
    test_fork();
    return tap_end();
}
