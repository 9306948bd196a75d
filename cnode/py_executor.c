/* py_executor.c - the native part of erlang.blocking.BlockingExecutor: calls run by a taskpool. */
#include "config.h"

#include "py_executor.h"
#include "py.h"
#include "py_batch.h"
#include "py_future.h"
#include "py_task.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

enum {
    PY_EXECUTOR_THREADS = 32767,
    PY_EXECUTOR_STACK = 32 << 10, /* the least, as threading.stack_size() has it */
};

typedef struct {
    PyObject_HEAD
    struct py_task_pool pool;
} PyExecutorObject;

static PyObject *py_executor_full;

/* Making a pool. */

/* A count that is not negative and at most max; 0 may stand for a default: -1 with an exception. */
static Py_ssize_t py_executor_count(PyObject *value, const char *name, Py_ssize_t max) {
    Py_ssize_t n;

    if (!value)
        return 0;
    if (PyBool_Check(value) || !PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.100s", name,
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    n = PyNumber_AsSsize_t(value, NULL); /* what is too large for it is cut off */
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < 0 || n > max) {
        PyErr_Format(PyExc_ValueError, "%s must be 0 to %zd, not %R", name, max, value);
        return -1;
    }
    return n;
}

static int py_executor_processors(void) {
#ifdef __linux__
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Waits outside Python; a signal whose handler raises ends the wait: 0/-1. */
static int py_executor_wait_started(struct taskpool *pool) {
    bool started;

    for (;;) {
        py_leave();
        started = taskpool_wait_started(pool);
        py_enter();
        if (started)
            return 0;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

static int py_executor_begin(PyExecutorObject *self, int threads, size_t limit, size_t stack,
                             const char *name) {
    struct py_task_shared *shared = self->pool.shared;
    int started;

    atomic_store(&shared->refs, threads + 1);
    self->pool.threads =
        taskpool_new(threads, limit, stack, name, &py_task_hooks, shared, &started);
    if (!self->pool.threads) {
        int error = errno;

        atomic_fetch_sub(&shared->refs, threads - started); /* the others give theirs back */
        errno = error;
        PyErr_Format(PyExc_RuntimeError, "cannot start %d threads: %s", threads, strerror(errno));
        return -1;
    }
    if (py_executor_wait_started(self->pool.threads) < 0)
        return -1;
    Py_CLEAR(shared->initializer);
    Py_CLEAR(shared->initargs);
    return 0;
}

static int py_executor_init(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"max_threads", "queue_size", "thread_name_prefix",
                            "initializer", "initargs",   "stack_size",
                            NULL};
    PyExecutorObject *self = (PyExecutorObject *)op;
    PyObject *max = NULL, *queue = NULL, *prefix = NULL, *initializer = Py_None, *initargs = NULL;
    PyObject *stack_size = NULL;
    Py_ssize_t threads, limit, stack;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO$UOO!O:BlockingExecutor", names, &max,
                                     &queue, &prefix, &initializer, &PyTuple_Type, &initargs,
                                     &stack_size))
        return -1;
    threads = py_executor_count(max, "max_threads", PY_EXECUTOR_THREADS);
    limit = threads < 0 ? -1 : py_executor_count(queue, "queue_size", PY_SSIZE_T_MAX / 2);
    stack = limit < 0 ? -1 : py_executor_count(stack_size, "stack_size", PY_SSIZE_T_MAX / 2);
    if (stack < 0)
        return -1;
    if (stack > 0 && stack < PY_EXECUTOR_STACK) {
        PyErr_Format(PyExc_ValueError, "stack_size must be 0 or at least %d", PY_EXECUTOR_STACK);
        return -1;
    }
    if (initializer != Py_None && !PyCallable_Check(initializer)) {
        PyErr_SetString(PyExc_TypeError, "initializer must be a callable");
        return -1;
    }
    if (py_task_import() < 0 || py_future_import() < 0)
        return -1;
    if (self->pool.shared) {
        PyErr_SetString(PyExc_RuntimeError, "BlockingExecutor: __init__() is called once");
        return -1;
    }
    self->pool.shared = PyMem_RawCalloc(1, sizeof *self->pool.shared);
    if (!self->pool.shared) {
        PyErr_NoMemory();
        return -1;
    }
    if (initializer != Py_None)
        self->pool.shared->initializer = Py_NewRef(initializer);
    self->pool.shared->initargs = Py_XNewRef(initargs);
    self->pool.shared->prefix = prefix && PyUnicode_GET_LENGTH(prefix) > 0
                                    ? Py_NewRef(prefix)
                                    : PyUnicode_FromString("BlockingExecutor");
    if (!self->pool.shared->prefix)
        return -1;
    return py_executor_begin(self, threads ? (int)threads : py_executor_processors(), (size_t)limit,
                             (size_t)stack, PyUnicode_AsUTF8(self->pool.shared->prefix));
}

