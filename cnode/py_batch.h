/* py_batch.h - many calls that are waited for together: run_parallel() and map() of a pool.
 *
 * All of them are run, whatever some raise; then the first exception, by index, is raised with
 * notes about the others. Any thread that holds the GIL; it is given back while they wait.
 */
#ifndef PYNODE_PY_BATCH_H
#define PYNODE_PY_BATCH_H

#include "py_task.h"

/* The results, in a list, of tasks: an iterable of (fn,), (fn, args) and (fn, args, kwargs), which
 * are all looked at before one runs. NULL with an exception. */
PyObject *py_batch_parallel(struct py_task_pool *pool, PyObject *tasks);

/* [function(item) for item in iterable], chunk items a task; 0: four tasks a thread. NULL with an
 * exception. */
PyObject *py_batch_map(struct py_task_pool *pool, PyObject *function, PyObject *iterable,
                       Py_ssize_t chunk);

/* How many of so many items a task takes when nobody has said: four tasks a thread. */
Py_ssize_t py_batch_chunk_size(struct py_task_pool *pool, Py_ssize_t len);

#endif
