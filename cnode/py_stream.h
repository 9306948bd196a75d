/* py_stream.h - the way of a stream's items to who reads it: encoded, in chunks, as far as there is credit.
 *
 * erlang._stream drives it. Inside Python.
 */
#ifndef PYNODE_PY_STREAM_H
#define PYNODE_PY_STREAM_H

#include "request.h"

#include <Python.h>

/* Once, at start: 0/-1. */
int py_stream_init(void);

/* What source yields goes to the reader of r: on the loop an awaitable, in a worker None when all is
 * sent. source's reference is taken. NULL with an exception. */
PyObject *py_stream_start(struct request *r, PyObject *source);
PyObject *py_stream_run(struct request *r, PyObject *source);

/* Whether a worker can do that: it is an iterable, not an asynchronous one. */
bool py_stream_is_plain(PyObject *source);

/* r has got credit; the loop's thread. */
void py_stream_credited(const struct request *r);

#endif
