/* mailbox.c - the messages that a process of ours has been sent and not received yet. */
#include "config.h"

#include "mailbox.h"
#include "stats.h"

#include <stdlib.h>
#include <time.h>

static struct {
    size_t limit;
    pthread_mutex_t lock; /* guards the list */
    struct mailbox *list; /* those that are waited for */
} mailboxes = {.lock = PTHREAD_MUTEX_INITIALIZER};

void mailbox_init(size_t limit) {
    mailboxes.limit = limit;
}

struct mailbox *mailbox_new(void) {
    struct mailbox *m = xcalloc(1, sizeof *m);

    pthread_mutex_init(&m->lock, NULL);
    sem_init(&m->came, 0, 0);
    m->tail = &m->head;
    return m;
}

void mailbox_free(struct mailbox *m) {
    struct mailbox_message *message;

    while ((message = mailbox_take(m)))
        free(message);
    sem_destroy(&m->came);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static struct mailbox_message *mailbox_message_new(struct slice term) {
    struct mailbox_message *message = malloc(sizeof *message + term.len);

    if (!message)
        return NULL;
    message->next = NULL;
    message->len = term.len;
    memcpy(message->term, term.data, term.len);
    return message;
}

enum mailbox_result mailbox_put(struct mailbox *m, struct slice term, bool sure) {
    struct mailbox_message *message = mailbox_message_new(term);
    bool room, wake, first = false;

    pthread_mutex_lock(&m->lock);
    room = message && (sure || m->len < mailboxes.limit);
    if (room) {
        *m->tail = message;
        m->tail = &message->next;
        m->len++;
    } else {
        first = m->dropped++ == 0;
    }
    wake = room && m->waited;
    if (wake)
        m->waited = false;
    pthread_mutex_unlock(&m->lock);
    if (wake)
        sem_post(&m->came);
    if (room)
        return MAILBOX_TAKEN;
    free(message);
    stats_add(STATS_MAILBOX_DROPPED, 1);
    return first ? MAILBOX_FULL : MAILBOX_STILL_FULL;
}

struct mailbox_message *mailbox_take(struct mailbox *m) {
    struct mailbox_message *message;

    pthread_mutex_lock(&m->lock);
    message = m->head;
    if (message) {
        m->head = message->next;
        m->len--;
    }
    if (!m->head) {
        m->tail = &m->head;
        m->dropped = 0;
    }
    pthread_mutex_unlock(&m->lock);
    return message;
}

size_t mailbox_len(struct mailbox *m) {
    size_t len;

    pthread_mutex_lock(&m->lock);
    len = m->len;
    pthread_mutex_unlock(&m->lock);
    return len;
}

void mailbox_begin(struct mailbox *m, unsigned long thread) {
    pthread_mutex_lock(&mailboxes.lock);
    m->thread = thread;
    m->interrupted = m->closed;
    if (m->closed)
        sem_post(&m->came);
    m->next = mailboxes.list;
    m->at = &mailboxes.list;
    if (m->next)
        m->next->at = &m->next;
    mailboxes.list = m;
    pthread_mutex_unlock(&mailboxes.lock);
}

bool mailbox_end(struct mailbox *m) {
    bool interrupted;

    pthread_mutex_lock(&mailboxes.lock);
    *m->at = m->next;
    if (m->next)
        m->next->at = m->at;
    interrupted = m->interrupted;
    pthread_mutex_unlock(&mailboxes.lock);
    while (sem_trywait(&m->came) == 0)
        ;
    return interrupted;
}

bool mailbox_wait(struct mailbox *m, int64_t deadline) {
    struct timespec until = {deadline / 1000000000, deadline % 1000000000};
    bool there;

    pthread_mutex_lock(&m->lock);
    there = m->len > 0;
    m->waited = !there;
    pthread_mutex_unlock(&m->lock);
    if (there)
        return true;
    if (deadline > 0)
        sem_clockwait(&m->came, CLOCK_MONOTONIC, &until);
    else
        sem_wait(&m->came);
    pthread_mutex_lock(&m->lock);
    there = m->len > 0;
    m->waited = false;
    pthread_mutex_unlock(&m->lock);
    return there;
}

void mailbox_interrupt(unsigned long thread) {
    pthread_mutex_lock(&mailboxes.lock);
    for (struct mailbox *m = mailboxes.list; m; m = m->next)
        if (m->thread == thread) {
            m->interrupted = true;
            sem_post(&m->came);
        }
    pthread_mutex_unlock(&mailboxes.lock);
}

void mailbox_close(struct mailbox *m) {
    pthread_mutex_lock(&mailboxes.lock);
    m->closed = m->interrupted = true;
    sem_post(&m->came);
    pthread_mutex_unlock(&mailboxes.lock);
}
