/* etf.c - the external term format: a bounds-checked reader and a small writer. */
#include "config.h"

#include "etf.h"
#include "log.h"

int etf_get_version(struct etf *r) {
    if (etf_left(r) < 1 || r->p[0] != ETF_VERSION)
        return -1;
    r->p++;
    return 0;
}

int etf_get_tuple(struct etf *r, uint32_t *arity) {
    if (etf_left(r) >= 2 && r->p[0] == ETF_SMALL_TUPLE) {
        *arity = r->p[1];
        r->p += 2;
        return 0;
    }
    if (etf_left(r) >= 5 && r->p[0] == ETF_LARGE_TUPLE) {
        *arity = etf_be32(r->p + 1);
        r->p += 5;
        return 0;
    }
    return -1;
}

int etf_get_list(struct etf *r, uint32_t *len) {
    if (etf_get_nil(r) == 0) {
        *len = 0;
        return 0;
    }
    if (etf_left(r) < 5 || r->p[0] != ETF_LIST)
        return -1;
    *len = etf_be32(r->p + 1);
    r->p += 5;
    return 0;
}

int etf_get_map(struct etf *r, uint32_t *pairs) {
    if (etf_left(r) < 5 || r->p[0] != ETF_MAP)
        return -1;
    *pairs = etf_be32(r->p + 1);
    r->p += 5;
    return 0;
}

int etf_get_nil(struct etf *r) {
    if (etf_left(r) < 1 || r->p[0] != ETF_NIL)
        return -1;
    r->p++;
    return 0;
}

int etf_get_integer(struct etf *r, int64_t *value) {
    uint64_t magnitude = 0;
    size_t n;

    if (etf_left(r) >= 2 && r->p[0] == ETF_SMALL_INTEGER) {
        *value = r->p[1];
        r->p += 2;
        return 0;
    }
    if (etf_left(r) >= 5 && r->p[0] == ETF_INTEGER) {
        *value = (int32_t)etf_be32(r->p + 1);
        r->p += 5;
        return 0;
    }
    if (etf_left(r) < 3 || r->p[0] != ETF_SMALL_BIG)
        return -1;
    n = r->p[1];
    if (n > 8 || etf_left(r) < 3 + n)
        return -1;
    for (size_t i = n; i > 0; i--)
        magnitude = magnitude << 8 | r->p[3 + i - 1];
    if (magnitude > INT64_MAX)
        return -1;
    *value = r->p[2] ? -(int64_t)magnitude : (int64_t)magnitude;
    r->p += 3 + n;
    return 0;
}

int etf_get_atom(struct etf *r, struct slice *name) {
    size_t head, n;

    if (etf_left(r) < 2)
        return -1;
    switch (r->p[0]) {
    case ETF_SMALL_ATOM_UTF8:
    case ETF_SMALL_ATOM:
        head = 2;
        n = r->p[1];
        break;
    case ETF_ATOM_UTF8:
    case ETF_ATOM:
        if (etf_left(r) < 3)
            return -1;
        head = 3;
        n = etf_be16(r->p + 1);
        break;
    default:
        return -1;
    }
    if (etf_left(r) < head + n)
        return -1;
    *name = (struct slice){r->p + head, n};
    r->p += head + n;
    return 0;
}

int etf_get_text(struct etf *r, struct slice *name) {
    uint32_t n;

    if (etf_left(r) < 5 || r->p[0] != ETF_BINARY)
        return etf_get_atom(r, name);
    n = etf_be32(r->p + 1);
    if (n > etf_left(r) - 5)
        return -1;
    *name = (struct slice){r->p + 5, n};
    r->p += 5 + n;
    return 0;
}

