/* term.h - terms and frames as text and back, so that a test shows what it sends and gets.
 *
 * Erlang's own syntax, and for what has none: <a@b,1,2,3> is the pid with id 1, serial 2 and
 * creation 3 of node a@b; #<a@b,9,1,2> the reference with creation 9 and the words 1 and 2. A frame
 * is its control tuple, or that and " + " and its payload. It reads back by itself, not with
 * etf.c, which is under test. Needs tap.h before it.
 */
#ifndef PYNODE_TERM_H
#define PYNODE_TERM_H

#include "buf.h"
#include "etf.h"

#include <ctype.h>

static const char *term_put_one(struct buf *b, const char *s);

/* Appends the terms up to the closing character: how many there were; *s moves past it. */
static uint32_t term_put_many(struct buf *b, const char **s, char close, bool *tail) {
    uint32_t n = 0;

    *tail = false;
    while (**s && **s != close) {
        *s = term_put_one(b, *s);
        n++;
        if (strncmp(*s, "=>", 2) == 0)
            *s += 2;
        else if (**s == ',' || **s == '|')
            *tail = *(*s)++ == '|';
    }
    if (!**s)
        tap_bail("term.h: %c is missing", close);
    ++*s;
    return n;
}

/* The numbers after the node of a pid or reference. */
static int term_numbers(const char **s, uint32_t *numbers) {
    char *end;
    int n = 0;

    while (**s == ',' && n < 8) {
        numbers[n++] = (uint32_t)strtoul(*s + 1, &end, 10);
        *s = end;
    }
    if (*(*s)++ != '>')
        tap_bail("term.h: > is missing");
    return n;
}

static const char *term_put_identifier(struct buf *b, const char *s, bool ref) {
    char node[256];
    uint32_t numbers[8] = {0};
    size_t n = strcspn(s, ",");
    int count;

    snprintf(node, sizeof node, "%.*s", (int)n, s);
    s += n;
    count = term_numbers(&s, numbers);
    if (ref)
        etf_put_ref(b, node, numbers[0], numbers + 1, count - 1);
    else
        etf_put_pid(b, node, numbers[0], numbers[1], numbers[2]);
    return s;
}

/* Appends one term; the answer is where the text goes on. */
static const char *term_put_one(struct buf *b, const char *s) {
    struct buf inner = {0};
    const char *start = s;
    uint32_t n;
    bool tail;

    if (*s == '{' || *s == '[' || strncmp(s, "#{", 2) == 0) {
        char open = *s;

        s += open == '#' ? 2 : 1;
        n = term_put_many(&inner, &s, open == '[' ? ']' : '}', &tail);
        if (open == '{')
            etf_put_tuple(b, n);
        else if (open == '#')
            etf_put_map(b, n / 2);
        else if (n > 0)
            etf_put_list(b, tail ? n - 1 : n);
        buf_put(b, inner.data, inner.len);
        if (open == '[' && !tail)
            etf_put_nil(b);
        buf_done(&inner);
        return s;
    }
    if (strncmp(s, "<<\"", 3) == 0) {
        s = strstr(start + 3, "\">>");
        if (!s)
            tap_bail("term.h: a binary has no end");
        etf_put_binary(b, start + 3, (uint32_t)(s - start - 3));
        return s + 3;
    }
    if (*s == '<')
        return term_put_identifier(b, s + 1, false);
    if (strncmp(s, "#<", 2) == 0)
        return term_put_identifier(b, s + 2, true);
    if (isdigit((unsigned char)*s) || *s == '-') {
        char *end;

        etf_put_integer(b, strtoll(s, &end, 10));
        return end;
    }
    s += *s == '\'' ? 1 + strcspn(s + 1, "'") : strcspn(s, ",|=]}");
    if (*start == '\'')
        etf_put_atom_slice(b,
                           (struct slice){(const uint8_t *)start + 1, (size_t)(s++ - start - 1)});
    else
        etf_put_atom_slice(b, (struct slice){(const uint8_t *)start, (size_t)(s - start)});
    return s;
}

