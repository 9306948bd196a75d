/* node.h - the node's identity: name, cookie, creation, listening socket, epmd.
 *
 * With handshake.h the only one that knows libei. The main thread's, but for node_name() and its
 * like. No GIL. Source: erts/doc "Distribution Protocol", section "Protocol between the EPMD and
 * Erlang Nodes"; erl_interface/src/connect/ei_connect.c.
 */
#ifndef PYNODE_NODE_H
#define PYNODE_NODE_H

#include "err.h"
#include "options.h"

#include <stdint.h>

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

/* Gives the name back, and takes no other until node_publish(). */
void node_unpublish(void);

/* The connection to epmd has ended. If it was epmd's end, registers again as soon as there is one, from a thread of its
 * own. */
void node_epmd_lost(void);

#endif
