/* ids.h - remembered ids: a call of the application that is sent twice under one id runs once.
 *
 * The request that came first is the one that runs; a later one with its id waits beside it, and is exec's
 * never. The Result of the first is kept for a while, also when its connection has gone. Meeting, leaving and
 * closing are the leader's; ids_end() belongs to whoever ends the request. r->id is set before exec has r, is
 * looked at under exec's lock until exec_claim(), and by the request's owner alone from then on. One lock, taken
 * inside exec's; inside it only an outbox's. No GIL.
 */
#ifndef PYNODE_IDS_H
#define PYNODE_IDS_H

#include "request.h"

enum { IDS_LENGTH_MAX = 64 /* bytes of an id */ };

struct ids_entry;

/* Remembers at most so many ids; 0: none, and calls run as if they had no id. */
void ids_init(size_t limit);

enum ids_meeting {
    IDS_NEW,   /* nobody knows it: r runs */
    IDS_WAITS, /* r, taken, waits for one that waits or runs */
    IDS_ENDED, /* *result has what the first one came to, a term */
    IDS_FULL,  /* too many wait already */
};

/* r, which has an id, has come. started() is called under the lock if r waits and the first one is known to run. */
typedef void ids_started_cb(const struct request *r);
enum ids_meeting ids_meet(struct request *r, int64_t now, struct buf *result,
                          ids_started_cb *started);

/* The rest takes what a first request has as its id. */

/* It is known to run: started() for each that waits for it, under the lock. Whether its own caller is to be told. */
bool ids_start(struct ids_entry *e, ids_started_cb *started);

/* Its caller does not want it any more: true if it goes on since others wait for it. */
bool ids_leave(struct ids_entry *e);

/* Its caller cannot be answered any more; it goes on in any case. */
void ids_unhear(struct ids_entry *e);

/* It was cancelled: a repeat from here on runs anew. */
void ids_forget(struct ids_entry *e);

/* r has ended in result, a term, which is remembered if keep says so and it is not too long. Answers those who
 * wait, as a list by next, which are the caller's. *heard: r's own caller is to be answered. */
struct request *ids_end(struct request *r, struct slice result, bool keep, int64_t now,
                        bool *heard);

/* Those who wait. */

/* Takes out what conn sent with ref: NULL if it is not there. If nobody waits for the first one any more, nor can
 * its caller be answered, *first is which one that is: conn, counted, and ref, owned. Else its conn is NULL. */
struct ids_first {
    struct conn *conn;
    struct buf ref;
};
struct request *ids_withdraw(const struct conn *conn, struct slice ref, struct ids_first *first);

/* Takes out all that conn sent: a list by next. */
struct request *ids_closed(const struct conn *conn);

/* Forgets what was remembered for long enough. */
void ids_sweep(int64_t now);

#endif
