/* leader.h - who reads the sockets: the leader of the Leader/Followers pattern.
 *
 * Exactly one thread is the leader. A worker that leads runs what it has read by itself, with
 * no hand-over to another thread; while it is away in Python the io thread may take the lead,
 * and a worker that has nothing to do takes it back from an io thread that only waits.
 *
 *      READ  --leader_wait-->  WAIT  --leader_resume-->  READ     the owner, in epoll_wait
 *      READ  --leader_away-->  AWAY  --leader_resume-->  READ     the owner, in Python
 *      WAIT, AWAY  --leader_take-->  READ of another owner
 *
 * What the owner wrote before it left READ is seen by who takes the lead. One atomic word; any
 * thread; no GIL.
 */
#ifndef PYNODE_LEADER_H
#define PYNODE_LEADER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum leader_phase { LEADER_READ, LEADER_WAIT, LEADER_AWAY };

/* The numbers of the io thread and of the event loop's; workers have 1 and up. */
enum { LEADER_IO = 0, LEADER_TASKS = 0xffffff };

struct leader {
    _Atomic uint64_t word; /* turns << 32 | owner << 8 | phase */
};

void leader_init(struct leader *l, uint32_t owner);

/* The owner leaves READ. */
void leader_wait(struct leader *l);
void leader_away(struct leader *l);

/* The former owner comes back to READ: false when another has taken the lead meanwhile. */
bool leader_resume(struct leader *l, uint32_t me);

/* Takes the lead as it was seen in word: false when anything has changed since. */
bool leader_take(struct leader *l, uint64_t word, uint32_t me);

static inline uint64_t leader_look(const struct leader *l) {
    return atomic_load(&l->word);
}

static inline enum leader_phase leader_phase_of(uint64_t word) {
    return (enum leader_phase)(word & 0xff);
}

static inline uint32_t leader_owner_of(uint64_t word) {
    return (uint32_t)(word >> 8 & 0xffffff);
}

#endif
