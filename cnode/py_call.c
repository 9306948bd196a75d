/* py_call.c - from a module's and a function's name to the call: policy, look-up, arguments. */
#include "config.h"

#include "py_call.h"
#include "py_atom.h"
#include "py_decode.h"
#include "py_server.h"

#include <stdlib.h>

enum { PY_CALL_CACHE = 1024 }; /* callables kept; a power of two */

/* A callable that has been looked up. A newer one with the same hash takes its place. */
struct py_call_entry {
    char *name; /* module, a zero byte, function */
    size_t len;
    PyObject *callable;
};

static struct {
    const struct options *options;
    PyObject *refused;   /* the exception of a call that --allow forbids */
    PyObject *kwargs;    /* the text '$kwargs' */
    PyObject *frameless; /* names and stand-ins: py_call_frameless() */
    struct py_call_entry cache[PY_CALL_CACHE];
} py_calls;

int py_call_init(const struct options *o) {
    py_calls.options = o;
    py_calls.refused = PyErr_NewException("_erlang.NotAllowed", NULL, NULL);
    py_calls.kwargs = PyUnicode_InternFromString("$kwargs");
    return py_calls.refused && py_calls.kwargs ? 0 : -1;
}

bool py_call_refused(void) {
    return PyErr_ExceptionMatches(py_calls.refused);
}

/* --allow. */

static bool py_call_text_is(struct slice s, const char *text, size_t len) {
    return s.len == len && memcmp(s.data, text, len) == 0;
}

/* Whether a part of a dotted name is a private one: under --allow none leads on, for
 * __globals__ and its like lead everywhere. */
static bool py_call_has_private(struct slice function) {
    for (size_t i = 0; i + 1 < function.len; i++)
        if ((i == 0 || function.data[i - 1] == '.') && function.data[i] == '_')
            return true;
    return false;
}

/* Whether --allow names the module or the function, to the letter. */
static bool py_call_allowed(struct slice module, struct slice function) {
    const struct options_list *allow = &py_calls.options->allow;

    for (size_t i = 0; i < allow->len; i++) {
        const char *item = allow->items[i], *colon = strchr(item, ':');

        if (!colon && py_call_text_is(module, item, strlen(item)) && !py_call_has_private(function))
            return true;
        if (colon && py_call_text_is(module, item, (size_t)(colon - item)) &&
            py_call_text_is(function, colon + 1, strlen(colon + 1)))
            return true;
    }
    return allow->len == 0;
}

/* Looking up. */

static PyObject *py_call_str(struct slice s) {
    return PyUnicode_DecodeUTF8((const char *)s.data, (Py_ssize_t)s.len, NULL);
}

/* Whether it is what the package erlang has for a name that it does not know: a function of Erlang's,
 * which Erlang does not call by way of Python. */
static bool py_call_is_erlang(PyObject *obj) {
    return strcmp(Py_TYPE(obj)->tp_name, "_Function") == 0 &&
           PyObject_HasAttrString(obj, "__erlang_function__");
}

/* Follows a dotted name from the module. Under --allow it must not pass through a module: those
 * that the allowed one imports are not allowed with it. */
static PyObject *py_call_follow(PyObject *module, struct slice function) {
    PyObject *name = py_call_str(function), *parts = NULL, *found = NULL, *next;

    if (name) {
        PyObject *dot = PyUnicode_FromString(".");

        parts = dot ? PyUnicode_Split(name, dot, -1) : NULL;
        Py_XDECREF(dot);
    }
    found = parts ? Py_NewRef(module) : NULL;
    for (Py_ssize_t i = 0; found && i < PyList_GET_SIZE(parts); i++) {
        if (i > 0 && PyModule_Check(found) && py_calls.options->allow.len > 0) {
            PyErr_SetNone(py_calls.refused);
            Py_CLEAR(found);
            break;
        }
        next = PyObject_GetAttr(found, PyList_GET_ITEM(parts, i));
        if (next && py_call_is_erlang(next)) {
            PyErr_Format(PyExc_AttributeError, "module 'erlang' has no attribute '%U'",
                         PyList_GET_ITEM(parts, i));
            Py_CLEAR(next);
        }
        Py_SETREF(found, next);
    }
    Py_XDECREF(parts);
    Py_XDECREF(name);
    return found;
}

