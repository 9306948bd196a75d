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

/* Gives the process that this thread is the name: 0, or -1 with an exception. */
int py_server_register_process(const char *name);

/* The Pid of that name, or None: new reference. */
PyObject *py_server_whereis(const char *name);

/* While this thread loads the module of that name anew (borrowed; NULL: no more), an object that it
 * registers takes the place of one of the same name whose class is of that module. */
void py_server_set_reloading(PyObject *module);

/* Calls handle_call(request, caller), handle_cast(request) or handle_info(message) of r's
 * object. New reference or NULL with an exception. */
PyObject *py_server_handle(const struct request *r);

/* After the answer to r has been put: tells its object's watchers if the handler unregistered it.
 * In Python, but writes to no socket. */
void py_server_handled(const struct request *r);

/* The object that this thread serves from here on, in a step of its handler: the one before. */
struct proc *py_server_set_running(struct proc *p);

/* Sends a term to a Pid, a name of this node, or (name, node); connects when needed: 0, or -1
 * with an exception. Leaves Python while it connects. */
int py_server_send(PyObject *dest, PyObject *term);

/* Puts a frame to a remote process into the outbox of its node's connection, which is made if there is
 * none, and waits while that holds too much, as the BEAM suspends who sends to a busy node; outside
 * Python. Empties frame: 0, or -1 with an exception. */
int py_server_put(const char *peer, struct buf *frame);

#endif
