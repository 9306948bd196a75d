/* py_types.c - the Erlang types that Python has none for: Atom, Pid, Ref, Port, Fun, Bitstring.
 *
 * The types live in variables of the process and not in module state: the C code that converts
 * has no module at hand, and the node has one interpreter.
 */
#include "config.h"

#include "py_atom.h"
#include "py_types.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>

enum { PY_TYPES_REF_WORDS = 5, PY_TYPES_FUN_VARS = 255 };

typedef struct {
    PyObject_VAR_HEAD
    enum py_types_kind kind;
    uint8_t encoded[]; /* Py_SIZE() bytes */
} PyOpaqueObject;

typedef struct {
    PyObject_VAR_HEAD
    int bits; /* 1..8 of the last byte */
    uint8_t data[];
} PyBitstringObject;

/* What the encoded bytes of a Pid, Ref, Port or Fun say; the slices are borrowed from them. */
struct py_types_parts {
    enum py_types_kind kind;
    struct py_types_name {
        struct slice text;
        bool latin1;          /* old tag: the text is no UTF-8 */
    } node, module, function; /* node is empty for an export, function for a closure */
    uint32_t creation;
    uint64_t numbers[PY_TYPES_REF_WORDS]; /* pid: id, serial; port: id; fun: arity, index */
    int count;
    bool closure;
};

PyTypeObject *py_types_atom;
PyTypeObject *py_types_bitstring;
static PyTypeObject *py_types_kinds[4];
static const char *const py_types_names[] = {"pid", "reference", "port", "fun"};

/* Atom */

PyObject *py_types_atom_new(PyObject *text) {
    PyObject *args = PyTuple_Pack(1, text), *atom;

    atom = args ? PyUnicode_Type.tp_new(py_types_atom, args, NULL) : NULL;
    Py_XDECREF(args);
    return atom;
}

/* Atom(name): always the one object of that name. */
static PyObject *py_types_atom_call(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *text;
    const char *utf8;
    Py_ssize_t len;

    if (kwargs && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Atom() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "U:Atom", &text))
        return NULL;
    if (Py_IS_TYPE(text, type))
        return Py_NewRef(text);
    utf8 = PyUnicode_AsUTF8AndSize(text, &len);
    if (!utf8)
        return NULL;
    return py_atom_intern((struct slice){(const uint8_t *)utf8, (size_t)len});
}

static PyObject *py_types_atom_repr(PyObject *self) {
    PyObject *text = PyUnicode_Type.tp_repr(self), *repr;

    repr = text ? PyUnicode_FromFormat("Atom(%U)", text) : NULL;
    Py_XDECREF(text);
    return repr;
}

static PyObject *py_types_atom_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *text = PyObject_Str(self), *pair;

    pair = text ? Py_BuildValue("(O(O))", Py_TYPE(self), text) : NULL;
    Py_XDECREF(text);
    return pair;
}

