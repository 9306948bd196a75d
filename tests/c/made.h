/* made.h - requests made out of a frame's text, for the tests of request and answer.
 *
 * A frame is one that the request may keep, or one that it must copy, which then lies behind other
 * bytes, as in a connection's buffer, and is overwritten as soon as the request is there.
 */
#ifndef PYNODE_MADE_H
#define PYNODE_MADE_H

#include "request.h"
#include "tap.h"
#include "term.h"

#define P "<a@h,1,2,3>"       /* the caller */
#define R "#<a@h,7,8,9>"      /* its spawn request, or the alias of its py:call */
#define RES "#<a@h,7,8,10>"   /* erpc's own reference */
#define ALIAS "#<a@h,7,8,11>" /* gen_server's */
#define TAG "[alias|" ALIAS "]"
#define NOBODY "<py@h,0,0,77>" /* a pid of ours that never lived */

#define SPAWN(mfa, opts) "{29," R "," P "," P "," mfa "," opts "}"
#define SEND(name) "{6," P ",''," name "}"
#define EXECUTE_CALL "{erpc,execute_call,4}"
#define EXECUTE_CAST "{erpc,execute_cast,3}"

typedef struct request *request_maker(const struct dist_msg *, struct frame *);

/* A frame's bytes as a connection would hand them over. */
struct made {
    struct buf bytes;
    struct frame frame;
    struct dist_msg msg;
};

/* Lays the frame out; payload is the encoded term, or empty. */
TAP_UNUSED static void made_begin(struct made *m, const char *control, struct slice payload,
                                  bool whole) {
    static const char *const before = "before, before";
    size_t offset = whole ? 0 : strlen(before);
    const char *why = NULL;

    *m = (struct made){.frame.whole = whole};
    buf_put(&m->bytes, before, offset);
    term_put_frame_of(&m->bytes, control, payload);
    m->frame.data = m->bytes.data + offset;
    m->frame.len = m->bytes.len - offset;
    if (dist_parse(m->frame.data, m->frame.len, &m->msg, &why) < 0)
        tap_bail("%s: %s", control, why);
}

/* r was made of it, or NULL: what was not taken is still the caller's, so it is still there. */
TAP_UNUSED static struct request *made_end(struct made *m, struct request *r, bool takes,
                                           const char *what) {
    bool taken = m->frame.whole && r && takes;

    if (taken != !m->frame.data)
        tap_bail("%s: the frame was %staken", what, taken ? "not " : "");
    if (!taken) {
        memset(m->bytes.data, 0xee, m->bytes.len);
        buf_done(&m->bytes);
    }
    return r;
}

/* Makes a request out of a control message and its payload. */
TAP_UNUSED static struct request *make(request_maker *maker, const char *control,
                                       const char *payload, bool whole) {
    struct buf term = {0};
    struct made m;
    struct request *r;

    if (payload)
        term_put(&term, payload);
    made_begin(&m, control, (struct slice){term.data, term.len}, whole);
    buf_done(&term);
    r = maker(&m.msg, &m.frame);
    return made_end(&m, r, true, payload);
}

/* Makes a request of the Erlang application's out of an item: a message, or, if it is to be
 * gathered, the second element of a list that is one. */
TAP_UNUSED static struct request *make_app_of(struct slice item, bool gathered, bool whole) {
    struct buf payload = {0};
    struct made m;
    struct request *r;

    if (gathered) {
        etf_put_list(&payload, 3);
        etf_put_atom(&payload, "first");
    }
    etf_put_slice(&payload, item);
    if (gathered) {
        etf_put_atom(&payload, "last");
        etf_put_nil(&payload);
    }
    made_begin(&m, SEND("pynode"), (struct slice){payload.data, payload.len}, whole);
    if (gathered)
        item.data = m.msg.payload.data + 5 + 7; /* behind the list's head and `first` */
    else
        item = m.msg.payload;
    buf_done(&payload);
    r = request_from_app(item, &m.frame, gathered);
    return made_end(&m, r, !gathered, "an item");
}

TAP_UNUSED static struct request *make_app(const char *text, bool gathered, bool whole) {
    struct buf item = {0};
    struct request *r;

    term_put(&item, text);
    r = make_app_of((struct slice){item.data, item.len}, gathered, whole);
    buf_done(&item);
    return r;
}

#endif
