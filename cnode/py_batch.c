/* py_batch.c - many calls that are waited for together: run_parallel() and map() of a pool. */
#include "config.h"

#include "py_batch.h"

enum { PY_BATCH_NOTES = 16 /* failures named in the notes of the first */ };

struct py_batch {
    struct taskpool_group *group;
    struct py_task **tasks;
    Py_ssize_t len, cap;
};

static int py_batch_init(struct py_batch *many, Py_ssize_t cap) {
    *many = (struct py_batch){.cap = cap};
    many->tasks = PyMem_Calloc((size_t)(cap ? cap : 1), sizeof(struct py_task *));
    if (!many->tasks) {
        PyErr_NoMemory();
        return -1;
    }
    many->group = taskpool_group_new();
    return 0;
}

/* Takes the task, which may be NULL: 0/-1. */
static int py_batch_add(struct py_batch *many, struct py_task *task) {
    if (!task)
        return -1;
    py_task_join(task, many->group);
    many->tasks[many->len++] = task;
    return 0;
}

/* Queues all and waits for all: 0/-1. Those that this thread has to run come last, for the others
 * run meanwhile. */
static int py_batch_run(struct py_task_pool *pool, struct py_batch *many) {
    Py_ssize_t queued = 0;
    int pushed = 0;

    while (queued < many->len && (pushed = py_task_push(pool, many->tasks[queued], true)) == 0)
        queued++;
    for (Py_ssize_t i = queued; i < many->len && pushed > 0; i++)
        py_task_run_here(pool, many->tasks[i]);
    for (Py_ssize_t i = queued + 1; i < many->len && pushed < 0; i++)
        py_task_unqueue(many->tasks[i]);
    return pushed < 0 ? -1 : py_task_wait(many->group);
}

static void py_batch_done(struct py_task_pool *pool, struct py_batch *many) {
    for (Py_ssize_t i = 0; i < many->len; i++)
        py_task_release(pool, many->tasks[i]);
    if (many->group)
        taskpool_group_unref(many->group);
    PyMem_Free(many->tasks);
}

/* Adds the line to the exception's notes. */
static void py_batch_note(PyObject *exception, PyObject *line) {
    PyObject *none = line ? PyObject_CallMethod(exception, "add_note", "O", line) : NULL;

    if (!none)
        PyErr_Clear();
    Py_XDECREF(none);
    Py_XDECREF(line);
}

/* Raises the first by index of (index, exception)s, with notes about the others. */
static void py_batch_raise_first(PyObject *errors, const char *what) {
    PyObject *first;
    Py_ssize_t len = PyList_GET_SIZE(errors);

    if (PyList_Sort(errors) < 0) /* by index: no two are alike */
        return;
    first = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(errors, 0), 1));
    for (Py_ssize_t i = 1; i < len && i <= PY_BATCH_NOTES; i++) {
        PyObject *entry = PyList_GET_ITEM(errors, i), *other = PyTuple_GET_ITEM(entry, 1);

        py_batch_note(first, PyUnicode_FromFormat("%s %S failed, too: %s: %S", what,
                                                  PyTuple_GET_ITEM(entry, 0),
                                                  Py_TYPE(other)->tp_name, other));
    }
    if (len > PY_BATCH_NOTES + 1)
        py_batch_note(first, PyUnicode_FromFormat("and %zd more", len - PY_BATCH_NOTES - 1));
    PyErr_Clear(); /* of a str() that fails */
    py_task_raise(first);
}

/* (fn,), (fn, args) or (fn, args, kwargs) as a task, or NULL. */
static struct py_task *py_batch_entry(PyObject *entry, Py_ssize_t index) {
    PyObject *function, *args = NULL, *kwargs = NULL, *all = NULL, *names = NULL;
    struct py_task *task = NULL;
    Py_ssize_t pos = 0;
    PyObject *key, *value;

    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) < 1 || PyTuple_GET_SIZE(entry) > 3) {
        PyErr_Format(PyExc_TypeError,
                     "run_parallel(): task %zd must be (fn,), (fn, args) or (fn, args, kwargs), "
                     "not %R",
                     index, entry);
        return NULL;
    }
    function = PyTuple_GET_ITEM(entry, 0);
    if (PyTuple_GET_SIZE(entry) > 1)
        args = PyTuple_GET_ITEM(entry, 1);
    if (PyTuple_GET_SIZE(entry) > 2)
        kwargs = PyTuple_GET_ITEM(entry, 2);
    if (!PyCallable_Check(function)) {
        PyErr_Format(PyExc_TypeError, "run_parallel(): task %zd: %.100s object is not callable",
                     index, Py_TYPE(function)->tp_name);
        return NULL;
    }
    if ((args && !PyTuple_Check(args) && !PyList_Check(args)) ||
        (kwargs && !PyDict_Check(kwargs))) {
        PyErr_Format(PyExc_TypeError, "run_parallel(): task %zd: %s", index,
                     kwargs && !PyDict_Check(kwargs) ? "kwargs must be a dict"
                                                     : "args must be a tuple or list");
        return NULL;
    }
    all = args ? PySequence_List(args) : PyList_New(0);
    names = all ? PyList_New(0) : NULL;
    if (!names)
        goto out;
    while (kwargs && PyDict_Next(kwargs, &pos, &key, &value)) {
        if (!PyUnicode_Check(key)) {
            PyErr_Format(PyExc_TypeError, "run_parallel(): task %zd: keywords must be strings",
                         index);
            goto out;
        }
        if (PyList_Append(names, key) < 0 || PyList_Append(all, value) < 0)
            goto out;
    }
    Py_SETREF(names, PyList_AsTuple(names));
    if (names)
        task = py_task_new(PY_TASK_CALL, function, PySequence_Fast_ITEMS(all), PyList_GET_SIZE(all),
                           PyTuple_GET_SIZE(names) > 0 ? names : NULL);