static PyMethodDef py_types_atom_methods[] = {
    {"__reduce__", py_types_atom_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(
    py_types_atom_doc,
    "Atom(name)\n--\n\n"
    "An Erlang atom. It is a str, and goes to Erlang as an atom where a plain str goes as\n"
    "a binary. There is one object for each name.\n\n"
    ">>> Atom('ok')\n"
    "Atom('ok')\n"
    ">>> Atom('ok') == 'ok', Atom('ok') is Atom('ok')\n"
    "(True, True)\n");

static PyType_Slot py_types_atom_slots[] = {
    {Py_tp_doc, (void *)py_types_atom_doc},
    {Py_tp_new, py_types_atom_call},
    {Py_tp_repr, py_types_atom_repr},
    {Py_tp_methods, py_types_atom_methods},
    {0, NULL},
};

static PyType_Spec py_types_atom_spec = {
    .name = "erlang.Atom",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = py_types_atom_slots,
};

/* Pid, Ref, Port, Fun */

/* Reads an atom; its name is checked, since a node or user will be shown it. */
static int py_types_parse_atom(struct etf *r, struct py_types_name *atom) {
    ptrdiff_t chars;
    uint8_t tag;

    if (etf_left(r) == 0)
        return -1;
    tag = r->p[0];
    if (etf_get_atom(r, &atom->text) < 0)
        return -1;
    atom->latin1 = tag == ETF_ATOM || tag == ETF_SMALL_ATOM;
    chars = atom->latin1 ? (ptrdiff_t)atom->text.len : utf8_count(atom->text.data, atom->text.len);
    return chars >= 0 && chars <= PY_ATOM_CHARS ? 0 : -1;
}

/* Reads a big endian number of 1, 4 or 8 bytes. */
static int py_types_parse_number(struct etf *r, size_t size, uint64_t *value) {
    if (etf_left(r) < size)
        return -1;
    *value = size == 1 ? r->p[0] : size == 4 ? etf_be32(r->p) : etf_be64(r->p);
    r->p += size;
    return 0;
}

/* Reads a creation, which old tags keep in one byte. */
static int py_types_parse_creation(struct etf *r, size_t size, struct py_types_parts *parts) {
    uint64_t creation;

    if (py_types_parse_number(r, size, &creation) < 0)
        return -1;
    parts->creation = (uint32_t)creation;
    return 0;
}

static int py_types_parse_pid(struct etf *r, uint8_t tag, struct py_types_parts *parts) {
    parts->count = 2;
    if (py_types_parse_atom(r, &parts->node) < 0 ||
        py_types_parse_number(r, 4, &parts->numbers[0]) < 0 ||
        py_types_parse_number(r, 4, &parts->numbers[1]) < 0)
        return -1;
    return py_types_parse_creation(r, tag == ETF_PID ? 1 : 4, parts);
}

static int py_types_parse_port(struct etf *r, uint8_t tag, struct py_types_parts *parts) {
    parts->count = 1;
    if (py_types_parse_atom(r, &parts->node) < 0 ||
        py_types_parse_number(r, tag == ETF_V4_PORT ? 8 : 4, &parts->numbers[0]) < 0)
        return -1;
    return py_types_parse_creation(r, tag == ETF_PORT ? 1 : 4, parts);
}

static int py_types_parse_ref(struct etf *r, uint8_t tag, struct py_types_parts *parts) {
    parts->count = 1;
    if (tag == ETF_REFERENCE) {
        if (py_types_parse_atom(r, &parts->node) < 0 ||
            py_types_parse_number(r, 4, &parts->numbers[0]) < 0)
            return -1;
        return py_types_parse_creation(r, 1, parts);
    }
    if (etf_left(r) < 2)
        return -1;
    parts->count = etf_be16(r->p);
    r->p += 2;
    if (parts->count < 1 || parts->count > PY_TYPES_REF_WORDS ||
        py_types_parse_atom(r, &parts->node) < 0 ||
        py_types_parse_creation(r, tag == ETF_NEWER_REF ? 4 : 1, parts) < 0)
        return -1;
    for (int i = 0; i < parts->count; i++)
        if (py_types_parse_number(r, 4, &parts->numbers[i]) < 0)
            return -1;
    return 0;
}

/* fun M:F/A. */
static int py_types_parse_export(struct etf *r, struct py_types_parts *parts) {
    parts->count = 1;
    if (py_types_parse_atom(r, &parts->module) < 0 || py_types_parse_atom(r, &parts->function) < 0)
        return -1;
    if (etf_left(r) < 2 || r->p[0] != ETF_SMALL_INTEGER)
        return -1;
    parts->numbers[0] = r->p[1];
    r->p += 2;
    return 0;
}

/* A closure. Its size field is passed over, as the BEAM does: some releases of OTP send it too
 * large. So its end is found by reading its parts. */
static int py_types_parse_closure(struct etf *r, struct py_types_parts *parts) {
    struct py_types_parts pid = {0};
    struct slice term;
    int64_t old;
    uint64_t vars;
    uint8_t tag;

    parts->closure = true;
    parts->count = 2;
    if (etf_left(r) < 4 + 1 + 16 + 4 + 4)
        return -1;
    parts->numbers[0] = r->p[4];
    parts->numbers[1] = etf_be32(r->p + 4 + 1 + 16);
    r->p += 4 + 1 + 16 + 4;
    if (py_types_parse_number(r, 4, &vars) < 0 || vars > PY_TYPES_FUN_VARS ||
        py_types_parse_atom(r, &parts->module) < 0 || etf_get_integer(r, &old) < 0 ||
        etf_get_integer(r, &old) < 0 || etf_left(r) == 0)
        return -1;
    tag = r->p[0];
    if (tag != ETF_NEW_PID && tag != ETF_PID)
        return -1;
    r->p++;
    if (py_types_parse_pid(r, tag, &pid) < 0)
        return -1;
    parts->node = pid.node;
    while (vars-- > 0)
        if (etf_get_term(r, &term) < 0)
            return -1;
    return 0;
}

/* Reads a pid, reference, port or fun: 0, or -1 if it is malformed or something else. */
static int py_types_parse(struct etf *r, struct py_types_parts *parts) {
    uint8_t tag;

    *parts = (struct py_types_parts){0};
    if (etf_left(r) == 0)
        return -1;
    tag = *r->p++;
    switch (tag) {
    case ETF_NEW_PID:
    case ETF_PID:
        parts->kind = PY_TYPES_PID;
        return py_types_parse_pid(r, tag, parts);
    case ETF_NEWER_REF:
    case ETF_NEW_REFERENCE:
    case ETF_REFERENCE:
        parts->kind = PY_TYPES_REF;
        return py_types_parse_ref(r, tag, parts);
    case ETF_V4_PORT:
    case ETF_NEW_PORT:
    case ETF_PORT:
        parts->kind = PY_TYPES_PORT;
        return py_types_parse_port(r, tag, parts);
    case ETF_EXPORT:
        parts->kind = PY_TYPES_FUN;
        return py_types_parse_export(r, parts);
    case ETF_NEW_FUN:
        parts->kind = PY_TYPES_FUN;
        return py_types_parse_closure(r, parts);
    default:
        return -1;
    }
}

/* The parts of an object that exists: they were read once already, so this cannot fail. */
static void py_types_parts_of(PyObject *self, struct py_types_parts *parts) {
    PyOpaqueObject *opaque = (PyOpaqueObject *)self;
    struct etf r = {opaque->encoded, opaque->encoded + Py_SIZE(self)};

    (void)py_types_parse(&r, parts);
}

static PyObject *py_types_new(enum py_types_kind kind, const uint8_t *p, size_t n) {
    PyTypeObject *type = py_types_kinds[kind];
    PyOpaqueObject *self = (PyOpaqueObject *)type->tp_alloc(type, (Py_ssize_t)n);

    if (!self)
        return NULL;
    self->kind = kind;
    memcpy(self->encoded, p, n);
    return (PyObject *)self;
}

PyObject *py_types_read(struct etf *r) {
    struct py_types_parts parts;
    struct etf at = *r;
    PyObject *object;

    if (py_types_parse(&at, &parts) < 0) {
        PyErr_Format(PyExc_ValueError, "malformed %s", py_types_names[parts.kind]);
        return NULL;
    }
    object = py_types_new(parts.kind, r->p, (size_t)(at.p - r->p));
    if (object)
        r->p = at.p;
    return object;
}

PyObject *py_types_opaque(enum py_types_kind kind, struct slice encoded) {
    struct etf r = {encoded.data, encoded.data + encoded.len};
    struct py_types_parts parts;

    if (py_types_parse(&r, &parts) < 0 || parts.kind != kind || r.p != r.end) {
        PyErr_Format(PyExc_ValueError, "malformed %s", py_types_names[kind]);
        return NULL;
    }
    return py_types_new(kind, encoded.data, encoded.len);
}

bool py_types_is_opaque(const PyTypeObject *type) {
    return type == py_types_kinds[PY_TYPES_PID] || type == py_types_kinds[PY_TYPES_REF] ||
           type == py_types_kinds[PY_TYPES_PORT] || type == py_types_kinds[PY_TYPES_FUN];
}

int py_types_slice(PyObject *obj, struct slice *encoded) {
    if (!py_types_is_opaque(Py_TYPE(obj)))
        return 0;
    *encoded = (struct slice){((PyOpaqueObject *)obj)->encoded, (size_t)Py_SIZE(obj)};
    return 1;
}

/* The name as UTF-8, in room (2 * PY_ATOM_CHARS bytes) where it is not so already. */
static struct slice py_types_atom_utf8(const struct py_types_name *atom, uint8_t *room) {
    if (!atom->latin1)
        return atom->text;
    return (struct slice){room, utf8_from_latin1(room, atom->text.data, atom->text.len)};
}

static bool py_types_atom_equal(const struct py_types_name *a, const struct py_types_name *b) {
    uint8_t room_a[2 * PY_ATOM_CHARS], room_b[2 * PY_ATOM_CHARS];

    if (!a->text.data || !b->text.data)
        return a->text.data == b->text.data;
    return slice_equal(py_types_atom_utf8(a, room_a), py_types_atom_utf8(b, room_b));
}

/* Equal as Erlang sees it: the same pid can come in an old and a new form. Closures are compared
 * by their bytes. */
static bool py_types_equal(PyObject *a, PyObject *b) {
    struct py_types_parts pa, pb;

    if (Py_SIZE(a) == Py_SIZE(b) && memcmp(((PyOpaqueObject *)a)->encoded,
                                           ((PyOpaqueObject *)b)->encoded, (size_t)Py_SIZE(a)) == 0)
        return true;
    py_types_parts_of(a, &pa);
    py_types_parts_of(b, &pb);
    if (pa.closure || pb.closure || pa.count != pb.count || pa.creation != pb.creation)
        return false;
    return memcmp(pa.numbers, pb.numbers, sizeof pa.numbers) == 0 &&
           py_types_atom_equal(&pa.node, &pb.node) && py_types_atom_equal(&pa.module, &pb.module) &&
           py_types_atom_equal(&pa.function, &pb.function);
}

static PyObject *py_types_compare(PyObject *a, PyObject *b, int op) {
    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(a) != Py_TYPE(b))
        Py_RETURN_NOTIMPLEMENTED;
    return PyBool_FromLong(py_types_equal(a, b) == (op == Py_EQ));
}

static uint64_t py_types_mix(uint64_t hash, const void *p, size_t n) {
    const uint8_t *at = p;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

static uint64_t py_types_mix_atom(uint64_t hash, const struct py_types_name *atom) {
    uint8_t room[2 * PY_ATOM_CHARS];
    struct slice name;

    if (!atom->text.data)
        return hash;
    name = py_types_atom_utf8(atom, room);
    return py_types_mix(hash, name.data, name.len);
}

/* A Py_hash_t of the 64 bits; -1 stands for an error in Python. */
static Py_hash_t py_types_hash_end(uint64_t hash) {
    Py_hash_t end = (Py_hash_t)(hash ^ hash >> 32);

    return end == -1 ? -2 : end;
}

/* Of what py_types_equal() compares. */
static Py_hash_t py_types_hash(PyObject *self) {
    uint64_t hash = 0xCBF29CE484222325u + ((PyOpaqueObject *)self)->kind;
    struct py_types_parts parts;

    py_types_parts_of(self, &parts);
    if (parts.closure)
        return py_types_hash_end(
            py_types_mix(hash, ((PyOpaqueObject *)self)->encoded, (size_t)Py_SIZE(self)));
    hash = py_types_mix(hash, parts.numbers, sizeof parts.numbers);
    hash = py_types_mix_atom(hash, &parts.node);
    hash = py_types_mix_atom(hash, &parts.module);
    return py_types_hash_end(py_types_mix_atom(hash, &parts.function));
}

/* New str of an atom inside the bytes. */
static PyObject *py_types_atom_text(const struct py_types_name *atom) {
    if (atom->latin1)
        return PyUnicode_DecodeLatin1((const char *)atom->text.data, (Py_ssize_t)atom->text.len,
                                      NULL);
    return PyUnicode_DecodeUTF8((const char *)atom->text.data, (Py_ssize_t)atom->text.len, NULL);
}

/* The same for a repr(): quoted if it has characters that would spoil a line. */
static PyObject *py_types_atom_shown(const struct py_types_name *atom) {
    PyObject *text = py_types_atom_text(atom), *quoted;

    for (Py_ssize_t i = 0; text && i < PyUnicode_GET_LENGTH(text); i++) {
        if (Py_UNICODE_ISPRINTABLE(PyUnicode_READ_CHAR(text, i)))
            continue;
        quoted = PyObject_Repr(text);
        Py_DECREF(text);
        return quoted;
    }
    return text;
}

/* Like Erlang's own, with the node's name where Erlang prints a number that says nothing. */
static PyObject *py_types_repr(PyObject *self) {
    struct py_types_parts parts;
    PyObject *name = NULL, *function = NULL, *repr = NULL;
    char numbers[PY_TYPES_REF_WORDS * 21 + 1] = "";
    size_t len = 0;

    py_types_parts_of(self, &parts);
    name = py_types_atom_shown(parts.kind == PY_TYPES_FUN ? &parts.module : &parts.node);
    if (!name)
        goto out;
    if (parts.kind == PY_TYPES_FUN && !parts.closure) {
        function = py_types_atom_shown(&parts.function);
        if (function)
            repr = PyUnicode_FromFormat("Fun<%U:%U/%d>", name, function, (int)parts.numbers[0]);
        goto out;
    }
    /* Erlang prints the last word of a reference first. */
    for (int i = 0; i < parts.count; i++)
        len +=
            (size_t)snprintf(numbers + len, sizeof numbers - len, ".%" PRIu64,
                             parts.numbers[parts.kind == PY_TYPES_REF ? parts.count - 1 - i : i]);
    if (parts.kind == PY_TYPES_FUN)
        repr = PyUnicode_FromFormat("Fun<%U.%llu/%d>", name, (unsigned long long)parts.numbers[1],
                                    (int)parts.numbers[0]);
    else
        repr = PyUnicode_FromFormat("%s<%U%s>",
                                    parts.kind == PY_TYPES_PID   ? "Pid"
                                    : parts.kind == PY_TYPES_REF ? "Ref"
                                                                 : "Port",
                                    name, numbers);
out:
    Py_XDECREF(name);
    Py_XDECREF(function);
    return repr;
}

static void py_types_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);

    type->tp_free(self);
    Py_DECREF(type);
}

