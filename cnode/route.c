/* route.c - where each control message goes: to Python's queue, to who watches, or answered here. */
#include "config.h"

#include "route.h"
#include "answer.h"
#include "callback.h"
#include "connect.h"
#include "home.h"
#include "control.h"
#include "ids.h"
#include "io.h"
#include "log.h"
#include "outcome.h"
#include "process.h"
#include "stats.h"

#include <stdlib.h>

enum { ROUTE_TICK_NS = 500000000, ROUTE_LOG_NS = 1000000000 };

static struct {
    const char *node;
    _Atomic bool draining;
    struct buf out; /* the leader's, for answers made here */

    /* The leader's, too. */
    int64_t refused_at;       /* when a refused cast was last logged */
    unsigned refused_unheard; /* and how many have been refused since */
} route;

void route_init(const char *node) {
    route.node = node;
}

void route_drain(void) {
    if (!atomic_exchange(&route.draining, true))
        home_report_soon();
}

bool route_draining(void) {
    return atomic_load(&route.draining);
}

void route_put(struct request *r, struct buf *out) {
    stats_add(STATS_BYTES_OUT, out->len);
    if (r->gathered && out->len > 0 && !outbox_gather(&r->conn->out, out))
        answer_ungather(r, out);
    if (out->len > 0)
        outbox_put_buf(&r->conn->out, out);
}

/* Closes a frame made here and puts it into c's outbox. */
static void route_send(struct conn *c, struct buf *out, size_t begin) {
    if (dist_end(out, begin) < 0)
        fatal("route: a control message of %zu bytes", out->len - begin);
    stats_add(STATS_BYTES_OUT, out->len);
    outbox_put_buf(&c->out, out);
}

static void route_drop(struct request *r) {
    if (r->conn)
        conn_unref(r->conn);
    if (r->target)
        proc_unref(r->target);
    request_free(r);
}

/* Answers w with what another one has come to, or that it was cancelled, and frees it. */
static void route_repeat(struct request *w, struct slice result) {
    struct buf out = {0};

    if (result.len > 0)
        answer_result(w, &out, result);
    else
        answer_refuse(w, &out, "cancelled");
    route_put(w, &out);
    if (w->reported)
        home_put_ended(w->conn, w->ref);
    buf_done(&out);
    route_drop(w);
}

bool route_repeats(struct request *r, const struct buf *out, bool keep, route_touch_cb *touch,
                   void *arg) {
    struct slice result = answer_result_in(r, out);
    struct request *w, *next;
    bool heard;

    for (w = ids_end(r, result, keep, clock_now(), &heard); w; w = next) {
        struct conn *c = conn_ref(w->conn);

        next = w->next;
        route_repeat(w, result);
        touch(arg, c);
        conn_unref(c);
    }
    return heard;
}

static void route_touch_later(void *arg, struct conn *c) {
    (void)arg;
    atomic_store(&c->want_write, true);
    io_kick();
}

/* A first request that has not run to its end may have others that wait for it. */
static void route_free(struct request *r) {
    const struct buf none = {0};

    if (r->id)
        route_repeats(r, &none, false, route_touch_later, NULL);
    route_drop(r);
}

void route_told(const struct request *r) {
    if (r->kind == REQUEST_SERVER_CALL && r->ref.data)
        process_forget(r->conn, r->from, r->to, r->ref);
}

/* The process that a request was has ended, with its mailbox if it has got one. */
static void route_pid_ended(uint32_t id, uint32_t serial, struct slice reason) {
    struct proc *p = procs_processes() > 0 ? procs_find_pid(id, serial) : NULL;

    if (p) {
        process_ended(p, reason);
        proc_unref(p);
    } else {
        process_pid_ended(id, serial, reason);
    }
}

void route_ended(struct request *r, struct slice reason) {
    if (r->pid_id)
        route_pid_ended(r->pid_id, r->pid_serial, reason);
    route_free(r);
}

