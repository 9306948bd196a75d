/* channels.c - all channels: their names, the pool of those that no thread has, and the tick. */
#include "config.h"

#include "channels.h"
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    CHANNELS_NAME_MS = 2000,     /* a name that has just been given up is not taken again */
    CHANNELS_KEEP_SECONDS = 300, /* an unused channel stays in the pool */
    CHANNELS_REFUSED_MS = 1000,  /* a node that took no connection is not asked again */
    CHANNELS_PEERS = 8,
};

struct channels_name {
    bool taken;
    int64_t freed;
};

struct channels_peer {
    char *name;
    int64_t refused;
};

static struct {
    char *alive, *host;
    channels_connect_cb *connect;
    int max;

    pthread_mutex_t lock; /* guards all below, and that no descriptor is closed meanwhile */
    struct channel *list;
    struct channel *pool; /* the latest to be given back is the first */
    int n, n_pooled;
    struct channels_name *names;
    struct channels_peer peers[CHANNELS_PEERS]; /* that took no connection */
    int oldest_peer;
} channels = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* fork(2): the child closes its copies, so that peers see a channel go when the node does. */

static void channels_before_fork(void) {
    pthread_mutex_lock(&channels.lock);
}

static void channels_after_fork(void) {
    pthread_mutex_unlock(&channels.lock);
}

static void channels_in_child(void) {
    for (struct channel *ch = channels.list; ch; ch = ch->next)
        close(ch->conn->fd);
    pthread_mutex_unlock(&channels.lock);
}

void channels_init(const char *node, channels_connect_cb *connect, int max) {
    channels.alive = xstrdup(node);
    channels.host = strchr(channels.alive, '@');
    *channels.host++ = '\0';
    channels.connect = connect;
    channels.max = max;
    channels.names = xcalloc((size_t)max + 1, sizeof *channels.names);
    pthread_atfork(channels_before_fork, channels_after_fork, channels_in_child);
}

void channels_count(int *all, int *pooled) {
    pthread_mutex_lock(&channels.lock);
    *all = channels.n;
    *pooled = channels.n_pooled;
    pthread_mutex_unlock(&channels.lock);
}

void channels_interrupt(unsigned long thread) {
    pthread_mutex_lock(&channels.lock);
    for (struct channel *ch = channels.list; ch; ch = ch->next)
        if (ch->thread == thread && atomic_load(&ch->calling))
            channel_stop(ch);
    pthread_mutex_unlock(&channels.lock);
}

/* The pool. */

/* The smallest number that is free, and has been for a moment: the peer may not have seen yet that
 * the connection of that name has gone. */
static int channels_number_locked(void) {
    int64_t now = clock_now(), freed = INT64_MAX;
    int oldest = 0;

    for (int i = 1; i <= channels.max; i++) {
        const struct channels_name *name = &channels.names[i];

        if (name->taken)
            continue;
        if (name->freed == 0 || now - name->freed > (int64_t)CHANNELS_NAME_MS * 1000000)
            return i;
        if (name->freed < freed) {
            freed = name->freed;
            oldest = i;
        }
    }
    return oldest;
}

static void channels_free_number_locked(int number) {
    channels.names[number] = (struct channels_name){.freed = clock_now()};
    channels.n--;
}

/* Under the lock, which keeps others from its descriptor. */
static void channels_close_locked(struct channel *ch) {
    *ch->at = ch->next;
    if (ch->next)
        ch->next->at = ch->at;
    channels_free_number_locked(ch->number);
    channel_free(ch);
}

/* Takes the first in the pool that is connected to peer, or with other the last that is not: those
 * have been unused for the longest. */
static struct channel *channels_from_pool_locked(const char *peer, bool other) {
    struct channel **found = NULL, *ch;

    for (struct channel **at = &channels.pool; *at; at = &(*at)->pooled)
        if ((strcmp((*at)->conn->peer, peer) == 0) != other) {
            found = at;
            if (!other)
                break;
        }
    if (!found)
        return NULL;
    ch = *found;
    *found = ch->pooled;
    channels.n_pooled--;
    return ch;
}

static bool channels_is_refused_locked(const char *peer) {
    for (int i = 0; i < CHANNELS_PEERS; i++) {
        const struct channels_peer *p = &channels.peers[i];

        if (p->name && strcmp(p->name, peer) == 0)
            return clock_now() - p->refused < (int64_t)CHANNELS_REFUSED_MS * 1000000;
    }
    return false;
}

