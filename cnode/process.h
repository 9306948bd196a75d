/* process.h - processes of ours: what they are sent, who watches them, whom they watch, their end.
 *
 * A process is what has a pid of this node and lives: a registered object, a request that has not
 * ended, a Python thread with a mailbox. The messages that arrive for
 * them come by route.c; what Python asks for by py_thread.c. Any thread; no GIL, never waits but where
 * it says so.
 */
#ifndef PYNODE_PROCESS_H
#define PYNODE_PROCESS_H

#include "procs.h"

/* The name of this node. Once, before any other thread. */
void process_init(const char *node);

/* Gives p a message, a term: into its mailbox, or as a request if it is an object. What p has asked
 * to be told is sure: a full mailbox takes it, too. False when it is dropped. */
bool process_send(struct proc *p, struct slice term, bool sure);

/* The same for a pid that no proc has: to a request that has not ended, which gets a mailbox by that.
 * False when there is none. */
bool process_send_request(uint32_t id, uint32_t serial, struct slice term);

/* Whether a name or pid of ours is there to be watched. What is always there (rex, net_kernel)
 * needs no watch: its end is the connection's. */
bool process_is_alive(struct slice to, bool *always);

/* What arrives from c about watching: MONITOR, LINK; UNLINK, UNLINK_ID; MONITOR_EXIT. */
void process_watch(struct conn *c, const struct dist_msg *msg);
void process_unlink(struct conn *c, const struct dist_msg *msg);
bool process_down(struct conn *c, const struct dist_msg *msg); /* false: to nobody */

/* One watch of c's ends: whether there was such a one. */
bool process_forget(struct conn *c, struct slice from, struct slice to, struct slice ref);

/* An exit signal for p, which has a mailbox or is an object, as the message {'EXIT', From, Reason}.
 * linked: it is the end of a link, and that was there. */
void process_exit(struct proc *p, const struct dist_msg *msg, bool linked);

/* c is gone: what of it was watched here, or watched from here, has ended as noconnection. */
void process_closed(struct conn *c);

/* A process without a proc has ended: who watches its pid is told. */
void process_pid_ended(uint32_t id, uint32_t serial, struct slice reason);

/* p has ended: it is found no more; who watches it by name or pid is told; what it watches is not
 * watched any more. */
void process_ended(struct proc *p, struct slice reason);

/* A name has been taken away: who watches it is told, with an atom's text as reason; if it was an
 * object's, that has ended. */
void process_unregistered(struct proc *p, const char *name, const char *reason);

/* What p (id, serial) asks for. The target is a pid or an atom, of this node, or of that at the other
 * end of c; c is NULL for another node that cannot be reached. ref: where the reference goes. */
void process_monitor(uint32_t id, uint32_t serial, bool own, struct conn *c, const char *node,
                     struct slice to, struct buf *ref);
void process_demonitor(uint32_t id, uint32_t serial, struct slice ref);
void process_link(uint32_t id, uint32_t serial, bool own, struct conn *c, struct slice to);
void process_drop_link(uint32_t id, uint32_t serial, bool own, struct conn *c, struct slice to);

#endif
