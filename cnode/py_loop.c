/* py_loop.c - Python's event loop in the node: runs tasks, and whatever else Python code gives it. */
#include "config.h"

#include "py_loop.h"
#include "clock.h"
#include "exec.h"
#include "io.h"
#include "lead.h"
#include "leave.h"
#include "load.h"
#include "log.h"
#include "py.h"
#include "py_call.h"
#include "py_callback.h"
#include "py_coro.h"
#include "py_map.h"
#include "py_reply.h"
#include "py_schedule.h"
#include "py_stream.h"
#include "py_thread.h"
#include "stats.h"
#include "tasks.h"
#include "thread.h"

#include <errno.h>
#include <semaphore.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    PY_LOOP_TURN = 64,           /* tasks that begin before timers and sockets have their turn */
    PY_LOOP_FEW = 16,            /* less come one by one, and the next is looked for */
    PY_LOOP_SLOW_NS = 100000000, /* what takes longer at a time is logged */
    PY_LOOP_END_SECONDS = 3,     /* for the loop to end: erlang._loop gives its tasks less */
};

static struct {
    const char *kind; /* "auto", "asyncio", "uvloop" */
    bool script;      /* the main thread has another use */
    _Atomic bool wanted, stop;
    _Atomic int threads; /* of its own: 0 or 1 */
    sem_t ended;

    /* With the GIL, in the loop's thread. */
    PyObject *create_task, *create_future, *call_soon, *stop_method; /* the loop's methods */
    PyObject *cancelled;                                             /* the class CancelledError */
    PyObject *flush;                                                 /* our method, for call_soon */
    PyObject *slow; /* the names of what has been logged as slow */
    bool looks;     /* comes to py_loop_wait() at each of its turns */
    int backend;    /* else what it waits for is readable then, if known (-1) */
    bool few;       /* tasks at its last turn */
    bool flushing;  /* flush is on its way */
    bool leaving;   /* a thread waits until the node leaves */
    struct py_reply_batch batch;
    struct buf out;
} py_loop;

/* The thread. */

static void *py_loop_main(void *arg) {
    py_attach();
    py_enter();
    py_loop_run();
    py_leave();
    py_detach();
    sem_post(&py_loop.ended);
    return arg;
}

/* The first task has come: under exec's lock, in any thread. */
static bool py_loop_start_thread(void) {
    int error = 0;

    atomic_store(&py_loop.wanted, true);
    if (!py_loop.script) {
        leave_kick();
        return true;
    }
    atomic_store(&py_loop.threads, 1);
    error = thread_start_python(py_loop_main, NULL);
    if (error) {
        atomic_store(&py_loop.threads, 0);
        log_error("loop: cannot start a thread: %s", strerror(error));
    }
    return !error;
}

