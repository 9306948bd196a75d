/* py_task.c - one call that a thread of a pool is to run, and the Python side of those threads. */
#include "config.h"

#include "py_task.h"
#include "py.h"
#include "py_callback.h"
#include "py_future.h"

#include <time.h>

enum {
    PY_TASK_SLICE_NS = 100000, /* between two looks whether another thread wants the GIL */
    PY_TASK_ITEMS = 32,        /* the most items of map() between two looks at the clock */
};

/* What is needed of the standard library. */
static struct {
    PyObject *cancelled, *current_thread;
    PyObject *active, *name, *give_way;
} py_task_names;

/* Starting. */

int py_task_import(void) {
    PyObject *futures, *threading, *blocking;

    if (py_task_names.active)
        return 0;
    futures = PyImport_ImportModule("concurrent.futures");
    threading = futures ? PyImport_ImportModule("threading") : NULL;
    blocking = threading ? PyImport_ImportModule("erlang.blocking") : NULL;
    if (blocking) {
        py_task_names.give_way = PyObject_GetAttrString(blocking, "_give_way");
        py_task_names.cancelled = PyObject_GetAttrString(futures, "CancelledError");
        py_task_names.current_thread = PyObject_GetAttrString(threading, "current_thread");
        py_task_names.name = PyUnicode_InternFromString("name");
        py_task_names.active = PyObject_GetAttrString(threading, "_active");
    }
    Py_XDECREF(futures);
    Py_XDECREF(threading);
    Py_XDECREF(blocking);
    return PyErr_Occurred() ? -1 : 0;
}

/* Exceptions. */

