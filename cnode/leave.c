/* leave.c - how the node goes: signals, drain, and stopping in the reverse order of the start. */
#include "config.h"

#include "leave.h"
#include "pool.h"
#include "home.h"
#include "io.h"
#include "lead.h"
#include "log.h"
#include "node.h"
#include "notify.h"
#include "route.h"
#include "tasks.h"
#include "thread.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* timer_create(2) has it, older C libraries have not */
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    LEAVE_PAUSE_MS = 10,
    LEAVE_NUDGE_MS =
        50, /* between signals that make a script's thread look for one that it has not heard, */
    LEAVE_NUDGES = 3,       /* so many */
    LEAVE_PART_SECONDS = 1, /* for homes to hear that the node leaves */
    LEAVE_STOP_SECONDS = 1, /* for workers to end once nothing runs any more */
};

static struct {
    double drain_timeout;
    int64_t deadline;
    sem_t told;
    _Atomic int terms;      /* SIGTERM so far */
    _Atomic bool requested; /* a drain, and its SIGTERM has not been seen yet */
    _Atomic bool asked;
    _Atomic bool going; /* told to go */
    bool draining, drained;
    _Atomic bool started;
    bool script;
    pthread_t main;
    pid_t process;           /* that has the timer */
    timer_t nudge;           /* signals the main thread */
    _Atomic int nudges;      /* that are still to come */
    struct sigaction python; /* of SIGTERM */
    bool stopped, all_ended;
} leave;

/* Async-signal-safe. The main thread may be in its own wait, or in that of the event loop. */
static void leave_tell(void) {
    atomic_store(&leave.going, true);
    sem_post(&leave.told);
    tasks_wake();
}

static void leave_handle(int signo) {
    int saved = errno;

    if (!atomic_load(&leave.started)) /* nothing runs yet, and an import may take long */
        _exit(signo == SIGTERM ? 0 : 128 + signo);
    if (signo == SIGINT || (atomic_fetch_add(&leave.terms, 1) > 0 && signo == SIGTERM))
        _exit(128 + signo);
    leave_tell();
    errno = saved;
}

static void leave_forward(int signo) {
    io_signal(signo);
}

static void leave_install(int signo, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(signo, &action, NULL);
}

int leave_init(double drain_timeout, bool script, struct err *e) {
    leave.drain_timeout = drain_timeout;
    leave.main = pthread_self();
    leave.script = script;
    if (sem_init(&leave.told, 0, 0) < 0)
        return err_set(e, EX_OSERR, "signals: no semaphore");
    leave_install(SIGPIPE, SIG_IGN);
    leave_install(SIGHUP, leave_forward);
    leave_install(SIGUSR1, leave_forward); /* Python's faulthandler goes before and chains */
    if (!script) {
        leave_install(SIGTERM, leave_handle);
        leave_install(SIGINT, leave_handle);
    }
    return 0;
}

/* Of the timer, in milliseconds; 0: none any more. Async-signal-safe. A forked child has no timer. */
static void leave_set_nudge(long ms) {
    const struct timespec t = {0, ms * 1000000L};
    const struct itimerspec when = {t, t};

    if (leave.process == getpid())
        timer_settime(leave.nudge, 0, &when, NULL);
}

/* Python only notes the signal, for the main thread; another thread may have got it, or that one have been about to
 * sleep. */
static void leave_handle_script(int signo) {
    int saved = errno;

    leave.python.sa_handler(signo);
    atomic_store(&leave.nudges, LEAVE_NUDGES);
    leave_set_nudge(LEAVE_NUDGE_MS);
    errno = saved;
}

/* That it has come is all that is wanted. */
static void leave_handle_nudge(int signo) {
    int saved = errno;

    (void)signo;
    if (atomic_fetch_sub(&leave.nudges, 1) <= 1)
        leave_set_nudge(0);
    errno = saved;
}

/* A nudge may come when SIGTERM has no handler any more, so it is another signal, which does no harm then. */
void leave_watch_script(void) {
    struct sigaction none = {.sa_handler = leave_handle_nudge}, action; /* without SA_RESTART */
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG};

    event.sigev_notify_thread_id = thread_id();
    if (sigaction(SIGTERM, NULL, &leave.python) < 0 || leave.python.sa_handler == SIG_DFL ||
        leave.python.sa_handler == SIG_IGN ||
        timer_create(CLOCK_MONOTONIC, &event, &leave.nudge) < 0)
        return;
    leave.process = getpid();
    sigaction(SIGURG, &none, NULL);
    action = leave.python;
    action.sa_handler = leave_handle_script;
    sigaction(SIGTERM, &action, NULL);
}

void leave_started(void) {
    atomic_store(&leave.started, true);
}

bool leave_has_started(void) {
    return atomic_load(&leave.started);
}

/* With a script through the signal, so that its own handler decides as it does for any SIGTERM. */
void leave_request(void) {
    route_drain();
    if (atomic_exchange(&leave.asked, true))
        return;
    atomic_store(&leave.requested, true);
    if (leave.script)
        pthread_kill(leave.main, SIGTERM);
    else
        leave_tell();
}

bool leave_requested(void) {
    leave_set_nudge(0);
    return atomic_exchange(&leave.requested, false);
}

void leave_drain_begin(void) {
    log_info("node: draining: %zu requests to finish", exec_load());
    leave.deadline = clock_now() + (int64_t)(leave.drain_timeout * 1e9);
    route_drain();
    notify_draining(exec_load());
}

bool leave_drained(void) {
    notify_draining(exec_load());
    if (!exec_wanted() && !io_pending())
        return true;
    if (clock_now() < leave.deadline)
        return false;
    log_warning("node: drain timeout: %zu requests not finished", exec_load());
    return true;
}

void leave_pause(void) {
    const struct timespec t = {0, LEAVE_PAUSE_MS * 1000000L};

    nanosleep(&t, NULL);
}

void leave_wait(void) {
    while (sem_wait(&leave.told) < 0 && errno == EINTR)
        ;
}

void leave_kick(void) {
    sem_post(&leave.told);
}

bool leave_told(void) {
    return atomic_load(&leave.going);
}

void leave_drain_unless(bool (*needed)(void)) {
    if (!leave.draining)
        leave_drain_begin();
    leave.draining = true;
    while (!leave.drained && !needed()) {
        leave.drained = leave_drained();
        if (!leave.drained)
            leave_pause();
    }
}

static bool leave_nothing_else(void) {
    return false;
}

void leave_drain(void) {
    leave_drain_unless(leave_nothing_else);
}

/* What a home has sent and has no answer when the connection ends has not begun, if it has heard of this before. When
 * the drain had too little time it is not so, and there is nothing to wait for. */
static void leave_part(void) {
    int64_t until = clock_now() + LEAVE_PART_SECONDS * INT64_C(1000000000);

    route_drain();
    while (home_count() > 0 && !exec_wanted() && clock_now() < until) {
        home_leave();
        leave_pause();
    }
}

bool leave_stop(void) {
    bool watched;

    if (leave.stopped)
        return leave.all_ended;
    leave.stopped = true;
    watched = notify_stop(LEAVE_STOP_SECONDS);
    node_unpublish();
    leave_part();
    pool_stop_begin();
    lead_stop();
    leave.all_ended = pool_stop_wait(LEAVE_STOP_SECONDS) && watched;
    log_info("node: stopped");
    return leave.all_ended;
}
