/* py_thread.h - a Python thread as an Erlang process: its mailbox, its connections, its end.
 *
 * A thread gets a process of its own when it first asks who it is; what serves a request is the
 * process that the request is to its caller, or the registered object. It keeps the channels that it
 * has called over. All is given back when the thread ends, in whatever way. Inside Python.
 */
#ifndef PYNODE_PY_THREAD_H
#define PYNODE_PY_THREAD_H

#include "channel.h"
#include "procs.h"

#include <Python.h>

/* Once, at the start: 0, or -1 with an exception. */
int py_thread_init(void);

/* What this thread serves from here on, until served: r has ended with that reason (a term). Only what
 * py_thread_process() has made of it is ended here. */
void py_thread_serve(const struct request *r);
void py_thread_served(struct slice reason);
const struct request *py_thread_serving(void);

/* Between steps of what it serves: the process that this has become, or NULL; counted. */
void py_thread_set_served(struct proc *p);
struct proc *py_thread_take_served(void);

/* Whether what it serves has been cancelled, and it is to feel that: raises erlang.Cancelled. */
bool py_thread_check_cancelled(void);

/* The process that this thread is at present: borrowed; NULL with an exception in a fork. */
struct proc *py_thread_process(void);

/* The channel that this thread has to a node, or NULL; keeps one; gives one back. */
struct channel *py_thread_channel(const char *peer);
int py_thread_keep(struct channel *ch);
void py_thread_drop(struct channel *ch);

/* A time limit in seconds as a deadline (clock_now()), 0 for None: 0, or -1 with an exception. */
int py_thread_deadline(PyObject *timeout, int64_t *deadline);

/* How long this thread may wait before it looks for signals again: the deadline, or sooner in Python's
 * main thread. One that comes just before the wait begins does not end it. */
int64_t py_thread_look_at(int64_t deadline);

/* The text of a name, which may have no NUL: NULL with an exception. */
const char *py_thread_text(PyObject *str);

/* Methods of _erlang. */
PyObject *py_thread_self(PyObject *self, PyObject *unused);
PyObject *py_thread_receive(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *py_thread_monitor(PyObject *self, PyObject *target);
PyObject *py_thread_demonitor(PyObject *self, PyObject *ref);
PyObject *py_thread_link(PyObject *self, PyObject *pid);
PyObject *py_thread_unlink(PyObject *self, PyObject *pid);
PyObject *py_thread_sleep(PyObject *self, PyObject *seconds);
PyObject *py_thread_failed(PyObject *self, PyObject *exception);

#endif
