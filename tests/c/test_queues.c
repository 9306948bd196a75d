/* test_queues.c - queues with a thread of their own: order, affinity, ends, and who is interrupted.
 *
 * First the table of queues alone; then a true pool whose hooks stand for Python, with the main
 * thread as the one that reads requests. Runs under TSan as well.
 */
#define _GNU_SOURCE /* pthread_setattr_default_np */
#include "config.h"

#include "pool.h"
#include "queues.h"
#include "tap.h"
#include "watched.h"

#include <sched.h>

enum { TARGET = 2, MAX = 8, LIMIT = 20000, SECONDS = 60 };

/* What stands for connections: exec compares their addresses only. */
static char conns[4];
#define CONN(n) ((struct conn *)&conns[n])

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, s ? strlen(s) : 0};
}

static bool is_text(struct slice s, const char *want) {
    return slice_equal(s, text(want));
}

static void test_table(void) {
    static struct queue *all[QUEUES_MAX];
    char name[8];
    struct queue *a;
    int same = 0, i;

    ok(!queues_find(text("a")), "there is no queue in the beginning");
    a = queues_get(text("a"));
    ok(a && queues_get(text("a")) == a && queues_find(text("a")) == a, "a name is one queue's");
    ok(a->lane.queue == a && is_text(a->name, "a"), "which knows it");
    queues_unname(a);
    ok(!queues_find(text("a")), "a name can be taken away");
    ok(queues_get(text("a")) != a, "and is another queue's from then on");
    queues_free(a);
    queues_free(queues_find(text("a")));
    ok(!queues_find(text("a")), "which goes with its name");
    for (i = 0; i < QUEUES_MAX; i++) {
        snprintf(name, sizeof name, "%d", i);
        all[i] = i % 2 ? queues_get(text(name)) : queues_new();
    }
    for (i = 1; i < QUEUES_MAX; i += 2) {
        snprintf(name, sizeof name, "%d", i);
        same += queues_find(text(name)) == all[i];
    }
    is_int(same, QUEUES_MAX / 2, "many are found by their names");
    ok(!queues_new() && !queues_get(text("x")), "there can be so many and no more");
    ok(queues_get(text("1")) == all[1], "those that are there can be used");
    for (i = 0; i < QUEUES_MAX; i++)
        queues_free(all[i]);
    ok(!queues_find(text("1")), "all are gone");
}

/* From here on: a true pool. What a request does is the text of its function. */

static int started, stopped; /* threads */
static int served, unheard;  /* requests; of these, without an audience */
static int inside;           /* requests that block now */
static int release;          /* those that block may go on */
static int interrupts;       /* calls of the hook */
static int delivered;        /* workers that were interrupted in them */
static int wrong;            /* interrupts that hit another request than the one they were for */

/* What stands for a thread state: the request whose interruption waits to be raised. */
struct state {
    const struct request *_Atomic raised;
};

static const char *last; /* the reference of the last request served, and its thread */
static pthread_t last_thread;

/* What the requests of one queue change without a lock: no two of them may run at once. */
struct notes {
    pthread_t thread;
    int next[4]; /* of each pusher */
    int count, out_of_order, other_thread;
};

static struct notes notes[4];

static void note(const struct request *r) {
    struct notes *n = &notes[r->spawn_flags];
    int *next = &n->next[r->conn == CONN(0) ? 0 : r->conn == CONN(1) ? 1 : 2];

    n->other_thread += n->count > 0 && !pthread_equal(n->thread, pthread_self());
    n->thread = pthread_self();
    n->count++;
    n->out_of_order += r->pid_serial != (uint32_t)(*next)++;
}

static void block(void) {
    pthread_mutex_lock(&lock);
    inside++;
    pthread_cond_broadcast(&changed);
    while (!release)
        pthread_cond_wait(&changed, &lock);
    inside--;
    pthread_mutex_unlock(&lock);
}

