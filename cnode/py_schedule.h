/* py_schedule.h - what a function may return that is no value yet: it goes on in Erlang, or later, or is to
 * be awaited.
 *
 * Inside Python.
 */
#ifndef PYNODE_PY_SCHEDULE_H
#define PYNODE_PY_SCHEDULE_H

#include "request.h"

#include <Python.h>

/* Adds the type of the markers: 0/-1. */
int py_schedule_add(PyObject *module);

/* Whether a function's result is no value yet: an awaitable, or one of the markers. */
bool py_schedule_is_pending(PyObject *result);

/* Whether it is a marker: of a Python function that is to be called later, or of an Erlang one. */
bool py_schedule_is_call(PyObject *result);
bool py_schedule_is_erlang(PyObject *result);

/* Calls what the marker says; for an Erlang function the result is an awaitable. New reference. */
PyObject *py_schedule_call(PyObject *marker);

/* The same for the one that r has for its context, which is taken. */
PyObject *py_schedule_run(struct request *r);

/* Gives back a result that nobody is going to wait for. */
void py_schedule_drop(PyObject *result);

/* Methods of _erlang. */
PyObject *py_schedule_erlang(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *py_schedule_python(PyObject *self, PyObject *args);
PyObject *py_schedule_slice(PyObject *self, PyObject *percent);

/* A request begins in this thread: nothing of its time slice is spent. */
void py_schedule_begin(void);

#endif
