/* meet.h - who yields when two nodes connect to each other at once.
 *
 * Each attempt to connect, ours or a peer's, is in one list from the moment it is known to its
 * end; so there is at most one of ours to the same peer, it waits for the peer's if that came
 * first, and of two that cross the one of the node with the greater name stays. Any thread; its
 * lock is a leaf. No GIL. Source: erts/doc "Distribution Protocol", "Distribution Handshake",
 * step 3, and handle_info accept_pending in kernel/src/net_kernel.erl.
 */
#ifndef PYNODE_MEET_H
#define PYNODE_MEET_H

#include <stdbool.h>
#include <stdint.h>

enum meet_status { MEET_OK, MEET_OK_SIMULTANEOUS, MEET_NOK };

/* One attempt, in its thread's memory. */
struct meet {
    struct meet *next;
    const char *peer; /* the caller's; NULL: not in the list */
    bool ours, dialing;
    int64_t since; /* monotonic ns */
};

/* The name of this node. Once, before any other thread. */
void meet_init(const char *self);

/* We want to connect to peer. False, and m is not in the list, when another attempt was under
 * way: it has been waited for, and there may be a connection now. */
bool meet_plan(struct meet *m, const char *peer);

/* We are about to call connect(2): false when the peer's own attempt has come meanwhile. */
bool meet_dial(struct meet *m);

/* The peer has told its name on an incoming connection: the status to answer it with. After
 * MEET_NOK m is not in the list. */
enum meet_status meet_greet(struct meet *m, const char *peer);

/* Waits until no attempt of the peer's is under way, at most two seconds for each. */
void meet_wait(const char *peer);

/* The attempt has ended; its connection, if any, can be found. Harmless when not in the list. */
void meet_end(struct meet *m);

#endif