/* They never change, so a copy is the object itself. */
static PyObject *py_types_copy(PyObject *self, PyObject *Py_UNUSED(memo)) {
    return Py_NewRef(self);
}

/* Which part an attribute shows, in the closure of its getter. */
enum py_types_field {
    PY_TYPES_NODE,
    PY_TYPES_MODULE,
    PY_TYPES_FUNCTION,
    PY_TYPES_CREATION,
    PY_TYPES_NUMBER_0,
    PY_TYPES_NUMBER_1,
    PY_TYPES_WORDS,
};

static PyObject *py_types_get_atom(const struct py_types_name *atom) {
    uint8_t room[2 * PY_ATOM_CHARS];

    if (!atom->text.data)
        Py_RETURN_NONE;
    return py_atom_intern(py_types_atom_utf8(atom, room));
}

static PyObject *py_types_get_words(const struct py_types_parts *parts) {
    PyObject *words = PyTuple_New(parts->count), *word;

    for (int i = 0; words && i < parts->count; i++) {
        word = PyLong_FromUnsignedLongLong(parts->numbers[i]);
        if (word)
            PyTuple_SET_ITEM(words, i, word); /* steals */
        else
            Py_CLEAR(words);
    }
    return words;
}

static PyObject *py_types_get(PyObject *self, void *field) {
    struct py_types_parts parts;

    py_types_parts_of(self, &parts);
    switch ((enum py_types_field)(uintptr_t)field) {
    case PY_TYPES_NODE:
        return py_types_get_atom(&parts.node);
    case PY_TYPES_MODULE:
        return py_types_get_atom(&parts.module);
    case PY_TYPES_FUNCTION:
        return py_types_get_atom(&parts.function);
    case PY_TYPES_CREATION:
        return PyLong_FromUnsignedLong(parts.creation);
    case PY_TYPES_NUMBER_0:
        return PyLong_FromUnsignedLongLong(parts.numbers[0]);
    case PY_TYPES_NUMBER_1:
        return PyLong_FromUnsignedLongLong(parts.numbers[1]);
    case PY_TYPES_WORDS:
        return py_types_get_words(&parts);
    }
    Py_UNREACHABLE();
}

