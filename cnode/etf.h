/* etf.h - the external term format: its tags, a bounds-checked reader and a small writer.
 *
 * Source: erts/doc "External Term Format". The reader trusts nothing: every length is held
 * against the bytes that are there, and nothing recurses. Pure: any thread, no GIL.
 * Known to dist.c, request.c, procs.c, py_decode.c and py_encode.c only.
 */
#ifndef PYNODE_ETF_H
#define PYNODE_ETF_H

#include "buf.h"

enum etf_tag {
    ETF_VERSION = 131,
    ETF_NEW_FLOAT = 70,
    ETF_BIT_BINARY = 77,
    ETF_COMPRESSED = 80,
    ETF_NEW_PID = 88,
    ETF_NEW_PORT = 89,
    ETF_NEWER_REF = 90,
    ETF_SMALL_INTEGER = 97,
    ETF_INTEGER = 98,
    ETF_FLOAT = 99,
    ETF_ATOM = 100,
    ETF_REFERENCE = 101,
    ETF_PORT = 102,
    ETF_PID = 103,
    ETF_SMALL_TUPLE = 104,
    ETF_LARGE_TUPLE = 105,
    ETF_NIL = 106,
    ETF_STRING = 107,
    ETF_LIST = 108,
    ETF_BINARY = 109,
    ETF_SMALL_BIG = 110,
    ETF_LARGE_BIG = 111,
    ETF_NEW_FUN = 112,
    ETF_EXPORT = 113,
    ETF_NEW_REFERENCE = 114,
    ETF_SMALL_ATOM = 115,
    ETF_MAP = 116,
    ETF_ATOM_UTF8 = 118,
    ETF_SMALL_ATOM_UTF8 = 119,
    ETF_V4_PORT = 120,
};

/* Reading position: p moves on, end stays. A failed read leaves p where it was. */
struct etf {
    const uint8_t *p;
    const uint8_t *end;
};

/* Big endian numbers, unchecked: the caller has held the length against the bytes. */
static inline uint16_t etf_be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t etf_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t etf_be64(const uint8_t *p) {
    return (uint64_t)etf_be32(p) << 32 | etf_be32(p + 4);
}

static inline void etf_set_be32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline size_t etf_left(const struct etf *r) {
    return (size_t)(r->end - r->p);
}

/* Each reads one thing: 0, or -1 when the bytes are not that. */
int etf_get_version(struct etf *r);
int etf_get_tuple(struct etf *r, uint32_t *arity);
int etf_get_list(struct etf *r, uint32_t *len); /* LIST_EXT's header, or NIL as length 0 */
int etf_get_map(struct etf *r, uint32_t *pairs);
int etf_get_nil(struct etf *r);
int etf_get_integer(struct etf *r, int64_t *value);  /* also SMALL_BIG that fits */
int etf_get_atom(struct etf *r, struct slice *name); /* UTF-8 (or ASCII Latin-1) text, no copy */
int etf_get_text(struct etf *r, struct slice *name); /* the same, also out of a binary */
int etf_get_term(struct etf *r, struct slice *term); /* any whole term, its encoded bytes */

/* Whether the atom just read is the given text. */
static inline bool etf_atom_is(struct slice name, const char *text) {
    return name.len == strlen(text) && memcmp(name.data, text, name.len) == 0;
}

/* The writer appends to b; sizes are small and ours, so no memory is fatal. */
void etf_put_version(struct buf *b);
void etf_put_tuple(struct buf *b, uint32_t arity);
void etf_put_list(struct buf *b, uint32_t len); /* header only; the tail is the caller's */
void etf_put_nil(struct buf *b);
void etf_put_map(struct buf *b, uint32_t pairs);
void etf_put_integer(struct buf *b, int64_t value);
void etf_put_float(struct buf *b, double value);
void etf_put_atom(struct buf *b, const char *text);
void etf_put_atom_slice(struct buf *b, struct slice utf8); /* at most 255 characters */
void etf_put_binary(struct buf *b, const void *data, uint32_t len);
void etf_put_string(struct buf *b, const char *utf8); /* as a binary */
void etf_put_slice(struct buf *b, struct slice term); /* a term that is encoded already */
void etf_put_pid(struct buf *b, const char *node, uint32_t id, uint32_t serial, uint32_t creation);
void etf_put_ref(struct buf *b, const char *node, uint32_t creation, const uint32_t *ids, int n);

#endif
