/* channels.h - all channels: their names, the pool of those that no thread has, and the tick.
 *
 * There are at most so many, with names that are used again. What a thread gives back the next one takes,
 * with its handler. One lock guards the list and the pool, and no descriptor of a channel is closed but
 * with it; inside it only the locks of outboxes are taken. Any thread; no GIL, unless said.
 */
#ifndef PYNODE_CHANNELS_H
#define PYNODE_CHANNELS_H

#include "channel.h"

/* How to connect: handshake_connect_as(). */
typedef int channels_connect_cb(const char *alive, uint32_t creation, const char *peer,
                                int64_t deadline, struct err *e);

/* node is this node's own name; at most max channels. Once, before any other thread. */
void channels_init(const char *node, channels_connect_cb *connect, int max);

/* A channel to the node peer for this thread: out of the pool, or a new one, connected until the
 * deadline (clock_now(); 0: as long as a handshake may take). NULL with e when there are as many as
 * may be, or the peer takes no such connection, which is not tried each time unless it is forced. */
struct channel *channels_take(const char *peer, unsigned long thread, bool force, int64_t deadline,
                              struct err *e);

/* The thread needs it no longer: back to the pool, or closed if it is broken. Never waits. */
void channels_give(struct channel *ch);

/* The calls that the thread has under way end as INTERRUPTED. With the GIL, see channel_begin(). */
void channels_interrupt(unsigned long thread);

/* The leader's, at each tick: says to the peers that the channels live, reads what has come to those
 * that are in no call, closes those that are dead or have been in the pool for long. */
void channels_tick(void);

/* How many there are, and how many of these wait in the pool. */
void channels_count(int *all, int *pooled);

#endif
