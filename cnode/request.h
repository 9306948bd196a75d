/* request.h - one piece of work for Python, as it came from a peer.
 *
 * Only the envelope is read here (who asks, of what kind, what to call); the arguments stay
 * bytes. A request has one owner at a time: io makes it, exec queues it, a worker runs and
 * frees it. The forms on the wire: docs/protocol.md. No GIL.
 */
#ifndef PYNODE_REQUEST_H
#define PYNODE_REQUEST_H

#include "dist.h"

#include <stdbool.h>

struct conn;
struct proc;
struct exec_lane;
struct exec_row;
struct ids_entry;

enum request_kind {
    REQUEST_CALL,        /* spawn_request of erpc:execute_call/4: rpc:call, erpc:call, ... */
    REQUEST_CAST,        /* spawn_request of erpc:execute_cast/3 */
    REQUEST_SPAWN,       /* spawn_request of anything else: the function itself */
    REQUEST_REX_CALL,    /* gen_server:call to rex: rpc:block_call */
    REQUEST_REX_CAST,    /* gen_server:cast to rex */
    REQUEST_REX_OLD,     /* {From, {call, M, F, A, GL}} to rex: erl_call, ei_rpc */
    REQUEST_SERVER_CALL, /* gen_server:call to a registered Python object */
    REQUEST_SERVER_CAST, /* gen_server:cast to it */
    REQUEST_SERVER_INFO, /* any other message to it */
    REQUEST_APP_CALL,    /* of the Erlang application: py:call */
    REQUEST_APP_CAST,    /* py:cast */
};

/* A frame as the connection hands it over. When whole is set the buffer holds nothing else and
 * whoever needs it takes it (and sets data to NULL); otherwise it is borrowed. */
struct frame {
    uint8_t *data;
    size_t len;
    bool whole;
};

/* What the Erlang application may say about a call beside whom to call. */
struct request_options {
    struct slice kwargs; /* term: a map; or empty */
    struct slice queue;  /* term: the name of a queue; or empty */
    struct slice id;     /* bytes: under which it runs once (ids.h); or empty */
    struct slice bad;    /* the name of an option that is none, or has a wrong value */
    enum { REQUEST_STRINGS, REQUEST_STRINGS_UTF8, REQUEST_STRINGS_BYTES } strings;
    bool traceback, thread, executor;
    bool loop, map;  /* a task; one for each of many argument lists */
    uint32_t stream; /* how many items may be on their way; 0: it is no stream */
};

struct request {
    enum request_kind kind;
    struct conn *conn;   /* counted */
    struct proc *target; /* counted; SERVER_* only */

    uint8_t *bytes; /* owned: the frame that all slices point into */
    struct slice from;
    struct slice ref;      /* spawn request id or monitor reference: what cancels it */
    struct slice tag;      /* gen_server's tag */
    struct slice to;       /* SERVER_*: the name or pid that was addressed */
    struct slice res;      /* erpc's own reference, comes back in the answer */
    struct slice module;   /* text, not a term */
    struct slice function; /* text, not a term */
    struct slice args;     /* term: argument list, or the server's request or message */

    struct request_options options; /* APP_*; else all empty */
    bool gathered;                  /* its answer is an item of the gathered frame (outbox.h) */
    struct ids_entry *id;           /* what it is the first of, as ids.h says; or NULL */

    uint32_t pid_id, pid_serial; /* the process it is to its caller; 0: none */
    int spawn_flags;             /* DIST_SPAWN_LINK | DIST_SPAWN_MONITOR */
    bool announced;              /* its SPAWN_REPLY has left; under exec's lock */
    int64_t arrived;             /* outcome_now() when it was read */

    /* All below is exec's, under its lock. */
    struct exec_lane *lane; /* in target; NULL: any order */
    struct exec_row *row;   /* the queue or lane it waits in */
    struct request *next, *prev;
    struct request *table_next; /* in the table of those that have not ended: its bucket, */
    struct request *all_next, *all_prev; /* and all of it */
    bool abandoned;                      /* nobody waits for its answer */
    bool answering;                      /* the worker has begun to answer: too late to cancel */
    bool reported;                       /* the application has been told that it runs */
    bool interrupt;                      /* its worker has to be interrupted, */
    bool interrupted;                    /* and has been */

    /* Of a task (tasks.h), which it is from the beginning or from when a worker has given it up. */
    bool task;
    struct request *task_next, *task_prev; /* among those that have begun */
    struct request *told_next; /* among those of which the loop has to be told something */
    bool told;
    int64_t since;  /* when it began: monotonic, ns */
    int64_t credit; /* of a stream, also on a worker: items that it may still send */
    void
        *context; /* Python's: how it goes on. The request's owner has it; freed with the request */
};

/* The name and creation that our pids bear. Once, before any other thread. */
void request_init(const char *node, uint32_t creation);

/* Each makes a request out of a control message, or answers NULL when it is none of that kind.
 * conn and target are left to the caller. msg is that of the frame. */
struct request *request_from_spawn(const struct dist_msg *msg, struct frame *frame);
struct request *request_from_rex(const struct dist_msg *msg, struct frame *frame);
struct request *request_from_server(const struct dist_msg *msg, struct frame *frame);
struct request *request_from_app(struct slice item, struct frame *frame, bool gathered);
void request_free(struct request *r);

/* What to do with the context of a request that is freed. Once, at start. */
void request_set_release(void (*release)(void *context));

/* Takes {'$gen_call', {Pid, Tag}, Body} apart: 0, or -1 when it is not that. */
struct request_gen {
    struct slice pid, tag, body;
};
int request_read_gen_call(struct slice payload, struct request_gen *gen);

/* The alias in a tag [alias | Ref], or an empty slice: the answer then goes to the pid. */
struct slice request_tag_alias(struct slice tag);

/* A new pid for a process of ours, none of the last 2^32. */
void request_new_pid(uint32_t *id, uint32_t *serial);

/* A new reference of this node, as a term. */
void request_new_ref(struct buf *out);

/* The pid of a process of ours, as a term; and back: whether the term is one of this node's. */
void request_put_pid(struct buf *out, uint32_t id, uint32_t serial);
bool request_own_pid(struct slice pid, uint32_t *id, uint32_t *serial);

#endif
