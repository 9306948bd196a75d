/* py_map.c - one function called for each of many argument lists, as tasks: their results in order. */
#include "config.h"

#include "py_map.h"
#include "clock.h"
#include "py_call.h"
#include "py_coro.h"
#include "py_decode.h"
#include "py_loop.h"
#include "py_reply.h"
#include "py_schedule.h"
#include "py_thread.h"

enum {
    PY_MAP_ITEMS = 64,        /* between looks at the clock */
    PY_MAP_TURN_NS = 1000000, /* after which the loop sees to others */
};

/* Where an item's result is in the map's buffer, and what it waits for, if it does. */
struct py_map_item {
    size_t at, len;
    PyObject *coro;
};

/* An awaitable and its own iterator. Its value is itself. */
struct py_map {
    PyObject_HEAD
    struct request *r;
    PyObject *callable;
    PyObject *future; /* that is awaited until the last item has ended */
    struct etf args;  /* those of the items that have not begun */
    uint32_t len, begun, pending;
    struct py_map_item *items;
    struct buf results; /* terms, in the order in which they came */
    bool ordered;       /* which is that of the items */
    bool cancelled;
    struct buf list; /* all of them, when it has ended */
};

/* What the end of an awaited item is told to. */
struct py_map_end {
    struct py_map *map; /* counted */
    uint32_t index;
};

static PyTypeObject py_map_type;

/* One item's outcome: the result, or the exception that is set. */
static void py_map_put(struct py_map *m, uint32_t index, PyObject *result) {
    struct py_map_item *item = &m->items[index];

    item->at = m->results.len;
    py_reply_put_item(&m->results, result, m->r);
    item->len = m->results.len - item->at;
}

static void py_map_wake(struct py_map *m) {
    PyObject *future = m->future, *done;

    m->future = NULL;
    done = future ? PyObject_CallMethod(future, "set_result", "O", Py_None) : NULL;
    if (future && !done) /* it was cancelled */
        PyErr_Clear();
    Py_XDECREF(done);
    Py_XDECREF(future);
}

static void py_map_item_done(void *arg, PyObject *result) {
    struct py_map_end *end = arg;
    struct py_map *m = end->map;

    Py_CLEAR(m->items[end->index].coro);
    py_map_put(m, end->index, result);
    Py_XDECREF(result);
    PyErr_Clear();
    py_thread_served((struct slice){0});
    if (--m->pending == 0)
        py_map_wake(m);
    Py_DECREF(m);
    PyMem_Free(end);
}

/* An item that is to be awaited: its Task. result is taken. */
static void py_map_await(struct py_map *m, uint32_t index, PyObject *result) {
    struct py_map_end *end = PyMem_Malloc(sizeof *end);
    PyObject *coro;

    if (py_schedule_is_call(result) || py_schedule_is_erlang(result))
        Py_SETREF(result, py_schedule_call(result));
    if (!end || !result || !py_schedule_is_pending(result)) {
        py_map_put(m, index, result);
        Py_XDECREF(result);
        PyMem_Free(end);
        return;
    }
    *end = (struct py_map_end){m, index};
    coro = py_coro_new(result, m->r, py_map_item_done, end);
    if (!coro) {
        py_map_put(m, index, NULL);
        PyMem_Free(end);
        return;
    }
    Py_INCREF(m);
    m->pending++;
    m->ordered = false;
    m->items[index].coro = Py_NewRef(coro);
    if (py_loop_start(coro) < 0) { /* it ends when it is dropped */
        PyErr_Clear();
        Py_CLEAR(m->items[index].coro);
    }
    Py_DECREF(coro);
}

/* Begins the next item: -1 with an exception when its bytes are malformed. */
static int py_map_begin(struct py_map *m) {
    PyObject *args, *result = NULL;
    struct slice term;
    struct etf at;

    if (etf_get_term(&m->args, &term) < 0) {
        PyErr_SetString(PyExc_ValueError, "args: malformed");
        return -1;
    }
    at = (struct etf){term.data, term.data + term.len};
    args = py_decode_as(&at, "args", py_call_wants_bytes(m->r));
    if (args && PyList_CheckExact(args))
        result = py_call_apply(m->r, m->callable, args);
    else if (args)
        PyErr_SetString(PyExc_TypeError, "args: not a list");
    Py_XDECREF(args);
    if (result && py_schedule_is_pending(result)) {
        py_map_await(m, m->begun++, result);
    } else {
        py_map_put(m, m->begun++, result);
        Py_XDECREF(result);
    }
    return 0;
}

