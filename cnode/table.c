/* table.c - every request that has not ended, by the reference that cancels it. */
#include "config.h"

#include "table.h"

enum { TABLE_BUCKETS = 32768 }; /* a power of two */

static struct request *table[TABLE_BUCKETS];
static struct request *table_all; /* the latest first */

static struct request **table_bucket(struct slice ref) {
    uint32_t h = 2166136261u;
    size_t from = ref.len > 20 ? ref.len - 20 : 0; /* its numbers; the node name before is alike */

    for (size_t i = from; i < ref.len; i++)
        h = (h ^ ref.data[i]) * 16777619u;
    return &table[(h ^ h >> 15) & (TABLE_BUCKETS - 1)];
}

/* What cannot be cancelled by a reference is spread by its address: thousands of casts in one
 * bucket would make each removal a walk through all of them. */
static struct request **table_bucket_of(const struct request *r) {
    return r->ref.len > 0 ? table_bucket(r->ref)
                          : table_bucket((struct slice){(const uint8_t *)&r, sizeof r});
}

void table_add(struct request *r) {
    struct request **bucket = table_bucket_of(r);

    r->table_next = *bucket;
    *bucket = r;
    r->all_prev = NULL;
    r->all_next = table_all;
    if (table_all)
        table_all->all_prev = r;
    table_all = r;
}

void table_remove(struct request *r) {
    struct request **at = table_bucket_of(r);

    while (*at != r)
        at = &(*at)->table_next;
    *at = r->table_next;
    *(r->all_prev ? &r->all_prev->all_next : &table_all) = r->all_next;
    if (r->all_next)
        r->all_next->all_prev = r->all_prev;
}

struct request *table_find(const struct conn *conn, struct slice ref) {
    struct request *r = *table_bucket(ref);

    while (r && (r->conn != conn || !slice_equal(r->ref, ref)))
        r = r->table_next;
    return r;
}

struct request *table_step(struct table_walk *walk) {
    struct request *r = walk->begun ? walk->next : table_all;

    walk->begun = true;
    walk->next = r ? r->all_next : NULL;
    return r;
}

struct request *table_find_pid(uint32_t id, uint32_t serial) {
    struct table_walk walk = {0};
    struct request *r;

    if (id == 0)
        return NULL;
    while ((r = table_step(&walk)) && (r->pid_id != id || r->pid_serial != serial))
        ;
    return r;
}
