/* node.h - the node's identity and how it meets others: epmd, listening, handshakes.
 *
 * The only file that knows libei's connecting. node_accept() is the leader's; node_connect()
 * blocks and is any thread's. No GIL. Source: erts/doc "Distribution Protocol", section
 * "Distribution Handshake"; erl_interface/src/connect/ei_connect.c.
 */
#ifndef PYNODE_NODE_H
#define PYNODE_NODE_H

#include "err.h"
#include "options.h"

#include <stdint.h>

struct conn;

/* Sets libei up, makes name and creation: 0, or -1 with e. */
int node_init(const struct options *o, struct err *e);

/* Listens where the options say: 0, or -1 with e. */
int node_listen(const struct options *o, struct err *e);

/* py@host; what its pids bear; the listening socket, its port; epmd's port. */
const char *node_name(void);
uint32_t node_creation(void);
int node_listener(void);
int node_port(void);
int node_epmd_port(void);

/* Registers the name at epmd and keeps it; starts epmd if there is none, as erl does. */
int node_publish(struct err *e);

/* Gives the name back. */
void node_unpublish(void);

/* epmd has gone: registers again as soon as there is one, from a thread of its own. */
void node_epmd_lost(void);

/* The listener is readable: takes every client that waits, each handshake in a thread of its own
 * with a deadline; the connections that come of it go to io_add(). */
void node_accept(void);

/* Connects to a node, for up to 7 s: the connection, counted, which has gone to io_add(), too; or
 * NULL with e. */
struct conn *node_connect(const char *peer, struct err *e);

#endif