static void py_executor_dealloc(PyObject *op) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    PyTypeObject *type = Py_TYPE(op);

    if (self->pool.threads && !taskpool_forked(self->pool.threads)) {
        taskpool_free(self->pool.threads);
        py_task_shared_unref(self->pool.shared);
    } else if (self->pool.shared && !self->pool.threads) {
        py_task_shared_unref(self->pool.shared);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* Using it. */

/* Whether the pool can be asked for anything: false with an exception. */
static bool py_executor_check_made(const PyExecutorObject *self) {
    if (!self->pool.threads) {
        PyErr_SetString(PyExc_RuntimeError, "BlockingExecutor: __init__() has not been called");
        return false;
    }
    if (taskpool_forked(self->pool.threads)) {
        PyErr_SetString(PyExc_RuntimeError, "BlockingExecutor was made before fork(): its threads "
                                            "are not in this process, make another one");
        return false;
    }
    return true;
}

static void py_executor_raise_broken(PyObject *cause) {
    PyObject *thread = PyImport_ImportModule("concurrent.futures.thread");
    PyObject *type = thread ? PyObject_GetAttrString(thread, "BrokenThreadPool") : NULL;
    PyObject *exception =
        type ? PyObject_CallFunction(type, "s", "BlockingExecutor: an initializer failed") : NULL;

    Py_XDECREF(thread);
    Py_XDECREF(type);
    if (!exception)
        return;
    PyException_SetCause(exception, Py_NewRef(cause));
    py_task_raise(exception);
}

/* Whether the pool takes tasks: false with an exception. */
static bool py_executor_check(const PyExecutorObject *self) {
    if (!py_executor_check_made(self))
        return false;
    if (taskpool_closed(self->pool.threads)) {
        py_task_raise_closed();
        return false;
    }
    if (self->pool.shared->broken) {
        py_executor_raise_broken(self->pool.shared->broken);
        return false;
    }
    return true;
}

static bool py_executor_check_callable(PyObject *function, const char *where) {
    if (PyCallable_Check(function))
        return true;
    PyErr_Format(PyExc_TypeError, "%s: %.100s object is not callable", where,
                 Py_TYPE(function)->tp_name);
    return false;
}

/* The function of a method f(fn, /, *args, **kwargs), or NULL. */
static PyObject *py_executor_function(const PyExecutorObject *self, PyObject *const *args,
                                      Py_ssize_t nargs, const char *where) {
    if (nargs < 1) {
        PyErr_Format(PyExc_TypeError, "%s: needs a callable as its first argument", where);
        return NULL;
    }
    return py_executor_check(self) && py_executor_check_callable(args[0], where) ? args[0] : NULL;
}

PyDoc_STRVAR(py_executor_run_sync_doc,
             "run_sync(fn, /, *args, **kwargs)\n--\n\n"
             "Runs fn(*args, **kwargs) on a thread of the pool and returns its result, or raises\n"
             "its exception. In a thread of this very pool, when none is free: in that thread.\n\n"
             ">>> with BlockingExecutor(2) as pool:\n"
             "...     pool.run_sync(pow, 2, 10)\n"
             "1024\n");

static PyObject *py_executor_run_sync(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                      PyObject *kwnames) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    PyObject *function = py_executor_function(self, args, nargs, "run_sync()");
    Py_ssize_t len = nargs - 1 + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    struct taskpool_group *group;
    struct py_task *task;
    PyObject *result = NULL;
    int pushed = 0;

    if (!function)
        return NULL;
    task = py_task_new(PY_TASK_CALL, function, args + 1, len, kwnames);
    if (!task)
        return NULL;
    group = taskpool_group_new();
    py_task_join(task, group);
    if (taskpool_mine() == self->pool.threads) {
        pushed = py_task_push(&self->pool, task, true);
        if (pushed > 0)
            py_task_run_here(&self->pool, task);
        if (pushed == 0)
            pushed = py_task_wait(group);
    } else {
        pushed = py_task_push_and_wait(&self->pool, task, group);
    }
    if (pushed >= 0)
        result = py_task_take(task);
    py_task_release(&self->pool, task);
    taskpool_group_unref(group);
    return result;
}

