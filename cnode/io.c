/* io.c - what happens on the sockets: connections, listener, epmd, ticks. */
#include "config.h"

#include "io.h"
#include "channels.h"
#include "exec.h"
#include "home.h"
#include "ids.h"
#include "log.h"
#include "route.h"
#include "wake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    IO_READS = 16,            /* reads of one connection before the others have their turn, */
    IO_READ_NS = 500000,      /* unless what has come takes longer */
    IO_TICKS = 4,             /* ticks in a net_ticktime */
    IO_SOON_BYTES = 16 << 10, /* more are not held back for what may come, */
    IO_SOON_NS = 100000,      /* nor for longer */
    IO_ROOM_MS = 1000,        /* between looks whether somebody else has made room in an outbox */
    IO_IDLE_NS = 1000000000,  /* without traffic, at a tick, memory is given back */
};

/* What an epoll event is about: one of these addresses, or a connection. */
static char io_is_listener, io_is_wake, io_is_timer, io_is_epmd;

static struct {
    struct io_settings settings;
    int epoll, timer;
    _Atomic int epmd; /* also written by the thread that registers again */
    struct wake wake;
    _Atomic bool stopping;
    _Atomic bool report, reopen;
    _Atomic bool asked; /* whether it goes round */
    sem_t round;        /* it does */
    _Atomic bool soon;  /* a connection has something that waits to be written with more */
    _Atomic bool forked;

    /* Connections that others have added, for the leader to take. */
    pthread_mutex_t added_lock; /* also guards changes of conns, for io_find() */
    struct conn *added, **added_end;

    /* The leader's. */
    int64_t tick_at,
        report_at; /* when the timer is to fire next; 0: there is nobody to report to */
    struct conn *conns;
    int64_t traffic;  /* when there last was some */
    struct conn *hot; /* the one that brought it, which the next is likely to come from */
} io = {.added_lock = PTHREAD_MUTEX_INITIALIZER, .added_end = &io.added, .wake = {-1}, .epmd = -1};

static int io_watch(int fd, uint32_t events, void *what) {
    struct epoll_event ev = {.events = events, .data.ptr = what};

    return epoll_ctl(io.epoll, EPOLL_CTL_ADD, fd, &ev);
}

static void io_rewatch(int fd, uint32_t events, void *what) {
    struct epoll_event ev = {.events = events, .data.ptr = what};

    epoll_ctl(io.epoll, EPOLL_CTL_MOD, fd, &ev);
}

