/* py_callback.h - erlang.call and erlang.cast: a Python thread has Erlang run a function.
 *
 * A call goes over the channel that the thread has to that node; if it can have none, over the node's
 * own connection. Inside Python.
 */
#ifndef PYNODE_PY_CALLBACK_H
#define PYNODE_PY_CALLBACK_H

#include "conn.h"

#include <Python.h>

/* The connection whose request this thread serves, or NULL: borrowed. set answers what was there
 * before. */
struct conn *py_callback_set_conn(struct conn *conn);
struct conn *py_callback_get_conn(void);

/* Methods of _erlang: call(name, *args, timeout=None, node=None) and cast(name, *args, node=None). */
PyObject *py_callback_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *py_callback_cast(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);

#endif
