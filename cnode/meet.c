/* meet.c - who yields when two nodes connect to each other at once. */
#include "config.h"

#include "meet.h"
#include "clock.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

enum {
    MEET_PATIENCE_MS = 2000, /* an incoming handshake that takes longer holds up nobody */
};

static struct {
    const char *self;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t ended;
    struct meet *list;
} meet = {.lock = PTHREAD_MUTEX_INITIALIZER};

void meet_init(const char *self) {
    pthread_condattr_t attr;

    meet.self = self;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&meet.ended, &attr);
    pthread_condattr_destroy(&attr);
}

static int64_t meet_expiry(const struct meet *m) {
    return m->ours ? INT64_MAX : m->since + (int64_t)MEET_PATIENCE_MS * 1000000;
}

/* Another attempt with the peer that m has to respect, or NULL. */
static struct meet *meet_other_locked(const struct meet *m, const char *peer, bool ours) {
    int64_t now = clock_now();

    for (struct meet *other = meet.list; other; other = other->next)
        if (other != m && other->ours == ours && strcmp(other->peer, peer) == 0 &&
            meet_expiry(other) > now)
            return other;
    return NULL;
}

static void meet_enter_locked(struct meet *m, const char *peer, bool ours) {
    *m = (struct meet){.next = meet.list, .peer = peer, .ours = ours, .since = clock_now()};
    meet.list = m;
}

/* Sleeps until some attempt ends, or until a time. */
static void meet_sleep_locked(int64_t until) {
    struct timespec t = {until / 1000000000, until % 1000000000};

    if (until == INT64_MAX)
        pthread_cond_wait(&meet.ended, &meet.lock);
    else
        pthread_cond_timedwait(&meet.ended, &meet.lock, &t);
}

bool meet_plan(struct meet *m, const char *peer) {
    struct meet *other;
    bool waited = false;

    pthread_mutex_lock(&meet.lock);
    while ((other = meet_other_locked(NULL, peer, true)) ||
           (other = meet_other_locked(NULL, peer, false))) {
        waited = true;
        meet_sleep_locked(meet_expiry(other));
    }
    m->peer = NULL;
    if (!waited)
        meet_enter_locked(m, peer, true);
    pthread_mutex_unlock(&meet.lock);
    return !waited;
}

bool meet_dial(struct meet *m) {
    pthread_mutex_lock(&meet.lock);
    m->dialing = !meet_other_locked(m, m->peer, false);
    pthread_mutex_unlock(&meet.lock);
    return m->dialing;
}

enum meet_status meet_greet(struct meet *m, const char *peer) {
    enum meet_status status = MEET_OK;
    struct meet *ours;

    pthread_mutex_lock(&meet.lock);
    ours = meet_other_locked(m, peer, true);
    if (ours && ours->dialing)
        status = strcmp(meet.self, peer) > 0 ? MEET_NOK : MEET_OK_SIMULTANEOUS;
    m->peer = NULL;
    if (status != MEET_NOK)
        meet_enter_locked(m, peer, false);
    pthread_mutex_unlock(&meet.lock);
    return status;
}

void meet_wait(const char *peer) {
    struct meet *other;

    pthread_mutex_lock(&meet.lock);
    while ((other = meet_other_locked(NULL, peer, false)))
        meet_sleep_locked(meet_expiry(other));
    pthread_mutex_unlock(&meet.lock);
}

void meet_end(struct meet *m) {
    struct meet **at = &meet.list;

    if (!m->peer)
        return;
    pthread_mutex_lock(&meet.lock);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    m->peer = NULL;
    pthread_cond_broadcast(&meet.ended);
    pthread_mutex_unlock(&meet.lock);
}
