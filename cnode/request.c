/* request.c - one piece of work for Python, as it came from a peer. */
#include "config.h"

#include "request.h"
#include "ids.h"
#include "log.h"
#include "utf8.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { REQUEST_WINDOW_MAX = 1 << 20 }; /* items of a stream on their way */

static struct {
    char *node;
    uint32_t creation;
    _Atomic uint64_t next_pid, next_ref;
    void (*release)(void *context);
} request_self;

void request_init(const char *node, uint32_t creation) {
    request_self.node = xstrdup(node);
    request_self.creation = creation;
    atomic_store(&request_self.next_pid, 1);
    atomic_store(&request_self.next_ref, 1);
}

void request_new_pid(uint32_t *id, uint32_t *serial) {
    uint64_t n = atomic_fetch_add_explicit(&request_self.next_pid, 1, memory_order_relaxed);

    *id = (uint32_t)(n & 0x0fffffff);
    *serial = (uint32_t)(n >> 28) + 1;
}

void request_new_ref(struct buf *out) {
    uint64_t n = atomic_fetch_add_explicit(&request_self.next_ref, 1, memory_order_relaxed);
    const uint32_t ids[3] = {(uint32_t)(n & 0x3ffff), (uint32_t)(n >> 18), (uint32_t)(n >> 50)};

    etf_put_ref(out, request_self.node, request_self.creation, ids, 3);
}

void request_put_pid(struct buf *out, uint32_t id, uint32_t serial) {
    etf_put_pid(out, request_self.node, id, serial, request_self.creation);
}

bool request_own_pid(struct slice pid, uint32_t *id, uint32_t *serial) {
    struct etf r;
    struct slice node;

    if (pid.len < 1 || pid.data[0] != ETF_NEW_PID)
        return false;
    r = (struct etf){pid.data + 1, pid.data + pid.len};
    if (etf_get_atom(&r, &node) < 0 || etf_left(&r) != 12 || !etf_atom_is(node, request_self.node))
        return false;
    *id = etf_be32(r.p);
    *serial = etf_be32(r.p + 4);
    return etf_be32(r.p + 8) == request_self.creation;
}

/* A request that owns the frame: takes a whole buffer, copies out of a shared one. *moved tells
 * by how much the slices of the message have to move. */
static struct request *request_new(enum request_kind kind, struct frame *frame, ptrdiff_t *moved) {
    struct request *r;

    if (frame->whole) {
        r = xcalloc(1, sizeof *r);
        r->bytes = frame->data;
        frame->data = NULL;
        *moved = 0;
    } else {
        r = xmalloc(sizeof *r + frame->len);
        memset(r, 0, sizeof *r);
        r->bytes = (uint8_t *)(r + 1);
        memcpy(r->bytes, frame->data, frame->len);
        *moved = r->bytes - frame->data;
    }
    r->kind = kind;
    return r;
}

void request_set_release(void (*release)(void *context)) {
    request_self.release = release;
}

void request_free(struct request *r) {
    if (r->context)
        request_self.release(r->context);
    if (r->bytes != (uint8_t *)(r + 1))
        free(r->bytes);
    free(r);
}

/* The same bytes in the request's own copy of the frame; an empty slice stays empty. */
static struct slice request_move(struct slice s, ptrdiff_t moved) {
    return s.data ? (struct slice){s.data + moved, s.len} : s;
}

/* Whether the option list of a spawn_request has the option, bare or as {Option, _}. */
static bool request_has_option(struct slice opts, const char *option) {
    struct etf r = {opts.data, opts.data + opts.len};
    struct slice name, rest;
    uint32_t n, arity;

    if (etf_get_list(&r, &n) < 0)
        return false;
    for (; n > 0; n--) {
        struct etf item = r;

        if (etf_get_tuple(&item, &arity) == 0 && arity == 0)
            return false;
        if (etf_get_atom(&item, &name) == 0 && etf_atom_is(name, option))
            return true;
        if (etf_get_term(&r, &rest) < 0)
            return false;
    }
    return false;
}

/* Reads Module, Function and the argument list that follow each other in r. */
static int request_read_mfa(struct etf *r, struct request *q) {
    if (etf_get_atom(r, &q->module) < 0 || etf_get_atom(r, &q->function) < 0 ||
        etf_get_term(r, &q->args) < 0)
        return -1;
    return 0;
}

