/* py_stream.c - the way of a stream's items to who reads it: encoded, in chunks, as far as there is credit. */
#include "config.h"

#include "py_stream.h"
#include "answer.h"
#include "clock.h"
#include "conn.h"
#include "exec.h"
#include "io.h"
#include "pool.h"
#include "py.h"
#include "py_encode.h"
#include "py_loop.h"
#include "py_thread.h"

enum {
    PY_STREAM_ITEMS = 256,       /* of a chunk */
    PY_STREAM_BYTES = 1 << 16,   /* the same */
    PY_STREAM_TURN_NS = 1000000, /* after which the loop sees to others */
    PY_STREAM_SLOW_NS = 100000,  /* an item that takes longer is not kept back for the next one */
};

struct py_stream {
    PyObject_HEAD
    struct request *r;      /* NULL when it has ended */
    struct py_stream *next; /* those on the loop that wait for credit */
    PyObject *future;       /* which is this, or NULL */
    struct buf items;       /* terms that have not been sent */
    uint32_t len;           /* how many */
    int64_t credit;         /* taken from r's, under exec's lock, and not used yet */
    int64_t turn;           /* when this one began */
    int64_t last;           /* when an item came */
    bool due;               /* the loop will send what there is */
    bool encoding;          /* an item, which may run Python code that lets the loop in */
};

static PyTypeObject py_stream_type;
static struct py_stream *py_stream_waiting;

/* Takes all of the credit that there is. */
static void py_stream_take_credit(struct py_stream *s) {
    exec_lock();
    s->credit += s->r->credit;
    s->r->credit = 0;
    exec_unlock();
}

/* Sends what there is, from the loop or a worker: 0, or -1 with an exception. */
static int py_stream_send(struct py_stream *s, bool loop) {
    struct buf out = {0};
    size_t begin;
    int result;

    if (s->len == 0)
        return 0;
    begin = answer_items_begin(s->r, &out, s->len);
    buf_put(&out, s->items.data, s->items.len);
    etf_put_nil(&out);
    s->len = 0;
    s->items.len = 0;
    result = answer_end(s->r, &out, begin);
    if (result < 0) {
        PyErr_SetString(PyExc_ValueError, "item: longer than a distribution frame can be");
    } else {
        outbox_put_buf(&s->r->conn->out, &out);
        if (loop) {
            py_loop_touch(s->r->conn);
        } else {
            py_leave();
            io_flush(s->r->conn);
            py_enter();
        }
    }
    buf_done(&out);
    return result;
}

/* put(item): True if there should be a pause before the next one, in which what there is is sent; else
 * False, or 2 if the loop is to call due() in a moment: the next item may take long. */
static PyObject *py_stream_put(PyObject *self, PyObject *item) {
    struct py_stream *s = (struct py_stream *)self;
    bool loop = s->r->task;
    int64_t now = clock_now();
    bool slow = now - s->last > PY_STREAM_SLOW_NS;
    int result;

    s->encoding = true;
    result = py_encode(&s->items, item, "item");
    s->encoding = false;
    if (result < 0)
        return NULL;
    s->last = now;
    s->len++;
    s->credit--;
    if ((s->len >= PY_STREAM_ITEMS || s->items.len >= PY_STREAM_BYTES) &&
        py_stream_send(s, loop) < 0)
        return NULL;
    if (s->credit <= 0)
        py_stream_take_credit(s);
    if (s->credit <= 0 || slow || (loop && now - s->turn > PY_STREAM_TURN_NS))
        return Py_NewRef(Py_True);
    if (s->due || s->len == 0)
        return Py_NewRef(Py_False);
    s->due = true;
    return PyLong_FromLong(2);
}

/* flush(): sends what there is. */
static PyObject *py_stream_flush(PyObject *self, PyObject *unused) {
    struct py_stream *s = (struct py_stream *)self;

    (void)unused;
    return py_stream_send(s, s->r->task) < 0 ? NULL : Py_NewRef(Py_None);
}

/* due(): the same, by the loop for whoever makes the items. */
static PyObject *py_stream_due(PyObject *self, PyObject *unused) {
    struct py_stream *s = (struct py_stream *)self;

    (void)unused;
    s->due = false;
    if (s->encoding) /* the item that is being made sees to it */
        return Py_NewRef(Py_None);
    return s->r && py_stream_send(s, true) < 0 ? NULL : Py_NewRef(Py_None);
}

/* close(): it has ended, and its request goes. */
static PyObject *py_stream_close(PyObject *self, PyObject *unused) {
    (void)unused;
    ((struct py_stream *)self)->r = NULL;
    return Py_NewRef(Py_None);
}

