/* control.c - the pseudo-module `pynode`: what the node tells of itself without Python. */
#include "config.h"

#include "control.h"
#include "answer.h"
#include "channels.h"
#include "load.h"
#include "outcome.h"
#include "procs.h"
#include "queues.h"
#include "route.h"
#include "stats.h"
#include "tasks.h"

#include <stdlib.h>
#include <unistd.h>

enum { CONTROL_RSS_STEP = 1 << 20 };

static struct {
    const struct control_facts *facts;
    int64_t started;
    _Atomic bool ready;
} control;

void control_init(const struct control_facts *facts) {
    control.facts = facts;
    control.started = clock_now();
}

const struct control_facts *control_get_facts(void) {
    return control.facts;
}

int64_t control_uptime(void) {
    return clock_now() - control.started;
}

void control_set_ready(void) {
    atomic_store(&control.ready, true);
}

const char *control_state(void) {
    if (route_draining())
        return "draining";
    return atomic_load(&control.ready) ? "ready" : "starting";
}

static void control_put_number(struct buf *out, const char *key, uint64_t value) {
    etf_put_atom(out, key);
    etf_put_integer(out, (int64_t)value);
}

static void control_put_text(struct buf *out, const char *key, const char *value) {
    etf_put_atom(out, key);
    etf_put_string(out, value);
}

static bool control_is_integer(const char *text) {
    const char *digits = text + (*text == '-');
    size_t n = strspn(digits, "0123456789");

    return n > 0 && n < 16 && !digits[n];
}

/* Without a value it is true; true, false and integers are what they look like, all else is text. */
static void control_put_label(struct buf *out, const char *label) {
    const char *is = strchr(label, '='), *value = is ? is + 1 : "true";
    size_t key = strcspn(label, "=");

    etf_put_binary(out, label, key);
    if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0)
        etf_put_atom(out, value);
    else if (control_is_integer(value))
        etf_put_integer(out, strtoll(value, NULL, 10));
    else
        etf_put_string(out, value);
}

static void control_put_labels(struct buf *out) {
    const struct options_list *labels = &control.facts->labels;

    etf_put_atom(out, "labels");
    etf_put_map(out, (uint32_t)labels->len);
    for (size_t i = 0; i < labels->len; i++)
        control_put_label(out, labels->items[i]);
}

static void control_put_imports(struct buf *out) {
    const struct options_list *imports = &control.facts->imports;

    etf_put_atom(out, "imports");
    if (imports->len > 0)
        etf_put_list(out, (uint32_t)imports->len);
    for (size_t i = 0; i < imports->len; i++)
        etf_put_string(out, imports->items[i]);
    etf_put_nil(out);
}

/* #{state => ready, node => 'py@h', python => <<"3.11.2">>, ...} */
void control_put_status(struct buf *out) {
    struct pool_numbers n;
    int channels, pooled;

    pool_read_numbers(&n);
    channels_count(&channels, &pooled);
    etf_put_map(out, 22);
    etf_put_atom(out, "state");
    etf_put_atom(out, control_state());
    etf_put_atom(out, "node");
    etf_put_atom(out, control.facts->node);
    etf_put_atom(out, "pid");
    request_put_pid(out, 0, 0);
    control_put_text(out, "version", control.facts->version);
    control_put_text(out, "python", control.facts->python);
    control_put_number(out, "os_pid", (uint64_t)getpid());
    control_put_number(out, "uptime", (uint64_t)control_uptime() / 1000000000);
    control_put_number(out, "workers", (uint64_t)n.workers);
    control_put_number(out, "min_workers", (uint64_t)control.facts->workers);
    control_put_number(out, "max_workers", (uint64_t)control.facts->max_workers);
    control_put_number(out, "running", (uint64_t)n.running);
    control_put_number(out, "blocked", (uint64_t)n.blocked);
    control_put_number(out, "queued", n.queued);
    control_put_number(out, "tasks", (uint64_t)tasks_count());
    control_put_number(out, "registered", (uint64_t)procs_count());
    control_put_number(out, "processes", (uint64_t)procs_processes());
    control_put_number(out, "thread_connections", (uint64_t)channels);
    control_put_number(out, "thread_connections_unused", (uint64_t)pooled);
    control_put_number(out, "rss", load_rss());
    control_put_number(out, "gil_wait", load_gil_wait(clock_now()));
    control_put_labels(out);
    control_put_imports(out);
}

void control_read_load(struct control_load *l, int64_t now) {
    *l = (struct control_load){.state = control_state(),
                               .tasks = tasks_count(),
                               .calls = stats_get(STATS_CALLS),
                               .errors = stats_get(STATS_ERRORS),
                               .rss = load_rss(),
                               .gil_wait = load_gil_wait(now)};
    exec_times(&l->timed, &l->timed_ns);
    pool_read_numbers(&l->pool);
}

/* Of the memory only what is more than noise. */
static bool control_rss_differs(uint64_t a, uint64_t b) {
    return (a > b ? a - b : b - a) >= CONTROL_RSS_STEP;
}

bool control_load_differs(const struct control_load *a, const struct control_load *b) {
    return a->state != b->state || a->pool.running != b->pool.running ||
           a->pool.queued != b->pool.queued || a->pool.workers != b->pool.workers ||
           a->tasks != b->tasks || a->pool.blocked != b->pool.blocked || a->others != b->others ||
           a->calls != b->calls || a->errors != b->errors || a->gil_wait != b->gil_wait ||
           control_rss_differs(a->rss, b->rss);
}

bool control_load_is_idle(const struct control_load *l) {
    return l->pool.running == 0 && l->pool.queued == 0 && l->tasks == 0 && l->gil_wait == 0;
}