/* Reads past one term's head and its flat bytes; *more is how many terms follow inside it. */
static int etf_skip_head(struct etf *r, uint64_t *more) {
    size_t left = etf_left(r);
    const uint8_t *p = r->p;
    uint64_t n;

    *more = 0;
    if (left < 1)
        return -1;
    switch (p[0]) {
    case ETF_SMALL_INTEGER:
        n = 2;
        break;
    case ETF_INTEGER:
        n = 5;
        break;
    case ETF_NEW_FLOAT:
        n = 9;
        break;
    case ETF_FLOAT:
        n = 32;
        break;
    case ETF_NIL:
        n = 1;
        break;
    case ETF_SMALL_ATOM_UTF8:
    case ETF_SMALL_ATOM:
        n = left < 2 ? left + 1 : 2u + p[1];
        break;
    case ETF_ATOM_UTF8:
    case ETF_ATOM:
    case ETF_STRING:
        n = left < 3 ? left + 1 : 3u + etf_be16(p + 1);
        break;
    case ETF_BINARY:
        n = left < 5 ? left + 1 : 5u + (uint64_t)etf_be32(p + 1);
        break;
    case ETF_BIT_BINARY:
        n = left < 6 ? left + 1 : 6u + (uint64_t)etf_be32(p + 1);
        break;
    case ETF_SMALL_BIG:
        n = left < 3 ? left + 1 : 3u + p[1];
        break;
    case ETF_LARGE_BIG:
        n = left < 6 ? left + 1 : 6u + (uint64_t)etf_be32(p + 1);
        break;
    case ETF_SMALL_TUPLE:
        n = 2;
        *more = left < 2 ? 0 : p[1];
        break;
    case ETF_LARGE_TUPLE:
        n = 5;
        *more = left < 5 ? 0 : etf_be32(p + 1);
        break;
    case ETF_LIST:
        n = 5;
        *more = left < 5 ? 0 : (uint64_t)etf_be32(p + 1) + 1;
        break;
    case ETF_MAP:
        n = 5;
        *more = left < 5 ? 0 : (uint64_t)etf_be32(p + 1) * 2;
        break;
    case ETF_EXPORT:
        n = 1;
        *more = 3;
        break;
    case ETF_NEW_FUN: /* its own size is not to be trusted: some releases send a wrong one */
        n = 30;
        *more = left < 30 ? 0 : 4 + (uint64_t)etf_be32(p + 26);
        break;
    default:
        return -1;
    }
    if (n > left)
        return -1;
    r->p += n;
    return 0;
}

/* Reads past a pid, port or reference: a node name, then a fixed run of numbers. */
static int etf_skip_identifier(struct etf *r) {
    uint8_t tag = r->p[0];
    struct slice node;
    size_t words = 0, n;

    r->p++;
    if (tag == ETF_NEWER_REF || tag == ETF_NEW_REFERENCE) {
        if (etf_left(r) < 2)
            return -1;
        words = etf_be16(r->p);
        if (words > 5)
            return -1;
        r->p += 2;
    }
    if (etf_get_atom(r, &node) < 0)
        return -1;
    switch (tag) {
    case ETF_NEW_PID:
        n = 12;
        break;
    case ETF_PID:
        n = 9;
        break;
    case ETF_V4_PORT:
        n = 12;
        break;
    case ETF_NEW_PORT:
        n = 8;
        break;
    case ETF_PORT:
    case ETF_REFERENCE:
        n = 5;
        break;
    case ETF_NEWER_REF:
        n = 4 + words * 4;
        break;
    default: /* ETF_NEW_REFERENCE */
        n = 1 + words * 4;
        break;
    }
    if (etf_left(r) < n)
        return -1;
    r->p += n;
    return 0;
}

static int etf_is_identifier(uint8_t tag) {
    return tag == ETF_NEW_PID || tag == ETF_NEWER_REF || tag == ETF_PID || tag == ETF_V4_PORT ||
           tag == ETF_NEW_PORT || tag == ETF_PORT || tag == ETF_REFERENCE ||
           tag == ETF_NEW_REFERENCE;
}

int etf_get_term(struct etf *r, struct slice *term) {
    struct etf at = *r;
    uint64_t todo = 1, more;

    while (todo > 0) {
        if (todo > etf_left(&at)) /* each term takes a byte at least */
            return -1;
        todo--;
        if (etf_is_identifier(at.p[0])) {
            if (etf_skip_identifier(&at) < 0)
                return -1;
            continue;
        }
        if (etf_skip_head(&at, &more) < 0)
            return -1;
        todo += more;
    }
    *term = (struct slice){r->p, (size_t)(at.p - r->p)};
    r->p = at.p;
    return 0;
}

