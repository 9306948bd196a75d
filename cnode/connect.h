/* connect.h - keeps a connection to each node of --connect, and greets the application there.
 *
 * The name py_coordinator of that node gets {py_hello, Node} until the connection, whoever has made
 * it, has a home (home.h). While it has none a thread tries, with pauses that grow; while it has
 * one there is neither a thread nor a timer. Its lock is a leaf; no GIL.
 */
#ifndef PYNODE_CONNECT_H
#define PYNODE_CONNECT_H

#include "options.h"

#include <stdint.h>

/* Begins to connect. Main thread, once; the list is borrowed for good. */
void connect_start(const struct options_list *nodes);

/* A connection to peer is gone, or its home. Any thread; returns at once. */
void connect_lost(const char *peer);

/* The pause after so many tries in a row that failed, in ms; random is any number. */
int connect_pause(unsigned failures, uint32_t random);

#endif
