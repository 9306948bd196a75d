/* dist.c - distribution frames and control messages: bytes in, struct out, and back. */
#include "config.h"

#include "dist.h"

enum { DIST_PASS_THROUGH = 112 };

int dist_next(const uint8_t *data, size_t len, size_t max, size_t *total) {
    uint32_t n;

    *total = 0;
    if (len < DIST_HEADER)
        return 0;
    n = etf_be32(data);
    *total = (size_t)n + DIST_HEADER;
    if (n > max)
        return -1;
    return len >= *total;
}

/* The fields of each control tuple after its number, in order: f from, w from (a pid or
 * a name), t to, r ref, i id,
 * x reason, m mfa, o opts, - ignored (cookie, trace token, group leader, flags). `+` at the
 * end: a payload follows; `!` a payload follows and is the reason. */
static const struct {
    enum dist_op op;
    const char *fields;
} dist_shapes[] = {
    [DIST_LINK] = {DIST_LINK, "ft"},
    [DIST_SEND] = {DIST_SEND, "-t+"},
    [DIST_EXIT] = {DIST_EXIT, "ftx"},
    [DIST_UNLINK] = {DIST_UNLINK, "ft"},
    [DIST_REG_SEND] = {DIST_REG_SEND, "f-t+"},
    [DIST_GROUP_LEADER] = {DIST_GROUP_LEADER, "ft"},
    [DIST_EXIT2] = {DIST_EXIT2, "ftx"},
    [DIST_SEND_TT] = {DIST_SEND, "-t-+"},
    [DIST_EXIT_TT] = {DIST_EXIT, "ft-x"},
    [DIST_REG_SEND_TT] = {DIST_REG_SEND, "f-t-+"},
    [DIST_EXIT2_TT] = {DIST_EXIT2, "ft-x"},
    [DIST_MONITOR] = {DIST_MONITOR, "ftr"},
    [DIST_DEMONITOR] = {DIST_DEMONITOR, "ftr"},
    [DIST_MONITOR_EXIT] = {DIST_MONITOR_EXIT, "wtrx"},
    [DIST_SEND_SENDER] = {DIST_SEND, "ft+"},
    [DIST_SEND_SENDER_TT] = {DIST_SEND, "ft-+"},
    [DIST_PAYLOAD_EXIT] = {DIST_EXIT, "ft!"},
    [DIST_PAYLOAD_EXIT_TT] = {DIST_EXIT, "ft-!"},
    [DIST_PAYLOAD_EXIT2] = {DIST_EXIT2, "ft!"},
    [DIST_PAYLOAD_EXIT2_TT] = {DIST_EXIT2, "ft-!"},
    [DIST_PAYLOAD_MONITOR_EXIT] = {DIST_MONITOR_EXIT, "wtr!"},
    [DIST_SPAWN_REQUEST] = {DIST_SPAWN_REQUEST, "rf-mo+"},
    [DIST_SPAWN_REQUEST_TT] = {DIST_SPAWN_REQUEST, "rf-mo-+"},
    [DIST_SPAWN_REPLY] = {DIST_SPAWN_REPLY, "rt-x"},
    [DIST_SPAWN_REPLY_TT] = {DIST_SPAWN_REPLY, "rt-x-"},
    [DIST_ALIAS_SEND] = {DIST_ALIAS_SEND, "fr+"},
    [DIST_ALIAS_SEND_TT] = {DIST_ALIAS_SEND, "fr-+"},
    [DIST_UNLINK_ID] = {DIST_UNLINK_ID, "ift"},
    [DIST_UNLINK_ID_ACK] = {DIST_UNLINK_ID_ACK, "ift"},
};

/* Whether a field holds what the BEAM, too, would take there. */
static bool dist_field_ok(char kind, struct slice term) {
    switch (kind) {
    case 'f':
        return term.data[0] == ETF_NEW_PID || term.data[0] == ETF_PID;
    case 't':
    case 'w':
        return term.data[0] == ETF_NEW_PID || term.data[0] == ETF_PID ||
               term.data[0] == ETF_SMALL_ATOM_UTF8 || term.data[0] == ETF_ATOM_UTF8 ||
               term.data[0] == ETF_SMALL_ATOM || term.data[0] == ETF_ATOM;
    case 'r':
        return term.data[0] == ETF_NEWER_REF || term.data[0] == ETF_NEW_REFERENCE;
    case 'i':
        return term.data[0] == ETF_SMALL_INTEGER || term.data[0] == ETF_INTEGER ||
               term.data[0] == ETF_SMALL_BIG;
    case 'm':
        return term.data[0] == ETF_SMALL_TUPLE;
    case 'o':
        return term.data[0] == ETF_LIST || term.data[0] == ETF_NIL;
    default:
        return true;
    }
}

static struct slice *dist_field(struct dist_msg *msg, char kind) {
    switch (kind) {
    case 'f':
    case 'w':
        return &msg->from;
    case 't':
        return &msg->to;
    case 'r':
        return &msg->ref;
    case 'i':
        return &msg->id;
    case 'x':
        return &msg->reason;
    case 'm':
        return &msg->mfa;
    case 'o':
        return &msg->opts;
    default:
        return NULL;
    }
}

/* Reads the payload that ends the frame: one term, and nothing after it. */
static int dist_parse_payload(struct etf *r, struct slice *payload, const char **why) {
    if (etf_get_version(r) < 0) {
        *why = "no payload";
        return -1;
    }
    if (etf_get_term(r, payload) < 0 || r->p != r->end) {
        *why = "malformed payload";
        return -1;
    }
    return 0;
}

