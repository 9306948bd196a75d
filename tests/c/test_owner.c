/* test_owner.c - a program that ends with its owner: its input's end, its parent's, who goes along.
 *
 * Each case is a child of this program that has an owner; what it is so far, it tells by a pipe.
 */
#include "config.h"

#include "log.h"
#include "owner.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

enum { SECONDS = 30, FDS = 64 };

static char *err_path;
static int input[2], told[2]; /* the child's standard input; what it tells */

static ino_t input_is;

static void tell(pid_t pid) {
    if (write(told[1], &pid, sizeof pid) != sizeof pid)
        _exit(97);
}

/* A child that still is there says so. */
static void tell_on(int signo) {
    (void)signo;
    tell(getpid());
}

/* The number that the child tells next. */
static pid_t hear(void) {
    struct pollfd p = {told[0], POLLIN, 0};
    pid_t pid;

    if (poll(&p, 1, SECONDS * 1000) != 1 || read(told[0], &pid, sizeof pid) != sizeof pid)
        tap_bail("the child says nothing");
    return pid;
}

static void begin(void) {
    struct stat st;

    if (pipe2(input, O_CLOEXEC) < 0 || pipe2(told, O_CLOEXEC) < 0 || fstat(input[0], &st) < 0)
        tap_bail("no pipe");
    input_is = st.st_ino;
    fflush(stdout);
}

static void end(void) {
    close(told[0]);
    close(told[1]);
}

static void close_input(void) {
    close(input[0]);
    close(input[1]);
}

static void live_on(void) {
    for (;;)
        pause();
}

/* The child: gets an owner, does something, and tells its number. */
static void be_owned(void (*then)(void)) {
    struct err e;

    alarm(SECONDS);
    dup2(input[0], STDIN_FILENO);
    close_input();
    if (!freopen(err_path, "w", stderr) || owner_start(&e) < 0)
        _exit(98);
    then();
    signal(SIGUSR1, tell_on);
    tell(getpid());
    live_on();
}

static void nothing(void) {
}

static pid_t owned(void (*then)(void)) {
    pid_t pid;

    begin();
    pid = fork();
    if (pid == 0)
        be_owned(then);
    return pid;
}

/* The status of a child that has ended, from now on or before. */
static int status_of(pid_t pid) {
    int status = -1;

    if (waitpid(pid, &status, 0) != pid)
        tap_bail("no child");
    return status;
}

static bool is_killed(pid_t pid) {
    int status = status_of(pid);

    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void test_end(void) {
    pid_t pid = owned(nothing);
    char *err;

    hear();
    if (write(input[1], "what nobody asked for\n", 22) != 22)
        tap_bail("the input is not there");
    is_int(waitpid(pid, NULL, WNOHANG), 0, "what comes on the input is ignored");
    close_input();
    is_int(status_of(pid), 0, "at the end of its input the program ends, with status 0");
    err = tap_slurp(err_path);
    has_str(err, "owner: gone, leaving at once\n", "after a line");
    free(err);
    end();
}

static void no_input(void) {
    struct err e;

    alarm(SECONDS);
    close(STDIN_FILENO);
    if (open("/dev/null", O_RDONLY) != STDIN_FILENO || owner_start(&e) < 0)
        _exit(98);
    live_on();
}

/* Looks whether all is as it should be. */
static void look_around(void) {
    struct stat st;
    char c;

    if (read(STDIN_FILENO, &c, 1) != 0)
        _exit(1); /* the program could take what is the owner's */
    for (int fd = 0; fd < FDS; fd++)
        if (fstat(fd, &st) == 0 && st.st_ino == input_is && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
            _exit(2); /* a program that is executed would keep it */
}

static void test_input(void) {
    pid_t pid = owned(look_around);

    is_int(hear(), pid, "the program's input is empty, no program that it executes has the other");
    close_input();
    status_of(pid);
    end();
}

/* A child of the child, whose number is told. */
static void start_child(void) {
    pid_t pid = fork();

    if (pid == 0)
        live_on();
    tell(pid);
}

static void start_child_in_group(void) {
    if (setpgid(0, 0) < 0)
        _exit(96);
    start_child();
}

static void test_fork(void) {
    pid_t pid = owned(start_child), child = hear();

    hear();
    close_input();
    is_int(status_of(pid), 0, "a child that was forked does not hold up the end");
    is_int(waitpid(child, NULL, WNOHANG), 0, "in another's group it is left alone");
    kill(child, SIGKILL);
    status_of(child);
    end();
}

static void test_group(void) {
    pid_t pid = owned(start_child_in_group), child = hear();

    hear();
    close_input();
    ok(is_killed(pid), "who leads a group ends it");
    ok(is_killed(child), "and what it has started with it");
    end();
}

/* Nobody reads what it writes, and the pipe is full. */
static void clog_stderr(void) {
    int pipe_fds[2], flags;
    char bytes[4096] = {0};

    if (pipe(pipe_fds) < 0)
        _exit(95);
    flags = fcntl(pipe_fds[1], F_GETFL);
    fcntl(pipe_fds[1], F_SETFL, flags | O_NONBLOCK);
    while (write(pipe_fds[1], bytes, sizeof bytes) > 0)
        ;
    fcntl(pipe_fds[1], F_SETFL, flags);
    dup2(pipe_fds[1], STDERR_FILENO);
}

static void test_clogged(void) {
    pid_t pid = owned(clog_stderr);

    hear();
    close_input();
    is_int(status_of(pid), 0, "a log that nobody reads does not hold up the end");
    end();
}

static int go[2]; /* what the parent waits for */

static void wait_go(void) {
    char c;

    if (read(go[0], &c, 1) != 1)
        _exit(94);
}

static void let_go(void) {
    if (write(go[1], "!", 1) != 1)
        tap_bail("the parent is not there");
}

/* Whether the first thread of this process has ended. */
static bool first_ended(void) {
    char *stat = tap_slurp("/proc/self/stat");
    bool ended = strstr(stat, ") Z ");

    free(stat);
    return ended;
}

/* The parent's second thread: tells when the first one has ended, and ends when it is told to. */
static void *parent_main(void *arg) {
    (void)arg;
    while (!first_ended())
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    tell(getpid());
    wait_go();
    _exit(0);
}

/* Its first one, which starts the program, and ends when it is told to. */
static void be_parent(void) {
    pthread_t second;

    alarm(SECONDS);
    if (fork() == 0)
        be_owned(start_child_in_group);
    pthread_create(&second, NULL, parent_main, NULL);
    wait_go();
    pthread_exit(NULL);
}

/* The input stays open all the time: this process has it. */
static void test_parent(void) {
    pid_t parent, child, pid;

    begin();
    if (pipe2(go, O_CLOEXEC) < 0)
        tap_bail("no pipe");
    parent = fork();
    if (parent == 0)
        be_parent();
    child = hear();
    pid = hear();
    let_go();
    is_int(hear(), parent, "the thread that has started the program ends");
    kill(pid, SIGUSR1);
    is_int(hear(), pid, "which is not the end of its parent");
    let_go();
    is_int(status_of(parent), 0, "the parent ends");
    ok(is_killed(pid), "and with it the program, though its input is open");
    ok(is_killed(child), "and what it has started");
    close_input();
    end();
    close(go[0]);
    close(go[1]);
}

int main(void) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    err_path = tap_path("stderr");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, NULL);
    test_end();
    is_int(tap_child(no_input, NULL), 0, "an input that is /dev/null has ended");
    test_input();
    test_fork();
    test_group();
    test_clogged();
    test_parent();
    free(err_path);
    return tap_end();
}
