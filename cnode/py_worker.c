/* py_worker.c - what a thread of the pool does with requests: decode, call, encode, answer. */
#include "config.h"

#include "py_worker.h"
#include "answer.h"
#include "conn.h"
#include "home.h"
#include "io.h"
#include "log.h"
#include "py.h"
#include "py_call.h"
#include "py_callback.h"
#include "py_encode.h"
#include "py_error.h"
#include "py_interrupt.h"
#include "py_server.h"
#include "py_thread.h"
#include "route.h"
#include "stats.h"

#include <unistd.h>

enum {
    PY_WORKER_CONNS = 16,        /* connections with answers that have not been written yet */
    PY_WORKER_FLUSH_NS = 100000, /* the longest an answer waits for others in the same batch */
};

/* The connections that this batch has answered, each counted. */
struct py_worker_batch {
    struct conn *conns[PY_WORKER_CONNS];
    size_t len;
    int64_t since;
};

static void py_worker_start(struct exec_worker *w) {
    w->python_id = PyThread_get_thread_ident();
    py_attach();
}

static void py_worker_stop(struct exec_worker *w) {
    (void)w;
    py_detach();
}

static bool py_worker_lead(struct exec_worker *w) {
    return io_lead(w->number);
}

static bool py_worker_hold(const struct request *r) {
    return conn_hold(r->conn);
}

static struct slice py_worker_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Logs what nobody is told: an error in a call that wants no answer. */
static void py_worker_log(const struct request *r, const char *line) {
    if (r->target)
        log_warning("server %s: %s", r->target->name, line);
    else
        log_warning("cast %.*s:%.*s: %s", (int)r->module.len, (const char *)r->module.data,
                    (int)r->function.len, (const char *)r->function.data, line);
}

static bool py_worker_is_unheard(const struct request *r) {
    return r->kind == REQUEST_SERVER_CAST || r->kind == REQUEST_SERVER_INFO ||
           r->kind == REQUEST_CAST || r->kind == REQUEST_REX_CAST || r->kind == REQUEST_APP_CAST ||
           (r->kind == REQUEST_SPAWN && r->spawn_flags == 0);
}

/* Answers with the exception that is set. */
static void py_worker_fail(struct request *r, struct buf *out, struct buf *exit) {
    struct buf reason = {0}, stack = {0};
    char line[512];

    stats_add(STATS_ERRORS, 1);
    if (py_call_refused()) {
        PyErr_Clear();
        etf_put_tuple(&reason, 2);
        etf_put_atom(&reason, "not_allowed");
        etf_put_tuple(&reason, 2);
        etf_put_atom_slice(&reason, r->module);
        etf_put_atom_slice(&reason, r->function);
        etf_put_nil(&stack);
    } else {
        py_error_take(&reason, &stack, line, sizeof line);
        if (py_worker_is_unheard(r)) {
            py_leave();
            py_worker_log(r, line);
            py_enter();
        }
    }
    route_told(r);
    answer_error(r, out, py_worker_slice(&reason), py_worker_slice(&stack));
    etf_put_tuple(exit, 2);
    etf_put_slice(exit, py_worker_slice(&reason));
    etf_put_slice(exit, py_worker_slice(&stack));
    buf_done(&reason);
    buf_done(&stack);
}

/* Answers a request that was interrupted although somebody still waits for it: its queue was dropped. */
static void py_worker_cancelled(struct request *r, struct buf *out) {
    PyErr_Clear();
    stats_add(STATS_CANCELLED, 1);
    answer_refuse(r, out, "cancelled");
}

/* Encodes the answer of a request that went well; what has no Erlang form is its error. */
static void py_worker_succeed(struct request *r, struct buf *out, struct buf *exit,
                              PyObject *result) {
    size_t begin;

    if (!answer_begin(r, out, &begin)) {
        answer_done(r, out);
        return;
    }
    if (py_encode(out, result, "result") == 0) {
        if (answer_end(r, out, begin) == 0)
            return;
        PyErr_SetString(PyExc_ValueError, "result: longer than a distribution frame can be");
    }
    out->len = begin;
    py_worker_fail(r, out, exit);
}