/* A request that was taken off the queue: nobody is told but who watches its process. */
static void route_cancelled(struct request *r) {
    struct buf why = {0};

    etf_put_atom(&why, "killed");
    stats_add(STATS_CANCELLED, 1);
    outcome_add(OUTCOME_CANCELLED);
    route_ended(r, (struct slice){why.data, why.len});
    buf_done(&why);
}

/* Cancels what waits or runs. */
static enum exec_cancelled route_interrupt_request(const struct conn *c, struct slice ref) {
    struct request *waiting = NULL;
    enum exec_cancelled what = exec_interrupt(c, ref, &waiting);

    if (what == EXEC_WITHDRAWN)
        route_cancelled(waiting);
    return what;
}

/* Cancels what waits for another one of its id; and that, if nobody else does. */
static void route_cancel_repeat(struct conn *c, struct slice ref) {
    struct ids_first first;
    struct request *w = ids_withdraw(c, ref, &first);

    if (!w)
        return;
    stats_add(STATS_CANCELLED, 1);
    route_drop(w);
    if (first.conn) {
        route_interrupt_request(first.conn, (struct slice){first.ref.data, first.ref.len});
        conn_unref(first.conn);
        buf_done(&first.ref);
    }
}

bool route_interrupt(struct conn *c, struct slice ref) {
    enum exec_cancelled what = route_interrupt_request(c, ref);

    if (what == EXEC_NOT_FOUND)
        route_cancel_repeat(c, ref);
    return what == EXEC_INTERRUPTED;
}

/* Puts an answer into a connection that this thread does not write next: the leader will. */
static void route_put_later(struct request *r, struct buf *out) {
    route_put(r, out);
    atomic_store(&r->conn->want_write, true);
    io_kick();
}

void route_drop_queue(struct slice name) {
    struct buf out = {0};
    bool runs;
    struct request *r = exec_drop_queue(name, &runs), *next;

    for (; r; r = next) {
        next = r->next;
        stats_add(STATS_CANCELLED, 1);
        outcome_add(OUTCOME_CANCELLED);
        answer_refuse(r, &out, "cancelled");
        route_put_later(r, &out);
        route_free(r);
    }
    buf_done(&out);
}

void route_closed(struct conn *c) {
    struct request *r, *next;

    home_closed(c);
    callback_closed(c);
    process_closed(c);
    for (r = ids_closed(c); r; r = next) {
        next = r->next;
        route_drop(r);
    }
    for (r = exec_cancel_conn(c); r; r = next) {
        next = r->next;
        route_cancelled(r);
    }
    connect_lost(c->peer);
}

/* Nobody is told that a cast is refused, so the log is; a flood of them is one line a second. */
static void route_log_refused(const struct request *r, const char *why) {
    int64_t now = clock_now();

    if (r->kind != REQUEST_APP_CAST && r->kind != REQUEST_REX_CAST)
        return;
    route.refused_unheard++;
    if (route.refused_at && now - route.refused_at < ROUTE_LOG_NS)
        return;
    log_warning("cast %.*s:%.*s: %s; casts refused since the last such line: %u",
                (int)r->module.len, (const char *)r->module.data, (int)r->function.len,
                (const char *)r->function.data, why, route.refused_unheard);
    route.refused_at = now;
    route.refused_unheard = 0;
}

static void route_refuse(struct request *r, const char *why) {
    stats_add(STATS_REFUSED, 1);
    outcome_add(OUTCOME_REFUSED);
    route_log_refused(r, why);
    route_told(r);
    answer_refuse(r, &route.out, why);
    route_put(r, &route.out);
    route_free(r);
}

/* A call learns which option is none; of a cast only the log can say it. */
static void route_bad_option(struct request *r) {
    struct slice bad = r->options.bad;

    if (r->kind == REQUEST_APP_CAST)
        log_warning("cast: bad option: %.*s", (int)bad.len, (const char *)bad.data);
    answer_bad_option(r, &route.out);
    outcome_answered(OUTCOME_ERROR, r->arrived);
    route_put(r, &route.out);
    route_free(r);
}

