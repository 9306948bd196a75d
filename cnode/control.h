/* control.h - the pseudo-module `pynode`: what the node tells of itself without Python.
 *
 * Called by the leader. status ready stats threads version drain; docs/protocol.md has their
 * values. No GIL.
 */
#ifndef PYNODE_CONTROL_H
#define PYNODE_CONTROL_H

#include "options.h"
#include "pool.h"

struct control_facts {
    const char *node, *version, *python, *erlang;
    int workers, max_workers;            /* the options */
    struct options_list labels, imports; /* --label, --import; not owned */
    bool may_drain;                      /* --allow was not given, or it allows pynode */
    void (*drain)(void);                 /* what pynode:drain() and SIGTERM start */
};

/* facts are kept, not copied. */
void control_init(const struct control_facts *facts);
const struct control_facts *control_get_facts(void);

/* "starting", "ready" or "draining"; how long ago control_init() was, in ns. Any thread. */
const char *control_state(void);
int64_t control_uptime(void);

/* What a worker does, as an atom's text. Under exec's lock. */
const char *control_worker_state(const struct exec_worker *w);

/* What pynode:status() answers, as a term. */
void control_put_status(struct buf *out);

/* How loaded the node is: what a home is told of it, and whether that is worth being told after what it was told
 * before. Idle: nothing runs or waits, nor has lately. */
struct control_load {
    const char *state;
    struct pool_numbers pool;
    uint64_t tasks, calls, errors, rss, gil_wait;
    uint64_t timed, timed_ns;
    uint64_t others; /* requests of other connections that have not ended: set by who tells it */
};
void control_read_load(struct control_load *l, int64_t now);
bool control_load_differs(const struct control_load *a, const struct control_load *b);
bool control_load_is_idle(const struct control_load *l);

/* {load, #{running => N, ...}} */
void control_put_load(struct buf *out, const struct control_load *l);

/* The node is up: pynode:ready() is true from here on. */
void control_set_ready(void);

/* Answers r into out if it is a call to pynode that needs no Python: whether it was. */
bool control_answer(struct request *r, struct buf *out);

#endif
