/* py_encode.h - Python objects to the external term format, in one pass.
 *
 * Runs converters that users have registered, so other threads can run meanwhile: nothing here
 * trusts a size read earlier. Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_ENCODE_H
#define PYNODE_PY_ENCODE_H

#include "buf.h"

#include <Python.h>
#include <stdbool.h>

struct py_encode_settings {
    char none_atom[16];     /* what None becomes: "none", "nil" or "undefined" */
    bool unconvertible_str; /* str(obj) for what has no Erlang form, instead of TypeError */
    int max_depth;
};

/* Set once at start, read-only afterwards. */
extern struct py_encode_settings py_encode_settings;

/* Appends the term, without the version byte: 0, or -1 with out->len as it was. obj is borrowed.
 * root names the object in the text of an error, NULL: "result". */
int py_encode(struct buf *out, PyObject *obj, const char *root);

/* Objects of the type and of its subclasses go through converter(obj) from now on, or no longer
 * if converter is None: 0/-1. */
int py_encode_register(PyObject *type, PyObject *converter);

#endif
