/* ids.c - remembered ids: a call of the application that is sent twice under one id runs once. */
#include "config.h"

#include "ids.h"
#include "conn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    IDS_BUCKETS = 1024,         /* a power of two */
    IDS_BYTES_MAX = 16 << 20,   /* of all that is remembered */
    IDS_RESULT_MAX = 1 << 20,   /* of one result; a longer one is not */
    IDS_WAITING_MAX = 16,       /* who wait for one request, */
    IDS_ALL_WAITING_MAX = 1024, /* and for all */
};

#define IDS_KEEP_NS ((int64_t)600 * 1000000000)

struct ids_list {
    struct ids_entry *head, *tail;
};

struct ids_entry {
    struct ids_entry *bucket_next;
    struct ids_entry *next, *prev; /* among those that run, or those that have ended */
    struct request *first; /* borrowed: ids_end() comes before its end; NULL: it has ended */
    struct request *waiting, **waiting_end;
    int n_waiting;
    bool forgotten; /* not in the table: it only belongs to its request */
    bool started;   /* the application has been told that it runs */
    bool unheard;   /* its own caller is not to be answered */
    int64_t until;  /* when it is forgotten, once it has ended */
    uint8_t *result;
    size_t result_len;
    uint8_t len, id[IDS_LENGTH_MAX];
};

static struct {
    size_t limit;
    pthread_mutex_t lock; /* guards all below */
    struct ids_entry *table[IDS_BUCKETS];
    struct ids_list running, ended; /* these in the order of their ends */
    size_t n;                       /* in the table */
    size_t bytes;                   /* of results */
    _Atomic int n_waiting;          /* in all; read without the lock */
} ids = {.lock = PTHREAD_MUTEX_INITIALIZER};

void ids_init(size_t limit) {
    ids.limit = limit;
}

/* Lists. */

static void ids_append(struct ids_list *list, struct ids_entry *e) {
    e->next = NULL;
    e->prev = list->tail;
    *(list->tail ? &list->tail->next : &list->head) = e;
    list->tail = e;
}

static void ids_remove(struct ids_list *list, struct ids_entry *e) {
    *(e->prev ? &e->prev->next : &list->head) = e->next;
    *(e->next ? &e->next->prev : &list->tail) = e->prev;
}

static void ids_append_waiting(struct ids_entry *e, struct request *r) {
    r->next = NULL;
    *e->waiting_end = r;
    e->waiting_end = &r->next;
    e->n_waiting++;
    atomic_fetch_add(&ids.n_waiting, 1);
}

static struct request *ids_remove_waiting(struct ids_entry *e, struct request **at) {
    struct request *r = *at;

    *at = r->next;
    if (!*at)
        e->waiting_end = at;
    r->next = NULL;
    e->n_waiting--;
    atomic_fetch_sub(&ids.n_waiting, 1);
    return r;
}

/* The table. */

static struct ids_entry **ids_bucket(struct slice id) {
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < id.len; i++)
        h = (h ^ id.data[i]) * 16777619u;
    return &ids.table[(h ^ h >> 15) & (IDS_BUCKETS - 1)];
}

static struct slice ids_id(const struct ids_entry *e) {
    return (struct slice){e->id, e->len};
}

static struct ids_entry *ids_find(struct slice id) {
    struct ids_entry *e = *ids_bucket(id);

    while (e && !slice_equal(ids_id(e), id))
        e = e->bucket_next;
    return e;
}

static void ids_take_out(struct ids_entry *e) {
    struct ids_entry **at = ids_bucket(ids_id(e));

    while (*at != e)
        at = &(*at)->bucket_next;
    *at = e->bucket_next;
    e->forgotten = true;
    ids.n--;
}

/* Forgets one that has ended. */
static void ids_drop(struct ids_entry *e) {
    ids_take_out(e);
    ids_remove(&ids.ended, e);
    ids.bytes -= e->result_len;
    free(e->result);
    free(e);
}

static void ids_drop_old(int64_t now) {
    while (ids.ended.head && ids.ended.head->until <= now)
        ids_drop(ids.ended.head);
}

void ids_sweep(int64_t now) {
    pthread_mutex_lock(&ids.lock);
    ids_drop_old(now);
    pthread_mutex_unlock(&ids.lock);
}

/* Meeting. */

/* r is the first with its id. If as many run as may be remembered it is not. */
static void ids_add(struct request *r, int64_t now) {
    struct slice id = r->options.id;
    struct ids_entry **bucket = ids_bucket(id), *e;

    ids_drop_old(now);
    if (ids.n >= ids.limit && ids.ended.head)
        ids_drop(ids.ended.head);
    if (ids.n >= ids.limit)
        return;
    e = xcalloc(1, sizeof *e);
    e->first = r;
    e->waiting_end = &e->waiting;
    e->len = (uint8_t)id.len;
    memcpy(e->id, id.data, id.len);
    e->bucket_next = *bucket;
    *bucket = e;
    ids.n++;
    ids_append(&ids.running, e);
    r->id = e;
}