/* room(): a future that ends when there is credit; None if there is some. On the loop, which others have
 * had a turn of when this one goes on. */
static PyObject *py_stream_room(PyObject *self, PyObject *unused) {
    struct py_stream *s = (struct py_stream *)self;

    (void)unused;
    py_stream_take_credit(s);
    s->turn = clock_now();
    if (s->credit > 0)
        return Py_NewRef(Py_None);
    if (!s->future) {
        s->future = py_loop_future();
        if (!s->future)
            return NULL;
        s->next = py_stream_waiting;
        py_stream_waiting = s;
    }
    return Py_NewRef(s->future);
}

/* begin(): a turn of the loop's begins. */
static PyObject *py_stream_begin(PyObject *self, PyObject *unused) {
    (void)unused;
    ((struct py_stream *)self)->turn = clock_now();
    return Py_NewRef(Py_None);
}

/* wait(): until there is credit. In a worker, for which another one works meanwhile. */
static PyObject *py_stream_wait(PyObject *self, PyObject *unused) {
    struct py_stream *s = (struct py_stream *)self;

    (void)unused;
    for (;;) {
        py_stream_take_credit(s);
        if (s->credit > 0)
            return Py_NewRef(Py_None);
        py_leave();
        pool_await(s->r, true, 0);
        py_enter();
        if (py_thread_check_cancelled() || PyErr_CheckSignals() < 0)
            return NULL;
    }
}

static void py_stream_unlink(struct py_stream *s) {
    struct py_stream **at = &py_stream_waiting;

    while (*at && *at != s)
        at = &(*at)->next;
    if (*at)
        *at = s->next;
}

void py_stream_credited(const struct request *r) {
    for (struct py_stream *s = py_stream_waiting; s; s = s->next) {
        PyObject *future = s->future, *done;

        if (s->r != r)
            continue;
        py_stream_unlink(s);
        s->future = NULL;
        done = PyObject_CallMethod(future, "set_result", "O", Py_None);
        if (!done) /* it was cancelled */
            PyErr_Clear();
        Py_XDECREF(done);
        Py_DECREF(future);
        return;
    }
}

static void py_stream_dealloc(PyObject *self) {
    struct py_stream *s = (struct py_stream *)self;

    if (s->future)
        py_stream_unlink(s);
    Py_XDECREF(s->future);
    buf_done(&s->items);
    PyObject_Free(self);
}

static PyMethodDef py_stream_methods[] = {
    {"put", py_stream_put, METH_O, NULL},          {"flush", py_stream_flush, METH_NOARGS, NULL},
    {"begin", py_stream_begin, METH_NOARGS, NULL}, {"room", py_stream_room, METH_NOARGS, NULL},
    {"wait", py_stream_wait, METH_NOARGS, NULL},   {"due", py_stream_due, METH_NOARGS, NULL},
    {"close", py_stream_close, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL},
};

static PyTypeObject py_stream_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_erlang.Stream",
    .tp_doc = PyDoc_STR("Where the items of a stream go."),
    .tp_basicsize = sizeof(struct py_stream),
    .tp_dealloc = py_stream_dealloc,
    .tp_methods = py_stream_methods,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

int py_stream_init(void) {
    return PyType_Ready(&py_stream_type);
}

/* erlang._stream.NAME(source, stream) */
static PyObject *py_stream_drive(struct request *r, PyObject *source, const char *name) {
    struct py_stream *s = PyObject_New(struct py_stream, &py_stream_type);
    PyObject *module = NULL, *result = NULL;

    if (s) {
        memset((char *)s + sizeof(PyObject), 0, sizeof *s - sizeof(PyObject));
        s->r = r;
        s->turn = clock_now();
        py_stream_take_credit(s);
        module = PyImport_ImportModule("erlang._stream");
    }
    if (module)
        result = PyObject_CallMethod(module, name, "OO", source, (PyObject *)s);
    Py_XDECREF(module);
    Py_XDECREF(s);
    Py_DECREF(source);
    return result;
}

PyObject *py_stream_start(struct request *r, PyObject *source) {
    return py_stream_drive(r, source, "start");
}

PyObject *py_stream_run(struct request *r, PyObject *source) {
    return py_stream_drive(r, source, "run");
}

bool py_stream_is_plain(PyObject *source) {
    PyAsyncMethods *async = Py_TYPE(source)->tp_as_async;

    return !async || (!async->am_aiter && !async->am_await);
}
