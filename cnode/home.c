/* home.c - the Erlang application at the other end: what it sends, what is gathered for it. */
#include "config.h"

#include "home.h"
#include "callback.h"
#include "connect.h"
#include "control.h"
#include "exec.h"
#include "io.h"
#include "log.h"
#include "route.h"
#include "stats.h"

#include <stdio.h>
#include <stdlib.h>

/* Between looks whether the load has changed, while there is any; and after which a home is told in any case. */
#define HOME_LOOK_NS ((int64_t)1000000000)
#define HOME_BEAT_NS (5 * HOME_LOOK_NS)

struct home {
    struct home *next;
    struct conn *conn;        /* counted */
    struct slice pid;         /* into bytes */
    struct control_load load; /* the leader's: as it was told last, */
    int64_t told;             /* and when; 0: never */
    bool parting;             /* the leader's: has been told that the node leaves */
    uint8_t bytes[];
};

static struct {
    void (*attached)(void);
    pthread_mutex_t lock; /* guards all below */
    struct home *list;    /* the one attached first is the first */
    char *last;           /* while there is none: the node of the last one */
    _Atomic int count;

    /* The leader's: the looks at the load. */
    int64_t looked, due;
    size_t requests;     /* that had not ended, when they were last counted */
    bool idle;           /* there was none at the last one */
    uint64_t calls;      /* had been run by then */
    _Atomic bool urgent; /* any thread's: the next one is due at once */

    _Atomic bool leaving; /* any thread's: homes are to be told as soon as nothing runs */
} homes = {.lock = PTHREAD_MUTEX_INITIALIZER};

void home_init(void (*attached)(void)) {
    homes.attached = attached;
}

/* Takes c's home out of the list, if it is pid or pid is empty: whether it was there. */
static bool home_remove(const struct conn *c, struct slice pid) {
    struct home **at = &homes.list, *found;

    pthread_mutex_lock(&homes.lock);
    while (*at && ((*at)->conn != c || (pid.len > 0 && !slice_equal((*at)->pid, pid))))
        at = &(*at)->next;
    found = *at;
    if (found) {
        *at = found->next;
        atomic_fetch_sub(&homes.count, 1);
    }
    if (found && !homes.list) {
        free(homes.last);
        homes.last = xstrdup(c->peer);
    }
    pthread_mutex_unlock(&homes.lock);
    if (!found)
        return false;
    conn_unref(found->conn);
    free(found);
    return true;
}

/* A connection has one home: a later one takes the place of that before. */
static struct home *home_add(struct conn *c, struct slice pid) {
    struct home *h = xmalloc(sizeof *h + pid.len), **at = &homes.list;
    bool first;

    *h = (struct home){.conn = conn_ref(c), .pid = {h->bytes, pid.len}};
    memcpy(h->bytes, pid.data, pid.len);
    home_remove(c, (struct slice){0});
    pthread_mutex_lock(&homes.lock);
    first = !homes.list;
    while (*at)
        at = &(*at)->next;
    *at = h;
    atomic_fetch_add(&homes.count, 1);
    pthread_mutex_unlock(&homes.lock);
    if (first && homes.attached)
        homes.attached();
    return h;
}

static void home_put(struct conn *c, struct buf *item) {
    outbox_gather(&c->out, item);
    buf_done(item);
}

/* The load. */

/* Tells h of it, unless too much waits for it already: whether it knows. */
static bool home_tell_load(struct home *h, const struct control_load *load, int64_t now) {
    struct buf item = {0};

    if (atomic_load_explicit(&h->conn->out.bytes, memory_order_relaxed) > CONN_LOW)
        return false;
    control_put_load(&item, load);
    home_put(h->conn, &item);
    h->load = *load;
    h->told = now;
    return true;
}

/* Who was told longest ago was told then. */
static int64_t home_oldest_told(void) {
    int64_t told = INT64_MAX;

    for (struct home *h = homes.list; h; h = h->next)
        if (h->told < told)
            told = h->told;
    return told;
}

static void home_count_cb(struct conn *c) {
    homes.requests++;
    if (c)
        c->load++;
}

/* Whose the requests are that have not ended: one walk through all of them for all homes. */
static void home_count_requests(void) {
    for (struct home *h = homes.list; h; h = h->next)
        h->conn->load = 0;
    homes.requests = 0;
    exec_each_conn(home_count_cb);
}

/* Whether h is told now. Then it has every answer: the leader alone lets calls begin, and has refused all since the
 * node drains. */