/* For the next tick or, if that comes first, the next report. */
static int io_start_timer(void) {
    struct itimerspec spec = {0};
    int64_t at = io.tick_at;

    io.report_at = home_report_due();
    if (io.report_at > 0 && io.report_at < at)
        at = io.report_at;
    spec.it_value = (struct timespec){at / 1000000000, at % 1000000000};
    return timerfd_settime(io.timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

void io_set_timer(void) {
    if (home_report_due() != io.report_at)
        io_start_timer();
}

static int64_t io_tick_ns(void) {
    return (int64_t)io.settings.net_ticktime * 1000000000 / IO_TICKS;
}

static int io_init_timer(void) {
    io.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    io.tick_at = clock_now() + io_tick_ns();
    return io.timer < 0 ? -1 : io_start_timer();
}

/* fork(2). The list of connections is held still meanwhile, so that the child finds it whole. */

static void io_before_fork(void) {
    pthread_mutex_lock(&io.added_lock);
}

static void io_after_fork(void) {
    pthread_mutex_unlock(&io.added_lock);
}

static void io_in_child(void) {
    int fds[] = {io.settings.listener, io.epoll, io.timer, io.wake.fd, atomic_load(&io.epmd)};

    atomic_store(&io.forked, true);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    for (struct conn *c = io.conns; c; c = c->next)
        close(c->fd);
    for (struct conn *c = io.added; c; c = c->next)
        close(c->fd);
    io.epoll = io.timer = io.wake.fd = -1; /* their numbers will be others' */
    pthread_mutex_unlock(&io.added_lock);
}

bool io_forked(void) {
    return atomic_load_explicit(&io.forked, memory_order_relaxed);
}

int io_init(const struct io_settings *settings, struct err *e) {
    io.settings = *settings;
    io.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (io.epoll < 0 || wake_init(&io.wake) < 0 || io_init_timer() < 0 ||
        io_watch(io.wake.fd, EPOLLIN, &io_is_wake) < 0 ||
        io_watch(io.timer, EPOLLIN, &io_is_timer) < 0 ||
        io_watch(settings->listener, EPOLLIN, &io_is_listener) < 0 || sem_init(&io.round, 0, 0) < 0)
        return err_set(e, EX_OSERR, "io: %s", strerror(errno));
    pthread_atfork(io_before_fork, io_after_fork, io_in_child);
    return 0;
}

/* Connections. */

static void io_close(struct conn *c, const char *why) {
    if (io.hot == c)
        io.hot = NULL;
    epoll_ctl(io.epoll, EPOLL_CTL_DEL, c->fd, NULL);
    outbox_close(&c->out);
    shutdown(c->fd, SHUT_RDWR);
    pthread_mutex_lock(&io.added_lock);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    pthread_mutex_unlock(&io.added_lock);
    route_closed(c);
    log_info("conn %s: closed: %s", c->peer, why);
    conn_unref(c);
}

/* Adapts what epoll watches of c to how much is waiting in its outbox. */
static void io_set_events(struct conn *c, bool full) {
    size_t waiting = atomic_load_explicit(&c->out.bytes, memory_order_relaxed);
    uint32_t events;

    if (waiting > CONN_HIGH)
        c->paused = true; /* only the end of the connection and room are waited for */
    else if (waiting < CONN_LOW)
        c->paused = false;
    /* A paused one waits for room in any case: it may be a worker that writes the last byte. */
    events = (c->paused ? EPOLLRDHUP : EPOLLIN) | (full || c->paused ? EPOLLOUT : 0u);
    if (events != c->events) {
        c->events = events;
        io_rewatch(c->fd, events, c);
    }
}

static enum outbox_result io_flush_outbox(struct conn *c) {
    enum outbox_result result;

    if (atomic_load_explicit(&c->out.bytes, memory_order_relaxed) == 0)
        return OUTBOX_EMPTY;
    result = outbox_flush(&c->out);
    if (conn_release(c)) {
        exec_release(c);
        io_kick(); /* whoever leads may just have found nothing to do */
    }
    return result;
}

/* Writes what there is: false when the connection broke. */
static bool io_write(struct conn *c) {
    enum outbox_result result = io_flush_outbox(c);

    if (result == OUTBOX_BROKEN)
        return false;
    if (c->events != EPOLLIN || result == OUTBOX_FULL)
        io_set_events(c, result == OUTBOX_FULL);
    return true;
}

/* Reads and routes what has come: NULL, or why the connection has to be closed. */
static const char *io_read(struct conn *c) {
    enum conn_result more = CONN_MORE;
    const char *why = NULL;
    int64_t end = clock_now() + IO_READ_NS;

    for (int i = 0; i < IO_READS && more == CONN_MORE && (i == 0 || clock_now() < end); i++) {
        struct frame frame;
        int found;

        more = conn_read(c, &why);
        while ((found = conn_next(c, io.settings.max_frame, &frame)) > 0)
            if (route_frame(c, &frame, &why) < 0)
                return why;
        if (found < 0)
            return "frame longer than --max-frame";
        if (more == CONN_CLOSED)
            return why;
    }
    return NULL;
}

static void io_ready(struct conn *c, uint32_t events) {
    const char *why = NULL;

    if (events & EPOLLRDHUP) {
        why = "peer closed";
    } else if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        io.traffic = clock_now();
        io.hot = c;
        why = io_read(c);
    }
    if (!io_write(c) && !why)
        why = "write failed";
    if (why)
        io_close(c, why);
}

void io_flush(struct conn *c) {
    atomic_store(&c->soon, 0);
    switch (io_flush_outbox(c)) {
    case OUTBOX_EMPTY:
        break;
    case OUTBOX_FULL:
        atomic_store(&c->want_write, true);
        wake_set(&io.wake);
        break;
    case OUTBOX_BROKEN: /* the leader will read the end */
        shutdown(c->fd, SHUT_RDWR);
        break;
    }
}

/* Whoever is about to write sees to it; the leader does if that takes longer than it looks. */
void io_flush_soon(struct conn *c) {
    int64_t now = clock_now(), since = 0;

    if (atomic_compare_exchange_strong(&c->soon, &since, now))
        atomic_store(&io.soon, true);
    else if (now - since > IO_SOON_NS || atomic_load(&c->out.bytes) > IO_SOON_BYTES)
        io_flush(c);
}

bool io_flush_overdue(int64_t now) {
    bool waits = false;

    if (!atomic_exchange(&io.soon, false))
        return false;
    for (struct conn *c = io.conns, *next; c; c = next) {
        int64_t since = atomic_load(&c->soon);

        next = c->next;
        if (since == 0)
            continue;
        if (now - since <= IO_SOON_NS) {
            waits = true;
            continue;
        }
        atomic_store(&c->soon, 0);
        if (!io_write(c))
            io_close(c, "write failed");
    }
    if (waits)
        atomic_store(&io.soon, true);
    return waits;
}

/* Once more than CONN_HIGH is there, until less than CONN_LOW is. The connection's end, which the
 * leader sees to, empties the outbox. */
bool io_wait_room(struct conn *c) {
    size_t limit = CONN_HIGH;

    while (atomic_load_explicit(&c->out.bytes, memory_order_relaxed) > limit) {
        struct pollfd p = {c->fd, POLLOUT, 0};

        limit = CONN_LOW;
        if (poll(&p, 1, IO_ROOM_MS) < 0 && errno == EINTR)
            return false;
        io_flush(c);
    }
    return true;
}

void io_flush_all(void) {
    for (struct conn *c = io.conns, *next; c; c = next) {
        next = c->next;
        if (!io_write(c))
            io_close(c, "write failed");
    }
}

void io_add(struct conn *c) {
    pthread_mutex_lock(&io.added_lock);
    c->next = NULL;
    *io.added_end = c;
    io.added_end = &c->next;
    pthread_mutex_unlock(&io.added_lock);
    wake_set(&io.wake);
}

struct conn *io_find(const char *peer) {
    struct conn *c = NULL;

    pthread_mutex_lock(&io.added_lock);
    for (struct conn *added = io.added; added; added = added->next)
        if (strcmp(added->peer, peer) == 0)
            c = added; /* the last one stays */
    if (!c)
        for (c = io.conns; c && strcmp(c->peer, peer) != 0; c = c->next)
            ;
    if (c)
        conn_ref(c);
    pthread_mutex_unlock(&io.added_lock);
    return c;
}

bool io_pending(void) {
    bool pending = false;

    pthread_mutex_lock(&io.added_lock);
    for (struct conn *c = io.conns; c && !pending; c = c->next)
        pending = atomic_load(&c->out.bytes) > 0;
    for (struct conn *c = io.added; c && !pending; c = c->next)
        pending = atomic_load(&c->out.bytes) > 0;
    pthread_mutex_unlock(&io.added_lock);
    return pending;
}

int io_count(void) {
    int n = 0;

    pthread_mutex_lock(&io.added_lock);
    for (struct conn *c = io.conns; c; c = c->next)
        n++;
    for (struct conn *c = io.added; c; c = c->next)
        n++;
    pthread_mutex_unlock(&io.added_lock);
    return n;
}

void io_kick(void) {
    wake_set(&io.wake);
}

static void io_replace(const char *peer) {
    for (struct conn *c = io.conns; c; c = c->next)
        if (strcmp(c->peer, peer) == 0) {
            io_close(c, "the peer has connected again");
            return;
        }
}

static struct conn *io_first_added(void) {
    struct conn *c;

    pthread_mutex_lock(&io.added_lock);
    c = io.added;
    pthread_mutex_unlock(&io.added_lock);
    return c;
}

/* The one that was added first is one of the others now. At any time io_find() sees it here or there. */
static void io_move_added(struct conn *c) {
    pthread_mutex_lock(&io.added_lock);
    io.added = c->next;
    if (!io.added)
        io.added_end = &io.added;
    c->next = io.conns;
    c->at = &io.conns;
    if (c->next)
        c->next->at = &c->next;
    io.conns = c;
    pthread_mutex_unlock(&io.added_lock);
}

static void io_take_added(void) {
    struct conn *c;

    while ((c = io_first_added())) {
        io_replace(c->peer);
        io_move_added(c);
        c->events = EPOLLIN;
        log_info("conn %s: up", c->peer);
        if (io_watch(c->fd, EPOLLIN, c) < 0)
            io_close(c, strerror(errno));
    }
}

/* Says that we live to whom nothing was sent, and drops who has been silent. */
static void io_tick(void) {
    static const uint8_t tick[4];

    for (struct conn *c = io.conns, *next; c; c = next) {
        uint64_t sent = atomic_load_explicit(&c->out.sent, memory_order_relaxed);
        uint64_t received = c->received;
        bool moved;

        next = c->next;
        if (c->paused)
            received += conn_unread(c);
        moved = received != c->tick_received || (c->paused && sent != c->tick_sent);
        c->silent = moved ? 0 : c->silent + 1;
        c->tick_received = received;
        if (c->silent >= IO_TICKS) {
            conn_reset(c);
            io_close(c, "heartbeat missed");
            continue;
        }
        if (sent == c->tick_sent && atomic_load(&c->out.bytes) == 0) {
            outbox_put(&c->out, tick, sizeof tick);
            if (!io_write(c)) {
                io_close(c, "write failed");
                continue;
            }
        }
        c->tick_sent = atomic_load_explicit(&c->out.sent, memory_order_relaxed);
    }
    channels_tick();
    ids_sweep(clock_now());
    if (exec_load() == 0 && clock_now() - io.traffic > IO_IDLE_NS)
        xmalloc_trim();
}

static void io_timer(void) {
    int64_t now = clock_now(), report;
    uint64_t times;

    if (read(io.timer, &times, sizeof times) < 0)
        return;
    if (now >= io.tick_at) {
        io.tick_at = now + io_tick_ns();
        io_tick();
    }
    report = home_report_due();
    if (report > 0 && now >= report && home_report(now))
        io_flush_all();
    io_start_timer();
}

void io_list(void (*fn)(void *arg, const struct conn *c), void *arg) {
    for (struct conn *c = io.conns; c; c = c->next)
        fn(arg, c);
}

void io_signal(int signo) {
    atomic_store(signo == SIGHUP ? &io.reopen : &io.report, true);
    wake_set(&io.wake);
}

void io_go_round(void) {
    atomic_store(&io.asked, true);
    wake_set(&io.wake);
    while (sem_wait(&io.round) < 0 && errno == EINTR)
        ;
}

static void io_woken(void) {
    if (!atomic_load(&io.stopping)) /* every thread that waits has to see that */
        wake_clear(&io.wake);
    io_take_added();
    for (struct conn *c = io.conns; c; c = c->next)
        if (atomic_exchange(&c->want_write, false))
            io_set_events(c, true);
    if (atomic_exchange(&io.asked, false))
        sem_post(&io.round);
    if (atomic_exchange(&io.reopen, false))
        log_reopen();
    if (atomic_exchange(&io.report, false))
        io.settings.report();
}

/* epmd says nothing more after the name is registered, so anything readable is its end, but for
 * the rest of its first answer, which ei leaves unread. */
static void io_epmd(void) {
    uint8_t rest[16];
    ssize_t n = recv(io.epmd, rest, sizeof rest, MSG_DONTWAIT);

    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    epoll_ctl(io.epoll, EPOLL_CTL_DEL, io.epmd, NULL);
    io.epmd = -1;
    io.settings.epmd();
}

void io_watch_epmd(int fd) {
    if (io.epmd >= 0)
        epoll_ctl(io.epoll, EPOLL_CTL_DEL, io.epmd, NULL);
    io.epmd = fd;
    if (fd >= 0) /* ei_publish() leaves it open for programs that are executed */
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fd >= 0)
        io_watch(fd, EPOLLIN, &io_is_epmd);
}

