/* py_coro.c - a coroutine that drives an awaitable for a request and hands on what it comes to. */
#include "config.h"

#include "py_coro.h"
#include "io.h"
#include "py_callback.h"
#include "py_loop.h"
#include "py_server.h"
#include "py_thread.h"

#include <unistd.h>

struct py_coro {
    PyObject_HEAD
    PyObject *inner;         /* a coroutine, or what __await__ has returned; NULL: it has ended */
    PyObject *task;          /* that runs it; NULL: not yet, or not any more */
    const struct request *r; /* borrowed */
    struct proc *process;    /* that it is to Erlang, when it has asked for it; counted */
    py_coro_done *done;      /* NULL: it has been called */
    bool begun, running;
    void *arg;
};

static PyTypeObject py_coro_type;

bool py_coro_check(PyObject *object) {
    return Py_IS_TYPE(object, &py_coro_type);
}

/* It has ended: with result, whose reference is given, or the exception that is set. */
static void py_coro_end(struct py_coro *c, PyObject *result) {
    py_coro_done *done = c->done;

    c->done = NULL;
    py_thread_set_served(c->process);
    c->process = NULL;
    if (done)
        done(c->arg, result);
    else
        Py_XDECREF(result);
    Py_CLEAR(c->inner);
    PyErr_Clear();
    Py_CLEAR(c->task);
}

/* What the thread is while a step runs. */

struct py_coro_step {
    const struct request *outer; /* a step of its makes this one, as an eager Task's is; or NULL */
    struct proc *process;        /* which is that to Erlang */
    struct conn *conn;
    struct proc *server;
    int64_t begun;
};

static struct py_coro_step py_coro_enter(struct py_coro *c) {
    struct py_coro_step step = {.begun = clock_now()};

    step.outer = py_thread_serving();
    step.process = py_thread_take_served();
    step.conn = py_callback_set_conn(c->r->conn);
    step.server = py_server_set_running(c->r->target);
    py_thread_serve(c->r);
    py_thread_set_served(c->process);
    if (!c->begun && py_callback_share() < 0)
        PyErr_WriteUnraisable((PyObject *)c);
    c->begun = c->running = true;
    return step;
}

static void py_coro_leave(struct py_coro *c, const struct py_coro_step *step) {
    c->running = false;
    c->process = py_thread_take_served();
    py_thread_serve(NULL);
    py_server_set_running(step->server);
    py_callback_set_conn(step->conn);
    if (io_forked()) /* it has come back in a child, where there is no node */
        _exit(0);
    py_loop_took(c->r, step->begun);
}

/* The step that made this one goes on. */
static void py_coro_return(const struct py_coro_step *step) {
    if (!step->outer)
        return;
    py_thread_serve(step->outer);
    py_thread_set_served(step->process);
}

/* The rest of a step: what inner has done. NEXT, or RETURN: it has ended. A cancelled Task has to see
 * that it is; anything else is between the request and its caller. */
