/* py_async.c - erlang.async_call: what an event loop of Python's has called, and what comes of it. */
#include "config.h"

#include "py_async.h"
#include "home.h"
#include "io.h"
#include "py.h"
#include "py_callback.h"
#include "py_interrupt.h"
#include "py_thread.h"

#include <limits.h>
#include <stdlib.h>
#include <structmember.h>

enum {
    PY_ASYNC_TURN = 1024,     /* ends that are taken in one turn of the loop */
    PY_ASYNC_BYTES = 4 << 10, /* so many are written at once: Erlang begins while others are made */
};

/* Of the sink's list, until it is taken or withdrawn. */
struct py_async_call {
    struct callback cb; /* the first member */
    struct py_async_call *next, **at;
    PyObject *future; /* or NULL: nobody wants its end */
    PyObject *name;
};

typedef struct py_async_sink {
    PyObject_HEAD
    struct py_async_sink *next, **at; /* of all sinks */
    struct callback_sink sink;
    struct py_async_call *calls;
    PyObject *loop, *call_soon;
    struct conn
        *unwritten;  /* counted: has something of ours; flush() is to be called soon. Or NULL */
    size_t gathered; /* bytes since the last write */
} PySinkObject;

static PySinkObject *py_async_sinks; /* borrowed; the one that was used last is the first */
static PyObject *py_async_text_done, *py_async_text_set_result, *py_async_text_set_exception;

/* Calls. */

static void py_async_free(struct py_async_call *call) {
    callback_release(&call->cb);
    Py_XDECREF(call->future);
    Py_XDECREF(call->name);
    free(call);
}

static void py_async_unlink(struct py_async_call *call) {
    *call->at = call->next;
    if (call->next)
        call->next->at = call->at;
}

/* A new call, with a number; conn's reference is taken. */
static struct py_async_call *py_async_begin(PySinkObject *self, struct conn *conn, PyObject *name,
                                            PyObject *future) {
    struct py_async_call *call = xmalloc(sizeof *call);

    callback_begin_in(&call->cb, conn, &self->sink);
    call->future = Py_NewRef(future);
    call->name = Py_NewRef(name);
    call->next = self->calls;
    call->at = &self->calls;
    if (call->next)
        call->next->at = &call->next;
    self->calls = call;
    return call;
}

/* Nobody wants its end: whether it had none so far, and is no more. */
static bool py_async_forget(struct py_async_call *call) {
    if (!callback_withdraw(&call->cb)) { /* it will be taken */
        Py_CLEAR(call->future);
        return false;
    }
    py_async_unlink(call);
    return true;
}

/* Writing. */

static void py_async_write(PySinkObject *self) {
    struct conn *conn = self->unwritten;

    self->unwritten = NULL;
    if (!conn)
        return;
    if (!io_forked())
        io_flush(conn);
    conn_unref(conn);
}

/* The same, outside Python. */
static void py_async_write_outside(PySinkObject *self, struct conn *conn) {
    self->gathered = 0;
    py_leave();
    io_flush(conn);
    py_enter();
}

/* It has something to write: whether nobody is to do that yet. */
static bool py_async_note(PySinkObject *self, struct conn *conn) {
    if (self->unwritten == conn)
        return false;
    py_async_write(self); /* that of another node: rare */
    self->unwritten = conn_ref(conn);
    return true;
}

/* The loop is to write in its next turn: 0/-1. */
static int py_async_write_soon(PySinkObject *self) {
    PyObject *flush = PyObject_GetAttrString((PyObject *)self, "flush"), *handle = NULL;

    if (flush)
        handle = PyObject_CallOneArg(self->call_soon, flush);
    Py_XDECREF(flush);
    Py_XDECREF(handle);
    return handle ? 0 : -1;
}

/* Tells Erlang that nobody waits for it any more: gathered only. */
static bool py_async_put_drop(PySinkObject *self, struct py_async_call *call) {
    struct buf item = {0};

    py_callback_drop_item(&item, &call->cb);
    outbox_gather(&call->cb.conn->out, &item);
    buf_done(&item);
    return py_async_note(self, call->cb.conn);
}