static bool home_tell_leaving(struct home *h) {
    struct buf item = {0};

    if (h->parting || !atomic_load(&homes.leaving) || exec_wanted())
        return false;
    etf_put_atom(&item, "leaving");
    home_put(h->conn, &item);
    h->parting = true;
    return true;
}

/* The first report, at once. */
static void home_begin_reports(struct home *h) {
    int64_t now = clock_now();
    struct control_load load;

    control_read_load(&load, now);
    home_count_requests();
    load.others = homes.requests - h->conn->load;
    home_tell_load(h, &load, now);
    home_tell_leaving(h);
    homes.idle = false;
    if (homes.due < now || homes.due > now + HOME_LOOK_NS)
        homes.due = now + HOME_LOOK_NS;
}

/* The leader alone changes the list, so it may read it without the lock. When it is time for one home all are told,
 * so that an idle node is not woken for each. */
bool home_report(int64_t now) {
    bool all = now - home_oldest_told() >= HOME_BEAT_NS, told = false, owed = false;
    struct control_load load;

    atomic_store(&homes.urgent, false); /* before the state is read */
    control_read_load(&load, now);
    home_count_requests();
    for (struct home *h = homes.list; h; h = h->next) {
        if (home_tell_leaving(h))
            told = true;
        load.others = homes.requests - h->conn->load;
        if (!all && !control_load_differs(&h->load, &load))
            continue;
        if (home_tell_load(h, &load, now))
            told = true;
        else
            owed = true;
    }
    homes.looked = now;
    homes.calls = load.calls;
    homes.idle = control_load_is_idle(&load) && !owed;
    homes.due = homes.idle ? home_oldest_told() + HOME_BEAT_NS : now + HOME_LOOK_NS;
    return told;
}

/* A node that was idle and is not any more, or has been in between, is looked at a second after the last look. */
int64_t home_report_due(void) {
    if (!homes.list)
        return 0;
    if (homes.idle && (exec_load() > 0 || stats_get(STATS_CALLS) != homes.calls)) {
        homes.idle = false;
        homes.due = homes.looked + HOME_LOOK_NS;
    }
    return atomic_load(&homes.urgent) ? 1 : homes.due;
}

void home_report_soon(void) {
    atomic_store(&homes.urgent, true);
    io_kick();
}

void home_leave(void) {
    atomic_store(&homes.leaving, true);
    home_report_soon();
}

void home_closed(struct conn *c) {
    home_remove(c, (struct slice){0});
}

/* {attach, Home} */
static void home_attach(struct conn *c, struct slice pid) {
    struct buf begin = {0}, out = {0};
    size_t at;

    dist_begin(&begin);
    dist_put_send(&begin, pid);
    etf_put_list(&begin, 0);
    outbox_set_home(&c->out, &begin);
    at = dist_begin(&out);
    dist_put_send(&out, pid);
    etf_put_tuple(&out, 2);
    etf_put_atom(&out, "py_attached");
    control_put_status(&out);
    if (dist_end(&out, at) == 0)
        outbox_put_buf(&c->out, &out);
    buf_done(&out);
    log_info("home %s: attached", c->peer);
    home_begin_reports(home_add(c, pid));
}

/* {detach, Home}; another one may have taken its place before. */
static void home_detach(struct conn *c, struct slice pid) {
    struct buf none = {0};

    if (!home_remove(c, pid))
        return;
    outbox_set_home(&c->out, &none);
    callback_closed(c); /* who would answer has gone with it */
    connect_lost(c->peer);
    log_info("home %s: detached", c->peer);
}

static void home_put_event(struct conn *c, const char *what, struct slice ref) {
    struct buf item = {0};

    etf_put_tuple(&item, 2);
    etf_put_atom(&item, what);
    etf_put_slice(&item, ref);
    home_put(c, &item);
}

void home_put_ended(struct conn *c, struct slice ref) {
    home_put_event(c, "ended", ref);
}

void home_put_started(struct conn *c, struct slice ref) {
    home_put_event(c, "started", ref);
}

struct conn *home_conn(struct conn *wanted) {
    struct conn *c;

    if (wanted && outbox_gathers(&wanted->out))
        return conn_ref(wanted);
    if (wanted && outbox_is_closed(&wanted->out)) /* another one is not its stand-in */
        return NULL;
    pthread_mutex_lock(&homes.lock);
    c = homes.list ? conn_ref(homes.list->conn) : NULL;
    pthread_mutex_unlock(&homes.lock);
    return c;
}

int home_count(void) {
    return atomic_load_explicit(&homes.count, memory_order_relaxed);
}

struct conn *home_conn_to(const char *peer) {
    struct conn *c = NULL;

