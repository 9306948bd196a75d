/* io_peers.h - the event loop with a true pool, and feigned peers.
 *
 * The pool's hooks and a thread that runs tasks stand for Python: a call answers at once, answers much, or
 * blocks until the main thread lets it go. The main thread plays the peers, over socket pairs. Runs under TSan as well.
 */
#ifndef PYNODE_IO_PEERS_H
#define PYNODE_IO_PEERS_H

#include "answer.h"
#include "control.h"
#include "io.h"
#include "lead.h"
#include "log.h"
#include "peer.h"
#include "pool.h"
#include "procs.h"
#include "route.h"
#include "stats.h"
#include "tap.h"
#include "tasks.h"
#include "term.h"
#include "watched.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
    SECONDS = 60,
    MAX_FRAME = 1 << 20,
    MUCH = 1 << 20, /* bytes that a call to much:answer has for its answer */
};

#define P "<a@h,1,2,3>"
#define R "#<a@h,7,8,9>"

static char *log_path;

static int inside;             /* calls that block */
static int release;            /* those that may go on */
static int held;               /* times that a request was kept back */

/* Waits until *what is at least as wanted: whether it came to that in time. */
TAP_UNUSED static bool wait_for(const int *what, int wanted) {
    struct timespec until;
    bool reached;
    int error = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SECONDS;
    pthread_mutex_lock(&lock);
    while (*what < wanted && error == 0)
        error = pthread_cond_timedwait(&changed, &lock, &until);
    reached = *what >= wanted;
    pthread_mutex_unlock(&lock);
    return reached;
}

/* Waits until something holds: whether it came to that in time. */
TAP_UNUSED static bool until(bool (*holds)(void)) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (!holds() && clock_now() < end)
        moment();
    return holds();
}

TAP_UNUSED static bool is_empty(void) {
    return exec_load() == 0;
}

/* What stands for Python. */

TAP_UNUSED static void start_cb(struct exec_worker *w) {
    w->context = w;
}

TAP_UNUSED static void block(void) {
    pthread_mutex_lock(&lock);
    inside++;
    pthread_cond_broadcast(&changed);
    while (release == 0)
        pthread_cond_wait(&changed, &lock);
    release--;
    inside--;
    pthread_mutex_unlock(&lock);
}

TAP_UNUSED static void answer(struct exec_worker *w, struct request *r) {
    static const char much[MUCH];
    size_t begin;

    if (answer_begin(r, &w->out, &begin)) {
        if (etf_atom_is(r->module, "much"))
            etf_put_binary(&w->out, much, MUCH);
        else
            etf_put_atom_slice(&w->out, r->function);
        answer_end(r, &w->out, begin);
    } else {
        answer_done(r, &w->out);
    }
}

TAP_UNUSED static void serve_cb(struct exec_worker *w) {
    static const uint8_t normal[] = {ETF_SMALL_ATOM_UTF8, 6, 'n', 'o', 'r', 'm', 'a', 'l'};
    struct request *r;

    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w))) {
        struct conn *c = conn_ref(r->conn);

        if (etf_atom_is(r->module, "block"))
            block();
        if (exec_claim(r)) {
            answer(w, r);
            route_put(r, &w->out);
        }
        io_flush(c);
        exec_finish(w, r);
        route_ended(r, (struct slice){normal, sizeof normal});
        conn_unref(c);
    }
}

/* What stands for the event loop. */

static _Atomic bool loop_ends, loop_sleeps_elsewhere;
static _Atomic int loop_own = -1; /* a descriptor of its own, for which it waits instead of tasks */

static _Atomic int64_t longest_look; /* for the next task: ns on a processor */

static int64_t processor_time(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A loop that has a selector of its own. */
TAP_UNUSED static void loop_sleep_elsewhere(size_t ran) {
    struct pollfd p = {tasks_fd(), POLLIN, 0};

    if (ran > 0) {
        int64_t since = processor_time(), took;

        lead_look_for_tasks(-1, ran < 16);
        took = processor_time() - since;
        if (took > atomic_load(&longest_look))
            atomic_store(&longest_look, took);
    }
    if (!tasks_due())
        poll(&p, 1, SECONDS * 1000);
}

TAP_UNUSED static void *loop_main(void *arg) {
    static const uint8_t normal[] = {ETF_SMALL_ATOM_UTF8, 6, 'n', 'o', 'r', 'm', 'a', 'l'};
    struct exec_worker me = {.number = 0};
    struct request *r;

    while (!atomic_load(&loop_ends)) {
        size_t ran = 0;

        for (; tasks_take(&r, 1) == 1; ran++) {
            struct conn *c = conn_ref(r->conn);

            if (etf_atom_is(r->module, "block"))
                block();
            if (exec_claim(r)) {
                answer(&me, r);
                route_put(r, &me.out);
            }
            io_flush(c);
            exec_finish(NULL, r);
            route_ended(r, (struct slice){normal, sizeof normal});
            conn_unref(c);
        }
        if (atomic_load(&loop_sleeps_elsewhere))
            loop_sleep_elsewhere(ran);
        else
            lead_for_tasks(atomic_load(&loop_own) < 0 ? tasks_fd() : atomic_load(&loop_own),
                          clock_now() + (int64_t)SECONDS * 1000000000);
    }
    buf_done(&me.out);
    return arg;
}

static pthread_t loop;
static _Atomic bool loop_begun; /* with the first task */

TAP_UNUSED static bool start_loop_cb(void) {
    atomic_store(&loop_begun, pthread_create(&loop, NULL, loop_main, NULL) == 0);
    return atomic_load(&loop_begun);
}

TAP_UNUSED static bool lead_cb(struct exec_worker *w) {
    return lead_as_worker(w->number);
}

TAP_UNUSED static bool hold_cb(const struct request *r) {
    bool hold = conn_hold(r->conn);

    if (hold)
        change(&held, 1);
    return hold;
}

static const struct exec_hooks hooks = {start_cb, serve_cb, lead_cb, start_cb, hold_cb, NULL};

/* Peers. */

/* A feigned peer: gives the other end of its socket to io. */
TAP_UNUSED static int peer(const char *name) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    io_add(conn_new(fds[0], name));
    return fds[1];
}

