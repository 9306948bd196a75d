/* py_executor.h - the native part of erlang.blocking.BlockingExecutor: calls run by a taskpool.
 *
 * The type ThreadPool of the module _erlang. Its threads have one thread state each for their
 * life, and the GIL only while they run a callable; whoever waits has given it back. Any thread
 * that holds the GIL.
 */
#ifndef PYNODE_PY_EXECUTOR_H
#define PYNODE_PY_EXECUTOR_H

#include <Python.h>

/* Adds ThreadPool and QueueFull to the module: 0/-1. */
int py_executor_add(PyObject *module);

#endif
