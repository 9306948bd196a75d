/* py.c - the interpreter: its start and end, and the only way in and out of it. */
#include "config.h"

#include "py.h"
#include "buf.h"
#include "log.h"
#include "py_module.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

/* Seconds a busy Python thread may keep the GIL while others want it. bench/gil.py
 * measures it: at Python's own 5 ms a call waits 5 ms behind a computing thread, at this half a
 * millisecond, and throughput is the same. */
#define PY_SWITCH_INTERVAL "0.0005"

static _Thread_local PyThreadState *py_state;
static _Thread_local bool py_main;

static struct {
    pthread_mutex_t lock;
    PyObject **items;
    size_t len, cap;
    _Atomic size_t count;
} py_deferred = {.lock = PTHREAD_MUTEX_INITIALIZER};

PyObject *py_state_dict(void) {
    return PyThreadState_GetDict();
}

bool py_is_main(void) {
    return py_main;
}

void py_attach(void) {
    PyGILState_Ensure();
    py_state = PyEval_SaveThread();
}

void py_detach(void) {
    PyEval_RestoreThread(py_state);
    py_state = NULL;
    PyGILState_Release(PyGILState_UNLOCKED);
}

void py_enter(void) {
    PyEval_RestoreThread(py_state);
}

void py_leave(void) {
    py_state = PyEval_SaveThread();
}

bool py_visit(bool (*fn)(void)) {
    PyGILState_STATE state = PyGILState_Ensure();
    bool result = fn();

    PyGILState_Release(state);
    return result;
}

void py_raise_in(unsigned long thread, PyObject *exc) {
    PyThreadState_SetAsyncExc(thread, exc);
}

void py_forget_raised(void) {
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), NULL);
}

void py_defer(void *object) {
    pthread_mutex_lock(&py_deferred.lock);
    if (py_deferred.len == py_deferred.cap) {
        py_deferred.cap = py_deferred.cap ? py_deferred.cap * 2 : 16;
        py_deferred.items = realloc(py_deferred.items, py_deferred.cap * sizeof *py_deferred.items);
        if (!py_deferred.items)
            fatal("memory: cannot keep %zu references", py_deferred.cap);
    }
    py_deferred.items[py_deferred.len++] = object;
    atomic_store(&py_deferred.count, py_deferred.len);
    pthread_mutex_unlock(&py_deferred.lock);
}

void py_release_deferred(void) {
    PyObject **items;
    size_t len;

    if (atomic_load_explicit(&py_deferred.count, memory_order_relaxed) == 0)
        return;
    pthread_mutex_lock(&py_deferred.lock);
    items = py_deferred.items;
    len = py_deferred.len;
    py_deferred.items = NULL;
    py_deferred.len = py_deferred.cap = 0;
    atomic_store(&py_deferred.count, 0);
    pthread_mutex_unlock(&py_deferred.lock);
    for (size_t i = 0; i < len; i++)
        Py_DECREF(items[i]);
    free(items);
}

/* Starting. */

/* The interpreter whose library this is linked with, or the venv's, so that sys.executable,
 * sys.prefix and site-packages come out as they do for it. */
static PyStatus py_set_program(PyConfig *config, const struct options *o) {
    char path[4096];

    if (!o->venv)
        return PyConfig_SetBytesString(config, &config->program_name, PYNODE_PYTHON);
    snprintf(path, sizeof path, "%s/bin/python3", o->venv);
    return PyConfig_SetBytesString(config, &config->executable, path);
}

static PyStatus py_add_argument(PyWideStringList *list, const char *text) {
    wchar_t *wide = Py_DecodeLocale(text, NULL);
    PyStatus status;

    if (!wide)
        return PyStatus_NoMemory();
    status = PyWideStringList_Append(list, wide);
    PyMem_RawFree(wide);
    return status;
}

/* sys.orig_argv: how python3 would have been called. */
static PyStatus py_set_orig_argv(PyConfig *config, const struct options *o) {
    static const char *const flags[] = {NULL, NULL, "-m", "-c"};
    PyStatus status = py_add_argument(&config->orig_argv, PYNODE_PYTHON);

    if (flags[o->program] && !PyStatus_Exception(status))
        status = py_add_argument(&config->orig_argv, flags[o->program]);
    if (o->program != OPTIONS_NONE && !PyStatus_Exception(status))
        status = py_add_argument(&config->orig_argv, o->script);
    for (int i = 0; i < o->script_argc && !PyStatus_Exception(status); i++)
        status = py_add_argument(&config->orig_argv, o->script_argv[i]);
    return status;
}