PyObject *py_task_take_exception(void) {
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

void py_task_raise(PyObject *exception) {
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_DECREF(exception);
}

/* Tasks. */

static void py_task_empty(struct py_task *task) {
    if (task->conn)
        conn_unref(task->conn);
    task->conn = NULL;
    Py_CLEAR(task->function);
    Py_CLEAR(task->context);
    Py_CLEAR(task->future);
    Py_CLEAR(task->kwnames);
    for (Py_ssize_t i = 0; i < task->len; i++)
        Py_CLEAR(task->args[i]);
    task->len = 0;
}

/* Gives up a task that is nobody else's. */
static void py_task_drop(struct py_task *task) {
    py_task_empty(task);
    Py_CLEAR(task->result);
    Py_CLEAR(task->exception);
    taskpool_task_unref(&task->head);
}

struct py_task *py_task_new(enum py_task_kind kind, PyObject *function, PyObject *const *args,
                            Py_ssize_t len, PyObject *kwnames) {
    size_t size = sizeof(struct py_task) + (size_t)len * sizeof(PyObject *);
    struct py_task *task = taskpool_task_new(size);

    if (!task) {
        PyErr_NoMemory();
        return NULL;
    }
    task->kind = kind;
    if (py_callback_get_conn())
        task->conn = conn_ref(py_callback_get_conn());
    task->function = Py_NewRef(function);
    task->kwnames = Py_XNewRef(kwnames);
    task->len = len;
    for (Py_ssize_t i = 0; i < len; i++)
        task->args[i] = Py_NewRef(args[i]);
    task->context = PyContext_CopyCurrent();
    if (!task->context) {
        py_task_drop(task);
        return NULL;
    }
    return task;
}

static PyObject *py_task_call(struct py_task *task) {
    Py_ssize_t named = task->kwnames ? PyTuple_GET_SIZE(task->kwnames) : 0;

    return PyObject_Vectorcall(task->function, task->args, (size_t)(task->len - named),
                               task->kwnames);
}

/* Lets another thread have the GIL if one has asked for it and this thread has not looked since
 * slice, which was long ago: how long, in ns. Code in Python looks by itself, C functions do not; so
 * a function in Python is called. To leave and enter without being asked would be wrong: nobody
 * takes the GIL in so short a time, and who waits for it is woken and begins to wait anew. */
static int64_t py_task_yield(int64_t *slice) {
    int64_t now = clock_now(), used = now - *slice;

    if (used >= PY_TASK_SLICE_NS) {
        PyObject *none = PyObject_CallNoArgs(py_task_names.give_way);

        if (!none)
            PyErr_WriteUnraisable(py_task_names.give_way);
        Py_XDECREF(none);
        *slice = clock_now();
    }
    return used;
}

int py_task_note_error(PyObject *errors, Py_ssize_t index) {
    PyObject *exception = py_task_take_exception();
    PyObject *entry = Py_BuildValue("(nN)", index, exception);
    int result = entry ? PyList_Append(errors, entry) : -1;

    Py_XDECREF(entry);
    return result;
}

/* Applies the function to a run of items; all of them, whatever some raise. The clock is looked at
 * the more often the longer the items take. */
static PyObject *py_task_run_chunk(struct py_task *task) {
    PyObject *items = task->args[0], *results = task->args[1], *errors = task->args[2];
    int64_t slice = clock_now(), used = 0, before;
    Py_ssize_t step = 1, look = task->from;

    for (Py_ssize_t i = task->from; i < task->to; i++) {
        PyObject *result = PyObject_CallOneArg(task->function, PyTuple_GET_ITEM(items, i));

        if (!result) {
            task->failed = true;
            if (py_task_note_error(errors, i) < 0)
                return NULL;
        }
        PyList_SET_ITEM(results, i, result ? result : Py_NewRef(Py_None));
        if (atomic_load_explicit(&task->abandoned, memory_order_relaxed))
            break;
        if (i == look) {
            before = used < PY_TASK_SLICE_NS ? used : 0;
            used = py_task_yield(&slice);
            step = used - before > PY_TASK_SLICE_NS / 4 ? 1 : step * 2;
            step = step < PY_TASK_ITEMS ? step : PY_TASK_ITEMS;
            look = i + step;
        }
    }
    return Py_NewRef(Py_None);
}

/* Runs the task in its context and leaves its end in it or in its Future. */
static void py_task_run(struct py_task_shared *shared, struct py_task *task) {
    PyObject *result = NULL, *exception = NULL;
    int64_t began = clock_now();
    struct conn *before;

    atomic_fetch_add_explicit(&shared->wait_ns, began - task->head.since, memory_order_relaxed);
    if (task->future && !py_future_start(task->future)) {
        atomic_fetch_add_explicit(&shared->cancelled, 1, memory_order_relaxed);
        py_task_empty(task);
        return;
    }
    before = py_callback_set_conn(task->conn);
    if (PyContext_Enter(task->context) == 0) {
        result = task->kind == PY_TASK_CHUNK ? py_task_run_chunk(task) : py_task_call(task);
        if (!result)
            exception = py_task_take_exception();
        PyContext_Exit(task->context);
    } else {
        exception = py_task_take_exception();
    }
    py_callback_set_conn(before);
    atomic_fetch_add_explicit(result && !task->failed ? &shared->done : &shared->failed, 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&shared->run_ns, clock_now() - began, memory_order_relaxed);
    if (task->kind == PY_TASK_FUTURE) {
        py_future_end(task->future, result, exception);
        Py_CLEAR(result);
        Py_CLEAR(exception);
    }
    py_task_empty(task);
    if (atomic_load(&task->abandoned)) {
        Py_CLEAR(result);
        Py_CLEAR(exception);
    }
    task->result = result;
    task->exception = exception;
}

/* Threads. */

void py_task_shared_unref(struct py_task_shared *shared) {
    if (atomic_fetch_sub(&shared->refs, 1) > 1)
        return;
    Py_XDECREF(shared->initializer);
    Py_XDECREF(shared->initargs);
    Py_XDECREF(shared->prefix);
    Py_XDECREF(shared->broken);
    PyMem_RawFree(shared);
}

/* Gives the thread a name in threading, too. */
static void py_task_name_thread(struct py_task_shared *shared, int number) {
    PyObject *thread = PyObject_CallNoArgs(py_task_names.current_thread);
    PyObject *name = PyUnicode_FromFormat("%U_%d", shared->prefix, number);

    if (!thread || !name || PyObject_SetAttr(thread, py_task_names.name, name) < 0)
        PyErr_WriteUnraisable(name);
    Py_XDECREF(thread);
    Py_XDECREF(name);
}

static void py_task_initialize(struct py_task_shared *shared) {
    PyObject *result;

    if (!shared->initializer)
        return;
    result = PyObject_CallObject(shared->initializer, shared->initargs);
    if (!result) {
        PyObject *exception = py_task_take_exception();

        if (!shared->broken)
            shared->broken = Py_NewRef(exception);
        Py_DECREF(exception);
    }
    Py_XDECREF(result);
}

static void py_task_thread_start(void *context, int number) {
    struct py_task_shared *shared = context;

    py_attach();
    py_enter();
    py_task_name_thread(shared, number);
    py_task_initialize(shared);
    py_leave();
}

/* threading keeps what it made for a thread that it did not start. */
static void py_task_forget_thread(void) {
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());

    if (!ident || PyObject_DelItem(py_task_names.active, ident) < 0)
        PyErr_Clear();
    Py_XDECREF(ident);
}

static void py_task_thread_stop(void *context) {
    py_enter();
    py_task_forget_thread();
    py_task_shared_unref(context);
    py_leave();
    py_detach();
}

/* Tells who waits for the task, and gives up the queue's reference. */
static void py_task_end(struct taskpool_task *head) {
    taskpool_group_leave(head);
    taskpool_task_unref(head);
}

/* Who waits for a task wants the GIL, so it is told when this thread has given it back; but never
 * after another task, which may take any time. */
static void py_task_serve(void *context, struct taskpool_task *head) {
    struct taskpool *pool = taskpool_mine();
    struct taskpool_task *next;
    int64_t slice;

    py_enter();
    slice = clock_now();
    for (;;) {
        py_task_run(context, (struct py_task *)head);
        if (taskpool_forked(pool)) /* by the task: the others are not this process's */
            return;
        next = taskpool_next(pool);
        if (!next)
            break;
        py_task_end(head);
        head = next;
        py_task_yield(&slice);
    }
    py_leave();
    py_task_end(head);
}