/* The builtins that ask the calling frame for its names: a call from Erlang has none, so they get
 * those of __main__. */
static const char py_call_frameless_source[] =
    "import builtins, __main__\n"
    "names = __main__.__dict__\n"
    "def named(locals):\n"
    "    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in locals.items()}\n"
    "def eval(source, globals=None, locals=None, /):\n"
    "    if globals is None:\n" /* one namespace: inner scopes must see the names, too */
    "        globals, locals = {**names, **named(locals)} if locals else names, None\n"
    "    return builtins.eval(source, globals, locals)\n"
    "def exec(source, globals=None, locals=None, /, **options):\n"
    "    return builtins.exec(source, names if globals is None else globals, locals, **options)\n"
    "def dir(*object):\n"
    "    return builtins.dir(*object) if object else sorted(names)\n"
    "def vars(*object):\n"
    "    return builtins.vars(*object) if object else names\n"
    "def globals():\n"
    "    return names\n"
    "def locals():\n"
    "    return names\n";

/* Makes them. Others may run meanwhile, and make them, too: whoever is first is the one. */
static int py_call_make_frameless(void) {
    PyObject *made = PyDict_New(), *done;

    done = made ? PyRun_String(py_call_frameless_source, Py_file_input, made, made) : NULL;
    if (done && !py_calls.frameless)
        py_calls.frameless = Py_NewRef(made);
    Py_XDECREF(made);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Such a builtin's stand-in: a new reference, or NULL, without an exception if it is none. */
static PyObject *py_call_frameless(struct slice module, struct slice function) {
    PyObject *name, *found = NULL;

    if (!etf_atom_is(module, "builtins") || (!py_calls.frameless && py_call_make_frameless() < 0))
        return NULL;
    name = py_call_str(function);
    if (name)
        found = PyDict_GetItemWithError(py_calls.frameless, name); /* borrowed */
    found = found && PyFunction_Check(found) ? Py_NewRef(found) : NULL;
    Py_XDECREF(name);
    return found;
}

static PyObject *py_call_import(struct slice module, struct slice function) {
    PyObject *name, *imported, *found = NULL;

    if (!py_call_allowed(module, function)) {
        PyErr_SetNone(py_calls.refused);
        return NULL;
    }
    name = py_call_str(module);
    imported = name ? PyImport_Import(name) : NULL;
    if (imported) { /* the package's top; the module itself is in sys.modules now */
        Py_DECREF(imported);
        imported = PyImport_GetModule(name);
        if (!imported && !PyErr_Occurred())
            PyErr_Format(PyExc_ModuleNotFoundError, "No module named '%U'", name);
    }
    if (imported)
        found = py_call_frameless(module, function);
    if (imported && !found && !PyErr_Occurred())
        found = py_call_follow(imported, function);
    Py_XDECREF(imported);
    Py_XDECREF(name);
    if (found && !PyCallable_Check(found)) {
        PyErr_Format(PyExc_TypeError, "'%.200s' object is not callable", Py_TYPE(found)->tp_name);
        Py_CLEAR(found);
    }
    return found;
}

static struct py_call_entry *py_call_slot(struct slice module, struct slice function) {
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < module.len; i++)
        h = (h ^ module.data[i]) * 16777619u;
    h = h * 16777619u;
    for (size_t i = 0; i < function.len; i++)
        h = (h ^ function.data[i]) * 16777619u;
    return &py_calls.cache[(h ^ h >> 15) & (PY_CALL_CACHE - 1)];
}

static bool py_call_slot_is(const struct py_call_entry *slot, struct slice module,
                            struct slice function) {
    return slot->callable && slot->len == module.len + 1 + function.len &&
           memcmp(slot->name, module.data, module.len) == 0 && slot->name[module.len] == '\0' &&
           memcmp(slot->name + module.len + 1, function.data, function.len) == 0;
}