/* Runs until it is interrupted, or not for long. */
static void listen(struct state *s, const struct request *r, bool for_ever) {
    const struct request *raised = NULL;

    for (int i = 0; !raised && (for_ever || i < 20); i++) {
        raised = atomic_exchange(&s->raised, NULL);
        sched_yield();
    }
    if (raised && raised != r)
        change(&wrong, 1);
}

static void serve_one(struct exec_worker *w, struct request *r) {
    if (is_text(r->function, "block"))
        block();
    else if (is_text(r->function, "note"))
        note(r);
    else if (is_text(r->function, "listen"))
        listen(w->context, r, false);
    else if (is_text(r->function, "listen for ever"))
        listen(w->context, r, true);
    else if (is_text(r->function, "end"))
        exec_end_queue(w);
}

static void start_cb(struct exec_worker *w) {
    w->context = calloc(1, sizeof(struct state));
    change(&started, 1);
}

static void stop_cb(struct exec_worker *w) {
    free(w->context);
    change(&stopped, 1);
}

static void serve_cb(struct exec_worker *w) {
    struct state *s = w->context;
    struct request *r;

    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w))) {
        bool wanted, other = atomic_load(&s->raised) != NULL && atomic_load(&s->raised) != r;

        serve_one(w, r);
        wanted = exec_claim(r);
        if (r->interrupted)
            atomic_store(&s->raised, NULL);
        for (int i = 0; i < 5 && r->function.len > 0; i++) /* answers, which takes a moment */
            sched_yield();
        other = other || atomic_load(&s->raised);
        pthread_mutex_lock(&lock);
        last = (const char *)r->ref.data;
        last_thread = pthread_self();
        pthread_mutex_unlock(&lock);
        exec_finish(w, r);
        request_free(r);
        pthread_mutex_lock(&lock);
        served++;
        unheard += !wanted;
        wrong += other;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
}

/* These workers do not read sockets. */
static bool lead_cb(struct exec_worker *w) {
    (void)w;
    return false;
}

static _Atomic int raised_now;

static bool raise_cb(const struct exec_worker *w) {
    struct state *s = w->context;

    atomic_store(&s->raised, w->current);
    atomic_fetch_add(&raised_now, 1);
    return true;
}

static void interrupt_cb(void) {
    pool_each_interrupt(raise_cb);
    change(&delivered, atomic_exchange(&raised_now, 0));
    change(&interrupts, 1);
}

static const struct exec_hooks hooks = {.start = start_cb,
                                        .serve = serve_cb,
                                        .lead = lead_cb,
                                        .stop = stop_cb,
                                        .interrupt = interrupt_cb};

/* Plays the io thread until *what is as wanted: whether it came to that in time. */
static bool until(const int *what, int wanted) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct timespec t;
    int64_t now;

    while ((now = clock_now()) < end && look(what) != wanted) {
        pool_supervise(now);
        now += 1000000;
        t = (struct timespec){now / 1000000000, now % 1000000000};
        pthread_mutex_lock(&lock);
        if (*what != wanted)
            pthread_cond_timedwait(&changed, &lock, &t);
        pthread_mutex_unlock(&lock);
    }
    return look(what) == wanted;
}

static struct pool_numbers numbers(void) {
    struct pool_numbers n;

    pool_read_numbers(&n);
    return n;
}

/* Until there are so many threads of queues: they are counted a moment longer than they serve. */
static bool until_queues(int wanted) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (numbers().queues != wanted && clock_now() < end)
        sched_yield();
    return numbers().queues == wanted;
}

/* A request for a queue: of that name, "new" for a thread of its own, or NULL for the pool. */
static struct request *request(int conn, const char *ref, const char *queue, const char *function) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_APP_CALL;
    r->conn = CONN(conn);
    r->ref = text(ref);
    r->function = text(function);
    if (queue && strcmp(queue, "new") == 0)
        r->options.thread = true;
    else
        r->options.queue = text(queue);
    return r;
}

static void push(int conn, const char *ref, const char *queue, const char *function) {
    if (!exec_push(request(conn, ref, queue, function)))
        tap_bail("%s was not taken", ref);
}

