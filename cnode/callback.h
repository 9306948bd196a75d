/* callback.h - calls from Python to Erlang over the node's own connection that wait for their answer.
 *
 * Many threads share the connection: what they ask is gathered in it (outbox.h), and so are the answers.
 * Each call has a number, which its answer bears. A call is waited for by a thread, or by nobody: then
 * its end goes to a sink, from which an event loop takes what has ended. Threads that are answered at
 * once are woken in turn, each when the one before has entered Python: else they would all wait for the
 * GIL, and hinder who has it. Any thread; one leaf lock; no GIL, unless said.
 */
#ifndef PYNODE_CALLBACK_H
#define PYNODE_CALLBACK_H

#include "conn.h"
#include "wake.h"

#include <semaphore.h>

enum callback_state { CALLBACK_WAITING, CALLBACK_ANSWERED, CALLBACK_LOST, CALLBACK_INTERRUPTED };

struct callback {
    struct callback *next;
    struct callback *ready; /* the next that is to be woken, or that has ended in the same sink */
    struct callback_sink *sink; /* or NULL: a thread waits */
    struct conn *conn;          /* that it went out over: counted */
    uint64_t id;
    unsigned long thread; /* that waits: the waiter's own name for it, or 0 */
    sem_t woken;
    _Atomic int state;   /* enum callback_state */
    _Atomic int posting; /* threads that are waking it: it must stay until they are through */
    bool queued, turn;   /* answered, and to be woken; woken, and on its way into Python */
    struct buf answer;   /* the terms that follow the number */
};

/* What has ended of the calls that nobody waits for. Its owner, one thread at a time, watches wake. */
struct callback_sink {
    struct wake wake;
    struct callback *ended, **ended_end;
    struct callback_sink *due; /* the next that is to be woken */
    unsigned long thread;      /* whose calls they are, as in struct callback */
    _Atomic bool interrupted; /* what the thread serves was cancelled: for the owner to take back */
    bool is_due, woken;       /* is to be woken; has been, and has not taken all */
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

/* The call that the thread serves was cancelled: it waits no longer. A sink of the thread is woken. */
void callback_interrupt(unsigned long thread);

/* The answer to the call with that number, which went out over conn: whether somebody waits for it. A
 * sink is woken for all of its answers at once, when no more are at hand. */
bool callback_answer(const struct conn *conn, uint64_t id, struct slice terms);
void callback_answered(void);

/* conn is gone: no answer will come over it. */
void callback_closed(const struct conn *conn);

/* How many wait. */
int callback_count(void);

/* 0, or -1 with errno. Before the end all its calls have to be withdrawn or taken. */
int callback_sink_init(struct callback_sink *sink);
void callback_sink_done(struct callback_sink *sink);

/* As callback_begin(), for a call that nobody waits for. */
void callback_begin_in(struct callback *cb, struct conn *conn, struct callback_sink *sink);

/* Takes the first that have ended, at most so many, in a row by `ready`: they are answered or lost.
 * If there are more the sink stays woken. */
struct callback *callback_take(struct callback_sink *sink, int max);

/* The call of that number, unless it has been taken: its owner's, as long as none is taken meanwhile. */
struct callback *callback_find(const struct callback_sink *sink, uint64_t id);

/* Forgets one that has not ended; false when it has, and is still to be taken. */
bool callback_withdraw(struct callback *cb);

/* What a call that was taken or withdrawn still has. */
void callback_release(struct callback *cb);

#endif
