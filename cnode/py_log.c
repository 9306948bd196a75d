/* py_log.c - Python's logging to the Erlang application: a record is one item for the log's home. */
#include "config.h"

#include "py_log.h"
#include "etf.h"
#include "home.h"
#include "io.h"
#include "py.h"
#include "py_encode.h"

#include <stdatomic.h>

enum { PY_LOG_MAX = 1 << 20 }; /* bytes; a larger record is dropped */

static _Atomic bool py_log_had_home;
static _Atomic uint64_t py_log_dropped; /* since it was last said */

/* A finder that finds only logging, and lets the others do it. Whoever asks only for the spec does
 * not use it up; a failure of ours is no failure of the import. */
static const char py_log_setup[] =
    "import sys\n"
    "def install():\n"
    "    try:\n"
    "        import erlang._logging\n"
    "        erlang._logging.install()\n"
    "    except Exception as e:\n"
    "        print(f'logging does not go to Erlang: {e!r}', file=sys.stderr)\n"
    "class Finder:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name != 'logging':\n"
    "            return None\n"
    "        specs = (f.find_spec(name, path, target) for f in sys.meta_path[:] if f is not self)\n"
    "        spec = next(filter(None, specs), None)\n"
    "        if spec and spec.loader:\n"
    "            execute = spec.loader.exec_module\n"
    "            def exec_module(module):\n"
    "                execute(module)\n"
    "                if self in sys.meta_path:\n"
    "                    sys.meta_path.remove(self)\n"
    "                    install()\n"
    "            spec.loader.exec_module = exec_module\n"
    "        return spec\n"
    "if 'logging' in sys.modules:\n"
    "    install()\n"
    "else:\n"
    "    sys.meta_path.insert(0, Finder())\n";

void py_log_attach(void) {
    atomic_store(&py_log_had_home, true);
}

int py_log_init(void) {
    return py_run_apart(py_log_setup);
}

/* Whether there is a home now. */
static bool py_log_has_home(void) {
    struct conn *c;

    if (!atomic_load_explicit(&py_log_had_home, memory_order_relaxed) || io_forked())
        return false;
    c = home_conn(NULL);
    if (c)
        conn_unref(c);
    return c != NULL;
}

PyObject *py_log_wanted(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(py_log_has_home());
}

/* The Erlang level of that name, or NULL with an exception. */
static const char *py_log_level(const char *name) {
    static const char *const levels[] = {"debug", "info", "warning", "error", "critical"};

    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(name, levels[i]) == 0)
            return levels[i];
    PyErr_Format(PyExc_ValueError, "no such level: %s", name);
    return NULL;
}

/* Appends a str as a binary; a lone surrogate, which is no UTF-8, as its escape: 0, or -1 with an
 * exception. */
static int py_log_put_text(struct buf *item, PyObject *text) {
    PyObject *bytes = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");

    if (!bytes)
        return -1;
    etf_put_binary(item, PyBytes_AS_STRING(bytes), (uint32_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return 0;
}

/* Forgets the exception that is set, if it is an error: 0. Else, as for Cancelled, -1. */
static int py_log_forgive(void) {
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear();
    return 0;
}

/* Appends a value; what has no Erlang form as its str(), and without that as its type's name: 0,
 * or -1 with an exception that is no error. */
static int py_log_put_value(struct buf *item, PyObject *value) {
    PyObject *text;
    int result;

    if (py_encode(item, value, "meta") == 0)
        return 0;
    if (py_log_forgive() < 0)
        return -1;
    text = PyObject_Str(value);
    if (!text) {
        if (py_log_forgive() < 0)
            return -1;
        etf_put_string(item, Py_TYPE(value)->tp_name);
        return 0;
    }
    result = py_log_put_text(item, text);
    Py_DECREF(text);
    return result;
}

/* Whether the key can be a map's: a str that is UTF-8, as no other key can be equal to it then. */
static bool py_log_is_key(PyObject *key) {
    if (PyUnicode_CheckExact(key) && PyUnicode_AsUTF8(key))
        return true;
    PyErr_Clear();
    return false;
}

/* Appends the items whose keys are good as a map: 0, or -1 with an exception. */
static int py_log_put_items(struct buf *item, PyObject *items) {
    uint32_t good = 0;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++)
        good += py_log_is_key(PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 0));
    etf_put_map(item, good);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* borrowed */

        if (py_log_is_key(PyTuple_GET_ITEM(pair, 0)) &&
            (py_log_put_text(item, PyTuple_GET_ITEM(pair, 0)) < 0 ||
             py_log_put_value(item, PyTuple_GET_ITEM(pair, 1)) < 0))
            return -1;
    }
    return 0;
}

/* Appends the dict: 0, or -1 with an exception. */
static int py_log_put_meta(struct buf *item, PyObject *meta) {
    PyObject *items = PyDict_Items(meta); /* a copy: what is converted may change the dict */
    int result = items ? py_log_put_items(item, items) : -1;

    Py_XDECREF(items);
    return result;
}

/* Begins {log, Level, Logger, Text, Meta}. */
static void py_log_begin(struct buf *item, const char *level) {
    etf_put_tuple(item, 5);
    etf_put_atom(item, "log");
    etf_put_atom(item, level);
}

/* Says how many were dropped, if any were and there is room for that. */
static void py_log_report(void) {
    uint64_t n = atomic_exchange(&py_log_dropped, 0);
    struct buf item = {0};
    char text[80];

    if (n == 0)
        return;
    snprintf(text, sizeof text, "%llu log records dropped", (unsigned long long)n);
    py_log_begin(&item, "warning");
    etf_put_string(&item, "erlang");
    etf_put_string(&item, text);
    etf_put_map(&item, 0);
    if (!home_log(&item))
        atomic_fetch_add(&py_log_dropped, n);
}

/* Hands the item over, or drops it; takes it: whether it is on its way. */
static bool py_log_give(struct buf *item) {
    if (item->len <= PY_LOG_MAX && home_log(item)) {
        py_log_report();
        return true;
    }
    buf_done(item);
    atomic_fetch_add(&py_log_dropped, 1);
    return false;
}

PyObject *py_log_record(PyObject *self, PyObject *args) {
    PyObject *logger, *text, *meta;
    struct buf item = {0};
    const char *level;

    (void)self;
    if (!PyArg_ParseTuple(args, "sUUO!:_log", &level, &logger, &text, &PyDict_Type, &meta))
        return NULL;
    level = py_log_level(level);
    if (!level)
        return NULL;
    if (!py_log_has_home())
        Py_RETURN_FALSE;
    py_log_begin(&item, level);
    if (py_log_put_text(&item, logger) < 0 || py_log_put_text(&item, text) < 0 ||
        py_log_put_meta(&item, meta) < 0) {
        buf_done(&item);
        return NULL;
    }
    return PyBool_FromLong(py_log_give(&item));
}
