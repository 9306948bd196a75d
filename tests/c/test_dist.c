/* test_dist.c - frames and control messages: every operation, every way of lying, the writers. */
#include "config.h"

#include "dist.h"
#include "tap.h"
#include "term.h"

#define P "<a@h,1,2,3>"  /* the peer's */
#define Q "<py@h,4,5,6>" /* ours */
#define R "#<a@h,7,8,9>"

/* A frame in a block of just its length, so that AddressSanitizer sees a byte too many. */
static uint8_t *frame_of(const char *control, const char *payload, size_t *len) {
    struct buf b = {0};
    uint8_t *frame;

    term_put_frame(&b, control, payload);
    *len = b.len;
    frame = malloc(b.len);
    if (!frame)
        tap_bail("no memory");
    memcpy(frame, b.data, b.len);
    buf_done(&b);
    return frame;
}

/* All fields of a message as text. */
static const char *fields(const struct dist_msg *m) {
    static char text[2048];

    snprintf(text, sizeof text, "%d from %s to %s ref %s id %s reason %s mfa %s opts %s payload %s",
             m->op, term_text(m->from), term_text(m->to), term_text(m->ref), term_text(m->id),
             term_text(m->reason), term_text(m->mfa), term_text(m->opts), term_text(m->payload));
    return text;
}

struct message {
    const char *control, *payload, *want;
};

/* Every operation of the protocol that may arrive. */
static const struct message messages[] = {
    {"{1," P "," Q "}", NULL, "1 from " P " to " Q " ref - id - reason - mfa - opts - payload -"},
    {"{2,''," Q "}", "{hello,1}",
     "2 from - to " Q " ref - id - reason - mfa - opts - payload {hello,1}"},
    {"{3," P "," Q ",why}", NULL,
     "3 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{4," P "," Q "}", NULL, "4 from " P " to " Q " ref - id - reason - mfa - opts - payload -"},
    {"{6," P ",'',rex}", "[]", "6 from " P " to rex ref - id - reason - mfa - opts - payload []"},
    {"{7," P "," Q "}", NULL, "7 from " P " to " Q " ref - id - reason - mfa - opts - payload -"},
    {"{8," P "," Q ",kill}", NULL,
     "8 from " P " to " Q " ref - id - reason kill mfa - opts - payload -"},
    {"{12,''," Q ",{token}}", "1", "2 from - to " Q " ref - id - reason - mfa - opts - payload 1"},
    {"{13," P "," Q ",{token},why}", NULL,
     "3 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{16," P ",'',rex,{token}}", "1",
     "6 from " P " to rex ref - id - reason - mfa - opts - payload 1"},
    {"{18," P "," Q ",{token},why}", NULL,
     "8 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{19," P ",rex," R "}", NULL,
     "19 from " P " to rex ref " R " id - reason - mfa - opts - payload -"},
    {"{20," P "," Q "," R "}", NULL,
     "20 from " P " to " Q " ref " R " id - reason - mfa - opts - payload -"},
    {"{21,rex," Q "," R ",noproc}", NULL,
     "21 from rex to " Q " ref " R " id - reason noproc mfa - opts - payload -"},
    {"{22," P "," Q "}", "1", "2 from " P " to " Q " ref - id - reason - mfa - opts - payload 1"},
    {"{23," P "," Q ",{token}}", "1",
     "2 from " P " to " Q " ref - id - reason - mfa - opts - payload 1"},
    {"{24," P "," Q "}", "why",
     "3 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{25," P "," Q ",{token}}", "why",
     "3 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{26," P "," Q "}", "why",
     "8 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{27," P "," Q ",{token}}", "why",
     "8 from " P " to " Q " ref - id - reason why mfa - opts - payload -"},
    {"{28," P "," Q "," R "}", "why",
     "21 from " P " to " Q " ref " R " id - reason why mfa - opts - payload -"},
    {"{29," R "," P "," P ",{erpc,execute_call,4},[monitor]}", "[1]",
     "29 from " P " to - ref " R " id - reason - mfa {erpc,execute_call,4} opts [monitor] "
     "payload [1]"},
    {"{30," R "," P "," P ",{m,f,0},[],{token}}", "[]",
     "29 from " P " to - ref " R " id - reason - mfa {m,f,0} opts [] payload []"},
    {"{31," R "," P ",2," Q "}", NULL,
     "31 from - to " P " ref " R " id - reason " Q " mfa - opts - payload -"},
    {"{32," R "," P ",0,notsup,{token}}", NULL,
     "31 from - to " P " ref " R " id - reason notsup mfa - opts - payload -"},
    {"{33," P "," R "}", "1", "33 from " P " to - ref " R " id - reason - mfa - opts - payload 1"},
    {"{34," P "," R ",{token}}", "1",
     "33 from " P " to - ref " R " id - reason - mfa - opts - payload 1"},
    {"{35,77," P "," Q "}", NULL,
     "35 from " P " to " Q " ref - id 77 reason - mfa - opts - payload -"},
    {"{36,77," P "," Q "}", NULL,
     "36 from " P " to " Q " ref - id 77 reason - mfa - opts - payload -"},
};

