/* buf.c - a growable run of bytes, and allocation that does not fail quietly. */
#include "config.h"

#include "buf.h"
#include "log.h"

#include <stdlib.h>

enum { BUF_FIRST = 256 };

void *xmalloc(size_t n) {
    void *p = malloc(n);

    if (!p)
        fatal("memory: cannot allocate %zu bytes", n);
    return p;
}

void *xcalloc(size_t n, size_t size) {
    void *p = calloc(n, size);

    if (!p)
        fatal("memory: cannot allocate %zu times %zu bytes", n, size);
    return p;
}

char *xstrdup(const char *s) {
    size_t n = strlen(s) + 1;

    return memcpy(xmalloc(n), s, n);
}

void buf_done(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

int buf_grow(struct buf *b, size_t n) {
    size_t cap = b->cap ? b->cap : BUF_FIRST;
    uint8_t *data;

    if (n > SIZE_MAX / 2 - b->len)
        return -1;
    while (cap - b->len < n)
        cap *= 2;
    data = realloc(b->data, cap);
    if (!data)
        return -1;
    b->data = data;
    b->cap = cap;
    return 0;
}

void buf_put(struct buf *b, const void *p, size_t n) {
    if (n == 0)
        return;
    if (buf_reserve(b, n) < 0)
        fatal("memory: cannot grow a buffer by %zu bytes", n);
    memcpy(b->data + b->len, p, n);
    b->len += n;
}
