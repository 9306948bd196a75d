/* py_callback.h - erlang.call and erlang.cast: a Python thread has Erlang run a function.
 *
 * A call goes over the channel that the thread has to that node; if it can have none, over the node's
 * own connection. Inside Python.
 */
#ifndef PYNODE_PY_CALLBACK_H
#define PYNODE_PY_CALLBACK_H

#include "callback.h"

#include <Python.h>

/* What was asked for. */
struct py_callback {
    PyObject *name; /* borrowed */
    PyObject *args; /* a list */
    char peer[300]; /* the node to call */
    int64_t deadline;
};

/* The connection whose request this thread serves, or NULL: borrowed. set answers what was there
 * before. */
struct conn *py_callback_set_conn(struct conn *conn);
struct conn *py_callback_get_conn(void);

/* Once, at start: 0/-1. */
int py_callback_init(void);

/* Tasks that are made from here on, in this context of Python's, call what this thread calls: 0/-1. */
int py_callback_share(void);

/* Fills in all but the args from a function's arguments, any of which may be NULL: 0/-1. */
int py_callback_set(struct py_callback *call, const char *function, PyObject *name,
                    PyObject *timeout, PyObject *node);

/* What goes to the home for a call over the node's own connection, and when nobody waits any more: 0/-1. */
int py_callback_item(struct buf *item, const struct callback *cb, const struct py_callback *call);
void py_callback_drop_item(struct buf *item, const struct callback *cb);

/* What comes of what was called: the value of the answer, the terms Class, Value and Stack; or NULL with
 * what was raised there. No answer in time; the connection to the node is lost. */
PyObject *py_callback_value(PyObject *called, struct slice answer);
void py_callback_late(PyObject *called);
void py_callback_lost(const char *peer);

/* Methods of _erlang: call(name, *args, timeout=None, node=None) and cast(name, *args, node=None). */
PyObject *py_callback_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *py_callback_cast(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);

/* _home(): the name of the node that a call from this thread goes to. */
PyObject *py_callback_home(PyObject *self, PyObject *unused);

#endif
