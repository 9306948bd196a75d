/* py_error.c - a Python exception as an Erlang error, with its reason and stack trace, and back. */
#include "config.h"

#include "py_error.h"
#include "etf.h"
#include "py_atom.h"

#include <Python.h>

enum {
    PY_ERROR_FRAMES = 64, /* the innermost; a recursion error has a thousand alike */
    PY_ERROR_CAUSES = 8,
};

/* Text of an object for people; never an exception. New reference. */
static PyObject *py_error_text(PyObject *obj) {
    PyObject *text = PyObject_Str(obj);

    if (!text) {
        PyErr_Clear();
        text = PyUnicode_FromFormat("<%s whose str() fails>", Py_TYPE(obj)->tp_name);
    }
    return text;
}

static PyObject *py_error_join(PyObject *head, const char *between, PyObject *tail) {
    PyObject *joined = head && tail ? PyUnicode_FromFormat("%U%s%U", head, between, tail) : NULL;

    Py_XDECREF(head);
    Py_XDECREF(tail);
    return joined;
}

/* The message with its notes (PEP 678), one a line. */
static PyObject *py_error_with_notes(PyObject *exception) {
    PyObject *text = py_error_text(exception);
    PyObject *notes = PyObject_GetAttrString(exception, "__notes__");

    PyErr_Clear();
    if (notes && PyList_Check(notes))
        for (Py_ssize_t i = 0; text && i < PyList_GET_SIZE(notes); i++)
            text = py_error_join(text, "\n", py_error_text(PyList_GET_ITEM(notes, i)));
    Py_XDECREF(notes);
    return text;
}

static PyObject *py_error_type_name(PyObject *exception) {
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(exception), "__name__");

    PyErr_Clear();
    return name;
}

/* What is in an exception group, one a line; the text as it was if it is none. */
static PyObject *py_error_with_members(PyObject *text, PyObject *exception) {
    PyObject *members = PyObject_TypeCheck(exception, (PyTypeObject *)PyExc_BaseExceptionGroup)
                            ? PyObject_GetAttrString(exception, "exceptions")
                            : NULL;

    PyErr_Clear();
    if (members && PyTuple_Check(members))
        for (Py_ssize_t i = 0; text && i < PyTuple_GET_SIZE(members) && i < PY_ERROR_CAUSES; i++) {
            PyObject *member = PyTuple_GET_ITEM(members, i);

            text = py_error_join(text, "\nwith ", py_error_type_name(member));
            text = py_error_join(text, ": ", py_error_with_notes(member));
        }
    Py_XDECREF(members);
    return text;
}

/* The whole message: with notes, and with what it was raised from, cause after cause. */
static PyObject *py_error_message(PyObject *exception) {
    PyObject *text = py_error_with_members(py_error_with_notes(exception), exception);
    PyObject *cause = PyException_GetCause(exception); /* new reference */

    for (int i = 0; cause && text && i < PY_ERROR_CAUSES; i++) {
        PyObject *next = PyException_GetCause(cause);

        text = py_error_join(text, "\ncaused by ", py_error_type_name(cause));
        text = py_error_join(text, ": ", py_error_with_notes(cause));
        Py_DECREF(cause);
        cause = next;
    }
    Py_XDECREF(cause);
    return text;
}

/* UTF-8 of a str, with what is no UTF-8 (lone surrogates) replaced. New reference to bytes. */
static PyObject *py_error_utf8(PyObject *text) {
    PyObject *bytes = text ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;

    PyErr_Clear();
    return bytes;
}

static void py_error_put_text(struct buf *out, PyObject *text) {
    PyObject *bytes = py_error_utf8(text);

    if (bytes)
        etf_put_binary(out, PyBytes_AS_STRING(bytes), (uint32_t)PyBytes_GET_SIZE(bytes));
    else
        etf_put_string(out, "");
    Py_XDECREF(bytes);
}

/* An atom counts in the atom table, as any other; when it is full or the text too long: '?'. */
static void py_error_put_atom(struct buf *out, PyObject *text) {
    PyObject *bytes = text && PyUnicode_Check(text) ? py_error_utf8(text) : NULL;
    PyObject *atom = NULL;

    if (bytes) {
        struct slice name = {(const uint8_t *)PyBytes_AS_STRING(bytes),
                             (size_t)PyBytes_GET_SIZE(bytes)};

        atom = py_atom_intern(name);
        if (atom)
            etf_put_atom_slice(out, name);
    }
    PyErr_Clear();
    if (!atom)
        etf_put_atom(out, "?");
    Py_XDECREF(atom);
    Py_XDECREF(bytes);
}

static long py_error_number(PyObject *obj, const char *name) {
    PyObject *value = PyObject_GetAttrString(obj, name);
    long n = value ? PyLong_AsLong(value) : 0;

    PyErr_Clear();
    Py_XDECREF(value);
    return n;
}

static PyObject *py_error_attribute(PyObject *obj, const char *name) {
    PyObject *value = obj ? PyObject_GetAttrString(obj, name) : NULL;

    PyErr_Clear();
    return value;
}