void control_put_load(struct buf *out, const struct control_load *l) {
    etf_put_tuple(out, 2);
    etf_put_atom(out, "load");
    etf_put_map(out, 15);
    etf_put_atom(out, "state");
    etf_put_atom(out, l->state);
    control_put_number(out, "others", l->others);
    control_put_number(out, "running", (uint64_t)l->pool.running);
    control_put_number(out, "blocked", (uint64_t)l->pool.blocked);
    control_put_number(out, "queued", l->pool.queued);
    control_put_number(out, "tasks", l->tasks);
    control_put_number(out, "workers", (uint64_t)l->pool.workers);
    control_put_number(out, "min_workers", (uint64_t)control.facts->workers);
    control_put_number(out, "max_workers", (uint64_t)control.facts->max_workers);
    control_put_number(out, "calls", l->calls);
    control_put_number(out, "errors", l->errors);
    control_put_number(out, "rss", l->rss);
    control_put_number(out, "timed", l->timed);
    control_put_number(out, "timed_us", l->timed_ns / 1000);
    control_put_number(out, "gil_wait", l->gil_wait);
}

static void control_stats(struct buf *out) {
    etf_put_map(out, STATS_END);
    for (int i = 0; i < STATS_END; i++)
        control_put_number(out, stats_name((enum stats_counter)i),
                           stats_get((enum stats_counter)i));
}

const char *control_worker_state(const struct exec_worker *w) {
    switch (atomic_load(&w->state)) {
    case EXEC_IDLE:
        return "idle";
    case EXEC_LEADING:
        return "leading";
    case EXEC_ENTERING:
        return "entering";
    default:
        return w->blocked || atomic_load(&w->waiting) ? "blocked" : "running";
    }
}

/* Which option of a call the worker was made for, if it is none of the pool. */
static void control_put_queue(struct buf *out, const struct queue *q) {
    if (q && q->name.len > 0) {
        etf_put_atom(out, "queue");
        etf_put_slice(out, q->name);
    } else if (q) {
        etf_put_atom(out, "thread");
        etf_put_atom(out, "new");
    }
}

/* #{worker => 1, state => running, call => {math, sqrt} | none, ms => 12} */
static void control_thread(void *arg, const struct exec_worker *w) {
    struct buf *out = arg;
    const struct request *r = w->current;

    etf_put_list(out, 1); /* a list of cells, each with the rest as its tail */
    etf_put_map(out, w->queue ? 5 : 4);
    control_put_number(out, "worker", w->number);
    etf_put_atom(out, "state");
    etf_put_atom(out, control_worker_state(w));
    etf_put_atom(out, "call");
    if (r && r->function.data) {
        etf_put_tuple(out, 2);
        etf_put_atom_slice(out, r->module);
        etf_put_atom_slice(out, r->function);
    } else if (r && r->target) {
        etf_put_atom(out, r->target->name);
    } else {
        etf_put_atom(out, "none");
    }
    control_put_number(out, "ms", r ? (uint64_t)(clock_now() - w->since) / 1000000 : 0);
    control_put_queue(out, w->queue);
}

/* Whoever asks wants to see the times: they are taken from here on. */
static void control_outcomes(struct buf *out) {
    struct outcome_times times;

    outcome_measure();
    outcome_read_times(&times);
    etf_put_map(out, OUTCOME_END + 2);
    for (int i = 0; i < OUTCOME_END; i++)
        control_put_number(out, outcome_name((enum outcome)i), outcome_count((enum outcome)i));
    etf_put_atom(out, "times");
    etf_put_list(out, OUTCOME_BUCKETS);
    for (int i = 0; i < OUTCOME_BUCKETS; i++) {
        etf_put_tuple(out, 2);
        etf_put_integer(out, outcome_limits[i] / 1000);
        etf_put_integer(out, (int64_t)times.in[i]);
    }
    etf_put_nil(out);
    control_put_number(out, "longer", times.in[OUTCOME_BUCKETS]);
}

static void control_threads(struct buf *out) {
    pool_list(control_thread, out);
    etf_put_nil(out);
}

static void control_version(struct buf *out) {
    etf_put_map(out, 3);
    control_put_text(out, "pynode", control.facts->version);
    control_put_text(out, "python", control.facts->python);
    control_put_text(out, "erl_interface", control.facts->erlang);
}

static void control_ready(struct buf *out) {
    etf_put_atom(out, strcmp(control_state(), "ready") == 0 ? "true" : "false");
}

static void control_drain(struct buf *out) {
    etf_put_atom(out, "ok");
    control.facts->drain();
}

bool control_answer(struct request *r, struct buf *out) {
    static const struct {
        const char *name;
        void (*put)(struct buf *out);
    } answers[] = {
        {"status", control_put_status}, {"ready", control_ready},     {"stats", control_stats},
        {"outcomes", control_outcomes}, {"threads", control_threads}, {"version", control_version},
        {"drain", control_drain},
    };
    size_t begin;

    if (!etf_atom_is(r->module, "pynode") || r->args.len != 1 || r->args.data[0] != ETF_NIL)
        return false;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        if (!etf_atom_is(r->function, answers[i].name))
            continue;
        if (answers[i].put == control_drain && !control.facts->may_drain)
            return false; /* py_call.c refuses it as any other */
        if (answer_begin(r, out, &begin)) {
            answers[i].put(out);
            answer_end(r, out, begin);
        } else {
            struct buf value = {0};

            answers[i].put(&value);
            buf_done(&value);
            answer_done(r, out);
        }
        return true;
    }
    return false;
}
