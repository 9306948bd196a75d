/* notify.c - tells the service manager how the node is: ready, draining, alive. */
#include "config.h"

#include "notify.h"
#include "clock.h"
#include "io.h"
#include "log.h"
#include "thread.h"
#include "wake.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    NOTIFY_TEXT = 512,
    NOTIFY_EXTEND_S = 10,         /* what a drain asks for, */
    NOTIFY_AGAIN_NS = 1000000000, /* and how often */
    NOTIFY_PAUSE_MS = 1,
    NOTIFY_LEAST_NS =
        1000000, /* between two messages of the watchdog, however short its interval */
};

static struct {
    int fd; /* -1: nobody is told */
    struct sockaddr_un to;
    socklen_t to_len;
    int64_t drained; /* when the last message of the drain was sent */
    bool stopping;   /* it has been said */
    _Atomic bool failed;

    /* The watchdog. */
    const struct notify_hooks *hooks;
    int64_t half; /* ns; 0: there is none */
    struct wake told;
    _Atomic bool ends, ended;
} notify = {.fd = -1};

/* Sends one message. A manager that does not take it for a while must not hold the node up. */
__attribute__((format(printf, 1, 2))) static void notify_send(const char *format, ...) {
    char text[NOTIFY_TEXT];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (notify.fd < 0 || sendto(notify.fd, text, strlen(text), MSG_NOSIGNAL,
                                (const struct sockaddr *)&notify.to, notify.to_len) >= 0)
        return;
    if (!atomic_exchange(&notify.failed, true))
        log_warning("notify: the service manager cannot be told: %s", strerror(errno));
}

/* An abstract name begins with a zero byte and ends with its length; a path ends with one. */
static int notify_address(const char *socket) {
    size_t len = strlen(socket);

    if (len < 2 || (*socket != '/' && *socket != '@') || len >= sizeof notify.to.sun_path)
        return -1;
    notify.to.sun_family = AF_UNIX;
    memcpy(notify.to.sun_path, socket, len + 1);
    if (*socket == '@')
        notify.to.sun_path[0] = 0;
    notify.to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (*socket == '/'));
    return 0;
}

int notify_init(const char *socket_name, struct err *e) {
    const struct timeval limit = {1, 0};

    if (!socket_name)
        return 0;
    if (notify_address(socket_name) < 0)
        return err_set(e, EX_USAGE,
                       "NOTIFY_SOCKET: '%.120s' is neither a path nor an @abstract name",
                       socket_name);
    notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify.fd < 0 || io_forked())
        return err_set(e, EX_OSERR, "NOTIFY_SOCKET: %s", strerror(errno));
    setsockopt(notify.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return 0;
}

void notify_ready(const char *status) {
    notify_send("READY=1\nSTATUS=%s", status);
}

/* The watchdog. */

/* Whether to go on when the time has come. */
static bool notify_sleep(int64_t until) {
    struct pollfd p = {notify.told.fd, POLLIN, 0};
    int64_t left;

    while (!atomic_load(&notify.ends) && (left = until - clock_now()) > 0)
        poll(&p, 1, (int)(left / 1000000) + 1);
    return !atomic_load(&notify.ends);
}

/* Whatever does not go on, the leader or who has the interpreter, this thread waits there, and the
 * manager hears nothing. */
static void *notify_main(void *arg) {
    int64_t begun;

    notify.hooks->start();
    do {
        begun = clock_now();
        io_go_round();
        notify.hooks->look();
        notify_send("WATCHDOG=1");
    } while (notify_sleep(begun + notify.half));
    notify.hooks->stop();
    atomic_store(&notify.ended, true);
    return arg;
}

int notify_watch(uint64_t interval, const struct notify_hooks *hooks, struct err *e) {
    int error;

    if (notify.fd < 0 || interval == 0)
        return 0;
    notify.hooks = hooks;
    notify.half = (int64_t)(interval / 2) * 1000;
    if (notify.half < NOTIFY_LEAST_NS)
        notify.half = NOTIFY_LEAST_NS;
    error = wake_init(&notify.told) < 0 ? errno : thread_start_python(notify_main, NULL);
    if (error)
        return err_set(e, EX_OSERR, "notify: cannot start the watchdog: %s", strerror(error));
    return 0;
}

/* Leaving. */

void notify_draining(size_t requests) {
    int64_t now = clock_now();

    if (notify.stopping && now - notify.drained < NOTIFY_AGAIN_NS)
        return;
    notify_send("%sEXTEND_TIMEOUT_USEC=%d\nSTATUS=draining: %zu requests to finish",
                notify.stopping ? "" : "STOPPING=1\n", NOTIFY_EXTEND_S * 1000000, requests);
    notify.stopping = true;
    notify.drained = now;
}

static bool notify_stop_watch(double seconds) {
    int64_t deadline = clock_now() + (int64_t)(seconds * 1e9);

    atomic_store(&notify.ends, true);
    wake_set(&notify.told);
    while (!atomic_load(&notify.ended) && clock_now() < deadline)
        thread_pause(NOTIFY_PAUSE_MS);
    return atomic_load(&notify.ended);
}

bool notify_stop(double seconds) {
    notify_send("%sSTATUS=stopping", notify.stopping ? "" : "STOPPING=1\n");
    notify.stopping = true;
    return notify.half == 0 || notify_stop_watch(seconds);
}
