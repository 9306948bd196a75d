/* py_loop.h - Python's event loop in the node: runs tasks (tasks.h), and whatever else Python code gives it.
 *
 * It begins with the first task: on Python's main thread, so that signals and child processes work there;
 * in a thread of its own if a script has that. erlang._loop makes it and runs it. Inside Python, in the
 * loop's thread, unless said.
 */
#ifndef PYNODE_PY_LOOP_H
#define PYNODE_PY_LOOP_H

#include "conn.h"
#include "options.h"
#include "request.h"

#include <Python.h>

/* Once, at start: 0, or -1 with an exception or with errno. */
int py_loop_init(const struct options *o);

/* Whether there is the one that is asked for: 0, or -1 with e. */
int py_loop_check(const struct options *o, struct err *e);

/* Runs it in the calling thread until py_loop_stop(). */
void py_loop_run(void);

/* Ends it, from any thread and without Python; waits up to a second for a thread of its own. */
void py_loop_stop(void);
void py_loop_stop_wait(void);

/* Whether it is wanted and nothing runs it: for the main thread. Any thread, without Python. */
bool py_loop_is_wanted(void);

/* Has it run coro as a Task: 0/-1. */
int py_loop_start(PyObject *coro);

/* A new future of it; and what a coroutine yields to wait for a future. New references. */
PyObject *py_loop_future(void);
PyObject *py_loop_await_future(PyObject *future);

/* Whether the exception that is set is asyncio's for what was cancelled; sets that. Any thread. */
bool py_loop_is_cancelled(void);
void py_loop_set_cancelled(void);

/* c has something that is to be written. */
void py_loop_touch(struct conn *c);

/* What runs for r has had the loop since then: too long is logged, once for each function. */
void py_loop_took(const struct request *r, int64_t begun);

/* Methods of _erlang, for erlang._loop. */
PyObject *py_loop_set(PyObject *self, PyObject *args);
PyObject *py_loop_turn(PyObject *self, PyObject *unused);
PyObject *py_loop_wait(PyObject *self, PyObject *args);
PyObject *py_loop_fd(PyObject *self, PyObject *unused);
PyObject *py_loop_begin(PyObject *self, PyObject *unused);
PyObject *py_loop_stopping(PyObject *self, PyObject *unused);

#endif
