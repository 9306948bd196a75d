/* home.h - the Erlang application at the other end: what it sends, what is gathered for it.
 *
 * A connection's home is the process that stands for this node there. Calls that came in a list are
 * answered in the connection's gathered frame, which goes to the home, and so is what else the home
 * is told. docs/protocol.md, "The application pynode". home_message() is the leader's, the rest any
 * thread's; no GIL.
 */
#ifndef PYNODE_HOME_H
#define PYNODE_HOME_H

#include "conn.h"

/* Called for the first home of all, and whenever there is one again: Python's log has a reader. */
void home_init(void (*attached)(void));

/* A message to the name `pynode`. */
void home_message(struct conn *c, const struct dist_msg *msg, struct frame *frame);

/* c is gone. */
void home_closed(struct conn *c);

/* {ended, Ref}: a cancelled request has ended. {started, Ref}: it has been running for a while. */
void home_put_ended(struct conn *c, struct slice ref);
void home_put_started(struct conn *c, struct slice ref);

/* How loaded the node is each home is told when it attaches, then once a second if that has changed, and every
 * five seconds in any case. The leader's: when the next look is due (clock_now(); 0: there is no home), and the
 * look itself: whether there is something to write now. */
int64_t home_report_due(void);
bool home_report(int64_t now);

/* What cannot wait for the next look: the node's state has changed. Wakes the leader. */
void home_report_soon(void);

/* The node leaves, and drains already: as soon as nothing runs that somebody waits for, homes are told `leaving`. They
 * detach. Any thread's. */
void home_leave(void);

/* How many homes there are. */
int home_count(void);

/* The connection to call Erlang over, counted: wanted if it has a home, else that of the first home;
 * NULL if there is none. */
struct conn *home_conn(struct conn *wanted);

/* The same, to the node of that name. */
struct conn *home_conn_to(const char *peer);

/* The node to call Erlang in: wanted's if it has a home, else the first home's; if there is none at
 * present, the one that was there last. False when there never was one. */
bool home_peer(struct conn *wanted, char *peer, size_t size);

/* Gives one encoded item to the home that was attached first, and wakes who writes it: false, and
 * it is dropped, when there is none or too much waits for it already. Empties item. */
bool home_log(struct buf *item);

#endif