/* Frees a list of requests: their references, "a b c". */
static const char *drop(struct request *r) {
    static char line[256];

    *line = 0;
    while (r) {
        struct request *next = r->next;

        snprintf(line + strlen(line), sizeof line - strlen(line), "%s%.*s", *line ? " " : "",
                 (int)r->ref.len, (const char *)r->ref.data);
        request_free(r);
        r = next;
    }
    return line;
}

static pthread_t thread_of_last(void) {
    pthread_t t;

    pthread_mutex_lock(&lock);
    t = last_thread;
    pthread_mutex_unlock(&lock);
    return t;
}

/* What a scene begins with: nothing runs, no queue is there. */
static void begin(void) {
    if (exec_load() > 0 || !until_queues(0))
        tap_bail("something is left of the scene before");
    pthread_mutex_lock(&lock);
    served = unheard = release = 0;
    pthread_mutex_unlock(&lock);
}

/* Lets what blocks go on until so many have been served; then the queues go. */
static void end(int wanted, const char *const *names) {
    bool runs;

    change(&release, 1);
    ok(until(&served, wanted), "all %d are served", wanted);
    for (; *names; names++)
        drop(exec_drop_queue(text(*names), &runs));
    ok(until_queues(0), "the threads of the queues have ended");
    is_int(exec_load() + exec_queued(), 0, "nothing is left");
}

#define END(n, ...) end(n, (const char *const[]){__VA_ARGS__, NULL})

enum { PUSHERS = 3, QUEUES = 3, PER_PUSHER = 900 };

static void *pusher_main(void *arg) {
    static const char *const names[QUEUES] = {"a", "b", "c"};
    int conn = *(int *)arg;

    for (int i = 0; i < PER_PUSHER; i++) {
        struct request *r = request(conn, "r", names[i % QUEUES], "note");

        r->spawn_flags = i % QUEUES;
        r->pid_serial = (uint32_t)(i / QUEUES);
        if (!exec_push(r))
            request_free(r);
    }
    return NULL;
}

