/* py_place.h - where in a term a conversion failed: args[0]['key'][3].
 *
 * Costs nothing while all goes well: the place is gathered on the way out of the recursion, the
 * innermost step first. Until then no Python exception is set. Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_PLACE_H
#define PYNODE_PY_PLACE_H

#include <Python.h>
#include <stddef.h>

struct py_place {
    const char *root; /* name of the whole term */
    PyObject *type;   /* borrowed: TypeError or ValueError */
    PyObject *text;   /* what is wrong; NULL: nothing noted */
    PyObject *steps;  /* list of str, innermost first */
};

/* Notes what is wrong here; fmt as in PyUnicode_FromFormat(). */
void py_place_error(struct py_place *place, PyObject *type, const char *fmt, ...);

/* Turns a ValueError that is set into a noted one; leaves any other exception. */
void py_place_take(struct py_place *place);

/* Steps outwards, each doing nothing if no error is noted. */
void py_place_index(struct py_place *place, size_t index);
void py_place_key(struct py_place *place, PyObject *key);
void py_place_step(struct py_place *place, const char *text);

/* Sets the noted error as exception, if there is one, and frees what was gathered. */
void py_place_raise(struct py_place *place);

#endif
