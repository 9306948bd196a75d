/* callback.h - calls from Python to Erlang over the node's own connection that wait for their answer.
 *
 * Many threads share the connection: what they ask is gathered in it (outbox.h), and so are the answers.
 * Each call has a number, which its answer bears. Threads that are answered at once are woken in turn,
 * each when the one before has entered Python: else they would all wait for the GIL, and hinder who has
 * it. Any thread; one leaf lock; no GIL, unless said.
 */
#ifndef PYNODE_CALLBACK_H
#define PYNODE_CALLBACK_H

#include "conn.h"

#include <semaphore.h>

enum callback_state { CALLBACK_WAITING, CALLBACK_ANSWERED, CALLBACK_LOST, CALLBACK_INTERRUPTED };

struct callback {
    struct callback *next;
    struct callback *ready; /* the next that is to be woken */
    struct conn *conn;      /* that it went out over: counted */
    uint64_t id;
    unsigned long thread; /* that waits: the waiter's own name for it, or 0 */
    sem_t woken;
    _Atomic int state;   /* enum callback_state */
    _Atomic int posting; /* threads that are waking it: it must stay until they are through */
    bool queued, turn;   /* answered, and to be woken; woken, and on its way into Python */
    struct buf answer;   /* the terms that follow the number */
};

/* Gives it a number. conn's reference is taken. If conn has been closed already the call is lost. */
void callback_begin(struct callback *cb, struct conn *conn);

/* Waits until there is an answer, the connection is lost, the deadline (clock_now(); 0: none) has
 * passed, or a signal has come: the state then. The waiter says when it has entered Python again;
 * callback_end() forgets the call in any case. */
enum callback_state callback_wait(struct callback *cb, int64_t deadline);
void callback_entered(struct callback *cb);
void callback_end(struct callback *cb);

/* Whether others are answered and about to be woken: what they will send may travel with what this
 * thread sends. */
bool callback_more(void);

/* The call that the thread serves was cancelled: it waits no longer. */
void callback_interrupt(unsigned long thread);

/* The answer to the call with that number, which went out over conn: whether somebody waits for it. */
bool callback_answer(const struct conn *conn, uint64_t id, struct slice terms);

/* conn is gone: no answer will come over it. */
void callback_closed(const struct conn *conn);

/* How many wait. */
int callback_count(void);

#endif
