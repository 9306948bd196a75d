/* py_thread.c - a Python thread as an Erlang process: its mailbox, its connections, its end. */
#include "config.h"

#include "py_thread.h"
#include "channels.h"
#include "clock.h"
#include "handshake.h"
#include "io.h"
#include "mailbox.h"
#include "node.h"
#include "pool.h"
#include "process.h"
#include "py.h"
#include "py_decode.h"
#include "py_error.h"
#include "py_interrupt.h"
#include "py_types.h"

#include <stdlib.h>

enum { PY_THREAD_LOOK_MS = 100 };

struct py_thread {
    unsigned long ident;
    struct proc *own;         /* the thread's own process, or NULL; counted */
    struct proc *served;      /* that of the request that it serves, or NULL; counted */
    struct channel *channels; /* by held */
    struct buf reason;        /* why the thread ends, a term; empty: normal */
};

static _Thread_local struct py_thread *py_thread_current;
static _Thread_local const struct request *py_thread_request; /* borrowed: the worker has it */
static pthread_key_t py_thread_key;

static struct slice py_thread_slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* The end of a thread. */

static void py_thread_end_process(struct proc *p, struct slice reason) {
    struct buf normal = {0};

    if (reason.len == 0) {
        etf_put_atom(&normal, "normal");
        reason = py_thread_slice(&normal);
    }
    process_ended(p, reason);
    proc_unref(p);
    buf_done(&normal);
}

/* With the GIL or without; waits for nobody. A fork has a copy of what is the node's: that is left
 * alone. */
static void py_thread_free(struct py_thread *t) {
    struct channel *next;

    if (!io_forked()) {
        for (struct channel *ch = t->channels; ch; ch = next) {
            next = ch->held;
            channels_give(ch);
        }
        if (t->served)
            py_thread_end_process(t->served, (struct slice){0});
        if (t->own)
            py_thread_end_process(t->own, py_thread_slice(&t->reason));
    }
    buf_done(&t->reason);
    free(t);
}

static const char py_thread_capsule[] = "erlang.thread";

/* The thread's state is being cleared, before join() returns. At the interpreter's end the main thread
 * clears those of others, too, which may still be at work: they are not to be touched. */
static void py_thread_cleared(PyObject *capsule) {
    struct py_thread *t = PyCapsule_GetPointer(capsule, py_thread_capsule);

    if (t && t == py_thread_current) {
        pthread_setspecific(py_thread_key, NULL);
        py_thread_current = NULL;
        py_thread_free(t);
    }
}

/* The thread ends and its state was not cleared by itself: it called Erlang in a finalizer, or it ends
 * because the interpreter does. */
static void py_thread_exited(void *t) {
    py_thread_free(t);
}

int py_thread_init(void) {
    if (pthread_key_create(&py_thread_key, py_thread_exited) == 0)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "no key for what belongs to a thread");
    return -1;
}

/* What belongs to this thread: NULL with an exception. */
static struct py_thread *py_thread_get(void) {
    PyObject *dict, *capsule;
    struct py_thread *t = py_thread_current;

    if (t)
        return t;
    dict = py_state_dict();
    t = xcalloc(1, sizeof *t);
    t->ident = PyThread_get_thread_ident();
    capsule = dict ? PyCapsule_New(t, py_thread_capsule, py_thread_cleared) : NULL;
    if (!capsule || PyDict_SetItemString(dict, py_thread_capsule, capsule) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "this thread has no state of Python's");
        Py_XDECREF(capsule);
        free(t);
        return NULL;
    }
    Py_DECREF(capsule);
    pthread_setspecific(py_thread_key, t);
    py_thread_current = t;
    return t;
}

/* Channels. */

/* One that is in a call is not to be had: Python code that runs in the middle of it (a converter, a
 * signal's handler, what the collector finds) may call Erlang itself. */
struct channel *py_thread_channel(const char *peer) {
    struct channel *ch = py_thread_current ? py_thread_current->channels : NULL;

    while (ch && (atomic_load(&ch->calling) || strcmp(ch->conn->peer, peer) != 0))
        ch = ch->held;
    return ch;
}

int py_thread_keep(struct channel *ch) {
    struct py_thread *t = py_thread_get();

    if (!t)
        return -1;
    ch->held = t->channels;
    t->channels = ch;
    return 0;
}

void py_thread_drop(struct channel *ch) {
    struct channel **at = &py_thread_current->channels;

    while (*at != ch)
        at = &(*at)->held;
    *at = ch->held;
    channels_give(ch);
}

