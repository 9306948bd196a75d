/* py_error.h - a Python exception as an Erlang error: its reason and its stack trace.
 *
 * Inside Python. docs/protocol.md has the shapes.
 */
#ifndef PYNODE_PY_ERROR_H
#define PYNODE_PY_ERROR_H

#include "buf.h"

/* Takes the exception that is set. Appends {python_error, Type, Message} to reason and a list of
 * {Module, Function, Arity, [{file, F}, {line, L}]} to stack, the innermost frame first. Never
 * fails: what cannot be told is left out. */
void py_error_take(struct buf *reason, struct buf *stack);

/* Takes the exception that is set as one line, "ValueError: message", for the log. */
void py_error_line(char *line, size_t size);

#endif
