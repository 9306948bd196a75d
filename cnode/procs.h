/* procs.h - what has a name or pid here, and which processes watch it.
 *
 * A proc is a registered Python object, with a name, a pid and a lane of its own; or a process with a
 * mailbox: a Python thread or a call that is served, with a pid and perhaps a name. A watch is a
 * monitor of, or a link to, a name or pid of ours, by a remote process or by one of ours. Any thread;
 * one leaf lock; no GIL.
 */
#ifndef PYNODE_PROCS_H
#define PYNODE_PROCS_H

#include "exec.h"

struct proc {
    _Atomic int refs;
    struct proc *next, *name_next; /* in the buckets of its id and of its name */
    char *name;                    /* under procs' lock if it has a mailbox; NULL: none */
    uint32_t id, serial;
    void *object;            /* Python's; procs only keeps it. NULL: it has a mailbox */
    struct mailbox *mailbox; /* or NULL */
    struct exec_lane lane;   /* of an object */
    _Atomic bool claimed;    /* what runs as this process has asked for it */
    _Atomic bool ended; /* unregistered from its own handler: its watchers hear it afterwards */
};

struct watch {
    struct watch *next;
    struct conn *conn; /* whose reference the caller of procs_watch() has given; NULL: ours */
    bool link;
    struct slice from, to, ref; /* into bytes; a link has no ref */
    uint8_t bytes[];
};

/* What to do with an object when nobody knows its proc any more. Once, at start. */
void procs_init(void (*release)(void *object));

/* Names the object: false when the name is taken. Takes the object if true. */
bool procs_register(const char *name, void *object);

/* Takes the name away, and an object with it; the answer is counted, NULL if there is none. */
struct proc *procs_unregister(const char *name);

/* The process with this pid, or with id 0 one with a new pid; there may be one already. Counted. */
struct proc *procs_spawn(uint32_t id, uint32_t serial);

/* Gives it a name: false when that is taken, or it has one. procs_name() is its name as an atom's
 * term, appended to out: false, and nothing is, when it has none. */
bool procs_set_name(struct proc *p, const char *name);
bool procs_put_name(struct proc *p, struct buf *out);

/* The process is over: it is found no more. False when it was so before. */
bool procs_remove(struct proc *p);

/* Counted, or NULL. */
struct proc *procs_find_name(struct slice name);
struct proc *procs_find_pid(uint32_t id, uint32_t serial);
void proc_unref(struct proc *p);

/* How many names there are; how many processes with a mailbox. */
int procs_count(void);
int procs_processes(void);

/* A process begins or ends to watch a name (an atom term) or pid of ours. A second link of the same
 * two is none: false. */
bool procs_watch(struct conn *conn, struct slice from, struct slice to, struct slice ref);
bool procs_unwatch(const struct conn *conn, struct slice from, struct slice to, struct slice ref);

/* What is watched has ended: its watches, a list that the caller frees with free(3). */
struct watch *procs_end(struct slice to);

/* Whether anything is watched at all; without the lock. */
bool procs_watched(void);

/* All watches of a connection that is gone; of our own process with this pid: as a list. */
struct watch *procs_forget_conn(const struct conn *conn);
struct watch *procs_forget_from(struct slice from);

#endif
