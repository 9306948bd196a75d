/* test_leave.c - how the node goes: signals, a second one, drain, its timeout, the stop.
 *
 * Each scene is a child process, as what it does cannot be undone; it says what it finds in its log
 * and exit status. Where a pool is needed its hooks stand for Python.
 */
#include "config.h"

#include "leave.h"
#include "control.h"
#include "home.h"
#include "log.h"
#include "scene.h"
#include "term.h"

#include <errno.h>
#include <signal.h>

#if defined(__SANITIZE_THREAD__)
#define LEAVE_TSAN 1
#elif defined(__has_feature)
#define LEAVE_TSAN __has_feature(thread_sanitizer)
#else
#define LEAVE_TSAN 0
#endif

#define HOME "<a@host,20,0,3>"

static pthread_t main_thread;

/* A finding of the scene: in its log, where the test looks for it. */
static void find(bool good, const char *what) {
    log_info("%s: %s", good ? "good" : "BAD", what);
}

static void report_cb(void) {
    sem_post(&reported);
}

/* Its connection is an address only. */
static void scene_done(struct request *r) {
    (void)r;
}

/* A pool without threads: the scene plays the worker. */
static void start(double drain_timeout, bool script) {
    struct err e;

    main_thread = pthread_self();
    exec_init(1, 1, 100, &hooks);
    if (leave_init(drain_timeout, script, &e) < 0)
        _exit(98);
    leave_started();
}

/* Comes back when the leader has taken notice of all that was before. */
static void settle(void) {
    for (int i = 0; i < 2; i++) {
        io_signal(SIGUSR1);
        wait_for(&reported);
    }
}

/* A pool with threads, one of which leads when this comes back. */
static void start_node(double drain_timeout) {
    start(drain_timeout, false);
    scene_start(report_cb);
    settle();
}

/* Exec compares the address of a connection only. */
static void push(void) {
    static char conn;
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_SERVER_CALL;
    r->conn = (struct conn *)&conn;
    if (!exec_push(r))
        _exit(96);
}

static void thread(void *(*fn)(void *)) {
    pthread_t t;

    if (pthread_create(&t, NULL, fn, NULL) != 0)
        _exit(95);
    pthread_detach(t);
}

/* Signals. */

static void (*handler_of(int signo))(int) {
    struct sigaction action;

    sigaction(signo, NULL, &action);
    return action.sa_handler;
}

static void handlers_scene(void) {
    struct sigaction action;

    start(1, false);
    find(handler_of(SIGPIPE) == SIG_IGN, "SIGPIPE is ignored");
    find(handler_of(SIGTERM) != SIG_DFL && handler_of(SIGINT) != SIG_DFL, "SIGTERM, SIGINT");
    find(handler_of(SIGHUP) != SIG_DFL && handler_of(SIGUSR1) != SIG_DFL, "SIGHUP, SIGUSR1");
    sigaction(SIGTERM, NULL, &action);
    find(action.sa_flags & SA_RESTART, "calls go on after a signal");
}

static void script_scene(void) {
    start(1, true);
    find(handler_of(SIGPIPE) == SIG_IGN, "SIGPIPE is ignored");
    find(handler_of(SIGTERM) == SIG_DFL && handler_of(SIGINT) == SIG_DFL, "SIGTERM, SIGINT");
    find(handler_of(SIGHUP) != SIG_DFL && handler_of(SIGUSR1) != SIG_DFL, "SIGHUP, SIGUSR1");
}

static void sigterm_scene(void) {
    start(60, false);
    leave_kick();
    leave_wait();
    find(!leave_told(), "a kick is no order to go");
    find(!route_draining(), "it does not drain yet");
    raise(SIGTERM);
    find(!route_draining(), "a signal only tells who waits for it");
    leave_wait();
    find(leave_told(), "it is told to go");
    leave_drain();
    find(route_draining(), "it drains");
}

static void sigint_scene(void) {
    start(60, false);
    raise(SIGINT);
}

static void sigterm_twice_scene(void) {
    start(60, false);
    raise(SIGTERM);
    log_info("still here");
    raise(SIGTERM);
}

static void drain_interrupted(int signo) {
    start(60, false);
    push();
    raise(SIGTERM);
    leave_drain_begin();
    find(!leave_drained(), "a request has not ended");
    raise(signo);
    find(false, "still here");
}

static void drain_sigterm_scene(void) {
    drain_interrupted(SIGTERM);
}

