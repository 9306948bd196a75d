/* py_reply.c - how a request that Python has run ends: its value or its exception becomes the answer. */
#include "config.h"

#include "py_reply.h"
#include "answer.h"
#include "home.h"
#include "io.h"
#include "log.h"
#include "outcome.h"
#include "py.h"
#include "py_call.h"
#include "py_encode.h"
#include "py_error.h"
#include "py_interrupt.h"
#include "py_loop.h"
#include "py_map.h"
#include "py_server.h"
#include "route.h"
#include "stats.h"

enum { PY_REPLY_FLUSH_NS = 100000 /* the longest an answer waits for others in the same batch */ };

static struct slice py_reply_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Batches. */

void py_reply_flush(struct py_reply_batch *batch) {
    for (size_t i = 0; i < batch->len; i++) {
        io_flush(batch->conns[i]);
        conn_unref(batch->conns[i]);
    }
    batch->len = 0;
}

void py_reply_pace(struct py_reply_batch *batch, int64_t now) {
    if (batch->len == 0) {
        batch->since = now;
    } else if (now - batch->since > PY_REPLY_FLUSH_NS) {
        py_leave();
        py_reply_flush(batch);
        py_enter();
        batch->since = now;
    }
}

void py_reply_touch(struct py_reply_batch *batch, struct conn *c) {
    for (size_t i = 0; i < batch->len; i++)
        if (batch->conns[i] == c)
            return;
    if (batch->len == PY_REPLY_CONNS) {
        py_leave();
        py_reply_flush(batch);
        py_enter();
    }
    batch->conns[batch->len++] = conn_ref(c);
}

static void py_reply_touch_cb(void *arg, struct conn *c) {
    py_reply_touch(arg, c);
}

/* Answers. */

/* Logs what nobody is told: an error in a call that wants no answer. */
static void py_reply_log(const struct request *r, const char *line) {
    if (r->target)
        log_warning("server %s: %s", r->target->name, line);
    else
        log_warning("cast %.*s:%.*s: %s", (int)r->module.len, (const char *)r->module.data,
                    (int)r->function.len, (const char *)r->function.data, line);
}

static bool py_reply_is_unheard(const struct request *r) {
    return r->kind == REQUEST_SERVER_CAST || r->kind == REQUEST_SERVER_INFO ||
           r->kind == REQUEST_CAST || r->kind == REQUEST_REX_CAST || r->kind == REQUEST_APP_CAST ||
           (r->kind == REQUEST_SPAWN && r->spawn_flags == 0);
}

/* Takes the exception that is set as Reason and Stack, terms. */
static void py_reply_reason(const struct request *r, struct buf *reason, struct buf *stack,
                            char *line, size_t size) {
    if (!py_call_refused()) {
        py_error_take(reason, stack, line, size);
        return;
    }
    PyErr_Clear();
    etf_put_tuple(reason, 2);
    etf_put_atom(reason, "not_allowed");
    etf_put_tuple(reason, 2);
    etf_put_atom_slice(reason, r->module);
    etf_put_atom_slice(reason, r->function);
    etf_put_nil(stack);
}

/* Answers with the exception that is set. */
static void py_reply_fail(struct request *r, struct buf *out, struct buf *exit) {
    struct buf reason = {0}, stack = {0};
    char line[512] = "";

    stats_add(STATS_ERRORS, 1);
    py_reply_reason(r, &reason, &stack, line, sizeof line);
    if (line[0] && py_reply_is_unheard(r)) {
        py_leave();
        py_reply_log(r, line);
        py_enter();
    }
    route_told(r);
    answer_error(r, out, py_reply_slice(&reason), py_reply_slice(&stack));
    etf_put_tuple(exit, 2);
    etf_put_slice(exit, py_reply_slice(&reason));
    etf_put_slice(exit, py_reply_slice(&stack));
    buf_done(&reason);
    buf_done(&stack);
    outcome_answered(OUTCOME_ERROR, r->arrived);
}

