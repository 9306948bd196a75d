/* py_place.c - where in a term a conversion failed: args[0]['key'][3]. */
#include "config.h"

#include "py_place.h"

#include <stdarg.h>

enum {
    PY_PLACE_STEPS = 16, /* shown at each end of a longer place */
    PY_PLACE_KEY = 60,   /* characters shown of a key */
};

void py_place_error(struct py_place *place, PyObject *type, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    place->text = PyUnicode_FromFormatV(fmt, ap);
    va_end(ap);
    place->type = type;
}

void py_place_take(struct py_place *place) {
    PyObject *type = NULL, *value = NULL, *traceback = NULL;

    if (!PyErr_ExceptionMatches(PyExc_ValueError))
        return;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    place->type = PyExc_ValueError;
    place->text = value ? PyObject_Str(value) : NULL;
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* Appends a step; takes over step. What fails here (no memory) only shortens the place. */
static void py_place_add(struct py_place *place, PyObject *step) {
    if (!place->steps)
        place->steps = PyList_New(0);
    if (!step || !place->steps || PyList_Append(place->steps, step) < 0)
        PyErr_Clear();
    Py_XDECREF(step);
}

void py_place_index(struct py_place *place, size_t index) {
    if (place->text)
        py_place_add(place, PyUnicode_FromFormat("[%zu]", index));
}

/* What a key looks like in a place: its repr(), or its type if the repr() itself fails. */
static PyObject *py_place_key_text(PyObject *key) {
    PyObject *repr = PyObject_Repr(key), *cut, *text;

    if (!repr) {
        PyErr_Clear();
        return PyUnicode_FromFormat("[<%s>]", Py_TYPE(key)->tp_name);
    }
    if (PyUnicode_GET_LENGTH(repr) <= PY_PLACE_KEY) {
        text = PyUnicode_FromFormat("[%U]", repr);
    } else {
        cut = PyUnicode_Substring(repr, 0, PY_PLACE_KEY);
        text = cut ? PyUnicode_FromFormat("[%U...]", cut) : NULL;
        Py_XDECREF(cut);
    }
    Py_DECREF(repr);
    return text;
}

void py_place_key(struct py_place *place, PyObject *key) {
    if (place->text)
        py_place_add(place, py_place_key_text(key));
}

void py_place_step(struct py_place *place, const char *text) {
    if (place->text)
        py_place_add(place, PyUnicode_FromString(text));
}

/* The steps in reading order as one str, the middle of a very long place left out. */
static PyObject *py_place_path(PyObject *steps) {
    PyObject *ordered = PyList_GetSlice(steps, 0, PY_SSIZE_T_MAX), *head = NULL, *tail = NULL;
    PyObject *empty = PyUnicode_FromString(""), *path = NULL, *start, *end;
    Py_ssize_t n;

    if (!ordered || !empty || PyList_Reverse(ordered) < 0)
        goto out;
    n = PyList_GET_SIZE(ordered);
    if (n <= 2 * PY_PLACE_STEPS) {
        path = PyUnicode_Join(empty, ordered);
        goto out;
    }
    head = PyList_GetSlice(ordered, 0, PY_PLACE_STEPS);
    tail = PyList_GetSlice(ordered, n - PY_PLACE_STEPS, n);
    start = head ? PyUnicode_Join(empty, head) : NULL;
    end = tail ? PyUnicode_Join(empty, tail) : NULL;
    if (start && end)
        path = PyUnicode_FromFormat("%U...%U", start, end);
    Py_XDECREF(start);
    Py_XDECREF(end);
out:
    Py_XDECREF(ordered);
    Py_XDECREF(head);
    Py_XDECREF(tail);
    Py_XDECREF(empty);
    return path;
}

void py_place_raise(struct py_place *place) {
    PyObject *path = NULL;

    if (place->text) {
        if (place->steps) {
            path = py_place_path(place->steps);
            if (!path)
                PyErr_Clear();
        }
        if (path)
            PyErr_Format(place->type, "%s%U: %U", place->root, path, place->text);
        else
            PyErr_Format(place->type, "%s: %U", place->root, place->text);
    }
    Py_XDECREF(path);
    Py_CLEAR(place->text);
    Py_CLEAR(place->steps);
}