/* What it serves. */

void py_thread_serve(const struct request *r) {
    py_thread_request = r;
}

const struct request *py_thread_serving(void) {
    return py_thread_request;
}

void py_thread_set_served(struct proc *p) {
    if (py_thread_current)
        py_thread_current->served = p;
}

struct proc *py_thread_take_served(void) {
    struct proc *p = py_thread_current ? py_thread_current->served : NULL;

    if (p)
        py_thread_current->served = NULL;
    return p;
}

void py_thread_served(struct slice reason) {
    struct proc *p = py_thread_current ? py_thread_current->served : NULL;

    py_thread_request = NULL;
    if (!p)
        return;
    py_thread_current->served = NULL;
    py_thread_end_process(p, reason);
}

/* It is raised here, so not once more at the next bytecode. */
bool py_thread_check_cancelled(void) {
    if (!py_thread_request || !py_thread_request->interrupted)
        return false;
    py_forget_raised();
    PyErr_SetNone(py_interrupt_exception());
    return true;
}

/* The exception with which the thread ends becomes its exit reason. */
static void py_thread_watch(void) {
    PyObject *threads = PyImport_ImportModule("erlang._threads");
    PyObject *done = threads ? PyObject_CallMethod(threads, "watch_current_thread", NULL) : NULL;

    if (!done)
        PyErr_WriteUnraisable(threads);
    Py_XDECREF(done);
    Py_XDECREF(threads);
}

static bool py_thread_is_node(void) {
    if (!io_forked())
        return true;
    PyErr_SetString(PyExc_RuntimeError,
                    "this process is a fork of the node: only the node itself has processes and "
                    "connections");
    return false;
}

struct proc *py_thread_process(void) {
    const struct request *r = py_thread_request;
    struct py_thread *t;

    if (!py_thread_is_node())
        return NULL;
    if (r && r->target)
        return r->target;
    t = py_thread_get();
    if (!t)
        return NULL;
    if (r && !t->served) {
        t->served = procs_spawn(r->pid_id, r->pid_serial);
        atomic_store(&t->served->claimed, true);
        if (r->pid_id && !exec_alive(r->pid_id, r->pid_serial)) /* an exit signal was before */
            mailbox_close(t->served->mailbox);
    } else if (!r && !t->own) {
        t->own = procs_spawn(0, 0);
        atomic_store(&t->own->claimed, true);
        py_thread_watch();
    }
    return r ? t->served : t->own;
}

/* A worker's slot is others' meanwhile, and a cancelled call hears that at once. */
static PyObject *py_thread_sleep_serving(const struct request *r, int64_t deadline) {
    while (clock_now() < deadline) {
        py_leave();
        pool_await(r, false, deadline);
        py_enter();
        if (py_thread_check_cancelled() || PyErr_CheckSignals() < 0)
            return NULL;
    }
    return Py_NewRef(Py_None);
}

PyObject *py_thread_sleep(PyObject *self, PyObject *seconds) {
    PyObject *time, *result;
    int64_t deadline;

    (void)self;
    if (seconds == Py_None) {
        PyErr_SetString(PyExc_TypeError, "sleep() wants a number of seconds");
        return NULL;
    }
    if (py_thread_deadline(seconds, &deadline) < 0)
        return NULL;
    if (py_thread_request && deadline > 0 && pool_is_worker())
        return py_thread_sleep_serving(py_thread_request, deadline);
    time = PyImport_ImportModule("time");
    result = time ? PyObject_CallMethod(time, "sleep", "O", seconds) : NULL;
    Py_XDECREF(time);
    return result;
}

PyObject *py_thread_failed(PyObject *self, PyObject *exception) {
    struct buf reason = {0}, stack = {0};

    (void)self;
    if (py_thread_current && PyExceptionInstance_Check(exception)) {
        PyErr_Restore(Py_NewRef(Py_TYPE(exception)), Py_NewRef(exception),
                      PyException_GetTraceback(exception));
        py_error_take(&reason, &stack, NULL, 0);
        py_thread_current->reason.len = 0;
        etf_put_tuple(&py_thread_current->reason, 2);
        etf_put_slice(&py_thread_current->reason, py_thread_slice(&reason));
        etf_put_slice(&py_thread_current->reason, py_thread_slice(&stack));
    }
    buf_done(&reason);
    buf_done(&stack);
    return Py_NewRef(Py_None);
}

/* self and receive. */