static void test_order(void) {
    pthread_t threads[PUSHERS];
    int ids[PUSHERS], before = look(&started), i;

    begin();
    for (i = 0; i < PUSHERS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, pusher_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (i = 0; i < PUSHERS; i++)
        pthread_join(threads[i], NULL);
    ok(until(&served, PUSHERS * PER_PUSHER), "%d requests of %d threads in %d queues",
       PUSHERS * PER_PUSHER, PUSHERS, QUEUES);
    for (i = 0; i < QUEUES; i++) {
        is_int(notes[i].count, PUSHERS * PER_PUSHER / QUEUES, "queue %d: each once", i);
        is_int(notes[i].out_of_order, 0, "each thread's in its order");
        is_int(notes[i].other_thread, 0, "all on one thread");
    }
    ok(!pthread_equal(notes[0].thread, notes[1].thread) &&
           !pthread_equal(notes[1].thread, notes[2].thread) &&
           !pthread_equal(notes[0].thread, notes[2].thread),
       "which is another for each queue");
    is_int(numbers().queues, QUEUES, "the threads stay");
    is_int(look(&started) - before, QUEUES, "there were no more of them");
    END(PUSHERS * PER_PUSHER, "a", "b", "c");
}

/* Counts what is listed: the workers of queue a, of others and of the pool. */
static void list_cb(void *arg, const struct exec_worker *w) {
    int *counts = arg;

    counts[!w->queue ? 2 : is_text(w->queue->name, "a") ? 0 : 1]++;
}

static void test_apart(void) {
    int counts[3] = {0}, workers;
    pthread_t pool;

    begin();
    push(0, "a1", "a", "block");
    push(0, "a2", "a", "");
    ok(until(&inside, 1), "a queue is busy");
    push(0, "p", NULL, "");
    push(0, "b", "b", "");
    ok(until(&served, 2), "the pool and other queues do not wait for it");
    workers = numbers().workers; /* on a busy machine the pool may have grown for p */
    ok(workers >= TARGET && workers <= MAX, "the pool is what it may be");
    is_int(numbers().queues, 2, "beside it two queues have threads");
    is_int(numbers().running, 1, "one of which runs something");
    is_int(exec_queued(), 1, "one waits behind it");
    is_int(exec_ready(), 0, "which is nothing for the pool");
    pool_list(list_cb, counts);
    ok(counts[0] == 1 && counts[1] == 1 && counts[2] == workers, "all are listed, by queue");
    push(0, "p2", NULL, "");
    ok(until(&served, 3), "the pool serves");
    pool = thread_of_last();
    END(5, "a", "b");
    ok(!pthread_equal(pool, thread_of_last()), "a queue's thread is none of the pool's");
}

static void test_cancel(void) {
    struct request *r;

    begin();
    push(0, "run", "a", "block");
    push(0, "w1", "a", "");
    push(1, "w2", "a", "");
    push(0, "w3", "a", "");
    push(0, "w4", "a", "");
    ok(until(&inside, 1), "one runs, the others wait");
    is_str(drop(exec_cancel(CONN(0), text("w3"))), "w3", "one that waits is taken out");
    ok(!exec_cancel(CONN(0), text("run")), "one that runs is not");
    is_int(exec_interrupt(CONN(0), text("w4"), &r), EXEC_WITHDRAWN, "nor is one interrupted");
    is_str(drop(r), "w4", "that waits");
    is_str(drop(exec_cancel_conn(CONN(0))), "w1", "a connection's go with it");
    is_int(exec_queued(), 1, "the other connection's stays");
    END(2, "a");
    is_int(look(&unheard), 1, "the one that ran had lost its audience");
}

static void test_limit(void) {
    struct request *r = request(0, "one more", "a", "");
    int i;

    begin();
    push(0, "run", "a", "block");
    ok(until(&inside, 1), "one runs");
    for (i = 0; i < LIMIT; i++)
        push(0, "x", "a", "");
    ok(!exec_push(r), "as many as may wait: no more are taken");
    ok(!r->lane, "and what was not is as it was");
    request_free(r);
    r = request(0, "p", NULL, "");
    ok(!exec_push(r), "for the pool neither: it is one limit");
    request_free(r);
    END(LIMIT + 1, "a");
}

/* A thread of a queue ends on demand; what waits behind goes to a new one. */
static void test_end(void) {
    begin();
    push(0, "a1", "a", "");
    ok(until(&served, 1), "a queue serves");
    push(0, "a2", "a", "block");
    push(0, "end", "a", "end");
    push(0, "a3", "a", "block");
    push(0, "a4", "a", "");
    ok(until(&inside, 1), "it is busy");
    pthread_mutex_lock(&lock);
    release = 1;
    pthread_mutex_unlock(&lock);
    change(&release, 0);
    ok(until(&served, 5), "the end is not the end of what came after");
    is_str(last, "a4", "which follows in its order");
    ok(until_queues(1), "on one thread");
    push(0, "end", "a", "end");
    ok(until(&served, 6), "a second end");
    ok(until_queues(0), "nothing waits: the queue is gone");
    push(0, "a5", "a", "");
    ok(until(&served, 7), "it can be used again");
    END(7, "a");
}

/* The thread after the end is another one: the first is still counted while it says goodbye. */
static void test_end_thread(void) {
    int threads = look(&started), ended = look(&stopped);

    begin();
    push(0, "a1", "a", "block");
    push(0, "end", "a", "end");
    push(0, "a2", "a", "");
    push(0, "a3", "a", "");
    change(&release, 1);
    ok(until(&served, 4), "four in a row, the second ends the thread");
    is_int(look(&started) - threads, 2, "two threads have served them");
    is_int(look(&stopped) - ended, 1, "the first has ended");
    END(4, "a");
}

static void test_drop(void) {
    bool runs = true;
    int before;

    begin();
    ok(!exec_drop_queue(text("a"), &runs) && !runs, "a queue that is not there has nothing");
    push(0, "a1", "a", "");
    ok(until(&served, 1), "one that is idle");
    ok(!exec_drop_queue(text("a"), &runs) && !runs, "has nothing, neither");
    ok(until_queues(0), "but its thread goes");

    push(0, "b1", "b", "block");
    push(0, "b2", "b", "");
    push(1, "b3", "b", "");
    push(0, "b4", "b", "");
    ok(until(&inside, 1), "one that is busy");
    before = look(&interrupts);
    is_str(drop(exec_drop_queue(text("b"), &runs)), "b2 b3 b4", "gives back all that waits");
    ok(runs, "and says that one runs");
    ok(until(&interrupts, before + 1), "which is interrupted");
    push(0, "b5", "b", "");
    ok(until(&served, 2), "what comes after does not wait for it");
    is_int(numbers().queues, 2, "the one that does not listen still has its thread");
    change(&release, 1);
    ok(until(&served, 3), "when it has ended");
    ok(until_queues(1), "its thread ends");
    is_int(look(&unheard), 0, "its answer was wanted");
    END(3, "b");
}

static void test_new(void) {
    int before = look(&started), i;

    begin();
    for (i = 0; i < 100; i++)
        push(0, "n", "new", i % 2 ? "" : "listen");
    ok(until(&served, 100), "a hundred requests, each with a thread of its own");
    ok(until_queues(0), "which have all ended");
    is_int(look(&started) - before, 100, "there was one for each");
    push(0, "n1", "new", "block");
    push(0, "n2", "new", "block");
    ok(until(&inside, 2), "two at once");
    change(&release, 1);
    ok(until(&served, 102), "do not wait for each other");
    for (i = 0; i < 100; i++) {
        push(0, "n3", "new", "");
        drop(exec_cancel(CONN(0), text("n3")));
    }
    ok(until_queues(0), "one that is cancelled leaves nothing, wherever it was");
    is_int(exec_load() + exec_queued(), 0, "nothing at all");
}

/* Threads want more stack than there are addresses. */
static void test_no_thread(void) {
    struct request *r = request(0, "r", "a", ""), *n = request(0, "n", "new", "");
    pthread_attr_t attr, usual;

    begin();
    pthread_getattr_default_np(&usual);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, (size_t)1 << 47);
    pthread_setattr_default_np(&attr);
    ok(!exec_push(r), "no thread can be started: the request is not taken");
    ok(!exec_push(n), "nor one for a thread of its own");
    ok(!r->lane && !n->lane, "both are as they were");
    is_int(numbers().queues, 0, "no queue is left of them");
    is_int(exec_load() + exec_queued(), 0, "nor do they count");
    pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&attr);
    pthread_attr_destroy(&usual);
    ok(exec_push(r) && exec_push(n), "with threads they are taken");
    END(2, "a");
}