PyDoc_STRVAR(py_executor_submit_doc,
             "submit(fn, /, *args, **kwargs)\n--\n\n"
             "Lets a thread of the pool run fn(*args, **kwargs): a concurrent.futures.Future.\n\n"
             "Waits for room when the queue is full. In a thread of this very pool it runs the\n"
             "call at once instead.\n\n"
             ">>> with BlockingExecutor(2) as pool:\n"
             "...     pool.submit(pow, 2, 10).result()\n"
             "1024\n");

/* A Future, and the task that will end it. */
static PyObject *py_executor_future(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                                    struct py_task **task) {
    Py_ssize_t len = nargs - 1 + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject *future = py_future_new();

    if (!future)
        return NULL;
    *task = py_task_new(PY_TASK_FUTURE, args[0], args + 1, len, kwnames);
    if (!*task) {
        Py_DECREF(future);
        return NULL;
    }
    (*task)->future = Py_NewRef(future);
    return future;
}

static PyObject *py_executor_submit(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    struct py_task *task;
    PyObject *future;
    int pushed;

    if (!py_executor_function(self, args, nargs, "submit()"))
        return NULL;
    future = py_executor_future(args, nargs, kwnames, &task);
    if (!future)
        return NULL;
    pushed = py_task_push(&self->pool, task, false);
    if (pushed > 0)
        py_task_run_here(&self->pool, task);
    if (pushed < 0)
        Py_CLEAR(future);
    return future;
}

PyDoc_STRVAR(py_executor_try_submit_doc,
             "try_submit(fn, /, *args, **kwargs)\n--\n\n"
             "As submit(), but raises QueueFull instead of waiting for room.\n");

static PyObject *py_executor_try_submit(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    enum taskpool_result result;
    struct py_task *task;
    PyObject *future;

    if (!py_executor_function(self, args, nargs, "try_submit()"))
        return NULL;
    future = py_executor_future(args, nargs, kwnames, &task);
    if (!future)
        return NULL;
    result = taskpool_push(self->pool.threads, &task->head);
    if (result == TASKPOOL_OK)
        return future;
    py_task_unqueue(task);
    Py_DECREF(future);
    if (result == TASKPOOL_CLOSED)
        py_task_raise_closed();
    else
        PyErr_SetString(py_executor_full, "the queue of the BlockingExecutor is full");
    return NULL;
}

PyDoc_STRVAR(py_executor_submit_over_doc,
             "_submit_over(fn, /, *args, **kwargs)\n--\n\n"
             "As submit(), but never waits: the queue may hold more than its limit then.\n");

static PyObject *py_executor_submit_over(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                         PyObject *kwnames) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    struct py_task *task;
    PyObject *future;

    if (!py_executor_function(self, args, nargs, "arun()"))
        return NULL;
    future = py_executor_future(args, nargs, kwnames, &task);
    if (!future || taskpool_push_over(self->pool.threads, &task->head) == TASKPOOL_OK)
        return future;
    py_task_unqueue(task);
    Py_DECREF(future);
    py_task_raise_closed();
    return NULL;
}

