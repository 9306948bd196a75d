/* py.h - the interpreter: its start and end, and the only way in and out of it.
 *
 * Every thread that runs Python has one thread state for its whole life (py_attach to
 * py_detach) and enters with it; entering takes the GIL, leaving gives it back. No lock of ours
 * is held across py_enter(). py_defer() is any thread's and needs no GIL.
 */
#ifndef PYNODE_PY_H
#define PYNODE_PY_H

#include <Python.h>

#include "err.h"
#include "options.h"

/* Starts the interpreter and makes _erlang and the package erlang importable; the calling thread
 * is Python's main thread and is inside: 0, or -1 with e. program is argv[0]. */
int py_init(const struct options *o, const char *program, struct err *e);

/* Imports what --import names: 0, or -1 with e. Then freezes what is there for the collector. */
int py_import(const struct options *o, struct err *e);

/* Runs the script, module or code and ends the interpreter: the exit status. */
int py_run_script(void);

/* What a node without a script does last (inside, main thread): runs the exit handlers and
 * writes out what is buffered. The interpreter is not ended, for that waits for the threads that
 * Python code has started, which nobody told to end. */
void py_done(void);

/* Runs statements in a namespace of their own: 0/-1 with an exception. */
int py_run_apart(const char *source);

/* What belongs to this thread's state, and is cleared with it: a dict, borrowed, or NULL. */
PyObject *py_state_dict(void);

/* Whether this thread is Python's main thread, which alone runs the handlers of signals. */
bool py_is_main(void);

void py_attach(void);
void py_detach(void);
void py_enter(void);
void py_leave(void);

/* Enters for the time of one call, in a thread that has no state of its own. */
bool py_visit(bool (*fn)(void));

/* Has the class exc raised in the thread of that name (PyThread_get_thread_ident) at its next
 * bytecode; and takes back what this thread was to raise and has not yet. */
void py_raise_in(unsigned long thread, PyObject *exc);
void py_forget_raised(void);

/* Gives a reference back later, from inside Python: by the next thread that calls
 * py_release_deferred(). */
void py_defer(void *object);
void py_release_deferred(void);

#endif
