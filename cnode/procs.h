/* procs.h - what has a name or pid here, and which remote processes watch it.
 *
 * A proc is a registered Python object: it has a name, a pid and a lane of its own. A watch is a
 * remote process's monitor of, or link to, a name or pid. Any thread; one leaf lock; no GIL.
 */
#ifndef PYNODE_PROCS_H
#define PYNODE_PROCS_H

#include "exec.h"

struct proc {
    _Atomic int refs;
    struct proc *next;
    char *name;
    uint32_t id, serial;
    void *object; /* Python's; procs only keeps it */
    struct exec_lane lane;
    _Atomic bool ended; /* unregistered from its own handler: its watchers hear it afterwards */
};

struct watch {
    struct watch *next;
    struct conn *conn; /* whose reference the caller of procs_watch() has given */
    bool link;
    struct slice from, to, ref; /* into bytes; a link has no ref */
    uint8_t bytes[];
};

/* What to do with an object when nobody knows its proc any more. Once, at start. */
void procs_init(void (*release)(void *object));

/* Names the object: false when the name is taken. Takes the object if true. */
bool procs_register(const char *name, void *object);

/* Takes the name away; the answer is counted, NULL if there is none. */
struct proc *procs_unregister(const char *name);

/* Counted, or NULL. */
struct proc *procs_find_name(struct slice name);
struct proc *procs_find_pid(uint32_t id, uint32_t serial);
void proc_unref(struct proc *p);

/* How many names there are. */
int procs_count(void);

/* A remote process begins or ends to watch a name (an atom term) or pid of ours. */
void procs_watch(struct conn *conn, struct slice from, struct slice to, struct slice ref);
bool procs_unwatch(const struct conn *conn, struct slice from, struct slice to, struct slice ref);

/* What is watched has ended: its watches, a list that the caller frees with free(3). */
struct watch *procs_end(struct slice to);

/* Whether anything is watched at all; without the lock. */
bool procs_watched(void);

/* Drops all watches of a connection that is gone: how many. */
int procs_forget_conn(const struct conn *conn);

#endif