/* Appends the term that text says. */
TAP_UNUSED static void term_put(struct buf *b, const char *text) {
    const char *end = term_put_one(b, text);

    if (*end)
        tap_bail("term.h: %s: something follows the term", text);
}

/* Appends a frame; payload is an encoded term, or empty. */
TAP_UNUSED static void term_put_frame_of(struct buf *b, const char *control, struct slice payload) {
    size_t begin = b->len;
    uint32_t n;

    buf_put(b, "\0\0\0\0\x70\x83", 6);
    term_put(b, control);
    if (payload.len > 0) {
        buf_put(b, "\x83", 1);
        buf_put(b, payload.data, payload.len);
    }
    n = (uint32_t)(b->len - begin - 4);
    b->data[begin] = (uint8_t)(n >> 24);
    b->data[begin + 1] = (uint8_t)(n >> 16);
    b->data[begin + 2] = (uint8_t)(n >> 8);
    b->data[begin + 3] = (uint8_t)n;
}

/* Appends a frame; payload may be NULL. */
TAP_UNUSED static void term_put_frame(struct buf *b, const char *control, const char *payload) {
    struct buf term = {0};

    if (payload)
        term_put(&term, payload);
    term_put_frame_of(b, control, (struct slice){term.data, term.len});
    buf_done(&term);
}

/* Text that grows in a ring of buffers, so that several results can be held at once. */
struct term_out {
    char *text;
    size_t len;
};

enum { TERM_TEXT_MAX = 4096, TERM_RING = 16 };

static struct term_out term_out_new(void) {
    static char ring[TERM_RING][TERM_TEXT_MAX];
    static int next;
    struct term_out o = {ring[next++ % TERM_RING], 0};

    *o.text = 0;
    return o;
}

__attribute__((format(printf, 2, 3))) static void term_add(struct term_out *o, const char *fmt,
                                                           ...) {
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(o->text + o->len, TERM_TEXT_MAX - o->len, fmt, ap);
    va_end(ap);
    o->len += (size_t)n;
    if (o->len >= TERM_TEXT_MAX)
        tap_bail("term.h: a text of more than %d bytes", TERM_TEXT_MAX);
}

/* Bytes that the caller knows to be there; a test that lies dies under AddressSanitizer. */
static uint32_t term_u32(const uint8_t **p) {
    uint32_t v =
        (uint32_t)(*p)[0] << 24 | (uint32_t)(*p)[1] << 16 | (uint32_t)(*p)[2] << 8 | (*p)[3];

    *p += 4;
    return v;
}

/* An atom, quoted where Erlang would (nearly: it is enough for tests). */
static const uint8_t *term_add_atom(struct term_out *o, const uint8_t *p, bool quote) {
    int n = *p == 119 || *p == 115 ? p[1] : p[1] << 8 | p[2];
    const char *text = (const char *)p + (*p == 119 || *p == 115 ? 2 : 3);
    bool plain = n > 0 && islower((unsigned char)*text);
    int i;

    for (i = 0; i < n; i++)
        plain = plain && (isalnum((unsigned char)text[i]) || text[i] == '_' || text[i] == '@');
    term_add(o, quote && !plain ? "'%.*s'" : "%.*s", n, text);
    return (const uint8_t *)text + n;
}

static const uint8_t *term_add_one(struct term_out *o, const uint8_t *p);

/* n terms with commas; in a map every other one is an arrow. */
static const uint8_t *term_add_many(struct term_out *o, const uint8_t *p, uint32_t n, bool map) {
    uint32_t i;

    for (i = 0; i < n; i++) {
        if (i > 0)
            term_add(o, map && i % 2 ? "=>" : ",");
        p = term_add_one(o, p);
    }
    return p;
}

static const uint8_t *term_add_list(struct term_out *o, const uint8_t *p) {
    uint32_t n = term_u32(&p);

    term_add(o, "[");
    p = term_add_many(o, p, n, false);
    if (*p == 106) {
        p++;
    } else {
        term_add(o, "|");
        p = term_add_one(o, p);
    }
    term_add(o, "]");
    return p;
}

