/* py_decode.c - the external term format to Python objects, in one pass.
 *
 * Every function that reads answers NULL/-1 either with an exception set or with an error noted
 * in the place; py_decode() makes an exception of the latter. A failed read may leave the position
 * anywhere.
 */
#include "config.h"

#include "py_atom.h"
#include "py_decode.h"
#include "py_place.h"
#include "py_types.h"
#include "utf8.h"

#include <math.h>

enum {
    PY_DECODE_BIG = 524280, /* bytes of the longest integer that every BEAM takes */
    PY_DECODE_KEYS = 4096,  /* slots; a power of two */
    PY_DECODE_KEY = 32,     /* bytes of the longest key that is kept */
};

struct py_decode {
    const uint8_t *p;
    const uint8_t *end;
    size_t pending; /* terms that outer containers still expect, each a byte at least */
    size_t items;
    int depth;
    bool strings_as_bytes;
    struct py_place place;
};

struct py_decode_settings py_decode_settings = {
    .strings_as_bytes = false,
    .max_depth = 512,
    .max_items = 64u << 20,
};

/* Keys of maps that came lately. Maps of one kind have the same keys, and a str that is there
 * already costs neither memory nor, its hash being known, a hash. Kept till the process ends. */
static PyObject *py_decode_keys[PY_DECODE_KEYS];

static PyObject *py_decode_term(struct py_decode *d);

static inline size_t py_decode_left(const struct py_decode *d) {
    return (size_t)(d->end - d->p);
}

static PyObject *py_decode_bad(struct py_decode *d, const char *text) {
    py_place_error(&d->place, PyExc_ValueError, "%s", text);
    return NULL;
}

static PyObject *py_decode_truncated(struct py_decode *d) {
    return py_decode_bad(d, "the term is truncated");
}

/* Holds n more terms to come against what is left, before memory is taken for them. */
static int py_decode_expect(struct py_decode *d, size_t n) {
    if (n > py_decode_left(d) || d->pending > py_decode_left(d) - n) {
        py_decode_truncated(d);
        return -1;
    }
    if (n > py_decode_settings.max_items - d->items) {
        py_place_error(&d->place, PyExc_ValueError, "more than %zu items in one term",
                       py_decode_settings.max_items);
        return -1;
    }
    d->items += n;
    d->pending += n;
    return 0;
}

/* One level down, for n terms. Its pair is py_decode_leave(), on success as on failure. */
static int py_decode_enter(struct py_decode *d, size_t n) {
    if (d->depth >= py_decode_settings.max_depth) {
        py_place_error(&d->place, PyExc_ValueError, "nested deeper than %d levels",
                       py_decode_settings.max_depth);
        return -1;
    }
    if (py_decode_expect(d, n) < 0)
        return -1;
    d->depth++;
    return 0;
}

static inline void py_decode_leave(struct py_decode *d) {
    d->depth--;
}

/* Numbers */

/* Little endian magnitude of any length. */
static PyObject *py_decode_magnitude(const uint8_t *p, size_t n) {
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_FromNativeBytes(
        p, n, Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER);
#else
    return _PyLong_FromByteArray(p, n, 1, 0);
#endif
}

/* SMALL_BIG and LARGE_BIG: n bytes after a sign, little endian. */
static PyObject *py_decode_big(struct py_decode *d, size_t n) {
    PyObject *value, *negative;
    uint64_t magnitude = 0;
    uint8_t sign;

    if (n >= py_decode_left(d))
        return py_decode_truncated(d);
    if (n > PY_DECODE_BIG)
        return py_decode_bad(d, "the integer is too large");
    sign = *d->p;
    if (n <= 8) {
        for (size_t i = n; i > 0; i--)
            magnitude = magnitude << 8 | d->p[i];
        d->p += 1 + n;
        if (!sign)
            return PyLong_FromUnsignedLongLong(magnitude);
        if (magnitude <= INT64_MAX)
            return PyLong_FromLongLong(-(int64_t)magnitude);
        value = PyLong_FromUnsignedLongLong(magnitude);
    } else {
        value = py_decode_magnitude(d->p + 1, n);
        d->p += 1 + n;
    }
    if (!value || !sign)
        return value;
    negative = PyNumber_Negative(value);
    Py_DECREF(value);
    return negative;
}

static PyObject *py_decode_double(struct py_decode *d, double value) {
    if (!isfinite(value))
        return py_decode_bad(d, "the float is not finite");
    return PyFloat_FromDouble(value);
}