static void route_started(const struct request *r) {
    home_put_started(r->conn, r->ref);
}

/* Whether r's id is known: then it is answered, or will be. */
static bool route_is_repeat(struct request *r) {
    struct buf result = {0};
    enum ids_meeting meeting = ids_meet(r, clock_now(), &result, route_started);

    if (meeting == IDS_ENDED) {
        answer_result(r, &route.out, (struct slice){result.data, result.len});
        route_put(r, &route.out);
        route_free(r);
    } else if (meeting == IDS_FULL) {
        route_refuse(r, "overloaded");
    }
    buf_done(&result);
    return meeting != IDS_NEW;
}

/* Hands a request over to Python's side, or says why not. r is the callee's in any case. */
static void route_push(struct conn *c, struct request *r) {
    r->conn = conn_ref(c);
    r->arrived = c->arrived;
    if (r->options.bad.data) {
        route_bad_option(r);
    } else if (control_answer(r, &route.out)) {
        route_put(r, &route.out);
        route_free(r);
    } else if (r->options.id.len > 0 && route_is_repeat(r)) {
        return;
    } else if (route_draining()) {
        route_refuse(r, "draining");
    } else if (!exec_push(r)) {
        route_refuse(r, "overloaded");
    }
}

void route_request(struct conn *c, struct request *r) {
    route_push(c, r);
}

/* Delivers a message to a process that has a mailbox, or to a registered object. Takes p. */
static void route_to_proc(struct conn *c, struct proc *p, const struct dist_msg *msg,
                          struct frame *frame) {
    struct request *r;

    if (p->mailbox) {
        process_send(p, msg->payload, false);
        proc_unref(p);
        return;
    }
    r = request_from_server(msg, frame);
    r->target = p;
    r->lane = &p->lane;
    route_push(c, r);
}

bool route_deliver(struct proc *p, const struct dist_msg *msg, struct frame *frame) {
    struct request *r = request_from_server(msg, frame);

    if (r->kind == REQUEST_SERVER_CALL) { /* whom to answer is nobody of this node's */
        r->kind = REQUEST_SERVER_INFO;
        r->args = msg->payload;
    }
    r->arrived = outcome_now();
    r->target = p;
    r->lane = &p->lane;
    if (!route_draining() && exec_push(r)) {
        io_kick();
        return true;
    }
    route_free(r);
    return false;
}

static struct slice route_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Asked whether it is the node it claims to be: net_adm:ping/1. */
static void route_net_kernel(struct conn *c, const struct dist_msg *msg) {
    struct request_gen gen;
    struct etf body;
    struct slice what;
    uint32_t arity;
    size_t begin;

    if (request_read_gen_call(msg->payload, &gen) < 0)
        return;
    body = (struct etf){gen.body.data, gen.body.data + gen.body.len};
    if (etf_get_tuple(&body, &arity) < 0 || arity != 2 || etf_get_atom(&body, &what) < 0 ||
        !etf_atom_is(what, "is_auth"))
        return;
    stats_add(STATS_PINGS, 1);
    begin = answer_gen_begin(&route.out, &gen);
    etf_put_atom(&route.out, "yes");
    route_send(c, &route.out, begin);
}

/* {From, features_request}: which remote calls this node understands. */
static void route_features(struct conn *c, struct slice from) {
    size_t begin = dist_begin(&route.out);

    dist_put_send(&route.out, from);
    etf_put_tuple(&route.out, 3);
    etf_put_atom(&route.out, "features_reply");
    etf_put_atom(&route.out, route.node);
    etf_put_list(&route.out, 1);
    etf_put_atom(&route.out, "erpc");
    etf_put_nil(&route.out);
    route_send(c, &route.out, begin);
}