static const uint8_t *term_add_ref(struct term_out *o, const uint8_t *p) {
    uint32_t words = (uint32_t)(p[0] << 8 | p[1]) + 1;

    term_add(o, "#<");
    p = term_add_atom(o, p + 2, false);
    while (words-- > 0)
        term_add(o, ",%u", term_u32(&p));
    term_add(o, ">");
    return p;
}

static const uint8_t *term_add_pid(struct term_out *o, const uint8_t *p) {
    uint32_t id, serial;

    term_add(o, "<");
    p = term_add_atom(o, p, false);
    id = term_u32(&p);
    serial = term_u32(&p);
    term_add(o, ",%u,%u,%u>", id, serial, term_u32(&p));
    return p;
}

/* Appends one term's text; the answer is where its bytes end. */
static const uint8_t *term_add_one(struct term_out *o, const uint8_t *p) {
    uint8_t tag = *p++;
    uint32_t n;

    switch (tag) {
    case 88:
        return term_add_pid(o, p);
    case 90:
        return term_add_ref(o, p);
    case 97:
        term_add(o, "%d", *p);
        return p + 1;
    case 98:
        term_add(o, "%d", (int32_t)term_u32(&p));
        return p;
    case 104:
        n = *p++;
        term_add(o, "{");
        p = term_add_many(o, p, n, false);
        term_add(o, "}");
        return p;
    case 106:
        term_add(o, "[]");
        return p;
    case 108:
        return term_add_list(o, p);
    case 109:
        n = term_u32(&p);
        term_add(o, "<<\"%.*s\">>", (int)n, (const char *)p);
        return p + n;
    case 110:
        n = *p;
        term_add(o, p[1] ? "-16#" : "16#");
        while (n > 0)
            term_add(o, "%02x", p[1 + n--]);
        return p + 2 + *p;
    case 116:
        n = term_u32(&p);
        term_add(o, "#{");
        p = term_add_many(o, p, n * 2, true);
        term_add(o, "}");
        return p;
    case 115:
    case 118:
    case 119:
        return term_add_atom(o, p - 1, true);
    default:
        tap_bail("term.h: no text for tag %d", tag);
    }
}

/* A term as text; "-" for an empty slice. */
TAP_UNUSED static const char *term_text(struct slice term) {
    struct term_out o = term_out_new();

    if (!term.data)
        term_add(&o, "-");
    else if (term_add_one(&o, term.data) != term.data + term.len)
        term_add(&o, " and bytes that do not belong to it");
    return o.text;
}

/* All frames in a buffer as text, one a line; a tick is "tick". */
TAP_UNUSED static const char *term_frames(const void *data, size_t len) {
    struct term_out o = term_out_new();
    const uint8_t *p = data, *end = len ? p + len : p;

    while (p < end) {
        uint32_t n = term_u32(&p);
        const uint8_t *frame_end = p + n;

        if (o.len > 0)
            term_add(&o, "\n");
        if (n == 0) {
            term_add(&o, "tick");
            continue;
        }
        if (frame_end > end || p[0] != 112 || p[1] != 131)
            tap_bail("term.h: not a frame");
        p = term_add_one(&o, p + 2);
        if (p < frame_end && *p == 131) {
            term_add(&o, " + ");
            p = term_add_one(&o, p + 1);
        }
        if (p != frame_end)
            tap_bail("term.h: %s: the frame's length is wrong", o.text);
    }
    return o.text;
}

/* The frames in a struct buf, which is emptied. */
TAP_UNUSED static const char *term_take(struct buf *b) {
    const char *text = term_frames(b->data, b->len);

    b->len = 0;
    return text;
}

/* printf(3) into a ring of buffers. */
__attribute__((format(printf, 1, 2))) TAP_UNUSED static const char *line(const char *fmt, ...) {
    static char ring[32][1024];
    static int next;
    char *text = ring[next++ % 32];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof ring[0], fmt, ap);
    va_end(ap);
    return text;
}

#endif