/* Answers a request that was cancelled although somebody still waits for it: its queue was dropped, or it
 * is a task that other Python code has cancelled. */
static void py_reply_cancelled(struct request *r, struct buf *out) {
    PyErr_Clear();
    stats_add(STATS_CANCELLED, 1);
    outcome_add(OUTCOME_CANCELLED);
    answer_refuse(r, out, "cancelled");
}

/* Nobody waits for the answer any more. */
static void py_reply_drop(void) {
    PyErr_Clear();
    outcome_add(OUTCOME_CANCELLED);
}

static int py_reply_put(struct buf *out, PyObject *result) {
    struct slice list;

    if (!py_map_results(result, &list))
        return py_encode(out, result, "result");
    etf_put_slice(out, list);
    return 0;
}

/* Encodes the answer of a request that went well; what has no Erlang form is its error. */
static void py_reply_succeed(struct request *r, struct buf *out, struct buf *exit,
                             PyObject *result) {
    size_t begin;

    if (!answer_begin(r, out, &begin)) {
        answer_done(r, out);
        outcome_answered(OUTCOME_OK, r->arrived);
        return;
    }
    if (py_reply_put(out, result) == 0) {
        if (answer_end(r, out, begin) == 0) {
            outcome_answered(OUTCOME_OK, r->arrived);
            return;
        }
        PyErr_SetString(PyExc_ValueError, "result: longer than a distribution frame can be");
    }
    out->len = begin;
    py_reply_fail(r, out, exit);
}

/* Whether the exception that is set says that r was cancelled. */
static bool py_reply_is_cancelled(const struct request *r) {
    if (r->task)
        return r->kind == REQUEST_APP_CALL && py_loop_is_cancelled();
    return r->interrupted && PyErr_ExceptionMatches(py_interrupt_exception());
}

void py_reply_end(struct exec_worker *w, struct request *r, PyObject *result, struct buf *out,
                  struct buf *exit, struct py_reply_batch *batch) {
    bool wanted = exec_claim(r), keep = wanted, heard = true;

    if (w && r->interrupted) /* what it has not been hit by must not hit another */
        py_forget_raised();
    if (!wanted)
        py_reply_drop();
    else if (result)
        py_reply_succeed(r, out, exit, result);
    else if (!(keep = !py_reply_is_cancelled(r)))
        py_reply_cancelled(r, out);
    else
        py_reply_fail(r, out, exit);
    if (r->id)
        heard = route_repeats(r, out, keep, py_reply_touch_cb, batch);
    if (!heard) {
        out->len = 0; /* it was cancelled, or its connection has gone, and has run for others */
    } else if (wanted && out->len > 0) {
        route_put(r, out);
        py_reply_touch(batch, r->conn);
    } else if (!wanted && r->kind == REQUEST_APP_CALL) {
        home_put_ended(r->conn, r->ref);
        py_reply_touch(batch, r->conn);
    }
    if (wanted && heard && r->reported)
        home_put_ended(r->conn, r->ref);
    py_server_handled(r);
    Py_XDECREF(result);
    if (exit->len == 0)
        etf_put_atom(exit, "normal");
    exec_finish(w, r);
    route_ended(r, py_reply_slice(exit));
}

/* One of many results. */

void py_reply_put_item(struct buf *out, PyObject *result, const struct request *r) {
    struct buf reason = {0}, stack = {0};
    size_t begin = out->len;

    if (result) {
        etf_put_tuple(out, 2);
        etf_put_atom(out, "ok");
        if (py_encode(out, result, "result") == 0)
            return;
        out->len = begin;
    }
    stats_add(STATS_ERRORS, 1);
    etf_put_tuple(out, 2);
    etf_put_atom(out, "error");
    if (py_loop_is_cancelled()) {
        PyErr_Clear();
        etf_put_atom(out, "cancelled");
        return;
    }
    py_reply_reason(r, &reason, &stack, NULL, 0);
    answer_put_reason(r, out, py_reply_slice(&reason), py_reply_slice(&stack));
    buf_done(&reason);
    buf_done(&stack);
}
