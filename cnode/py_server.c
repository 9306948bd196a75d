/* py_server.c - registered Python objects: what they are sent, and what Python sends. */
#include "config.h"

#include "py_server.h"
#include "handshake.h"
#include "io.h"
#include "node.h"
#include "process.h"
#include "py.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_thread.h"
#include "py_types.h"
#include "route.h"

#include <stdlib.h>

/* Whether this is the node's own process; an exception if not. */
static bool py_server_check_process(void) {
    if (!io_forked())
        return true;
    PyErr_SetString(PyExc_RuntimeError,
                    "this process is a fork of the node: only the node itself has names and "
                    "connections");
    return false;
}

/* The name of the module that this thread loads anew, or NULL. */
static _Thread_local PyObject *py_server_reloading;

void py_server_set_reloading(PyObject *module) {
    py_server_reloading = module;
}

/* A module that is loaded anew and registers an object under the same name again: the new one
 * takes the place of that of its own earlier self. Name, pid and watchers stay. */
static bool py_server_replace(const char *name, PyObject *obj) {
    struct proc *p = NULL;
    PyObject *module = NULL, *old = NULL;

    if (py_server_reloading)
        p = procs_find_name((struct slice){(const uint8_t *)name, strlen(name)});
    if (p)
        module = PyObject_GetAttrString((PyObject *)Py_TYPE((PyObject *)p->object), "__module__");
    PyErr_Clear();
    if (module && PyUnicode_Check(module) && PyUnicode_Compare(module, py_server_reloading) == 0) {
        old = p->object;
        p->object = Py_NewRef(obj);
    }
    Py_XDECREF(module);
    if (p)
        proc_unref(p);
    Py_XDECREF(old);
    return old != NULL;
}

/* Names that cannot be given: those that are always there, and none. */
static int py_server_check_name(const char *name) {
    if (*name == '\0' || strcmp(name, "rex") == 0 || strcmp(name, "net_kernel") == 0 ||
        strcmp(name, "pynode") == 0) {
        PyErr_Format(PyExc_ValueError, "the name '%s' cannot be registered", name);
        return -1;
    }
    return 0;
}

int py_server_register_process(const char *name) {
    struct proc *p = py_thread_process();

    if (!p || py_server_check_name(name) < 0)
        return -1;
    if (p->mailbox && procs_set_name(p, name))
        return 0;
    if (!p->mailbox)
        PyErr_SetString(PyExc_ValueError, "what runs here is a registered object, with its name");
    else
        PyErr_Format(PyExc_ValueError,
                     "the name '%s' is registered already, or the process has another name", name);
    return -1;
}

int py_server_register(const char *name, PyObject *obj) {
    if (!py_server_check_process() || py_server_check_name(name) < 0)
        return -1;
    if (!procs_register(name, Py_NewRef(obj))) {
        Py_DECREF(obj);
        if (py_server_replace(name, obj))
            return 0;
        PyErr_Format(PyExc_ValueError, "the name '%s' is registered already", name);
        return -1;
    }
    return 0;
}

/* The object whose handler runs in this thread. */
static _Thread_local struct proc *py_server_running;

struct proc *py_server_set_running(struct proc *p) {
    struct proc *before = py_server_running;

    py_server_running = p;
    return before;
}

int py_server_unregister(const char *name) {
    struct proc *p;

    if (!py_server_check_process())
        return -1;
    p = procs_unregister(name);
    if (!p) {
        PyErr_Format(PyExc_ValueError, "the name '%s' is not registered", name);
        return -1;
    }
    if (p == py_server_running) { /* its answer goes before its end */
        atomic_store(&p->ended, true);
        proc_unref(p);
        return 0;
    }
    py_leave();
    process_unregistered(p, name, "normal");
    proc_unref(p);
    py_enter();
    return 0;
}

