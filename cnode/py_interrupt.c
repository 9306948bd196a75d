/* py_interrupt.c - erlang.Cancelled, and how it is raised in a thread that runs what was cancelled. */
#include "config.h"

#include "py_interrupt.h"
#include "callback.h"
#include "channels.h"
#include "mailbox.h"
#include "pool.h"
#include "py.h"
#include "py_backedge.h"

#include <time.h>

enum { PY_INTERRUPT_NAP_NS = 10000000 }; /* until one that imports is looked at again */

PyDoc_STRVAR(py_interrupt_doc,
             "The call that this thread runs was cancelled, or its time limit has passed.\n\n"
             "Raised at the next bytecode, but not in an import. Clean up and let it go on: nobody "
             "waits for the result.\n"
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

/* Whether it is in an import, its own or one further out. What ends there by an exception that nobody expects
 * leaves a package that is half made, and cannot be imported any more. */
static bool py_interrupt_imports(PyObject *frame) {
    PyFrameObject *at = (PyFrameObject *)Py_XNewRef(frame);
    bool found = false;

    while (at && !found) {
        PyCodeObject *code = PyFrame_GetCode(at);

        found = PyUnicode_CompareWithASCIIString(code->co_filename,
                                                 "<frozen importlib._bootstrap>") == 0;
        Py_DECREF(code);
        Py_SETREF(at, PyFrame_GetBack(at));
    }
    Py_XDECREF(at);
    return found;
}

static PyObject *py_interrupt_frames; /* of all threads, while they are looked at */

static bool py_interrupt_worker(const struct exec_worker *w) {
    PyObject *id = PyLong_FromUnsignedLong(w->python_id), *frame = NULL;

    if (id && py_interrupt_frames)
        frame = PyDict_GetItemWithError(py_interrupt_frames, id); /* borrowed */
    Py_XDECREF(id);
    PyErr_Clear();
    if (py_interrupt_imports(frame))
        return false;
    py_backedge_cover(frame);
    py_raise_in(w->python_id, py_interrupt_class);
    callback_interrupt(w->python_id); /* there, and below, it sees no bytecode */
    channels_interrupt(w->python_id);
    mailbox_interrupt(w->python_id);
    return true;
}

/* Nothing is collected meanwhile: that could run Python, which gives the GIL back, and wants exec's lock. */
static bool py_interrupt_look(void) {
    int collects = PyGC_Disable();
    PyObject *current = PySys_GetObject("_current_frames"); /* borrowed */
    bool left;

    py_interrupt_frames = current ? PyObject_CallNoArgs(current) : NULL;
    PyErr_Clear();
    left = pool_each_interrupt(py_interrupt_worker);
    Py_CLEAR(py_interrupt_frames);
    if (collects)
        PyGC_Enable();
    return left;
}

void py_interrupt(void) {
    static const struct timespec nap = {.tv_nsec = PY_INTERRUPT_NAP_NS};

    while (py_visit(py_interrupt_look))
        nanosleep(&nap, NULL);
}
