/* answer.c - how a request is answered: the frames for each kind of it. */
#include "config.h"

#include "answer.h"
#include "log.h"

/* The longest item: with what comes before it in a frame, gathered or not, it still is one. */
enum { ANSWER_ITEM_MAX = INT32_MAX - (1 << 20) };

/* Opens a frame to the alias in the tag, or else to the pid. The sender named in an ALIAS_SEND
 * is a process of ours that has never lived: nobody can answer it. */
static size_t answer_send_begin(struct buf *out, struct slice pid, struct slice tag) {
    struct slice alias = request_tag_alias(tag);
    size_t begin = dist_begin(out);
    struct buf self = {0};

    if (alias.data) {
        request_put_pid(&self, 0, 0);
        dist_put_alias_send(out, (struct slice){self.data, self.len}, alias);
        buf_done(&self);
    } else {
        dist_put_send(out, pid);
    }
    return begin;
}

size_t answer_gen_begin(struct buf *out, const struct request_gen *gen) {
    size_t begin = answer_send_begin(out, gen->pid, gen->tag);

    etf_put_tuple(out, 2);
    etf_put_slice(out, gen->tag);
    return begin;
}

/* Opens a MONITOR_EXIT frame for the process that the request is to its caller. */
static size_t answer_down_begin(const struct request *r, struct buf *out) {
    size_t begin = dist_begin(out);
    struct buf self = {0};

    request_put_pid(&self, r->pid_id, r->pid_serial);
    dist_put_monitor_exit(out, (struct slice){self.data, self.len}, r->from, r->ref);
    buf_done(&self);
    return begin;
}

static size_t answer_link_exit_begin(const struct request *r, struct buf *out) {
    size_t begin = dist_begin(out);
    struct buf self = {0};

    request_put_pid(&self, r->pid_id, r->pid_serial);
    dist_put_exit(out, (struct slice){self.data, self.len}, r->from);
    buf_done(&self);
    return begin;
}

/* Our own frames that cannot be too long. */
static void answer_finish(struct buf *out, size_t begin) {
    if (dist_end(out, begin) < 0)
        fatal("answer: a control message of %zu bytes", out->len - begin);
}

void answer_announce(struct request *r, struct buf *out) {
    struct buf self = {0};
    size_t begin;

    if (r->announced || r->kind > REQUEST_SPAWN)
        return;
    r->announced = true;
    begin = dist_begin(out);
    request_put_pid(&self, r->pid_id, r->pid_serial);
    dist_put_spawn_reply(out, r->ref, r->from, r->spawn_flags, (struct slice){self.data, self.len});
    answer_finish(out, begin);
    buf_done(&self);
}

/* Opens the answer to a call of the application, up to the result: an item, or a frame to its alias. */
static size_t answer_app_begin(const struct request *r, struct buf *out) {
    size_t begin = out->len;
    struct buf self = {0};

    if (!r->gathered) {
        begin = dist_begin(out);
        request_put_pid(&self, 0, 0);
        dist_put_alias_send(out, (struct slice){self.data, self.len}, r->ref);
        buf_done(&self);
        etf_put_tuple(out, 3);
        etf_put_atom(out, "py_response");
    } else {
        etf_put_tuple(out, 2);
    }
    etf_put_slice(out, r->ref);
    return begin;
}

size_t answer_items_begin(const struct request *r, struct buf *out, uint32_t n) {
    size_t begin = dist_begin(out);
    struct buf self = {0};

    request_put_pid(&self, 0, 0);
    dist_put_alias_send(out, (struct slice){self.data, self.len}, r->ref);
    buf_done(&self);
    etf_put_tuple(out, 3);
    etf_put_atom(out, "py_items");
    etf_put_slice(out, r->ref);
    etf_put_list(out, n);
    return begin;
}

/* {error, what} follows; the frame, if it is one, is closed by answer_app_end(). */
static size_t answer_app_error_begin(const struct request *r, struct buf *out) {
    size_t begin = answer_app_begin(r, out);

    etf_put_tuple(out, 2);
    etf_put_atom(out, "error");
    return begin;
}

static int answer_app_end(const struct request *r, struct buf *out, size_t begin) {
    if (!r->gathered)
        return dist_end(out, begin);
    if (out->len - begin <= ANSWER_ITEM_MAX)
        return 0;
    out->len = begin;
    return -1;
}

/* {Type, Message}, with the stack if it is wanted, out of {python_error, Type, Message}; any other
 * reason as it is. */
void answer_put_reason(const struct request *r, struct buf *out, struct slice reason,
                       struct slice stack) {
    struct etf at = {reason.data, reason.data + reason.len};
    struct slice what;
    uint32_t arity;

    if (etf_get_tuple(&at, &arity) == 0 && arity == 3 && etf_get_atom(&at, &what) == 0 &&
        etf_atom_is(what, "python_error")) {
        etf_put_tuple(out, r->options.traceback ? 3 : 2);
        etf_put_slice(out, (struct slice){at.p, etf_left(&at)});
        if (r->options.traceback)
            etf_put_slice(out, stack);
    } else {
        etf_put_slice(out, reason);
    }
}

