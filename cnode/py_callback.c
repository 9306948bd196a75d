/* py_callback.c - erlang.call: a Python thread calls an Erlang function and waits for its value. */
#include "config.h"

#include "py_callback.h"
#include "callback.h"
#include "clock.h"
#include "home.h"
#include "io.h"
#include "py.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_interrupt.h"
#include "route.h"

static _Thread_local struct conn *py_callback_conn; /* borrowed: the request has it */

struct conn *py_callback_set_conn(struct conn *conn) {
    struct conn *before = py_callback_conn;

    py_callback_conn = conn;
    return before;
}

struct conn *py_callback_get_conn(void) {
    return py_callback_conn;
}

/* Raises the class of erlang.errors; steals reason. */
static void py_callback_raise(const char *name, PyObject *reason, PyObject *class,
                              PyObject *stack) {
    PyObject *errors = PyImport_ImportModule("erlang.errors"), *type = NULL, *error = NULL;

    if (errors && reason)
        type = PyObject_GetAttrString(errors, name);
    if (type && class)
        error = PyObject_CallFunctionObjArgs(type, reason, class, stack, NULL);
    else if (type)
        error = PyObject_CallFunctionObjArgs(type, reason, NULL);
    if (error)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_XDECREF(type);
    Py_XDECREF(errors);
    Py_XDECREF(reason);
}

/* {py_call, Pid, Name, Args} to the coordinator of the application there: 0/-1. */
static int py_callback_frame(struct buf *out, const struct callback *cb, PyObject *name,
                             PyObject *args) {
    struct buf self = {0}, to = {0};
    size_t begin = dist_begin(out);
    int result;

    request_put_pid(&self, cb->id, cb->serial);
    etf_put_atom(&to, "py_coordinator");
    dist_put_reg_send(out, (struct slice){self.data, self.len}, (struct slice){to.data, to.len});
    etf_put_tuple(out, 4);
    etf_put_atom(out, "py_call");
    etf_put_slice(out, (struct slice){self.data, self.len});
    result = py_encode(out, name, "name");
    if (result == 0)
        result = py_encode(out, args, "args");
    if (result == 0 && dist_end(out, begin) < 0) {
        PyErr_SetString(PyExc_ValueError, "args: longer than a distribution frame can be");
        result = -1;
    }
    buf_done(&self);
    buf_done(&to);
    return result;
}

/* Sends the frame and waits, outside Python; signals are looked at in between. */
static enum callback_state py_callback_wait(struct callback *cb, struct buf *frame,
                                            int64_t deadline) {
    enum callback_state state = CALLBACK_WAITING;

    py_leave();
    outbox_put_buf(&cb->conn->out, frame);
    io_flush(cb->conn);
    for (;;) {
        state = callback_wait(cb, deadline);
        if (state != CALLBACK_WAITING || (deadline > 0 && clock_now() >= deadline))
            break;
        py_enter();
        if (PyErr_CheckSignals() < 0)
            return CALLBACK_WAITING;
        py_leave();
    }
    py_enter();
    return state;
}

/* {py_reply, Class, Value, Stack}: Class is ok, error, exit or throw, or not_registered. */
static PyObject *py_callback_value(const struct callback *cb, PyObject *name) {
    struct etf at = {cb->answer.data, cb->answer.data + cb->answer.len};
    PyObject *reply = py_decode(&at, "answer"), *class, *value, *result = NULL;

    if (!reply)
        return NULL;
    if (!PyTuple_Check(reply) || PyTuple_GET_SIZE(reply) != 4) {
        PyErr_SetString(PyExc_RuntimeError, "the answer is none");
        Py_DECREF(reply);
        return NULL;
    }
    class = PyTuple_GET_ITEM(reply, 1);
    value = PyTuple_GET_ITEM(reply, 2);
    if (PyUnicode_CompareWithASCIIString(class, "ok") == 0)
        result = Py_NewRef(value);
    else if (PyUnicode_CompareWithASCIIString(class, "not_registered") == 0)
        py_callback_raise("ErlangError", PyUnicode_FromFormat("Function '%U' not registered", name),
                          NULL, NULL);
    else
        py_callback_raise("ErlangError", Py_NewRef(value), class, PyTuple_GET_ITEM(reply, 3));
    Py_DECREF(reply);
    return result;
}

static PyObject *py_callback_run(struct conn *conn, PyObject *name, PyObject *args,
                                 int64_t deadline) {
    struct buf frame = {0};
    struct callback cb;
    PyObject *result = NULL;

    callback_begin(&cb, conn);
    cb.thread = PyThread_get_thread_ident();
    if (py_callback_frame(&frame, &cb, name, args) == 0) {
        switch (py_callback_wait(&cb, &frame, deadline)) {
        case CALLBACK_ANSWERED:
            result = py_callback_value(&cb, name);
            break;
        case CALLBACK_LOST:
            py_callback_raise(
                "ErlangError",
                PyUnicode_FromFormat("the connection to %s was lost during the call", conn->peer),
                NULL, NULL);
            break;
        case CALLBACK_INTERRUPTED: /* raised here, so not once more at the next bytecode */
            py_forget_raised();
            PyErr_SetNone(py_interrupt_exception());
            break;
        case CALLBACK_WAITING:
            if (!PyErr_Occurred())
                py_callback_raise("TimeoutError",
                                  PyUnicode_FromFormat("no answer from '%U' in time", name), NULL,
                                  NULL);
            break;
        }
    }
    callback_end(&cb);
    route_process_ended(cb.id, cb.serial);
    buf_done(&frame);
    return result;
}

/* A time limit in seconds as a deadline, 0 for None: 0/-1. */
static int py_callback_deadline(PyObject *timeout, int64_t *deadline) {
    double seconds;

    *deadline = 0;
    if (timeout == Py_None)
        return 0;
    seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be negative");
        return -1;
    }
    if (seconds < 1e9)
        *deadline = clock_now() + (int64_t)(seconds * 1e9) + 1;
    return 0;
}

PyObject *py_callback_call(PyObject *self, PyObject *args) {
    PyObject *name, *list, *timeout;
    struct conn *conn;
    int64_t deadline;

    (void)self;
    if (!PyArg_ParseTuple(args, "UO!O:call", &name, &PyList_Type, &list, &timeout) ||
        py_callback_deadline(timeout, &deadline) < 0)
        return NULL;
    conn = io_forked() ? NULL : home_conn(py_callback_conn);
    if (conn)
        return py_callback_run(conn, name, list, deadline);
    py_callback_raise("ErlangError",
                      PyUnicode_FromString(io_forked()
                                               ? "this process is a fork of the node: only the "
                                                 "node itself can call Erlang"
                                               : "no Erlang node with the application pynode is "
                                                 "attached"),
                      NULL, NULL);
    return NULL;
}
