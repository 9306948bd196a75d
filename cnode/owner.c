/* owner.c - the program ends when whoever has started it does.
 *
 * Two ways, as each alone has a hole: the standard input also ends when the owner lives and has
 * closed it, and the signal at the parent's death also comes when others hold the input open.
 * A child that Python forks has neither: the signal is not inherited, the thread is not there. The
 * descriptor that such a child keeps is the reading end of the pipe, which holds up nobody.
 */
#include "config.h"

#include "owner.h"
#include "log.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>

static pid_t owner_parent;

/* Ends all processes of the group if it is ours, so those that Python has started, and this one. */
static _Noreturn void owner_leave(void) {
    if (getpgrp() == getpid())
        kill(0, SIGKILL);
    _exit(0);
}

/* The signal also comes when only the parent's thread that has started us ends. */
static void owner_handle(int signo) {
    (void)signo;
    if (getppid() != owner_parent)
        owner_leave();
}

/* A line that nobody reads must not hold up the end: the pipe may be full. */
static void owner_log(void) {
    struct pollfd p = {STDERR_FILENO, POLLOUT, 0};

    if (poll(&p, 1, 0) > 0 && (p.revents & POLLOUT))
        log_info("owner: gone, leaving at once");
}

/* Reads on until the end; what comes before it is nobody's. */
static void *owner_main(void *arg) {
    int fd = (int)(intptr_t)arg;
    struct pollfd p = {fd, POLLIN, 0};
    char ignored[512];
    ssize_t n;

    do {
        n = poll(&p, 1, -1);
        if (n > 0)
            n = read(fd, ignored, sizeof ignored);
    } while (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)));
    owner_log();
    owner_leave();
}

/* The signal is for a death after this call: a parent that is gone already sends none. Not
 * SIGKILL, which would leave behind what Python has started; the handler needs no GIL. */
static int owner_watch_parent(void) {
    struct sigaction action = {.sa_handler = owner_handle};

    owner_parent = getppid();
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGRTMAX, &action, NULL) < 0 || prctl(PR_SET_PDEATHSIG, SIGRTMAX) < 0)
        return -1;
    if (getppid() != owner_parent)
        owner_leave();
    return 0;
}

/* Moves the standard input to a descriptor that no program we execute gets. */
static int owner_take_input(void) {
    int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0)
        return -1;
    close(null);
    return fd;
}

int owner_start(struct err *e) {
    int fd = owner_take_input();
    int error;

    if (fd < 0 || owner_watch_parent() < 0)
        return err_set(e, EX_OSERR, "owner: %s", strerror(errno));
    error = thread_start(owner_main, (void *)(intptr_t)fd);
    if (error)
        return err_set(e, EX_OSERR, "owner: cannot start a thread: %s", strerror(error));
    return 0;
}
