/* py_call.h - from a module's and a function's name to the call: policy, look-up, arguments.
 *
 * Inside Python.
 */
#ifndef PYNODE_PY_CALL_H
#define PYNODE_PY_CALL_H

#include "options.h"
#include "request.h"

#include <Python.h>

/* What --allow says; o is kept. 0, or -1 with an exception. */
int py_call_init(const struct options *o);

/* Imports r->module, finds r->function in it (both may be dotted) and calls it with r->args,
 * the last of which may be {'$kwargs', Map}. New reference, or NULL with an exception;
 * py_call_refused() then says whether --allow forbids it. */
PyObject *py_call(const struct request *r);

/* In two steps, for many calls: the callable; and a call of it with args, a list. */
PyObject *py_call_find(const struct request *r);
PyObject *py_call_apply(const struct request *r, PyObject *callable, PyObject *args);

/* Whether binaries of valid UTF-8 come as bytes in this call. */
bool py_call_wants_bytes(const struct request *r);

bool py_call_refused(void);

#endif
