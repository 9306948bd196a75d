/* test_report.c - the node's native state on stderr: the node, each worker, each connection.
 *
 * Each scene is a child process with a pool of its own, whose hooks stand for Python: a request
 * "runs" until the scene is over. The main thread raises SIGUSR1's flag, whoever leads reports.
 */
#include "config.h"

#include "conn.h"
#include "log.h"
#include "report.h"
#include "scene.h"

#include <signal.h>

enum { MANY = 140 };

static _Atomic bool loud;

static void report_cb(void) {
    if (atomic_load(&loud))
        report();
    sem_post(&reported);
}

static void scene_done(struct request *r) {
    if (r->conn)
        conn_unref(r->conn);
}

/* Asks for a report, and comes back when it is in the log. A first, quiet one sees to it that the
 * leader has taken notice of all that was before. */
static void ask(void) {
    for (int i = 0; i < 2; i++) {
        atomic_store(&loud, i > 0);
        io_signal(SIGUSR1);
        wait_for(&reported);
    }
}

/* Comes back when a worker leads. */
static void start_node(int workers) {
    exec_init(workers, workers, 1000, &hooks);
    scene_start(report_cb);
    io_signal(SIGUSR1);
    wait_for(&reported);
}

static void stop_node(int requests) {
    while (requests-- > 0)
        sem_post(&let_go);
    pool_stop_begin();
    lead_stop();
    if (!pool_stop_wait(60))
        _exit(97);
}

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void push(struct conn *c, const char *ref, const char *module, const char *function) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_SERVER_CALL;
    r->conn = conn_ref(c);
    r->ref = text(ref);
    r->module = text(module);
    r->function = text(function);
    if (!exec_push(r))
        _exit(96);
    io_kick();
}

/* Waits until n workers are inside a request. */
static void wait_entered(int n) {
    while (n-- > 0)
        wait_for(&entered);
}

/* Adds a connection whose peer reads nothing; *theirs is the peer's end. */
static struct conn *add_conn(const char *peer, int *theirs) {
    struct conn *c;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        _exit(95);
    c = conn_ref(conn_new(fds[0], peer));
    *theirs = fds[1];
    io_add(c);
    return c;
}

static void idle_scene(void) {
    start_node(2);
    ask();
    stop_node(0);
}

/* Two run, two wait, and of two connections one has much to send to a peer that reads nothing. */
static void busy_scene(void) {
    static uint8_t data[6 * MIB];
    struct conn *quiet, *full;
    int theirs[2];

    start_node(2);
    quiet = add_conn("a@host", &theirs[0]);
    full = add_conn("b@host", &theirs[1]);
    ask();
    log_info("then");
    outbox_put(&full->out, data, sizeof data);
    io_flush(full);
    push(quiet, "1", "math", "sqrt");
    push(quiet, "2", "my.module", "");
    wait_entered(2);
    push(quiet, "3", "m", "f");
    push(quiet, "4", "m", "f");
    ask();
    log_info("waiting %zu", atomic_load(&full->out.bytes));
    stop_node(4);
    conn_unref(quiet);
    conn_unref(full);
    close(theirs[0]);
    close(theirs[1]);
}

/* A name that is longer than a line of the report. */
static void long_scene(void) {
    static char name[4000];
    struct conn *c;
    int theirs;

    memset(name, 'x', sizeof name - 1);
    start_node(1);
    c = add_conn("a@host", &theirs);
    push(c, "1", name, "f");
    wait_entered(1);
    ask();
    stop_node(1);
    conn_unref(c);
    close(theirs);
}

static void many_scene(void) {
    start_node(MANY);
    ask();
    ask();
    stop_node(0);
}

