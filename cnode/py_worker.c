/* py_worker.c - what a thread of the pool does with requests: decode, call, encode, answer. */
#include "config.h"

#include "py_worker.h"
#include "conn.h"
#include "io.h"
#include "lead.h"
#include "load.h"
#include "py.h"
#include "py_call.h"
#include "py_callback.h"
#include "py_interrupt.h"
#include "py_reply.h"
#include "py_schedule.h"
#include "py_server.h"
#include "py_stream.h"
#include "py_thread.h"
#include "stats.h"

#include <unistd.h>

static void py_worker_start(struct exec_worker *w) {
    w->python_id = PyThread_get_thread_ident();
    py_attach();
}

static void py_worker_stop(struct exec_worker *w) {
    (void)w;
    py_detach();
}

static bool py_worker_lead(struct exec_worker *w) {
    return lead_as_worker(w->number);
}

static bool py_worker_hold(const struct request *r) {
    return conn_hold(r->conn);
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

static PyObject *py_worker_call(struct exec_worker *w, struct request *r) {
    if (r->context)
        return py_schedule_run(r);
    stats_add(STATS_CALLS, 1);
    if (py_worker_ends_queue(r))
        return py_worker_end_queue(w);
    return r->target ? py_server_handle(r) : py_call(r);
}

/* The same, and what it yields is sent if it is a stream. What is not to be had in a worker is left. */
static PyObject *py_worker_result(struct exec_worker *w, struct request *r) {
    PyObject *result = py_worker_call(w, r);

    if (result && r->options.stream > 0 && py_stream_is_plain(result))
        return py_stream_run(r, result);
    return result;
}

static bool py_worker_is_pending(const struct request *r, PyObject *result) {
    return py_schedule_is_pending(result) || (r->options.stream > 0 && result != Py_None);
}

/* What it has come to is not all of it: it goes on elsewhere or later, and is w's no more. Takes result
 * if so. */
static bool py_worker_passes_on(struct exec_worker *w, struct request *r, PyObject *result) {
    bool passed;

    r->context = result;
    passed = py_schedule_is_call(result) ? exec_requeue(w, r) : exec_adopt(w, r);
    if (!passed)
        r->context = NULL;
    return passed;
}

/* Runs one request to its end, or as far as it gets, and leaves its answer in the connection's outbox. */
static void py_worker_run(struct exec_worker *w, struct request *r, struct py_reply_batch *batch) {
    struct buf exit = {0};
    PyObject *result;

    py_callback_set_conn(r->conn);
    py_thread_serve(r);
    py_schedule_begin();
    result = py_worker_result(w, r);
    py_callback_set_conn(NULL);
    if (io_forked()) /* the call has forked and come back twice: here is no node to serve */
        _exit(0);
    if (result && py_worker_is_pending(r, result)) {
        if (py_worker_passes_on(w, r, result)) {
            py_thread_served((struct slice){0});
            return;
        }
        py_schedule_drop(result);
        result = NULL;
        PyErr_SetNone(py_interrupt_exception());
    }
    py_reply_end(w, r, result, &w->out, &exit, batch);
    py_thread_served((struct slice){exit.data, exit.len});
    buf_done(&exit);
}

static void py_worker_serve(struct exec_worker *w) {
    struct py_reply_batch batch = {.len = 0};
    int64_t since = load_entering();
    struct request *r;

    py_enter();
    load_entered(since);
    atomic_store(&w->state, EXEC_RUNNING);
    py_release_deferred();
    while ((r = exec_pop(w))) {
        py_reply_pace(&batch, w->since);
        py_worker_run(w, r, &batch);
    }
    py_leave();
    py_reply_flush(&batch);
}

const struct exec_hooks py_worker_hooks = {
    .start = py_worker_start,
    .serve = py_worker_serve,
    .lead = py_worker_lead,
    .stop = py_worker_stop,
    .hold = py_worker_hold,
    .interrupt = py_interrupt,
};