void io_set_accepting(bool accepting) {
    io_rewatch(io.settings.listener, accepting ? EPOLLIN : 0u, &io_is_listener);
}

/* Looks and waits. */

/* A connection closed by an earlier event of the same batch must not be looked at again: closing
 * only happens to the event's own connection, to one replaced (in io_woken) or to a silent
 * or broken one (in io_timer), so those two come last. */
void io_see_to(const struct io_events *events) {
    bool woken = false, timer = false;

    for (int i = 0; i < events->n; i++) {
        void *what = events->list[i].data.ptr;

        if (what == &io_is_wake)
            woken = true;
        else if (what == &io_is_timer)
            timer = true;
        else if (what == &io_is_listener)
            io.settings.accept();
        else if (what == &io_is_epmd)
            io_epmd();
        else
            io_ready(what, events->list[i].events);
    }
    if (woken)
        io_woken();
    if (timer)
        io_timer();
}

int io_wait(struct io_events *events, int timeout) {
    events->n = epoll_wait(io.epoll, events->list, IO_EVENTS, timeout);
    return events->n;
}

bool io_wait_with(int fd, int timeout, bool *readable) {
    struct pollfd p[] = {{io.epoll, POLLIN, 0}, {fd, POLLIN, 0}};
    int n = poll(p, 2, timeout);

    *readable = n < 0 || (n > 0 && p[1].revents != 0);
    return n > 0 && p[0].revents != 0;
}

bool io_look(void) {
    struct io_events events;

    if (io_wait(&events, 0) <= 0)
        return false;
    io_see_to(&events);
    return true;
}

bool io_look_hot(void) {
    struct conn *c = io.hot;
    uint64_t received;
    const char *why;

    if (!c || c->paused)
        return false;
    received = c->received;
    why = io_read(c);
    if (!why && c->received == received)
        return false;
    io.traffic = clock_now();
    if (!why && !io_write(c))
        why = "write failed";
    if (why)
        io_close(c, why);
    return true;
}

int64_t io_traffic(void) {
    return io.traffic;
}

void io_set_traffic(int64_t now) {
    io.traffic = now;
}

void io_stop(void) {
    atomic_store(&io.stopping, true);
    wake_set(&io.wake);
}

bool io_is_stopping(void) {
    return atomic_load(&io.stopping);
}
