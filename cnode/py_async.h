/* py_async.h - erlang.async_call: what an event loop of Python's has called, and what comes of it.
 *
 * Each running loop has one _erlang._Sink: calls go out over the node's own connection, gathered, and are
 * written once a turn of the loop; their ends come to a descriptor that the loop watches, and resolve
 * futures. The loop holds its sink; what is left is dropped with it. Inside Python.
 */
#ifndef PYNODE_PY_ASYNC_H
#define PYNODE_PY_ASYNC_H

#include <Python.h>

/* Adds the type _Sink to the module: 0/-1. */
int py_async_add(PyObject *module);

/* Method of _erlang: the sink of that loop, or None. */
PyObject *py_async_sink(PyObject *self, PyObject *loop);

#endif