PyDoc_STRVAR(
    py_executor_run_parallel_doc,
    "run_parallel(tasks, /)\n--\n\n"
    "Runs many calls, each (fn,), (fn, args) or (fn, args, kwargs): their results in order.\n\n"
    "All tasks are looked at before the first runs. Waits for all of them; then the first\n"
    "exception, by order of the tasks, is raised, with notes about the others.\n\n"
    ">>> with BlockingExecutor(2) as pool:\n"
    "...     pool.run_parallel([(pow, (2, 3)), (int, ('ff',), {'base': 16}), (list,)])\n"
    "[8, 255, []]\n");

static PyObject *py_executor_run_parallel(PyObject *op, PyObject *tasks) {
    PyExecutorObject *self = (PyExecutorObject *)op;

    return py_executor_check(self) ? py_batch_parallel(&self->pool, tasks) : NULL;
}

PyDoc_STRVAR(py_executor_chunk_size_doc,
             "_chunk_size(fn, chunk_size, length)\n--\n\n"
             "Whether map(fn, ..., chunk_size) of length items can be: how many a task takes.\n");

static PyObject *py_executor_chunk_size(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    Py_ssize_t chunk, len;

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "_chunk_size(): needs fn, chunk_size and length");
        return NULL;
    }
    if (!py_executor_check(self) || !py_executor_check_callable(args[0], "amap()"))
        return NULL;
    chunk = py_executor_count(args[1], "chunk_size", PY_SSIZE_T_MAX / 2);
    len = chunk < 0 ? -1 : PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
    if (chunk < 0 || (len == -1 && PyErr_Occurred()))
        return NULL;
    return PyLong_FromSsize_t(chunk ? chunk : py_batch_chunk_size(&self->pool, len));
}

PyDoc_STRVAR(py_executor_map_doc, "_map(fn, items, chunk_size)\n--\n\n"
                                  "map() of one iterable: a list in the order of items.\n");

static PyObject *py_executor_map(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    PyExecutorObject *self = (PyExecutorObject *)op;
    Py_ssize_t chunk;

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "map(): needs fn, items and chunk_size");
        return NULL;
    }
    if (!py_executor_check(self) || !py_executor_check_callable(args[0], "map()"))
        return NULL;
    chunk = py_executor_count(args[2], "chunk_size", PY_SSIZE_T_MAX / 2);
    return chunk < 0 ? NULL : py_batch_map(&self->pool, args[0], args[1], chunk);
}

/* Looking at it. */

static bool py_executor_numbers(PyObject *op, struct taskpool_numbers *n) {
    PyExecutorObject *self = (PyExecutorObject *)op;

    if (!py_executor_check_made(self))
        return false;
    taskpool_read_numbers(self->pool.threads, n);
    return true;
}

static PyObject *py_executor_active_threads(PyObject *op, PyObject *unused) {
    struct taskpool_numbers n;

    (void)unused;
    return py_executor_numbers(op, &n) ? PyLong_FromLong(n.live) : NULL;
}

static PyObject *py_executor_busy_threads(PyObject *op, PyObject *unused) {
    struct taskpool_numbers n;

    (void)unused;
    return py_executor_numbers(op, &n) ? PyLong_FromLong(n.busy) : NULL;
}

static PyObject *py_executor_pool_size(PyObject *op, PyObject *unused) {
    struct taskpool_numbers n;

    (void)unused;
    return py_executor_numbers(op, &n) ? PyLong_FromLong(n.threads) : NULL;
}

static PyObject *py_executor_pending_tasks(PyObject *op, PyObject *unused) {
    struct taskpool_numbers n;

    (void)unused;
    return py_executor_numbers(op, &n) ? PyLong_FromSize_t(n.queued) : NULL;
}

static PyObject *py_executor_is_running(PyObject *op, PyObject *unused) {
    PyExecutorObject *self = (PyExecutorObject *)op;

    (void)unused;
    return PyBool_FromLong(self->pool.threads && !taskpool_forked(self->pool.threads) &&
                           !taskpool_closed(self->pool.threads));
}

