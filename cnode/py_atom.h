/* py_atom.h - the node's atom table: one Atom object a name, found by its UTF-8 bytes.
 *
 * Atoms are kept for the life of the process, as on the BEAM, so their number is capped.
 * Any thread that holds the GIL, which is also the table's lock.
 */
#ifndef PYNODE_PY_ATOM_H
#define PYNODE_PY_ATOM_H

#include "buf.h"

#include <Python.h>

enum { PY_ATOM_CHARS = 255 }; /* the BEAM's own limit, in characters */

/* Once, after py_types_add(): 0/-1. */
int py_atom_init(size_t max_atoms);
void py_atom_done(void);

/* New reference to the Atom of that name. ValueError: not UTF-8, too long, or the table is full. */
PyObject *py_atom_intern(struct slice utf8);

/* New reference to what the atom is in Python: True, False, None (none, nil, undefined), an Atom. */
PyObject *py_atom_decode(struct slice utf8);

/* How many atoms there are. */
size_t py_atom_count(void);

#endif