/* Fills in what erpc's own functions were given: [Res, M, F, A] or [M, F, A]. */
static int request_read_erpc(struct slice list, bool call, struct request *q) {
    struct etf r = {list.data, list.data + list.len};
    uint32_t n;

    if (etf_get_list(&r, &n) < 0 || n != (call ? 4 : 3))
        return -1;
    if (call && etf_get_term(&r, &q->res) < 0)
        return -1;
    return request_read_mfa(&r, q);
}

struct request *request_from_spawn(const struct dist_msg *msg, struct frame *frame) {
    struct etf r = {msg->mfa.data, msg->mfa.data + msg->mfa.len};
    struct slice module, function;
    enum request_kind kind = REQUEST_SPAWN;
    struct request probe = {0};
    struct request *q;
    ptrdiff_t moved;
    uint32_t arity;

    if (etf_get_tuple(&r, &arity) < 0 || arity != 3 || etf_get_atom(&r, &module) < 0 ||
        etf_get_atom(&r, &function) < 0)
        return NULL;
    if (etf_atom_is(module, "erpc") && etf_atom_is(function, "execute_call"))
        kind = REQUEST_CALL;
    else if (etf_atom_is(module, "erpc") && etf_atom_is(function, "execute_cast"))
        kind = REQUEST_CAST;

    /* Nothing may fail once the frame is taken: the caller still needs the message then. */
    if (kind == REQUEST_SPAWN) {
        probe.module = module;
        probe.function = function;
        probe.args = msg->payload;
    } else if (request_read_erpc(msg->payload, kind == REQUEST_CALL, &probe) < 0) {
        return NULL;
    }
    if (request_has_option(msg->opts, "link"))
        probe.spawn_flags |= DIST_SPAWN_LINK;
    if (request_has_option(msg->opts, "monitor"))
        probe.spawn_flags |= DIST_SPAWN_MONITOR;
    q = request_new(kind, frame, &moved);
    q->from = request_move(msg->from, moved);
    q->ref = request_move(msg->ref, moved);
    q->res = request_move(probe.res, moved);
    q->module = request_move(probe.module, moved);
    q->function = request_move(probe.function, moved);
    q->args = request_move(probe.args, moved);
    q->spawn_flags = probe.spawn_flags;
    request_new_pid(&q->pid_id, &q->pid_serial);
    return q;
}

int request_read_gen_call(struct slice payload, struct request_gen *gen) {
    struct etf r = {payload.data, payload.data + payload.len};
    struct slice atom;
    uint32_t arity;

    if (etf_get_tuple(&r, &arity) < 0 || arity != 3 || etf_get_atom(&r, &atom) < 0 ||
        !etf_atom_is(atom, "$gen_call"))
        return -1;
    if (etf_get_tuple(&r, &arity) < 0 || arity != 2 || etf_get_term(&r, &gen->pid) < 0 ||
        etf_get_term(&r, &gen->tag) < 0 || etf_get_term(&r, &gen->body) < 0)
        return -1;
    return gen->pid.data[0] == ETF_NEW_PID || gen->pid.data[0] == ETF_PID ? 0 : -1;
}

/* {'$gen_cast', Body} */
static int request_read_gen_cast(struct slice payload, struct slice *body) {
    struct etf r = {payload.data, payload.data + payload.len};
    struct slice atom;
    uint32_t arity;

    if (etf_get_tuple(&r, &arity) < 0 || arity != 2 || etf_get_atom(&r, &atom) < 0 ||
        !etf_atom_is(atom, "$gen_cast"))
        return -1;
    return etf_get_term(&r, body);
}

struct slice request_tag_alias(struct slice tag) {
    struct etf r = {tag.data, tag.data + tag.len};
    struct slice atom, ref;
    uint32_t n;

    if (tag.len > 0 && tag.data[0] == ETF_LIST && etf_get_list(&r, &n) == 0 && n == 1 &&
        etf_get_atom(&r, &atom) == 0 && etf_atom_is(atom, "alias") && etf_get_term(&r, &ref) == 0 &&
        ref.data[0] == ETF_NEWER_REF)
        return ref;
    return (struct slice){0};
}

/* The reference that a gen_server:call is monitored with: its alias, or the tag itself. */
static struct slice request_tag_ref(struct slice tag) {
    struct slice alias = request_tag_alias(tag);

    if (!alias.data && tag.len > 0 && tag.data[0] == ETF_NEWER_REF)
        return tag;
    return alias;
}

