/* py_future.h - the Future of a BlockingExecutor: it makes its lock only when somebody waits.
 *
 * A concurrent.futures.Future in all but that. As long as its lock does not exist nobody can hold
 * it, and what is here changes its state with the GIL alone; from then on the methods of its base
 * class do, under the lock. Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_FUTURE_H
#define PYNODE_PY_FUTURE_H

#include <Python.h>
#include <stdbool.h>

/* Adds FutureMethods, the base class of erlang.blocking's Future, to the module: 0/-1. */
int py_future_add(PyObject *module);

/* Looks erlang.blocking's Future up once: 0/-1. */
int py_future_import(void);

/* New, pending. */
PyObject *py_future_new(void);

/* Makes it running: false when it has been cancelled, which all that wait for it then know. */
bool py_future_start(PyObject *future);

/* Cancels it, unless it has ended, and tells those that wait: 0, or -1 with an exception that
 * came meanwhile. */
int py_future_cancel(PyObject *future);

/* Ends it with a result, or else with an exception; both borrowed. */
void py_future_end(PyObject *future, PyObject *result, PyObject *exception);

#endif