/* {From, {sbcast, Name, Msg}}: delivers Msg and says whether there was somebody. */
static void route_sbcast(struct conn *c, struct slice from, struct etf *body, struct frame *frame) {
    struct etf at = *body;
    struct dist_msg info = {.op = DIST_REG_SEND, .to = {body->p, 0}};
    struct slice name;
    struct proc *p;
    size_t begin;

    if (etf_get_atom(&at, &name) < 0)
        return;
    info.to.len = (size_t)(at.p - info.to.data);
    if (etf_get_term(&at, &info.payload) < 0)
        return;
    p = procs_find_name(name);
    begin = dist_begin(&route.out);
    dist_put_send(&route.out, from);
    etf_put_tuple(&route.out, 3);
    etf_put_atom(&route.out, "rex");
    etf_put_atom(&route.out, route.node);
    if (p) {
        etf_put_atom(&route.out, route.node);
    } else {
        etf_put_tuple(&route.out, 2);
        etf_put_atom(&route.out, "nonexisting_name");
        etf_put_slice(&route.out, info.to);
    }
    route_send(c, &route.out, begin);
    if (p)
        route_to_proc(c, p, &info, frame);
}

static void route_rex(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    struct etf at = {msg->payload.data, msg->payload.data + msg->payload.len};
    struct request *r = request_from_rex(msg, frame);
    struct slice from, what;
    uint32_t arity;

    if (r) {
        route_push(c, r);
        return;
    }
    if (etf_get_tuple(&at, &arity) < 0 || arity != 2 || etf_get_term(&at, &from) < 0 ||
        from.data[0] != ETF_NEW_PID)
        return;
    if (etf_get_atom(&at, &what) == 0 && etf_atom_is(what, "features_request"))
        route_features(c, from);
    else if (etf_get_tuple(&at, &arity) == 0 && arity == 3 && etf_get_atom(&at, &what) == 0 &&
             etf_atom_is(what, "sbcast"))
        route_sbcast(c, from, &at, frame);
}

/* A message to a name. One to nobody is dropped, as the BEAM drops it. */
static void route_to_name(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    struct etf at = {msg->to.data, msg->to.data + msg->to.len};
    struct slice name;
    struct proc *p;

    if (etf_get_atom(&at, &name) < 0)
        return;
    if (etf_atom_is(name, "pynode"))
        home_message(c, msg, frame);
    else if (etf_atom_is(name, "net_kernel"))
        route_net_kernel(c, msg);
    else if (etf_atom_is(name, "rex"))
        route_rex(c, msg, frame);
    else if ((p = procs_find_name(name)))
        route_to_proc(c, p, msg, frame);
    else
        stats_add(STATS_DROPPED, 1);
}

/* The proc that a pid of ours belongs to: counted, or NULL. */
static struct proc *route_proc_of_pid(struct slice pid) {
    uint32_t id, serial;

    return request_own_pid(pid, &id, &serial) ? procs_find_pid(id, serial) : NULL;
}

static void route_to_pid(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    uint32_t id, serial;
    struct proc *p;

    if (!request_own_pid(msg->to, &id, &serial)) {
        stats_add(STATS_DROPPED, 1);
        return;
    }
    if (id == 0) { /* as to the name pynode, but never to a later node of this one's name */
        home_message(c, msg, frame);
        return;
    }
    p = procs_find_pid(id, serial);
    if (p)
        route_to_proc(c, p, msg, frame);
    else if (!process_send_request(id, serial, msg->payload))
        stats_add(STATS_DROPPED, 1);
}

static void route_spawn(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    struct request *r = request_from_spawn(msg, frame);
    struct buf why = {0};
    size_t begin;

    if (r) {
        route_push(c, r);
        return;
    }
    begin = dist_begin(&route.out);
    etf_put_atom(&why, "badarg");
    dist_put_spawn_reply(&route.out, msg->ref, msg->from, 0, route_slice(&why));
    route_send(c, &route.out, begin);
    buf_done(&why);
}