static PyObject *py_decode_new_float(struct py_decode *d) {
    uint64_t bits;
    double value;

    if (py_decode_left(d) < 8)
        return py_decode_truncated(d);
    bits = etf_be64(d->p);
    d->p += 8;
    memcpy(&value, &bits, sizeof value);
    return py_decode_double(d, value);
}

/* FLOAT_EXT: 31 bytes of text, padded with zeros. Python's own reader, since strtod(3) heeds the
 * locale. */
static PyObject *py_decode_old_float(struct py_decode *d) {
    char text[32] = "";
    double value;

    if (py_decode_left(d) < 31)
        return py_decode_truncated(d);
    memcpy(text, d->p, 31);
    d->p += 31;
    value = PyOS_string_to_double(text, NULL, NULL);
    if (value == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError))
            return NULL;
        PyErr_Clear();
        return py_decode_bad(d, "malformed float");
    }
    return py_decode_double(d, value);
}

/* Atoms and binaries */

static PyObject *py_decode_atom(struct py_decode *d, size_t n, bool latin1) {
    uint8_t room[2 * PY_ATOM_CHARS];
    struct slice name = {d->p, n};
    PyObject *atom;

    if (n > py_decode_left(d))
        return py_decode_truncated(d);
    d->p += n;
    if (latin1) {
        if (n > PY_ATOM_CHARS)
            return py_decode_bad(d, "atom is longer than 255 characters");
        name = (struct slice){room, utf8_from_latin1(room, name.data, n)};
    }
    atom = py_atom_decode(name);
    if (!atom)
        py_place_take(&d->place);
    return atom;
}

static PyObject *py_decode_bytes(const uint8_t *p, size_t n) {
    return PyBytes_FromStringAndSize((const char *)p, (Py_ssize_t)n);
}

/* A str if the bytes are UTF-8. Looked at first: letting Python find out by an exception would copy
 * a large binary once more. */
static PyObject *py_decode_text(const uint8_t *p, size_t n) {
    PyObject *text;

    if (n > 1 && utf8_ascii(p, n) == n) {
        text = PyUnicode_New((Py_ssize_t)n, 127);
        if (text)
            memcpy(PyUnicode_1BYTE_DATA(text), p, n);
        return text;
    }
    if (utf8_count(p, n) < 0)
        return py_decode_bytes(p, n);
    return PyUnicode_DecodeUTF8((const char *)p, (Py_ssize_t)n, NULL);
}

/* BINARY_EXT behind its tag. */
static PyObject *py_decode_binary(struct py_decode *d, bool as_bytes) {
    const uint8_t *data;
    size_t n;

    if (py_decode_left(d) < 4)
        return py_decode_truncated(d);
    n = etf_be32(d->p);
    d->p += 4;
    if (n > py_decode_left(d))
        return py_decode_truncated(d);
    data = d->p;
    d->p += n;
    return as_bytes ? py_decode_bytes(data, n) : py_decode_text(data, n);
}

static PyObject *py_decode_bits(struct py_decode *d) {
    const uint8_t *data;
    int bits;
    size_t n;

    if (py_decode_left(d) < 5)
        return py_decode_truncated(d);
    n = etf_be32(d->p);
    bits = d->p[4];
    d->p += 5;
    if (n > py_decode_left(d))
        return py_decode_truncated(d);
    if (bits > 8 || (bits == 0) != (n == 0))
        return py_decode_bad(d, "malformed bitstring");
    data = d->p;
    d->p += n;
    if (bits == 0 || bits == 8)
        return d->strings_as_bytes ? py_decode_bytes(data, n) : py_decode_text(data, n);
    return py_types_bits((struct slice){data, n}, bits);
}

/* Containers */

/* STRING_EXT: a list of small integers. */
static PyObject *py_decode_string(struct py_decode *d) {
    PyObject *list, *item;
    size_t n;

    if (py_decode_left(d) < 2)
        return py_decode_truncated(d);
    n = etf_be16(d->p);
    d->p += 2;
    if (py_decode_enter(d, n) < 0)
        return NULL;
    py_decode_leave(d);
    d->pending -= n;
    list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        item = PyLong_FromLong(*d->p++);
        if (item)
            PyList_SET_ITEM(list, (Py_ssize_t)i, item); /* steals */
        else
            Py_CLEAR(list);
    }
    return list;
}

/* Fills the list with the integers of up to four bytes that come next; answers where it stopped.
 * Long lists of them are the rule, and this spares a call and a switch for each. */
