/* procs.c - what has a name or pid here, and which processes watch it. */
#include "config.h"

#include "procs.h"
#include "mailbox.h"

#include <stdlib.h>

enum { PROCS_TABLE = 256 };

static struct {
    pthread_mutex_t lock; /* guards all below */
    void (*release)(void *object);
    struct proc *by_id[PROCS_TABLE];
    struct proc *by_name[PROCS_TABLE];
    _Atomic int n_names, n_processes;
    struct watch *watches[PROCS_TABLE];
    _Atomic size_t n_watches;
} procs = {.lock = PTHREAD_MUTEX_INITIALIZER};

void procs_init(void (*release)(void *object)) {
    procs.release = release;
}

int procs_count(void) {
    return atomic_load(&procs.n_names);
}

int procs_processes(void) {
    return atomic_load_explicit(&procs.n_processes, memory_order_relaxed);
}

bool procs_watched(void) {
    return atomic_load(&procs.n_watches) > 0;
}

static uint32_t procs_hash(const uint8_t *data, size_t len) {
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ data[i]) * 16777619u;
    return h % PROCS_TABLE;
}

/* Names. */

static struct proc **procs_find_name_locked(const char *name, size_t len) {
    struct proc **at = &procs.by_name[procs_hash((const uint8_t *)name, len)];

    while (*at && (strlen((*at)->name) != len || memcmp((*at)->name, name, len) != 0))
        at = &(*at)->name_next;
    return at;
}

/* Whether the name was free; p has it then. */
static bool procs_set_name_locked(struct proc *p, char *name) {
    struct proc **at = procs_find_name_locked(name, strlen(name));

    if (*at)
        return false;
    *at = p;
    p->name = name;
    p->name_next = NULL;
    atomic_fetch_add(&procs.n_names, 1);
    return true;
}

static void procs_remove_name_locked(struct proc *p) {
    struct proc **at = procs_find_name_locked(p->name, strlen(p->name));

    *at = p->name_next;
    atomic_fetch_sub(&procs.n_names, 1);
}

/* Pids. */

static struct proc **procs_find_id_locked(uint32_t id, uint32_t serial) {
    struct proc **at = &procs.by_id[id % PROCS_TABLE];

    while (*at && ((*at)->id != id || (*at)->serial != serial))
        at = &(*at)->next;
    return at;
}

static void procs_add_locked(struct proc *p) {
    struct proc **at = &procs.by_id[p->id % PROCS_TABLE];

    p->next = *at;
    *at = p;
    atomic_fetch_add(&procs.n_processes, p->mailbox != NULL);
}

/* Whether it was there; the table's reference is the caller's then. */
static bool procs_remove_locked(struct proc *p) {
    struct proc **at = procs_find_id_locked(p->id, p->serial);

    if (*at != p)
        return false;
    *at = p->next;
    if (p->name)
        procs_remove_name_locked(p);
    atomic_fetch_sub(&procs.n_processes, p->mailbox != NULL);
    return true;
}

static struct proc *procs_ref(struct proc *p) {
    if (p)
        atomic_fetch_add(&p->refs, 1);
    return p;
}

static struct proc *procs_new(void *object) {
    struct proc *p = xcalloc(1, sizeof *p);

    p->object = object;
    p->mailbox = object ? NULL : mailbox_new();
    atomic_store(&p->refs, 1);
    return p;
}

static void procs_free(struct proc *p) {
    if (p->mailbox)
        mailbox_free(p->mailbox);
    free(p->name);
    free(p);
}

bool procs_register(const char *name, void *object) {
    struct proc *p = procs_new(object);
    char *own = xstrdup(name);
    bool named;

    request_new_pid(&p->id, &p->serial);
    pthread_mutex_lock(&procs.lock);
    named = procs_set_name_locked(p, own);
    if (named)
        procs_add_locked(p);
    pthread_mutex_unlock(&procs.lock);
    if (!named) {
        free(own);
        procs_free(p);
    }
    return named;
}

struct proc *procs_unregister(const char *name) {
    char *freed = NULL;
    struct proc *p;

    pthread_mutex_lock(&procs.lock);
    p = *procs_find_name_locked(name, strlen(name));
    if (p && p->mailbox) { /* the process lives on */
        procs_remove_name_locked(p);
        freed = p->name;
        p->name = NULL;
        procs_ref(p);
    } else if (p) {
        procs_remove_locked(p);
    }
    pthread_mutex_unlock(&procs.lock);
    free(freed);
    return p;
}

struct proc *procs_spawn(uint32_t id, uint32_t serial) {
    struct proc *p = procs_new(NULL), *other = NULL;

    if (id == 0)
        request_new_pid(&id, &serial);
    p->id = id;
    p->serial = serial;
    pthread_mutex_lock(&procs.lock);
    other = procs_ref(*procs_find_id_locked(id, serial));
    if (!other) {
        procs_add_locked(p);
        procs_ref(p);
    }
    pthread_mutex_unlock(&procs.lock);
    if (!other)
        return p;
    procs_free(p);
    return other;
}

