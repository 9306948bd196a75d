/* home.c - the Erlang application at the other end: what it sends, what is gathered for it. */
#include "config.h"

#include "home.h"
#include "control.h"
#include "exec.h"
#include "io.h"
#include "log.h"
#include "route.h"
#include "stats.h"

static struct {
    void (*attached)(void);
    pthread_mutex_t lock; /* guards all below */
    struct conn *reader;  /* of the log: the connection whose home it goes to; counted */
} home = {.lock = PTHREAD_MUTEX_INITIALIZER};

void home_init(void (*attached)(void)) {
    home.attached = attached;
}

/* The log goes to c from now on, unless it has a reader. */
static void home_set_reader(struct conn *c) {
    bool first;

    pthread_mutex_lock(&home.lock);
    first = !home.reader;
    if (first)
        home.reader = conn_ref(c);
    pthread_mutex_unlock(&home.lock);
    if (first && home.attached)
        home.attached();
}

void home_closed(struct conn *c) {
    struct conn *reader = NULL;

    pthread_mutex_lock(&home.lock);
    if (home.reader == c) {
        reader = home.reader;
        home.reader = NULL;
    }
    pthread_mutex_unlock(&home.lock);
    if (reader)
        conn_unref(reader);
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
    home_set_reader(c);
}

static void home_detach(struct conn *c) {
    struct buf none = {0};

    outbox_set_home(&c->out, &none);
    home_closed(c);
    log_info("home %s: detached", c->peer);
}

static bool home_put(struct conn *c, struct buf *item) {
    bool taken = outbox_gather(&c->out, item);

    buf_done(item);
    return taken;
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

bool home_log(struct buf *item) {
    struct conn *c;
    bool taken = false;

    pthread_mutex_lock(&home.lock);
    c = home.reader ? conn_ref(home.reader) : NULL;
    pthread_mutex_unlock(&home.lock);
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
        home_detach(c);
    else if (etf_atom_is(verb, "cancel") && what.data[0] == ETF_NEWER_REF)
        home_cancel(c, what);
    else if (etf_atom_is(verb, "drop_queue"))
        route_drop_queue(what);
    else
        return false;
    return true;
}

/* One message, or one element of a list of them. */
static void home_take(struct conn *c, struct slice message, struct frame *frame, bool gathered) {
    struct request *r;

    if (home_command(c, message))
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
        return;
    }
    for (etf_get_list(&at, &n); n > 0 && etf_get_term(&at, &item) == 0; n--)
        home_take(c, item, frame, true);
}