/* The events of a scene, one a line, without time and level. */
static char *run(void (*scene)(void), const char *what) {
    char *path = tap_path("log"), *log, *from, *to;

    is_int(tap_child(scene, path), 0, "%s: the scene ends well", what);
    log = tap_slurp(path);
    for (from = to = log; *from;) {
        size_t n = strcspn(from, "\n") + 1;
        char *event = memchr(from, ' ', n);

        event = event ? memchr(event + 1, ' ', n - (size_t)(event + 1 - from)) : NULL;
        if (event) {
            n -= (size_t)(event + 1 - from);
            from = event + 1;
        }
        memmove(to, from, n);
        to += n;
        from += n;
    }
    *to = 0;
    free(path);
    return log;
}

static int count(const char *log, const char *part) {
    int n = 0;

    for (; (log = strstr(log, part)); log += strlen(part))
        n++;
    return n;
}

/* Whether the log has exactly this line. */
static bool has_line(const char *log, const char *line) {
    size_t n = strlen(line);

    for (; (log = strstr(log, line)); log++)
        if (log[n] == '\n')
            return true;
    return false;
}

static void test_idle(void) {
    char *log = run(idle_scene, "idle");

    has_str(log, "state node: workers 2, idle ", "the node's line, with its workers");
    has_str(log, ", running 0, blocked 0, queued 0\n", "and nothing to do");
    is_int(count(log, "state node: "), 1, "it is there once");
    is_int(count(log, "state worker "), 2, "a line for each worker");
    is_int(count(log, "state worker 1: "), 1, "for the first");
    is_int(count(log, "state worker 2: "), 1, "and the second");
    is_int(count(log, " ms\n"), 0, "which run nothing");
    ok(count(log, ": leading\n") >= 1, "one of them leads");
    is_int(count(log, "state conn "), 0, "there is no connection");
    free(log);
}

static void test_busy(void) {
    char *log = run(busy_scene, "busy"), *then = strstr(log, "then\n"), *waiting, line[128];

    if (!then)
        tap_bail("the scene is not complete: %s", log);
    *then = 0;
    ok(has_line(log, "state conn a@host: 0 bytes to send"), "a connection with nothing to send");
    ok(has_line(log, "state conn b@host: 0 bytes to send"), "and another one");
    then++;
    has_str(then, "state node: workers 2, idle 0, running 2, ", "both workers run something");
    has_str(then, ", queued 2\n", "two requests wait");
    is_int(count(then, "state worker "), 2, "a line for each worker");
    is_int(count(then, ", math:sqrt for "), 1, "the one with module and function");
    is_int(count(then, ", my.module: for "), 1, "the other with what there is");
    is_int(count(then, ": running, ") + count(then, ": blocked, "), 2, "which are in Python");
    ok(has_line(then, "state conn a@host: 0 bytes to send"), "nothing waits for one peer");
    waiting = strstr(then, "waiting ");
    snprintf(line, sizeof line, "state conn b@host: %llu bytes to send, paused",
             waiting ? strtoull(waiting + 8, NULL, 10) : 0ULL);
    ok(has_line(then, line), "the other is not read while so much does: %s", line);
    is_int(count(then, "state conn "), 2, "there are two connections");
    free(log);
}

static void test_long(void) {
    char *log = run(long_scene, "a long name"), *line = strstr(log, "state worker 1: ");

    ok(line && strncmp(line + strcspn(line, ","), ", xxxx", 6) == 0, "it is shown");
    ok(line && strcspn(line, "\n") < 200, "as far as a line goes");
    has_str(log, "\nstate conn a@host: ", "the rest follows on a line of its own");
    free(log);
}

static void test_many(void) {
    char *log = run(many_scene, "many workers"), line[64];

    snprintf(line, sizeof line, "state node: workers %d, ", MANY);
    is_int(count(log, line), 2, "two reports of %d workers", MANY);
    is_int(count(log, "state worker "), 2 * MANY, "each has a line in each");
    free(log);
}

int main(void) {
    test_idle();
    test_busy();
    test_long();
    test_many();
    return tap_end();
}