static void py_call_forget(struct py_call_entry *slot) {
    free(slot->name);
    slot->name = NULL;
    Py_CLEAR(slot->callable);
}

/* The callable, from the cache or looked up and kept. New reference. */
static PyObject *py_call_lookup(struct slice module, struct slice function) {
    struct py_call_entry *slot = py_call_slot(module, function);
    PyObject *callable;

    if (py_call_slot_is(slot, module, function))
        return Py_NewRef(slot->callable);
    callable = py_call_import(module, function);
    if (!callable)
        return NULL;
    py_call_forget(slot); /* may run Python, so the slot is filled afterwards */
    slot->len = module.len + 1 + function.len;
    slot->name = xmalloc(slot->len);
    memcpy(slot->name, module.data, module.len);
    slot->name[module.len] = '\0';
    memcpy(slot->name + module.len + 1, function.data, function.len);
    Py_XSETREF(slot->callable, Py_NewRef(callable));
    return callable;
}

/* Calling. */

/* The dict with plain str keys that keyword arguments need. */
static PyObject *py_call_names(PyObject *map) {
    PyObject *kwargs = PyDict_New(), *key, *value;
    Py_ssize_t at = 0;

    while (kwargs && PyDict_Next(map, &at, &key, &value)) {
        PyObject *name = NULL;

        if (PyUnicode_Check(key))
            name = PyUnicode_FromObject(key); /* an exact str, also of an Atom */
        else if (PyBytes_Check(key))          /* --strings bytes */
            name = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), NULL);
        else
            PyErr_SetString(PyExc_TypeError, "a keyword is neither an atom nor a string");
        if (!name || PyDict_SetItem(kwargs, name, value) < 0)
            Py_CLEAR(kwargs);
        Py_XDECREF(name);
    }
    return kwargs;
}

/* The dict of a last argument {'$kwargs', Map}; NULL without an exception when there is none. */
static PyObject *py_call_kwargs(PyObject *args) {
    Py_ssize_t n = PyList_GET_SIZE(args);
    PyObject *last = n > 0 ? PyList_GET_ITEM(args, n - 1) : NULL, *map;

    if (!last || !PyTuple_CheckExact(last) || PyTuple_GET_SIZE(last) != 2 ||
        !PyUnicode_Check(PyTuple_GET_ITEM(last, 0)) ||
        PyUnicode_CheckExact(PyTuple_GET_ITEM(last, 0)) || /* an atom, not a binary */
        PyUnicode_Compare(PyTuple_GET_ITEM(last, 0), py_calls.kwargs) != 0)
        return NULL;
    map = PyTuple_GET_ITEM(last, 1);
    if (!PyDict_CheckExact(map)) {
        PyErr_SetString(PyExc_TypeError, "the value of '$kwargs' is not a map");
        return NULL;
    }
    return py_call_names(map);
}

/* Runs it on the default executor of erlang.blocking; the GIL is free meanwhile. */
static PyObject *py_call_blocking(PyObject *callable, PyObject *const *args, size_t n,
                                  PyObject *kwargs) {
    PyObject *module = PyImport_ImportModule("erlang.blocking"), *run = NULL, *result = NULL;
    PyObject **all = PyMem_Malloc((n + 1) * sizeof *all); /* borrowed ones */

    if (module && all)
        run = PyObject_GetAttrString(module, "blocking_run");
    else if (!PyErr_Occurred())
        PyErr_NoMemory();
    if (run) {
        all[0] = callable;
        for (size_t i = 0; i < n; i++)
            all[i + 1] = args[i];
        result = PyObject_VectorcallDict(run, all, n + 1, kwargs);
    }
    PyMem_Free(all);
    Py_XDECREF(run);
    Py_XDECREF(module);
    return result;
}

bool py_call_wants_bytes(const struct request *r) {
    return r->options.strings == REQUEST_STRINGS ? py_decode_settings.strings_as_bytes
                                                 : r->options.strings == REQUEST_STRINGS_BYTES;
}