static size_t py_decode_integers(struct py_decode *d, PyObject *list, size_t i, size_t n) {
    const uint8_t *p = d->p, *end = d->end;
    PyObject *item;

    while (i < n && end - p >= 5) {
        if (p[0] == ETF_INTEGER) {
            item = PyLong_FromLong((int32_t)etf_be32(p + 1));
            p += 5;
        } else if (p[0] == ETF_SMALL_INTEGER) {
            item = PyLong_FromLong(p[1]);
            p += 2;
        } else {
            break;
        }
        if (!item) { /* no memory: py_decode_term() will say so for this very item */
            PyErr_Clear();
            return i;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item); /* steals */
        i++;
        d->p = p;
        d->pending--;
    }
    return i;
}

/* LIST_EXT's elements and tail, one level down already. */
static PyObject *py_decode_list_items(struct py_decode *d, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n), *item;

    for (size_t i = 0; list && i < n; i++) {
        i = py_decode_integers(d, list, i, n);
        if (i == n)
            break;
        d->pending--;
        item = py_decode_term(d);
        if (!item) {
            py_place_index(&d->place, i);
            Py_CLEAR(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item); /* steals */
    }
    if (!list)
        return NULL;
    d->pending--;
    if (py_decode_left(d) == 0) {
        py_decode_truncated(d);
        Py_CLEAR(list);
    } else if (*d->p++ != ETF_NIL) {
        py_place_error(&d->place, PyExc_TypeError, "an improper list has no Python form");
        Py_CLEAR(list);
    }
    return list;
}

static PyObject *py_decode_list(struct py_decode *d) {
    PyObject *list;
    size_t n;

    if (py_decode_left(d) < 4)
        return py_decode_truncated(d);
    n = etf_be32(d->p);
    d->p += 4;
    if (n >= py_decode_left(d)) /* the tail is a term too */
        return py_decode_truncated(d);
    if (py_decode_enter(d, n + 1) < 0)
        return NULL;
    list = py_decode_list_items(d, n);
    py_decode_leave(d);
    return list;
}

/* Whether the pair at the position is {bytes, Binary}; if so, the position is then at the binary,
 * behind its tag. */
static bool py_decode_is_bytes(struct py_decode *d) {
    struct etf r = {d->p, d->end};
    struct slice name;

    if (etf_get_atom(&r, &name) < 0 || !etf_atom_is(name, "bytes") || etf_left(&r) == 0 ||
        r.p[0] != ETF_BINARY)
        return false;
    d->p = r.p + 1;
    return true;
}

static PyObject *py_decode_tuple(struct py_decode *d, size_t n) {
    PyObject *tuple, *item;

    if (n == 2 && py_decode_is_bytes(d))
        return py_decode_binary(d, true);
    if (py_decode_enter(d, n) < 0)
        return NULL;
    tuple = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; tuple && i < n; i++) {
        d->pending--;
        item = py_decode_term(d);
        if (item) {
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item); /* steals */
        } else {
            py_place_index(&d->place, i);
            Py_CLEAR(tuple);
        }
    }
    py_decode_leave(d);
    return tuple;
}

/* Maps */

static PyObject *py_decode_freeze(PyObject *object);

/* New tuple of a list's or tuple's elements, each hashable. */
static PyObject *py_decode_freeze_items(PyObject *items) {
    Py_ssize_t n = PySequence_Fast_GET_SIZE(items);
    PyObject *tuple = PyTuple_New(n), *item;

    for (Py_ssize_t i = 0; tuple && i < n; i++) {
        item = py_decode_freeze(PySequence_Fast_GET_ITEM(items, i)); /* borrowed */
        if (item)
            PyTuple_SET_ITEM(tuple, i, item); /* steals */
        else
            Py_CLEAR(tuple);
    }
    return tuple;
}

/* Sorts pairs whose keys Python cannot compare by what the keys look like: any order will do, as
 * long as equal maps give equal tuples. */
static int py_decode_sort_mixed(PyObject *pairs) {
    PyObject *item, *pair, *repr;
    Py_ssize_t n = PyList_GET_SIZE(pairs);

    for (Py_ssize_t i = 0; i < n; i++) {
        pair = PyList_GET_ITEM(pairs, i); /* borrowed */
        repr = PyObject_Repr(PyTuple_GET_ITEM(pair, 0));
        item = repr ? PyTuple_Pack(2, repr, pair) : NULL;
        Py_XDECREF(repr);
        if (!item || PyList_SetItem(pairs, i, item) < 0) /* steals */
            return -1;
    }
    if (PyList_Sort(pairs) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        item = PyList_GET_ITEM(pairs, i);                                       /* borrowed */
        if (PyList_SetItem(pairs, i, Py_NewRef(PyTuple_GET_ITEM(item, 1))) < 0) /* steals */
            return -1;
    }
    return 0;
}

