/* lead.c - the threads that take turns as the leader: a worker, the event loop's, or the io thread. */
#include "config.h"

#include "lead.h"
#include "callback.h"
#include "clock.h"
#include "exec.h"
#include "home.h"
#include "ids.h"
#include "io.h"
#include "leader.h"
#include "pool.h"
#include "route.h"
#include "spin.h"
#include "stats.h"
#include "tasks.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>

enum {
    LEAD_BATCH =
        16, /* requests after which a leader does not look: who sent them has more use for the time */
    LEAD_TURNS = 4,           /* every so many looks one at all, the others at the hot connection */
    LEAD_NAP_NS = 250000,     /* the io thread's looks at a leader that may be stuck */
    LEAD_QUIET_NAPS = 16,     /* naps without traffic, after which the io thread sleeps */
    LEAD_WAITING_MS = 1,      /* between looks at the pool while there is something to see to */
    LEAD_REPORT_NS = 1000000, /* after which the application is told that a task runs */
};

static struct {
    struct leader leader;
    pthread_t thread; /* the io thread */
    _Atomic bool
        tasks_idle;        /* the event loop's thread sleeps, without the lead, and would take it */
    _Atomic bool standing; /* the io thread waits for events, as the leader or as it believes */

    /* The io thread sleeps on these when there is no traffic. */
    pthread_mutex_t nap_lock;
    pthread_cond_t nap_wake;
    _Atomic bool asleep;

    /* The leader's. */
    struct spin spin; /* how long to look for the next traffic */
    unsigned turn;    /* of its looks */
    size_t batch;     /* requests that a worker went to serve, at the last time */
} lead = {.nap_lock = PTHREAD_MUTEX_INITIALIZER,
          .nap_wake = PTHREAD_COND_INITIALIZER,
          .spin = {.crowded = spin_is_crowded}};

/* One look: whether something came. */
static bool lead_look(void) {
    return lead.turn++ % LEAD_TURNS == 0 ? io_look() : io_look_hot();
}

/* A moment awake, for what comes right after the last: whether something came. */
static bool lead_spin(void) {
    spin_begin(&lead.spin, lead.batch);
    do {
        if (lead_look())
            return true;
    } while (spin_goes_on(&lead.spin, clock_now() - io_traffic()));
    return false;
}

/* What has ended the leader's sleep has been seen to; there had been traffic before at that time. */
static void lead_slept(int64_t before) {
    if (io_traffic() > before)
        spin_slept(&lead.spin, io_traffic() - before);
}

/* Sleeps until there are events, as the leader, and sees to them: false when another thread has
 * taken the lead meanwhile. */
static bool lead_wait(uint32_t me, int timeout, int *n) {
    struct io_events events;
    int64_t before = io_traffic();

    leader_wait(&lead.leader);
    *n = io_wait(&events, timeout);
    if (!leader_resume(&lead.leader, me))
        return false;
    io_see_to(&events);
    lead_slept(before);
    return true;
}

/* The io thread has to look after a leader that goes away; wakes it if it sleeps. */
static void lead_leave(void) {
    leader_away(&lead.leader);
    if (atomic_load(&lead.standing)) /* it lost the lead while it waited and does not know yet */
        io_kick();
    if (atomic_exchange(&lead.asleep, false)) {
        pthread_mutex_lock(&lead.nap_lock);
        pthread_cond_signal(&lead.nap_wake);
        pthread_mutex_unlock(&lead.nap_lock);
    }
}

static void lead_put_started(const struct request *r) {
    home_put_started(r->conn, r->ref);
}

static void lead_tell_started(const struct request *r) {
    if (!r->id || ids_start(r->id, lead_put_started))
        lead_put_started(r);
}

/* Tells the callers what they have to know of requests that wait or run, and sees to it that the homes will be
 * told of the load: in how many milliseconds there may be more to tell, or -1. */
static int lead_tell(void) {
    bool told = exec_unannounced() > 0;
    int64_t now = clock_now();
    bool waits;

    if (told)
        exec_announce(route_put);
    if (exec_unreported() > 0 &&
        pool_report(now, lead_tell_started) + tasks_report(now, LEAD_REPORT_NS, lead_tell_started) >
            0)
        told = true;
    if (told)
        io_flush_all();
    io_set_timer();
    waits = io_flush_overdue(now) ||
            callback_more(); /* of those that follow some may leave it to others */
    return waits || exec_unreported() > 0 ? LEAD_WAITING_MS : -1;
}

