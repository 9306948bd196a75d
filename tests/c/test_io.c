/* test_io.c - the event loop with a true pool: who leads, peers, ticks, back pressure, the end.
 *
 * The pool's hooks and a thread that runs tasks stand for Python: a call answers at once, answers much, or
 * blocks until the main thread lets it go. The main thread plays the peers, over socket pairs. Runs under TSan as well.
 */
#include "config.h"

#include "answer.h"
#include "control.h"
#include "io.h"
#include "lead.h"
#include "log.h"
#include "pool.h"
#include "procs.h"
#include "route.h"
#include "stats.h"
#include "tasks.h"
#include "peer.h"
#include "tap.h"
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
    TICKTIME = 2, /* seconds: the shortest in which a busy machine does not look like a dead peer */
    MAX_FRAME = 1 << 20,
    MUCH = 1 << 20, /* bytes that a call to much:answer has for its answer */
};

#define P "<a@h,1,2,3>"
#define R "#<a@h,7,8,9>"

static char *log_path;

static int inside;             /* calls that block */
static int release;            /* those that may go on */
static int held;               /* times that a request was kept back */
static int accepted;           /* clients */
static int epmd_lost, reports; /* calls of the hooks */
static char reported[256];     /* the peers that io_list() has told of */

/* Waits until *what is at least as wanted: whether it came to that in time. */
static bool wait_for(const int *what, int wanted) {
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
static bool until(bool (*holds)(void)) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (!holds() && clock_now() < end)
        moment();
    return holds();
}

/* No worker runs anything, nor could. */
static bool is_quiet(void) {
    struct pool_numbers n;

    pool_read_numbers(&n);
    return n.running == 0 && exec_ready() == 0;
}

static bool is_empty(void) {
    return exec_load() == 0;
}

static bool is_written(void) {
    return !io_pending();
}

static bool is_reopened(void) {
    return access(log_path, F_OK) == 0;
}

/* What stands for Python. */

static void start_cb(struct exec_worker *w) {
    w->context = w;
}

static void block(void) {
    pthread_mutex_lock(&lock);
    inside++;
    pthread_cond_broadcast(&changed);
    while (release == 0)
        pthread_cond_wait(&changed, &lock);
    release--;
    inside--;
    pthread_mutex_unlock(&lock);
}