enum { MESSAGES = sizeof messages / sizeof *messages };

static void test_parse(void) {
    size_t i, len;

    for (i = 0; i < MESSAGES; i++) {
        uint8_t *frame = frame_of(messages[i].control, messages[i].payload, &len);
        const char *why = "nothing";
        struct dist_msg m;

        is_int(dist_parse(frame, len, &m, &why), 0, "%s is taken", messages[i].control);
        is_str(fields(&m), messages[i].want, "%s has its fields", messages[i].control);
        free(frame);
    }
}

/* The frame's header agrees with what is there, what is there ends too early. */
static void test_cut(void) {
    size_t i, n, len, wrong;

    for (i = 0; i < MESSAGES; i++) {
        uint8_t *frame = frame_of(messages[i].control, messages[i].payload, &len);

        for (n = DIST_HEADER + 1, wrong = 0; n < len; n++) {
            uint8_t *cut = malloc(n);
            const char *why = NULL;
            struct dist_msg m;

            if (!cut)
                tap_bail("no memory");
            memcpy(cut, frame, n);
            wrong += dist_parse(cut, n, &m, &why) != -1 || !why;
            free(cut);
        }
        is_int(wrong, 0, "%s cut at any byte is refused", messages[i].control);
        free(frame);
    }
}

static void test_refused(void) {
    static const struct message cases[] = {
        {"{}", NULL, "no control tuple"},
        {"[1]", NULL, "no control tuple"},
        {"{a}", NULL, "no control tuple"},
        {"{0}", NULL, "unknown control message"},
        {"{5," P "," Q "}", NULL, "unknown control message"},
        {"{37," P "}", NULL, "unknown control message"},
        {"{256}", NULL, "unknown control message"},
        {"{-1," P "}", NULL, "unknown control message"},
        {"{4294967297," P "," Q "}", NULL, "unknown control message"},
        {"{1," P "}", NULL, "control tuple of the wrong size"},
        {"{1," P "," Q ",x}", NULL, "control tuple of the wrong size"},
        {"{2,''," Q "}", NULL, "no payload"},
        {"{1," P "," Q "}", "1", "bytes after the control tuple"},
        {"{1,1," Q "}", NULL, "malformed control tuple"},
        {"{1,[]," Q "}", NULL, "malformed control tuple"},
        {"{19," P ",rex,1}", NULL, "malformed control tuple"},
        {"{20," P ",rex," P "}", NULL, "malformed control tuple"},
        {"{35,x," P "," Q "}", NULL, "malformed control tuple"},
        {"{29,x," P "," P ",{m,f,0},[]}", "[]", "malformed control tuple"},
        {"{29," R "," P "," P ",m,[]}", "[]", "malformed control tuple"},
        {"{29," R "," P "," P ",{m,f,0},x}", "[]", "malformed control tuple"},
    };
    size_t i, len;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *frame = frame_of(cases[i].control, cases[i].payload, &len);
        const char *why = NULL;
        struct dist_msg m;

        is_int(dist_parse(frame, len, &m, &why), -1, "refused: %s", cases[i].control);
        is_str(why, cases[i].want, "and it says why");
        free(frame);
    }
}