const struct taskpool_hooks py_task_hooks = {
    .start = py_task_thread_start, .stop = py_task_thread_stop, .serve = py_task_serve};

/* Queueing and waiting. */

void py_task_raise_closed(void) {
    PyErr_SetString(PyExc_RuntimeError, "BlockingExecutor is shut down");
}

void py_task_unqueue(struct py_task *task) {
    taskpool_group_leave(&task->head);
    py_task_empty(task);
    taskpool_task_unref(&task->head);
}

int py_task_push(struct py_task_pool *pool, struct py_task *task, bool waits) {
    bool mine = taskpool_mine() == pool->threads;
    enum taskpool_result result;

    if (mine) {
        result = waits ? taskpool_push_if_idle(pool->threads, &task->head)
                       : taskpool_push(pool->threads, &task->head);
        if (result == TASKPOOL_FULL)
            return 1;
    } else {
        result = taskpool_push(pool->threads, &task->head);
        while (result == TASKPOOL_FULL || result == TASKPOOL_INTERRUPTED) {
            py_leave();
            result = taskpool_push_wait(pool->threads, &task->head);
            py_enter();
            if (result == TASKPOOL_INTERRUPTED && PyErr_CheckSignals() < 0) {
                py_task_unqueue(task);
                return -1;
            }
        }
    }
    if (result == TASKPOOL_CLOSED) {
        py_task_unqueue(task);
        py_task_raise_closed();
        return -1;
    }
    return 0;
}

int py_task_wait(struct taskpool_group *group) {
    bool ended;

    for (;;) {
        py_leave();
        ended = taskpool_group_wait(group);
        py_enter();
        if (ended)
            return 0;
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

/* Takes back a task that is still in the queue, as one that has ended without having run. */
static bool py_task_withdraw(struct py_task_pool *pool, struct py_task *task) {
    if (!taskpool_withdraw(pool->threads, &task->head))
        return false;
    atomic_fetch_add_explicit(&pool->shared->cancelled, 1, memory_order_relaxed);
    py_task_unqueue(task);
    return true;
}

/* Whoever changes the result has the GIL. */
void py_task_release(struct py_task_pool *pool, struct py_task *task) {
    atomic_store(&task->abandoned, true);
    py_task_withdraw(pool, task);
    Py_CLEAR(task->result);
    Py_CLEAR(task->exception);
    taskpool_task_unref(&task->head);
}

PyObject *py_task_take(struct py_task *task) {
    PyObject *result = task->result, *exception = task->exception;

    task->result = task->exception = NULL;
    if (result)
        return result;
    if (exception)
        py_task_raise(exception);
    else
        PyErr_SetString(py_task_names.cancelled, "BlockingExecutor was shut down");
    return NULL;
}

/* The GIL is given back first, so that the thread that takes the task finds it free. */
int py_task_push_and_wait(struct py_task_pool *pool, struct py_task *task,
                          struct taskpool_group *group) {
    enum taskpool_result result = TASKPOOL_FULL;
    bool ended = false;

    while (!ended) {
        py_leave();
        if (result != TASKPOOL_OK)
            result = taskpool_push(pool->threads, &task->head);
        if (result == TASKPOOL_FULL)
            result = taskpool_push_wait(pool->threads, &task->head);
        if (result == TASKPOOL_OK)
            ended = taskpool_group_wait(group);
        py_enter();
        if (result == TASKPOOL_CLOSED)
            py_task_raise_closed();
        if (result == TASKPOOL_CLOSED || (!ended && PyErr_CheckSignals() < 0)) {
            if (result != TASKPOOL_OK)
                py_task_unqueue(task);
            return -1;
        }
    }
    return 0;
}

void py_task_join(struct py_task *task, struct taskpool_group *group) {
    atomic_store(&task->head.refs, 2);
    taskpool_group_join(group, &task->head);
}

void py_task_run_here(struct py_task_pool *pool, struct py_task *task) {
    task->head.since = clock_now();
    py_task_run(pool->shared, task);
    py_task_end(&task->head);
}

int py_task_cancel(struct py_task_shared *shared, struct taskpool_task *list) {
    struct taskpool_task *next;
    PyObject *first = NULL;

    for (; list; list = next) {
        struct py_task *task = (struct py_task *)list;

        next = list->next;
        list->next = list->prev = NULL;
        atomic_fetch_add_explicit(&shared->cancelled, 1, memory_order_relaxed);
        if (task->future && py_future_cancel(task->future) < 0) {
            PyObject *exception = py_task_take_exception();

            if (first)
                Py_DECREF(exception);
            else
                first = exception;
        }
        py_task_unqueue(task);
    }
    if (!first)
        return 0;
    py_task_raise(first);
    return -1;
}
