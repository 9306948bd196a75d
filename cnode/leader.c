/* leader.c - who reads the sockets: the leader of the Leader/Followers pattern. */
#include "config.h"

#include "leader.h"

static uint64_t leader_word(uint64_t turns, uint32_t owner, enum leader_phase phase) {
    return turns << 32 | (uint64_t)owner << 8 | (uint64_t)phase;
}

void leader_init(struct leader *l, uint32_t owner) {
    atomic_init(&l->word, leader_word(0, owner, LEADER_READ));
}

/* Nobody else changes the word while it says READ, so a plain store will do; it is the turn
 * count that tells a watcher that the owner has come and gone. */
static void leader_leave(struct leader *l, enum leader_phase phase) {
    uint64_t word = atomic_load(&l->word);

    atomic_store(&l->word, leader_word((word >> 32) + 1, leader_owner_of(word), phase));
}

void leader_wait(struct leader *l) {
    leader_leave(l, LEADER_WAIT);
}

void leader_away(struct leader *l) {
    leader_leave(l, LEADER_AWAY);
}

bool leader_resume(struct leader *l, uint32_t me) {
    uint64_t word = atomic_load(&l->word);

    if (leader_owner_of(word) != me || leader_phase_of(word) == LEADER_READ)
        return false;
    return atomic_compare_exchange_strong(&l->word, &word,
                                          leader_word(word >> 32, me, LEADER_READ));
}

bool leader_take(struct leader *l, uint64_t word, uint32_t me) {
    if (leader_phase_of(word) == LEADER_READ)
        return false;
    return atomic_compare_exchange_strong(&l->word, &word,
                                          leader_word((word >> 32) + 1, me, LEADER_READ));
}