static PySendResult py_coro_settle(struct py_coro *c, PySendResult sent, PyObject *value,
                                   PyObject **result) {
    PyObject *type, *error, *trace;

    if (sent == PYGEN_NEXT) {
        *result = value;
        return PYGEN_NEXT;
    }
    if (sent == PYGEN_RETURN || !py_loop_is_cancelled()) {
        py_coro_end(c, sent == PYGEN_RETURN ? value : NULL);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    PyErr_Fetch(&type, &error, &trace);
    PyErr_Restore(Py_XNewRef(type), Py_XNewRef(error), Py_XNewRef(trace));
    py_coro_end(c, NULL);
    PyErr_Restore(type, error, trace);
    *result = NULL;
    return PYGEN_ERROR;
}

/* As for any coroutine: a step is none of its own steps, and does not close it. */
static bool py_coro_is_running(const struct py_coro *c) {
    if (c->running)
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return c->running;
}

static PySendResult py_coro_send(PyObject *self, PyObject *arg, PyObject **result) {
    struct py_coro *c = (struct py_coro *)self;
    struct py_coro_step step;
    PyObject *value = NULL, *inner;
    PySendResult sent;

    *result = NULL;
    if (py_coro_is_running(c))
        return PYGEN_ERROR;
    if (!c->inner) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    inner = Py_NewRef(c->inner);
    step = py_coro_enter(c);
    sent = PyIter_Send(inner, arg, &value);
    py_coro_leave(c, &step);
    Py_DECREF(inner);
    sent = py_coro_settle(c, sent, value, result);
    py_coro_return(&step);
    return sent;
}

/* A step's outcome as a method gives it: StopIteration is the end. */
static PyObject *py_coro_give(PySendResult sent, PyObject *result) {
    if (sent == PYGEN_RETURN) {
        Py_XDECREF(result);
        PyErr_SetNone(PyExc_StopIteration);
        return NULL;
    }
    return result;
}

static PyObject *py_coro_send_method(PyObject *self, PyObject *arg) {
    PyObject *result = NULL;
    PySendResult sent = py_coro_send(self, arg, &result);

    return py_coro_give(sent, result);
}

static PyObject *py_coro_iternext(PyObject *self) {
    return py_coro_send_method(self, Py_None);
}

/* Sets what throw(type[, value[, traceback]]) is to raise: 0/-1. */
static int py_coro_set_thrown(PyObject *args) {
    PyObject *type, *value = NULL, *trace = NULL;

    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &trace))
        return -1;
    if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
        return 0;
    }
    if (PyExceptionClass_Check(type)) {
        PyErr_SetObject(type, value == Py_None ? NULL : value);
        return 0;
    }
    PyErr_SetString(PyExc_TypeError, "throw() wants an exception");
    return -1;
}

/* Whether the iterator has ended: the value with which it did. */
static bool py_coro_take_stop(PyObject **value) {
    PyObject *type, *error, *trace;

    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration))
        return false;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    *value = error ? PyObject_GetAttrString(error, "value") : Py_NewRef(Py_None);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return *value != NULL;
}

static PyObject *py_coro_throw(PyObject *self, PyObject *args) {
    struct py_coro *c = (struct py_coro *)self;
    struct py_coro_step step;
    PyObject *value = NULL, *result = NULL, *inner, *throw;
    PySendResult sent = PYGEN_NEXT;

    if (py_coro_is_running(c))
        return NULL;
    if (!c->inner) {
        py_coro_set_thrown(args);
        return NULL;
    }
    inner = Py_NewRef(c->inner);
    step = py_coro_enter(c);
    throw = PyObject_GetAttrString(inner, "throw");
    if (throw) {
        value = PyObject_Call(throw, args, NULL);
    } else { /* an iterator that cannot be thrown into ends by it */
        PyErr_Clear();
        py_coro_set_thrown(args);
    }
    Py_XDECREF(throw);
    if (!value)
        sent = py_coro_take_stop(&value) ? PYGEN_RETURN : PYGEN_ERROR;
    py_coro_leave(c, &step);
    Py_DECREF(inner);
    sent = py_coro_settle(c, sent, value, &result);
    py_coro_return(&step);
    return py_coro_give(sent, result);
}

/* GeneratorExit into it; what it then yields is ignored. */
static PyObject *py_coro_close(PyObject *self, PyObject *unused) {
    struct py_coro *c = (struct py_coro *)self;
    PyObject *inner = c->inner, *none = NULL;

    (void)unused;
    if (py_coro_is_running(c))
        return NULL;
    if (!inner)
        Py_RETURN_NONE;
    c->inner = NULL;
    none = PyObject_HasAttrString(inner, "close") ? PyObject_CallMethod(inner, "close", NULL)
                                                  : Py_NewRef(Py_None);
    if (!none)
        PyErr_WriteUnraisable(inner);
    Py_XDECREF(none);
    Py_DECREF(inner);
    PyErr_SetString(PyExc_RuntimeError, "the event loop has dropped the task");
    py_coro_end(c, NULL);
    Py_RETURN_NONE;
}

