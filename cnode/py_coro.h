/* py_coro.h - a coroutine that drives an awaitable for a request and hands on what it comes to.
 *
 * It is what a Task runs, so current_task(), timeouts and the like work inside. At each of its steps the
 * thread serves the request. It ends exactly once, also when it is dropped. Inside Python.
 */
#ifndef PYNODE_PY_CORO_H
#define PYNODE_PY_CORO_H

#include "request.h"

#include <Python.h>

/* The outcome: result, whose reference is given, or NULL with an exception set. */
typedef void py_coro_done(void *arg, PyObject *result);

/* Once, at start: 0/-1. */
int py_coro_init(void);

/* Drives awaitable, whose reference is taken also on failure: NULL with an exception. r lives until
 * done(arg) was called. */
PyObject *py_coro_new(PyObject *awaitable, const struct request *r, py_coro_done *done, void *arg);

/* What this thread has become to Erlang for the same request is what the coroutine is from here on. */
void py_coro_take_process(PyObject *coro);

/* Starts the Task that create_task(coro) makes; 0/-1. Cancels it. */
int py_coro_start(PyObject *coro, PyObject *create_task);
void py_coro_cancel(PyObject *coro);

bool py_coro_check(PyObject *object);

#endif
