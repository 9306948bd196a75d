/* py_backedge.h - gives the back edges of loops the exception handlers that CPython leaves out.
 *
 * Nothing of a loop itself is raised at its jump back, but what another thread raises in this one mostly is, as
 * erlang.Cancelled. In some loops in a try or with block it would find no handler there, and pass `finally`, `except` and
 * `with` by (python/cpython issues 108214 and 130279):
 *
 *      3.11, 3.12     while True: step()         and others with which a block begins
 *      3.13           while condition:
 *      3.13, 3.14     for x in xs: if x: step()  and others whose last statement is an `if`
 *
 * The GIL is held.
 */
#ifndef PYNODE_PY_BACKEDGE_H
#define PYNODE_PY_BACKEDGE_H

#include <Python.h>

/* Before something is raised in the thread whose innermost frame that is: borrowed, or NULL. */
void py_backedge_cover(PyObject *frame);

#endif