static void channels_set_refused(const char *peer) {
    struct channels_peer *p = NULL;

    pthread_mutex_lock(&channels.lock);
    for (int i = 0; i < CHANNELS_PEERS && !p; i++)
        if (channels.peers[i].name && strcmp(channels.peers[i].name, peer) == 0)
            p = &channels.peers[i];
    if (!p) {
        p = &channels.peers[channels.oldest_peer++ % CHANNELS_PEERS];
        free(p->name);
        p->name = xstrdup(peer);
    }
    p->refused = clock_now();
    pthread_mutex_unlock(&channels.lock);
}

/* Connects under the name with that number, which is the caller's. */
static struct channel *channels_connect(int number, const char *peer, unsigned long thread,
                                        int64_t deadline, struct err *e) {
    char alive[300], name[512];
    uint32_t creation = 0;
    struct channel *ch = NULL;
    int fd;

    if (getrandom(&creation, sizeof creation, 0) != sizeof creation)
        creation = (uint32_t)clock_now();
    snprintf(alive, sizeof alive, "%s-thread-%d", channels.alive, number);
    snprintf(name, sizeof name, "%s@%s", alive, channels.host);
    fd = channels.connect(alive, creation, peer, deadline, e);
    if (fd >= 0)
        ch = channel_new(name, number, creation, fd, peer, thread);
    pthread_mutex_lock(&channels.lock);
    if (ch) {
        ch->next = channels.list;
        ch->at = &channels.list;
        if (ch->next)
            ch->next->at = &ch->next;
        channels.list = ch;
    } else {
        channels_free_number_locked(number);
    }
    pthread_mutex_unlock(&channels.lock);
    if (!ch && (deadline == 0 || clock_now() < deadline)) /* else it had no time */
        channels_set_refused(peer);
    return ch;
}

/* Out of the pool, or the number for a new one: NULL and 0 when neither is to be had. */
static struct channel *channels_reserve(const char *peer, unsigned long thread, bool force,
                                        int *number) {
    struct channel *ch, *other = NULL;
    bool may;

    *number = 0;
    pthread_mutex_lock(&channels.lock);
    ch = channels_from_pool_locked(peer, false);
    if (ch)
        ch->thread = thread;
    may = !ch && (force || !channels_is_refused_locked(peer));
    if (may && channels.n >= channels.max && (other = channels_from_pool_locked(peer, true)))
        channels_close_locked(other); /* the tick is not at it: it has the lock meanwhile */
    if (may && channels.n < channels.max) {
        *number = channels_number_locked();
        channels.names[*number].taken = true;
        channels.n++;
    }
    pthread_mutex_unlock(&channels.lock);
    return ch;
}

struct channel *channels_take(const char *peer, unsigned long thread, bool force, int64_t deadline,
                              struct err *e) {
    struct channel *ch;
    int number;

    while ((ch = channels_reserve(peer, thread, force, &number)) && !channel_is_alive(ch))
        channels_give(ch);
    if (ch)
        return ch;
    if (number == 0) {
        err_set(e, EX_TEMPFAIL, "node: no connection of its own to %s for this thread", peer);
        return NULL;
    }
    return channels_connect(number, peer, thread, deadline, e);
}

void channels_give(struct channel *ch) {
    channel_start_reading(ch);
    pthread_mutex_lock(&channels.lock);
    ch->thread = 0;
    if (ch->broken) {
        channels_close_locked(ch);
    } else {
        ch->pooled = channels.pool;
        channels.pool = ch;
        channels.n_pooled++;
        channel_stop_reading(ch);
    }
    pthread_mutex_unlock(&channels.lock);
}

/* Closes what is dead or unused in the pool. */
static void channels_sweep_locked(int64_t now) {
    struct channel **at = &channels.pool, *ch;

    while ((ch = *at)) {
        if (!ch->broken && now - ch->used < (int64_t)CHANNELS_KEEP_SECONDS * 1000000000) {
            at = &ch->pooled;
            continue;
        }
        *at = ch->pooled;
        channels.n_pooled--;
        channels_close_locked(ch);
    }
}

void channels_tick(void) {
    pthread_mutex_lock(&channels.lock);
    for (struct channel *ch = channels.list; ch; ch = ch->next)
        channel_tick(ch);
    channels_sweep_locked(clock_now());
    pthread_mutex_unlock(&channels.lock);
}