static void drain_sigint_scene(void) {
    drain_interrupted(SIGINT);
}

static void sigpipe_scene(void) {
    start(60, false);
    raise(SIGPIPE);
}

static void *request_main(void *arg) {
    leave_request();
    leave_request();
    return arg;
}

/* Asks twice, from another thread; not under ThreadSanitizer, which may keep such a signal back. */
static void request(void) {
    pthread_t t;

    if (LEAVE_TSAN) {
        request_main(NULL);
        return;
    }
    if (pthread_create(&t, NULL, request_main, NULL) != 0)
        _exit(95);
    pthread_join(t, NULL);
}

static void request_scene(void) {
    start(60, false);
    request();
    leave_wait();
    find(leave_told(), "it is told to go");
    leave_drain();
    leave_request();
    find(route_draining(), "it drains");
}

static _Atomic int terms;
static _Atomic bool in_main;

static void script_handler(int signo) {
    (void)signo;
    atomic_store(&in_main, pthread_equal(pthread_self(), main_thread));
    atomic_fetch_add(&terms, 1);
}

/* With a script the signal is its own: all the node does is refuse what comes. */
static void request_script_scene(void) {
    start(60, true);
    signal(SIGTERM, script_handler);
    request();
    while (atomic_load(&terms) == 0)
        leave_pause();
    leave_request();
    find(atomic_load(&terms) == 1, "one SIGTERM, however often it is asked for");
    find(atomic_load(&in_main), "for the main thread");
    find(route_draining(), "it drains");
}

static void *other_main(void *arg) {
    pthread_kill(pthread_self(), SIGTERM);
    return arg;
}

/* The main thread's sleep is not ended by a signal that another thread gets: it is interrupted until it has heard. */
static void unheard_scene(void) {
    struct timespec end;
    sem_t never;

    sem_init(&never, 0, 0);
    start(60, true);
    signal(SIGTERM, script_handler);
    leave_watch_script();
    find(handler_of(SIGTERM) != script_handler, "the handler has another one before it");
    thread(other_main);
    find(sem_wait(&never) < 0 && errno == EINTR, "the main thread is interrupted");
    find(atomic_load(&terms) == 1 && !atomic_load(&in_main), "the script's handler has run once");
    find(!leave_requested(), "it was no request");
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec++;
    while (sem_timedwait(&never, &end) < 0 && errno == EINTR)
        ;
    find(atomic_load(&terms) == 1, "nor does it run again");
    thread(other_main);
    find(sem_wait(&never) < 0 && errno == EINTR, "the next one is heard, too");
    for (int i = 0; i < 40; i++)
        leave_pause();
    end.tv_sec += 2;
    find(sem_timedwait(&never, &end) < 0 && errno == ETIMEDOUT,
         "who does not hear is left alone in the end");
    find(atomic_load(&terms) == 2, "having been told once each time");
    thread(other_main);
    find(sem_wait(&never) < 0 && errno == EINTR, "and in the end");
    signal(SIGTERM, SIG_DFL); /* as Python does it when it ends */
    for (int i = 0; i < 40; i++)
        leave_pause();
}

/* SIGHUP and SIGUSR1 are for who leads. */
static void forward_scene(void) {
    char *path = tap_path("node.log"), *old = tap_path("node.log.1");

    if (log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, path) < 0)
        _exit(94);
    start_node(60);
    if (rename(path, old) < 0)
        _exit(94);
    raise(SIGUSR1);
    wait_for(&reported);
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, NULL);
    find(access(path, F_OK) < 0, "SIGUSR1 reports, and opens no log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, old);
    rename(old, path);
    raise(SIGHUP);
    settle();
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, NULL);
    find(access(old, F_OK) == 0, "SIGHUP opens the log again");
}

/* Drain. */

static struct exec_worker me;
static _Atomic bool finished;

/* Plays a worker that is in the middle of a request when the node is told to go. */
static void *finish_main(void *arg) {
    while (!route_draining())
        leave_pause();
    atomic_store(&finished, true);
    exec_finish(&me, me.current);
    return arg;
}

static void drain_scene(void) {
    start(60, false);
    push();
    if (!exec_pop(&me))
        _exit(93);
    thread(finish_main);
    raise(SIGTERM);
    leave_wait();
    find(leave_told(), "it is told to go");
    leave_drain();
    find(atomic_load(&finished) && exec_load() == 0, "what ran has ended");
}