static enum ids_meeting ids_join(struct ids_entry *e, struct request *r, ids_started_cb *started) {
    if (e->n_waiting >= IDS_WAITING_MAX || atomic_load(&ids.n_waiting) >= IDS_ALL_WAITING_MAX)
        return IDS_FULL;
    ids_append_waiting(e, r);
    if (e->started) {
        r->reported = true;
        started(r);
    }
    return IDS_WAITS;
}

enum ids_meeting ids_meet(struct request *r, int64_t now, struct buf *result,
                          ids_started_cb *started) {
    enum ids_meeting meeting = IDS_NEW;
    struct ids_entry *e;

    if (ids.limit == 0)
        return IDS_NEW;
    pthread_mutex_lock(&ids.lock);
    e = ids_find(r->options.id);
    if (e && !e->first && e->until <= now) {
        ids_drop(e);
        e = NULL;
    }
    if (!e) {
        ids_add(r, now);
    } else if (e->first) {
        meeting = ids_join(e, r, started);
    } else {
        buf_put(result, e->result, e->result_len);
        meeting = IDS_ENDED;
    }
    pthread_mutex_unlock(&ids.lock);
    return meeting;
}

/* The first one. */

bool ids_start(struct ids_entry *e, ids_started_cb *started) {
    bool heard;

    pthread_mutex_lock(&ids.lock);
    e->started = true;
    for (struct request *r = e->waiting; r; r = r->next) {
        r->reported = true;
        started(r);
    }
    heard = !e->unheard;
    pthread_mutex_unlock(&ids.lock);
    return heard;
}

bool ids_leave(struct ids_entry *e) {
    bool goes_on;

    pthread_mutex_lock(&ids.lock);
    goes_on = e->waiting;
    e->unheard = e->unheard || goes_on;
    pthread_mutex_unlock(&ids.lock);
    return goes_on;
}

void ids_unhear(struct ids_entry *e) {
    pthread_mutex_lock(&ids.lock);
    e->unheard = true;
    pthread_mutex_unlock(&ids.lock);
}

void ids_forget(struct ids_entry *e) {
    pthread_mutex_lock(&ids.lock);
    if (!e->forgotten)
        ids_take_out(e);
    pthread_mutex_unlock(&ids.lock);
}

/* Puts e among those that have ended. Takes result. */
static void ids_keep(struct ids_entry *e, uint8_t *result, size_t len, int64_t now) {
    e->result = result;
    e->result_len = len;
    e->until = now + IDS_KEEP_NS;
    ids.bytes += len;
    ids_append(&ids.ended, e);
    while (ids.bytes > IDS_BYTES_MAX)
        ids_drop(ids.ended.head);
}

struct request *ids_end(struct request *r, struct slice result, bool keep, int64_t now,
                        bool *heard) {
    bool fits = keep && result.len > 0 && result.len <= IDS_RESULT_MAX;
    uint8_t *copy = fits ? malloc(result.len) : NULL;
    struct ids_entry *e = r->id;
    struct request *waiting;

    if (copy)
        memcpy(copy, result.data, result.len);
    pthread_mutex_lock(&ids.lock);
    waiting = e->waiting;
    atomic_fetch_sub(&ids.n_waiting, e->n_waiting);
    e->waiting = NULL;
    e->n_waiting = 0;
    e->first = NULL;
    *heard = !e->unheard;
    ids_remove(&ids.running, e);
    if (copy && !e->forgotten) {
        ids_keep(e, copy, result.len, now);
        copy = NULL;
    } else {
        if (!e->forgotten)
            ids_take_out(e);
        free(e);
    }
    pthread_mutex_unlock(&ids.lock);
    free(copy);
    r->id = NULL;
    return waiting;
}

/* Those who wait. */

static void ids_name_first(const struct ids_entry *e, struct ids_first *first) {
    first->conn = conn_ref(e->first->conn);
    buf_put(&first->ref, e->first->ref.data, e->first->ref.len);
}

struct request *ids_withdraw(const struct conn *conn, struct slice ref, struct ids_first *first) {
    struct request *found = NULL;

    *first = (struct ids_first){0};
    if (atomic_load(&ids.n_waiting) == 0)
        return NULL;
    pthread_mutex_lock(&ids.lock);
    for (struct ids_entry *e = ids.running.head; e && !found; e = e->next) {
        struct request **at = &e->waiting;

        while (*at && ((*at)->conn != conn || !slice_equal((*at)->ref, ref)))
            at = &(*at)->next;
        if (*at)
            found = ids_remove_waiting(e, at);
        if (found && !e->waiting && e->unheard)
            ids_name_first(e, first);
    }
    pthread_mutex_unlock(&ids.lock);
    return found;
}

struct request *ids_closed(const struct conn *conn) {
    struct request *found = NULL;

    if (atomic_load(&ids.n_waiting) == 0)
        return NULL;
    pthread_mutex_lock(&ids.lock);
    for (struct ids_entry *e = ids.running.head; e; e = e->next) {
        struct request **at = &e->waiting;

        while (*at) {
            struct request *r;

            if ((*at)->conn != conn) {
                at = &(*at)->next;
                continue;
            }
            r = ids_remove_waiting(e, at);
            r->next = found;
            found = r;
        }
    }
    pthread_mutex_unlock(&ids.lock);
    return found;
}
