/* py_error.h - a Python exception as an Erlang error, with its reason and stack trace, and back.
 *
 * Inside Python. docs/protocol.md has the shapes.
 */
#ifndef PYNODE_PY_ERROR_H
#define PYNODE_PY_ERROR_H

#include "buf.h"

#include <Python.h>

/* Takes the exception that is set. Appends {python_error, Type, Message} to reason and a list of
 * {Module, Function, Arity, [{file, F}, {line, L}]} to stack, the innermost frame first. Never
 * fails: what cannot be told is left out. line, unless NULL, gets "ValueError: message". */
void py_error_take(struct buf *reason, struct buf *stack, char *line, size_t size);

/* The other way round: raises the class of that name of erlang.errors, for Erlang's failure. Steals
 * reason, which may be NULL with an exception; class and stack may be NULL. */
void py_error_raise(const char *name, PyObject *reason, PyObject *class, PyObject *stack);

/* Makes the atoms of Python's own exceptions, so that a full atom table does not hide them. */
int py_error_init(void);

#endif
