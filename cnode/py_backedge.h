/* py_backedge.h - gives the back edges of loops the exception handlers that CPython 3.13 leaves out.
 *
 * Its compiler has none for the jump back of a `while condition:` in a try or with block (python/cpython issue 130279).
 * Nothing of the loop itself is raised there, but what another thread raises in this one mostly is, as
 * erlang.Cancelled: it would pass `finally`, `except` and `with` by. Other versions: nothing is done. GIL.
 */
#ifndef PYNODE_PY_BACKEDGE_H
#define PYNODE_PY_BACKEDGE_H

#include <Python.h>

/* Before something is raised in the thread whose innermost frame that is: borrowed, or NULL. An error that is set
 * afterwards is of no use; there is none if memory lasts. */
void py_backedge_cover(PyObject *frame);

#endif
