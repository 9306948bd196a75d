/* test_notify.c - what a service manager is told: ready, alive, draining, stopping; and when it is not.
 *
 * The test is the manager, too. The pool's hooks stand for Python; one hook of the watchdog's waits
 * as long as somebody "has the interpreter". Runs under TSan as well.
 */
#include "config.h"

#include "notify.h"
#include "log.h"
#include "scene.h"

#include <poll.h>
#include <stddef.h>
#include <sys/un.h>
#include <sysexits.h>

enum { SECONDS = 30, INTERVAL_US = 200000, QUIET_MS = 600 };

static int manager;
static sem_t leader_may_go;
static pthread_mutex_t interpreter = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int started, stopped;

static void scene_done(struct request *r) {
    (void)r;
}

/* The leader is stuck in here until it may go. */
static void report_cb(void) {
    sem_post(&reported);
    wait_for(&leader_may_go);
}

static void start_cb(void) {
    atomic_fetch_add(&started, 1);
}

static void look_cb(void) {
    pthread_mutex_lock(&interpreter);
    pthread_mutex_unlock(&interpreter);
}

static void stop_cb(void) {
    atomic_fetch_add(&stopped, 1);
}

static const struct notify_hooks watch = {start_cb, look_cb, stop_cb};

/* Binds the manager's socket to a path or, with a zero byte in front, to an abstract name. */
static void listen_at(const char *name, size_t len) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    manager = socket(AF_UNIX, SOCK_DGRAM, 0);
    memcpy(at.sun_path, name, len);
    if (manager < 0 || bind(manager, (struct sockaddr *)&at,
                            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        tap_bail("no socket");
}

/* The next message within so long, or "". */
static const char *hear(int ms) {
    static char text[1024];
    struct pollfd p = {manager, POLLIN, 0};
    ssize_t n = poll(&p, 1, ms) > 0 ? recv(manager, text, sizeof text - 1, 0) : 0;

    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Takes what has been said before. */
static void forget(void) {
    while (*hear(0))
        ;
}

/* Waits for a message that begins so, past those of the watchdog. */
static const char *hear_other(void) {
    const char *text;

    while (strcmp(text = hear(SECONDS * 1000), "WATCHDOG=1") == 0)
        ;
    return text;
}

static void test_addresses(void) {
    static const char *const bad[] = {"", "/", "@", "tcp:1", "vsock:2:3", "relative/path"};
    char many[200];
    struct err e;

    is_int(notify_init(NULL, &e), 0, "nowhere to tell it");
    notify_ready("nobody hears it");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        is_int(notify_init(bad[i], &e), -1, "'%s' is refused", bad[i]);
    is_int(e.code, EX_USAGE, "with 64");
    is_str(e.text, "NOTIFY_SOCKET: 'relative/path' is neither a path nor an @abstract name",
           "the variable is named");
    memset(many, 'a', sizeof many);
    many[0] = '/';
    many[sizeof many - 1] = 0;
    is_int(notify_init(many, &e), -1, "so is a path that is too long");
}

static void test_path(void) {
    char *path = tap_path("manager");
    struct err e;

    listen_at(path, strlen(path));
    is_int(notify_init(path, &e), 0, "a path");
    notify_ready("all well");
    is_str(hear(SECONDS * 1000), "READY=1\nSTATUS=all well", "the manager hears it");
    close(manager);
    notify_ready("nobody is there");
    notify_ready("nor here");
    free(path);
}

static void test_abstract(void) {
    char name[64];
    struct err e;
    int len = snprintf(name, sizeof name, "@pynode-test-%d", (int)getpid());

    name[0] = 0;
    listen_at(name, (size_t)len);
    name[0] = '@';
    is_int(notify_init(name, &e), 0, "an abstract name");
    notify_ready("all well");
    is_str(hear(SECONDS * 1000), "READY=1\nSTATUS=all well", "the manager hears it");
}

static void test_alive(void) {
    struct err e;
    int64_t began;

    is_int(notify_watch(0, &watch, &e), 0, "no watchdog wanted");
    is_str(hear(QUIET_MS), "", "none is there");
    is_int(notify_watch(INTERVAL_US, &watch, &e), 0, "one is");
    is_str(hear(SECONDS * 1000), "WATCHDOG=1", "it begins at once");
    is_int(atomic_load(&started), 1, "its thread was prepared");
    began = clock_now();
    for (int i = 0; i < 10; i++)
        hear(SECONDS * 1000);
    ok(clock_now() - began > INT64_C(900000000), "ten more take at least nine halves of the interval");
}

static void test_interpreter_taken(void) {
    pthread_mutex_lock(&interpreter);
    poll(NULL, 0, INTERVAL_US / 1000); /* one may have been under way */
    forget();
    is_str(hear(QUIET_MS), "", "the interpreter cannot be had: nothing is said");
    pthread_mutex_unlock(&interpreter);
    is_str(hear(SECONDS * 1000), "WATCHDOG=1", "until it can");
}

static void test_leader_stuck(void) {
    io_signal(SIGUSR1);
    wait_for(&reported);
    poll(NULL, 0, INTERVAL_US / 1000);
    forget();
    is_str(hear(QUIET_MS), "", "the leader is stuck: nothing is said");
    sem_post(&leader_may_go);
    is_str(hear(SECONDS * 1000), "WATCHDOG=1", "until it goes round");
}

/* A worker in Python is no reason: the io thread stands in. */
static void test_worker_busy(void) {
    static char conn;
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_SERVER_CALL;
    r->conn = (struct conn *)&conn;
    if (!exec_push(r))
        tap_bail("no room");
    io_kick();
    wait_for(&entered);
    forget();
    is_str(hear(SECONDS * 1000), "WATCHDOG=1", "a worker is busy: it is alive");
    sem_post(&let_go);
}

static void test_leaving(void) {
    forget();
    notify_draining(3);
    is_str(hear_other(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=10000000\nSTATUS=draining: 3 requests to finish",
           "the drain begins");
    notify_draining(3);
    poll(NULL, 0, 1000);
    notify_draining(2);
    is_str(hear_other(), "EXTEND_TIMEOUT_USEC=10000000\nSTATUS=draining: 2 requests to finish",
           "each second it asks for more time");
    ok(notify_stop(SECONDS), "the watchdog ends");
    is_int(atomic_load(&stopped), 1, "its thread has cleaned up");
    is_str(hear_other(), "STATUS=stopping", "the last word");
    is_str(hear(QUIET_MS), "", "nothing more is said");
}

int main(void) {
    char *log = tap_path("log"), *text;

    sem_init(&leader_may_go, 0, 0);
    if (log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log) < 0)
        tap_bail("no log");
    exec_init(1, 1, 10, &hooks);
    scene_start(report_cb);
    test_addresses();
    test_path();
    text = tap_slurp(log);
    has_str(text, "warning notify: the service manager cannot be told: ", "a manager that is gone is logged");
    ok(!strstr(strstr(text, "notify:") + 1, "notify:"), "once");
    test_abstract();
    test_alive();
    test_interpreter_taken();
    test_leader_stuck();
    test_worker_busy();
    test_leaving();
    pool_stop_begin();
    lead_stop();
    ok(pool_stop_wait(SECONDS), "all threads end");
    free(text);
    free(log);
    return tap_end();
}