int py_loop_init(const struct options *o) {
    static const char *const kinds[] = {"auto", "asyncio", "uvloop"};

    py_loop.kind = kinds[o->loop];
    py_loop.script = o->program != OPTIONS_NONE;
    if (sem_init(&py_loop.ended, 0, 0) < 0 ||
        tasks_init((size_t)o->max_tasks, py_loop_start_thread) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    py_loop.slow = PySet_New(NULL);
    return py_loop.slow && py_coro_init() == 0 && py_map_init() == 0 && py_stream_init() == 0 ? 0
                                                                                              : -1;
}

int py_loop_check(const struct options *o, struct err *e) {
    PyObject *util, *spec = NULL;
    bool found;

    if (o->loop != OPTIONS_LOOP_UVLOOP)
        return 0;
    util = PyImport_ImportModule("importlib.util");
    if (util)
        spec = PyObject_CallMethod(util, "find_spec", "s", "uvloop");
    found = spec && spec != Py_None;
    PyErr_Clear();
    Py_XDECREF(spec);
    Py_XDECREF(util);
    return found ? 0 : err_set(e, EX_CONFIG, "--loop uvloop: Python has no module uvloop");
}

bool py_loop_is_wanted(void) {
    return atomic_load(&py_loop.wanted);
}

void py_loop_stop(void) {
    atomic_store(&py_loop.stop, true);
    tasks_wake();
}

static bool py_loop_wait_ended(int seconds) {
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    return sem_clockwait(&py_loop.ended, CLOCK_MONOTONIC, &until) == 0;
}

void py_loop_stop_wait(void) {
    py_loop_stop();
    if (atomic_load(&py_loop.threads) > 0)
        py_loop_wait_ended(1);
}

/* What the loop makes. */

int py_loop_start(PyObject *coro) {
    return py_coro_start(coro, py_loop.create_task);
}

PyObject *py_loop_future(void) {
    return PyObject_CallNoArgs(py_loop.create_future);
}

PyObject *py_loop_await_future(PyObject *future) {
    int result = PyObject_SetAttrString(future, "_asyncio_future_blocking", Py_True);

    return result < 0 ? NULL : Py_NewRef(future);
}

bool py_loop_is_cancelled(void) {
    return py_loop.cancelled && PyErr_ExceptionMatches(py_loop.cancelled);
}

void py_loop_set_cancelled(void) {
    PyErr_SetNone(py_loop.cancelled);
}

/* What is to be written. A loop that does not look by itself is asked to call back. */

static void py_loop_call_back(void) {
    PyObject *handle;

    if (py_loop.looks || py_loop.flushing)
        return;
    handle = PyObject_CallOneArg(py_loop.call_soon, py_loop.flush);
    py_loop.flushing = handle != NULL;
    if (!handle)
        PyErr_WriteUnraisable(py_loop.call_soon);
    Py_XDECREF(handle);
}

void py_loop_touch(struct conn *c) {
    py_reply_touch(&py_loop.batch, c);
    py_loop_call_back();
}

/* A callback has forked and come back twice: in the child there is no node. */
static void py_loop_check_forked(void) {
    if (io_forked())
        _exit(0);
}

/* Tasks. */

void py_loop_took(const struct request *r, int64_t begun) {
    int64_t took = clock_now() - begun;
    PyObject *type, *error, *trace, *name;
    bool added;

    if (took < PY_LOOP_SLOW_NS)
        return;
    PyErr_Fetch(&type, &error, &trace);
    name = PyUnicode_FromFormat("%.*s:%.*s", (int)r->module.len, (const char *)r->module.data,
                                (int)r->function.len, (const char *)r->function.data);
    added = name && PySet_Contains(py_loop.slow, name) == 0 && PySet_Add(py_loop.slow, name) == 0;
    Py_XDECREF(name);
    PyErr_Restore(type, error, trace);
    if (!added)
        return;
    py_leave();
    log_warning("loop: %.*s:%.*s held up all other tasks for %d ms: what blocks belongs into a "
                "worker (executor => true)",
                (int)r->module.len, (const char *)r->module.data, (int)r->function.len,
                (const char *)r->function.data, (int)(took / 1000000));
    py_enter();
}

static void py_loop_end(struct request *r, PyObject *result) {
    bool lane = r->lane != NULL;
    struct conn *c = conn_ref(r->conn);
    struct buf exit = {0};

    py_reply_end(NULL, r, result, &py_loop.out, &exit, &py_loop.batch);
    py_thread_served((struct slice){exit.data, exit.len});
    buf_done(&exit);
    if (py_loop.batch.len > 0)
        py_loop_touch(c);
    conn_unref(c);
    if (lane) /* the next in it may run now */
        io_kick();
}

static void py_loop_settle(struct request *r, PyObject *result, bool awaited);

static void py_loop_done(void *arg, PyObject *result) {
    struct request *r = arg;
    PyObject *coro = r->context;

    r->context = NULL;
    py_reply_pace(&py_loop.batch, clock_now());
    py_loop_settle(r, result, true);
    Py_XDECREF(coro);
}

/* Has it awaited, as a Task. Takes awaitable, which may be NULL with an exception. */
static void py_loop_await(struct request *r, PyObject *awaitable) {
    PyObject *coro = awaitable ? py_coro_new(awaitable, r, py_loop_done, r) : NULL, *none;

    if (!coro) {
        py_loop_end(r, NULL);
        return;
    }
    r->context = Py_NewRef(coro);
    py_coro_take_process(coro);
    py_thread_serve(NULL);
    if (py_loop_start(coro) < 0) {
        PyErr_Clear();
        none = PyObject_CallMethod(coro, "close", NULL); /* which is its end */
        Py_XDECREF(none);
    }
    Py_DECREF(coro);
}

/* It goes on later, with what the marker says, unless it was cancelled meanwhile. */
static void py_loop_requeue(struct request *r, PyObject *marker) {
    r->context = marker;
    if (tasks_requeue(r)) {
        py_thread_served((struct slice){0});
        return;
    }
    r->context = NULL;
    Py_DECREF(marker);
    py_loop_set_cancelled();
    py_loop_end(r, NULL);
}

/* A function of r's has come to result, or to the exception that is set. What is to be awaited is, once;
 * what is said to go on elsewhere does. */
static void py_loop_settle(struct request *r, PyObject *result, bool awaited) {
    if (result && r->options.stream > 0 && !awaited) {
        py_loop_await(r, py_stream_start(r, result));
    } else if (result && py_schedule_is_call(result)) {
        py_loop_requeue(r, result);
    } else if (result && py_schedule_is_erlang(result)) {
        PyObject *answer = py_schedule_call(result);

        Py_DECREF(result);
        py_loop_await(r, answer);
    } else if (result && !awaited && py_schedule_is_pending(result)) {
        py_loop_await(r, result);
    } else {
        py_loop_end(r, result);
    }
}

static void py_loop_run_request(struct request *r) {
    int64_t begun = clock_now();
    PyObject *result;

    py_reply_pace(&py_loop.batch, begun);
    py_callback_set_conn(r->conn);
    py_thread_serve(r);
    py_schedule_begin();
    if (r->context && py_schedule_is_call(r->context)) {
        result = py_schedule_run(r);
    } else if (r->context) { /* a worker has begun it */
        result = r->context;
        r->context = NULL;
    } else {
        stats_add(STATS_CALLS, 1);
        result = r->options.map ? py_map_new(r) : py_call(r);
    }
    py_callback_set_conn(NULL);
    if (io_forked()) /* the call has forked and come back twice: here is no node to serve */
        _exit(0);
    py_loop_took(r, begun);
    py_loop_settle(r, result, false);
}

/* r was cancelled, or has got credit. */
static void py_loop_tell(struct request *r, bool cancelled) {
    if (!cancelled)
        py_stream_credited(r);
    else if (r->context && py_coro_check(r->context))
        py_coro_cancel(r->context);
}

/* Leaving. */

/* The main thread runs the loop, which may be blocked: another one waits until the node leaves. */
static void *py_loop_leave(void *arg) {
    while (!leave_told())
        leave_wait();
    leave_drain();
    py_loop_stop();
    if (!py_loop_wait_ended(PY_LOOP_END_SECONDS)) {
        log_warning("loop: it is blocked, and left as it is");
        leave_stop();
        _exit(0);
    }
    return arg;
}

static void py_loop_watch(void) {
    int error = py_loop.script ? 0 : thread_start(py_loop_leave, NULL);

    py_loop.leaving = !error;
    if (error)
        log_error("loop: cannot start a thread: %s", strerror(error));
}

/* Without that thread there is no drain. */
static bool py_loop_is_over(void) {
    if (!py_loop.leaving && leave_told())
        atomic_store(&py_loop.stop, true);
    return atomic_load(&py_loop.stop);
}

static void py_loop_look_for_end(void) {
    PyObject *none;

    if (!py_loop_is_over())
        return;
    none = PyObject_CallNoArgs(py_loop.stop_method);
    if (!none)
        PyErr_WriteUnraisable(py_loop.stop_method);
    Py_XDECREF(none);
}

/* Tasks begin until the node leaves. */
static bool py_loop_is_due(void) {
    return tasks_due() && !atomic_load(&py_loop.stop);
}

PyObject *py_loop_turn(PyObject *self, PyObject *unused) {
    struct request *taken[PY_LOOP_TURN], *r;
    bool cancelled;
    size_t n;

    (void)self;
    (void)unused;
    py_loop_check_forked();
    py_release_deferred();
    while ((r = tasks_take_told(&cancelled)))
        py_loop_tell(r, cancelled);
    n = tasks_take(taken, PY_LOOP_TURN);
    for (size_t i = 0; i < n; i++)
        py_loop_run_request(taken[i]);
    py_loop.few = n < PY_LOOP_FEW;
    py_loop_call_back();
    py_loop_look_for_end();
    return Py_NewRef(Py_None);
}

/* What a loop that does not look calls back: it looks for the next tasks before it sleeps, and runs them. */
static PyObject *py_loop_flush(PyObject *self, PyObject *unused) {
    int64_t since;

    py_loop_check_forked();
    py_loop.flushing = false;
    py_leave();
    py_reply_flush(&py_loop.batch);
    if (!atomic_load(&py_loop.stop))
        lead_look_for_tasks(py_loop.backend, py_loop.few);
    since = load_entering();
    py_enter();
    load_entered(since);
    return py_loop_is_due() ? py_loop_turn(self, unused) : Py_NewRef(Py_None);
}

static PyMethodDef py_loop_flush_def = {"_loop_flush", py_loop_flush, METH_NOARGS, NULL};

/* Without the GIL: what is to be written is, and fd or the deadline waited for, unless tasks are due. */
static void py_loop_pass(int fd, int64_t deadline) {
    int64_t since;

    py_leave();
    py_reply_flush(&py_loop.batch);
    if (deadline == 0 || deadline > clock_now())
        lead_for_tasks(fd, deadline);
    since = load_entering();
    py_enter();
    load_entered(since);
}

/* wait(fd, timeout): waits for tasks, which it runs, for fd to be readable, or so many seconds. */
PyObject *py_loop_wait(PyObject *self, PyObject *args) {
    PyObject *timeout, *none = NULL;
    int64_t deadline, now = clock_now();
    int fd;

    (void)self;
    py_loop_check_forked();
    if (!PyArg_ParseTuple(args, "iO", &fd, &timeout))
        return NULL;
    if (py_thread_deadline(timeout, &deadline) < 0)
        return NULL;
    if (py_loop.batch.len > 0 || (!tasks_due() && (timeout == Py_None || deadline > now)))
        py_loop_pass(fd, timeout == Py_None ? 0 : deadline);
    if (py_loop_is_due()) {
        none = py_loop_turn(NULL, NULL);
        Py_XDECREF(none);
        if (none && py_loop.few && py_loop.batch.len > 0)
            py_loop_pass(fd, clock_now());
    }
    return none || !PyErr_Occurred() ? Py_NewRef(Py_None) : NULL;
}

/* Running. */

PyObject *py_loop_set(PyObject *self, PyObject *args) {
    int looks;

    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOOpi", &py_loop.create_task, &py_loop.create_future,
                          &py_loop.call_soon, &py_loop.stop_method, &py_loop.cancelled, &looks,
                          &py_loop.backend))
        return NULL;
    Py_INCREF(py_loop.create_task);
    Py_INCREF(py_loop.create_future);
    Py_INCREF(py_loop.call_soon);
    Py_INCREF(py_loop.stop_method);
    Py_INCREF(py_loop.cancelled);
    py_loop.looks = looks;
    py_loop.flush = PyCFunction_New(&py_loop_flush_def, NULL);
    return py_loop.flush ? Py_NewRef(Py_None) : NULL;
}

