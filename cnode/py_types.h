/* py_types.h - the Erlang types that Python has none for: Atom, Pid, Ref, Port, Fun, Bitstring.
 *
 * Pid, Ref, Port and Fun hold their exact encoded bytes, so they go back bit by bit; all six are
 * immutable, hashable and comparable. One set a process, added to the module _erlang.
 * Any thread that holds the GIL.
 */
#ifndef PYNODE_PY_TYPES_H
#define PYNODE_PY_TYPES_H

#include "etf.h"

#include <Python.h>
#include <stdbool.h>

enum py_types_kind { PY_TYPES_PID, PY_TYPES_REF, PY_TYPES_PORT, PY_TYPES_FUN };

/* The types themselves, for exact checks with Py_IS_TYPE(); NULL before py_types_add(). */
extern PyTypeObject *py_types_atom;
extern PyTypeObject *py_types_bitstring;

/* Makes the types and adds them to the module: 0/-1. */
int py_types_add(PyObject *module);

/* New Atom that is not in any table: for py_atom.c. Takes over nothing. */
PyObject *py_types_atom_new(PyObject *text);

/* New Pid, Ref, Port or Fun that keeps a copy of the bytes. ValueError: they are no such term. */
PyObject *py_types_opaque(enum py_types_kind kind, struct slice encoded);

/* The same from the next term in r, which moves past it. NULL leaves r where it was. */
PyObject *py_types_read(struct etf *r);

/* Whether it is the type Pid, Ref, Port or Fun. */
bool py_types_is_opaque(const PyTypeObject *type);

/* 1 and the encoded bytes (borrowed from obj) if obj is a Pid, Ref, Port or Fun, else 0. */
int py_types_slice(PyObject *obj, struct slice *encoded);

/* New Bitstring; bits (1..8) of the last byte count, the rest of it is cleared. */
PyObject *py_types_bits(struct slice data, int bits);

/* The bytes (borrowed from the Bitstring obj) and the bits of the last one. */
struct slice py_types_bits_data(PyObject *obj, int *bits);

#endif
