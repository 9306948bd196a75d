/* test_leader.c - the lead: each step of the protocol, and that two never have it at once.
 *
 * The threads write a plain variable while they lead; under TSan that is the proof that what the
 * former leader wrote is seen by the next one, and by nobody meanwhile.
 */
#include "config.h"

#include "leader.h"
#include "tap.h"

#include <pthread.h>
#include <sched.h>

enum { WORKERS = 4, TURNS = 20000 };

static struct leader lead;

/* The word as text: "owner phase". */
static const char *state(void) {
    static const char *const phases[] = {"read", "wait", "away"};
    static char text[32];
    uint64_t word = leader_look(&lead);

    snprintf(text, sizeof text, "%u %s", (unsigned)leader_owner_of(word),
             phases[leader_phase_of(word)]);
    return text;
}

static void test_steps(void) {
    uint64_t before;

    leader_init(&lead, LEADER_IO);
    is_str(state(), "0 read", "the first owner reads");
    before = leader_look(&lead);
    ok(!leader_take(&lead, before, 1), "nobody takes the lead from one who reads");
    ok(!leader_resume(&lead, 1), "nor resumes what was never his");
    ok(!leader_resume(&lead, LEADER_IO), "the owner that reads has nothing to resume");
    is_str(state(), "0 read", "none of it changes anything");

    leader_wait(&lead);
    is_str(state(), "0 wait", "the owner waits");
    ok(leader_resume(&lead, LEADER_IO), "and resumes");
    is_str(state(), "0 read", "and reads");

    leader_away(&lead);
    is_str(state(), "0 away", "the owner is away");
    before = leader_look(&lead);
    ok(leader_take(&lead, before, 3), "another takes the lead");
    is_str(state(), "3 read", "and reads");
    ok(!leader_resume(&lead, LEADER_IO), "the former owner comes too late");

    leader_wait(&lead);
    before = leader_look(&lead);
    ok(leader_take(&lead, before, 0xffffff), "the largest number of an owner");
    is_str(state(), "16777215 read", "is kept");
}

/* A watcher that saw the owner away, and sees it away again, must know that it was back. */
static void test_turns(void) {
    uint64_t seen;

    leader_init(&lead, 1);
    leader_away(&lead);
    seen = leader_look(&lead);
    ok(leader_resume(&lead, 1), "the owner comes back");
    leader_away(&lead);
    ok(leader_look(&lead) != seen, "away again is not the same as away still");
    ok(!leader_take(&lead, seen, LEADER_IO), "and cannot be taken as that");
    ok(leader_take(&lead, leader_look(&lead), LEADER_IO), "but as what it is");
}

/* An owner that stays away is the same at each look. */
static void test_still_away(void) {
    uint64_t seen;

    leader_init(&lead, 1);
    leader_away(&lead);
    seen = leader_look(&lead);
    ok(leader_look(&lead) == seen, "an owner that stays away does not change the word");
    ok(leader_take(&lead, seen, LEADER_IO), "and loses the lead");
}

static long turns;     /* written by the leader only, without atomics */
static int inside;     /* how many think that they lead */
static int collisions; /* how often that was more than one */

/* What a leader does. */
static void work(void) {
    collisions += inside != 0;
    inside++;
    turns++;
    inside--;
}

/* Takes the lead wherever it can be had, works, leaves it; now and then comes back by itself. */
static void *worker_main(void *arg) {
    uint32_t me = *(uint32_t *)arg;
    int done = 0;

    while (done < TURNS) {
        uint64_t word = leader_look(&lead);

        if (leader_phase_of(word) == LEADER_READ || !leader_take(&lead, word, me)) {
            sched_yield();
            continue;
        }
        work();
        done++;
        if (done % 2)
            leader_wait(&lead);
        else
            leader_away(&lead);
        if (done % 3 == 0 && done < TURNS && leader_resume(&lead, me)) {
            work();
            done++;
            leader_away(&lead);
        }
    }
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[WORKERS];
    uint32_t ids[WORKERS], i;

    leader_init(&lead, LEADER_IO);
    work();
    leader_wait(&lead);
    for (i = 0; i < WORKERS; i++) {
        ids[i] = i + 1;
        if (pthread_create(&threads[i], NULL, worker_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    is_int(collisions, 0, "never two leaders at once");
    is_int(turns, (long)WORKERS * TURNS + 1, "every turn has happened, none was lost");
}

int main(void) {
    test_steps();
    test_turns();
    test_still_away();
    test_threads();
    return tap_end();
}