static void timeout_scene(void) {
    int64_t begin = clock_now();

    start(0.1, false);
    push();
    push();
    leave_drain_begin();
    find(!leave_drained(), "not at once");
    while (!leave_drained())
        leave_pause();
    find(clock_now() - begin >= 100000000, "not before the time is over");
    find(exec_load() == 2, "though nothing has ended");
}

static void no_time_scene(void) {
    start(0, false);
    leave_drain_begin();
    find(leave_drained(), "no time is enough for nothing");
    push();
    find(leave_drained(), "nor does it wait when there is none");
}

/* An answer that the peer has not taken yet is not finished. */
static void answer_scene(void) {
    static uint8_t data[MIB];
    struct conn *c;
    size_t left = sizeof data;
    int fds[2];

    start_node(60);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        _exit(94);
    c = conn_ref(conn_new(fds[0], "a@host"));
    io_add(c);
    settle();
    leave_drain_begin();
    find(leave_drained(), "a connection with nothing to send is in nobody's way");
    outbox_put(&c->out, data, sizeof data);
    io_flush(c);
    find(!leave_drained(), "an answer is on its way");
    while (left > 0) {
        ssize_t n = recv(fds[1], data, left, 0);

        if (n <= 0)
            break;
        left -= (size_t)n;
    }
    while (!leave_drained())
        leave_pause();
    find(left == 0 && atomic_load(&c->out.bytes) == 0, "the peer has all of it");
    conn_unref(c);
}

/* Stop. */

static void count_cb(void *arg, const struct exec_worker *w) {
    (void)w;
    ++*(int *)arg;
}

static void stop_scene(void) {
    int workers = 0;

    start_node(60);
    push();
    io_kick();
    wait_for(&entered);
    sem_post(&let_go);
    raise(SIGTERM);
    leave_wait();
    find(leave_stop(), "all have ended");
    pool_list(count_cb, &workers);
    find(workers == 0, "no worker is left");
    find(leave_stop(), "a second stop answers the same");
}

static void stuck_scene(void) {
    int64_t begin;

    start_node(60);
    push();
    io_kick();
    wait_for(&entered);
    begin = clock_now();
    find(!leave_stop(), "a worker is stuck");
    find(clock_now() - begin >= 900000000, "it was given its second");
    begin = clock_now();
    find(!leave_stop(), "a second stop answers the same");
    find(clock_now() - begin < 900000000, "at once");
}

/* A home, at fd of its peer. */
static void attach(int fd) {
    struct buf frame = {0};

    term_put_frame(&frame, "{6," HOME ",'',pynode}", "{attach," HOME "}");
    if (send(fd, frame.data, frame.len, 0) != (ssize_t)frame.len)
        _exit(92);
    buf_done(&frame);
    while (home_count() == 0)
        leave_pause();
}

/* Plays the home: reads until it is told that the node leaves; takes its time; detaches. */
static void *part_main(void *arg) {
    static char heard[1 << 16];
    struct buf frame = {0};
    size_t len = 0;
    int fd = *(int *)arg;

    while (!memmem(heard, len, "leaving", 7)) {
        ssize_t n = recv(fd, heard + len, sizeof heard - len, 0);

        if (n <= 0)
            _exit(91);
        len += (size_t)n;
    }
    for (int i = 0; i < 20; i++)
        leave_pause();
    atomic_store(&finished, true);
    term_put_frame(&frame, "{6," HOME ",'',pynode}", "{detach," HOME "}");
    if (send(fd, frame.data, frame.len, 0) != (ssize_t)frame.len)
        _exit(92);
    buf_done(&frame);
    return arg;
}

static void home_scene(int fds[2]) {
    static const struct control_facts facts = {.node = "py@h", .version = "1", .python = "3"};

    start_node(60);
    control_init(&facts);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        _exit(94);
    io_add(conn_new(fds[0], "a@host"));
    settle();
    attach(fds[1]);
}

/* What it has sent when it hears that is refused, and what it sends later has not begun: so it is waited for. */
static void part_scene(void) {
    static int fds[2];
    pthread_t t;

    home_scene(fds);
    if (pthread_create(&t, NULL, part_main, &fds[1]) != 0)
        _exit(95);
    leave_drain();
    find(!atomic_load(&finished), "a drain tells no home");
    find(leave_stop(), "all have ended");
    find(atomic_load(&finished) && home_count() == 0, "the home has detached before");
    find(route_draining(), "nothing has begun meanwhile");
    pthread_join(t, NULL);
}

