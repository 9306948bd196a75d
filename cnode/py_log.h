/* py_log.h - Python's logging to the Erlang application: a record is one item for the log's home.
 *
 * Inside Python, except py_log_attach(). Nothing here waits: what the home's connection has no room
 * for is dropped and counted.
 */
#ifndef PYNODE_PY_LOG_H
#define PYNODE_PY_LOG_H

#include <Python.h>

/* Has erlang._logging installed as soon as Python code imports logging: 0, or -1 with an exception.
 * That costs nothing before, while the import of logging would nearly double the time of a start. */
int py_log_init(void);

/* The log has a home: home_init(). Any thread; no GIL. */
void py_log_attach(void);

/* Of the module _erlang: _log(level, logger, text, meta) -> whether it is on its way. */
PyObject *py_log_record(PyObject *self, PyObject *args);

/* _log_wanted() -> whether there is a home that gets the log. */
PyObject *py_log_wanted(PyObject *self, PyObject *unused);

#endif