/* The same, and has it written: at once if the loop runs no more, or not in this thread. */
static void py_async_drop(PySinkObject *self, struct py_async_call *call) {
    if (!py_async_put_drop(self, call))
        return;
    if (self->sink.thread != PyThread_get_thread_ident() || py_async_write_soon(self) < 0) {
        PyErr_Clear();
        py_async_write(self);
    }
}

/* The methods. */

/* Gathers it: 0/-1. */
static int py_async_send(PySinkObject *self, struct py_async_call *call,
                         const struct py_callback *asked) {
    struct conn *conn = call->cb.conn;
    struct buf item = {0};
    int result = py_callback_item(&item, &call->cb, asked);

    self->gathered += item.len;
    if (result == 0 && !outbox_gather(&conn->out, &item)) {
        py_callback_lost(conn->peer);
        result = -1;
    }
    buf_done(&item);
    if (result < 0)
        return -1;
    if (self->gathered >= PY_ASYNC_BYTES)
        py_async_write_outside(self, conn);
    else if (py_async_note(self, conn))
        return py_async_write_soon(self);
    return 0;
}

PyDoc_STRVAR(py_async_call_doc,
             "call(future, name, args, timeout, node)\n--\n\n"
             "Calls it; the end is the future's. The number of the call; or, when there is no\n"
             "connection for such calls, the name of the node that is to be called otherwise.\n");

static PyObject *py_async_call(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    PySinkObject *self = (PySinkObject *)op;
    struct py_callback asked;
    struct py_async_call *call;
    struct conn *conn;
    uint64_t id;

    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "call() wants five arguments");
        return NULL;
    }
    if (py_callback_set(&asked, "async_call", args[1], args[3], args[4]) < 0)
        return NULL;
    if (!self->call_soon) {
        PyErr_SetString(PyExc_RuntimeError, "the loop is gone");
        return NULL;
    }
    conn = home_conn_to(asked.peer);
    if (!conn)
        return PyUnicode_FromString(asked.peer);
    asked.args = PySequence_List(args[2]);
    if (!asked.args) {
        conn_unref(conn);
        return NULL;
    }
    self->sink.thread = PyThread_get_thread_ident();
    call = py_async_begin(self, conn, asked.name, args[0]);
    id = call->cb.id;
    if (py_async_send(self, call, &asked) < 0) {
        if (py_async_forget(call))
            py_async_free(call);
        id = 0;
    }
    Py_DECREF(asked.args);
    return id > 0 ? PyLong_FromUnsignedLongLong(id) : NULL;
}

/* The call of that number, or NULL: it has been taken. With an exception if it is no number. */
static struct py_async_call *py_async_find(PySinkObject *self, PyObject *number) {
    uint64_t id = PyLong_AsUnsignedLongLong(number);

    if ((id == (uint64_t)-1 && PyErr_Occurred()) || io_forked())
        return NULL;
    return (struct py_async_call *)callback_find(&self->sink, id);
}

PyDoc_STRVAR(py_async_cancel_doc,
             "drop(number)\n--\n\n"
             "Nobody waits for that call any more; nothing if it has ended.\n");

