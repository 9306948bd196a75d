/* py_module.h - the built-in module _erlang: what Python code sees of the node.
 *
 * Inside Python. The package `erlang` shows its public part.
 */
#ifndef PYNODE_PY_MODULE_H
#define PYNODE_PY_MODULE_H

#include "options.h"

#include <Python.h>

PyMODINIT_FUNC PyInit__erlang(void);

/* Sets conversion, atoms and policy up as the options say, and imports the module: 0, or -1 with
 * an exception. */
int py_module_load(const struct options *o);

#endif