/* The keyword arguments of a call of the application: NULL without an exception if there are none. */
static PyObject *py_call_option_kwargs(const struct request *r) {
    struct slice s = r->options.kwargs;
    PyObject *map, *kwargs;
    struct etf at;

    if (s.len == 0)
        return NULL;
    at = (struct etf){s.data, s.data + s.len};
    map = py_decode_as(&at, "kwargs", py_call_wants_bytes(r));
    kwargs = map ? py_call_names(map) : NULL;
    Py_XDECREF(map);
    return kwargs;
}

PyObject *py_call_apply(const struct request *r, PyObject *callable, PyObject *args) {
    PyObject *kwargs = py_call_option_kwargs(r), *result = NULL;
    size_t n = (size_t)PyList_GET_SIZE(args);

    if (!kwargs && !PyErr_Occurred() && (kwargs = py_call_kwargs(args)))
        n--;
    if (!PyErr_Occurred() && r->options.executor)
        result = py_call_blocking(callable, ((PyListObject *)args)->ob_item, n, kwargs);
    else if (!PyErr_Occurred())
        result = PyObject_VectorcallDict(callable, ((PyListObject *)args)->ob_item, n, kwargs);
    Py_XDECREF(kwargs);
    return result;
}

static PyObject *py_call_ok(void) {
    return py_atom_intern((struct slice){(const uint8_t *)"ok", 2});
}

/* pynode:reload() forgets what was looked up; pynode:reload(Module) also loads it anew. */
static PyObject *py_call_reload(PyObject *args) {
    PyObject *importlib, *done = NULL;

    for (int i = 0; i < PY_CALL_CACHE; i++)
        py_call_forget(&py_calls.cache[i]);
    if (PyList_GET_SIZE(args) == 0)
        return py_call_ok();
    if (PyList_GET_SIZE(args) > 1 || !PyUnicode_Check(PyList_GET_ITEM(args, 0))) {
        PyErr_SetString(PyExc_TypeError, "pynode:reload() takes one module's name");
        return NULL;
    }
    importlib = PyImport_ImportModule("importlib");
    if (importlib) {
        PyObject *name = PyUnicode_FromObject(PyList_GET_ITEM(args, 0));
        PyObject *module = name ? PyImport_GetModule(name) : NULL;

        py_server_set_reloading(name);
        if (module)
            done = PyObject_CallMethod(importlib, "reload", "O", module);
        else if (name && !PyErr_Occurred())
            done = PyImport_Import(name);
        py_server_set_reloading(NULL);
        Py_XDECREF(module);
        Py_XDECREF(name);
    }
    Py_XDECREF(importlib);
    Py_XDECREF(done);
    return done ? py_call_ok() : NULL;
}

PyObject *py_call_find(const struct request *r) {
    return py_call_lookup(r->module, r->function);
}

PyObject *py_call(const struct request *r) {
    bool own = etf_atom_is(r->module, "pynode");
    struct etf args = {r->args.data, r->args.data + r->args.len};
    PyObject *callable = NULL, *list, *result = NULL;

    if (own ? !py_call_allowed(r->module, r->function) : false) {
        PyErr_SetNone(py_calls.refused);
        return NULL;
    }
    if (own && !etf_atom_is(r->function, "reload")) {
        PyObject *name = py_call_str(r->function);

        if (name)
            PyErr_Format(PyExc_AttributeError,
                         "the node has no function pynode:%U with these arguments", name);
        Py_XDECREF(name);
        return NULL;
    }
    if (!own && !(callable = py_call_lookup(r->module, r->function)))
        return NULL;
    list = py_decode_as(&args, "args", py_call_wants_bytes(r));
    if (list && !PyList_CheckExact(list))
        PyErr_SetString(PyExc_TypeError, "args: not a list");
    else if (list)
        result = own ? py_call_reload(list) : py_call_apply(r, callable, list);
    Py_XDECREF(list);
    Py_XDECREF(callable);
    return result;
}