PyObject *py_thread_self(PyObject *self, PyObject *unused) {
    struct proc *p = py_thread_process();
    struct buf pid = {0};
    PyObject *obj = NULL;

    (void)self;
    (void)unused;
    if (p) {
        request_put_pid(&pid, p->id, p->serial);
        obj = py_types_opaque(PY_TYPES_PID, py_thread_slice(&pid));
    }
    buf_done(&pid);
    return obj;
}

int py_thread_deadline(PyObject *timeout, int64_t *deadline) {
    double seconds;

    *deadline = 0;
    if (timeout == Py_None)
        return 0;
    seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be negative");
        return -1;
    }
    if (seconds < 1e9)
        *deadline = clock_now() + (int64_t)(seconds * 1e9) + 1;
    return 0;
}

int64_t py_thread_look_at(int64_t deadline) {
    int64_t look;

    if (!py_is_main())
        return deadline;
    look = clock_now() + (int64_t)PY_THREAD_LOOK_MS * 1000000;
    return deadline > 0 && deadline < look ? deadline : look;
}

/* Waits outside Python until there is a message, a signal has come or the deadline has passed. With an
 * exception if what this thread serves was cancelled. */
static bool py_thread_wait_once(struct mailbox *m, int64_t deadline) {
    bool there;

    mailbox_begin(m, PyThread_get_thread_ident());
    pool_wait_begin();
    py_leave();
    there = mailbox_wait(m, py_thread_look_at(deadline));
    py_enter();
    pool_wait_end();
    if (mailbox_end(m) && !there && !py_thread_check_cancelled())
        PyErr_SetNone(py_interrupt_exception());
    return there;
}

/* Until there is a message: false with an exception, or none when the deadline has passed. A signal's
 * handler may receive itself, so it runs while nothing is waited for. */
static bool py_thread_wait(struct mailbox *m, int64_t deadline) {
    bool there = false;

    while (!there && PyErr_CheckSignals() == 0) {
        there = py_thread_wait_once(m, deadline);
        if (PyErr_Occurred() || (deadline > 0 && clock_now() >= deadline))
            break;
    }
    return there;
}

PyObject *py_thread_receive(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    struct mailbox_message *message;
    PyObject *timeout = Py_None, *obj = NULL;
    struct proc *p;
    int64_t deadline;

    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:receive", names, &timeout) ||
        py_thread_deadline(timeout, &deadline) < 0 || !(p = py_thread_process()))
        return NULL;
    if (!p->mailbox) {
        PyErr_SetString(PyExc_RuntimeError,
                        "messages to a registered object reach its method handle_info");
        return NULL;
    }
    message = mailbox_take(p->mailbox);
    if (!message && py_thread_wait(p->mailbox, deadline))
        message = mailbox_take(p->mailbox);
    if (message) {
        struct etf at = {message->term, message->term + message->len};

        obj = py_decode(&at, "message");
        free(message);
    } else if (!PyErr_Occurred()) {
        py_error_raise("TimeoutError", PyUnicode_FromString("no message in time"), NULL, NULL);
    }
    return obj;
}

/* monitor and link. */

/* What is watched: a term, a pid or an atom, and the name of its node. */
struct py_thread_target {
    struct buf term;
    char node[300];
    bool own;
};

/* A str as text that ends at its first NUL, since it has no other: NULL with an exception. */
const char *py_thread_text(PyObject *str) {
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(str, &len);

    if (!text || strlen(text) == (size_t)len)
        return text;
    PyErr_SetString(PyExc_ValueError, "a name with a NUL character in it");
    return NULL;
}

static int py_thread_set_node(struct py_thread_target *target, PyObject *node) {
    const char *name = py_thread_text(node);

    if (!name)
        return -1;
    if (snprintf(target->node, sizeof target->node, "%s", name) >= (int)sizeof target->node) {
        PyErr_Format(PyExc_ValueError, "the node's name is too long: %.40s...", name);
        return -1;
    }
    target->own = strcmp(name, node_name()) == 0;
    return 0;
}

static int py_thread_set_name(struct py_thread_target *target, PyObject *name) {
    const char *text = py_thread_text(name);

    if (!text)
        return -1;
    if (PyUnicode_GetLength(name) > 255) {
        PyErr_SetString(PyExc_ValueError, "the name is longer than an atom can be");
        return -1;
    }
    etf_put_atom_slice(&target->term, (struct slice){(const uint8_t *)text, strlen(text)});
    return 0;
}