static PyObject *py_coro_await(PyObject *self) {
    return Py_NewRef(self);
}

static void py_coro_dealloc(PyObject *self) {
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    Py_XDECREF(py_coro_close(self, NULL));
    Py_XDECREF(((struct py_coro *)self)->task);
    PyErr_Restore(type, error, trace);
    PyObject_Free(self);
}

/* What a Task's repr() shows: the function that Erlang has called. */
static PyObject *py_coro_name(PyObject *self, void *unused) {
    struct py_coro *c = (struct py_coro *)self;
    PyObject *name = c->inner ? PyObject_GetAttrString(c->inner, "__qualname__") : NULL;

    (void)unused;
    PyErr_Clear();
    return name ? name : PyUnicode_FromString("task");
}

static PyObject *py_coro_repr(PyObject *self) {
    struct py_coro *c = (struct py_coro *)self;

    return PyUnicode_FromFormat("<task of Erlang's: %R>", c->inner ? c->inner : Py_None);
}

static PyAsyncMethods py_coro_async = {.am_await = py_coro_await, .am_send = py_coro_send};

static PyMethodDef py_coro_methods[] = {
    {"send", py_coro_send_method, METH_O, NULL},
    {"throw", py_coro_throw, METH_VARARGS, NULL},
    {"close", py_coro_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef py_coro_getset[] = {
    {"__name__", py_coro_name, NULL, NULL, NULL},
    {"__qualname__", py_coro_name, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject py_coro_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_erlang.Coroutine",
    .tp_doc = PyDoc_STR("What the Task of a request runs."),
    .tp_basicsize = sizeof(struct py_coro),
    .tp_dealloc = py_coro_dealloc,
    .tp_repr = py_coro_repr,
    .tp_as_async = &py_coro_async,
    .tp_iternext = py_coro_iternext,
    .tp_iter = PyObject_SelfIter,
    .tp_methods = py_coro_methods,
    .tp_getset = py_coro_getset,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int py_coro_init(void) {
    return PyType_Ready(&py_coro_type);
}

/* What is driven: a coroutine itself, else the iterator that __await__ returns. */
static PyObject *py_coro_inner(PyObject *awaitable) {
    PyAsyncMethods *async = Py_TYPE(awaitable)->tp_as_async;
    PyObject *inner;

    if (PyCoro_CheckExact(awaitable))
        return Py_NewRef(awaitable);
    inner = async->am_await(awaitable);
    if (inner && !PyIter_Check(inner)) {
        PyErr_Format(PyExc_TypeError, "__await__() returned non-iterator of type '%.100s'",
                     Py_TYPE(inner)->tp_name);
        Py_CLEAR(inner);
    }
    return inner;
}

PyObject *py_coro_new(PyObject *awaitable, const struct request *r, py_coro_done *done, void *arg) {
    PyObject *inner = py_coro_inner(awaitable);
    struct py_coro *c = inner ? PyObject_New(struct py_coro, &py_coro_type) : NULL;

    Py_DECREF(awaitable);
    if (!c) {
        Py_XDECREF(inner);
        return NULL;
    }
    c->inner = inner;
    c->task = NULL;
    c->r = r;
    c->process = NULL;
    c->done = done;
    c->begun = c->running = false;
    c->arg = arg;
    return (PyObject *)c;
}

void py_coro_take_process(PyObject *coro) {
    ((struct py_coro *)coro)->process = py_thread_take_served();
}

int py_coro_start(PyObject *coro, PyObject *create_task) {
    struct py_coro *c = (struct py_coro *)coro;
    PyObject *task = PyObject_CallOneArg(create_task, coro);

    if (task && c->done)
        c->task = task;
    else
        Py_XDECREF(task);
    return task ? 0 : -1;
}

void py_coro_cancel(PyObject *coro) {
    struct py_coro *c = (struct py_coro *)coro;
    PyObject *cancelled = c->task ? PyObject_CallMethod(c->task, "cancel", NULL) : NULL;

    if (!cancelled)
        PyErr_Clear();
    Py_XDECREF(cancelled);
}