PyObject *py_server_whereis(const char *name) {
    struct buf pid = {0};
    struct proc *p;
    PyObject *obj;

    if (!py_server_check_process())
        return NULL;
    p = procs_find_name((struct slice){(const uint8_t *)name, strlen(name)});
    if (!p)
        return Py_NewRef(Py_None);
    request_put_pid(&pid, p->id, p->serial);
    obj = py_types_opaque(PY_TYPES_PID, (struct slice){pid.data, pid.len});
    buf_done(&pid);
    proc_unref(p);
    return obj;
}

PyObject *py_server_handle(const struct request *r) {
    PyObject *object, *message, *caller, *result = NULL;
    struct etf args = {r->args.data, r->args.data + r->args.len};

    message = py_decode(&args, r->kind == REQUEST_SERVER_INFO ? "message" : "request");
    if (!message)
        return NULL;
    py_server_running = r->target;
    object = Py_NewRef(r->target->object); /* a reload may put another one in its place */
    switch (r->kind) {
    case REQUEST_SERVER_CALL:
        caller = py_types_opaque(PY_TYPES_PID, r->from);
        if (caller)
            result = PyObject_CallMethod(object, "handle_call", "OO", message, caller);
        Py_XDECREF(caller);
        break;
    case REQUEST_SERVER_CAST:
        result = PyObject_CallMethod(object, "handle_cast", "(O)", message);
        break;
    default:
        result = PyObject_CallMethod(object, "handle_info", "(O)", message);
        break;
    }
    py_server_running = NULL;
    Py_DECREF(object);
    Py_DECREF(message);
    return result;
}

void py_server_handled(const struct request *r) {
    if (r->target && atomic_exchange(&r->target->ended, false))
        process_unregistered(r->target, r->target->name, "normal");
}

/* Sending. */

/* Puts a frame to a remote process into the outbox of its node's connection, and waits while that
 * holds too much, as the BEAM suspends who sends to a busy node. frame is emptied. */
int py_server_put(const char *peer, struct buf *frame) {
    struct err e = {0};
    struct conn *c;

    py_leave();
    c = io_find(peer);
    if (!c)
        c = handshake_connect(peer, &e);
    if (c) {
        outbox_put_buf(&c->out, frame);
        io_flush(c);
    }
    while (c && !io_wait_room(c)) {
        int raised;

        py_enter();
        raised = PyErr_CheckSignals();
        py_leave();
        if (raised < 0)
            break;
    }
    if (c)
        conn_unref(c);
    py_enter();
    if (c)
        return PyErr_Occurred() ? -1 : 0;
    PyErr_SetString(PyExc_ConnectionError, e.text);
    return -1;
}

/* To a process of this node that has a mailbox, or a request. */
static int py_server_deliver_bytes(struct proc *p, uint32_t id, uint32_t serial, PyObject *term) {
    struct buf bytes = {0};
    struct slice message;
    int result = py_encode(&bytes, term, "message");

    message = (struct slice){bytes.data, bytes.len};
    if (result == 0 && !p)
        process_send_request(id, serial, message); /* to nobody: as on the BEAM */
    else if (result == 0 && !process_send(p, message, false)) {
        PyErr_SetString(PyExc_BlockingIOError, "the process's mailbox is full");
        result = -1;
    }
    if (p)
        proc_unref(p);
    buf_done(&bytes);
    return result;
}

/* To a registered object of this node, without a connection. */
static int py_server_deliver(struct proc *p, PyObject *term) {
    struct dist_msg msg = {.op = DIST_SEND};
    struct buf bytes = {0};
    struct frame frame;
    bool taken;

    if (p->mailbox)
        return py_server_deliver_bytes(p, 0, 0, term);
    if (py_encode(&bytes, term, "message") < 0) {
        buf_done(&bytes);
        proc_unref(p);
        return -1;
    }
    msg.payload = (struct slice){bytes.data, bytes.len};
    frame = (struct frame){bytes.data, bytes.len, true};
    py_leave();
    taken = route_deliver(p, &msg, &frame);
    py_enter();
    free(frame.data);
    if (!taken)
        PyErr_SetString(PyExc_BlockingIOError, "the node's queue is full");
    return taken ? 0 : -1;
}

