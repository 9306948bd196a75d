/* py_future.c - the Future of a BlockingExecutor: it makes its lock only when somebody waits. */
#include "config.h"

#include "py_future.h"

#include <structmember.h>

/* erlang.blocking's Future, its slots, and what it has of concurrent.futures. */
static struct {
    PyTypeObject *type;
    Py_ssize_t state, result, exception, lock, waiters, callbacks; /* offsets of the slots */
    PyObject *pending, *running, *finished, *cancelled, *notified; /* the texts of the states */
    PyObject *base_start, *base_set_result, *base_set_exception, *base_result, *base_done,
        *base_cancel;
    PyObject *condition; /* threading.Condition */
} py_future;

static PyObject **py_future_slot(PyObject *self, Py_ssize_t offset) {
    return (PyObject **)((char *)self + offset);
}

static PyObject *py_future_state(PyObject *self) {
    return *py_future_slot(self, py_future.state);
}

/* Whether the base class has to do it: somebody may hold the lock, or waits for a call back. */
static bool py_future_is_shared(PyObject *self) {
    return *py_future_slot(self, py_future.lock) || *py_future_slot(self, py_future.callbacks);
}

static void py_future_set(PyObject *self, Py_ssize_t offset, PyObject *value) {
    PyObject **slot = py_future_slot(self, offset);

    Py_XSETREF(*slot, Py_NewRef(value));
}

PyObject *py_future_new(void) {
    PyObject *self = py_future.type->tp_alloc(py_future.type, 0);

    if (!self)
        return NULL;
    py_future_set(self, py_future.state, py_future.pending);
    py_future_set(self, py_future.result, Py_None);
    py_future_set(self, py_future.exception, Py_None);
    return self;
}

/* The base class's method; its errors go to sys.unraisablehook. */
static bool py_future_call_base(PyObject *method, PyObject *self, PyObject *value) {
    PyObject *result = PyObject_CallFunctionObjArgs(method, self, value, NULL);
    bool yes = result == Py_True;

    if (!result)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(result);
    return yes;
}

bool py_future_start(PyObject *self) {
    if (py_future_is_shared(self) || py_future_state(self) != py_future.pending)
        return py_future_call_base(py_future.base_start, self, NULL);
    py_future_set(self, py_future.state, py_future.running);
    return true;
}

void py_future_end(PyObject *self, PyObject *result, PyObject *exception) {
    if (py_future_is_shared(self) || py_future_state(self) != py_future.running) {
        py_future_call_base(result ? py_future.base_set_result : py_future.base_set_exception, self,
                            result ? result : exception);
        return;
    }
    if (result)
        py_future_set(self, py_future.result, result);
    else
        py_future_set(self, py_future.exception, exception);
    py_future_set(self, py_future.state, py_future.finished);
}

/* Cancels it by the base class's method: 0/-1. */
static int py_future_try_cancel(PyObject *self) {
    PyObject *result = PyObject_CallOneArg(py_future.base_cancel, self);

    if (result && py_future_state(self) == py_future.cancelled)
        Py_SETREF(result, PyObject_CallOneArg(py_future.base_start, self));
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* A signal handler may raise in the middle of it: then what was left undone is done once more. */
int py_future_cancel(PyObject *self) {
    PyObject *type, *value, *traceback;

    if (!py_future_is_shared(self) && py_future_state(self) == py_future.pending) {
        py_future_set(self, py_future.state, py_future.notified);
        return 0;
    }
    if (py_future_try_cancel(self) == 0)
        return 0;
    PyErr_Fetch(&type, &value, &traceback);
    if (py_future_try_cancel(self) < 0)
        PyErr_WriteUnraisable(self);
    PyErr_Restore(type, value, traceback);
    return -1;
}

/* Whether it has the slots: false with an exception. */
static bool py_future_check(PyObject *self) {
    if (py_future.type && PyObject_TypeCheck(self, py_future.type))
        return true;
    PyErr_Format(PyExc_TypeError, "%.100s is not a Future of a BlockingExecutor",
                 Py_TYPE(self)->tp_name);
    return false;
}

/* What the base class makes in each Future is made when it is first asked for; by whichever thread
 * has it ready first. */
static PyObject *py_future_own(PyObject *self, void *offset) {
    PyObject **slot, *made;

    if (!py_future_check(self))
        return NULL;
    slot = py_future_slot(self, *(Py_ssize_t *)offset);
    if (*slot)
        return Py_NewRef(*slot);
    made = offset == &py_future.lock ? PyObject_CallNoArgs(py_future.condition) : PyList_New(0);
    if (!made)
        return NULL;
    if (!*slot)
        *slot = Py_NewRef(made);
    Py_DECREF(made);
    return Py_NewRef(*slot);
}

static PyGetSetDef py_future_getset[] = {
    {"_condition", py_future_own, NULL, NULL, &py_future.lock},
    {"_waiters", py_future_own, NULL, NULL, &py_future.waiters},
    {"_done_callbacks", py_future_own, NULL, NULL, &py_future.callbacks},
    {NULL, NULL, NULL, NULL, NULL},
};

/* The methods that are asked of a Future that has ended. */

static PyObject *py_future_method_result(PyObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *exception, *all, *result;

    if (!py_future_check(self))
        return NULL;
    if (py_future_state(self) == py_future.finished && PyTuple_GET_SIZE(args) <= 1 && !kwargs) {
        exception = *py_future_slot(self, py_future.exception);
        if (!exception || exception == Py_None)
            return Py_XNewRef(*py_future_slot(self, py_future.result));
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        return NULL;
    }
    all = PyTuple_New(PyTuple_GET_SIZE(args) + 1);
    if (!all)
        return NULL;
    PyTuple_SET_ITEM(all, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); i++)
        PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
    result = PyObject_Call(py_future.base_result, all, kwargs);
    Py_DECREF(all);
    return result;
}

