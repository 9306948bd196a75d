/* queues.c - the lanes that have a thread of their own: which there are, and their names. */
#include "config.h"

#include "queues.h"

#include <stdlib.h>

enum { QUEUES_BUCKETS = 256 }; /* a power of two */

static struct queue *queues[QUEUES_BUCKETS];
static int queues_count;

static struct queue **queues_bucket(struct slice name) {
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < name.len; i++)
        h = (h ^ name.data[i]) * 16777619u;
    return &queues[(h ^ h >> 15) & (QUEUES_BUCKETS - 1)];
}

struct queue *queues_find(struct slice name) {
    struct queue *q = *queues_bucket(name);

    while (q && !slice_equal(q->name, name))
        q = q->next;
    return q;
}

struct queue *queues_new(void) {
    struct queue *q;

    if (queues_count == QUEUES_MAX)
        return NULL;
    queues_count++;
    q = xcalloc(1, sizeof *q);
    q->lane.queue = q;
    return q;
}

struct queue *queues_get(struct slice name) {
    struct queue *q = queues_find(name), **bucket = queues_bucket(name);
    uint8_t *copy;

    if (q || !(q = queues_new()))
        return q;
    copy = xmalloc(name.len);
    memcpy(copy, name.data, name.len);
    q->name = (struct slice){copy, name.len};
    q->next = *bucket;
    *bucket = q;
    return q;
}

void queues_unname(struct queue *q) {
    struct queue **at = queues_bucket(q->name);

    if (q->name.len == 0)
        return;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    free((void *)(uintptr_t)q->name.data);
    q->name = (struct slice){0};
}

void queues_free(struct queue *q) {
    queues_unname(q);
    queues_count--;
    free(q);
}
