/* process.c - processes of ours: what they are sent, who watches them, whom they watch, their end. */
#include "config.h"

#include "process.h"
#include "io.h"
#include "log.h"
#include "mailbox.h"
#include "route.h"
#include "stats.h"
#include "ties.h"

#include <stdlib.h>

static const char *process_node;
static _Atomic uint64_t process_next_unlink = 1;

void process_init(const char *node) {
    process_node = node;
}

static bool process_is_pid(struct slice term) {
    return term.data[0] == ETF_NEW_PID || term.data[0] == ETF_PID;
}

static struct slice process_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Closes a frame and puts it into c's outbox, for the leader, who reads from c, to write. */
static void process_answer(struct conn *c, struct buf *out, size_t begin) {
    if (dist_end(out, begin) < 0)
        fatal("process: a control message of %zu bytes", out->len - begin);
    stats_add(STATS_BYTES_OUT, out->len);
    outbox_put_buf(&c->out, out);
}

/* The same from any thread, which writes as much as the socket takes. */
static void process_put(struct conn *c, struct buf *out, size_t begin) {
    process_answer(c, out, begin);
    io_flush(c);
}

/* Messages. */

static bool process_deliver(struct proc *p, struct slice term) {
    struct dist_msg info = {.op = DIST_SEND, .payload = term};
    struct frame frame = {.data = (uint8_t *)term.data, .len = term.len};

    return route_deliver(p, &info, &frame);
}

bool process_send(struct proc *p, struct slice term, bool sure) {
    enum mailbox_result result;

    if (!p->mailbox) {
        atomic_fetch_add(&p->refs, 1);
        return process_deliver(p, term);
    }
    result = mailbox_put(p->mailbox, term, sure);
    if (result == MAILBOX_FULL)
        log_warning("process %u.%u: its mailbox is full, messages are dropped", p->id, p->serial);
    return result == MAILBOX_TAKEN;
}

bool process_send_request(uint32_t id, uint32_t serial, struct slice term) {
    struct proc *p;

    if (!exec_alive(id, serial))
        return false;
    p = procs_spawn(id, serial);
    process_send(p, term, false);
    if (!exec_alive(id, serial)) /* it has ended meanwhile, and nobody else may have seen this */
        procs_remove(p);
    proc_unref(p);
    return true;
}

/* The process of ours with this pid is sent a message that it has asked for. */
static void process_tell(struct slice pid, const struct buf *message) {
    uint32_t id, serial;
    struct proc *p = request_own_pid(pid, &id, &serial) ? procs_find_pid(id, serial) : NULL;

    if (!p)
        return;
    process_send(p, process_slice(message), true);
    proc_unref(p);
}

/* {'EXIT', From, Reason} */
static void process_put_exit(struct buf *out, struct slice from, struct slice reason) {
    etf_put_tuple(out, 3);
    etf_put_atom(out, "EXIT");
    etf_put_slice(out, from);
    etf_put_slice(out, reason);
}

/* {'DOWN', Ref, process, Object, Reason}; the object of a name is {Name, Node}. */
static void process_put_down(struct buf *out, struct slice ref, struct slice to, const char *node,
                             struct slice reason) {
    etf_put_tuple(out, 5);
    etf_put_atom(out, "DOWN");
    etf_put_slice(out, ref);
    etf_put_atom(out, "process");
    if (!process_is_pid(to))
        etf_put_tuple(out, 2);
    etf_put_slice(out, to);
    if (!process_is_pid(to))
        etf_put_atom(out, node);
    etf_put_slice(out, reason);
}

/* A monitor of ours has done its duty: false when it was given up meanwhile. */
static bool process_tell_down(uint32_t id, uint32_t serial, struct slice ref, struct slice to,
                              const char *node, struct slice reason) {
    struct tie *t = ties_take(id, serial, ref);
    struct buf message = {0}, pid = {0};

    if (!t)
        return false;
    request_put_pid(&pid, id, serial);
    process_put_down(&message, ref, to, node, reason);
    process_tell(process_slice(&pid), &message);
    if (t->conn)
        conn_unref(t->conn);
    free(t);
    buf_done(&message);
    buf_done(&pid);
    return true;
}

