/* py_server.h - registered Python objects: what they are sent, and what Python sends.
 *
 * Inside Python.
 */
#ifndef PYNODE_PY_SERVER_H
#define PYNODE_PY_SERVER_H

#include "request.h"

#include <Python.h>

/* The name's messages go to obj from now on: 0, or -1 with an exception. */
int py_server_register(const char *name, PyObject *obj);
int py_server_unregister(const char *name);

/* While this thread loads the module of that name anew (borrowed; NULL: no more), an object that it
 * registers takes the place of one of the same name whose class is of that module. */
void py_server_set_reloading(PyObject *module);

/* Calls handle_call(request, caller), handle_cast(request) or handle_info(message) of r's
 * object. New reference or NULL with an exception. */
PyObject *py_server_handle(const struct request *r);

/* After the answer to r has been put: tells its object's watchers if the handler unregistered it.
 * In Python, but writes to no socket. */
void py_server_handled(const struct request *r);

/* Sends a term to a Pid, a name of this node, or (name, node); connects when needed: 0, or -1
 * with an exception. Leaves Python while it connects. */
int py_server_send(PyObject *dest, PyObject *term);

#endif