static void answer_app_error(const struct request *r, struct buf *out, struct slice reason,
                             struct slice stack) {
    size_t begin = answer_app_error_begin(r, out);

    answer_put_reason(r, out, reason, stack);
    if (answer_app_end(r, out, begin) < 0)
        fatal("answer: an error of %zu bytes", out->len - begin);
}

/* The same but for its reference, which may be longer, so that it is no frame any more. */
void answer_result(struct request *r, struct buf *out, struct slice result) {
    size_t begin = answer_app_begin(r, out);

    etf_put_slice(out, result);
    if (answer_app_end(r, out, begin) < 0)
        answer_refuse(r, out, "overloaded");
}

struct slice answer_result_in(const struct request *r, const struct buf *out) {
    struct etf at;
    struct dist_msg msg = {0};
    const char *why;
    struct slice ref;
    uint32_t arity;

    if (out->len == 0)
        return (struct slice){0};
    if (r->gathered)
        msg.payload = (struct slice){out->data, out->len};
    else if (dist_parse(out->data, out->len, &msg, &why) < 0)
        return (struct slice){0};
    at = (struct etf){msg.payload.data, msg.payload.data + msg.payload.len};
    if (etf_get_tuple(&at, &arity) < 0 || (arity == 3 && etf_get_atom(&at, &ref) < 0) ||
        etf_get_term(&at, &ref) < 0)
        return (struct slice){0};
    return (struct slice){at.p, etf_left(&at)};
}

void answer_bad_option(const struct request *r, struct buf *out) {
    size_t begin;

    if (r->kind != REQUEST_APP_CALL)
        return;
    begin = answer_app_error_begin(r, out);
    etf_put_tuple(out, 2);
    etf_put_atom(out, "bad_option");
    etf_put_atom_slice(out, r->options.bad);
    answer_app_end(r, out, begin);
}

void answer_ungather(struct request *r, struct buf *out) {
    struct buf item = *out;
    struct etf at = {item.data, item.data + item.len};
    struct slice ref;
    uint32_t arity;
    size_t begin;

    *out = (struct buf){0};
    etf_get_tuple(&at, &arity);
    etf_get_term(&at, &ref);
    r->gathered = false;
    begin = answer_app_begin(r, out);
    etf_put_slice(out, (struct slice){at.p, etf_left(&at)});
    if (answer_app_end(r, out, begin) < 0)
        fatal("answer: one of %zu bytes", item.len);
    buf_done(&item);
}

bool answer_begin(struct request *r, struct buf *out, size_t *begin) {
    switch (r->kind) {
    case REQUEST_CALL:
        answer_announce(r, out);
        if (!(r->spawn_flags & DIST_SPAWN_MONITOR))
            return false;
        *begin = answer_down_begin(r, out);
        etf_put_tuple(out, 3);
        etf_put_slice(out, r->res);
        etf_put_atom(out, "return");
        return true;
    case REQUEST_REX_CALL:
    case REQUEST_SERVER_CALL:
        *begin = answer_send_begin(out, r->from, r->tag);
        etf_put_tuple(out, 2);
        etf_put_slice(out, r->tag);
        return true;
    case REQUEST_REX_OLD:
        *begin = dist_begin(out);
        dist_put_send(out, r->from);
        etf_put_tuple(out, 2);
        etf_put_atom(out, "rex");
        return true;
    case REQUEST_APP_CALL:
        *begin = answer_app_begin(r, out);
        etf_put_tuple(out, 2);
        etf_put_atom(out, "ok");
        return true;
    default:
        answer_announce(r, out);
        return false;
    }
}

/* A linked caller learns the end of a call by the exit signal, too, as from any process. */
static void answer_put_link_exit(const struct request *r, struct buf *out, const char *reason) {
    size_t begin;

    if (!(r->spawn_flags & DIST_SPAWN_LINK))
        return;
    begin = answer_link_exit_begin(r, out);
    etf_put_atom(out, reason);
    answer_finish(out, begin);
}

int answer_end(const struct request *r, struct buf *out, size_t begin) {
    if (r->kind == REQUEST_APP_CALL)
        return answer_app_end(r, out, begin);
    if (dist_end(out, begin) < 0)
        return -1;
    if (r->kind == REQUEST_CALL)
        answer_put_link_exit(r, out, "normal");
    return 0;
}

void answer_done(struct request *r, struct buf *out) {
    size_t begin;

    if (r->kind > REQUEST_SPAWN)
        return;
    answer_announce(r, out);
    if (r->spawn_flags & DIST_SPAWN_MONITOR) {
        begin = answer_down_begin(r, out);
        etf_put_atom(out, "normal");
        answer_finish(out, begin);
    }
    answer_put_link_exit(r, out, "normal");
}

