/* py_map.h - one function called for each of many argument lists, as tasks: their results in order.
 *
 * Inside Python; the loop's thread.
 */
#ifndef PYNODE_PY_MAP_H
#define PYNODE_PY_MAP_H

#include "request.h"

#include <Python.h>

/* Once, at start: 0/-1. */
int py_map_init(void);

/* Starts r: what is awaited for it, a new reference; NULL with an exception. */
PyObject *py_map_new(struct request *r);

/* Whether it is the outcome of such an r: the list of results, a term. */
bool py_map_results(PyObject *result, struct slice *list);

#endif
