/* callback.h - calls from Python to Erlang that wait for their answer.
 *
 * Each has a pid of this node while it waits, and the answer is a message to that. Any thread; one
 * leaf lock; no GIL.
 */
#ifndef PYNODE_CALLBACK_H
#define PYNODE_CALLBACK_H

#include "conn.h"

#include <semaphore.h>

enum callback_state { CALLBACK_WAITING, CALLBACK_ANSWERED, CALLBACK_LOST, CALLBACK_INTERRUPTED };

struct callback {
    struct callback *next;
    struct conn *conn;    /* that it went out over: counted */
    uint32_t id, serial;  /* its pid */
    unsigned long thread; /* that waits: the waiter's own name for it, or 0 */
    sem_t woken;
    _Atomic int state; /* enum callback_state */
    struct buf answer; /* a term */
};

/* Gives it a pid. conn's reference is taken. If conn has been closed already the call is lost. */
void callback_begin(struct callback *cb, struct conn *conn);

/* Waits until there is an answer, the connection is lost, the deadline (clock_now(); 0: none) has
 * passed, or a signal has come: the state then. callback_end() forgets it in any case. */
enum callback_state callback_wait(struct callback *cb, int64_t deadline);
void callback_end(struct callback *cb);

/* The call that the thread serves was cancelled: it waits no longer. */
void callback_interrupt(unsigned long thread);

/* Whether somebody waits with this pid. */
bool callback_alive(uint32_t id, uint32_t serial);

/* A message to a pid of ours: whether it was the answer to one of them. */
bool callback_answer(uint32_t id, uint32_t serial, struct slice term);

/* conn is gone: no answer will come over it. */
void callback_closed(const struct conn *conn);

/* How many wait. */
int callback_count(void);

#endif
