/* procs.c - what has a name or pid here, and which remote processes watch it. */
#include "config.h"

#include "procs.h"

#include <stdlib.h>

enum { PROCS_TABLE = 256 };

static struct {
    pthread_mutex_t lock; /* guards all below */
    void (*release)(void *object);
    struct proc *procs;
    _Atomic int n_procs;
    struct watch *watches[PROCS_TABLE];
    _Atomic size_t n_watches;
} procs = {.lock = PTHREAD_MUTEX_INITIALIZER};

void procs_init(void (*release)(void *object)) {
    procs.release = release;
}

int procs_count(void) {
    return atomic_load(&procs.n_procs);
}

bool procs_watched(void) {
    return atomic_load(&procs.n_watches) > 0;
}

bool procs_register(const char *name, void *object) {
    struct proc *p = xcalloc(1, sizeof *p), *other;

    p->name = xstrdup(name);
    p->object = object;
    atomic_store(&p->refs, 1);
    request_new_pid(&p->id, &p->serial);
    pthread_mutex_lock(&procs.lock);
    for (other = procs.procs; other; other = other->next)
        if (strcmp(other->name, name) == 0)
            break;
    if (!other) {
        p->next = procs.procs;
        procs.procs = p;
        atomic_fetch_add(&procs.n_procs, 1);
    }
    pthread_mutex_unlock(&procs.lock);
    if (other) {
        free(p->name);
        free(p);
    }
    return !other;
}

struct proc *procs_unregister(const char *name) {
    struct proc **at, *p;

    pthread_mutex_lock(&procs.lock);
    for (at = &procs.procs; *at; at = &(*at)->next)
        if (strcmp((*at)->name, name) == 0)
            break;
    p = *at;
    if (p) {
        *at = p->next;
        atomic_fetch_sub(&procs.n_procs, 1);
    }
    pthread_mutex_unlock(&procs.lock);
    return p;
}

struct proc *procs_find_name(struct slice name) {
    struct proc *p;

    if (procs_count() == 0)
        return NULL;
    pthread_mutex_lock(&procs.lock);
    for (p = procs.procs; p; p = p->next)
        if (etf_atom_is(name, p->name))
            break;
    if (p)
        atomic_fetch_add(&p->refs, 1);
    pthread_mutex_unlock(&procs.lock);
    return p;
}

struct proc *procs_find_pid(uint32_t id, uint32_t serial) {
    struct proc *p;

    pthread_mutex_lock(&procs.lock);
    for (p = procs.procs; p; p = p->next)
        if (p->id == id && p->serial == serial)
            break;
    if (p)
        atomic_fetch_add(&p->refs, 1);
    pthread_mutex_unlock(&procs.lock);
    return p;
}

void proc_unref(struct proc *p) {
    if (atomic_fetch_sub(&p->refs, 1) > 1)
        return;
    procs.release(p->object);
    free(p->name);
    free(p);
}

static struct watch **procs_bucket(struct slice to) {
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < to.len; i++)
        h = (h ^ to.data[i]) * 16777619u;
    return &procs.watches[h % PROCS_TABLE];
}

/* Copies s to *at and moves *at on. */
static struct slice procs_keep(struct slice s, uint8_t **at) {
    struct slice kept = {*at, s.len};

    if (s.len > 0)
        memcpy(*at, s.data, s.len);
    *at += s.len;
    return kept;
}

void procs_watch(struct conn *conn, struct slice from, struct slice to, struct slice ref) {
    struct watch *w = xmalloc(sizeof *w + from.len + to.len + ref.len), **bucket;
    uint8_t *at = w->bytes;

    w->conn = conn;
    w->link = ref.len == 0;
    w->from = procs_keep(from, &at);
    w->to = procs_keep(to, &at);
    w->ref = procs_keep(ref, &at);
    pthread_mutex_lock(&procs.lock);
    bucket = procs_bucket(to);
    w->next = *bucket;
    *bucket = w;
    atomic_fetch_add(&procs.n_watches, 1);
    pthread_mutex_unlock(&procs.lock);
}

bool procs_unwatch(const struct conn *conn, struct slice from, struct slice to, struct slice ref) {
    struct watch **at, *w;

    if (atomic_load(&procs.n_watches) == 0)
        return false;
    pthread_mutex_lock(&procs.lock);
    for (at = procs_bucket(to); (w = *at); at = &w->next)
        if (w->conn == conn && slice_equal(w->to, to) && slice_equal(w->from, from) &&
            slice_equal(w->ref, ref)) {
            *at = w->next;
            atomic_fetch_sub(&procs.n_watches, 1);
            break;
        }
    pthread_mutex_unlock(&procs.lock);
    free(w);
    return w != NULL;
}

/* Moves the watches that match out of a bucket into a list. */
static struct watch *procs_take_locked(struct watch **bucket, const struct conn *conn,
                                       const struct slice *to, struct watch *list) {
    struct watch **at = bucket, *w;

    while ((w = *at)) {
        if ((conn && w->conn == conn) || (to && slice_equal(w->to, *to))) {
            *at = w->next;
            w->next = list;
            list = w;
            atomic_fetch_sub(&procs.n_watches, 1);
        } else {
            at = &w->next;
        }
    }
    return list;
}

struct watch *procs_end(struct slice to) {
    struct watch *list;

    if (atomic_load(&procs.n_watches) == 0)
        return NULL;
    pthread_mutex_lock(&procs.lock);
    list = procs_take_locked(procs_bucket(to), NULL, &to, NULL);
    pthread_mutex_unlock(&procs.lock);
    return list;
}

int procs_forget_conn(const struct conn *conn) {
    struct watch *list = NULL, *next;
    int n = 0;

    pthread_mutex_lock(&procs.lock);
    for (int i = 0; i < PROCS_TABLE; i++)
        list = procs_take_locked(&procs.watches[i], conn, NULL, list);
    pthread_mutex_unlock(&procs.lock);
    for (; list; list = next, n++) {
        next = list->next;
        free(list);
    }
    return n;
}