    pthread_mutex_lock(&homes.lock);
    for (struct home *h = homes.list; h && !c; h = h->next)
        if (strcmp(h->conn->peer, peer) == 0)
            c = conn_ref(h->conn);
    pthread_mutex_unlock(&homes.lock);
    return c;
}

bool home_peer(struct conn *wanted, char *peer, size_t size) {
    bool own = wanted && outbox_gathers(&wanted->out), found;
    const char *name;

    if (wanted && outbox_is_closed(&wanted->out)) /* another one is not its stand-in */
        return false;
    pthread_mutex_lock(&homes.lock);
    if (own)
        name = wanted->peer;
    else if (homes.list)
        name = homes.list->conn->peer;
    else
        name = homes.last;
    found = name && snprintf(peer, size, "%s", name) < (int)size;
    pthread_mutex_unlock(&homes.lock);
    return found;
}

bool home_log(struct buf *item) {
    struct conn *c = home_conn(NULL);
    bool taken = false;

    if (c && atomic_load_explicit(&c->out.bytes, memory_order_relaxed) <= CONN_LOW)
        taken = outbox_gather(&c->out, item);
    if (taken) {
        atomic_store(&c->want_write, true);
        io_kick();
    }
    if (c)
        conn_unref(c);
    buf_done(item);
    return taken;
}

/* {cancel, Ref} */
static void home_cancel(struct conn *c, struct slice ref) {
    if (!route_interrupt(c, ref))
        home_put_ended(c, ref);
}

/* A message that is not a call: whether it is one of those that there are. */
static bool home_command(struct conn *c, struct slice message) {
    struct etf at = {message.data, message.data + message.len};
    struct slice verb, what;
    uint32_t arity;

    if (etf_get_tuple(&at, &arity) < 0 || arity != 2 || etf_get_atom(&at, &verb) < 0 ||
        etf_get_term(&at, &what) < 0)
        return false;
    if (etf_atom_is(verb, "attach") && what.data[0] == ETF_NEW_PID)
        home_attach(c, what);
    else if (etf_atom_is(verb, "detach"))
        home_detach(c, what);
    else if (etf_atom_is(verb, "cancel") && what.data[0] == ETF_NEWER_REF)
        home_cancel(c, what);
    else if (etf_atom_is(verb, "drop_queue"))
        route_drop_queue(what);
    else
        return false;
    return true;
}

/* {credit, Ref, N}: the reader of a stream has room for so many more. */
static bool home_credit(struct conn *c, struct slice message) {
    struct etf at = {message.data, message.data + message.len};
    struct slice verb, ref;
    uint32_t arity;
    int64_t n;

    if (etf_get_tuple(&at, &arity) < 0 || arity != 3 || etf_get_atom(&at, &verb) < 0 ||
        !etf_atom_is(verb, "credit") || etf_get_term(&at, &ref) < 0 ||
        ref.data[0] != ETF_NEWER_REF || etf_get_integer(&at, &n) < 0 || n < 1 || n > INT32_MAX)
        return false;
    exec_credit(c, ref, n);
    return true;
}

/* {py_reply, Id, Class, Value, Stack}: the answer to what Python has called. */
static bool home_reply(struct conn *c, struct slice message) {
    struct etf at = {message.data, message.data + message.len};
    struct slice verb;
    uint32_t arity;
    int64_t id;

    if (etf_get_tuple(&at, &arity) < 0 || arity != 5 || etf_get_atom(&at, &verb) < 0 ||
        !etf_atom_is(verb, "py_reply") || etf_get_integer(&at, &id) < 0)
        return false;
    if (!callback_answer(c, (uint64_t)id, (struct slice){at.p, etf_left(&at)}))
        stats_add(STATS_DROPPED, 1);
    return true;
}

/* One message, or one element of a list of them. */
static void home_take(struct conn *c, struct slice message, struct frame *frame, bool gathered) {
    struct request *r;

    if (home_command(c, message) || home_credit(c, message) || home_reply(c, message))
        return;
    r = request_from_app(message, frame, gathered);
    if (r)
        route_request(c, r);
    else
        stats_add(STATS_DROPPED, 1);
}

void home_message(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    struct etf at = {msg->payload.data, msg->payload.data + msg->payload.len};
    struct slice item;
    uint32_t n;

    if (msg->payload.data[0] != ETF_LIST) {
        home_take(c, msg->payload, frame, false);
    } else {
        for (etf_get_list(&at, &n); n > 0 && etf_get_term(&at, &item) == 0; n--)
            home_take(c, item, frame, true);
    }
    callback_answered();
}