/* Whether the lead may be taken: from an io thread that only waits; and between a worker and the event
 * loop's thread from the one that is away, which then had no use for it. */
static bool lead_may_take(uint64_t word, uint32_t me) {
    uint32_t owner = leader_owner_of(word);

    if (owner == LEADER_IO)
        return leader_phase_of(word) == LEADER_WAIT;
    return leader_phase_of(word) == LEADER_AWAY && (owner == LEADER_TASKS) != (me == LEADER_TASKS);
}

/* Becomes the leader again after serving, or takes the lead. */
static bool lead_take(uint32_t me) {
    uint64_t word;

    if (leader_resume(&lead.leader, me))
        return true;
    word = leader_look(&lead.leader);
    return lead_may_take(word, me) && leader_take(&lead.leader, word, me);
}

/* Whether the event loop's thread is to lead from here on: tasks have come, and it sleeps. */
static bool lead_is_for_tasks(void) {
    return tasks_due() && exec_ready() == 0 && atomic_exchange(&lead.tasks_idle, false);
}

bool lead_as_worker(uint32_t me) {
    if (!lead_take(me))
        return false;
    io_set_traffic(clock_now()); /* answers have just left: the next requests may be on their way */
    while (exec_ready() == 0 && !io_is_stopping()) {
        int again = lead_tell(),
            n; /* another worker may have taken one of this leader's requests */

        if ((lead.batch >= LEAD_BATCH || !lead_spin()) && !lead_wait(me, again, &n))
            return false;
        if (lead_is_for_tasks()) {
            lead_leave();
            return false;
        }
    }
    lead.batch = exec_ready();
    lead_leave();
    return !io_is_stopping();
}

/* The event loop's thread. */