static void part_alone_scene(void) {
    int64_t begin;
    int fds[2];

    home_scene(fds);
    begin = clock_now();
    find(leave_stop(), "all have ended");
    find(clock_now() - begin >= 900000000, "a home that says nothing had its second");
}

/* The home cannot be told that nothing runs. */
static void part_busy_scene(void) {
    int64_t begin;
    int fds[2];

    home_scene(fds);
    push();
    io_kick();
    wait_for(&entered);
    begin = clock_now();
    find(!leave_stop(), "a worker is stuck");
    find(clock_now() - begin < 1900000000, "it had its second, and the home none");
}

/* What a scene has to end with: its findings, its exit status, and what its log has and has not. */
static const struct {
    void (*scene)(void);
    const char *what;
    int findings, status;
    const char *has, *has_not;
} scenes[] = {
    {handlers_scene, "signals without a script", 4, 0, NULL, "draining"},
    {script_scene, "signals with a script: two are Python's", 3, 0, NULL, "draining"},
    {sigterm_scene, "SIGTERM", 5, 0, "info node: draining: 0 requests to finish\n", "timeout"},
    {sigint_scene, "SIGINT", 0, 128 + SIGINT, NULL, "draining"},
    {sigterm_twice_scene, "SIGTERM twice", 0, 128 + SIGTERM, "still here", "draining"},
    {drain_sigterm_scene, "SIGTERM during the drain", 1, 128 + SIGTERM, "draining: 1 ", "timeout"},
    {drain_sigint_scene, "SIGINT during the drain", 1, 128 + SIGINT, "draining: 1 ", "timeout"},
    {sigpipe_scene, "SIGPIPE", 0, 0, NULL, NULL},
    {request_scene, "leave_request", 2, 0, "node: draining: 0 requests to finish\n", "timeout"},
    {request_script_scene, "leave_request with a script", 3, 0, NULL, "node: draining"},
    {unheard_scene, "SIGTERM that another thread of a script has got", 9, 0, NULL, "draining"},
    {forward_scene, "SIGHUP and SIGUSR1", 2, 0, NULL, "draining"},
    {drain_scene, "drain", 2, 0, "node: draining: 1 requests to finish\n", "timeout"},
    {timeout_scene, "the drain timeout", 3, 0,
     "warning node: drain timeout: 2 requests not finished\n", NULL},
    {no_time_scene, "a drain timeout of nothing", 2, 0, "drain timeout: 1 requests", NULL},
    {answer_scene, "a drain with an answer to be written", 3, 0, "conn a@host: up", "timeout"},
    {stop_scene, "stop", 3, 0, "info node: stopped\n", "timeout"},
    {part_scene, "stop with a home that detaches", 4, 0, "home a@host: detached\n", NULL},
    {part_alone_scene, "stop with a home that does not", 2, 0, "info node: stopped\n", "detached"},
    {part_busy_scene, "stop with a home and a stuck worker", 2, 0, "info node: stopped\n",
     "detached"},
    {stuck_scene, "stop with a stuck worker", 4, 0, "info node: stopped\n", NULL},
};

static int count(const char *log, const char *part) {
    int n = 0;

    for (; (log = strstr(log, part)); log += strlen(part))
        n++;
    return n;
}

/* The findings that are bad as lines of explanation. */
static void show_bad(char *log) {
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n"))
        if (!strstr(line, " good: "))
            diag("%s", line);
}

int main(void) {
    char *path = tap_path("log");

    signal(SIGINT, SIG_DFL); /* a shell's background jobs inherit that it is ignored */
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        const char *what = scenes[i].what;
        int status = tap_child(scenes[i].scene, path);
        char *log = tap_slurp(path);
        bool good;

        is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), scenes[i].status,
               "%s: the exit status", what);
        good =
            is_int(count(log, " good: "), scenes[i].findings, "%s: all is as it should be", what);
        if (scenes[i].has)
            has_str(log, scenes[i].has, "%s: the log tells of it", what);
        if (scenes[i].has_not)
            good = ok(!strstr(log, scenes[i].has_not), "%s: no line with %s", what,
                      scenes[i].has_not) &&
                   good;
        if (scenes[i].scene == stop_scene || scenes[i].scene == stuck_scene)
            is_int(count(log, "node: stopped"), 1, "%s: it stops once", what);
        if (!good)
            show_bad(log);
        free(log);
    }
    free(path);
    return tap_end();
}
