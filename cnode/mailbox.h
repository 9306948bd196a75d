/* mailbox.h - the messages that a process of ours has been sent and not received yet.
 *
 * Bounded by their number: what comes when it is full is dropped, and counted, but for what the
 * process has asked to be told (mailbox_put's `sure`). Anybody puts, one thread at a time receives.
 * Each has its lock, a leaf; one more guards the list of those that are waited for. No GIL, unless
 * said.
 */
#ifndef PYNODE_MAILBOX_H
#define PYNODE_MAILBOX_H

#include "buf.h"

#include <pthread.h>
#include <semaphore.h>

struct mailbox_message {
    struct mailbox_message *next;
    size_t len;
    uint8_t term[];
};

struct mailbox {
    pthread_mutex_t lock; /* guards all up to dropped */
    struct mailbox_message *head, **tail;
    size_t len;
    size_t dropped; /* since it was last empty */
    sem_t came;     /* posted when a message comes and somebody waits */
    bool waited;

    /* While it is waited for; the list's lock. */
    struct mailbox *next, **at;
    unsigned long thread;
    bool interrupted;
    bool closed;
};

/* How many messages a mailbox holds. Once, before any other thread. */
void mailbox_init(size_t limit);

struct mailbox *mailbox_new(void);
void mailbox_free(struct mailbox *m);

/* A copy of the term goes to the end, unless the mailbox is full and the message is not sure; FULL is
 * said once, until the mailbox has been empty. */
enum mailbox_result { MAILBOX_TAKEN, MAILBOX_FULL, MAILBOX_STILL_FULL };
enum mailbox_result mailbox_put(struct mailbox *m, struct slice term, bool sure);

/* The first message, for the caller to free(3), or NULL. */
struct mailbox_message *mailbox_take(struct mailbox *m);

/* How many there are. */
size_t mailbox_len(struct mailbox *m);

/* thread, the waiter's own name for itself, is about to wait, and waits no more. Both with the GIL,
 * so that mailbox_interrupt(), which has it, too, sees whether it does. end: whether it was
 * interrupted. */
void mailbox_begin(struct mailbox *m, unsigned long thread);
bool mailbox_end(struct mailbox *m);

/* Waits until there is a message (true); or until the deadline (clock_now(); 0: none) has passed, a
 * signal has come or the waiter was interrupted. In between begin and end. */
bool mailbox_wait(struct mailbox *m, int64_t deadline);

/* What the thread waits for is wanted no more. */
void mailbox_interrupt(unsigned long thread);

/* Its process has ended, so nothing comes any more: who waits, now or later, is interrupted. */
void mailbox_close(struct mailbox *m);

#endif
