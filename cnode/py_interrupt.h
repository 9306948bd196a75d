/* py_interrupt.h - erlang.Cancelled, and how it is raised in a thread that runs what was cancelled.
 *
 * py_interrupt() is called by a thread without a thread state, outside Python; the rest wants the
 * GIL.
 */
#ifndef PYNODE_PY_INTERRUPT_H
#define PYNODE_PY_INTERRUPT_H

#include <Python.h>

/* Adds the exception Cancelled to the module _erlang: 0/-1. */
int py_interrupt_add(PyObject *module);

/* The class; borrowed. */
PyObject *py_interrupt_exception(void);

/* Raises it in each worker that has to be interrupted, when it imports nothing: struct exec_hooks. */
void py_interrupt(void);

#endif
