/* metrics.c - what the node tells Prometheus of itself, as text. */
#include "config.h"

#include "metrics.h"
#include "channels.h"
#include "control.h"
#include "io.h"
#include "load.h"
#include "outcome.h"
#include "pool.h"
#include "procs.h"
#include "stats.h"
#include "tasks.h"
#include "usage.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { METRICS_PIECE = 512 };

/* Writing. */

/* Appends a piece of text, which must be short. */
__attribute__((format(printf, 2, 3))) static void metrics_print(struct buf *out, const char *format,
                                                                ...) {
    char text[METRICS_PIECE];
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    buf_put(out, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

/* What a metric is; its samples follow. */
static void metrics_head(struct buf *out, const char *name, const char *type, const char *help) {
    metrics_print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metrics_integer(struct buf *out, const char *name, int64_t value) {
    metrics_print(out, "%s %" PRId64 "\n", name, value);
}

static void metrics_gauge(struct buf *out, const char *name, const char *help, int64_t value) {
    metrics_head(out, name, "gauge", help);
    metrics_integer(out, name, value);
}

/* Microseconds are as fine as the figures are. */
static void metrics_seconds(struct buf *out, const char *name, const char *type, const char *help,
                            double value) {
    metrics_head(out, name, type, help);
    metrics_print(out, "%s %.6f\n", name, value);
}

void metrics_put_label(struct buf *out, const char *value) {
    buf_put(out, "\"", 1);
    for (; *value; value++) {
        if (*value == '\n')
            buf_put(out, "\\n", 2);
        else if (*value == '\\' || *value == '"')
            buf_put(out, (char[]){'\\', *value}, 2);
        else
            buf_put(out, value, 1);
    }
    buf_put(out, "\"", 1);
}

/* name{label="value"} number */
static void metrics_labelled(struct buf *out, const char *name, const char *label,
                             const char *value, uint64_t number) {
    metrics_print(out, "%s{%s=", name, label);
    metrics_put_label(out, value);
    metrics_print(out, "} %" PRIu64 "\n", number);
}

/* The node. */

static void metrics_info(struct buf *out) {
    const struct control_facts *facts = control_get_facts();

    metrics_head(out, "pynode_info", "gauge", "What runs here; the value is always 1.");
    metrics_print(out, "pynode_info{version=");
    metrics_put_label(out, facts->version);
    metrics_print(out, ",python=");
    metrics_put_label(out, facts->python);
    metrics_print(out, ",node=");
    metrics_put_label(out, facts->node);
    metrics_print(out, "} 1\n");
}

static void metrics_state(struct buf *out) {
    static const char *const states[] = {"starting", "ready", "draining"};
    const char *now = control_state();

    metrics_head(out, "pynode_state", "gauge", "1 for the state that the node is in, else 0.");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        metrics_labelled(out, "pynode_state", "state", states[i], strcmp(now, states[i]) == 0);
}

static void metrics_work(struct buf *out) {
    struct pool_numbers n;

    pool_read_numbers(&n);
    metrics_gauge(out, "pynode_workers", "Threads of the pool.", n.workers);
    metrics_gauge(out, "pynode_max_workers", "Threads that the pool may have.",
                  control_get_facts()->max_workers);
    metrics_gauge(out, "pynode_running", "Requests that a thread is running.", n.running);
    metrics_gauge(out, "pynode_blocked", "Of these, sleep or wait for something.", n.blocked);
    metrics_gauge(out, "pynode_queued", "Requests that wait for a thread.", (int64_t)n.queued);
    metrics_gauge(out, "pynode_tasks", "Tasks of the event loop that wait or run.",
                  (int64_t)tasks_count());
    metrics_seconds(out, "pynode_gil_wait_seconds", "gauge",
                    "How long a thread that wants Python's lock waits for it at present.",
                    (double)load_gil_wait(clock_now()) / 1e6);
}

static void metrics_peers(struct buf *out) {
    int channels, unused;

    channels_count(&channels, &unused);
    metrics_gauge(out, "pynode_registered", "Registered Python objects and processes.",
                  procs_count());
    metrics_gauge(out, "pynode_processes", "Python threads and functions that are processes.",
                  procs_processes());
    metrics_gauge(out, "pynode_connections", "Connections to other nodes.", io_count());
    metrics_gauge(out, "pynode_thread_connections", "Connections that Python threads have.",
                  channels);
    metrics_gauge(out, "pynode_thread_connections_unused", "Of these, belong to no thread now.",
                  unused);
}

/* Requests. */

static void metrics_counters(struct buf *out) {
    char name[64];

    for (int i = 0; i < STATS_END; i++) {
        enum stats_counter counter = (enum stats_counter)i;

        snprintf(name, sizeof name, "pynode_%s_total", stats_name(counter));
        metrics_head(out, name, "counter", stats_help(counter));
        metrics_integer(out, name, (int64_t)stats_get(counter));
    }
}

static void metrics_outcomes(struct buf *out) {
    metrics_head(out, "pynode_requests_total", "counter", "Requests that have ended, by how.");
    for (int i = 0; i < OUTCOME_END; i++)
        metrics_labelled(out, "pynode_requests_total", "outcome", outcome_name((enum outcome)i),
                         outcome_count((enum outcome)i));
}

/* The count is made of the buckets, so that both agree whatever is added meanwhile. */
static void metrics_times(struct buf *out) {
    struct outcome_times times;
    uint64_t below = 0;
    char limit[32];

    outcome_read_times(&times);
    metrics_head(out, "pynode_request_seconds", "histogram",
                 "From the arrival of a request to its answer.");
    for (int i = 0; i < OUTCOME_BUCKETS; i++) {
        below += times.in[i];
        snprintf(limit, sizeof limit, "%g", (double)outcome_limits[i] / 1e9);
        metrics_labelled(out, "pynode_request_seconds_bucket", "le", limit, below);
    }
    below += times.in[OUTCOME_BUCKETS];
    metrics_labelled(out, "pynode_request_seconds_bucket", "le", "+Inf", below);
    metrics_print(out, "pynode_request_seconds_sum %.9f\n", (double)times.sum / 1e9);
    metrics_integer(out, "pynode_request_seconds_count", (int64_t)below);
}

/* The process, under the names that all programs use. What the system does not tell is left out. */
static void metrics_process(struct buf *out) {
    uint64_t resident = load_rss();
    struct usage u;

    usage_read(&u);
    if (resident > 0)
        metrics_gauge(out, "process_resident_memory_bytes", "Resident memory size in bytes.",
                      (int64_t)resident);
    if (u.fds >= 0)
        metrics_gauge(out, "process_open_fds", "Number of open file descriptors.", u.fds);
    metrics_seconds(out, "process_cpu_seconds_total", "counter",
                    "Total user and system CPU time spent in seconds.", u.cpu);
    metrics_seconds(out, "process_start_time_seconds", "gauge",
                    "Start time of the process since unix epoch in seconds.", u.started);
}

void metrics_put(struct buf *out) {
    metrics_info(out);
    metrics_state(out);
    metrics_seconds(out, "pynode_uptime_seconds", "gauge", "Seconds since the node began.",
                    (double)control_uptime() / 1e9);
    metrics_work(out);
    metrics_peers(out);
    metrics_counters(out);
    metrics_outcomes(out);
    metrics_times(out);
    metrics_process(out);
}