/* New sorted tuple of a dict's pairs, each hashable. */
static PyObject *py_decode_freeze_dict(PyObject *dict) {
    PyObject *pairs = PyList_New(0), *key, *value, *frozen, *pair, *tuple = NULL;
    Py_ssize_t pos = 0;

    if (!pairs)
        return NULL;
    while (PyDict_Next(dict, &pos, &key, &value)) { /* borrowed; the dict is not shared yet */
        frozen = py_decode_freeze(value);
        pair = frozen ? PyTuple_Pack(2, key, frozen) : NULL;
        Py_XDECREF(frozen);
        if (!pair || PyList_Append(pairs, pair) < 0) {
            Py_XDECREF(pair);
            goto out;
        }
        Py_DECREF(pair);
    }
    if (PyList_Sort(pairs) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            goto out;
        PyErr_Clear();
        if (py_decode_sort_mixed(pairs) < 0)
            goto out;
    }
    tuple = PyList_AsTuple(pairs);
out:
    Py_DECREF(pairs);
    return tuple;
}

/* New reference to something hashable that stands for the object in a key. Recurses no deeper than
 * decoding did. */
static PyObject *py_decode_freeze(PyObject *object) {
    if (PyList_CheckExact(object) || PyTuple_CheckExact(object))
        return py_decode_freeze_items(object);
    if (PyDict_CheckExact(object))
        return py_decode_freeze_dict(object);
    return Py_NewRef(object);
}

/* Where a key is kept, if it is. */
static PyObject **py_decode_key_slot(const uint8_t *p, size_t n) {
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    uint64_t hash = n, word;

    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        hash = (hash ^ word) * odd;
        hash ^= hash >> 32;
    }
    for (word = 0; n > 0; n--)
        word = word << 8 | *p++;
    hash = (hash ^ word) * odd;
    return &py_decode_keys[hash >> 52];
}

/* A short binary as a key: mostly one that came before. */
static PyObject *py_decode_key_text(struct py_decode *d, size_t n) {
    const uint8_t *p = d->p + 5;
    PyObject **slot = py_decode_key_slot(p, n), *key = *slot;

    if (!key || (size_t)PyUnicode_GET_LENGTH(key) != n ||
        memcmp(PyUnicode_1BYTE_DATA(key), p, n) != 0) {
        key = py_decode_text(p, n);
        if (!key)
            return NULL;
        if (PyUnicode_Check(key) && PyUnicode_IS_ASCII(key))
            Py_XSETREF(*slot, Py_NewRef(key));
    } else {
        Py_INCREF(key);
    }
    d->p = p + n;
    return key;
}

/* Whether the next term is a short binary that will be a str; if so, its length. */
static bool py_decode_is_short(const struct py_decode *d, size_t *n) {
    if (py_decode_left(d) < 5 || d->p[0] != ETF_BINARY || d->strings_as_bytes)
        return false;
    *n = etf_be32(d->p + 1);
    return *n <= PY_DECODE_KEY && *n <= py_decode_left(d) - 5;
}

/* The next term as a key. */
static PyObject *py_decode_key(struct py_decode *d) {
    PyObject *key, *frozen;
    size_t n;

    if (py_decode_is_short(d, &n))
        return py_decode_key_text(d, n);
    key = py_decode_term(d);
    if (!key) {
        py_place_step(&d->place, " key");
        return NULL;
    }
    if (!PyList_CheckExact(key) && !PyTuple_CheckExact(key) && !PyDict_CheckExact(key))
        return key;
    frozen = py_decode_freeze(key);
    Py_DECREF(key);
    return frozen;
}

/* Reads one pair into the dict. */
static int py_decode_pair(struct py_decode *d, PyObject *dict) {
    PyObject *key, *value = NULL;
    Py_ssize_t before = PyDict_GET_SIZE(dict);
    int status = -1;

    d->pending--;
    key = py_decode_key(d);
    if (!key)
        return -1;
    d->pending--;
    value = py_decode_term(d);
    if (!value) {
        py_place_key(&d->place, key);
        goto out;
    }
    if (PyDict_SetItem(dict, key, value) < 0)
        goto out;
    if (PyDict_GET_SIZE(dict) == before) {
        py_decode_bad(d, "two keys of the map are equal in Python");
        py_place_key(&d->place, key);
        goto out;
    }
    status = 0;
out:
    Py_DECREF(key);
    Py_XDECREF(value);
    return status;
}