/* Who watches. */

/* One of ours that watches: by a message. */
static void process_tell_own(const struct watch *w, struct slice reason) {
    struct buf message = {0};
    uint32_t id, serial;

    if (w->link) {
        process_put_exit(&message, w->to, reason);
        process_tell(w->from, &message);
    } else if (request_own_pid(w->from, &id, &serial)) {
        process_tell_down(id, serial, w->ref, w->to, process_node, reason);
    }
    buf_done(&message);
}

/* Tells the watchers in list that what they watch has ended with reason, and frees the list. */
static void process_tell_all(struct watch *list, struct slice reason) {
    struct buf out = {0};
    struct watch *next;

    for (; list; list = next) {
        next = list->next;
        if (list->conn) {
            size_t begin = dist_begin(&out);

            if (list->link)
                dist_put_exit(&out, list->to, list->from);
            else
                dist_put_monitor_exit(&out, list->to, list->from, list->ref);
            etf_put_slice(&out, reason);
            process_put(list->conn, &out, begin);
            conn_unref(list->conn);
        } else {
            process_tell_own(list, reason);
        }
        free(list);
    }
    buf_done(&out);
}

bool process_forget(struct conn *c, struct slice from, struct slice to, struct slice ref) {
    if (!procs_unwatch(c, from, to, ref))
        return false;
    conn_unref(c);
    return true;
}

bool process_is_alive(struct slice to, bool *always) {
    struct etf at = {to.data, to.data + to.len};
    struct proc *p = NULL;
    struct slice name;
    uint32_t id, serial;

    *always = false;
    if (etf_get_atom(&at, &name) == 0) {
        *always = etf_atom_is(name, "rex") || etf_atom_is(name, "net_kernel") ||
                  etf_atom_is(name, "pynode");
        if (*always)
            return true;
        p = procs_find_name(name);
    } else if (request_own_pid(to, &id, &serial)) {
        if (exec_alive(id, serial))
            return true;
        p = procs_find_pid(id, serial);
    }
    if (p)
        proc_unref(p);
    return p != NULL;
}

/* Begins to watch first and looks then, so that an end in between is not missed: if the watch
 * is gone by then, whoever ended it has told the watcher. */
void process_watch(struct conn *c, const struct dist_msg *msg) {
    struct buf out = {0};
    bool always;
    size_t begin;

    if (process_is_alive(msg->to, &always) && always)
        return;
    if (!procs_watch(conn_ref(c), msg->from, msg->to, msg->ref))
        conn_unref(c);
    if (process_is_alive(msg->to, &always) || !process_forget(c, msg->from, msg->to, msg->ref))
        return;
    begin = dist_begin(&out);
    if (msg->op == DIST_MONITOR) {
        dist_put_monitor_exit(&out, msg->to, msg->from, msg->ref);
        etf_put_atom(&out, "noproc");
    } else {
        dist_put_noproc(&out, msg->to, msg->from);
    }
    process_answer(c, &out, begin);
    buf_done(&out);
}

void process_unlink(struct conn *c, const struct dist_msg *msg) {
    struct buf out = {0};
    size_t begin;

    process_forget(c, msg->from, msg->to, (struct slice){0});
    if (msg->op == DIST_UNLINK)
        return;
    begin = dist_begin(&out);
    dist_put_unlink_ack(&out, msg->id, msg->to, msg->from);
    process_answer(c, &out, begin);
    buf_done(&out);
}

bool process_down(struct conn *c, const struct dist_msg *msg) {
    uint32_t id, serial;

    return request_own_pid(msg->to, &id, &serial) &&
           process_tell_down(id, serial, msg->ref, msg->from, c->peer, msg->reason);
}

void process_exit(struct proc *p, const struct dist_msg *msg, bool linked) {
    struct buf message = {0};

    process_put_exit(&message, msg->from, msg->reason);
    process_send(p, process_slice(&message), linked);
    buf_done(&message);
}