/* Whole frames given as bytes after their header. */
static void test_bytes(void) {
    static const struct {
        const char *bytes;
        size_t len;
        const char *want;
    } cases[] = {
#define BYTES(bytes, want) {bytes, sizeof bytes - 1, want}
        BYTES("\x71\x83\x68\x00", "not a pass-through frame"),
        BYTES("\x83\x44\x00\x68\x00", "not a pass-through frame"),
        BYTES("\x83\x45\x00\x00\x00\x00\x00\x00\x00\x01", "not a pass-through frame"),
        BYTES("p", "no control tuple"),
        BYTES("p\x83", "no control tuple"),
        BYTES("p\x82\x68\x01\x61\x01", "no control tuple"),
        BYTES("p\x83\x69\xff\xff\xff\xff\x61\x01", "control tuple of the wrong size"),
        BYTES("p\x83\x69\x00\x00\x00\x00", "no control tuple"),
        BYTES("p\x83\x68\x03\x61\x02\x77\x00\x69\xff\xff\xff\xff", "malformed control tuple"),
        BYTES("p\x83\x68\x03\x61\x02\x77\x00\x77\x01x\x82\x6a", "no payload"),
        BYTES("p\x83\x68\x03\x61\x02\x77\x00\x77\x01x\x83", "malformed payload"),
        BYTES("p\x83\x68\x03\x61\x02\x77\x00\x77\x01x\x83\x6a\x6a", "malformed payload"),
        BYTES("p\x83\x68\x03\x61\x02\x77\x00\x77\x01x\x83\x50\0\0\0\1x", "malformed payload"),
#undef BYTES
    };
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *frame = calloc(1, DIST_HEADER + cases[i].len);
        const char *why = NULL;
        struct dist_msg m;

        if (!frame)
            tap_bail("no memory");
        frame[3] = (uint8_t)cases[i].len;
        memcpy(frame + DIST_HEADER, cases[i].bytes, cases[i].len);
        is_int(dist_parse(frame, DIST_HEADER + cases[i].len, &m, &why), -1, "bytes, case %zu", i);
        is_str(why, cases[i].want, "bytes, case %zu: it says why", i);
        free(frame);
    }
}

/* What dist_next() says of the first n of these bytes. */
static int next(const char *bytes, size_t n, size_t max, size_t *total) {
    uint8_t *copy = malloc(n ? n : 1);
    int result;

    if (!copy)
        tap_bail("no memory");
    memcpy(copy, bytes, n);
    result = dist_next(copy, n, max, total);
    free(copy);
    return result;
}

static void test_next(void) {
    size_t total, n;

    for (n = 0; n < 4; n++) {
        is_int(next("\0\0\0\2ab", n, 100, &total), 0, "%zu bytes: more are needed", n);
        is_int(total, 0, "%zu bytes: the length is not known", n);
    }
    for (n = 4; n < 6; n++) {
        is_int(next("\0\0\0\2ab", n, 100, &total), 0, "%zu bytes: more are needed", n);
        is_int(total, 6, "%zu bytes: the length is known", n);
    }
    is_int(next("\0\0\0\2ab", 6, 100, &total), 1, "a whole frame");
    is_int(total, 6, "its length");
    is_int(next("\0\0\0\2abcdef", 10, 100, &total), 1, "a frame and a half");
    is_int(total, 6, "the first one's length");
    is_int(next("\0\0\0\0\0", 5, 100, &total), 1, "a tick");
    is_int(total, 4, "its length");
    is_int(next("\0\0\0\144", 4, 100, &total), 0, "a frame as long as allowed");
    is_int(next("\0\0\0\145", 4, 100, &total), -1, "a longer one, refused by its header alone");
    is_int(total, 105, "its length");
    is_int(next("\377\377\377\377", 4, 100, &total), -1, "2^32-1 bytes");
    is_int(total, (intmax_t)UINT32_MAX + 4, "do not overflow");
}

static void test_tick(void) {
    struct dist_msg m;
    const char *why = NULL;
    struct buf b = {0};

    is_int(dist_parse((const uint8_t[]){0, 0, 0, 0}, 4, &m, &why), 0, "an empty frame");
    is_int(m.op, DIST_TICK, "is a tick");
    dist_put_tick(&b);
    is_mem(b.data, b.len, "\0\0\0\0", 4, "and is written as one");
    buf_done(&b);
}

/* A term in a buffer of its own. */
static struct slice term(struct buf *b, const char *text) {
    b->len = 0;
    term_put(b, text);
    return (struct slice){b->data, b->len};
}

