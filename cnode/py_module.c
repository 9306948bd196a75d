/* py_module.c - the built-in module _erlang: what Python code sees of the node. */
#include "config.h"

#include "py_module.h"
#include "io.h"
#include "leave.h"
#include "node.h"
#include "pool.h"
#include "procs.h"
#include "py.h"
#include "py_async.h"
#include "py_atom.h"
#include "py_callback.h"
#include "py_call.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_error.h"
#include "py_executor.h"
#include "py_interrupt.h"
#include "py_log.h"
#include "py_loop.h"
#include "py_schedule.h"
#include "py_server.h"
#include "py_thread.h"
#include "py_types.h"

static const struct options *py_module_options;

PyDoc_STRVAR(
    py_module_register_doc,
    "register(name[, obj])\n--\n\n"
    "Makes obj a server: messages to the name reach its methods, one after another.\n\n"
    "handle_call(request, caller) answers gen_server:call/2,3 with what it returns;\n"
    "handle_cast(request) takes gen_server:cast/2, handle_info(message) all else.\n"
    "Without obj the name is that of the calling thread's own process: what is sent to it\n"
    "is got by receive().\n\n"
    ">>> class Echo:\n"
    "...     def handle_call(self, request, caller):\n"
    "...         return request\n"
    ">>> register('echo_example', Echo())\n"
    ">>> unregister('echo_example')\n"
    ">>> register('me_example')\n"
    ">>> whereis('me_example') == self()\n"
    "True\n"
    ">>> unregister('me_example')\n");

static PyObject *py_module_register(PyObject *self, PyObject *args) {
    const char *name;
    PyObject *obj = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "s|O:register", &name, &obj) ||
        (obj ? py_server_register(name, obj) : py_server_register_process(name)) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(py_module_unregister_doc,
             "unregister(name)\n--\n\n"
             "Takes the name away again; who monitors it gets 'DOWN' with reason normal.\n");