static PyObject *py_async_cancel(PyObject *op, PyObject *number) {
    PySinkObject *self = (PySinkObject *)op;
    struct py_async_call *call = py_async_find(self, number);

    if (call && py_async_forget(call)) {
        py_async_drop(self, call);
        py_async_free(call);
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* Resolves the future, unless it is already: 0, or -1 with what is to end the loop, as a signal's handler
 * may raise it here. Other exceptions are nobody's. */
static int py_async_resolve(PyObject *future, PyObject *value, PyObject *error) {
    bool raised;

    PyObject *done = PyObject_CallMethodNoArgs(future, py_async_text_done), *set = NULL;

    if (done == Py_False)
        set = value ? PyObject_CallMethodOneArg(future, py_async_text_set_result, value)
                    : PyObject_CallMethodOneArg(future, py_async_text_set_exception, error);
    raised = !done || (done == Py_False && !set);
    if (raised && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(future);
        raised = false;
    }
    Py_XDECREF(done);
    Py_XDECREF(set);
    return raised ? -1 : 0;
}

/* The exception that is set, as an object: new reference. */
static PyObject *py_async_fetch(void) {
    PyObject *type, *value, *trace;

    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace && value)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}

/* With the exception that is set: 0/-1. */
static int py_async_fail(PyObject *future) {
    PyObject *error = py_async_fetch();
    int result = error ? py_async_resolve(future, NULL, error) : 0;

    Py_XDECREF(error);
    return result;
}

PyDoc_STRVAR(py_async_late_doc,
             "late(number)\n--\n\n"
             "The time limit of that call has passed; nothing if it has ended.\n");

static PyObject *py_async_late(PyObject *op, PyObject *number) {
    PySinkObject *self = (PySinkObject *)op;
    struct py_async_call *call = py_async_find(self, number);

    if (call && callback_withdraw(&call->cb)) {
        py_async_unlink(call);
        py_async_drop(self, call);
        py_callback_late(call->name);
        py_async_fail(call->future);
        py_async_free(call);
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static int py_async_end(struct py_async_call *call) {
    PyObject *value = NULL;
    int result;

    if (!call->future)
        return 0;
    if (atomic_load(&call->cb.state) == CALLBACK_ANSWERED)
        value = py_callback_value(call->name,
                                  (struct slice){call->cb.answer.data, call->cb.answer.len});
    else
        py_callback_lost(call->cb.conn->peer);
    result = value ? py_async_resolve(call->future, value, NULL) : py_async_fail(call->future);
    Py_XDECREF(value);
    return result;
}

/* The call that this thread serves was cancelled: erlang.Cancelled is raised in whoever waits, as in
 * erlang.call(). */
static void py_async_interrupt(PySinkObject *self) {
    struct py_async_call *call = self->calls, *next, *ended = NULL;
    PyObject *error;

    if (!py_thread_check_cancelled())
        return;
    error = py_async_fetch();
    for (; call; call = next) {
        next = call->next;
        if (!callback_withdraw(&call->cb)) /* it will be taken */
            continue;
        py_async_unlink(call);
        call->next = ended;
        ended = call;
    }
    for (; ended; ended = next) {
        next = ended->next;
        py_async_drop(self, ended);
        if (ended->future && error && py_async_resolve(ended->future, NULL, error) < 0)
            PyErr_WriteUnraisable(ended->future);
        py_async_free(ended);
    }
    Py_XDECREF(error);
}

PyDoc_STRVAR(py_async_drain_doc,
             "drain()\n--\n\n"
             "Resolves the futures of what has ended: for the loop's reader.\n");

static PyObject *py_async_drain(PyObject *op, PyObject *unused) {
    PySinkObject *self = (PySinkObject *)op;
    PyObject *first = NULL; /* that is to end the loop */
    struct callback *cb;

    (void)unused;
    if (io_forked())
        return Py_NewRef(Py_None);
    if (atomic_exchange(&self->sink.interrupted, false))
        py_async_interrupt(self);
    for (cb = callback_take(&self->sink, PY_ASYNC_TURN); cb;) {
        struct py_async_call *call = (struct py_async_call *)cb;

        cb = cb->ready;
        py_async_unlink(call);
        if (py_async_end(call) < 0 && !first)
            first = py_async_fetch();
        PyErr_Clear();
        py_async_free(call);
    }
    if (!first)
        return Py_NewRef(Py_None);
    PyErr_SetObject((PyObject *)Py_TYPE(first), first);
    Py_DECREF(first);
    return NULL;
}

PyDoc_STRVAR(py_async_flush_doc, "flush()\n--\n\n"
                                 "Writes what has been gathered.\n");

static PyObject *py_async_flush(PyObject *op, PyObject *unused) {
    PySinkObject *self = (PySinkObject *)op;
    struct conn *conn = self->unwritten;

    (void)unused;
    self->unwritten = NULL;
    if (conn && !io_forked())
        py_async_write_outside(self, conn);
    if (conn)
        conn_unref(conn);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(py_async_waiting_doc, "waiting()\n--\n\n"
                                   "How many calls have not been resolved nor dropped.\n");

static PyObject *py_async_waiting(PyObject *op, PyObject *unused) {
    long n = 0;

    (void)unused;
    for (struct py_async_call *call = ((PySinkObject *)op)->calls; call; call = call->next)
        n++;
    return PyLong_FromLong(n);
}

PyDoc_STRVAR(py_async_fileno_doc, "fileno()\n--\n\n"
                                  "The descriptor that the loop is to watch, for drain().\n");

static PyObject *py_async_fileno(PyObject *op, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(((PySinkObject *)op)->sink.wake.fd);
}

/* The type. */

static void py_async_link(PySinkObject *self) {
    self->next = py_async_sinks;
    self->at = &py_async_sinks;
    if (self->next)
        self->next->at = &self->next;
    py_async_sinks = self;
}

static void py_async_unlink_sink(PySinkObject *self) {
    *self->at = self->next;
    if (self->next)
        self->next->at = self->at;
}

static PyObject *py_async_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *loop, *call_soon;
    PySinkObject *self;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OO:_Sink", &loop, &call_soon))
        return NULL;
    self = (PySinkObject *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->sink.wake.fd = -1;
    py_async_link(self);
    if (callback_sink_init(&self->sink) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    self->sink.thread = PyThread_get_thread_ident();
    self->loop = Py_NewRef(loop);
    self->call_soon = Py_NewRef(call_soon);
    return (PyObject *)self;
}

static int py_async_traverse(PyObject *op, visitproc visit, void *arg) {
    PySinkObject *self = (PySinkObject *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->call_soon);
    for (struct py_async_call *call = self->calls; call; call = call->next) {
        Py_VISIT(call->future);
        Py_VISIT(call->name);
    }
    return 0;
}

/* Drops what has not ended, and forgets what has. What is let go may run Python code. */
static int py_async_clear(PyObject *op) {
    PySinkObject *self = (PySinkObject *)op;
    struct py_async_call *call, *calls = self->calls;
    bool forked = io_forked();

    for (call = calls; call; call = call->next)
        if (!forked && callback_withdraw(&call->cb))
            py_async_put_drop(self, call);
    if (!forked)
        callback_take(&self->sink, INT_MAX);
    py_async_write(self);
    self->calls = NULL;
    while ((call = calls)) {
        calls = call->next;
        py_async_free(call);
    }
    Py_CLEAR(self->loop);
    Py_CLEAR(self->call_soon);
    return 0;
}

static void py_async_dealloc(PyObject *op) {
    PySinkObject *self = (PySinkObject *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    py_async_unlink_sink(self);
    py_async_clear(op);
    if (!io_forked())
        callback_sink_done(&self->sink);
    else
        wake_done(&self->sink.wake);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef py_async_methods[] = {
    {"call", (PyCFunction)(void (*)(void))py_async_call, METH_FASTCALL, py_async_call_doc},
    {"drop", py_async_cancel, METH_O, py_async_cancel_doc},
    {"late", py_async_late, METH_O, py_async_late_doc},
    {"drain", py_async_drain, METH_NOARGS, py_async_drain_doc},
    {"flush", py_async_flush, METH_NOARGS, py_async_flush_doc},
    {"waiting", py_async_waiting, METH_NOARGS, py_async_waiting_doc},
    {"fileno", py_async_fileno, METH_NOARGS, py_async_fileno_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot py_async_slots[] = {
    {Py_tp_doc, "_Sink(loop, call_soon): what a loop has called, and what comes of it."},
    {Py_tp_new, py_async_new},
    {Py_tp_dealloc, py_async_dealloc},
    {Py_tp_traverse, py_async_traverse},
    {Py_tp_clear, py_async_clear},
    {Py_tp_methods, py_async_methods},
    {0, NULL},
};

static PyType_Spec py_async_spec = {
    .name = "_erlang._Sink",
    .basicsize = sizeof(PySinkObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = py_async_slots,
};

int py_async_add(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &py_async_spec, NULL);
    int added = type ? PyModule_AddObjectRef(module, "_Sink", type) : -1;

    Py_XDECREF(type);
    py_async_text_done = PyUnicode_InternFromString("done");
    py_async_text_set_result = PyUnicode_InternFromString("set_result");
    py_async_text_set_exception = PyUnicode_InternFromString("set_exception");
    return py_async_text_done && py_async_text_set_result && py_async_text_set_exception ? added
                                                                                         : -1;
}

PyObject *py_async_sink(PyObject *unused, PyObject *loop) {
    (void)unused;
    for (PySinkObject *self = py_async_sinks; self; self = self->next)
        if (self->loop == loop) {
            if (self != py_async_sinks) {
                py_async_unlink_sink(self);
                py_async_link(self);
            }
            return Py_NewRef((PyObject *)self);
        }
    return Py_NewRef(Py_None);
}