/* The releases of clang-format disagree about these. */
/* clang-format off */
#define PY_TYPES_FIELD(name, field, doc) \
    { name, py_types_get, NULL, doc, (void *)(uintptr_t)(field) }
#define PY_TYPES_FIELD_NODE PY_TYPES_FIELD("node", PY_TYPES_NODE, "Name of its node, an Atom.")
#define PY_TYPES_FIELD_CREATION \
    PY_TYPES_FIELD("creation", PY_TYPES_CREATION, "Which incarnation of the node made it.")
#define PY_TYPES_FIELD_END \
    { NULL, NULL, NULL, NULL, NULL }
/* clang-format on */

static PyGetSetDef py_types_pid_fields[] = {
    PY_TYPES_FIELD_NODE,
    PY_TYPES_FIELD("id", PY_TYPES_NUMBER_0, "Its first number, as <node.id.serial>."),
    PY_TYPES_FIELD("serial", PY_TYPES_NUMBER_1, "Its second number."),
    PY_TYPES_FIELD_CREATION,
    PY_TYPES_FIELD_END,
};

static PyGetSetDef py_types_ref_fields[] = {
    PY_TYPES_FIELD_NODE,
    PY_TYPES_FIELD("id", PY_TYPES_WORDS, "Its numbers, a tuple."),
    PY_TYPES_FIELD_CREATION,
    PY_TYPES_FIELD_END,
};

