/* fuzz_dist.c - any bytes as what a peer sends: frames, control messages, requests, answers.
 *
 * The input is read twice: as a stream of frames, and as the inside of one frame, so that a changed
 * length hides nothing. What is taken is held against the promises of dist.h and request.h. One
 * thread; `make fuzz` builds it for libFuzzer, else replay.c plays the corpus.
 */
#include "config.h"

#include "dist.h"
#include "answer.h"
#include "utf8.h"

#include <stdlib.h>

enum { FUZZ_FRAME_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise is broken: both libFuzzer and the replay see the signal. */
static void fuzz_hold(bool held) {
    if (!held)
        abort();
}

/* A field is empty, or lies within the frame. */
static void fuzz_slice(struct slice s, const uint8_t *bytes, size_t len) {
    fuzz_hold(!s.data || (s.data >= bytes && s.data <= bytes + len &&
                          s.len <= (size_t)(bytes + len - s.data)));
}

static void fuzz_fields(const struct dist_msg *m, const uint8_t *frame, size_t len) {
    fuzz_slice(m->from, frame, len);
    fuzz_slice(m->to, frame, len);
    fuzz_slice(m->ref, frame, len);
    fuzz_slice(m->id, frame, len);
    fuzz_slice(m->reason, frame, len);
    fuzz_slice(m->mfa, frame, len);
    fuzz_slice(m->opts, frame, len);
    fuzz_slice(m->payload, frame, len);
}

/* What we send back is whole frames that we would take ourselves. */
static void fuzz_output(struct buf *out) {
    size_t at = 0, total;

    while (at < out->len) {
        struct dist_msg m;
        const char *why;

        fuzz_hold(dist_next(out->data + at, out->len - at, INT32_MAX, &total) == 1);
        fuzz_hold(dist_parse(out->data + at, total, &m, &why) == 0);
        at += total;
    }
    out->len = 0;
}

/* A gathered answer is one item {Ref, Result}; it can become a frame. */
static void fuzz_item(struct request *r, struct buf *out) {
    struct slice item, ref;
    uint32_t arity;

    if (r->gathered && out->len > 0) {
        struct etf at = {out->data, out->data + out->len};

        fuzz_hold(etf_get_term(&at, &item) == 0 && at.p == at.end);
        at.p = out->data;
        fuzz_hold(etf_get_tuple(&at, &arity) == 0 && arity == 2);
        fuzz_hold(etf_get_term(&at, &ref) == 0 && slice_equal(ref, r->ref));
        answer_ungather(r, out);
        fuzz_hold(!r->gathered);
        r->gathered = true;
    }
    fuzz_output(out);
}

/* All ways to answer a request, each as if it were the only one. */
static void fuzz_answer(struct request *r) {
    static const struct slice term = {(const uint8_t *)"\x6a", 1}; /* [] */
    struct buf out = {0};
    size_t begin;

    answer_refuse(r, &out, "overloaded");
    fuzz_item(r, &out);
    answer_announce(r, &out);
    answer_exit(r, &out, term);
    answer_done(r, &out);
    fuzz_output(&out);
    answer_error(r, &out, term, term);
    fuzz_item(r, &out);
    if (r->options.bad.data)
        answer_bad_option(r, &out);
    fuzz_item(r, &out);
    answer_error(r, &out, r->args, term); /* whose reason is looked into */
    fuzz_item(r, &out);
    if (answer_begin(r, &out, &begin)) {
        etf_put_slice(&out, term);
        fuzz_hold(answer_end(r, &out, begin) == 0);
    }
    fuzz_item(r, &out);
    buf_done(&out);
}

typedef struct request *fuzz_maker(const struct dist_msg *, struct frame *);

/* Makes a request out of the frame, which it copies, and out of one that it keeps. The message is
 * read anew for each: its fields point into that frame. */
static void fuzz_request(fuzz_maker *maker, const uint8_t *bytes, size_t len) {
    for (int whole = 0; whole < 2; whole++) {
        struct frame frame = {xmalloc(len), len, whole};
        struct dist_msg m;
        const char *why;
        struct request *r;
        uint8_t *data = frame.data;

        memcpy(data, bytes, len);
        fuzz_hold(dist_parse(data, len, &m, &why) == 0);
        r = maker(&m, &frame);
        fuzz_hold(frame.data == (r && whole ? NULL : data));
        free(frame.data);
        if (!r)
            continue;
        fuzz_slice(r->from, r->bytes, len);
        fuzz_slice(r->ref, r->bytes, len);
        fuzz_slice(r->tag, r->bytes, len);
        fuzz_slice(r->to, r->bytes, len);
        fuzz_slice(r->res, r->bytes, len);
        fuzz_slice(r->module, r->bytes, len);
        fuzz_slice(r->function, r->bytes, len);
        fuzz_slice(r->args, r->bytes, len);
        fuzz_answer(r);
        request_free(r);
    }
}

/* What a request of the application has read lies in its own bytes, and can go back. */
static void fuzz_app_fields(const struct request *r, size_t len) {
    const struct request_options *o = &r->options;

    fuzz_hold(r->kind == REQUEST_APP_CALL || r->kind == REQUEST_APP_CAST);
    fuzz_hold((r->kind == REQUEST_APP_CALL) == (r->ref.data != NULL));
    fuzz_slice(r->ref, r->bytes, len);
    fuzz_slice(r->module, r->bytes, len);
    fuzz_slice(r->function, r->bytes, len);
    fuzz_slice(r->args, r->bytes, len);
    fuzz_slice(o->kwargs, r->bytes, len);
    fuzz_slice(o->queue, r->bytes, len);
    if (!o->bad.data)
        fuzz_hold(utf8_count(r->module.data, r->module.len) >= 0 &&
                  utf8_count(r->function.data, r->function.len) >= 0);
    else if (!etf_atom_is(o->bad, "module") && !etf_atom_is(o->bad, "function"))
        fuzz_slice(o->bad, r->bytes, len);
    fuzz_hold(utf8_count(o->bad.data, o->bad.len) >= 0 && o->bad.len <= 255 * 4);
}

/* Makes a request out of an item that lies at the offset in the frame. */
static void fuzz_app(const uint8_t *bytes, size_t len, struct slice item, bool gathered) {
    for (int whole = 0; whole < 2; whole++) {
        struct frame frame = {xmalloc(len), len, whole};
        uint8_t *data = frame.data;
        size_t offset = (size_t)(item.data - bytes);
        struct request *r;

        memcpy(data, bytes, len);
        r = request_from_app((struct slice){data + offset, item.len}, &frame, gathered);
        fuzz_hold(frame.data == (r && whole && !gathered ? NULL : data));
        free(frame.data);
        if (!r)
            continue;
        fuzz_app_fields(r, gathered ? item.len : len);
        fuzz_hold(r->gathered == (gathered && r->kind == REQUEST_APP_CALL));
        fuzz_answer(r);
        request_free(r);
    }
}

/* A message of the application: one item, or a list of them. */
static void fuzz_app_message(const uint8_t *bytes, size_t len, struct slice payload) {
    struct etf at = {payload.data, payload.data + payload.len};
    struct slice item;
    uint32_t n;

    fuzz_app(bytes, len, payload, false);
    if (payload.data[0] == ETF_LIST && etf_get_list(&at, &n) == 0)
        for (; n > 0 && etf_get_term(&at, &item) == 0; n--)
            fuzz_app(bytes, len, item, true);
}

/* One whole frame, header included, in memory that ends where it ends. */
static void fuzz_frame(const uint8_t *bytes, size_t len) {
    struct dist_msg m;
    const char *why = NULL;
    uint32_t id, serial;

    if (dist_parse(bytes, len, &m, &why) < 0) {
        fuzz_hold(why != NULL);
        return;
    }
    fuzz_fields(&m, bytes, len);
    if (m.to.data)
        request_own_pid(m.to, &id, &serial);
    if (m.op == DIST_SPAWN_REQUEST)
        fuzz_request(request_from_spawn, bytes, len);
    if (m.op != DIST_SEND && m.op != DIST_REG_SEND)
        return;
    fuzz_app_message(bytes, len, m.payload);
    fuzz_request(request_from_rex, bytes, len);
    /* Only names and pids can be registered, so nothing else gets as far as a server. */
    if (m.to.data[0] == ETF_SMALL_ATOM_UTF8 || m.to.data[0] == ETF_NEW_PID)
        fuzz_request(request_from_server, bytes, len);
}

/* Copies a frame's bytes into memory of just their length. */
static void fuzz_frame_alone(const uint8_t *header, const uint8_t *body, size_t body_len) {
    uint8_t *copy = xmalloc(DIST_HEADER + body_len);

    memcpy(copy, header, DIST_HEADER);
    if (body_len)
        memcpy(copy + DIST_HEADER, body, body_len);
    fuzz_frame(copy, DIST_HEADER + body_len);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t no_header[DIST_HEADER]; /* dist_parse() goes by the length it is given */
    static bool ready;
    size_t at = 0, total;

    if (!ready)
        request_init("py@h", 77);
    ready = true;
    while (dist_next(data + at, size - at, FUZZ_FRAME_MAX, &total) == 1) {
        fuzz_hold(total >= DIST_HEADER && total <= size - at);
        fuzz_frame_alone(data + at, data + at + DIST_HEADER, total - DIST_HEADER);
        at += total;
    }
    fuzz_frame_alone(no_header, data, size);
    return 0;
}