static PyObject *py_executor_forked(PyObject *op, PyObject *unused) {
    PyExecutorObject *self = (PyExecutorObject *)op;

    (void)unused;
    return PyBool_FromLong(self->pool.threads && taskpool_forked(self->pool.threads));
}

PyDoc_STRVAR(py_executor_stats_doc,
             "stats()\n--\n\n"
             "What the pool has done: a dict of queued and running (now), done, failed and\n"
             "cancelled (since its start), wait_seconds and run_seconds (of all tasks together).\n"
             "A chunk of map() is one task.\n");

static PyObject *py_executor_stats(PyObject *op, PyObject *unused) {
    struct py_task_shared *shared = ((PyExecutorObject *)op)->pool.shared;
    struct taskpool_numbers n;

    (void)unused;
    if (!py_executor_numbers(op, &n))
        return NULL;
    return Py_BuildValue("{s:n,s:i,s:K,s:K,s:K,s:d,s:d}", "queued", (Py_ssize_t)n.queued, "running",
                         n.busy, "done", (unsigned long long)atomic_load(&shared->done), "failed",
                         (unsigned long long)atomic_load(&shared->failed), "cancelled",
                         (unsigned long long)atomic_load(&shared->cancelled), "wait_seconds",
                         (double)atomic_load(&shared->wait_ns) / 1e9, "run_seconds",
                         (double)atomic_load(&shared->run_ns) / 1e9);
}

/* Ending it. */

/* Seconds as a number that is not negative; None: for ever. -1 with an exception. */
static double py_executor_seconds(PyObject *value) {
    double seconds;

    if (value == Py_None)
        return HUGE_VAL;
    if (PyBool_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "timeout_secs must be a number or None, not bool");
        return -1;
    }
    seconds = PyFloat_AsDouble(value);
    if (seconds == -1 && PyErr_Occurred())
        return -1;
    if (isnan(seconds) || seconds < 0) {
        PyErr_Format(PyExc_ValueError, "timeout_secs must not be negative or NaN: %R", value);
        return -1;
    }
    return seconds;
}

/* Waits for the threads of one pool, or with NULL of all: True, False, or NULL with a signal
 * handler's exception. */
static PyObject *py_executor_join(struct taskpool *pool, double seconds) {
    int64_t until = seconds < 1e9 ? clock_now() + (int64_t)(seconds * 1e9) : INT64_MAX;
    enum taskpool_result result;

    for (;;) {
        py_leave();
        result = pool ? taskpool_join(pool, seconds) : taskpool_join_all(seconds);
        py_enter();
        if (result != TASKPOOL_INTERRUPTED)
            return PyBool_FromLong(result == TASKPOOL_OK);
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (until != INT64_MAX)
            seconds = until > clock_now() ? (double)(until - clock_now()) / 1e9 : 0;
    }
}

PyDoc_STRVAR(
    py_executor_shutdown_doc,
    "shutdown(wait=True, timeout_secs=30.0, cancel_futures=False)\n--\n\n"
    "Takes no more tasks; those in the queue are still run, or cancelled if asked. Waits,\n"
    "at most so many seconds (None: any number), for the threads to end: whether they\n"
    "have. Can be called again. A thread of this very pool does not wait.\n");

static PyObject *py_executor_shutdown(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"wait", "timeout_secs", "cancel_futures", NULL};
    PyExecutorObject *self = (PyExecutorObject *)op;
    PyObject *timeout = NULL;
    int wait = 1, cancel = 0;
    double seconds;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pOp:shutdown", names, &wait, &timeout,
                                     &cancel))
        return NULL;
    seconds = timeout ? py_executor_seconds(timeout) : 30.0;
    if (seconds < 0 || !py_executor_check_made(self))
        return NULL;
    if (py_task_cancel(self->pool.shared, taskpool_close(self->pool.threads, cancel)) < 0)
        return NULL;
    if (!wait || taskpool_mine() == self->pool.threads)
        seconds = 0;
    return py_executor_join(self->pool.threads, seconds);
}