out:
    Py_XDECREF(all);
    Py_XDECREF(names);
    return task;
}

/* The results of all calls in order, or NULL with the first exception. */
static PyObject *py_batch_take(struct py_batch *many) {
    PyObject *results = PyList_New(many->len), *errors = PyList_New(0);

    for (Py_ssize_t i = 0; results && errors && i < many->len; i++) {
        PyObject *result = py_task_take(many->tasks[i]);

        if (!result && py_task_note_error(errors, i) < 0)
            Py_CLEAR(errors);
        PyList_SET_ITEM(results, i, result ? result : Py_NewRef(Py_None));
    }
    if (!errors)
        Py_CLEAR(results);
    if (results && PyList_GET_SIZE(errors) > 0) {
        py_batch_raise_first(errors, "task");
        Py_CLEAR(results);
    }
    Py_XDECREF(errors);
    return results;
}

PyObject *py_batch_parallel(struct py_task_pool *pool, PyObject *tasks) {
    PyObject *list = PySequence_Tuple(tasks), *results = NULL;
    struct py_batch many = {0};
    bool made;

    if (!list)
        return NULL;
    made = py_batch_init(&many, PyTuple_GET_SIZE(list)) == 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(list) && made; i++)
        made = py_batch_add(&many, py_batch_entry(PyTuple_GET_ITEM(list, i), i)) == 0;
    for (Py_ssize_t i = 0; i < many.len && !made; i++)
        py_task_unqueue(many.tasks[i]);
    if (made && py_batch_run(pool, &many) == 0)
        results = py_batch_take(&many);
    py_batch_done(pool, &many);
    Py_DECREF(list);
    return results;
}

/* One run of items of map(), as a task, or NULL. */
static struct py_task *py_batch_chunk(PyObject *function, PyObject *const *args, Py_ssize_t from,
                                      Py_ssize_t to) {
    struct py_task *task = py_task_new(PY_TASK_CHUNK, function, args, 3, NULL);

    if (task) {
        task->from = from;
        task->to = to;
    }
    return task;
}

/* Whether a chunk has not run to its end: with an exception. */
static bool py_batch_chunk_lost(struct py_batch *many) {
    for (Py_ssize_t i = 0; i < many->len; i++) {
        PyObject *none = py_task_take(many->tasks[i]);

        if (!none)
            return true;
        Py_DECREF(none);
    }
    return false;
}

Py_ssize_t py_batch_chunk_size(struct py_task_pool *pool, Py_ssize_t len) {
    struct taskpool_numbers n;
    Py_ssize_t parts, size;

    taskpool_read_numbers(pool->threads, &n);
    parts = 4 * (Py_ssize_t)(n.threads > 0 ? n.threads : 1);
    size = (len + parts - 1) / parts;
    return size > 0 ? size : 1;
}

PyObject *py_batch_map(struct py_task_pool *pool, PyObject *function, PyObject *iterable,
                       Py_ssize_t chunk) {
    PyObject *items = PySequence_Tuple(iterable), *results, *errors;
    struct py_batch many = {0};
    Py_ssize_t len;
    bool made;

    if (!items)
        return NULL;
    len = PyTuple_GET_SIZE(items);
    if (chunk == 0)
        chunk = py_batch_chunk_size(pool, len);
    results = PyList_New(len);
    errors = PyList_New(0);
    made = results && errors && py_batch_init(&many, len / chunk + (len % chunk > 0)) == 0;
    for (Py_ssize_t i = 0; i < len && made; i += chunk) {
        PyObject *args[] = {items, results, errors};
        Py_ssize_t to = len - i < chunk ? len : i + chunk;

        made = py_batch_add(&many, py_batch_chunk(function, args, i, to)) == 0;
        if (to == len)
            break;
    }
    for (Py_ssize_t i = 0; i < many.len && !made; i++)
        py_task_unqueue(many.tasks[i]);
    if (!made || py_batch_run(pool, &many) < 0 || py_batch_chunk_lost(&many)) {
        Py_CLEAR(results);
    } else if (PyList_GET_SIZE(errors) > 0) {
        py_batch_raise_first(errors, "item");
        Py_CLEAR(results);
    }
    py_batch_done(pool, &many);
    Py_DECREF(items);
    Py_XDECREF(errors);
    return results;
}