TAP_UNUSED static void say(int fd, const char *control, const char *payload) {
    struct buf b = {0};

    term_put_frame(&b, control, payload);
    if (send(fd, b.data, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
        tap_bail("%s: cannot be sent", control);
    buf_done(&b);
}

/* The next frame: "closed", "tick", a frame as text, or "much" for one of MUCH bytes. */
TAP_UNUSED static const char *next_frame(int fd) {
    static uint8_t frame[MUCH + 4096];
    size_t n;

    if (!read_all(fd, frame, 4))
        return "closed";
    n = etf_be32(frame);
    if (n > sizeof frame - 4)
        tap_bail("a frame of %zu bytes", n);
    if (!read_all(fd, frame + 4, n))
        return "closed in a frame";
    return n > MUCH ? "much" : term_frames(frame, 4 + n);
}

/* The next frame that is no tick. */
TAP_UNUSED static const char *hear(int fd) {
    const char *text;

    do
        text = next_frame(fd);
    while (strcmp(text, "tick") == 0);
    return text;
}

#define PING "{6," P ",'',net_kernel}", "{'$gen_call',{" P "," R "},{is_auth,a@h}}"
#define PONG "{2,''," P "} + {" R ",yes}"

TAP_UNUSED static const char *ping(int fd) {
    say(fd, PING);
    return hear(fd);
}

/* The call that erl_call makes, and its answer. */
TAP_UNUSED static void ask(int fd, const char *module, const char *function) {
    char payload[128];

    snprintf(payload, sizeof payload, "{" P ",{call,%s,%s,[],user}}", module, function);
    say(fd, "{6," P ",'',rex}", payload);
}

TAP_UNUSED static const char *call(int fd, const char *module, const char *function) {
    ask(fd, module, function);
    return hear(fd);
}

#define ANSWER(value) "{2,''," P "} + {rex," value "}"

/* A task, and its answer. */
TAP_UNUSED static void ask_task(int fd, const char *module, const char *function) {
    char payload[160];

    snprintf(payload, sizeof payload, "{call," R ",%s,%s,[],#{loop=>true}}", module, function);
    say(fd, "{6," P ",'',pynode}", payload);
}

TAP_UNUSED static const char *task(int fd, const char *module, const char *function) {
    ask_task(fd, module, function);
    return hear(fd);
}

#define TASK_ANSWER(value) "+ {py_response," R ",{ok," value "}}"

TAP_UNUSED static bool logged(const char *text) {
    return peer_logged(log_path, text);
}

/* Waits until io_find() does not know the peer any more. */
TAP_UNUSED static bool forgotten(const char *name) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct conn *c;

    while ((c = io_find(name)) && clock_now() < end) {
        conn_unref(c);
        moment();
    }
    if (c)
        conn_unref(c);
    return !c;
}

static _Atomic bool chatty_ends;
static _Atomic size_t chatty_sent; /* bytes */

/* A peer that says something all the time, of which nothing comes for anybody: ticks. */
TAP_UNUSED static void *chatty_main(void *arg) {
    static const uint8_t ticks[4096];

    while (!atomic_load(&chatty_ends) && send(*(int *)arg, ticks, sizeof ticks, MSG_NOSIGNAL) > 0)
        atomic_fetch_add(&chatty_sent, sizeof ticks);
    return NULL;
}

/* From the start to the end. */

static int listener = -1;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

/* Hooks that are not given are never called; before_workers() is, if it is given, before there are any. */
static void start(struct io_settings settings, void (*before_workers)(void)) {
    static const struct control_facts facts = {.node = "py@h", .version = "1", .python = "3"};
    pthread_condattr_t attr;
    struct err e;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", tap_dir());
    settings.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    settings.max_frame = MAX_FRAME;
    if (settings.listener < 0 ||
        bind(settings.listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(settings.listener, 8) < 0)
        tap_bail("cannot listen");
    listener = settings.listener;
    request_init("py@h", 77);
    route_init("py@h");
    control_init(&facts);
    exec_init(1, 4, 100, &hooks);
    if (tasks_init(100, start_loop_cb) < 0)
        tap_bail("no tasks");
    if (io_init(&settings, &e) < 0 || lead_start(&e) < 0)
        tap_bail("%s", e.text);
    if (before_workers)
        before_workers();
    if (pool_start() < 0)
        tap_bail("no pool");
}

static void stop(void) {
    int fd = peer("last@h");

    is_str(ping(fd), PONG, "the last peer");
    atomic_store(&loop_ends, true);
    tasks_wake();
    if (atomic_load(&loop_begun))
        pthread_join(loop, NULL);
    pool_stop_begin();
    lead_stop();
    ok(pool_stop_wait(SECONDS), "lead_stop() ends every leader");
    ok(!lead_as_worker(1), "and nobody can lead any more");
    close(fd);
}

#endif
