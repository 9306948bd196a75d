/* py_task.h - one call that a thread of a pool is to run, and the Python side of those threads.
 *
 * A task is filled, run and emptied with the GIL; the threads are a taskpool's, by py_task_hooks, and
 * who waits here has given the GIL back. The end of a task goes into its Future, or stays in the
 * task for the waiter of its group. Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_TASK_H
#define PYNODE_PY_TASK_H

#include "clock.h"
#include "taskpool.h"

#include <Python.h>

struct conn;

/* What the threads of one pool share. Counted: by the pool's owner and by each thread. */
struct py_task_shared {
    _Atomic int refs;
    PyObject *initializer, *initargs; /* until all have started */
    PyObject *prefix;                 /* of the threads' names */
    PyObject *broken;                 /* the initializer's exception, or NULL */
    _Atomic uint64_t done, failed, cancelled;
    _Atomic int64_t wait_ns, run_ns;
};

struct py_task_pool {
    struct taskpool *threads;
    struct py_task_shared *shared;
};

enum py_task_kind { PY_TASK_CALL, PY_TASK_FUTURE, PY_TASK_CHUNK };

/* A call; or a run of map()'s items: args are items (tuple), results and errors (lists). */
struct py_task {
    struct taskpool_task head;
    enum py_task_kind kind;
    _Atomic bool abandoned; /* nobody wants the result; a chunk stops at the next item */
    bool failed;            /* an item of the chunk did */
    struct conn *conn;      /* counted: of the request that has made it, for erlang.call; or NULL */
    PyObject *function, *context, *future, *kwnames;
    PyObject *result, *exception; /* of a task with a group; both NULL: it has not run */
    Py_ssize_t from, to;
    Py_ssize_t len; /* of args */
    PyObject *args[];
};

/* The hooks of a taskpool whose context is a struct py_task_shared. */
extern const struct taskpool_hooks py_task_hooks;

/* Imports once what the tasks need: 0/-1. */
int py_task_import(void);

void py_task_shared_unref(struct py_task_shared *shared);

/* A call of function with the arguments of a vectorcall, in a copy of the current context; all is
 * borrowed. NULL with an exception. */
struct py_task *py_task_new(enum py_task_kind kind, PyObject *function, PyObject *const *args,
                            Py_ssize_t len, PyObject *kwnames);

/* Gives the task, just made, to a group and adds a reference: one is the queue's, one the waiter's. */
void py_task_join(struct py_task *task, struct taskpool_group *group);

/* Puts a task into the queue, waiting for room: 0; 1 when it has to run in this thread
 * (py_task_run_here), which is one of the pool's and would wait for itself; -1 with an exception,
 * and the queue's reference is gone. waits: the caller is going to wait for the task. */
int py_task_push(struct py_task_pool *pool, struct py_task *task, bool waits);

/* Runs a task in this thread instead of queueing it, or drops it; its queue's reference. */
void py_task_run_here(struct py_task_pool *pool, struct py_task *task);
void py_task_unqueue(struct py_task *task);

/* Waits until the tasks of the group have ended: 0, or -1 with a signal handler's exception. */
int py_task_wait(struct taskpool_group *group);

/* Queues the only task of the group and waits for its end: 0/-1 as those two. */
int py_task_push_and_wait(struct py_task_pool *pool, struct py_task *task,
                          struct taskpool_group *group);

/* The result of a task that has ended: a new reference, or NULL with its exception. */
PyObject *py_task_take(struct py_task *task);

/* Gives back the waiter's reference of a task. If it has not ended nobody wants its result any
 * more: it does not run if it has not begun, else it runs on and drops what comes of it. */
void py_task_release(struct py_task_pool *pool, struct py_task *task);

/* Ends tasks that were taken out of the queue, a list by next, as cancelled: 0, or -1 with the first
 * exception that came meanwhile. */
int py_task_cancel(struct py_task_shared *shared, struct taskpool_task *list);

/* Sets RuntimeError: the pool is shut down. */
void py_task_raise_closed(void);

/* The exception that is set, with its traceback, as an object and no more set; and back, taking
 * the object. */
PyObject *py_task_take_exception(void);
void py_task_raise(PyObject *exception);

/* Appends (index, exception) to the list, of the exception that is set: 0/-1. */
int py_task_note_error(PyObject *errors, Py_ssize_t index);

#endif