PyObject *py_loop_fd(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromLong(tasks_fd());
}

PyObject *py_loop_begin(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    if (!leave_has_started()) {
        PyErr_SetString(PyExc_RuntimeError, "this node has not started, and has no event loop yet");
        return NULL;
    }
    py_leave();
    tasks_start();
    py_enter();
    return Py_NewRef(Py_None);
}

PyObject *py_loop_stopping(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyBool_FromLong(atomic_load(&py_loop.stop));
}

/* There is no loop: whatever comes is told so. */
static void py_loop_refuse(void) {
    struct request *taken[PY_LOOP_TURN];

    while (!py_loop_is_over()) {
        size_t n = tasks_take(taken, PY_LOOP_TURN);

        for (size_t i = 0; i < n; i++) {
            PyErr_SetString(PyExc_RuntimeError, "this node's event loop could not start");
            py_loop_end(taken[i], NULL);
        }
        py_leave();
        py_reply_flush(&py_loop.batch);
        lead_for_tasks(tasks_fd(), 0);
        py_enter();
    }
}

void py_loop_run(void) {
    PyObject *module, *none;

    py_loop_watch();
    module = PyImport_ImportModule("erlang._loop");
    none = module ? PyObject_CallMethod(module, "run", "s", py_loop.kind) : NULL;
    if (!none) {
        log_error("loop: the event loop could not run");
        PyErr_Print();
        py_loop.looks = true;
        py_loop_refuse();
    }
    Py_XDECREF(none);
    Py_XDECREF(module);
    if (!py_loop.script)
        sem_post(&py_loop.ended);
}