static PyGetSetDef py_types_port_fields[] = {
    PY_TYPES_FIELD_NODE,
    PY_TYPES_FIELD("id", PY_TYPES_NUMBER_0, "Its number."),
    PY_TYPES_FIELD_CREATION,
    PY_TYPES_FIELD_END,
};

static PyGetSetDef py_types_fun_fields[] = {
    PY_TYPES_FIELD("node", PY_TYPES_NODE, "Where a closure was made; None for fun M:F/A."),
    PY_TYPES_FIELD("module", PY_TYPES_MODULE, "Its module, an Atom."),
    PY_TYPES_FIELD("function", PY_TYPES_FUNCTION, "F of fun M:F/A; None for a closure."),
    PY_TYPES_FIELD("arity", PY_TYPES_NUMBER_0, "How many arguments it takes."),
    PY_TYPES_FIELD_END,
};

/* For pickle: what erlang.types makes the same term of, in a node and outside. */
static PyObject *py_types_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    struct slice encoded;
    PyObject *module, *unpickle, *bytes = NULL, *reduced = NULL;

    if (!py_types_slice(self, &encoded))
        return NULL;
    module = PyImport_ImportModule("erlang.types");
    unpickle = module ? PyObject_GetAttrString(module, "unpickle") : NULL;
    if (unpickle)
        bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)encoded.len + 1);
    if (bytes) {
        PyBytes_AS_STRING(bytes)[0] = (char)ETF_VERSION;
        memcpy(PyBytes_AS_STRING(bytes) + 1, encoded.data, encoded.len);
        reduced = Py_BuildValue("(O(O))", unpickle, bytes);
    }
    Py_XDECREF(module);
    Py_XDECREF(unpickle);
    Py_XDECREF(bytes);
    return reduced;
}

