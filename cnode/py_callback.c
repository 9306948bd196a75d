/* py_callback.c - erlang.call and erlang.cast: a Python thread has Erlang run a function. */
#include "config.h"

#include "py_callback.h"
#include "channels.h"
#include "clock.h"
#include "home.h"
#include "io.h"
#include "pool.h"
#include "py.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_error.h"
#include "py_interrupt.h"
#include "py_server.h"
#include "py_thread.h"

enum {
    PY_CALLBACK_TRIES =
        8, /* channels and handlers that turn out to be gone before a call is sent */
    PY_CALLBACK_ITEM_MAX = INT32_MAX - 4096, /* a frame's length, less what is around an item */
    PY_CALLBACK_FEW = 8,                     /* calls under way; beyond that they are gathered */
};

static _Atomic int py_callback_calls; /* under way */

static _Thread_local struct conn *py_callback_conn; /* borrowed: the request has it */

struct conn *py_callback_set_conn(struct conn *conn) {
    struct conn *before = py_callback_conn;

    py_callback_conn = conn;
    return before;
}

struct conn *py_callback_get_conn(void) {
    return py_callback_conn;
}

/* A context variable: the name of the node whose request is served; and whether it has ever been set. */
static PyObject *py_callback_served;
static bool py_callback_has_served;

int py_callback_init(void) {
    if (!py_callback_served)
        py_callback_served = PyContextVar_New("erlang_serves", Py_None);
    return py_callback_served ? 0 : -1;
}

int py_callback_share(void) {
    PyObject *name, *token = NULL;

    if (!py_callback_conn || home_count() < 2)
        return 0;
    name = PyUnicode_FromString(py_callback_conn->peer);
    if (name && outbox_gathers(&py_callback_conn->out))
        token = PyContextVar_Set(py_callback_served, name);
    py_callback_has_served = py_callback_has_served || token;
    Py_XDECREF(name);
    Py_XDECREF(token);
    return PyErr_Occurred() ? -1 : 0;
}

/* Raises an ErlangError with that text; steals text. */
static void py_callback_fail(PyObject *text) {
    py_error_raise("ErlangError", text, NULL, NULL);
}

/* The arguments. */

/* A keyword argument, or NULL. */
static PyObject *py_callback_keyword(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                                     const char *name) {
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), name) == 0)
            return args[nargs + i];
    return NULL;
}

static int py_callback_check_keywords(const char *function, PyObject *kwnames, bool timeout) {
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);

        if (PyUnicode_CompareWithASCIIString(name, "node") == 0 ||
            (timeout && PyUnicode_CompareWithASCIIString(name, "timeout") == 0))
            continue;
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                     name);
        return -1;
    }
    return 0;
}

/* Without a name: the one whose request this thread serves, or the home. */
static int py_callback_set_peer_to(struct py_callback *call, PyObject *node) {
    const char *name;

    if (!node || node == Py_None) {
        if (home_peer(py_callback_conn, call->peer, sizeof call->peer))
            return 0;
        py_callback_fail(
            PyUnicode_FromString(py_callback_conn && outbox_is_closed(&py_callback_conn->out)
                                     ? "the connection to the node that this call serves was lost"
                                     : "no Erlang node with the application pynode is attached"));
        return -1;
    }
    if (!PyUnicode_Check(node)) {
        PyErr_Format(PyExc_TypeError, "node: not a str but a %.100s", Py_TYPE(node)->tp_name);
        return -1;
    }
    name = py_thread_text(node);
    if (!name)
        return -1;
    if (!strchr(name, '@') || strlen(name) >= sizeof call->peer) {
        PyErr_Format(PyExc_ValueError, "node: '%.80s' is not NAME@HOST", name);
        return -1;
    }
    strcpy(call->peer, name);
    return 0;
}

/* The node that was named, or the one whose request this thread serves or that has made its task be, or the
 * home. */
