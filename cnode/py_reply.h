/* py_reply.h - how a request that Python has run ends: its value or its exception becomes the answer.
 *
 * Answers go into the connections' outboxes; a batch remembers which of them are to be written. Inside
 * Python, but for py_reply_flush().
 */
#ifndef PYNODE_PY_REPLY_H
#define PYNODE_PY_REPLY_H

#include "exec.h"

#include <Python.h>

enum { PY_REPLY_CONNS = 16 /* connections with answers that have not been written yet */ };

/* The connections that a batch has answered, each counted. */
struct py_reply_batch {
    struct conn *conns[PY_REPLY_CONNS];
    size_t len;
    int64_t since; /* the first of the answers, or earlier */
};

/* Before each request of a batch, now: answers that have waited for long are written. */
void py_reply_pace(struct py_reply_batch *batch, int64_t now);

/* Writes all answers so far. Outside Python. */
void py_reply_flush(struct py_reply_batch *batch);

/* Remembers that c has something to write. */
void py_reply_touch(struct py_reply_batch *batch, struct conn *c);

/* r has come to result, whose reference is taken, or to the exception that is set if that is NULL: answers
 * it, ends and frees it. w is NULL for a task. out is for the encoding, and empty afterwards; exit gets
 * the reason that r ends with as a process, a term. */
void py_reply_end(struct exec_worker *w, struct request *r, PyObject *result, struct buf *out,
                  struct buf *exit, struct py_reply_batch *batch);

/* Appends {ok, Value}, or what there is for the exception if result is NULL: the terms that a call of the
 * application is answered with. */
void py_reply_put_item(struct buf *out, PyObject *result, const struct request *r);

#endif
