/* connect.c - keeps a connection to each node of --connect, and greets it there. */
#include "config.h"

#include "connect.h"
#include "clock.h"
#include "conn.h"
#include "dist.h"
#include "handshake.h"
#include "io.h"
#include "log.h"
#include "node.h"
#include "request.h"
#include "route.h"
#include "stats.h"
#include "thread.h"

#include <pthread.h>
#include <string.h>

enum { CONNECT_PAUSE_MIN = 200, CONNECT_PAUSE_MAX = 5000 }; /* ms */

struct connect {
    const char *peer;
    bool trying; /* a thread is at it */
    bool lost;   /* and has to look once more */

    /* That thread's. */
    const struct conn *greeted; /* to tell the next one from it; may be gone */
    int64_t since;              /* when there last was a home, 0: never */
    unsigned failures;          /* tries in a row, and homes that did not last */
    bool told;                  /* that it cannot be reached */
};

static struct {
    pthread_mutex_t lock; /* guards trying and lost of each */
    struct connect *list;
    size_t len; /* written before other threads look */
} connects = {.lock = PTHREAD_MUTEX_INITIALIZER};

int connect_pause(unsigned failures, uint32_t random) {
    int pause = CONNECT_PAUSE_MIN;

    while (failures-- > 1 && pause < CONNECT_PAUSE_MAX)
        pause *= 2;
    if (pause > CONNECT_PAUSE_MAX)
        pause = CONNECT_PAUSE_MAX;
    return pause - pause / 4 + (int)(random % ((uint32_t)pause / 4 + 1));
}

/* REG_SEND of {py_hello, Node} to py_coordinator. */
static void connect_greet(struct conn *c) {
    struct buf out = {0}, self = {0}, name = {0};
    size_t begin = dist_begin(&out);

    request_put_pid(&self, 0, 0);
    etf_put_atom(&name, "py_coordinator");
    dist_put_reg_send(&out, (struct slice){self.data, self.len},
                      (struct slice){name.data, name.len});
    etf_put_tuple(&out, 2);
    etf_put_atom(&out, "py_hello");
    etf_put_atom(&out, node_name());
    if (dist_end(&out, begin) < 0)
        fatal("connect: a greeting of %zu bytes", out.len);
    stats_add(STATS_BYTES_OUT, out.len);
    outbox_put_buf(&c->out, &out);
    io_flush(c);
    buf_done(&self);
    buf_done(&name);
    buf_done(&out);
}

/* Connects, unless there is a connection; what is wrong is told at the first of many tries. */
static struct conn *connect_reach(struct connect *node) {
    struct err e;
    struct conn *c = handshake_connect(node->peer, &e);

    if (!c && !node->told)
        log_warning("connect %s: trying on: %s", node->peer, e.text);
    node->told = !c;
    return c;
}

/* Tries once: whether the connection has a home. A greeting may come before the application there
 * has started, and is dropped then. */
static bool connect_try(struct connect *node) {
    struct conn *c = connect_reach(node);
    bool home = c && outbox_gathers(&c->out);
    bool first = c && !home && c != node->greeted;

    node->failures = first ? 1 : node->failures + 1;
    if (c && !home)
        connect_greet(c);
    if (first)
        log_info("connect %s: greeted", node->peer);
    if (home)
        node->since = clock_now();
    node->greeted = c;
    if (c)
        conn_unref(c);
    return home;
}

static void connect_wait(const struct connect *node) {
    thread_pause(connect_pause(node->failures, (uint32_t)clock_now()));
}

/* A home that goes at once each time is one that cannot be reached. */
static void connect_hold(struct connect *node) {
    if (!node->since)
        return;
    if (clock_now() - node->since > (int64_t)CONNECT_PAUSE_MAX * 1000000)
        node->failures = 0;
    else
        node->failures++;
    connect_wait(node);
}

/* Whether the home that the thread has waited for is lost again already. */
static bool connect_again(struct connect *node) {
    bool again;

    pthread_mutex_lock(&connects.lock);
    again = node->trying = node->lost;
    node->lost = false;
    pthread_mutex_unlock(&connects.lock);
    return again;
}

static void *connect_main(void *arg) {
    struct connect *node = arg;

    do {
        connect_hold(node);
        while (!route_draining() && !connect_try(node))
            connect_wait(node);
    } while (connect_again(node));
    return NULL;
}

static void connect_begin(struct connect *node) {
    int error = thread_start(connect_main, node);

    if (!error)
        return;
    log_error("connect %s: cannot start a thread: %s", node->peer, strerror(error));
    pthread_mutex_lock(&connects.lock);
    node->trying = false;
    pthread_mutex_unlock(&connects.lock);
}

/* Marks that a thread has to look: whether one has to be started. */
static bool connect_mark(struct connect *node) {
    bool begin;

    pthread_mutex_lock(&connects.lock);
    begin = !node->trying;
    node->lost = node->trying;
    node->trying = true;
    pthread_mutex_unlock(&connects.lock);
    return begin;
}

void connect_lost(const char *peer) {
    for (size_t i = 0; i < connects.len; i++)
        if (strcmp(connects.list[i].peer, peer) == 0 && !route_draining() &&
            connect_mark(&connects.list[i]))
            connect_begin(&connects.list[i]);
}

void connect_start(const struct options_list *nodes) {
    connects.list = xcalloc(nodes->len, sizeof *connects.list);
    for (size_t i = 0; i < nodes->len; i++)
        connects.list[i].peer = nodes->items[i];
    connects.len = nodes->len;
    for (size_t i = 0; i < nodes->len; i++)
        if (connect_mark(&connects.list[i]))
            connect_begin(&connects.list[i]);
}