static PyObject *py_decode_map(struct py_decode *d) {
    PyObject *dict;
    size_t n;

    if (py_decode_left(d) < 4)
        return py_decode_truncated(d);
    n = etf_be32(d->p);
    d->p += 4;
    if (n > py_decode_left(d) / 2)
        return py_decode_truncated(d);
    if (py_decode_enter(d, 2 * n) < 0)
        return NULL;
    dict = PyDict_New();
    for (size_t i = 0; dict && i < n; i++)
        if (py_decode_pair(d, dict) < 0)
            Py_CLEAR(dict);
    py_decode_leave(d);
    return dict;
}

/* A pid, reference, port or fun, whose tag has just been read. */
static PyObject *py_decode_opaque(struct py_decode *d) {
    struct etf r = {d->p - 1, d->end};
    PyObject *object = py_types_read(&r);

    d->p = r.p;
    if (!object)
        py_place_take(&d->place);
    return object;
}

/* Whether n bytes of a head are there. */
#define PY_DECODE_NEED(d, n)               \
    do {                                   \
        if (py_decode_left(d) < (n))       \
            return py_decode_truncated(d); \
    } while (0)

static PyObject *py_decode_term(struct py_decode *d) {
    uint32_t n;
    uint8_t tag;

    PY_DECODE_NEED(d, 1);
    tag = *d->p++;
    switch (tag) {
    case ETF_SMALL_INTEGER:
        PY_DECODE_NEED(d, 1);
        return PyLong_FromLong(*d->p++);
    case ETF_INTEGER:
        PY_DECODE_NEED(d, 4);
        n = etf_be32(d->p);
        d->p += 4;
        return PyLong_FromLong((int32_t)n);
    case ETF_NEW_FLOAT:
        return py_decode_new_float(d);
    case ETF_FLOAT:
        return py_decode_old_float(d);
    case ETF_SMALL_ATOM_UTF8:
    case ETF_SMALL_ATOM:
        PY_DECODE_NEED(d, 1);
        n = *d->p++;
        return py_decode_atom(d, n, tag == ETF_SMALL_ATOM);
    case ETF_ATOM_UTF8:
    case ETF_ATOM:
        PY_DECODE_NEED(d, 2);
        n = etf_be16(d->p);
        d->p += 2;
        return py_decode_atom(d, n, tag == ETF_ATOM);
    case ETF_BINARY:
        return py_decode_binary(d, d->strings_as_bytes);
    case ETF_BIT_BINARY:
        return py_decode_bits(d);
    case ETF_NIL:
        return PyList_New(0);
    case ETF_STRING:
        return py_decode_string(d);
    case ETF_LIST:
        return py_decode_list(d);
    case ETF_SMALL_TUPLE:
        PY_DECODE_NEED(d, 1);
        n = *d->p++;
        return py_decode_tuple(d, n);
    case ETF_LARGE_TUPLE:
        PY_DECODE_NEED(d, 4);
        n = etf_be32(d->p);
        d->p += 4;
        return py_decode_tuple(d, n);
    case ETF_MAP:
        return py_decode_map(d);
    case ETF_SMALL_BIG:
        PY_DECODE_NEED(d, 1);
        n = *d->p++;
        return py_decode_big(d, n);
    case ETF_LARGE_BIG:
        PY_DECODE_NEED(d, 4);
        n = etf_be32(d->p);
        d->p += 4;
        return py_decode_big(d, n);
    case ETF_NEW_PID:
    case ETF_PID:
    case ETF_NEWER_REF:
    case ETF_NEW_REFERENCE:
    case ETF_REFERENCE:
    case ETF_V4_PORT:
    case ETF_NEW_PORT:
    case ETF_PORT:
    case ETF_NEW_FUN:
    case ETF_EXPORT:
        return py_decode_opaque(d);
    case ETF_COMPRESSED:
        return py_decode_bad(d, "compressed terms are not taken");
    default:
        py_place_error(&d->place, PyExc_ValueError, "unknown tag %d", tag);
        return NULL;
    }
}

PyObject *py_decode_as(struct etf *r, const char *root, bool strings_as_bytes) {
    struct py_decode d = {.p = r->p,
                          .end = r->end,
                          .strings_as_bytes = strings_as_bytes,
                          .place = {.root = root ? root : "term"}};
    PyObject *object = py_decode_term(&d);

    if (object)
        r->p = d.p;
    else
        py_place_raise(&d.place);
    return object;
}

PyObject *py_decode(struct etf *r, const char *root) {
    return py_decode_as(r, root, py_decode_settings.strings_as_bytes);
}