static PyObject *py_future_method_done(PyObject *self, PyObject *unused) {
    PyObject *state;

    (void)unused;
    if (!py_future_check(self))
        return NULL;
    state = py_future_state(self);
    if (state == py_future.finished || state == py_future.pending || state == py_future.running)
        return PyBool_FromLong(state == py_future.finished);
    return PyObject_CallOneArg(py_future.base_done, self);
}

static PyMethodDef py_future_methods[] = {
    {"result", (PyCFunction)(void (*)(void))py_future_method_result, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("result(timeout=None)\n--\n\nThe result of the call, or its exception raised.\n")},
    {"done", py_future_method_done, METH_NOARGS,
     PyDoc_STR("done()\n--\n\nWhether the call has ended or was cancelled.\n")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot py_future_slots[] = {
    {Py_tp_doc, "Methods of a Future that has ended."},
    {Py_tp_methods, py_future_methods},
    {Py_tp_getset, py_future_getset},
    {0, NULL},
};

static PyType_Spec py_future_spec = {
    .name = "_erlang.FutureMethods",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = py_future_slots,
};

int py_future_add(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &py_future_spec, NULL);
    int added = type ? PyModule_AddObjectRef(module, "FutureMethods", type) : -1;

    Py_XDECREF(type);
    return added;
}

/* The place of a slot in the objects of the class: -1 with an exception. */
static Py_ssize_t py_future_offset(PyObject *type, const char *name) {
    PyObject *slot = PyObject_GetAttrString(type, name);
    Py_ssize_t offset = -1;

    if (slot && Py_IS_TYPE(slot, &PyMemberDescr_Type))
        offset = ((PyMemberDescrObject *)slot)->d_member->offset;
    else if (slot)
        PyErr_Format(PyExc_TypeError, "erlang.blocking: Future.%s is not a slot", name);
    Py_XDECREF(slot);
    return offset;
}

int py_future_import(void) {
    PyObject *blocking = NULL, *type = NULL, *states = NULL, *base = NULL, *threading = NULL;

    if (py_future.type)
        return 0;
    blocking = PyImport_ImportModule("erlang.blocking");
    states = PyImport_ImportModule("concurrent.futures._base");
    threading = PyImport_ImportModule("threading");
    if (blocking && states && threading)
        type = PyObject_GetAttrString(blocking, "Future");
    base = type ? PyObject_GetAttrString(states, "Future") : NULL;
    if (base) {
        py_future.state = py_future_offset(type, "_state");
        py_future.result = py_future_offset(type, "_result");
        py_future.exception = py_future_offset(type, "_exception");
        py_future.lock = py_future_offset(type, "_lock");
        py_future.waiters = py_future_offset(type, "_waiting");
        py_future.callbacks = py_future_offset(type, "_callbacks");
        py_future.condition = PyObject_GetAttrString(threading, "Condition");
        py_future.pending = PyObject_GetAttrString(states, "PENDING");
        py_future.running = PyObject_GetAttrString(states, "RUNNING");
        py_future.finished = PyObject_GetAttrString(states, "FINISHED");
        py_future.cancelled = PyObject_GetAttrString(states, "CANCELLED");
        py_future.notified = PyObject_GetAttrString(states, "CANCELLED_AND_NOTIFIED");
        py_future.base_start = PyObject_GetAttrString(base, "set_running_or_notify_cancel");
        py_future.base_set_result = PyObject_GetAttrString(base, "set_result");
        py_future.base_set_exception = PyObject_GetAttrString(base, "set_exception");
        py_future.base_result = PyObject_GetAttrString(base, "result");
        py_future.base_done = PyObject_GetAttrString(base, "done");
        py_future.base_cancel = PyObject_GetAttrString(base, "cancel");
        if (!PyErr_Occurred())
            py_future.type = (PyTypeObject *)Py_NewRef(type);
    }
    Py_XDECREF(blocking);
    Py_XDECREF(states);
    Py_XDECREF(threading);
    Py_XDECREF(type);
    Py_XDECREF(base);
    return py_future.type ? 0 : -1;
}