/* sys.argv and what Py_RunMain() is to run. */
static PyStatus py_set_script(PyConfig *config, const struct options *o) {
    static const char *const names[] = {"", NULL, "-m", "-c"};
    const char *name = o->program == OPTIONS_SCRIPT ? o->script : names[o->program];
    wchar_t **what = NULL;
    PyStatus status = py_add_argument(&config->argv, name);

    for (int i = 0; i < o->script_argc && !PyStatus_Exception(status); i++)
        status = py_add_argument(&config->argv, o->script_argv[i]);
    if (!PyStatus_Exception(status))
        status = py_set_orig_argv(config, o);
    if (o->program == OPTIONS_SCRIPT && strcmp(o->script, "-") != 0) /* that is stdin */
        what = &config->run_filename;
    else if (o->program == OPTIONS_MODULE)
        what = &config->run_module;
    else if (o->program == OPTIONS_COMMAND)
        what = &config->run_command;
    if (what && !PyStatus_Exception(status))
        status = PyConfig_SetBytesString(config, what, o->script);
    return status;
}

static int py_start(const struct options *o, struct err *e) {
    PyConfig config;
    PyStatus status;

    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.faulthandler = 1;
    config.install_signal_handlers = o->program != OPTIONS_NONE;
    status = py_set_program(&config, o);
    if (!PyStatus_Exception(status))
        status = py_set_script(&config, o);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        return err_set(e, EX_SOFTWARE, "python: %s",
                       status.err_msg ? status.err_msg : "cannot start");
    return 0;
}

/* Takes the exception that is set: its type and text, on one line. */
static int py_error(struct err *e, int code, const char *what) {
    PyObject *type, *value, *trace, *text;
    const char *words = NULL;

    PyErr_Fetch(&type, &value, &trace);
    text = value ? PyObject_Str(value) : NULL;
    if (text)
        words = PyUnicode_AsUTF8(text);
    err_set(e, code, "%s: %s: %s", what,
            type && PyType_Check(type) ? ((PyTypeObject *)type)->tp_name : "error",
            words ? words : "?");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return -1;
}

/* The directory that holds the package erlang: beside the program (the build tree), or the
 * installed one. */
static void py_package_dir(char *dir, size_t size) {
    ssize_t n = readlink("/proc/self/exe", dir, size - 32);
    char *slash;

    if (n > 0) {
        dir[n] = '\0';
        slash = strrchr(dir, '/');
        strcpy(slash, "/python/erlang/__init__.py");
        if (access(dir, R_OK) == 0) {
            strcpy(slash, "/python");
            return;
        }
    }
    snprintf(dir, size, "%s/python", PYNODE_PKGDATADIR);
}

/* --path first, as PYTHONPATH is; the package erlang last, so that it hides nothing. */
static int py_set_path(const struct options *o, struct err *e) {
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    char dir[4096];
    int failed = 0;

    for (size_t i = 0; i < o->path.len && !failed; i++) {
        PyObject *item = PyUnicode_DecodeFSDefault(o->path.items[i]);

        failed = !item || PyList_Insert(path, (Py_ssize_t)i, item) < 0;
        Py_XDECREF(item);
    }
    if (!failed) {
        PyObject *item;

        py_package_dir(dir, sizeof dir);
        item = PyUnicode_DecodeFSDefault(dir);
        failed = !item || PyList_Append(path, item) < 0;
        Py_XDECREF(item);
    }
    return failed ? py_error(e, EX_SOFTWARE, "python: sys.path") : 0;
}

int py_run_apart(const char *source) {
    PyObject *names = PyDict_New();
    PyObject *done = names ? PyRun_String(source, Py_file_input, names, names) : NULL;

    Py_XDECREF(names);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

int py_init(const struct options *o, const char *program, struct err *e) {
    static const char settings[] =
        "import sys, faulthandler, signal\n"
        "import threading\n" /* here: the thread that imports it is its main thread */
        "sys.setswitchinterval(" PY_SWITCH_INTERVAL ")\n"
        "sys.stdout and sys.stdout.reconfigure(line_buffering=True)\n"
        "faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)\n";

    (void)program;
    py_main = true;
    if (PyImport_AppendInittab("_erlang", PyInit__erlang) < 0)
        return err_set(e, EX_SOFTWARE, "python: no memory");
    if (py_start(o, e) < 0)
        return -1;
    if (py_set_path(o, e) < 0)
        return -1;
    if (py_run_apart(settings) < 0)
        return py_error(e, EX_SOFTWARE, "python: cannot be set up");
    if (py_module_load(o) < 0)
        return py_error(e, EX_SOFTWARE, "python: module _erlang");
    return 0;
}

int py_import(const struct options *o, struct err *e) {
    for (size_t i = 0; i < o->imports.len; i++) {
        PyObject *module = PyImport_ImportModule(o->imports.items[i]);

        if (!module) {
            char what[200];

            snprintf(what, sizeof what, "import %.150s", o->imports.items[i]);
            return py_error(e, EX_CONFIG, what);
        }
        Py_DECREF(module);
    }
    if (py_run_apart("import gc\ngc.collect()\ngc.freeze()\n") < 0)
        return py_error(e, EX_SOFTWARE, "python: the collector cannot be set up");
    return 0;
}

int py_run_script(void) {
    return Py_RunMain();
}

void py_done(void) {
    if (py_run_apart("import atexit, sys\n"
                     "atexit._run_exitfuncs()\n"
                     "for f in (sys.stdout, sys.stderr):\n"
                     "    f and f.flush()\n") < 0)
        PyErr_Print();
}
