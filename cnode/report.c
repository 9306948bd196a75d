/* report.c - the node's native state as lines in the log, on SIGUSR1. */
#include "config.h"

#include "report.h"
#include "control.h"
#include "exec.h"
#include "io.h"
#include "log.h"
#include "stats.h"

#include <stdio.h>

/* Lines gathered under exec's lock and logged outside it. */
struct report_lines {
    char text[128][160];
    int len;
};

static void report_worker(void *arg, const struct exec_worker *w) {
    struct report_lines *lines = arg;
    const struct request *r = w->current;

    if (lines->len == 128)
        return;
    snprintf(lines->text[lines->len++], sizeof lines->text[0],
             "state worker %u: %s, %.*s:%.*s for %lld ms", w->number, control_worker_state(w),
             r ? (int)r->module.len : 0, r ? (const char *)r->module.data : "",
             r ? (int)r->function.len : 0, r ? (const char *)r->function.data : "",
             r ? (long long)(exec_now() - w->since) / 1000000 : 0LL);
}

static void report_conn(void *arg, const struct conn *c) {
    (void)arg;
    log_info("state conn %s: %zu bytes to send%s", c->peer, atomic_load(&c->out.bytes),
             c->paused ? ", paused" : "");
}

void report(void) {
    static struct report_lines lines;
    struct exec_numbers n;

    exec_read_numbers(&n);
    log_info("state node: workers %d, idle %d, running %d, blocked %d, queued %zu", n.workers,
             n.idle, n.running, n.blocked, n.queued);
    lines.len = 0;
    exec_list(report_worker, &lines);
    for (int i = 0; i < lines.len; i++)
        log_info("%s", lines.text[i]);
    io_list(report_conn, NULL);
}