static PyMethodDef py_types_methods[] = {
    {"__reduce__", py_types_reduce, METH_NOARGS, NULL},
    {"__copy__", py_types_copy, METH_NOARGS, NULL},
    {"__deepcopy__", py_types_copy, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define PY_TYPES_SPEC(kind, title, text)                                                       \
    static PyType_Slot py_types_##kind##_slots[] = {                                           \
        {Py_tp_doc, (void *)(text)},           {Py_tp_dealloc, py_types_dealloc},              \
        {Py_tp_repr, py_types_repr},           {Py_tp_hash, py_types_hash},                    \
        {Py_tp_richcompare, py_types_compare}, {Py_tp_getset, py_types_##kind##_fields},       \
        {Py_tp_methods, py_types_methods},     {0, NULL},                                      \
    };                                                                                         \
    static PyType_Spec py_types_##kind##_spec = {                                              \
        .name = "erlang." title,                                                               \
        .basicsize = offsetof(PyOpaqueObject, encoded),                                        \
        .itemsize = 1,                                                                         \
        .flags =                                                                               \
            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, \
        .slots = py_types_##kind##_slots,                                                      \
    }

PY_TYPES_SPEC(pid, "Pid", "An Erlang process identifier; it goes back to Erlang unchanged.");
PY_TYPES_SPEC(ref, "Ref", "An Erlang reference; it goes back to Erlang unchanged.");
PY_TYPES_SPEC(port, "Port", "An Erlang port identifier; it goes back to Erlang unchanged.");
PY_TYPES_SPEC(fun, "Fun", "An Erlang fun; it goes back to Erlang unchanged.");

/* Bitstring */

static PyObject *py_types_bits_new(PyTypeObject *type, struct slice data, int bits) {
    PyBitstringObject *self = (PyBitstringObject *)type->tp_alloc(type, (Py_ssize_t)data.len);

    if (!self)
        return NULL;
    self->bits = bits;
    if (data.len > 0) {
        memcpy(self->data, data.data, data.len);
        self->data[data.len - 1] &= (uint8_t)(0xFF << (8 - bits));
    }
    return (PyObject *)self;
}

PyObject *py_types_bits(struct slice data, int bits) {
    return py_types_bits_new(py_types_bitstring, data, bits);
}

struct slice py_types_bits_data(PyObject *obj, int *bits) {
    *bits = ((PyBitstringObject *)obj)->bits;
    return (struct slice){((PyBitstringObject *)obj)->data, (size_t)Py_SIZE(obj)};
}

/* Bitstring(data, bits=8) */
static PyObject *py_types_bits_call(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "bits", NULL};
    PyObject *self = NULL;
    Py_buffer data;
    int bits = 8;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|i:Bitstring", names, &data, &bits))
        return NULL;
    if (bits < 1 || bits > 8)
        PyErr_SetString(PyExc_ValueError, "Bitstring: bits of the last byte must be 1 to 8");
    else if (data.len == 0 && bits != 8)
        PyErr_SetString(PyExc_ValueError, "Bitstring: there is no last byte");
    else
        self = py_types_bits_new(type, (struct slice){data.buf, (size_t)data.len}, bits);
    PyBuffer_Release(&data);
    return self;
}

