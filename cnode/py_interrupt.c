/* py_interrupt.c - erlang.Cancelled, and how it is raised in a thread that runs what was cancelled. */
#include "config.h"

#include "py_interrupt.h"
#include "callback.h"
#include "channels.h"
#include "mailbox.h"
#include "pool.h"
#include "py.h"

PyDoc_STRVAR(
    py_interrupt_doc,
    "The call that this thread runs was cancelled, or its time limit has passed.\n\n"
    "Raised at the next bytecode. Clean up and let it go on: nobody waits for the result.\n"
    "A BaseException, so that `except Exception` does not stop it.\n\n"
    ">>> issubclass(Cancelled, Exception)\n"
    "False\n");

static PyObject *py_interrupt_class;

int py_interrupt_add(PyObject *module) {
    if (!py_interrupt_class)
        py_interrupt_class = PyErr_NewExceptionWithDoc("erlang.Cancelled", py_interrupt_doc,
                                                       PyExc_BaseException, NULL);
    return py_interrupt_class ? PyModule_AddObjectRef(module, "Cancelled", py_interrupt_class) : -1;
}

PyObject *py_interrupt_exception(void) {
    return py_interrupt_class;
}

static void py_interrupt_worker(const struct exec_worker *w) {
    py_raise_in(w->python_id, py_interrupt_class);
    callback_interrupt(w->python_id); /* there, and below, it sees no bytecode */
    channels_interrupt(w->python_id);
    mailbox_interrupt(w->python_id);
}

static void py_interrupt_look(void) {
    pool_each_interrupt(py_interrupt_worker);
}

void py_interrupt(void) {
    py_visit(py_interrupt_look);
}
