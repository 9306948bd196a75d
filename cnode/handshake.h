/* handshake.h - how a connection begins, in both directions: libei's handshakes, and who yields.
 *
 * With node.h the only one that knows libei. handshake_accept() is the leader's;
 * handshake_connect() blocks and is any thread's. No GIL. Source: erts/doc "Distribution
 * Protocol", section "Distribution Handshake"; erl_interface/src/connect/ei_connect.c.
 */
#ifndef PYNODE_HANDSHAKE_H
#define PYNODE_HANDSHAKE_H

#include "err.h"

#include <ei.h>

struct conn;

/* For ei_connect_xinit_ussi(). */
extern ei_socket_callbacks *const handshake_callbacks;

/* With what libei was set up. Once, before any other thread. */
void handshake_init(ei_cnode *cnode);

/* The socket that ei_xlisten() has made. */
void handshake_set_listener(int fd);

/* The listener is readable: takes every client that waits, each handshake in a thread of its own
 * with a deadline; the connections that come of it go to io_add(). */
void handshake_accept(void);

/* Connects to a node, for up to 7 s, unless it is connected: the connection, counted, which has
 * gone to io_add(), too; or NULL with e. */
struct conn *handshake_connect(const char *peer, struct err *e);

/* Connects to a node as another one than this, a hidden node named alive on the same host, until the
 * deadline (clock_now(); 0: for 7 s): the descriptor, which is the caller's, or -1 with e. */
int handshake_connect_as(const char *alive, uint32_t creation, const char *peer, int64_t deadline,
                         struct err *e);

#endif