/* Fills in {call | block_call | cast, M, F, A, GroupLeader}, what rex takes. */
static int request_read_rex(struct slice body, const char *verb, const char *other,
                            struct request *q) {
    struct etf r = {body.data, body.data + body.len};
    struct slice atom;
    uint32_t arity;

    if (etf_get_tuple(&r, &arity) < 0 || arity != 5 || etf_get_atom(&r, &atom) < 0 ||
        !(etf_atom_is(atom, verb) || etf_atom_is(atom, other)))
        return -1;
    return request_read_mfa(&r, q);
}

struct request *request_from_rex(const struct dist_msg *msg, struct frame *frame) {
    struct etf r = {msg->payload.data, msg->payload.data + msg->payload.len};
    struct request probe = {0};
    struct request_gen gen;
    struct slice body;
    struct request *q;
    ptrdiff_t moved;
    uint32_t arity;

    if (request_read_gen_call(msg->payload, &gen) == 0 &&
        request_read_rex(gen.body, "call", "block_call", &probe) == 0) {
        probe.kind = REQUEST_REX_CALL;
        probe.from = gen.pid;
        probe.tag = gen.tag;
        probe.ref = request_tag_ref(gen.tag);
    } else if (request_read_gen_cast(msg->payload, &body) == 0 &&
               request_read_rex(body, "cast", "cast", &probe) == 0) {
        probe.kind = REQUEST_REX_CAST;
    } else if (etf_get_tuple(&r, &arity) == 0 && arity == 2 && etf_get_term(&r, &probe.from) == 0 &&
               probe.from.data[0] == ETF_NEW_PID && etf_get_term(&r, &body) == 0 &&
               request_read_rex(body, "call", "block_call", &probe) == 0) {
        probe.kind = REQUEST_REX_OLD;
    } else {
        return NULL;
    }
    q = request_new(probe.kind, frame, &moved);
    q->from = request_move(probe.from, moved);
    q->tag = request_move(probe.tag, moved);
    q->ref = request_move(probe.ref, moved);
    q->module = request_move(probe.module, moved);
    q->function = request_move(probe.function, moved);
    q->args = request_move(probe.args, moved);
    return q;
}

struct request *request_from_server(const struct dist_msg *msg, struct frame *frame) {
    struct request probe = {.kind = REQUEST_SERVER_INFO, .args = msg->payload};
    struct request_gen gen;
    struct request *q;
    ptrdiff_t moved;

    if (request_read_gen_call(msg->payload, &gen) == 0) {
        probe.kind = REQUEST_SERVER_CALL;
        probe.from = gen.pid;
        probe.tag = gen.tag;
        probe.ref = request_tag_ref(gen.tag);
        probe.args = gen.body;
    } else if (request_read_gen_cast(msg->payload, &probe.args) == 0) {
        probe.kind = REQUEST_SERVER_CAST;
    } else {
        probe.args = msg->payload;
    }
    q = request_new(probe.kind, frame, &moved);
    q->from = request_move(probe.from, moved);
    q->tag = request_move(probe.tag, moved);
    q->ref = request_move(probe.ref, moved);
    q->args = request_move(probe.args, moved);
    q->to = request_move(msg->to, moved);
    return q;
}

/* The Erlang application. */

static bool request_is_atom(struct slice term, const char *text) {
    struct etf r = {term.data, term.data + term.len};
    struct slice name;

    return etf_get_atom(&r, &name) == 0 && etf_atom_is(name, text);
}

/* The name of a module, function or option goes back as an atom in some answers, so it must be able
 * to. */
static bool request_is_name(struct slice text) {
    ptrdiff_t characters = text.len <= 255 * 4 ? utf8_count(text.data, text.len) : -1;

    return characters >= 0 && characters <= 255;
}