static int py_callback_set_peer(struct py_callback *call, PyObject *node) {
    PyObject *served = NULL;
    int result;

    if (io_forked()) {
        py_callback_fail(PyUnicode_FromString(
            "this process is a fork of the node: only the node itself can call Erlang"));
        return -1;
    }
    if ((!node || node == Py_None) && !py_callback_conn && py_callback_has_served) {
        if (PyContextVar_Get(py_callback_served, NULL, &served) < 0)
            return -1;
        node = served;
    }
    result = py_callback_set_peer_to(call, node);
    Py_XDECREF(served);
    return result;
}

int py_callback_set(struct py_callback *call, const char *function, PyObject *name,
                    PyObject *timeout, PyObject *node) {
    call->name = name;
    call->args = NULL;
    if (!name || !PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "%s() wants the name of a function, a str, first", function);
        return -1;
    }
    if (py_thread_deadline(timeout ? timeout : Py_None, &call->deadline) < 0)
        return -1;
    return py_callback_set_peer(call, node);
}

/* Fills in call; its args are a new reference: 0/-1. */
static int py_callback_parse(struct py_callback *call, const char *function, bool timeout,
                             PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *limit = timeout ? py_callback_keyword(args, nargs, kwnames, "timeout") : NULL;

    if (py_callback_check_keywords(function, kwnames, timeout) < 0 ||
        py_callback_set(call, function, nargs > 0 ? args[0] : NULL, limit,
                        py_callback_keyword(args, nargs, kwnames, "node")) < 0)
        return -1;
    call->args = PyList_New(nargs - 1);
    if (!call->args)
        return -1;
    for (Py_ssize_t i = 1; i < nargs; i++)
        PyList_SET_ITEM(call->args, i - 1, Py_NewRef(args[i]));
    return 0;
}

/* The terms Name, a binary whatever str it is, and Args: 0/-1. */
static int py_callback_put(struct buf *out, const struct py_callback *call) {
    Py_ssize_t len;
    const char *name = PyUnicode_AsUTF8AndSize(call->name, &len);

    if (!name)
        return -1;
    etf_put_binary(out, name, (uint32_t)len);
    return py_encode(out, call->args, "args");
}

/* The same, and the frame's end. */
static int py_callback_put_frame(struct buf *out, size_t begin, const struct py_callback *call) {
    if (py_callback_put(out, call) < 0)
        return -1;
    if (dist_end(out, begin) == 0)
        return 0;
    PyErr_SetString(PyExc_ValueError, "args: longer than a distribution frame can be");
    return -1;
}

/* The answer. */

/* Raises what Erlang has answered: a class, with Reason and Stack to come. */
static void py_callback_raise(PyObject *called, struct slice outcome, struct etf *at) {
    PyObject *reason = NULL, *stack = NULL, *name = NULL;

    if (etf_atom_is(outcome, "not_registered")) {
        py_callback_fail(PyUnicode_FromFormat("Function '%U' not registered", called));
        return;
    }
    reason = py_decode(at, "reason");
    stack = reason ? py_decode(at, "stack") : NULL;
    name = stack ? PyUnicode_FromStringAndSize((const char *)outcome.data, (Py_ssize_t)outcome.len)
                 : NULL;
    if (name)
        py_error_raise("ErlangError", Py_NewRef(reason), name, stack);
    Py_XDECREF(name);
    Py_XDECREF(stack);
    Py_XDECREF(reason);
}

/* The outcome is ok, error, exit or throw, or not_registered. */
PyObject *py_callback_value(PyObject *called, struct slice answer) {
    struct etf at = {answer.data, answer.data + answer.len};
    struct slice outcome;

    if (etf_get_atom(&at, &outcome) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "the answer is none");
        return NULL;
    }
    if (etf_atom_is(outcome, "ok"))
        return py_decode(&at, "answer");
    py_callback_raise(called, outcome, &at);
    return NULL;
}

void py_callback_late(PyObject *called) {
    py_error_raise("TimeoutError", PyUnicode_FromFormat("no answer from '%U' in time", called),
                   NULL, NULL);
}

