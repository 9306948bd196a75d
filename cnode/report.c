/* report.c - the node's native state as lines on stderr, on SIGUSR1. */
#include "config.h"

#include "report.h"
#include "control.h"
#include "pool.h"
#include "io.h"
#include "log.h"
#include "procs.h"
#include "stats.h"

#include <stdio.h>
#include <stdlib.h>

enum { REPORT_LINE = 160 };

/* Lines gathered under exec's lock and written outside it. */
struct report_lines {
    char (*text)[REPORT_LINE];
    int len, cap;
    int more; /* workers that came after they were counted */
};

static void report_worker(void *arg, const struct exec_worker *w) {
    struct report_lines *lines = arg;
    const struct request *r = w->current;
    char *line;
    int n;

    if (lines->len == lines->cap) {
        lines->more++;
        return;
    }
    line = lines->text[lines->len++];
    n = snprintf(line, REPORT_LINE, "state worker %u%s: %s", w->number, w->queue ? " (queue)" : "",
                 control_worker_state(w));
    if (r && r->target)
        snprintf(line + n, (size_t)(REPORT_LINE - n), ", server %.80s for %lld ms", r->target->name,
                 (long long)(clock_now() - w->since) / 1000000);
    else if (r)
        snprintf(line + n, (size_t)(REPORT_LINE - n), ", %.*s:%.*s for %lld ms",
                 r->module.len < 50 ? (int)r->module.len : 50, (const char *)r->module.data,
                 r->function.len < 50 ? (int)r->function.len : 50, (const char *)r->function.data,
                 (long long)(clock_now() - w->since) / 1000000);
}

static void report_conn(void *arg, const struct conn *c) {
    (void)arg;
    log_stderr("state conn %s: %zu bytes to send%s", c->peer, atomic_load(&c->out.bytes),
               c->paused ? ", paused" : "");
}

void report(void) {
    struct report_lines lines = {0};
    struct pool_numbers n;

    pool_read_numbers(&n);
    log_stderr("state node: workers %d, idle %d, running %d, blocked %d, queued %zu", n.workers,
               n.idle, n.running, n.blocked, n.queued);
    lines.cap = n.workers + n.queues + 8;
    lines.text = xcalloc((size_t)lines.cap, sizeof *lines.text);
    pool_list(report_worker, &lines);
    for (int i = 0; i < lines.len; i++)
        log_stderr("%s", lines.text[i]);
    if (lines.more)
        log_stderr("state workers: %d more", lines.more);
    free(lines.text);
    io_list(report_conn, NULL);
}