/* {Reason, Stack}: what an Erlang process exits with after an error. */
static void answer_put_exit_reason(struct buf *out, struct slice reason, struct slice stack) {
    etf_put_tuple(out, 2);
    etf_put_slice(out, reason);
    etf_put_slice(out, stack);
}

/* {badrpc, {'EXIT', {Reason, Stack}}} */
static void answer_put_badrpc(struct buf *out, struct slice reason, struct slice stack) {
    etf_put_tuple(out, 2);
    etf_put_atom(out, "badrpc");
    etf_put_tuple(out, 2);
    etf_put_atom(out, "EXIT");
    answer_put_exit_reason(out, reason, stack);
}

static void answer_spawn_error(struct request *r, struct buf *out, struct slice reason,
                               struct slice stack) {
    size_t begin;

    answer_announce(r, out);
    if (r->spawn_flags & DIST_SPAWN_MONITOR) {
        begin = answer_down_begin(r, out);
        if (r->kind == REQUEST_CALL) {
            etf_put_tuple(out, 4);
            etf_put_slice(out, r->res);
            etf_put_atom(out, "error");
            etf_put_slice(out, reason);
            etf_put_slice(out, stack);
        } else {
            answer_put_exit_reason(out, reason, stack);
        }
        answer_finish(out, begin);
    }
    if (r->spawn_flags & DIST_SPAWN_LINK) {
        begin = answer_link_exit_begin(r, out);
        answer_put_exit_reason(out, reason, stack);
        answer_finish(out, begin);
    }
}

/* The caller's own monitor tells it, as if the server had exited; the object lives on. */
static size_t answer_server_down_begin(const struct request *r, struct buf *out) {
    size_t begin = dist_begin(out);

    dist_put_monitor_exit(out, r->to, r->from, r->ref);
    return begin;
}

void answer_error(struct request *r, struct buf *out, struct slice reason, struct slice stack) {
    size_t begin;

    switch (r->kind) {
    case REQUEST_CALL:
    case REQUEST_CAST:
    case REQUEST_SPAWN:
        answer_spawn_error(r, out, reason, stack);
        return;
    case REQUEST_REX_CALL:
        begin = answer_send_begin(out, r->from, r->tag);
        etf_put_tuple(out, 2);
        etf_put_slice(out, r->tag);
        answer_put_badrpc(out, reason, stack);
        break;
    case REQUEST_REX_OLD:
        begin = dist_begin(out);
        dist_put_send(out, r->from);
        etf_put_tuple(out, 2);
        etf_put_atom(out, "rex");
        answer_put_badrpc(out, reason, stack);
        break;
    case REQUEST_SERVER_CALL:
        if (!r->ref.data)
            return;
        begin = answer_server_down_begin(r, out);
        answer_put_exit_reason(out, reason, stack);
        break;
    case REQUEST_APP_CALL:
        answer_app_error(r, out, reason, stack);
        return;
    default:
        return;
    }
    answer_finish(out, begin);
}

/* {badrpc, Why} */
static void answer_put_refusal(struct buf *out, const char *why) {
    etf_put_tuple(out, 2);
    etf_put_atom(out, "badrpc");
    etf_put_atom(out, why);
}

void answer_refuse(struct request *r, struct buf *out, const char *why) {
    struct buf atom = {0};
    size_t begin;

    switch (r->kind) {
    case REQUEST_CALL:
    case REQUEST_CAST:
    case REQUEST_SPAWN:
        begin = dist_begin(out);
        etf_put_atom(&atom, why);
        dist_put_spawn_reply(out, r->ref, r->from, 0, (struct slice){atom.data, atom.len});
        buf_done(&atom);
        break;
    case REQUEST_REX_CALL:
        begin = answer_send_begin(out, r->from, r->tag);
        etf_put_tuple(out, 2);
        etf_put_slice(out, r->tag);
        answer_put_refusal(out, why);
        break;
    case REQUEST_REX_OLD:
        begin = dist_begin(out);
        dist_put_send(out, r->from);
        etf_put_tuple(out, 2);
        etf_put_atom(out, "rex");
        answer_put_refusal(out, why);
        break;
    case REQUEST_SERVER_CALL:
        if (!r->ref.data)
            return;
        begin = answer_server_down_begin(r, out);
        etf_put_atom(out, why);
        break;
    case REQUEST_APP_CALL:
        begin = answer_app_error_begin(r, out);
        etf_put_atom(out, why);
        answer_app_end(r, out, begin);
        return;
    default:
        return;
    }
    answer_finish(out, begin);
}

void answer_exit(struct request *r, struct buf *out, struct slice reason) {
    size_t begin;

    if (r->kind > REQUEST_SPAWN)
        return;
    answer_announce(r, out);
    if (r->spawn_flags & DIST_SPAWN_MONITOR) {
        begin = answer_down_begin(r, out);
        etf_put_slice(out, reason);
        answer_finish(out, begin);
    }
    if (r->spawn_flags & DIST_SPAWN_LINK) {
        begin = answer_link_exit_begin(r, out);
        etf_put_slice(out, reason);
        answer_finish(out, begin);
    }
}