PyDoc_STRVAR(
    py_executor_join_all_doc,
    "_join_all(seconds)\n--\n\n"
    "Waits for the threads of all pools, those included that are gone: whether they ended.\n");

static PyObject *py_executor_join_all(PyObject *unused, PyObject *arg) {
    double seconds = py_executor_seconds(arg);

    (void)unused;
    return seconds < 0 ? NULL : py_executor_join(NULL, seconds);
}

#define PY_EXECUTOR_CAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef py_executor_methods[] = {
    {"run_sync", PY_EXECUTOR_CAST(py_executor_run_sync), METH_FASTCALL | METH_KEYWORDS,
     py_executor_run_sync_doc},
    {"submit", PY_EXECUTOR_CAST(py_executor_submit), METH_FASTCALL | METH_KEYWORDS,
     py_executor_submit_doc},
    {"try_submit", PY_EXECUTOR_CAST(py_executor_try_submit), METH_FASTCALL | METH_KEYWORDS,
     py_executor_try_submit_doc},
    {"run_parallel", py_executor_run_parallel, METH_O, py_executor_run_parallel_doc},
    {"_submit_over", PY_EXECUTOR_CAST(py_executor_submit_over), METH_FASTCALL | METH_KEYWORDS,
     py_executor_submit_over_doc},
    {"_chunk_size", PY_EXECUTOR_CAST(py_executor_chunk_size), METH_FASTCALL,
     py_executor_chunk_size_doc},
    {"_join_all", py_executor_join_all, METH_O | METH_STATIC, py_executor_join_all_doc},
    {"_map", PY_EXECUTOR_CAST(py_executor_map), METH_FASTCALL, py_executor_map_doc},
    {"active_threads", py_executor_active_threads, METH_NOARGS,
     PyDoc_STR("active_threads()\n--\n\nThreads that have not ended.\n")},
    {"busy_threads", py_executor_busy_threads, METH_NOARGS,
     PyDoc_STR("busy_threads()\n--\n\nThreads that run a task.\n")},
    {"pool_size", py_executor_pool_size, METH_NOARGS,
     PyDoc_STR("pool_size()\n--\n\nThreads that the pool was made with.\n")},
    {"pending_tasks", py_executor_pending_tasks, METH_NOARGS,
     PyDoc_STR("pending_tasks()\n--\n\nTasks in the queue.\n")},
    {"is_running", py_executor_is_running, METH_NOARGS,
     PyDoc_STR("is_running()\n--\n\nWhether the pool takes tasks.\n")},
    {"_forked", py_executor_forked, METH_NOARGS,
     PyDoc_STR("_forked()\n--\n\nWhether the pool was made before this process was forked.\n")},
    {"stats", py_executor_stats, METH_NOARGS, py_executor_stats_doc},
    {"shutdown", PY_EXECUTOR_CAST(py_executor_shutdown), METH_VARARGS | METH_KEYWORDS,
     py_executor_shutdown_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot py_executor_slots[] = {
    {Py_tp_doc, "The threads and the queue of a BlockingExecutor."},
    {Py_tp_init, py_executor_init},
    {Py_tp_dealloc, py_executor_dealloc},
    {Py_tp_methods, py_executor_methods},
    {0, NULL},
};

static PyType_Spec py_executor_spec = {
    .name = "_erlang.ThreadPool",
    .basicsize = sizeof(PyExecutorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = py_executor_slots,
};

int py_executor_add(PyObject *module) {
    PyObject *type = py_future_add(module) < 0
                         ? NULL
                         : PyType_FromModuleAndSpec(module, &py_executor_spec, NULL);
    int added = type ? PyModule_AddObjectRef(module, "ThreadPool", type) : -1;

    Py_XDECREF(type);
    if (added < 0)
        return -1;
    py_executor_full = PyErr_NewExceptionWithDoc(
        "erlang.blocking.QueueFull", "The queue of the executor has no room.", NULL, NULL);
    return py_executor_full ? PyModule_AddObjectRef(module, "QueueFull", py_executor_full) : -1;
}