static PyObject *py_types_bits_bytes(PyObject *self, void *Py_UNUSED(closure)) {
    PyBitstringObject *bits = (PyBitstringObject *)self;

    return PyBytes_FromStringAndSize((const char *)bits->data, Py_SIZE(self));
}

static PyObject *py_types_bits_bits(PyObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromLong(((PyBitstringObject *)self)->bits);
}

static PyObject *py_types_bits_size(PyObject *self, void *Py_UNUSED(closure)) {
    Py_ssize_t n = Py_SIZE(self);

    return PyLong_FromSsize_t(n == 0 ? 0 : (n - 1) * 8 + ((PyBitstringObject *)self)->bits);
}

static PyObject *py_types_bits_repr(PyObject *self) {
    PyObject *data = py_types_bits_bytes(self, NULL), *repr;

    repr = data ? PyUnicode_FromFormat("Bitstring(%R, %d)", data, ((PyBitstringObject *)self)->bits)
                : NULL;
    Py_XDECREF(data);
    return repr;
}

static PyObject *py_types_bits_compare(PyObject *a, PyObject *b, int op) {
    PyBitstringObject *x = (PyBitstringObject *)a, *y = (PyBitstringObject *)b;
    bool equal;

    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(a) != Py_TYPE(b))
        Py_RETURN_NOTIMPLEMENTED;
    equal = Py_SIZE(a) == Py_SIZE(b) && x->bits == y->bits &&
            memcmp(x->data, y->data, (size_t)Py_SIZE(a)) == 0;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static Py_hash_t py_types_bits_hash(PyObject *self) {
    PyBitstringObject *bits = (PyBitstringObject *)self;
    uint64_t hash = 0xCBF29CE484222325u + (uint64_t)bits->bits;

    return py_types_hash_end(py_types_mix(hash, bits->data, (size_t)Py_SIZE(self)));
}