static void answer(struct exec_worker *w, struct request *r) {
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

static void serve_cb(struct exec_worker *w) {
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
static void loop_sleep_elsewhere(size_t ran) {
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

static void *loop_main(void *arg) {
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

static bool start_loop_cb(void) {
    return pthread_create(&loop, NULL, loop_main, NULL) == 0;
}

static bool lead_cb(struct exec_worker *w) {
    return lead_as_worker(w->number);
}

static bool hold_cb(const struct request *r) {
    bool hold = conn_hold(r->conn);

    if (hold)
        change(&held, 1);
    return hold;
}

static const struct exec_hooks hooks = {start_cb, serve_cb, lead_cb, start_cb, hold_cb, NULL};

/* Peers. */

/* A feigned peer: gives the other end of its socket to io. */
static int peer(const char *name) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    io_add(conn_new(fds[0], name));
    return fds[1];
}

static void say(int fd, const char *control, const char *payload) {
    struct buf b = {0};

    term_put_frame(&b, control, payload);
    if (send(fd, b.data, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
        tap_bail("%s: cannot be sent", control);
    buf_done(&b);
}

/* The next frame: "closed", "tick", a frame as text, or "much" for one of MUCH bytes. */
static const char *next_frame(int fd) {
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
static const char *hear(int fd) {
    const char *text;

    do
        text = next_frame(fd);
    while (strcmp(text, "tick") == 0);
    return text;
}

#define PING "{6," P ",'',net_kernel}", "{'$gen_call',{" P "," R "},{is_auth,a@h}}"
#define PONG "{2,''," P "} + {" R ",yes}"

static const char *ping(int fd) {
    say(fd, PING);
    return hear(fd);
}

/* The call that erl_call makes, and its answer. */
static void ask(int fd, const char *module, const char *function) {
    char payload[128];

    snprintf(payload, sizeof payload, "{" P ",{call,%s,%s,[],user}}", module, function);
    say(fd, "{6," P ",'',rex}", payload);
}

static const char *call(int fd, const char *module, const char *function) {
    ask(fd, module, function);
    return hear(fd);
}

#define ANSWER(value) "{2,''," P "} + {rex," value "}"

/* A task, and its answer. */
static void ask_task(int fd, const char *module, const char *function) {
    char payload[160];

    snprintf(payload, sizeof payload, "{call," R ",%s,%s,[],#{loop=>true}}", module, function);
    say(fd, "{6," P ",'',pynode}", payload);
}

static const char *task(int fd, const char *module, const char *function) {
    ask_task(fd, module, function);
    return hear(fd);
}

#define TASK_ANSWER(value) "+ {py_response," R ",{ok," value "}}"

static bool logged(const char *text) {
    return peer_logged(log_path, text);
}

/* Waits until io_find() does not know the peer any more. */
static bool forgotten(const char *name) {
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

static void test_worker_leads(void) {
    int fd = peer("lead@h");

    is_str(ping(fd), PONG, "a ping is answered");
    ok(logged("conn lead@h: up"), "the connection was logged");
    has_str(call(fd, "pynode", "threads"), "state=>leading,call=>none",
            "it is the worker that reads the sockets");
    is_int(stats_get(STATS_LEAD_TAKEN), 0, "the io thread never had to");
    is_str(call(fd, "m", "f"), ANSWER("f"), "a call is run and answered");
    say(fd, "{29," R "," P "," P ",{erpc,execute_call,4},[monitor]}", "[res,m,g,[]]");
    has_str(hear(fd), "{31," R "," P ",2,<py@h,", "one of erpc has a process");
    has_str(hear(fd), "," P "," R "} + {res,return,g}", "and its answer");
    close(fd);
    ok(logged("conn lead@h: closed: peer closed"), "the end of a peer is logged");
}

/* The only worker is stuck in a request. */
static void test_io_thread_stands_in(void) {
    int fd = peer("block@h"), other = peer("other@h");
    struct pool_numbers n;

    is_str(ping(other), PONG, "two peers");
    nanosleep(&(struct timespec){0, 50000000},
              NULL); /* the io thread goes to sleep and tells nobody */
    say(fd, "{29," R "," P "," P ",{erpc,execute_call,4},[monitor]}", "[res,block,f,[]]");
    ok(wait_for(&inside, 1), "a call blocks its worker");
    has_str(hear(fd), "{31," R "," P ",2,<py@h,", "it is announced meanwhile");
    is_str(ping(other), PONG, "the io thread answers a ping");
    has_str(call(other, "pynode", "threads"), "call=>{block,f}", "and what the node is asked");
    ok(stats_get(STATS_LEAD_TAKEN) > 0, "it has taken the lead");
    is_str(call(other, "m", "g"), ANSWER("g"), "another call gets a worker of its own");
    pool_read_numbers(&n);
    ok(n.workers >= 2, "by which the pool has grown");
    is_str(ping(fd), PONG, "the first peer can go on, too");
    change(&release, 1);
    has_str(hear(fd), "," P "," R "} + {res,return,f}", "and has its answer in the end");

    ask(fd, "block", "f");
    ask(fd, "block", "f");
    ok(wait_for(&inside, 2), "both workers block");
    is_str(ping(other), PONG, "the io thread still answers");
    change(&release, 2);
    is_str(hear(fd), ANSWER("f"), "one has ended");
    is_str(hear(fd), ANSWER("f"), "the other has");
    is_str(call(fd, "m", "h"), ANSWER("h"), "and all is as before");
    close(fd);
    close(other);
}

/* A task or a call, as chance will have it: whether it is a task. */
static bool ask_any(int fd, unsigned *seed) {
    bool is_task = rand_r(seed) % 3 > 0;

    (is_task ? ask_task : ask)(fd, "m", "f");
    return is_task;
}

/* Of two peers at once: how many answers were wrong. */
static int mixed(int fd, int other, int times) {
    unsigned seed = 1;
    int wrong = 0;

    for (int i = 0; i < times; i++) {
        bool one = ask_any(fd, &seed), two = ask_any(other, &seed);

        wrong += !strstr(hear(fd), one ? TASK_ANSWER("f") : ANSWER("f"));
        wrong += !strstr(hear(other), two ? TASK_ANSWER("f") : ANSWER("f"));
        if (rand_r(&seed) % 50 == 0)
            moment();
    }
    return wrong;
}

static void tasks_beside_a_call(int fd, int other) {
    ask(fd, "block", "f");
    ok(wait_for(&inside, 1), "a call blocks a worker");
    has_str(task(other, "m", "f"), TASK_ANSWER("f"), "tasks go on");
    change(&release, 1);
    is_str(hear(fd), ANSWER("f"), "the call has its answer");
}

static void test_tasks(void) {
    int fd = peer("tasks@h"), other = peer("tasks2@h"), wrong = 0;

    has_str(task(fd, "m", "f"), TASK_ANSWER("f"), "a task is run and answered");
    for (int i = 0; i < 50; i++)
        wrong += !strstr(task(fd, "m", "g"), TASK_ANSWER("g"));
    is_int(wrong, 0, "so are others after it");
    has_str(call(fd, "pynode", "threads"), "state=>idle",
            "the event loop's thread reads the sockets");
    is_str(call(fd, "m", "f"), ANSWER("f"), "a call among tasks is run by a worker");
    has_str(call(fd, "pynode", "threads"), "state=>leading", "who then reads");
    has_str(task(fd, "m", "f"), TASK_ANSWER("f"), "and leaves that to the loop again");
    ask_task(fd, "block", "f");
    ok(wait_for(&inside, 1), "a task blocks the loop");
    is_str(ping(other), PONG, "the io thread answers a ping");
    is_str(call(other, "m", "g"), ANSWER("g"), "a worker a call");
    ask_task(other, "m", "g");
    is_str(ping(other), PONG, "a task waits");
    change(&release, 1);
    has_str(hear(other), TASK_ANSWER("g"), "until the loop goes on");
    has_str(hear(fd), TASK_ANSWER("f"), "the first has its answer, too");
    tasks_beside_a_call(fd, other);
    is_int(mixed(fd, other, 1500), 0, "3000 tasks and calls of two peers, mixed: each is answered");
    ok(until(is_empty), "nothing is left");
    close(fd);
    close(other);
}

static int elsewhere;

static bool a_worker_leads(void) {
    return strstr(call(elsewhere, "pynode", "threads"), "state=>leading") != NULL;
}

/* A loop that sleeps elsewhere looks a moment only. */
static void test_tasks_elsewhere(void) {
    int fd = peer("elsewhere@h"), other = peer("elsewhere2@h"), wrong = 0;

    elsewhere = fd;
    atomic_store(&loop_sleeps_elsewhere, true);
    for (int i = 0; i < 50; i++)
        wrong += !strstr(task(fd, "m", "f"), TASK_ANSWER("f"));
    is_int(wrong, 0, "tasks of a loop that sleeps elsewhere, one after another");
    ok(until(a_worker_leads), "a worker reads when it has looked long enough");
    is_str(call(fd, "m", "f"), ANSWER("f"), "and runs a call");
    ask_task(fd, "block", "f");
    ok(wait_for(&inside, 1), "a task blocks the loop, to which a worker has left the lead");
    is_str(ping(other), PONG, "the io thread answers a ping");
    is_str(call(other, "m", "g"), ANSWER("g"), "a worker a call");
    change(&release, 1);
    has_str(hear(fd), TASK_ANSWER("f"), "the task has its answer");
    tasks_beside_a_call(fd, other);
    is_int(mixed(fd, other, 1500), 0, "3000 tasks and calls, mixed: each is answered");
    ok(until(is_empty), "nothing is left, with a loop that sleeps elsewhere");
    atomic_store(&loop_sleeps_elsewhere, false);
    close(fd);
    close(other);
}

static _Atomic bool chatty_ends;
static _Atomic size_t chatty_sent; /* bytes */

/* A peer that says something all the time, of which nothing comes for anybody: ticks. */
static void *chatty_main(void *arg) {
    static const uint8_t ticks[4096];

    while (!atomic_load(&chatty_ends) && send(*(int *)arg, ticks, sizeof ticks, MSG_NOSIGNAL) > 0)
        atomic_fetch_add(&chatty_sent, sizeof ticks);
    return NULL;
}

static int compare_sizes(const void *a, const void *b) {
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* Small frames take long to read. What has been read of them when somebody else has an answer is what the peer has
 * sent meanwhile, for it sends as soon as there is room. */
static void test_many_small_frames(void) {
    enum { TIMES = 200, BYTES = 512 << 10 };
    int fd = peer("aside@h"), chatty = peer("small@h"), wrong = 0;
    size_t sent[TIMES];
    pthread_t thread;

    if (pthread_create(&thread, NULL, chatty_main, &chatty) != 0)
        tap_bail("no thread");
    for (int i = 0; i < TIMES; i++) {
        size_t before = atomic_load(&chatty_sent);

        wrong += strcmp(ping(fd), PONG) != 0;
        sent[i] = atomic_load(&chatty_sent) - before;
    }
    qsort(sent, TIMES, sizeof *sent, compare_sizes);
    diag("%zu KiB are read in the meantime, at most %zu", sent[TIMES / 4] >> 10, sent[TIMES - 1] >> 10);
    is_int(wrong, 0, "pings beside a peer that sends small frames without end");
    ok(sent[TIMES / 4] < BYTES, "it is read for a moment before others have their turn");
    atomic_store(&chatty_ends, true);
    pthread_join(thread, NULL);
    atomic_store(&chatty_ends, false);
    close(fd);
    close(chatty);
}

/* Whatever else it has to do, its timers above all, waits for its look. */
static void test_look_ends(void) {
    enum { TIMES = 10, TIME_MS = 100, LIMIT_MS = 20 };
    int fd = peer("look@h"), chatty = peer("chatty@h"), wrong = 0;
    pthread_t thread;

    atomic_store(&loop_sleeps_elsewhere, true);
    has_str(task(fd, "m", "f"), TASK_ANSWER("f"), "a loop that sleeps elsewhere");
    if (pthread_create(&thread, NULL, chatty_main, &chatty) != 0)
        tap_bail("no thread");
    for (int i = 0; i < TIMES; i++) {
        wrong += !strstr(task(fd, "m", "f"), TASK_ANSWER("f"));
        nanosleep(&(struct timespec){0, TIME_MS * 1000000}, NULL);
    }
    is_int(wrong, 0, "tasks while a peer says something all the time");
    atomic_store(&chatty_ends, true);
    pthread_join(thread, NULL);
    atomic_store(&chatty_ends, false);
    has_str(task(fd, "m", "f"), TASK_ANSWER("f"), "and after that");
    ok(atomic_load(&longest_look) < LIMIT_MS * INT64_C(1000000),
       "the loop looks for the next task only for a moment");
    atomic_store(&loop_sleeps_elsewhere, false);
    close(fd);
    close(chatty);
}

/* A loop whose own descriptors have something at each of its turns does not sleep. */
static void test_busy_loop(void) {
    enum { BLOCK = 3, PINGS = 2000, LIMIT = 10 /* seconds */ };
    int fd = peer("busy@h"), other = peer("busy2@h"), own[2], wrong = 0;
    int64_t since;

    if (pipe2(own, O_CLOEXEC) < 0 || write(own[1], "x", 1) != 1)
        tap_bail("no pipe");
    atomic_store(&loop_own, own[0]);
    has_str(task(fd, "m", "f"), TASK_ANSWER("f"), "a loop never sleeps");
    since = clock_now();
    for (int i = 0; i < PINGS; i++)
        wrong += strcmp(ping(fd), PONG) != 0;
    is_int(wrong, 0, "peers are answered all the same");
    for (int i = 0; i < BLOCK; i++) {
        ask(fd, "block", "f");
        ok(wait_for(&inside, i + 1), "a call gets a worker, which blocks");
    }
    is_str(call(other, "m", "g"), ANSWER("g"), "and the next one another");
    change(&release, BLOCK);
    for (int i = 0; i < BLOCK; i++)
        wrong += strcmp(hear(fd), ANSWER("f")) != 0;
    is_int(wrong, 0, "all are answered");
    ok(clock_now() - since < LIMIT * (int64_t)1000000000, "soon");
    atomic_store(&loop_own, -1);
    close(own[0]);
    close(own[1]);
    close(fd);
    close(other);
}

/* What one peer sends is no concern of the others. */
static void test_malformed(void) {
    int good = peer("good@h"), bad = peer("bad@h"), longer = peer("long@h"), slow = peer("slow@h");
    static const uint8_t head[] = {0, 0x10, 0, 1, 112};
    struct buf b = {0};
    size_t i;

    say(bad, "{99," P "}", NULL);
    is_str(hear(bad), "closed", "a malformed frame closes its connection");
    ok(logged("conn bad@h: closed: unknown control message"), "with the reason in the log");
    if (send(longer, head, sizeof head, 0) < 0)
        tap_bail("cannot send");
    is_str(hear(longer), "closed", "so does one that is too long, before it is all there");
    ok(logged("conn long@h: closed: frame longer than --max-frame"), "with its reason, too");
    is_str(ping(good), PONG, "the others are untouched");
    term_put_frame(&b, PING);
    for (i = 0; i < b.len; i++) {
        if (send(slow, b.data + i, 1, 0) != 1)
            tap_bail("cannot send");
        if (i % 20 == 0)
            is_str(ping(good), PONG, "while a frame comes byte by byte, others go on");
    }
    is_str(hear(slow), PONG, "until it is whole");
    buf_done(&b);
    close(good);
    close(bad);
    close(longer);
    close(slow);
}

static void test_find_and_replace(void) {
    int first = peer("twice@h"), second;
    struct conn *c = io_find("twice@h"), *again;

    ok(c && strcmp(c->peer, "twice@h") == 0, "a connection is found as soon as it is added");
    ok(!io_find("twice@") && !io_find("twice@hh"), "not by another name");
    is_str(ping(first), PONG, "nor is it lost when it is up");
    again = io_find("twice@h");
    ok(again == c, "it is the same");
    conn_unref(again);
    second = peer("twice@h");
    is_str(hear(first), "closed", "a second one of this peer closes the first");
    ok(logged("conn twice@h: closed: the peer has connected again"), "as the log says");
    is_str(ping(second), PONG, "and takes its place");
    again = io_find("twice@h");
    ok(again && again != c, "also when it is looked for");
    conn_unref(again);
    conn_unref(c);
    close(first);
    close(second);
    ok(forgotten("twice@h"), "a connection that has ended is not found");
}

/* A peer that asks for much and reads nothing; 12 answers are far more than CONN_HIGH. */
static void test_back_pressure(void) {
    int slow = peer("full@h"), other = peer("other@h");
    uint64_t pings;
    int i, much = 0, pongs = 0;

    for (i = 0; i < 12; i++)
        ask(slow, "much", "answer");
    ok(wait_for(&held, 1), "calls of a peer that does not read are kept back");
    ok(until(is_quiet), "so that no worker has anything to do");
    ok(io_pending(), "something waits to be sent");
    is_str(ping(other), PONG, "others are served");
    is_str(ping(other), PONG, "again and again");
    pings = stats_get(STATS_PINGS);
    say(slow, PING);
    is_str(ping(other), PONG, "and again");
    is_str(call(other, "m", "f"), ANSWER("f"), "their calls, too");
    is_int(stats_get(STATS_PINGS) - pings, 1, "but the peer that does not read is not read");
    for (i = 0; i < 13; i++) {
        const char *text = hear(slow);

        much += strcmp(text, "much") == 0;
        pongs += strcmp(text, PONG) == 0;
    }
    is_int(much, 12, "when it reads it gets every answer");
    is_int(pongs, 1, "and is read again");
    is_str(call(slow, "m", "f"), ANSWER("f"), "as before");
    close(slow);
    ok(forgotten("full@h"), "it goes");
    ok(until(is_written), "and nothing waits any more");

    slow = peer("gone@h");
    i = look(&held);
    for (much = 0; much < 12; much++)
        ask(slow, "much", "answer");
    ok(wait_for(&held, i + 1), "another one");
    shutdown(slow, SHUT_WR);
    ok(forgotten("gone@h"), "goes without having read");
    ok(logged("conn gone@h: closed: peer closed"), "which is seen though it is not read");
    close(slow);
    is_str(call(other, "m", "f"), ANSWER("f"), "others are served");
    ok(until(is_empty), "what was kept back of it is cancelled");
    close(other);
}

static void put(struct buf *b, const char *text) {
    buf_put(b, text, strlen(text));
}

/* A frame that has a buffer of its own. */
static void test_large(void) {
    int fd = peer("large@h");
    struct buf b = {0};
    static char text[300000];

    memset(text, 'x', sizeof text - 1);
    put(&b, "{" P ",{call,m,f,[<<\"");
    put(&b, text);
    put(&b, "\">>],user}}");
    buf_put(&b, "", 1);
    say(fd, "{6," P ",'',rex}", (const char *)b.data);
    is_str(hear(fd), ANSWER("f"), "a call of 300 kB");
    is_str(ping(fd), PONG, "and the ping behind it");
    buf_done(&b);
    close(fd);
}

/* The hooks of io_init(). */

static int listener = -1;

static void accept_cb(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    io_add(conn_new(fd, "client@h"));
    change(&accepted, 1);
}

static void epmd_cb(void) {
    change(&epmd_lost, 1);
}

static void list_cb(void *arg, const struct conn *c) {
    snprintf((char *)arg + strlen(arg), sizeof reported - strlen(arg), "%s ", c->peer);
}

static bool report_blocks;

static void report_cb(void) {
    *reported = 0;
    io_list(list_cb, reported);
    change(&reports, 1);
    if (report_blocks)
        block();
}

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int client(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        tap_bail("cannot connect");
    return fd;
}

static void test_listener(void) {
    int other = peer("other@h"), fd = client();

    ok(wait_for(&accepted, 1), "the leader has a client accepted");
    is_str(ping(fd), PONG, "which is served");
    io_set_accepting(false);
    close(fd);
    fd = client();
    is_str(ping(other), PONG, "while accepting pauses");
    is_str(ping(other), PONG, "others are served");
    is_int(look(&accepted), 1, "and a client has to wait");
    io_set_accepting(true);
    ok(wait_for(&accepted, 2), "until it goes on");
    is_str(ping(fd), PONG, "which is seen");
    close(fd);
    close(other);
}

static void test_epmd(void) {
    int other = peer("other@h"), fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ||
        send(fds[1], "\1\2", 2, 0) < 0)
        tap_bail("no socket pair");
    io_watch_epmd(fds[0]);
    is_str(ping(other), PONG, "the rest of epmd's first answer");
    is_str(ping(other), PONG, "is read over");
    is_int(look(&epmd_lost), 0, "and not taken for its end");
    close(fds[1]);
    ok(wait_for(&epmd_lost, 1), "its end is noticed");
    is_str(ping(other), PONG, "the others stay");
    is_int(look(&epmd_lost), 1, "it is told once");
    close(fds[0]);
    close(other);
}

/* Before the leader has seen the first of them. */
static void test_twice_at_once(void) {
    int first, second;
    struct conn *c;

    report_blocks = true;
    io_signal(SIGUSR1);
    ok(wait_for(&inside, 1), "the leader is elsewhere");
    first = peer("twin@h");
    second = peer("twin@h");
    c = io_find("twin@h");
    ok(c && c->next == NULL, "of two connections of a peer that come meanwhile the second is found");
    conn_unref(c);
    report_blocks = false;
    change(&release, 1);
    is_str(hear(first), "closed", "the first is closed");
    is_str(ping(second), PONG, "and the second stays");
    close(first);
    close(second);
    change(&reports, -1);
}

static void test_signals(void) {
    int fd = peer("listed@h");
    char *moved = tap_path("moved");

    is_str(ping(fd), PONG, "a peer");
    io_signal(SIGUSR1);
    ok(wait_for(&reports, 1), "SIGUSR1 makes the leader report");
    has_str(reported, "listed@h ", "which knows the connections");
    rename(log_path, moved);
    io_signal(SIGHUP);
    ok(until(is_reopened), "SIGHUP opens the log anew");
    close(fd);
    ok(logged("conn listed@h: closed"), "and it is used");
    free(moved);
}

/* A peer that has said nothing from the beginning on, and one that only answers ticks. */
static int silent;

static void test_ticks(void) {
    int ticking = peer("ticking@h"), ticks = 0, answered = 0, others = 0;
    struct pollfd p[2] = {{silent, POLLIN, 0}, {ticking, POLLIN, 0}};
    const char *text;

    while ((p[0].fd >= 0 || answered == 0) && poll(p, 2, SECONDS * 1000) > 0) {
        if (p[1].revents) {
            if (strcmp(next_frame(ticking), "tick") != 0)
                break;
            answered += send(ticking, "\0\0\0", 4, MSG_NOSIGNAL) == 4;
        }
        if (p[0].revents) {
            text = next_frame(silent);
            ticks += strcmp(text, "tick") == 0;
            others += strcmp(text, "tick") != 0;
            if (strcmp(text, "closed") == 0)
                p[0].fd = -1;
        }
    }
    ok(p[0].fd < 0, "a peer that has been silent for the tick time is closed");
    is_int(ticks, 3, "having been sent a tick at each look before");
    is_int(others, 1, "and nothing else");
    ok(logged("conn silent@h: closed: heartbeat missed"), "which the log says, too");
    is_str(ping(ticking), PONG, "one that has answered %d ticks stays", answered);
    close(silent);
    close(ticking);
}

/* Whether the next frames are ticks, which are answered, and reports of the load, the last of them with such a text. */
static bool report_comes(int fd, const char *text) {
    for (;;) {
        const char *heard = next_frame(fd);

        if (strcmp(heard, "tick") == 0)
            send(fd, "\0\0\0", 4, MSG_NOSIGNAL);
        else if (!strstr(heard, "[{load,#{"))
            return false;
        else if (strstr(heard, text))
            return true;
    }
}

static void test_reports(void) {
    int fd = peer("home@h"), before = look(&inside);

    say(fd, "{6," P ",'',pynode}", "{attach," P "}");
    has_str(hear(fd), "{py_attached,#{", "a home attaches");
    ok(report_comes(fd, "running=>0,"), "and is told of the load");
    say(fd, "{6," P ",'',rex}", "{'$gen_cast',{cast,block,f,[],user}}");
    ok(wait_for(&inside, before + 1), "something runs");
    ok(report_comes(fd, "running=>1,"), "which it is told");
    change(&release, 1);
    ok(report_comes(fd, "running=>0,"), "and that it has ended");
    ok(report_comes(fd, "running=>0,"), "then the same after a while");
    close(fd);
}

static void test_stop(void) {
    int fd = peer("last@h");

    is_str(ping(fd), PONG, "the last peer");
    atomic_store(&loop_ends, true);
    tasks_wake();
    pthread_join(loop, NULL);
    pool_stop_begin();
    lead_stop();
    ok(pool_stop_wait(SECONDS), "lead_stop() ends every leader");
    ok(!lead_as_worker(1), "and nobody can lead any more");
    close(fd);
}

static bool early; /* whether there is work before there are workers */

static void push_early(void) {
    struct request *r = xcalloc(1, sizeof *r);
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no sockets");
    r->kind = REQUEST_CAST;
    r->conn = conn_new(fds[0], "nobody@h");
    r->module = (struct slice){(const uint8_t *)"block", 5};
    r->function = (struct slice){(const uint8_t *)"f", 1};
    if (!exec_push(r))
        tap_bail("not taken");
}

static void start(void) {
    static const struct control_facts facts = {.node = "py@h", .version = "1", .python = "3"};
    struct io_settings settings = {.net_ticktime = TICKTIME,
                                   .max_frame = MAX_FRAME,
                                   .accept = accept_cb,
                                   .epmd = epmd_cb,
                                   .report = report_cb};
    pthread_condattr_t attr;
    struct err e;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", tap_dir());
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 8) < 0)
        tap_bail("cannot listen");
    settings.listener = listener;
    request_init("py@h", 77);
    route_init("py@h");
    control_init(&facts);
    exec_init(1, 4, 100, &hooks);
    if (tasks_init(100, start_loop_cb) < 0)
        tap_bail("no tasks");
    if (io_init(&settings, &e) < 0 || lead_start(&e) < 0)
        tap_bail("%s", e.text);
    if (early)
        push_early();
    if (pool_start() < 0)
        tap_bail("no pool");
}

/* In a process of its own, which the alarm ends if nobody answers. */
static void early_scene(void) {
    alarm(SECONDS);
    early = true;
    start();
    if (!wait_for(&inside, 1))
        _exit(1);
    _exit(strcmp(ping(peer("early@h")), PONG) == 0 ? 0 : 2);
}

int main(void) {
    is_int(tap_child(early_scene, NULL), 0,
           "a worker that has work before it has ever led keeps nobody waiting");
    start();
    silent = peer("silent@h");
    test_worker_leads();
    test_io_thread_stands_in();
    test_tasks();
    test_tasks_elsewhere();
    test_malformed();
    test_find_and_replace();
    test_back_pressure();
    test_large();
    test_listener();
    test_epmd();
    test_ticks(); /* before the log is moved */
    test_twice_at_once();
    test_signals();
    test_reports();
    test_busy_loop(); /* what takes a while comes after the ticks, some of which are counted from the start on */
    test_look_ends();
    test_many_small_frames();
    test_stop();
    free(log_path);
    return tap_end();
}