static struct slice request_text(const char *text) {
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

static bool request_read_window(struct slice term, uint32_t *window) {
    struct etf r = {term.data, term.data + term.len};
    int64_t n;

    if (etf_get_integer(&r, &n) < 0 || n < 1 || n > REQUEST_WINDOW_MAX)
        return false;
    *window = (uint32_t)n;
    return true;
}

static bool request_read_id(struct slice term, struct slice *id) {
    if (term.data[0] != ETF_BINARY)
        return false;
    *id = (struct slice){term.data + 5, term.len - 5};
    return id->len > 0 && id->len <= IDS_LENGTH_MAX;
}

/* Takes one option: whether there is such an option and it can have that value. */
static bool request_take_option(struct request_options *o, struct slice key, struct slice value) {
    if (etf_atom_is(key, "kwargs")) {
        o->kwargs = value;
        return value.data[0] == ETF_MAP;
    }
    if (etf_atom_is(key, "queue")) {
        o->queue = value;
        return true;
    }
    if (etf_atom_is(key, "strings")) {
        o->strings = request_is_atom(value, "bytes") ? REQUEST_STRINGS_BYTES : REQUEST_STRINGS_UTF8;
        return o->strings == REQUEST_STRINGS_BYTES || request_is_atom(value, "utf8");
    }
    if (etf_atom_is(key, "traceback")) {
        o->traceback = request_is_atom(value, "true");
        return o->traceback || request_is_atom(value, "false");
    }
    if (etf_atom_is(key, "thread")) {
        o->thread = true;
        return request_is_atom(value, "new");
    }
    if (etf_atom_is(key, "loop")) {
        o->loop = true;
        return request_is_atom(value, "true");
    }
    if (etf_atom_is(key, "map")) {
        o->map = true;
        return request_is_atom(value, "true");
    }
    if (etf_atom_is(key, "stream"))
        return request_read_window(value, &o->stream);
    if (etf_atom_is(key, "id"))
        return request_read_id(value, &o->id);
    if (etf_atom_is(key, "executor")) {
        o->executor = true;
        return request_is_atom(value, "blocking");
    }
    return false;
}

/* A task has no thread of its own, and what is only for tasks is for nothing else. What a stream yields is not
 * remembered, nor does anybody repeat a cast. */
static void request_check_options(struct request_options *o, enum request_kind kind) {
    bool thread = o->queue.len > 0 || o->thread || o->executor;

    if (o->loop && thread)
        o->bad = request_text("loop");
    else if (o->map && (!o->loop || o->stream > 0))
        o->bad = request_text("map");
    else if (o->id.len > 0 && (o->stream > 0 || kind != REQUEST_APP_CALL))
        o->bad = request_text("id");
}

/* Reads the map of options: -1 when it is none. */
static int request_read_options(struct etf *r, struct request_options *o, enum request_kind kind) {
    struct slice key, value;
    uint32_t n;

    if (etf_get_map(r, &n) < 0)
        return -1;
    for (; n > 0; n--) {
        if (etf_get_atom(r, &key) < 0 || !request_is_name(key) || etf_get_term(r, &value) < 0)
            return -1;
        if (!request_take_option(o, key, value))
            o->bad = key;
    }
    if (!o->bad.data)
        request_check_options(o, kind);
    return 0;
}

/* {call, Ref, M, F, Args, Opts} or {cast, M, F, Args, Opts} */
static int request_read_app(struct slice item, struct request *q) {
    struct etf r = {item.data, item.data + item.len};
    struct slice verb;
    uint32_t arity;

    if (etf_get_tuple(&r, &arity) < 0 || etf_get_atom(&r, &verb) < 0)
        return -1;
    if (arity == 6 && etf_atom_is(verb, "call")) {
        q->kind = REQUEST_APP_CALL;
        if (etf_get_term(&r, &q->ref) < 0 || q->ref.data[0] != ETF_NEWER_REF)
            return -1;
    } else if (arity == 5 && etf_atom_is(verb, "cast")) {
        q->kind = REQUEST_APP_CAST;
    } else {
        return -1;
    }
    if (etf_get_text(&r, &q->module) < 0 || etf_get_text(&r, &q->function) < 0 ||
        etf_get_term(&r, &q->args) < 0 || request_read_options(&r, &q->options, q->kind) < 0)
        return -1;
    if (!request_is_name(q->module))
        q->options.bad = request_text("module");
    else if (!request_is_name(q->function))
        q->options.bad = request_text("function");
    return 0;
}

struct request *request_from_app(struct slice item, struct frame *frame, bool gathered) {
    struct frame copied = {(uint8_t *)item.data, item.len, false};
    struct request probe = {0};
    struct request *q;
    ptrdiff_t moved;

    if (request_read_app(item, &probe) < 0)
        return NULL;
    q = request_new(probe.kind, gathered ? &copied : frame, &moved);
    q->ref = request_move(probe.ref, moved);
    q->module = request_move(probe.module, moved);
    q->function = request_move(probe.function, moved);
    q->args = request_move(probe.args, moved);
    q->options = probe.options;
    q->options.kwargs = request_move(probe.options.kwargs, moved);
    q->options.queue = request_move(probe.options.queue, moved);
    q->options.id = request_move(probe.options.id, moved);
    if (item.data <= probe.options.bad.data && probe.options.bad.data < item.data + item.len)
        q->options.bad = request_move(probe.options.bad, moved);
    q->gathered = gathered && q->kind == REQUEST_APP_CALL && q->options.stream == 0;
    q->credit = q->options.stream;
    return q;
}
