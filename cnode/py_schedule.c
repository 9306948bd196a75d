/* py_schedule.c - what a function may return that is no value yet: it goes on in Erlang, or later, or is to
 * be awaited. */
#include "config.h"

#include "py_schedule.h"

/* schedule(name, *args), or schedule_py(module, function, args, kwargs) */
struct py_schedule {
    PyObject_HEAD
    PyObject *module;   /* NULL: the function is Erlang's */
    PyObject *function; /* its name */
    PyObject *args;     /* a tuple */
    PyObject *kwargs;   /* a dict, or NULL */
};

static PyTypeObject py_schedule_type;

static void py_schedule_dealloc(PyObject *self) {
    struct py_schedule *s = (struct py_schedule *)self;

    Py_XDECREF(s->module);
    Py_XDECREF(s->function);
    Py_XDECREF(s->args);
    Py_XDECREF(s->kwargs);
    PyObject_Free(self);
}

static PyObject *py_schedule_repr(PyObject *self) {
    struct py_schedule *s = (struct py_schedule *)self;

    if (!s->module)
        return PyUnicode_FromFormat("<schedule of Erlang's %U>", s->function);
    return PyUnicode_FromFormat("<schedule of %U.%U>", s->module, s->function);
}

static PyTypeObject py_schedule_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "erlang.Schedule",
    .tp_doc = PyDoc_STR("What schedule() and schedule_py() return: to be returned in turn."),
    .tp_basicsize = sizeof(struct py_schedule),
    .tp_dealloc = py_schedule_dealloc,
    .tp_repr = py_schedule_repr,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int py_schedule_add(PyObject *module) {
    if (PyType_Ready(&py_schedule_type) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Schedule", (PyObject *)&py_schedule_type);
}

static bool py_schedule_is_marker(PyObject *result) {
    return Py_IS_TYPE(result, &py_schedule_type);
}

bool py_schedule_is_call(PyObject *result) {
    return py_schedule_is_marker(result) && ((struct py_schedule *)result)->module;
}

bool py_schedule_is_erlang(PyObject *result) {
    return py_schedule_is_marker(result) && !((struct py_schedule *)result)->module;
}

bool py_schedule_is_pending(PyObject *result) {
    PyAsyncMethods *async = Py_TYPE(result)->tp_as_async;

    return (async && async->am_await) || py_schedule_is_marker(result);
}

static struct py_schedule *py_schedule_new(PyObject *module, PyObject *function, PyObject *args,
                                           PyObject *kwargs) {
    struct py_schedule *s = PyObject_New(struct py_schedule, &py_schedule_type);

    if (!s)
        return NULL;
    s->module = Py_XNewRef(module);
    s->function = Py_NewRef(function);
    s->args = Py_NewRef(args);
    s->kwargs = Py_XNewRef(kwargs);
    return s;
}

PyObject *py_schedule_erlang(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *rest, *marker;

    (void)self;
    if (nargs < 1 || !PyUnicode_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "schedule() wants the name of a function, a str, first");
        return NULL;
    }
    rest = PyTuple_New(nargs - 1);
    if (!rest)
        return NULL;
    for (Py_ssize_t i = 1; i < nargs; i++)
        PyTuple_SET_ITEM(rest, i - 1, Py_NewRef(args[i]));
    marker = (PyObject *)py_schedule_new(NULL, args[0], rest, NULL);
    Py_DECREF(rest);
    return marker;
}

PyObject *py_schedule_python(PyObject *self, PyObject *args) {
    PyObject *module, *function, *list = NULL, *kwargs = NULL, *tuple, *marker;

    (void)self;
    if (!PyArg_ParseTuple(args, "UU|OO:schedule_py", &module, &function, &list, &kwargs))
        return NULL;
    if (kwargs && kwargs != Py_None && !PyDict_Check(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "schedule_py(): kwargs must be a dict");
        return NULL;
    }
    tuple = list && list != Py_None ? PySequence_Tuple(list) : PyTuple_New(0);
    if (!tuple)
        return NULL;
    marker = (PyObject *)py_schedule_new(module, function, tuple,
                                         kwargs && kwargs != Py_None ? kwargs : NULL);
    Py_DECREF(tuple);
    return marker;
}

/* module.function, either of which may be dotted. */
static PyObject *py_schedule_find(const struct py_schedule *s) {
    PyObject *operators = PyImport_ImportModule("operator"), *importlib, *module, *getter, *found;

    importlib = operators ? PyImport_ImportModule("importlib") : NULL;
    module = importlib ? PyObject_CallMethod(importlib, "import_module", "O", s->module) : NULL;
    getter = module ? PyObject_CallMethod(operators, "attrgetter", "O", s->function) : NULL;
    found = getter ? PyObject_CallOneArg(getter, module) : NULL;
    Py_XDECREF(getter);
    Py_XDECREF(module);
    Py_XDECREF(importlib);
    Py_XDECREF(operators);
    return found;
}

/* erlang.async_call(name, *args) */
static PyObject *py_schedule_await(const struct py_schedule *s) {
    PyObject *package = PyImport_ImportModule("erlang"), *name, *all, *call, *result = NULL;

    call = package ? PyObject_GetAttrString(package, "async_call") : NULL;
    name = call ? PyTuple_Pack(1, s->function) : NULL;
    all = name ? PySequence_Concat(name, s->args) : NULL;
    if (all)
        result = PyObject_CallObject(call, all);
    Py_XDECREF(all);
    Py_XDECREF(name);
    Py_XDECREF(call);
    Py_XDECREF(package);
    return result;
}

PyObject *py_schedule_call(PyObject *marker) {
    struct py_schedule *s = (struct py_schedule *)marker;
    PyObject *function, *result;

    if (!s->module)
        return py_schedule_await(s);
    function = py_schedule_find(s);
    result = function ? PyObject_Call(function, s->args, s->kwargs) : NULL;
    Py_XDECREF(function);
    return result;
}

PyObject *py_schedule_run(struct request *r) {
    PyObject *marker = r->context, *result;

    r->context = NULL;
    result = py_schedule_call(marker);
    Py_DECREF(marker);
    return result;
}

void py_schedule_drop(PyObject *result) {
    if (PyCoro_CheckExact(result)) { /* else it complains that it was never awaited */
        PyObject *none = PyObject_CallMethod(result, "close", NULL);

        if (!none)
            PyErr_WriteUnraisable(result);
        Py_XDECREF(none);
    }
    Py_DECREF(result);
}

/* Time slices. */

static _Thread_local int py_schedule_spent; /* per cent */

void py_schedule_begin(void) {
    py_schedule_spent = 0;
}

PyObject *py_schedule_slice(PyObject *self, PyObject *percent) {
    long n = PyLong_AsLong(percent);
    bool spent;

    (void)self;
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (n < 1 || n > 100) {
        PyErr_Format(PyExc_ValueError, "consume_time_slice() wants 1 to 100 per cent, not %ld", n);
        return NULL;
    }
    py_schedule_spent += (int)n;
    spent = py_schedule_spent >= 100;
    if (spent)
        py_schedule_spent = 0;
    return PyBool_FromLong(spent);
}
