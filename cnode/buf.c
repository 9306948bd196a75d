/* buf.c - a growable run of bytes, and allocation that does not fail quietly. */
#include "config.h"

#include "buf.h"
#include "log.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdlib.h>

enum {
    BUF_FIRST = 256,
    BUF_KEPT = 64 << 20, /* bytes at the end of a heap that are not given back to the system */
    BUF_PAD = 256 << 10, /* that a heap grows by at least */
    BUF_MAPPED =
        32 << 20, /* what is larger has a mapping of its own, which is given back each time */
};

/* Buffers come and go with each batch of requests, and one thread gives back what another has taken. By
 * itself glibc gives the memory back to the system each time, and takes it anew page by page: at a
 * quarter of a million tasks a second that costs more than the tasks. It would take these same limits
 * once it has seen so large a buffer. */
void xmalloc_init(void) {
#ifdef M_TRIM_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, BUF_MAPPED);
    mallopt(M_TRIM_THRESHOLD, BUF_KEPT);
    mallopt(M_TOP_PAD, BUF_PAD);
#endif
}

void xmalloc_trim(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

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