/* One at the end of a queue whose successor cannot be started: the old thread begins anew. */
static void test_no_successor(void) {
    pthread_attr_t attr, usual;
    int before = look(&started);

    begin();
    push(0, "a1", "a", "block");
    push(0, "end", "a", "end");
    push(0, "a2", "a", "");
    ok(until(&inside, 1), "a queue is busy, and to end");
    pthread_getattr_default_np(&usual);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, (size_t)1 << 47);
    pthread_setattr_default_np(&attr);
    change(&release, 1);
    ok(until(&served, 3), "what waits behind is served without another thread, too");
    is_int(look(&started) - before, 2, "by the same, after an end and a start");
    pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&attr);
    pthread_attr_destroy(&usual);
    END(3, "a");
}

static void test_interrupt(void) {
    struct request *r;
    int before;

    begin();
    is_int(exec_interrupt(CONN(0), text("a"), &r), EXEC_NOT_FOUND, "nothing to interrupt");
    push(0, "a", "a", "listen for ever");
    push(0, "p", NULL, "listen for ever");
    while (numbers().running != 2) {
        pool_supervise(clock_now());
        sched_yield();
    }
    before = look(&delivered);
    is_int(exec_interrupt(CONN(1), text("a"), &r), EXEC_NOT_FOUND, "not another connection's");
    is_int(exec_interrupt(CONN(0), text("a"), &r), EXEC_INTERRUPTED, "one in a queue is");
    ok(until(&served, 1), "and listens");
    is_int(exec_interrupt(CONN(0), text("p"), &r), EXEC_INTERRUPTED, "one of the pool is");
    ok(until(&served, 2), "and listens");
    ok(until(&delivered, before + 2), "each once");
    is_int(look(&unheard), 2, "neither has an audience");
    END(2, "a");
}

