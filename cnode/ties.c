/* ties.c - the monitors that processes of ours have made, until they end. */
#include "config.h"

#include "ties.h"

#include <stdlib.h>

enum { TIES_TABLE = 256 };

static struct {
    pthread_mutex_t lock; /* guards the table */
    struct tie *table[TIES_TABLE];
    _Atomic size_t n;
} ties = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct tie **ties_bucket(uint32_t id) {
    return &ties.table[id % TIES_TABLE];
}

void ties_add(uint32_t id, uint32_t serial, struct conn *conn, struct slice to, struct slice ref) {
    struct tie *t = xmalloc(sizeof *t + to.len + ref.len), **bucket = ties_bucket(id);

    *t = (struct tie){.id = id, .serial = serial, .conn = conn};
    t->to = (struct slice){t->bytes, to.len};
    t->ref = (struct slice){t->bytes + to.len, ref.len};
    memcpy(t->bytes, to.data, to.len);
    memcpy(t->bytes + to.len, ref.data, ref.len);
    pthread_mutex_lock(&ties.lock);
    t->next = *bucket;
    *bucket = t;
    atomic_fetch_add(&ties.n, 1);
    pthread_mutex_unlock(&ties.lock);
}

/* Moves those that match out of a bucket into a list: of the process, with that reference unless
 * ref is NULL; or of the connection. */
static struct tie *ties_take_locked(struct tie **at, const struct conn *conn, uint32_t id,
                                    uint32_t serial, const struct slice *ref, struct tie *list) {
    struct tie *t;

    while ((t = *at)) {
        bool found =
            conn ? t->conn == conn
                 : t->id == id && t->serial == serial && (!ref || slice_equal(t->ref, *ref));

        if (!found) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        t->next = list;
        list = t;
        atomic_fetch_sub(&ties.n, 1);
    }
    return list;
}

static struct tie *ties_take_of(uint32_t id, uint32_t serial, const struct slice *ref) {
    struct tie *list;

    if (atomic_load(&ties.n) == 0)
        return NULL;
    pthread_mutex_lock(&ties.lock);
    list = ties_take_locked(ties_bucket(id), NULL, id, serial, ref, NULL);
    pthread_mutex_unlock(&ties.lock);
    return list;
}

struct tie *ties_take(uint32_t id, uint32_t serial, struct slice ref) {
    return ties_take_of(id, serial, &ref);
}

struct tie *ties_take_all(uint32_t id, uint32_t serial) {
    return ties_take_of(id, serial, NULL);
}

struct tie *ties_take_conn(const struct conn *conn) {
    struct tie *list = NULL;

    if (atomic_load(&ties.n) == 0)
        return NULL;
    pthread_mutex_lock(&ties.lock);
    for (int i = 0; i < TIES_TABLE; i++)
        list = ties_take_locked(&ties.table[i], conn, 0, 0, NULL, list);
    pthread_mutex_unlock(&ties.lock);
    return list;
}