void py_callback_lost(const char *peer) {
    py_callback_fail(PyUnicode_FromFormat("the connection to %s was lost during the call", peer));
}

/* Over the node's own connection. */

/* Gives an item to the home at the other end, and has it written, with those of threads that are about to
 * call, too: false when there is none. */
static bool py_callback_gather(struct conn *conn, struct buf *item) {
    bool gathered = outbox_gather(&conn->out, item);

    if (callback_more())
        io_flush_soon(conn);
    else
        io_flush(conn);
    return gathered;
}

/* {py_call, Id, Name, Args} */
int py_callback_item(struct buf *item, const struct callback *cb, const struct py_callback *call) {
    etf_put_tuple(item, 4);
    etf_put_atom(item, "py_call");
    etf_put_integer(item, (int64_t)cb->id);
    if (py_callback_put(item, call) < 0)
        return -1;
    if (item->len < PY_CALLBACK_ITEM_MAX)
        return 0;
    PyErr_SetString(PyExc_ValueError, "args: longer than a distribution frame can be");
    return -1;
}

/* {py_drop, Id} */
void py_callback_drop_item(struct buf *item, const struct callback *cb) {
    etf_put_tuple(item, 2);
    etf_put_atom(item, "py_drop");
    etf_put_integer(item, (int64_t)cb->id);
}

/* Nobody waits for the answer any more. Outside Python. */
static void py_callback_drop(const struct callback *cb) {
    struct buf item = {0};

    py_callback_drop_item(&item, cb);
    py_callback_gather(cb->conn, &item);
    buf_done(&item);
}

/* Sends the item and waits, outside Python; signals are looked at in between. */
static enum callback_state py_callback_wait(struct callback *cb, struct buf *item,
                                            int64_t deadline) {
    enum callback_state state = CALLBACK_LOST;
    bool raised = false;

    if (PyErr_CheckSignals() < 0) /* one that came while the arguments were encoded */
        return CALLBACK_WAITING;
    pool_wait_begin();
    py_leave();
    if (py_callback_gather(cb->conn, item))
        state = callback_wait(cb, py_thread_look_at(deadline));
    while (state == CALLBACK_WAITING && (deadline == 0 || clock_now() < deadline)) {
        py_enter();
        raised = PyErr_CheckSignals() < 0;
        py_leave();
        if (raised)
            break;
        state = callback_wait(cb, py_thread_look_at(deadline));
    }
    if (state == CALLBACK_WAITING || state == CALLBACK_INTERRUPTED)
        py_callback_drop(cb);
    else if (!callback_more()) /* what others have left to be written with what this thread sends */
        io_flush(cb->conn);
    py_enter();
    callback_entered(cb);
    pool_wait_end();
    return raised ? CALLBACK_WAITING : state;
}

static PyObject *py_callback_shared(struct conn *conn, const struct py_callback *call) {
    struct buf item = {0};
    struct callback cb;
    PyObject *result = NULL;

    callback_begin(&cb, conn);
    cb.thread = PyThread_get_thread_ident();
    if (py_callback_item(&item, &cb, call) == 0) {
        switch (py_callback_wait(&cb, &item, call->deadline)) {
        case CALLBACK_ANSWERED:
            result = py_callback_value(call->name, (struct slice){cb.answer.data, cb.answer.len});
            break;
        case CALLBACK_LOST:
            py_callback_lost(conn->peer);
            break;
        case CALLBACK_INTERRUPTED: /* raised here, so not once more at the next bytecode */
            py_forget_raised();
            PyErr_SetNone(py_interrupt_exception());
            break;
        case CALLBACK_WAITING:
            if (!PyErr_Occurred())
                py_callback_late(call->name);
            break;
        }
    }
    callback_end(&cb);
    buf_done(&item);
    return result;
}

/* Over the thread's own. */

enum py_callback_end { PY_CALLBACK_DONE, PY_CALLBACK_AGAIN };

