/* fuzz_term.c - any bytes as a term: decoded, encoded again and decoded once more.
 *
 * What was a term once must encode, unless two of its keys fall together, and what comes of that
 * must decode and encode to the same bytes for ever. One thread, which holds the GIL.
 */
#include "config.h"

#include "buf.h"
#include "etf.h"
#include "py_atom.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_types.h"

#include <Python.h>
#include <stdio.h>
#include <stdlib.h>

enum { FUZZ_MAX_ATOMS = 1000000 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct PyModuleDef fuzz_module = {PyModuleDef_HEAD_INIT, .m_name = "_erlang", .m_size = 0};

static bool fuzz_equal_keys; /* why the last term was refused */

/* Says what is not as it must be, and ends as the fuzzer expects it. */
static _Noreturn void fuzz_fail(const char *what) {
    fprintf(stderr, "fuzz_term: %s\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    PyConfig config;
    PyStatus status;
    PyObject *module;

    (void)argc;
    (void)argv;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    module = PyModule_Create(&fuzz_module);
    if (!module || py_types_add(module) < 0 || py_atom_init(FUZZ_MAX_ATOMS) < 0)
        fuzz_fail("cannot start");
    return 0;
}

/* Whether the exception's text has the part in it; clears the exception. */
static bool fuzz_error_has(const char *part) {
    PyObject *type, *value, *traceback, *text, *wanted = NULL;
    int has = -1;

    PyErr_Fetch(&type, &value, &traceback);
    text = PyObject_Str(value);
    wanted = PyUnicode_FromString(part);
    if (text && wanted)
        has = PyUnicode_Contains(text, wanted);
    if (has < 0)
        fuzz_fail("an exception without a text");
    Py_DECREF(text);
    Py_DECREF(wanted);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return has;
}

/* Looks at an object as users do: it must not crash, whatever the answer. */
static void fuzz_use(PyObject *obj) {
    PyObject *repr = PyObject_Repr(obj);

    /* Python itself refuses to print very long integers. */
    if (!repr && !PyErr_ExceptionMatches(PyExc_ValueError))
        fuzz_fail("no repr()");
    PyErr_Clear();
    Py_XDECREF(repr);
    if (PyObject_Hash(obj) == -1)
        PyErr_Clear();
}

/* New reference to the term that the bytes begin with, or NULL after a clean refusal. */
static PyObject *fuzz_decode(const uint8_t *data, size_t size, size_t *used) {
    struct etf r = {data, data + size};
    PyObject *obj = py_decode(&r, "args");

    if (!obj) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_TypeError))
            fuzz_fail("not a clean refusal");
        fuzz_equal_keys = fuzz_error_has("equal in Python");
    } else if (PyErr_Occurred()) {
        fuzz_fail("an object and an exception");
    }
    *used = (size_t)(r.p - data);
    return obj;
}

/* Encodes the object into out, which is emptied first: 0, or -1 after a clean refusal. */
static int fuzz_encode(struct buf *out, PyObject *obj) {
    out->len = 0;
    if (py_encode(out, obj, NULL) == 0)
        return 0;
    if (!fuzz_error_has("equal in Erlang")) /* {bytes, <<"a">>} and <<"a">> are two keys here */
        fuzz_fail("a decoded term does not encode");
    return -1;
}

/* Decodes what was encoded and encodes it again into next: 0, or -1 after a clean refusal. */
static int fuzz_again(const struct buf *encoded, struct buf *next) {
    PyObject *obj;
    size_t used;
    int status;

    obj = fuzz_decode(encoded->data, encoded->len, &used);
    if (!obj && fuzz_equal_keys) /* {bytes, <<"a">>} and a were two keys, <<"a">> and a are not */
        return -1;
    if (!obj || used != encoded->len)
        fuzz_fail("what was encoded does not decode");
    status = fuzz_encode(next, obj);
    Py_DECREF(obj);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct buf once = {0}, twice = {0}, swap;
    PyObject *obj;
    size_t used;

    obj = fuzz_decode(data, size, &used);
    if (!obj)
        return 0;
    fuzz_use(obj);
    if (fuzz_encode(&once, obj) == 0) {
        while (fuzz_again(&once, &twice) == 0) {
            if (twice.len == once.len && memcmp(twice.data, once.data, once.len) == 0)
                break;
            /* Each time around takes one layer from {bytes, {bytes, Bin}}, and nothing else. */
            if (twice.len >= once.len)
                fuzz_fail("the second encoding differs");
            swap = once;
            once = twice;
            twice = swap;
        }
    }
    Py_DECREF(obj);
    buf_done(&once);
    buf_done(&twice);
    return 0;
}