int dist_parse(const uint8_t *frame, size_t total, struct dist_msg *msg, const char **why) {
    struct etf r = {frame + DIST_HEADER, frame + total};
    const char *fields;
    uint32_t arity, want;
    int64_t op;

    memset(msg, 0, sizeof *msg);
    if (total == DIST_HEADER) {
        msg->op = DIST_TICK;
        return 0;
    }
    if (r.p[0] != DIST_PASS_THROUGH) {
        *why = "not a pass-through frame";
        return -1;
    }
    r.p++;
    if (etf_get_version(&r) < 0 || etf_get_tuple(&r, &arity) < 0 || arity == 0 ||
        etf_get_integer(&r, &op) < 0) {
        *why = "no control tuple";
        return -1;
    }
    if (op < 0 || (size_t)op >= sizeof dist_shapes / sizeof dist_shapes[0] ||
        !dist_shapes[op].fields) {
        *why = "unknown control message";
        return -1;
    }
    fields = dist_shapes[op].fields;
    want = (uint32_t)strcspn(fields, "+!");
    if (arity - 1 != want) {
        *why = "control tuple of the wrong size";
        return -1;
    }
    msg->op = dist_shapes[op].op;
    for (; *fields && *fields != '+' && *fields != '!'; fields++) {
        struct slice term, *field = dist_field(msg, *fields);

        if (etf_get_term(&r, &term) < 0 || !dist_field_ok(*fields, term)) {
            *why = "malformed control tuple";
            return -1;
        }
        if (field)
            *field = term;
    }
    if (*fields)
        return dist_parse_payload(&r, *fields == '!' ? &msg->reason : &msg->payload, why);
    if (r.p != r.end) {
        *why = "bytes after the control tuple";
        return -1;
    }
    return 0;
}

size_t dist_begin(struct buf *b) {
    size_t begin = b->len;

    buf_put(b, (const uint8_t[]){0, 0, 0, 0, DIST_PASS_THROUGH, ETF_VERSION}, DIST_HEADER + 2);
    return begin;
}

int dist_end(struct buf *b, size_t begin) {
    size_t n = b->len - begin - DIST_HEADER;
    uint8_t *p = b->data + begin;

    if (n > INT32_MAX) {
        b->len = begin;
        return -1;
    }
    p[0] = (uint8_t)(n >> 24);
    p[1] = (uint8_t)(n >> 16);
    p[2] = (uint8_t)(n >> 8);
    p[3] = (uint8_t)n;
    return 0;
}

void dist_put_tick(struct buf *b) {
    buf_put(b, (const uint8_t[]){0, 0, 0, 0}, DIST_HEADER);
}

static void dist_put_head(struct buf *b, uint32_t arity, enum dist_op op) {
    etf_put_tuple(b, arity);
    etf_put_integer(b, op);
}

void dist_put_send(struct buf *b, struct slice to) {
    dist_put_head(b, 3, DIST_SEND);
    etf_put_atom(b, "");
    etf_put_slice(b, to);
    etf_put_version(b);
}

void dist_put_reg_send(struct buf *b, struct slice from, struct slice name) {
    dist_put_head(b, 4, DIST_REG_SEND);
    etf_put_slice(b, from);
    etf_put_atom(b, "");
    etf_put_slice(b, name);
    etf_put_version(b);
}

void dist_put_alias_send(struct buf *b, struct slice from, struct slice alias) {
    dist_put_head(b, 3, DIST_ALIAS_SEND);
    etf_put_slice(b, from);
    etf_put_slice(b, alias);
    etf_put_version(b);
}

void dist_put_exit(struct buf *b, struct slice from, struct slice to) {
    dist_put_head(b, 3, DIST_PAYLOAD_EXIT);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_version(b);
}

void dist_put_noproc(struct buf *b, struct slice from, struct slice to) {
    dist_put_head(b, 4, DIST_EXIT);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_atom(b, "noproc");
}

void dist_put_monitor_exit(struct buf *b, struct slice from, struct slice to, struct slice ref) {
    dist_put_head(b, 4, DIST_PAYLOAD_MONITOR_EXIT);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_slice(b, ref);
    etf_put_version(b);
}

void dist_put_spawn_reply(struct buf *b, struct slice ref, struct slice to, int flags,
                          struct slice result) {
    dist_put_head(b, 5, DIST_SPAWN_REPLY);
    etf_put_slice(b, ref);
    etf_put_slice(b, to);
    etf_put_integer(b, flags);
    etf_put_slice(b, result);
}

void dist_put_unlink_ack(struct buf *b, struct slice id, struct slice from, struct slice to) {
    dist_put_head(b, 4, DIST_UNLINK_ID_ACK);
    etf_put_slice(b, id);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
}

void dist_put_link(struct buf *b, struct slice from, struct slice to) {
    dist_put_head(b, 3, DIST_LINK);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
}

void dist_put_unlink(struct buf *b, uint64_t id, struct slice from, struct slice to) {
    dist_put_head(b, 4, DIST_UNLINK_ID);
    etf_put_integer(b, (int64_t)id);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
}

void dist_put_monitor(struct buf *b, struct slice from, struct slice to, struct slice ref) {
    dist_put_head(b, 4, DIST_MONITOR);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_slice(b, ref);
}

void dist_put_demonitor(struct buf *b, struct slice from, struct slice to, struct slice ref) {
    dist_put_head(b, 4, DIST_DEMONITOR);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_slice(b, ref);
}

void dist_put_exit2(struct buf *b, struct slice from, struct slice to) {
    dist_put_head(b, 3, DIST_PAYLOAD_EXIT2);
    etf_put_slice(b, from);
    etf_put_slice(b, to);
    etf_put_version(b);
}
