/* route.h - where each control message goes: to Python's queue, to who watches, or answered here.
 *
 * route_frame() is the leader's; the rest any thread's. Pings, monitors, links and the
 * pseudo-module `pynode` never need Python. No GIL.
 */
#ifndef PYNODE_ROUTE_H
#define PYNODE_ROUTE_H

#include "conn.h"
#include "exec.h"
#include "procs.h"

void route_init(const char *node);

/* Handles one frame of c: 0, or -1 with *why when the connection has to be closed. Answers are
 * left in c's outbox, requests in exec's queue. Takes the frame's buffer if it is whole. */
int route_frame(struct conn *c, struct frame *frame, const char **why);

/* c is gone: what it asked for is cancelled, what it watched forgotten. */
void route_closed(struct conn *c);

/* A request has ended: tells who watches its process beside the caller, and frees it. */
void route_ended(struct request *r, struct slice reason);

/* r, which has an id, ends with the answer in out, or with none: those who wait for it are answered, too, and it is
 * remembered if keep says so. touch() is called for each connection that has got something. Whether r's own caller
 * is to be answered. */
typedef void route_touch_cb(void *arg, struct conn *c);
bool route_repeats(struct request *r, const struct buf *out, bool keep, route_touch_cb *touch,
                   void *arg);

/* r is answered through its caller's own monitor, which is gone with that. */
void route_told(const struct request *r);

/* Delivers a message of this node's own to p (taken): false when the queue is full. */
bool route_deliver(struct proc *p, const struct dist_msg *msg, struct frame *frame);

/* Hands a request of c's over to Python's side, or answers why not. Takes r. The leader's. */
void route_request(struct conn *c, struct request *r);

/* Cancels what c sent with ref: false when there is nothing to wait for any more. */
bool route_interrupt(struct conn *c, struct slice ref);

/* Cancels all that waits or runs in a queue (its name, a term); each is answered. */
void route_drop_queue(struct slice name);

/* Puts the answer to r, whole frames or an item of the gathered one, into its connection (an exec_put_cb). */
void route_put(struct request *r, struct buf *out);

/* From now on new requests are answered with `draining`. */
void route_drain(void);
bool route_draining(void);

#endif
