/* test_metrics.c - the text for Prometheus: its lines, its labels, its histogram, and what they say.
 *
 * There are no threads of the pool here; tests/live/live_metrics.erl has a true node.
 */
#include "config.h"

#include "metrics.h"
#include "control.h"
#include "exec.h"
#include "outcome.h"
#include "route.h"
#include "stats.h"
#include "tap.h"
#include "usage.h"

static struct control_facts facts = {
    .node = "a\"b\\c@h", .version = "1.2", .python = "3.11.2", .max_workers = 7};
static const struct exec_hooks hooks;

static struct buf out;

/* The text as it is now. */
static const char *text(void) {
    out.len = 0;
    metrics_put(&out);
    buf_put(&out, "", 1);
    return (const char *)out.data;
}

static const char *label(const char *value) {
    out.len = 0;
    metrics_put_label(&out, value);
    buf_put(&out, "", 1);
    return (const char *)out.data;
}

static void test_labels(void) {
    is_str(label(""), "\"\"", "an empty value");
    is_str(label("a b{}=,"), "\"a b{}=,\"", "what needs no escape");
    is_str(label("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"", "quotation mark, backslash and newline");
}

static void test_node(void) {
    const char *t = text();

    has_str(t, "\npynode_info{version=\"1.2\",python=\"3.11.2\",node=\"a\\\"b\\\\c@h\"} 1\n", "info");
    has_str(t, "\npynode_state{state=\"starting\"} 1\n", "starting");
    has_str(t, "\npynode_state{state=\"ready\"} 0\n", "not ready");
    has_str(t, "\npynode_max_workers 7\n", "max_workers");
    control_set_ready();
    t = text();
    has_str(t, "\npynode_state{state=\"starting\"} 0\n", "not starting");
    has_str(t, "\npynode_state{state=\"ready\"} 1\n", "ready");
    route_drain();
    has_str(text(), "\npynode_state{state=\"draining\"} 1\n", "draining");
}

static void test_counters(void) {
    char line[128];
    const char *t;

    for (int i = 0; i < STATS_END; i++)
        stats_add((enum stats_counter)i, (uint64_t)i + 100);
    t = text();
    for (int i = 0; i < STATS_END; i++) {
        const char *name = stats_name((enum stats_counter)i);

        snprintf(line, sizeof line, "# TYPE pynode_%s_total counter\npynode_%s_total %d\n", name,
                 name, i + 100);
        has_str(t, line, "the counter %s", name);
        snprintf(line, sizeof line, "# HELP pynode_%s_total %s\n", name,
                 stats_help((enum stats_counter)i));
        has_str(t, line, "and what it is");
    }
}

static void test_requests(void) {
    const char *t;

    outcome_measure();
    outcome_answered(OUTCOME_OK, clock_now() - 3000000);           /* 3 ms */
    outcome_answered(OUTCOME_OK, clock_now() - INT64_C(70000000000)); /* 70 s */
    outcome_add(OUTCOME_REFUSED);
    t = text();
    has_str(t, "\npynode_requests_total{outcome=\"ok\"} 2\n", "two are ok");
    has_str(t, "\npynode_requests_total{outcome=\"refused\"} 1\n", "one is refused");
    has_str(t, "\n# TYPE pynode_request_seconds histogram\n", "a histogram");
    has_str(t, "\npynode_request_seconds_bucket{le=\"0.0001\"} 0\n", "none in 0.1 ms");
    has_str(t, "\npynode_request_seconds_bucket{le=\"0.0025\"} 0\n", "nor in 2.5 ms");
    has_str(t, "\npynode_request_seconds_bucket{le=\"10\"} 1\n", "one in 10 s");
    has_str(t, "\npynode_request_seconds_bucket{le=\"60\"} 1\n", "no more in a minute");
    has_str(t, "\npynode_request_seconds_bucket{le=\"+Inf\"} 2\n", "both at last");
    has_str(t, "\npynode_request_seconds_count 2\n", "the count");
    has_str(t, "\npynode_request_seconds_sum 70.", "the sum");
}

static void test_process(void) {
    const char *t = text();

    has_str(t, "\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes ", "memory");
    has_str(t, "\n# TYPE process_open_fds gauge\nprocess_open_fds ", "descriptors");
    has_str(t, "\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total ", "time");
    has_str(t, "\n# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds ", "start");
}

int main(void) {
    usage_init();
    control_init(&facts);
    exec_init(1, 7, 10, &hooks);
    test_labels();
    test_node();
    test_counters();
    test_requests();
    test_process();
    buf_done(&out);
    return tap_end();
}