/* A caller that no longer waits says so by dropping its monitor. */
static void route_demonitor(struct conn *c, const struct dist_msg *msg) {
    struct request *r;

    process_forget(c, msg->from, msg->to, msg->ref);
    r = exec_cancel(c, msg->ref);
    if (r)
        route_cancelled(r);
}

/* Whether an exit signal is a message to p: it is an object or a thread, or a request whose function
 * has asked which process it is. Such a process traps exits; but kill ends a request in any case. */
static bool route_traps_exit(const struct proc *p, bool kill) {
    return !p->mailbox || !exec_alive(p->id, p->serial) || (atomic_load(&p->claimed) && !kill);
}

/* An exit signal to a request: nobody waits for it any more. Normal, from elsewhere, does nothing; kill
 * is seen by others as killed. */
static void route_exit_request(uint32_t id, uint32_t serial, struct slice reason, bool kill) {
    struct buf killed = {0};
    struct request *r;

    if (!exec_alive(id, serial))
        return;
    if (kill) {
        etf_put_atom(&killed, "killed");
        reason = route_slice(&killed);
    }
    r = exec_exit(id, serial, reason, route_put);
    route_pid_ended(id, serial, reason);
    if (r) {
        stats_add(STATS_CANCELLED, 1);
        outcome_add(OUTCOME_CANCELLED);
        route_free(r);
    }
    buf_done(&killed);
}

static void route_exit(struct conn *c, const struct dist_msg *msg) {
    struct etf at = {msg->reason.data, msg->reason.data + msg->reason.len};
    struct slice name = {0};
    struct proc *p = route_proc_of_pid(msg->to);
    bool atom = etf_get_atom(&at, &name) == 0, link = msg->op == DIST_EXIT;
    bool kill = !link && atom && etf_atom_is(name, "kill");
    bool linked = link && process_forget(c, msg->from, msg->to, (struct slice){0});
    uint32_t id, serial;

    if (p && route_traps_exit(p, kill)) {
        if (linked || !link || !p->mailbox) /* else it was unlinked meanwhile */
            process_exit(p, msg, linked);
    } else if (request_own_pid(msg->to, &id, &serial) && !(atom && etf_atom_is(name, "normal"))) {
        route_exit_request(id, serial, msg->reason, kill);
    }
    if (p)
        proc_unref(p);
}

/* Answers a tick, but not two within a moment: two nodes of this kind would never end. */
static void route_tick(struct conn *c) {
    int64_t now = clock_now();

    if (now - c->ticked < ROUTE_TICK_NS)
        return;
    c->ticked = now;
    dist_put_tick(&route.out);
    outbox_put_buf(&c->out, &route.out);
}

static void route_message(struct conn *c, const struct dist_msg *msg, struct frame *frame) {
    switch (msg->op) {
    case DIST_TICK:
        route_tick(c);
        break;
    case DIST_SPAWN_REQUEST:
        route_spawn(c, msg, frame);
        break;
    case DIST_REG_SEND:
        route_to_name(c, msg, frame);
        break;
    case DIST_SEND:
        route_to_pid(c, msg, frame);
        break;
    case DIST_MONITOR:
    case DIST_LINK:
        process_watch(c, msg);
        break;
    case DIST_MONITOR_EXIT:
        if (!process_down(c, msg))
            stats_add(STATS_DROPPED, 1);
        break;
    case DIST_DEMONITOR:
        route_demonitor(c, msg);
        break;
    case DIST_UNLINK:
    case DIST_UNLINK_ID:
        process_unlink(c, msg);
        break;
    case DIST_EXIT:
    case DIST_EXIT2:
        route_exit(c, msg);
        break;
    default: /* answers to what this node never asks, and group leaders that it has no use for */
        stats_add(STATS_DROPPED, 1);
        break;
    }
}

int route_frame(struct conn *c, struct frame *frame, const char **why) {
    struct dist_msg msg;
    int result = dist_parse(frame->data, frame->len, &msg, why);

    if (result == 0)
        route_message(c, &msg, frame);
    if (frame->whole)
        free(frame->data);
    return result;
}