/* All have ended: the list of the results. */
static void py_map_finish(struct py_map *m) {
    etf_put_list(&m->list, m->len);
    if (m->ordered)
        buf_put(&m->list, m->results.data, m->results.len);
    else
        for (uint32_t i = 0; i < m->len; i++)
            buf_put(&m->list, m->results.data + m->items[i].at, m->items[i].len);
    etf_put_nil(&m->list);
    buf_done(&m->results);
}

static void py_map_cancel_items(struct py_map *m) {
    m->cancelled = true;
    for (uint32_t i = 0; i < m->begun; i++)
        if (m->items[i].coro)
            py_coro_cancel(m->items[i].coro);
}

/* The future that ends with the last item, to be awaited: new. */
static PyObject *py_map_future(struct py_map *m) {
    Py_XSETREF(m->future, py_loop_future());
    return m->future ? py_loop_await_future(m->future) : NULL;
}

/* What there is to wait for, or NULL: it has ended, or with an exception. */
static PyObject *py_map_next(PyObject *self) {
    struct py_map *m = (struct py_map *)self;
    int64_t until = clock_now() + PY_MAP_TURN_NS;

    while (m->begun < m->len && !m->cancelled) {
        if (py_map_begin(m) < 0) {
            py_map_cancel_items(m);
            return NULL;
        }
        if (m->begun % PY_MAP_ITEMS == 0 && clock_now() > until && m->begun < m->len)
            return Py_NewRef(Py_None); /* others have their turn */
    }
    if (m->pending > 0)
        return py_map_future(m);
    if (m->cancelled) {
        py_loop_set_cancelled();
        return NULL;
    }
    if (m->list.len == 0)
        py_map_finish(m);
    PyErr_SetObject(PyExc_StopIteration, self);
    return NULL;
}

/* It is cancelled: so are its items, and it ends with the last of them. */
static PyObject *py_map_throw(PyObject *self, PyObject *args) {
    py_map_cancel_items((struct py_map *)self);
    (void)args;
    return py_map_next(self);
}

static PyObject *py_map_close(PyObject *self, PyObject *unused) {
    struct py_map *m = (struct py_map *)self;

    (void)unused;
    m->cancelled = true;
    for (uint32_t i = 0; i < m->begun; i++) {
        PyObject *coro = m->items[i].coro, *none;

        m->items[i].coro = NULL;
        none = coro ? PyObject_CallMethod(coro, "close", NULL) : NULL;
        if (coro && !none)
            PyErr_WriteUnraisable(coro);
        Py_XDECREF(none);
        Py_XDECREF(coro);
    }
    Py_RETURN_NONE;
}

static void py_map_dealloc(PyObject *self) {
    struct py_map *m = (struct py_map *)self;

    Py_XDECREF(m->callable);
    Py_XDECREF(m->future);
    buf_done(&m->results);
    buf_done(&m->list);
    PyMem_Free(m->items);
    PyObject_Free(self);
}

static PyMethodDef py_map_methods[] = {
    {"throw", py_map_throw, METH_VARARGS, NULL},
    {"close", py_map_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods py_map_async = {.am_await = PyObject_SelfIter};

static PyTypeObject py_map_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_erlang.Map",
    .tp_doc = PyDoc_STR("Many calls of one function, as one task."),
    .tp_basicsize = sizeof(struct py_map),
    .tp_dealloc = py_map_dealloc,
    .tp_as_async = &py_map_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = py_map_next,
    .tp_methods = py_map_methods,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int py_map_init(void) {
    return PyType_Ready(&py_map_type);
}

PyObject *py_map_new(struct request *r) {
    struct etf args = {r->args.data, r->args.data + r->args.len};
    PyObject *callable = py_call_find(r);
    struct py_map *m;
    uint32_t n = 0;

    if (!callable)
        return NULL;
    if (etf_get_list(&args, &n) < 0 || n > etf_left(&args)) {
        PyErr_SetString(PyExc_TypeError, "args: not a list of argument lists");
        Py_DECREF(callable);
        return NULL;
    }
    m = PyObject_New(struct py_map, &py_map_type);
    if (!m) {
        Py_DECREF(callable);
        return NULL;
    }
    memset((char *)m + sizeof(PyObject), 0, sizeof *m - sizeof(PyObject));
    m->r = r;
    m->callable = callable;
    m->args = args;
    m->len = n;
    m->ordered = true;
    m->items = PyMem_Calloc(n ? n : 1, sizeof *m->items);
    if (m->items)
        return (PyObject *)m;
    Py_DECREF(m);
    return PyErr_NoMemory();
}

bool py_map_results(PyObject *result, struct slice *list) {
    struct py_map *m = (struct py_map *)result;

    if (!Py_IS_TYPE(result, &py_map_type))
        return false;
    *list = (struct slice){m->list.data, m->list.len};
    return true;
}