static bool py_thread_is_pid(PyObject *obj, struct slice *bytes) {
    return py_types_slice(obj, bytes) &&
           (bytes->data[0] == ETF_NEW_PID || bytes->data[0] == ETF_PID);
}

static int py_thread_set_pid(struct py_thread_target *target, PyObject *pid, struct slice bytes) {
    PyObject *node = PyObject_GetAttrString(pid, "node");
    int result = node ? py_thread_set_node(target, node) : -1;

    buf_put(&target->term, bytes.data, bytes.len);
    Py_XDECREF(node);
    return result;
}

/* A Pid, a name of this node, or (name, node): 0, or -1 with an exception. */
static int py_thread_set_target(struct py_thread_target *target, PyObject *obj) {
    struct slice bytes;

    *target = (struct py_thread_target){.own = true};
    if (py_thread_is_pid(obj, &bytes))
        return py_thread_set_pid(target, obj, bytes);
    if (PyUnicode_Check(obj))
        return py_thread_set_name(target, obj);
    if (PyTuple_Check(obj) && PyTuple_GET_SIZE(obj) == 2 &&
        PyUnicode_Check(PyTuple_GET_ITEM(obj, 0)) && PyUnicode_Check(PyTuple_GET_ITEM(obj, 1)))
        return py_thread_set_name(target, PyTuple_GET_ITEM(obj, 0)) == 0
                   ? py_thread_set_node(target, PyTuple_GET_ITEM(obj, 1))
                   : -1;
    PyErr_Format(PyExc_TypeError, "cannot watch a %.100s: not a Pid, name or (name, node)",
                 Py_TYPE(obj)->tp_name);
    return -1;
}

/* The connection to another node, made if there is none: counted; NULL if it cannot be reached.
 * Outside Python. */
static struct conn *py_thread_reach(const struct py_thread_target *target) {
    struct err e;

    return target->own ? NULL : handshake_connect(target->node, &e);
}

PyObject *py_thread_monitor(PyObject *self, PyObject *obj) {
    struct py_thread_target target;
    struct proc *p = py_thread_process();
    struct buf ref = {0};
    PyObject *result = NULL;
    struct conn *c;

    (void)self;
    if (!p)
        return NULL;
    if (py_thread_set_target(&target, obj) == 0) {
        py_leave();
        c = py_thread_reach(&target);
        process_monitor(p->id, p->serial, target.own, c, target.own ? node_name() : target.node,
                        py_thread_slice(&target.term), &ref);
        if (c)
            conn_unref(c);
        py_enter();
        result = py_types_opaque(PY_TYPES_REF, py_thread_slice(&ref));
    }
    buf_done(&target.term);
    buf_done(&ref);
    return result;
}

PyObject *py_thread_demonitor(PyObject *self, PyObject *ref) {
    struct proc *p = py_thread_process();
    struct slice bytes;

    (void)self;
    if (!p)
        return NULL;
    if (!py_types_slice(ref, &bytes) || bytes.data[0] != ETF_NEWER_REF) {
        PyErr_Format(PyExc_TypeError, "not a Ref but a %.100s", Py_TYPE(ref)->tp_name);
        return NULL;
    }
    process_demonitor(p->id, p->serial, bytes);
    return Py_NewRef(Py_None);
}

/* Links the process, or ends the link. */
static PyObject *py_thread_tie(PyObject *pid, bool link) {
    struct py_thread_target target = {.own = true};
    struct proc *p = py_thread_process();
    struct conn *c;
    struct slice bytes;
    int result = -1;

    if (!p)
        return NULL;
    if (!py_thread_is_pid(pid, &bytes))
        PyErr_Format(PyExc_TypeError, "not a Pid but a %.100s", Py_TYPE(pid)->tp_name);
    else
        result = py_thread_set_pid(&target, pid, bytes);
    if (result == 0) {
        py_leave();
        c = link || target.own ? py_thread_reach(&target) : io_find(target.node);
        (link ? process_link : process_drop_link)(p->id, p->serial, target.own, c,
                                                  py_thread_slice(&target.term));
        if (c)
            conn_unref(c);
        py_enter();
    }
    buf_done(&target.term);
    return result == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *py_thread_link(PyObject *self, PyObject *pid) {
    (void)self;
    return py_thread_tie(pid, true);
}

PyObject *py_thread_unlink(PyObject *self, PyObject *pid) {
    (void)self;
    return py_thread_tie(pid, false);
}