static PyObject *py_module_unregister(PyObject *self, PyObject *args) {
    const char *name;

    (void)self;
    if (!PyArg_ParseTuple(args, "s:unregister", &name) || py_server_unregister(name) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(py_module_whereis_doc, "whereis(name)\n--\n\n"
                                    "The Pid of the process or object of that name, or None.\n\n"
                                    ">>> whereis('nobody_example')\n");

static PyObject *py_module_whereis(PyObject *self, PyObject *args) {
    const char *name;

    (void)self;
    return PyArg_ParseTuple(args, "s:whereis", &name) ? py_server_whereis(name) : NULL;
}

PyDoc_STRVAR(
    py_module_call_doc,
    "call(name, *args, timeout=None, node=None)\n--\n\n"
    "Calls an Erlang function and returns its value; this thread waits, others run meanwhile.\n\n"
    "name is what the function was registered as, or 'module:function'; call('module', "
    "'function',\n"
    "[args]) is the same. It runs in the Erlang node whose request this thread serves, else in "
    "the\n"
    "one that was attached first, or in node. ErlangError: the function failed, there is none, or "
    "the\n"
    "connection was lost; erlang.TimeoutError: there is no answer after timeout seconds, and what\n"
    "runs is killed.\n\n"
    ">>> call('no_such_function', 1)\n"
    "Traceback (most recent call last):\n"
    "erlang.errors.ErlangError: no Erlang node with the application pynode is attached\n");

PyDoc_STRVAR(py_module_cast_doc,
             "cast(name, *args, node=None)\n--\n\n"
             "Has Erlang run a function as call() does, and waits for nothing.\n\n"
             ">>> cast('no_such_function', 1)\n"
             "Traceback (most recent call last):\n"
             "erlang.errors.ErlangError: no Erlang node with the application pynode is attached\n");

PyDoc_STRVAR(py_module_self_doc,
             "self()\n--\n\n"
             "The Pid of the process that this thread is, or of the call that it serves.\n\n"
             "Any process of the cluster can send to it, monitor it and link to it.\n\n"
             ">>> self() == self()\n"
             "True\n"
             ">>> self().node == node()\n"
             "True\n");

PyDoc_STRVAR(
    py_module_receive_doc,
    "receive(timeout=None)\n--\n\n"
    "The next message to this thread's process; waits for one, others run meanwhile.\n\n"
    "erlang.TimeoutError: none came in timeout seconds. Exit signals of what it is linked\n"
    "to are messages ('EXIT', pid, reason), ends of what it monitors are\n"
    "('DOWN', ref, 'process', pid_or_name, reason).\n\n"
    ">>> send(self(), ('hello', 1))\n"
    ">>> receive()\n"
    "('hello', 1)\n"
    ">>> receive(timeout=0)\n"
    "Traceback (most recent call last):\n"
    "erlang.errors.TimeoutError: no message in time\n");

PyDoc_STRVAR(py_module_monitor_doc,
             "monitor(target)\n--\n\n"
             "Watches a Pid, a name of this node or (name, node), and returns a Ref.\n\n"
             "When it ends, or is not there, this thread's process gets the message\n"
             "('DOWN', ref, 'process', pid_or_name, reason).\n\n"
             ">>> ref = monitor('nobody_example')\n"
             ">>> message = receive()\n"
             ">>> message[1] == ref, message[4]\n"
             "(True, Atom('noproc'))\n");

PyDoc_STRVAR(py_module_demonitor_doc,
             "demonitor(ref)\n--\n\n"
             "Watches no more; a message that has come already stays in the mailbox.\n\n"
             ">>> demonitor(monitor(self()))\n");

PyDoc_STRVAR(py_module_link_doc,
             "link(pid)\n--\n\n"
             "Links this thread's process and another: the end of one is told to the other.\n\n"
             "To this process it comes as the message ('EXIT', pid, reason).\n\n"
             ">>> link(self())\n"
             ">>> unlink(self())\n");

PyDoc_STRVAR(py_module_unlink_doc, "unlink(pid)\n--\n\n"
                                   "Ends a link.\n\n"
                                   ">>> unlink(self())\n");

PyDoc_STRVAR(py_module_converter_doc,
             "register_converter(type, converter)\n--\n\n"
             "Sends objects of the type, and of its subclasses, as what converter(obj) returns.\n\n"
             ">>> import datetime\n"
             ">>> register_converter(datetime.date, lambda d: d.isoformat())\n"
             ">>> register_converter(datetime.date, None)\n");

static PyObject *py_module_converter(PyObject *self, PyObject *args) {
    PyObject *type, *converter;

    (void)self;
    if (!PyArg_ParseTuple(args, "OO:register_converter", &type, &converter) ||
        py_encode_register(type, converter) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(py_module_send_doc,
             "send(dest, term)\n--\n\n"
             "Sends a message to a Pid, a registered name, or (name, node).\n\n"
             "Connects to the node when needed. ConnectionError: it cannot be reached.\n");

static PyObject *py_module_send(PyObject *self, PyObject *args) {
    PyObject *dest, *term;

    (void)self;
    if (!PyArg_ParseTuple(args, "OO:send", &dest, &term) || py_server_send(dest, term) < 0)
        return NULL;
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(
    py_module_schedule_doc,
    "schedule(name, *args)\n--\n\n"
    "Returned by a called function: the call goes on in Erlang, and the caller gets the value\n"
    "of the registered function there. No thread waits meanwhile.\n\n"
    ">>> schedule('add_one', 1)\n"
    "<schedule of Erlang's add_one>\n");

PyDoc_STRVAR(
    py_module_schedule_py_doc,
    "schedule_py(module, function, args=(), kwargs=None)\n--\n\n"
    "Returned by a called function: the call goes on with this one, at the end of the queue,\n"
    "and the caller gets its value.\n\n"
    ">>> schedule_py('math', 'sqrt', [4])\n"
    "<schedule of math.sqrt>\n");

PyDoc_STRVAR(
    py_module_slice_doc,
    "consume_time_slice(percent)\n--\n\n"
    "Says that the call has used so much of its time slice, 1 to 100; whether that is spent.\n\n"
    "If it is, what is left to do should go to the end of the queue, by schedule_py().\n\n"
    ">>> consume_time_slice(60)\n"
    "False\n"
    ">>> consume_time_slice(60)\n"
    "True\n");

/* Whether this thread waits for something that others have to do: then they take its place. */
static PyObject *py_module_waiting(PyObject *self, PyObject *waits) {
    (void)self;
    if (PyObject_IsTrue(waits))
        pool_wait_begin();
    else
        pool_wait_end();
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(py_module_node_doc, "node()\n--\n\n"
                                 "The name of this node, such as 'py@127.0.0.1'.\n");

static PyObject *py_module_node(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyUnicode_FromString(node_name());
}

PyDoc_STRVAR(py_module_encode_doc, "encode(obj)\n--\n\n"
                                   "The external term format of obj, as term_to_binary/1.\n\n"
                                   ">>> encode(1)\n"
                                   "b'\\x83a\\x01'\n");

static PyObject *py_module_encode(PyObject *self, PyObject *obj) {
    struct buf out = {0};
    PyObject *bytes = NULL;

    (void)self;
    etf_put_version(&out);
    if (py_encode(&out, obj, "term") == 0)
        bytes = PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.len);
    buf_done(&out);
    return bytes;
}

PyDoc_STRVAR(py_module_decode_doc, "decode(data)\n--\n\n"
                                   "The object of an external term, as binary_to_term/1.\n\n"
                                   ">>> decode(b'\\x83a\\x01')\n"
                                   "1\n");

static PyObject *py_module_decode(PyObject *self, PyObject *args) {
    PyObject *obj = NULL;
    Py_buffer view;
    struct etf r;

    (void)self;
    if (!PyArg_ParseTuple(args, "y*:decode", &view))
        return NULL;
    r = (struct etf){view.buf, (const uint8_t *)view.buf + view.len};
    if (etf_get_version(&r) < 0)
        PyErr_SetString(PyExc_ValueError, "term: does not begin with the version byte 131");
    else if ((obj = py_decode(&r, "term")) && r.p != r.end) {
        Py_CLEAR(obj);
        PyErr_SetString(PyExc_ValueError, "term: bytes after its end");
    }
    PyBuffer_Release(&view);
    return obj;
}

/* Private: what a script's exit and SIGTERM do (leave.h). */
static PyObject *py_module_leave(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (!io_forked()) { /* the node is the parent's */
        py_leave();
        py_loop_stop_wait();
        leave_stop();
        py_enter();
    }
    return Py_NewRef(Py_None);
}

/* Whether the SIGTERM that has come was a drain that was asked for; then that is forgotten. */
static PyObject *py_module_requested(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(leave_requested());
}

static PyObject *py_module_drain(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (io_forked()) /* the requests are the parent's, and so are the locks around them */
        return Py_NewRef(Py_None);
    py_leave();
    leave_drain_begin();
    while (!leave_drained()) {
        leave_pause();
        py_enter();
        if (PyErr_CheckSignals() < 0)
            return NULL;
        py_leave();
    }
    py_enter();
    return Py_NewRef(Py_None);
}

/* What takes keywords has another type than a PyCFunction, which the flags say. */
#define PY_METHOD(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef py_module_methods[] = {
    {"register", py_module_register, METH_VARARGS, py_module_register_doc},
    {"unregister", py_module_unregister, METH_VARARGS, py_module_unregister_doc},
    {"register_converter", py_module_converter, METH_VARARGS, py_module_converter_doc},
    {"whereis", py_module_whereis, METH_VARARGS, py_module_whereis_doc},
    {"call", PY_METHOD(py_callback_call), METH_FASTCALL | METH_KEYWORDS, py_module_call_doc},
    {"cast", PY_METHOD(py_callback_cast), METH_FASTCALL | METH_KEYWORDS, py_module_cast_doc},
    {"self", py_thread_self, METH_NOARGS, py_module_self_doc},
    {"receive", PY_METHOD(py_thread_receive), METH_VARARGS | METH_KEYWORDS, py_module_receive_doc},
    {"monitor", py_thread_monitor, METH_O, py_module_monitor_doc},
    {"demonitor", py_thread_demonitor, METH_O, py_module_demonitor_doc},
    {"link", py_thread_link, METH_O, py_module_link_doc},
    {"unlink", py_thread_unlink, METH_O, py_module_unlink_doc},
    {"send", py_module_send, METH_VARARGS, py_module_send_doc},
    {"node", py_module_node, METH_NOARGS, py_module_node_doc},
    {"encode", py_module_encode, METH_O, py_module_encode_doc},
    {"decode", py_module_decode, METH_VARARGS, py_module_decode_doc},
    {"schedule", PY_METHOD(py_schedule_erlang), METH_FASTCALL, py_module_schedule_doc},
    {"schedule_py", py_schedule_python, METH_VARARGS, py_module_schedule_py_doc},
    {"consume_time_slice", py_schedule_slice, METH_O, py_module_slice_doc},
    {"_loop_set", py_loop_set, METH_VARARGS, NULL},
    {"_loop_turn", py_loop_turn, METH_NOARGS, NULL},
    {"_loop_wait", py_loop_wait, METH_VARARGS, NULL},
    {"_loop_fd", py_loop_fd, METH_NOARGS, NULL},
    {"_loop_begin", py_loop_begin, METH_NOARGS, NULL},
    {"_loop_stopping", py_loop_stopping, METH_NOARGS, NULL},
    {"_sleep", py_thread_sleep, METH_O, NULL},
    {"_set_waiting", py_module_waiting, METH_O, NULL},
    {"_sink", py_async_sink, METH_O, NULL},
    {"_home", py_callback_home, METH_NOARGS, NULL},
    {"_thread_failed", py_thread_failed, METH_O, NULL},
    {"_log", py_log_record, METH_VARARGS, NULL},
    {"_log_wanted", py_log_wanted, METH_NOARGS, NULL},
    {"_leave", py_module_leave, METH_NOARGS, NULL},
    {"_drain", py_module_drain, METH_NOARGS, NULL},
    {"_requested", py_module_requested, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef py_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_erlang",
    .m_doc = "The part of the package erlang that is built into the program pynode.",
    .m_size = -1,
    .m_methods = py_module_methods,
};

PyMODINIT_FUNC PyInit__erlang(void) {
    PyObject *module = PyModule_Create(&py_module_def);

    if (module && (py_types_add(module) < 0 || py_executor_add(module) < 0 ||
                   py_async_add(module) < 0 || py_interrupt_add(module) < 0 ||
                   py_schedule_add(module) < 0 || py_atom_init(py_module_options->max_atoms) < 0))
        Py_CLEAR(module);
    return module;
}

/* A script is the main thread's; the node leaves with it, and SIGTERM ends it after the drain,
 * unless the script has a handler of its own. A drain that was asked for comes as a SIGTERM, too,
 * but is not the second one. When the script has returned and other threads are waited for, nobody
 * hears a SystemExit any more. */
static const char py_module_script_setup[] = "import atexit, os, signal, sys, threading, _erlang\n"
                                             "atexit.register(_erlang._leave)\n"
                                             "draining = []\n"
                                             "def terminate(signo, frame):\n"
                                             "    requested = _erlang._requested()\n"
                                             "    if draining:\n"
                                             "        if not requested:\n"
                                             "            os._exit(128 + signo)\n"
                                             "        return\n"
                                             "    draining.append(True)\n"
                                             "    _erlang._drain()\n"
                                             "    if threading.main_thread().is_alive():\n"
                                             "        raise SystemExit(0)\n"
                                             "    atexit._run_exitfuncs()\n"
                                             "    for f in (sys.stdout, sys.stderr):\n"
                                             "        f and f.flush()\n"
                                             "    os._exit(0)\n"
                                             "signal.signal(signal.SIGTERM, terminate)\n";

int py_module_load(const struct options *o) {
    PyObject *module;

    py_module_options = o;
    py_decode_settings.strings_as_bytes = o->strings_as_bytes;
    py_encode_settings.unconvertible_str = o->unconvertible_str;
    snprintf(py_encode_settings.none_atom, sizeof py_encode_settings.none_atom, "%s", o->none_atom);
    procs_init(py_defer);
    request_set_release(py_defer);
    module = PyImport_ImportModule("_erlang");
    if (!module || py_thread_init() < 0 || py_call_init(o) < 0 || py_error_init() < 0 ||
        py_callback_init() < 0 || py_log_init() < 0 || py_loop_init(o) < 0) {
        Py_XDECREF(module);
        return -1;
    }
    Py_DECREF(module);
    if (o->program == OPTIONS_NONE)
        return 0;
    if (py_run_apart(py_module_script_setup) < 0)
        return -1;
    leave_watch_script();
    return 0;
}
