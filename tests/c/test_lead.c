/* test_lead.c - who leads: workers, the io thread, the event loop's thread. */
#include "config.h"

#include "io_peers.h"

static const struct io_settings settings = {.net_ticktime = SECONDS};

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

/* Whatever else it has to do, its timers above all, waits for its look. */
static void test_look_ends(void) {
    enum { TIMES = 10, TIME_MS = 100, LIMIT_MS = 50 };
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

static void push_block(void) {
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

/* In a process of its own, which the alarm ends if nobody answers. */
static void early_scene(void) {
    alarm(SECONDS);
    start(settings, push_block);
    if (!wait_for(&inside, 1))
        _exit(1);
    _exit(strcmp(ping(peer("early@h")), PONG) == 0 ? 0 : 2);
}

int main(void) {
    is_int(tap_child(early_scene, NULL), 0,
           "a worker that has work before it has ever led keeps nobody waiting");
    start(settings, NULL);
    test_worker_leads();
    test_io_thread_stands_in();
    test_tasks();
    test_tasks_elsewhere();
    test_busy_loop();
    test_look_ends();
    stop();
    free(log_path);
    return tap_end();
}