/* Takes a channel out of the pool or connects one, outside Python: NULL with e. */
static struct channel *py_callback_connect(const struct py_callback *call, bool force,
                                           struct err *e) {
    struct channel *ch;

    py_leave();
    ch = channels_take(call->peer, PyThread_get_thread_ident(), force, call->deadline, e);
    py_enter();
    if (ch && py_thread_keep(ch) < 0) {
        channels_give(ch);
        ch = NULL;
    }
    return ch;
}

/* Asks for a handler, outside Python: false when there is none, and *end says what then. */
static bool py_callback_ready(struct channel *ch, const struct py_callback *call,
                              enum py_callback_end *end) {
    enum channel_result result;

    *end = PY_CALLBACK_DONE;
    if (channel_check(ch))
        return true;
    py_leave();
    result = channel_ready(ch, call->deadline);
    py_enter();
    switch (result) {
    case CHANNEL_ANSWERED:
        return true;
    case CHANNEL_LOST:
        *end = PY_CALLBACK_AGAIN; /* nothing has been sent */
        return false;
    case CHANNEL_INTERRUPTED:
        return false; /* the caller looks */
    case CHANNEL_HOMELESS:
        py_callback_fail(
            PyUnicode_FromFormat("the application pynode does not run at %s", call->peer));
        return false;
    default:
        if (call->deadline > 0 && clock_now() >= call->deadline)
            py_callback_late(call->name);
        else
            py_callback_fail(
                PyUnicode_FromFormat("the application pynode at %s does not answer", call->peer));
        return false;
    }
}

/* Whether the wait goes on after signals have been looked at. */
static bool py_callback_goes_on(enum channel_result result, int64_t deadline) {
    return result == CHANNEL_SIGNALLED ||
           (result == CHANNEL_LATE && (deadline == 0 || clock_now() < deadline));
}

/* Sends the frame and waits, outside Python; signals are looked at in between. */
static enum channel_result py_callback_run(struct channel *ch, struct buf *frame,
                                           int64_t deadline) {
    enum channel_result result;
    bool raised = false;

    if (PyErr_CheckSignals() < 0) /* one that came while the arguments were encoded */
        return CHANNEL_SIGNALLED;
    pool_wait_begin();
    py_leave();
    result = channel_call(ch, frame, py_thread_look_at(deadline));
    while (py_callback_goes_on(result, deadline)) {
        py_enter();
        raised = PyErr_CheckSignals() < 0;
        py_leave();
        if (raised)
            break;
        result = channel_wait(ch, py_thread_look_at(deadline));
    }
    if (raised || result == CHANNEL_LATE)
        channel_abandon(ch);
    py_enter();
    pool_wait_end();
    return result;
}

/* The handler ended while it had the call. */
static void py_callback_ended(struct slice reason) {
    struct etf at = {reason.data, reason.data + reason.len};
    PyObject *why = py_decode(&at, "reason"), *class = PyUnicode_FromString("exit");
    PyObject *stack = PyList_New(0);

    if (why && class && stack)
        py_error_raise("ErlangError", Py_NewRef(why), class, stack);
    Py_XDECREF(stack);
    Py_XDECREF(class);
    Py_XDECREF(why);
}

/* One try: the value, or NULL with an exception, or without one and AGAIN. */
static PyObject *py_callback_try(struct channel *ch, const struct py_callback *call,
                                 enum py_callback_end *end) {
    struct buf frame = {0};
    PyObject *result = NULL;
    enum channel_result got = CHANNEL_INTERRUPTED;

    if (py_callback_ready(ch, call, end) && !py_thread_check_cancelled() &&
        py_callback_put_frame(&frame, channel_put(ch, &frame), call) == 0)
        got = py_callback_run(ch, &frame, call->deadline);
    buf_done(&frame);
    if (PyErr_Occurred() || *end == PY_CALLBACK_AGAIN)
        return NULL;
    switch (got) {
    case CHANNEL_ANSWERED:
        result = py_callback_value(call->name, ch->answer);
        break;
    case CHANNEL_RETIRED:
        *end = PY_CALLBACK_AGAIN;
        break;
    case CHANNEL_ENDED:
        py_callback_ended(ch->answer);
        break;
    case CHANNEL_LATE:
        py_callback_late(call->name);
        break;
    case CHANNEL_INTERRUPTED:
        py_forget_raised();
        PyErr_SetNone(py_interrupt_exception());
        break;
    default:
        py_callback_lost(call->peer);
        break;
    }
    return result;
}