bool procs_set_name(struct proc *p, const char *name) {
    char *own = xstrdup(name);
    bool named;

    pthread_mutex_lock(&procs.lock);
    named =
        !p->name && *procs_find_id_locked(p->id, p->serial) == p && procs_set_name_locked(p, own);
    pthread_mutex_unlock(&procs.lock);
    if (!named)
        free(own);
    return named;
}

bool procs_put_name(struct proc *p, struct buf *out) {
    bool named;

    pthread_mutex_lock(&procs.lock);
    named = p->name;
    if (named)
        etf_put_atom(out, p->name);
    pthread_mutex_unlock(&procs.lock);
    return named;
}

bool procs_remove(struct proc *p) {
    bool removed;

    pthread_mutex_lock(&procs.lock);
    removed = procs_remove_locked(p);
    pthread_mutex_unlock(&procs.lock);
    if (removed)
        proc_unref(p);
    return removed;
}

struct proc *procs_find_name(struct slice name) {
    struct proc *p;

    if (procs_count() == 0)
        return NULL;
    pthread_mutex_lock(&procs.lock);
    p = procs_ref(*procs_find_name_locked((const char *)name.data, name.len));
    pthread_mutex_unlock(&procs.lock);
    return p;
}

struct proc *procs_find_pid(uint32_t id, uint32_t serial) {
    struct proc *p;

    pthread_mutex_lock(&procs.lock);
    p = procs_ref(*procs_find_id_locked(id, serial));
    pthread_mutex_unlock(&procs.lock);
    return p;
}

void proc_unref(struct proc *p) {
    if (atomic_fetch_sub(&p->refs, 1) > 1)
        return;
    if (p->object)
        procs.release(p->object);
    procs_free(p);
}

/* Watches. */

static struct watch **procs_bucket(struct slice to) {
    return &procs.watches[procs_hash(to.data, to.len)];
}

/* Copies s to *at and moves *at on. */
static struct slice procs_keep(struct slice s, uint8_t **at) {
    struct slice kept = {*at, s.len};

    if (s.len > 0)
        memcpy(*at, s.data, s.len);
    *at += s.len;
    return kept;
}

/* Where the watch of conn, from, to and ref is, or would be. */
static struct watch **procs_find_watch_locked(const struct conn *conn, struct slice from,
                                              struct slice to, struct slice ref) {
    struct watch **at = procs_bucket(to);

    while (*at && ((*at)->conn != conn || !slice_equal((*at)->to, to) ||
                   !slice_equal((*at)->from, from) || !slice_equal((*at)->ref, ref)))
        at = &(*at)->next;
    return at;
}

bool procs_watch(struct conn *conn, struct slice from, struct slice to, struct slice ref) {
    struct watch *w = xmalloc(sizeof *w + from.len + to.len + ref.len), **bucket;
    uint8_t *at = w->bytes;
    bool again;

    w->conn = conn;
    w->link = ref.len == 0;
    w->from = procs_keep(from, &at);
    w->to = procs_keep(to, &at);
    w->ref = procs_keep(ref, &at);
    pthread_mutex_lock(&procs.lock);
    again = w->link && *procs_find_watch_locked(conn, from, to, ref);
    if (!again) {
        bucket = procs_bucket(to);
        w->next = *bucket;
        *bucket = w;
        atomic_fetch_add(&procs.n_watches, 1);
    }
    pthread_mutex_unlock(&procs.lock);
    if (again)
        free(w);
    return !again;
}

bool procs_unwatch(const struct conn *conn, struct slice from, struct slice to, struct slice ref) {
    struct watch **at, *w;

    if (atomic_load(&procs.n_watches) == 0)
        return false;
    pthread_mutex_lock(&procs.lock);
    at = procs_find_watch_locked(conn, from, to, ref);
    w = *at;
    if (w) {
        *at = w->next;
        atomic_fetch_sub(&procs.n_watches, 1);
    }
    pthread_mutex_unlock(&procs.lock);
    free(w);
    return w != NULL;
}

/* Moves the watches that match out of a bucket into a list: those of conn, of our own process from,
 * or of what is watched, to. */
static struct watch *procs_take_locked(struct watch **bucket, const struct conn *conn,
                                       const struct slice *from, const struct slice *to,
                                       struct watch *list) {
    struct watch **at = bucket, *w;

    while ((w = *at)) {
        if ((conn && w->conn == conn) || (from && !w->conn && slice_equal(w->from, *from)) ||
            (to && slice_equal(w->to, *to))) {
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
    list = procs_take_locked(procs_bucket(to), NULL, NULL, &to, NULL);
    pthread_mutex_unlock(&procs.lock);
    return list;
}

static struct watch *procs_forget(const struct conn *conn, const struct slice *from) {
    struct watch *list = NULL;

    if (atomic_load(&procs.n_watches) == 0)
        return NULL;
    pthread_mutex_lock(&procs.lock);
    for (int i = 0; i < PROCS_TABLE; i++)
        list = procs_take_locked(&procs.watches[i], conn, from, NULL, list);
    pthread_mutex_unlock(&procs.lock);
    return list;
}

struct watch *procs_forget_conn(const struct conn *conn) {
    return procs_forget(conn, NULL);
}

struct watch *procs_forget_from(struct slice from) {
    return procs_forget(NULL, &from);
}