static int py_server_send_name(const char *name, PyObject *term) {
    struct proc *p = procs_find_name((struct slice){(const uint8_t *)name, strlen(name)});

    if (!p) {
        PyErr_Format(PyExc_ValueError, "no process is registered as '%s'", name);
        return -1;
    }
    return py_server_deliver(p, term);
}

/* Closes the frame that begins out with the term as its payload, and sends it. */
static int py_server_send_frame(const char *peer, struct buf *out, size_t begin, PyObject *term) {
    int result = py_encode(out, term, "message");

    if (result == 0 && dist_end(out, begin) < 0) {
        PyErr_SetString(PyExc_ValueError, "message: longer than a distribution frame can be");
        result = -1;
    }
    if (result == 0)
        result = py_server_put(peer, out);
    buf_done(out);
    return result;
}

static int py_server_send_remote(const char *name, const char *peer, PyObject *term) {
    struct buf out = {0}, self = {0}, atom = {0};
    size_t begin = dist_begin(&out);

    request_put_pid(&self, 0, 0);
    etf_put_atom(&atom, name);
    dist_put_reg_send(&out, (struct slice){self.data, self.len},
                      (struct slice){atom.data, atom.len});
    buf_done(&self);
    buf_done(&atom);
    return py_server_send_frame(peer, &out, begin, term);
}

static int py_server_send_pid(PyObject *pid, struct slice bytes, PyObject *term) {
    PyObject *peer = PyObject_GetAttrString(pid, "node");
    const char *name = peer ? PyUnicode_AsUTF8(peer) : NULL;
    struct buf out = {0};
    uint32_t id, serial;
    struct proc *p;
    int result = -1;

    if (name && strcmp(name, node_name()) == 0) {
        p = request_own_pid(bytes, &id, &serial) ? procs_find_pid(id, serial) : NULL;
        if (p)
            result = py_server_deliver(p, term);
        else if (request_own_pid(bytes, &id, &serial))
            result = py_server_deliver_bytes(NULL, id, serial, term);
        else
            result = 0; /* of an earlier life of this node's */
    } else if (name) {
        size_t begin = dist_begin(&out);

        dist_put_send(&out, bytes);
        result = py_server_send_frame(name, &out, begin, term);
    }
    Py_XDECREF(peer);
    return result;
}

int py_server_send(PyObject *dest, PyObject *term) {
    struct slice bytes;

    if (!py_server_check_process())
        return -1;
    if (PyUnicode_Check(dest)) {
        const char *name = py_thread_text(dest);

        return name ? py_server_send_name(name, term) : -1;
    }
    if (PyTuple_Check(dest) && PyTuple_GET_SIZE(dest) == 2 &&
        PyUnicode_Check(PyTuple_GET_ITEM(dest, 0)) && PyUnicode_Check(PyTuple_GET_ITEM(dest, 1))) {
        const char *name = py_thread_text(PyTuple_GET_ITEM(dest, 0));
        const char *peer = py_thread_text(PyTuple_GET_ITEM(dest, 1));

        if (!name || !peer)
            return -1;
        if (strlen(name) > 255 * 4) {
            PyErr_SetString(PyExc_ValueError, "the name is longer than an atom can be");
            return -1;
        }
        return strcmp(peer, node_name()) == 0 ? py_server_send_name(name, term)
                                              : py_server_send_remote(name, peer, term);
    }
    if (py_types_slice(dest, &bytes) && (bytes.data[0] == ETF_NEW_PID || bytes.data[0] == ETF_PID))
        return py_server_send_pid(dest, bytes, term);
    PyErr_Format(PyExc_TypeError, "cannot send to a %.100s: not a Pid, name or (name, node)",
                 Py_TYPE(dest)->tp_name);
    return -1;
}