static int lead_sooner(int a, int b) {
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

static int lead_left_ms(int64_t deadline) {
    int64_t left = deadline - clock_now();

    return deadline == 0 ? -1 : left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

static bool lead_is_readable(int fd, int timeout) {
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, timeout) > 0;
}

/* A moment awake, as lead_spin(): whether something came, here or to fd. A loop to whose fd something comes at each
 * turn looks here each time, too: nobody else can. */
static bool lead_spin_for_tasks(int fd, bool *readable) {
    spin_begin(&lead.spin, lead.batch);
    do {
        *readable = lead.turn % LEAD_TURNS == 0 && lead_is_readable(fd, 0);
        if (lead_look() || *readable)
            return true;
    } while (spin_goes_on(&lead.spin, clock_now() - io_traffic()));
    return false;
}

/* Sleeps, as the leader, until there are events, which it sees to, or fd is readable or a signal has come,
 * whose handler may be Python's: false when another has taken the lead meanwhile. */
static bool lead_wait_with(int fd, int timeout, bool *readable) {
    int64_t before = io_traffic();
    bool some;

    leader_wait(&lead.leader);
    some = io_wait_with(fd, timeout, readable);
    if (!leader_resume(&lead.leader, LEADER_TASKS))
        return false;
    if (some)
        io_look();
    lead_slept(before);
    return true;
}

/* Leads until there is something for the event loop (true), or another has to lead. */
static bool lead_until_tasks(int fd, int64_t deadline) {
    bool readable = false;

    io_set_traffic(clock_now());
    while (!tasks_due() && !readable && !io_is_stopping()) {
        int again = lead_tell(), left = lead_left_ms(deadline);

        if (exec_ready() > 0)
            return false;
        if (left == 0)
            return true;
        if (lead.batch < LEAD_BATCH && lead_spin_for_tasks(fd, &readable))
            continue;
        if (!lead_wait_with(fd, lead_sooner(again, left), &readable))
            return false;
    }
    return !io_is_stopping();
}

/* Whether the event loop's thread leads now. While requests wait it does not: a worker takes the lead with them, or
 * the io thread does, when nobody has had it for a while, and sees to the pool. */
static bool lead_take_for_tasks(void) {
    if (exec_ready() == 0)
        return lead_take(LEADER_TASKS);
    if (leader_owner_of(leader_look(&lead.leader)) == LEADER_TASKS)
        pool_wake();
    return false;
}

void lead_for_tasks(int fd, int64_t deadline) {
    bool leads, done = false;

    if (tasks_due())
        return;
    leads = lead_take_for_tasks();
    if (leads) {
        tasks_set_looking(true);
        done = lead_until_tasks(fd, deadline);
        tasks_set_looking(false);
        if (leader_owner_of(leader_look(&lead.leader)) == LEADER_TASKS) {
            lead.batch = tasks_waiting();
            lead_leave();
        }
        if (exec_ready() > 0)
            pool_wake();
    }
    if (done)
        return;
    atomic_store(&lead.tasks_idle, !io_is_stopping());
    if (!tasks_due())
        lead_is_readable(fd, lead_left_ms(deadline));
    atomic_store(&lead.tasks_idle, false);
}

/* A moment awake as the leader: what comes for a worker, or for fd, ends it. */
static void lead_look_awake(int fd) {
    bool readable = false;
    int64_t now = clock_now(),
            until = now + SPIN_SHORT_NS; /* however much more comes that is nobody's */

    io_set_traffic(now);
    lead_tell();
    tasks_set_looking(true);
    while (!tasks_due() && exec_ready() == 0 && !readable && !io_is_stopping() &&
           clock_now() < until)
        if (!lead_spin_for_tasks(fd, &readable))
            break;
    tasks_set_looking(false);
    lead.batch = tasks_waiting();
}

void lead_look_for_tasks(int fd, bool few) {
    if (!tasks_due() && lead_take_for_tasks()) {
        if (few)
            lead_look_awake(fd);
        lead_leave();
        if (!tasks_due() || exec_ready() > 0)
            pool_wake();
    }
    atomic_store(&lead.tasks_idle, few && !tasks_due() && !io_is_stopping());
}

/* The io thread leads as long as every worker is in Python or asleep. */
static void lead_stand_in(void) {
    bool leads;

    stats_add(STATS_LEAD_TAKEN, 1);
    io_flush_all();
    while (!io_is_stopping()) {
        int again = lead_tell(), look = pool_supervise(clock_now()), n;

        again = lead_sooner(again, look);
        atomic_store(&lead.standing, true);
        leads = lead_wait(LEADER_IO, again, &n);
        atomic_store(&lead.standing, false);
        if (!leads)
            return;
        if (n > 0)
            io_flush_all();
    }
    lead_leave();
}

/* Sleeps until a leader goes away, unless one is away already. */
static void lead_sleep(uint64_t seen) {
    pthread_mutex_lock(&lead.nap_lock);
    atomic_store(&lead.asleep, true);
    if (leader_look(&lead.leader) != seen)
        atomic_store(&lead.asleep, false);
    while (atomic_load(&lead.asleep) && !io_is_stopping())
        pthread_cond_wait(&lead.nap_wake, &lead.nap_lock);
    pthread_mutex_unlock(&lead.nap_lock);
}

/* The io thread: while there is traffic it looks at short intervals whether the leader has been
 * in Python since the last look, and then takes the lead; else it sleeps. */
static void *lead_main(void *arg) {
    const struct timespec nap = {0, LEAD_NAP_NS};
    uint64_t seen = 0;
    int quiet = 0;

    while (!io_is_stopping()) {
        uint64_t word = leader_look(&lead.leader);

        if (word != seen) {
            quiet = 0;
        } else if (leader_phase_of(word) == LEADER_AWAY) {
            if (leader_take(&lead.leader, word, LEADER_IO))
                lead_stand_in();
            quiet = 0;
        } else if (++quiet > LEAD_QUIET_NAPS && leader_phase_of(word) == LEADER_WAIT) {
            lead_sleep(word);
            quiet = 0;
        }
        seen = leader_look(&lead.leader);
        nanosleep(&nap, NULL);
    }
    return arg;
}

int lead_start(struct err *e) {
    sigset_t all, before;
    int error;

    leader_init(&lead.leader, LEADER_IO);
    leader_wait(&lead.leader); /* the first worker takes the lead */

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* its waits need no interruptions */
    error = pthread_create(&lead.thread, NULL, lead_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return err_set(e, EX_OSERR, "lead: cannot start a thread: %s", strerror(error));
    return 0;
}

void lead_stop(void) {
    io_stop();
    pthread_mutex_lock(&lead.nap_lock);
    pthread_cond_signal(&lead.nap_wake);
    pthread_mutex_unlock(&lead.nap_lock);
    pthread_join(lead.thread, NULL);
}