/* {Module, Function, Arity, [{file, File}, {line, Line}]}; file is a charlist, as Erlang's is. */
static void py_error_put_frame(struct buf *out, PyObject *trace) {
    PyObject *frame = py_error_attribute(trace, "tb_frame");
    PyObject *code = py_error_attribute(frame, "f_code");
    PyObject *globals = py_error_attribute(frame, "f_globals");
    PyObject *function = py_error_attribute(code, "co_qualname");
    PyObject *file = py_error_attribute(code, "co_filename");
    PyObject *bytes = file ? py_error_utf8(file) : NULL;
    Py_ssize_t len = bytes ? PyBytes_GET_SIZE(bytes) : 0;

    etf_put_tuple(out, 4);
    py_error_put_atom(
        out, globals && PyDict_Check(globals) ? PyDict_GetItemString(globals, "__name__") : NULL);
    py_error_put_atom(out, function);
    etf_put_integer(out, code ? py_error_number(code, "co_argcount") : 0);
    etf_put_list(out, 2);
    etf_put_tuple(out, 2);
    etf_put_atom(out, "file");
    if (len > 0) {
        etf_put_list(out, (uint32_t)len);
        for (Py_ssize_t i = 0; i < len; i++)
            etf_put_integer(out, (uint8_t)PyBytes_AS_STRING(bytes)[i]);
    }
    etf_put_nil(out);
    etf_put_tuple(out, 2);
    etf_put_atom(out, "line");
    etf_put_integer(out, py_error_number(trace, "tb_lineno"));
    etf_put_nil(out);
    Py_XDECREF(bytes);
    Py_XDECREF(file);
    Py_XDECREF(function);
    Py_XDECREF(globals);
    Py_XDECREF(code);
    Py_XDECREF(frame);
}

/* The innermost frames of the traceback, the innermost first. trace is borrowed or NULL. */
static void py_error_put_stack(struct buf *out, PyObject *trace) {
    PyObject *frames[PY_ERROR_FRAMES];
    size_t n = 0, kept;

    Py_XINCREF(trace);
    while (trace && trace != Py_None) {
        PyObject *next = py_error_attribute(trace, "tb_next");

        if (n >= PY_ERROR_FRAMES)
            Py_DECREF(frames[n % PY_ERROR_FRAMES]);
        frames[n++ % PY_ERROR_FRAMES] = trace;
        trace = next;
    }
    Py_XDECREF(trace);
    kept = n < PY_ERROR_FRAMES ? n : PY_ERROR_FRAMES;
    if (kept > 0)
        etf_put_list(out, (uint32_t)kept);
    for (size_t i = 0; i < kept; i++) {
        PyObject *frame = frames[(n - 1 - i) % PY_ERROR_FRAMES];

        py_error_put_frame(out, frame);
        Py_DECREF(frame);
    }
    etf_put_nil(out);
}

/* The exception that is set, normalized: new references. */
static PyObject *py_error_fetch(PyObject **trace) {
    PyObject *type, *value;

    PyErr_Fetch(&type, &value, trace);
    PyErr_NormalizeException(&type, &value, trace);
    if (value && *trace)
        PyException_SetTraceback(value, *trace);
    Py_XDECREF(type);
    return value;
}

static void py_error_put_line(char *line, size_t size, PyObject *name, PyObject *message) {
    PyObject *text = name && message ? PyUnicode_FromFormat("%U: %U", name, message) : NULL;
    PyObject *bytes = py_error_utf8(text);

    snprintf(line, size, "%s", bytes ? PyBytes_AS_STRING(bytes) : "unknown error");
    Py_XDECREF(bytes);
    Py_XDECREF(text);
}

void py_error_take(struct buf *reason, struct buf *stack, char *line, size_t size) {
    PyObject *trace = NULL, *exception = py_error_fetch(&trace);
    PyObject *name = exception ? py_error_type_name(exception) : NULL;
    PyObject *message = exception ? py_error_message(exception) : NULL;

    PyErr_Clear();
    etf_put_tuple(reason, 3);
    etf_put_atom(reason, "python_error");
    py_error_put_atom(reason, name);
    py_error_put_text(reason, message);
    py_error_put_stack(stack, trace);
    if (line)
        py_error_put_line(line, size, name, message);
    PyErr_Clear();
    Py_XDECREF(message);
    Py_XDECREF(name);
    Py_XDECREF(exception);
    Py_XDECREF(trace);
}

void py_error_raise(const char *name, PyObject *reason, PyObject *class, PyObject *stack) {
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

int py_error_init(void) {
    PyObject *builtins = PyEval_GetBuiltins(), *key, *value; /* borrowed */
    Py_ssize_t at = 0;

    while (PyDict_Next(builtins, &at, &key, &value)) {
        const char *name = PyExceptionClass_Check(value) ? PyUnicode_AsUTF8(key) : NULL;
        PyObject *atom;

        if (!name)
            continue;
        atom = py_atom_intern((struct slice){(const uint8_t *)name, strlen(name)});
        if (!atom)
            return -1;
        Py_DECREF(atom);
    }
    return 0;
}
