/* py_callback.h - erlang.call: a Python thread calls an Erlang function and waits for its value.
 *
 * Inside Python; leaves it while it waits.
 */
#ifndef PYNODE_PY_CALLBACK_H
#define PYNODE_PY_CALLBACK_H

#include "conn.h"

#include <Python.h>

/* The connection whose request this thread serves, to which its calls go; NULL: none. Borrowed.
 * The one before is answered. */
struct conn *py_callback_set_conn(struct conn *conn);
struct conn *py_callback_get_conn(void);

/* call(name, args, timeout): the value, or NULL with an exception. */
PyObject *py_callback_call(PyObject *self, PyObject *args);

#endif