/* pynode:end_queue(): the thread that runs it ends with it. */
static PyObject *py_worker_end_queue(struct exec_worker *w) {
    if (!w->queue) {
        PyErr_SetString(PyExc_RuntimeError, "pynode:end_queue() runs in the queue that it ends");
        return NULL;
    }
    exec_end_queue(w);
    Py_RETURN_NONE;
}

static bool py_worker_ends_queue(const struct request *r) {
    return r->kind == REQUEST_APP_CALL && etf_atom_is(r->module, "pynode") &&
           etf_atom_is(r->function, "end_queue");
}

static PyObject *py_worker_call(struct exec_worker *w, const struct request *r) {
    stats_add(STATS_CALLS, 1);
    if (py_worker_ends_queue(r))
        return py_worker_end_queue(w);
    return r->target ? py_server_handle(r) : py_call(r);
}

/* Writes all answers of the batch so far. Outside Python. */
static void py_worker_flush(struct py_worker_batch *batch) {
    for (size_t i = 0; i < batch->len; i++) {
        io_flush(batch->conns[i]);
        conn_unref(batch->conns[i]);
    }
    batch->len = 0;
}

/* Remembers c to be written to later. */
static void py_worker_touch(struct py_worker_batch *batch, struct conn *c) {
    for (size_t i = 0; i < batch->len; i++)
        if (batch->conns[i] == c)
            return;
    if (batch->len == PY_WORKER_CONNS) {
        py_leave();
        py_worker_flush(batch);
        py_enter();
    }
    batch->conns[batch->len++] = conn_ref(c);
}

/* Runs one request to its end and leaves its answer in the connection's outbox. */
static void py_worker_run(struct exec_worker *w, struct request *r, struct py_worker_batch *batch) {
    PyObject *result;
    struct buf *out = &w->out, exit = {0};
    bool wanted;

    py_callback_set_conn(r->conn);
    py_thread_serve(r);
    result = py_worker_call(w, r);
    py_callback_set_conn(NULL);
    if (io_forked()) /* the call has forked and come back twice: here is no node to serve */
        _exit(0);
    wanted = exec_claim(r);
    if (r->interrupted) /* what it has not been hit by must not hit another */
        py_forget_raised();
    if (wanted) {
        if (result)
            py_worker_succeed(r, out, &exit, result);
        else if (r->interrupted && PyErr_ExceptionMatches(py_interrupt_exception()))
            py_worker_cancelled(r, out);
        else
            py_worker_fail(r, out, &exit);
        if (out->len > 0) {
            route_put(r, out);
            py_worker_touch(batch, r->conn);
        }
    } else {
        PyErr_Clear();
        if (r->kind == REQUEST_APP_CALL) {
            home_put_ended(r->conn, r->ref);
            py_worker_touch(batch, r->conn);
        }
    }
    if (wanted && r->reported)
        home_put_ended(r->conn, r->ref);
    py_server_handled(r);
    Py_XDECREF(result);
    if (exit.len == 0)
        etf_put_atom(&exit, "normal");
    exec_finish(w, r);
    route_ended(r, py_worker_slice(&exit));
    py_thread_served(py_worker_slice(&exit));
    buf_done(&exit);
}

static void py_worker_serve(struct exec_worker *w) {
    struct py_worker_batch batch = {.len = 0};
    struct request *r;

    py_enter();
    atomic_store(&w->state, EXEC_RUNNING);
    py_release_deferred();
    while ((r = exec_pop(w))) {
        if (batch.len == 0) {
            batch.since = w->since;
        } else if (w->since - batch.since > PY_WORKER_FLUSH_NS) {
            py_leave();
            py_worker_flush(&batch);
            py_enter();
            batch.since = w->since;
        }
        py_worker_run(w, r, &batch);
    }
    py_leave();
    py_worker_flush(&batch);
}

const struct exec_hooks py_worker_hooks = {
    .start = py_worker_start,
    .serve = py_worker_serve,
    .lead = py_worker_lead,
    .stop = py_worker_stop,
    .hold = py_worker_hold,
    .interrupt = py_interrupt,
};