static PyObject *py_types_bits_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *data = py_types_bits_bytes(self, NULL), *pair;

    pair = data ? Py_BuildValue("(O(Oi))", Py_TYPE(self), data, ((PyBitstringObject *)self)->bits)
                : NULL;
    Py_XDECREF(data);
    return pair;
}

static PyMethodDef py_types_bits_methods[] = {
    {"__reduce__", py_types_bits_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef py_types_bits_fields[] = {
    {"data", py_types_bits_bytes, NULL, "Its bytes; what is not used of the last is zero.", NULL},
    {"bits", py_types_bits_bits, NULL, "How many bits of the last byte count, from the top.", NULL},
    {"bit_size", py_types_bits_size, NULL, "How many bits it has.", NULL},
    PY_TYPES_FIELD_END,
};

PyDoc_STRVAR(py_types_bits_doc,
             "Bitstring(data, bits=8)\n--\n\n"
             "An Erlang bitstring: bytes, of the last of which only the upper bits count.\n\n"
             ">>> Bitstring(b'\\xff', 3)\n"
             "Bitstring(b'\\xe0', 3)\n"
             ">>> Bitstring(b'ab', 4).bit_size\n"
             "12\n");

static PyType_Slot py_types_bits_slots[] = {
    {Py_tp_doc, (void *)py_types_bits_doc},
    {Py_tp_new, py_types_bits_call},
    {Py_tp_dealloc, py_types_dealloc},
    {Py_tp_repr, py_types_bits_repr},
    {Py_tp_hash, py_types_bits_hash},
    {Py_tp_richcompare, py_types_bits_compare},
    {Py_tp_getset, py_types_bits_fields},
    {Py_tp_methods, py_types_bits_methods},
    {0, NULL},
};

static PyType_Spec py_types_bits_spec = {
    .name = "erlang.Bitstring",
    .basicsize = offsetof(PyBitstringObject, data),
    .itemsize = 1,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = py_types_bits_slots,
};

/* Makes one type and adds it to the module. */
static PyTypeObject *py_types_make(PyObject *module, PyType_Spec *spec, PyObject *base) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);

    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

int py_types_add(PyObject *module) {
    PyTypeObject **kinds = py_types_kinds;

    py_types_atom = py_types_make(module, &py_types_atom_spec, (PyObject *)&PyUnicode_Type);
    py_types_bitstring = py_types_make(module, &py_types_bits_spec, NULL);
    kinds[PY_TYPES_PID] = py_types_make(module, &py_types_pid_spec, NULL);
    kinds[PY_TYPES_REF] = py_types_make(module, &py_types_ref_spec, NULL);
    kinds[PY_TYPES_PORT] = py_types_make(module, &py_types_port_spec, NULL);
    kinds[PY_TYPES_FUN] = py_types_make(module, &py_types_fun_spec, NULL);
    if (!py_types_atom || !py_types_bitstring || !kinds[PY_TYPES_PID] || !kinds[PY_TYPES_REF] ||
        !kinds[PY_TYPES_PORT] || !kinds[PY_TYPES_FUN])
        return -1;
    return 0;
}
