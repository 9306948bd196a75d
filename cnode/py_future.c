/* py_future.c - the Future of a BlockingExecutor: it makes its lock only when somebody waits. */
#include "config.h"

#include "py_future.h"

#include <structmember.h>

/* erlang.blocking's Future, its slots, and what it has of concurrent.futures. */
static struct {
    PyTypeObject *type;
    Py_ssize_t state, result, exception, lock, callbacks; /* offsets of the slots */
    PyObject *pending, *running, *finished;               /* the texts of the states */
    PyObject *base_start, *base_set_result, *base_set_exception, *base_result, *base_done;
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

/* The methods that are asked of a Future that has ended. */

static PyObject *py_future_method_result(PyObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *exception, *all, *result;

    if (py_future_state(self) == py_future.finished) {
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
    PyObject *state = py_future_state(self);

    (void)unused;
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
    PyObject *blocking = NULL, *type = NULL, *states = NULL, *base = NULL;

    if (py_future.type)
        return 0;
    blocking = PyImport_ImportModule("erlang.blocking");
    states = PyImport_ImportModule("concurrent.futures._base");
    if (blocking && states)
        type = PyObject_GetAttrString(blocking, "Future");
    base = type ? PyObject_GetAttrString(states, "Future") : NULL;
    if (base) {
        py_future.state = py_future_offset(type, "_state");
        py_future.result = py_future_offset(type, "_result");
        py_future.exception = py_future_offset(type, "_exception");
        py_future.lock = py_future_offset(type, "_lock");
        py_future.callbacks = py_future_offset(type, "_callbacks");
        py_future.pending = PyObject_GetAttrString(states, "PENDING");
        py_future.running = PyObject_GetAttrString(states, "RUNNING");
        py_future.finished = PyObject_GetAttrString(states, "FINISHED");
        py_future.base_start = PyObject_GetAttrString(base, "set_running_or_notify_cancel");
        py_future.base_set_result = PyObject_GetAttrString(base, "set_result");
        py_future.base_set_exception = PyObject_GetAttrString(base, "set_exception");
        py_future.base_result = PyObject_GetAttrString(base, "result");
        py_future.base_done = PyObject_GetAttrString(base, "done");
        if (!PyErr_Occurred())
            py_future.type = (PyTypeObject *)Py_NewRef(type);
    }
    Py_XDECREF(blocking);
    Py_XDECREF(states);
    Py_XDECREF(type);
    Py_XDECREF(base);
    return py_future.type ? 0 : -1;
}