static uint8_t *etf_room(struct buf *b, size_t n) {
    uint8_t *p;

    if (buf_reserve(b, n) < 0)
        fatal("memory: cannot grow a message by %zu bytes", n);
    p = b->data + b->len;
    b->len += n;
    return p;
}

static void etf_put_head32(struct buf *b, uint8_t tag, uint32_t v) {
    uint8_t *p = etf_room(b, 5);

    p[0] = tag;
    etf_set_be32(p + 1, v);
}

void etf_put_version(struct buf *b) {
    *etf_room(b, 1) = ETF_VERSION;
}

void etf_put_tuple(struct buf *b, uint32_t arity) {
    uint8_t *p;

    if (arity > 255) {
        etf_put_head32(b, ETF_LARGE_TUPLE, arity);
        return;
    }
    p = etf_room(b, 2);
    p[0] = ETF_SMALL_TUPLE;
    p[1] = (uint8_t)arity;
}

void etf_put_list(struct buf *b, uint32_t len) {
    etf_put_head32(b, ETF_LIST, len);
}

void etf_put_nil(struct buf *b) {
    *etf_room(b, 1) = ETF_NIL;
}

void etf_put_map(struct buf *b, uint32_t pairs) {
    etf_put_head32(b, ETF_MAP, pairs);
}

void etf_put_integer(struct buf *b, int64_t value) {
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    uint8_t *p;

    if (value >= 0 && value <= 255) {
        p = etf_room(b, 2);
        p[0] = ETF_SMALL_INTEGER;
        p[1] = (uint8_t)value;
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        etf_put_head32(b, ETF_INTEGER, (uint32_t)value);
    } else {
        p = etf_room(b, 11);
        p[0] = ETF_SMALL_BIG;
        p[1] = 8;
        p[2] = value < 0;
        for (int i = 0; i < 8; i++)
            p[3 + i] = (uint8_t)(magnitude >> (8 * i));
    }
}

void etf_put_float(struct buf *b, double value) {
    uint8_t *p = etf_room(b, 9);
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    p[0] = ETF_NEW_FLOAT;
    etf_set_be32(p + 1, (uint32_t)(bits >> 32));
    etf_set_be32(p + 5, (uint32_t)bits);
}

void etf_put_atom(struct buf *b, const char *text) {
    etf_put_atom_slice(b, (struct slice){(const uint8_t *)text, strlen(text)});
}

void etf_put_atom_slice(struct buf *b, struct slice utf8) {
    uint8_t *p;

    if (utf8.len > UINT16_MAX)
        fatal("atom: %zu bytes long", utf8.len);
    if (utf8.len <= 255) {
        p = etf_room(b, 2);
        p[0] = ETF_SMALL_ATOM_UTF8;
        p[1] = (uint8_t)utf8.len;
    } else {
        p = etf_room(b, 3);
        p[0] = ETF_ATOM_UTF8;
        p[1] = (uint8_t)(utf8.len >> 8);
        p[2] = (uint8_t)utf8.len;
    }
    buf_put(b, utf8.data, utf8.len);
}

void etf_put_binary(struct buf *b, const void *data, uint32_t len) {
    etf_put_head32(b, ETF_BINARY, len);
    buf_put(b, data, len);
}

void etf_put_string(struct buf *b, const char *utf8) {
    etf_put_binary(b, utf8, (uint32_t)strlen(utf8));
}

void etf_put_slice(struct buf *b, struct slice term) {
    buf_put(b, term.data, term.len);
}

void etf_put_pid(struct buf *b, const char *node, uint32_t id, uint32_t serial, uint32_t creation) {
    uint8_t *p;

    *etf_room(b, 1) = ETF_NEW_PID;
    etf_put_atom(b, node);
    p = etf_room(b, 12);
    etf_set_be32(p, id);
    etf_set_be32(p + 4, serial);
    etf_set_be32(p + 8, creation);
}

void etf_put_ref(struct buf *b, const char *node, uint32_t creation, const uint32_t *ids, int n) {
    uint8_t *p = etf_room(b, 3);

    p[0] = ETF_NEWER_REF;
    p[1] = 0;
    p[2] = (uint8_t)n;
    etf_put_atom(b, node);
    etf_set_be32(etf_room(b, 4), creation);
    for (int i = 0; i < n; i++)
        etf_set_be32(etf_room(b, 4), ids[i]);
}