/* Whether a pid of ours is that of a proc; of one with a mailbox. */

static bool process_has_proc(struct slice pid) {
    uint32_t id, serial;
    struct proc *p = request_own_pid(pid, &id, &serial) ? procs_find_pid(id, serial) : NULL;

    if (p)
        proc_unref(p);
    return p != NULL;
}

static bool process_has_mailbox(struct slice pid) {
    uint32_t id, serial;
    struct proc *p = request_own_pid(pid, &id, &serial) ? procs_find_pid(id, serial) : NULL;
    bool mailbox = p && p->mailbox;

    if (p)
        proc_unref(p);
    return mailbox;
}

/* A monitor of self's is given up; t is freed. */
static void process_drop_tie(struct tie *t, struct slice self, struct buf *out) {
    size_t begin;

    if (t->conn) {
        begin = dist_begin(out);
        dist_put_demonitor(out, self, t->to, t->ref);
        process_put(t->conn, out, begin);
        conn_unref(t->conn);
    } else {
        procs_unwatch(NULL, self, t->to, t->ref);
    }
    free(t);
}

/* Ends. */

/* The ends of links and monitors between us and a node that is gone. */
void process_closed(struct conn *c) {
    struct watch *w = procs_forget_conn(c), *next;
    struct tie *t = ties_take_conn(c), *after;
    struct buf why = {0}, message = {0}, pid = {0};

    etf_put_atom(&why, "noconnection");
    for (; w; w = next) {
        next = w->next;
        if (w->link && process_has_mailbox(w->to)) {
            message.len = 0;
            process_put_exit(&message, w->from, process_slice(&why));
            process_tell(w->to, &message);
        }
        conn_unref(c);
        free(w);
    }
    for (; t; t = after) {
        after = t->next;
        message.len = pid.len = 0;
        request_put_pid(&pid, t->id, t->serial);
        process_put_down(&message, t->ref, t->to, c->peer, process_slice(&why));
        process_tell(process_slice(&pid), &message);
        conn_unref(c);
        free(t);
    }
    buf_done(&pid);
    buf_done(&message);
    buf_done(&why);
}

void process_pid_ended(uint32_t id, uint32_t serial, struct slice reason) {
    struct buf pid = {0};

    if (!procs_watched())
        return;
    request_put_pid(&pid, id, serial);
    process_tell_all(procs_end(process_slice(&pid)), reason);
    buf_done(&pid);
}

/* What an ended process of ours watched. */
static void process_drop_ties(uint32_t id, uint32_t serial) {
    struct tie *t = ties_take_all(id, serial), *next;
    struct buf out = {0}, self = {0};

    request_put_pid(&self, id, serial);
    for (; t; t = next) {
        next = t->next;
        process_drop_tie(t, process_slice(&self), &out);
    }
    for (struct watch *w = procs_forget_from(process_slice(&self)), *after; w; w = after) {
        after = w->next;
        free(w);
    }
    buf_done(&self);
    buf_done(&out);
}

void process_ended(struct proc *p, struct slice reason) {
    struct buf name = {0};
    bool named = procs_put_name(p, &name);

    if (!procs_remove(p))
        named = false;
    if (p->mailbox)
        mailbox_close(p->mailbox);
    if (named)
        process_tell_all(procs_end(process_slice(&name)), reason);
    process_pid_ended(p->id, p->serial, reason);
    process_drop_ties(p->id, p->serial);
    buf_done(&name);
}

void process_unregistered(struct proc *p, const char *name, const char *reason) {
    struct buf atom = {0}, why = {0};

    etf_put_atom(&atom, name);
    etf_put_atom(&why, reason);
    process_tell_all(procs_end(process_slice(&atom)), process_slice(&why));
    if (!p->mailbox) {
        process_pid_ended(p->id, p->serial, process_slice(&why));
        process_drop_ties(p->id, p->serial);
    }
    buf_done(&atom);
    buf_done(&why);
}

/* What Python asks for. */

/* What has ended meanwhile, as an object that is unregistered while it runs, watches nothing and is
 * linked to nobody: its end has been told before. */