/* Over the thread's channel to the node: NULL with an exception, or without one when the thread can
 * have none and why is in e. */
static PyObject *py_callback_own(const struct py_callback *call, bool force, struct err *e) {
    PyObject *result = NULL;

    for (int i = 0; i < PY_CALLBACK_TRIES; i++) {
        enum py_callback_end end = PY_CALLBACK_DONE;
        struct channel *ch = py_thread_channel(call->peer);

        if (!ch)
            ch = py_callback_connect(call, force, e);
        if (!ch || py_thread_check_cancelled())
            return NULL;
        channel_begin(ch);
        result = py_callback_try(ch, call, &end);
        channel_end(ch);
        if (ch->broken)
            py_thread_drop(ch);
        if (end == PY_CALLBACK_DONE)
            return result;
    }
    py_callback_lost(call->peer);
    return NULL;
}

/* Whichever way there is. A thread's first call gives it a channel. A few calls at once go each over its
 * thread's channel, which is quickest; many are gathered in the node's own connection, if it leads
 * there, since messages that travel alone cost both sides more than what is in them. So are those of
 * threads that can have no channel. */
static PyObject *py_callback_any(const struct py_callback *call) {
    struct conn *shared = home_conn_to(call->peer);
    bool many = atomic_load_explicit(&py_callback_calls, memory_order_relaxed) > PY_CALLBACK_FEW;
    struct err e = {0};
    PyObject *result;

    if (shared && many && py_thread_channel(call->peer))
        return py_callback_shared(shared, call);
    result = py_callback_own(call, !shared, &e);
    if (result || PyErr_Occurred()) {
        if (shared)
            conn_unref(shared);
        return result;
    }
    if (shared)
        return py_callback_shared(shared, call);
    if (call->deadline > 0 && clock_now() >= call->deadline)
        py_callback_late(call->name);
    else
        py_callback_fail(PyUnicode_FromString(e.text));
    return NULL;
}

PyObject *py_callback_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    struct py_callback call;
    PyObject *result;

    (void)self;
    if (py_callback_parse(&call, "call", true, args, nargs, kwnames) < 0)
        return NULL;
    atomic_fetch_add_explicit(&py_callback_calls, 1, memory_order_relaxed);
    result = py_callback_any(&call);
    atomic_fetch_sub_explicit(&py_callback_calls, 1, memory_order_relaxed);
    Py_DECREF(call.args);
    return result;
}

/* {py_cast, Name, Args} to the coordinator there. */
PyObject *py_callback_cast(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    struct py_callback call;
    struct buf out = {0}, from = {0}, to = {0};
    size_t begin;
    int result;

    (void)self;
    if (py_callback_parse(&call, "cast", false, args, nargs, kwnames) < 0)
        return NULL;
    request_put_pid(&from, 0, 0);
    etf_put_atom(&to, "py_coordinator");
    begin = dist_begin(&out);
    dist_put_reg_send(&out, (struct slice){from.data, from.len}, (struct slice){to.data, to.len});
    etf_put_tuple(&out, 3);
    etf_put_atom(&out, "py_cast");
    result = py_callback_put_frame(&out, begin, &call);
    if (result == 0)
        result = py_server_put(call.peer, &out);
    Py_DECREF(call.args);
    buf_done(&from);
    buf_done(&to);
    buf_done(&out);
    return result == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *py_callback_home(PyObject *self, PyObject *unused) {
    struct py_callback call;

    (void)self;
    (void)unused;
    return py_callback_set_peer(&call, NULL) < 0 ? NULL : PyUnicode_FromString(call.peer);
}