/* Each writer makes the frame that a BEAM takes, which dist_parse() takes, too. */
static void test_writers(void) {
    struct buf out = {0}, bp = {0}, bq = {0}, br = {0}, bx = {0};
    struct slice p = term(&bp, P), q = term(&bq, Q), r = term(&br, R);
    size_t begin;

    begin = dist_begin(&out);
    dist_put_send(&out, p);
    term_put(&out, "{a,1}");
    is_int(dist_end(&out, begin), 0, "a frame is closed");
    is_str(term_take(&out), "{2,''," P "} + {a,1}", "SEND");

    begin = dist_begin(&out);
    dist_put_reg_send(&out, q, term(&bx, "rex"));
    term_put(&out, "1");
    dist_end(&out, begin);
    is_str(term_take(&out), "{6," Q ",'',rex} + 1", "REG_SEND");

    begin = dist_begin(&out);
    dist_put_alias_send(&out, q, r);
    term_put(&out, "1");
    dist_end(&out, begin);
    is_str(term_take(&out), "{33," Q "," R "} + 1", "ALIAS_SEND");

    begin = dist_begin(&out);
    dist_put_exit(&out, q, p);
    term_put(&out, "why");
    dist_end(&out, begin);
    is_str(term_take(&out), "{24," Q "," P "} + why", "EXIT, the reason in the payload");

    begin = dist_begin(&out);
    dist_put_monitor_exit(&out, term(&bx, "rex"), p, r);
    term_put(&out, "noproc");
    dist_end(&out, begin);
    is_str(term_take(&out), "{28,rex," P "," R "} + noproc", "MONITOR_EXIT");

    begin = dist_begin(&out);
    dist_put_spawn_reply(&out, r, p, DIST_SPAWN_LINK | DIST_SPAWN_MONITOR, q);
    dist_end(&out, begin);
    is_str(term_take(&out), "{31," R "," P ",3," Q "}", "SPAWN_REPLY");

    begin = dist_begin(&out);
    dist_put_unlink_ack(&out, term(&bx, "4294967296"), q, p);
    dist_end(&out, begin);
    is_str(term_take(&out), "{36,16#0000000100000000," Q "," P "}", "UNLINK_ID_ACK");

    begin = dist_begin(&out);
    dist_put_link(&out, q, p);
    dist_end(&out, begin);
    is_str(term_take(&out), "{1," Q "," P "}", "LINK");

    begin = dist_begin(&out);
    dist_put_unlink(&out, 1, q, p);
    dist_end(&out, begin);
    is_str(term_take(&out), "{35,1," Q "," P "}", "UNLINK_ID");
    begin = dist_begin(&out);
    dist_put_unlink(&out, UINT64_C(1) << 32, q, p);
    dist_end(&out, begin);
    is_str(term_take(&out), "{35,16#0000000100000000," Q "," P "}", "one with a large number");

    begin = dist_begin(&out);
    dist_put_monitor(&out, q, p, r);
    dist_end(&out, begin);
    is_str(term_take(&out), "{19," Q "," P "," R "}", "MONITOR");
    begin = dist_begin(&out);
    dist_put_monitor(&out, q, term(&bx, "name"), r);
    dist_end(&out, begin);
    is_str(term_take(&out), "{19," Q ",name," R "}", "one of a name");

    begin = dist_begin(&out);
    dist_put_demonitor(&out, q, p, r);
    dist_end(&out, begin);
    is_str(term_take(&out), "{20," Q "," P "," R "}", "DEMONITOR");

    begin = dist_begin(&out);
    dist_put_exit2(&out, q, p);
    term_put(&out, "kill");
    dist_end(&out, begin);
    is_str(term_take(&out), "{26," Q "," P "} + kill", "EXIT2, the reason in the payload");

    begin = dist_begin(&out);
    dist_put_send(&out, p);
    term_put(&out, "1");
    dist_end(&out, begin);
    dist_put_tick(&out);
    begin = dist_begin(&out);
    ok(begin > 0, "a frame may begin behind others");
    dist_put_send(&out, q);
    term_put(&out, "2");
    dist_end(&out, begin);
    is_str(term_take(&out), "{2,''," P "} + 1\ntick\n{2,''," Q "} + 2", "three frames in a row");
    buf_done(&out);
    buf_done(&bp);
    buf_done(&bq);
    buf_done(&br);
    buf_done(&bx);
}

/* A frame longer than the protocol's 2^31-1 is taken back. Its bytes are never looked at, so the
 * length alone is made up. */
static void test_too_long(void) {
    struct buf b = {0};
    size_t begin, cap;

    dist_put_tick(&b);
    begin = dist_begin(&b);
    cap = b.cap;
    b.len = begin + DIST_HEADER + (size_t)INT32_MAX + 1;
    b.cap = b.len;
    is_int(dist_end(&b, begin), -1, "2^31 bytes are refused");
    is_int(b.len, begin, "and the frame is taken back");
    b.len = begin + DIST_HEADER + (size_t)INT32_MAX;
    is_int(dist_end(&b, begin), 0, "2^31-1 bytes are not");
    is_mem(b.data + begin, 4, "\x7f\xff\xff\xff", 4, "and have their length");
    b.cap = cap;
    buf_done(&b);
}

int main(void) {
    test_parse();
    test_cut();
    test_refused();
    test_bytes();
    test_next();
    test_tick();
    test_writers();
    test_too_long();
    return tap_end();
}
