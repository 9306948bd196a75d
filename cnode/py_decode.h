/* py_decode.h - the external term format to Python objects, in one pass.
 *
 * The bytes are a peer's: every length is held against what is left before anything is
 * allocated, depth and number of items are capped. Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_DECODE_H
#define PYNODE_PY_DECODE_H

#include "etf.h"

#include <Python.h>
#include <stdbool.h>

struct py_decode_settings {
    bool strings_as_bytes; /* every binary is bytes, also one of valid UTF-8 */
    int max_depth;
    size_t max_items; /* elements, keys and values of one term, inner ones included */
};

/* Set once at start, read-only afterwards. */
extern struct py_decode_settings py_decode_settings;

/* New reference to the next term, and r moves past it; NULL leaves r where it was. TypeError: no
 * Python form; ValueError: malformed or past a cap. root names the term in the text, NULL: "term". */
PyObject *py_decode(struct etf *r, const char *root);

/* The same, and says whether every binary is bytes instead of asking the settings. */
PyObject *py_decode_as(struct etf *r, const char *root, bool strings_as_bytes);

#endif