static void process_settle(uint32_t id, uint32_t serial, struct slice self) {
    struct buf why = {0};

    if (process_has_proc(self))
        return;
    etf_put_atom(&why, "noproc");
    process_pid_ended(id, serial, process_slice(&why));
    process_drop_ties(id, serial);
    buf_done(&why);
}

void process_monitor(uint32_t id, uint32_t serial, bool own, struct conn *c, const char *node,
                     struct slice to, struct buf *ref) {
    struct buf self = {0}, why = {0}, out = {0};
    size_t begin;
    bool always;

    request_put_pid(&self, id, serial);
    request_new_ref(ref);
    ties_add(id, serial, c ? conn_ref(c) : NULL, to, process_slice(ref));
    if (own) {
        procs_watch(NULL, process_slice(&self), to, process_slice(ref));
        if (!process_is_alive(to, &always) &&
            procs_unwatch(NULL, process_slice(&self), to, process_slice(ref)))
            etf_put_atom(&why, "noproc");
    } else if (c) {
        begin = dist_begin(&out);
        dist_put_monitor(&out, process_slice(&self), to, process_slice(ref));
        process_put(c, &out, begin);
    }
    if (!own && (!c || outbox_is_closed(&c->out))) /* process_closed() may have been before */
        etf_put_atom(&why, "noconnection");
    if (why.len > 0)
        process_tell_down(id, serial, process_slice(ref), to, node, process_slice(&why));
    process_settle(id, serial, process_slice(&self));
    buf_done(&self);
    buf_done(&why);
    buf_done(&out);
}

void process_demonitor(uint32_t id, uint32_t serial, struct slice ref) {
    struct tie *t = ties_take(id, serial, ref);
    struct buf self = {0}, out = {0};

    if (!t)
        return;
    request_put_pid(&self, id, serial);
    process_drop_tie(t, process_slice(&self), &out);
    buf_done(&self);
    buf_done(&out);
}

void process_link(uint32_t id, uint32_t serial, bool own, struct conn *c, struct slice to) {
    struct buf self = {0}, why = {0}, out = {0};
    struct slice me, none = {0};
    size_t begin;
    bool always;

    request_put_pid(&self, id, serial);
    me = process_slice(&self);
    if (own && slice_equal(me, to)) {
        /* nothing, as in Erlang */
    } else if (own) {
        procs_watch(NULL, me, to, none);
        if (process_has_proc(to))
            procs_watch(NULL, to, me, none);
        if (!process_is_alive(to, &always) && procs_unwatch(NULL, me, to, none))
            etf_put_atom(&why, "noproc");
    } else if (c && procs_watch(conn_ref(c), to, me, none)) {
        begin = dist_begin(&out);
        dist_put_link(&out, me, to);
        process_put(c, &out, begin);
        if (outbox_is_closed(&c->out) && process_forget(c, to, me, none))
            etf_put_atom(&why, "noconnection");
    } else if (c) {
        conn_unref(c); /* they are linked */
    } else {
        etf_put_atom(&why, "noconnection");
    }
    if (why.len > 0) {
        out.len = 0;
        process_put_exit(&out, to, process_slice(&why));
        process_tell(me, &out);
    }
    process_settle(id, serial, me);
    buf_done(&self);
    buf_done(&why);
    buf_done(&out);
}

void process_drop_link(uint32_t id, uint32_t serial, bool own, struct conn *c, struct slice to) {
    struct buf self = {0}, out = {0};
    struct slice me, none = {0};
    size_t begin;

    request_put_pid(&self, id, serial);
    me = process_slice(&self);
    if (own) {
        procs_unwatch(NULL, me, to, none);
        procs_unwatch(NULL, to, me, none);
    } else if (c && process_forget(c, to, me, none)) {
        begin = dist_begin(&out);
        dist_put_unlink(&out, atomic_fetch_add(&process_next_unlink, 1), me, to);
        process_put(c, &out, begin);
    }
    buf_done(&self);
    buf_done(&out);
}