enum { SHORT = 6000 };

/* Interrupts at any moment of many short requests, which are told apart by their addresses. */
static void test_interrupt_stress(void) {
    static const char *const queues[] = {NULL, "a", NULL, "b", "new"};
    static char refs[SHORT][8];
    int found[3] = {0}, pushed = 0, at = 0, before = look(&delivered);
    unsigned seed = 1;

    begin();
    wrong = 0;
    while (at < SHORT) {
        struct request *r;

        for (int i = 0; i < 8 && pushed < SHORT; i++, pushed++) {
            snprintf(refs[pushed], sizeof refs[pushed], "%d", pushed);
            push(0, refs[pushed], queues[pushed % 5], "listen");
        }
        seed = seed * 1103515245 + 12345;
        for (int i = 0; i < 8; i++, at++) {
            pool_supervise(clock_now());
            if (seed >> 16 & 1u << i)
                found[exec_interrupt(CONN(0), text(refs[at]), &r)]++;
            else
                r = NULL;
            drop(r);
            if (seed >> 24 & 1)
                sched_yield();
        }
    }
    ok(until(&served, SHORT - found[EXEC_WITHDRAWN]), "each is served or withdrawn");
    is_int(look(&wrong), 0, "no interruption has hit another request");
    diag("found none %d, withdrawn %d, running %d, delivered %d", found[EXEC_NOT_FOUND],
         found[EXEC_WITHDRAWN], found[EXEC_INTERRUPTED], look(&delivered) - before);
    ok(found[EXEC_INTERRUPTED] > 0 && look(&delivered) > before, "some hit the right one");
    ok(look(&delivered) - before <= found[EXEC_INTERRUPTED], "none twice");
    is_int(look(&unheard), found[EXEC_INTERRUPTED], "who was interrupted has no audience");
    END(SHORT - found[EXEC_WITHDRAWN], "a", "b");
}

/* The threads of queues end with the pool, the idle and the busy. */
static void test_stop(void) {
    struct request *r = request(0, "late", "a", "");
    int threads[3] = {0};
    bool runs;

    begin();
    push(0, "a", "a", "");
    push(0, "c", "c", "");
    ok(until(&served, 2), "two queues are idle");
    push(0, "b1", "b", "block");
    push(0, "n", "new", "block");
    ok(until(&inside, 2), "two are busy");
    push(0, "end", "b", "end");
    push(0, "b2", "b", "");
    push(1, "b3", "b", "");
    pool_stop_begin();
    ok(!pool_stop_wait(0.05), "those are waited for, but not for ever");
    ok(!exec_push(r), "nothing is taken any more");
    request_free(r);
    change(&release, 1);
    ok(pool_stop_wait(SECONDS), "when they have ended all threads end");
    pool_list(list_cb, threads);
    is_int(threads[0] + threads[1] + threads[2], 0, "no worker is left");
    is_int(look(&stopped), look(&started), "each thread that started has stopped");
    is_int(look(&served), 5, "all were served but what was behind an end");
    is_str(drop(exec_cancel_conn(CONN(1))), "b3", "that can still be cancelled");
    is_str(drop(exec_drop_queue(text("b"), &runs)), "b2", "or dropped");
    ok(!runs, "nothing runs");
}

int main(void) {
    pthread_condattr_t attr;

    request_init("py@h", 77);
    test_table();
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    exec_init(TARGET, MAX, LIMIT, &hooks);
    if (pool_start() < 0 || !until(&started, TARGET))
        tap_bail("no pool");
    test_order();
    test_apart();
    test_cancel();
    test_limit();
    test_end();
    test_end_thread();
    test_drop();
    test_new();
    test_no_thread();
    test_no_successor();
    test_interrupt();
    test_interrupt_stress();
    test_stop();
    return tap_end();
}
