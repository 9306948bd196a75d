/* buf.h - a growable run of bytes, and allocation that does not fail quietly.
 *
 * A struct buf has one owner and no lock; zeroed memory is an empty one. No GIL.
 */
#ifndef PYNODE_BUF_H
#define PYNODE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

/* Bytes that belong to somebody else. */
struct slice {
    const uint8_t *data;
    size_t len;
};

/* Once, at the start: the C library's allocator keeps a little of what is given back to it. */
void xmalloc_init(void);

/* Gives all that is free back to the system: when nothing is to be done for a while. */
void xmalloc_trim(void);

/* For small structs of our own: no memory is fatal. */
void *xmalloc(size_t n) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t n, size_t size) __attribute__((malloc, returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));

void buf_done(struct buf *b);

/* Makes room for n more bytes: 0, or -1 when there is no memory (the buffer is as it was). */
int buf_grow(struct buf *b, size_t n);

static inline int buf_reserve(struct buf *b, size_t n) {
    return b->cap - b->len >= n ? 0 : buf_grow(b, n);
}

/* Appends n bytes; no memory is fatal: for what is small whatever a peer or user sends. */
void buf_put(struct buf *b, const void *p, size_t n);

static inline bool slice_equal(struct slice a, struct slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

#endif
