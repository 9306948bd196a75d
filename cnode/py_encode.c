/* py_encode.c - Python objects to the external term format, in one pass.
 *
 * Every function that writes answers 0, or -1 either with an exception set or with an error noted
 * in the place; py_encode() makes an exception of the latter. What it refuses besides the
 * unconvertible is what a BEAM would close the connection for: equal keys, huge integers.
 */
#include "config.h"

#include "etf.h"
#include "py_atom.h"
#include "py_encode.h"
#include "py_place.h"
#include "py_types.h"

#include <math.h>

enum {
    PY_ENCODE_BIG = 524280,         /* bytes of the longest integer that every BEAM takes */
    PY_ENCODE_TUPLE = (1 << 24) - 1 /* elements of the longest tuple */
};

struct py_encode {
    struct buf *out;
    int depth;
    struct py_place place;
};

struct py_encode_settings py_encode_settings = {
    .none_atom = "none",
    .unconvertible_str = false,
    .max_depth = 512,
};

/* dict: type -> converter; NULL until the first is registered. */
static PyObject *py_encode_converters;

static int py_encode_term(struct py_encode *e, PyObject *obj);

static int py_encode_bad(struct py_encode *e, const char *text) {
    py_place_error(&e->place, PyExc_ValueError, "%s", text);
    return -1;
}

/* A converter, or another thread meanwhile, has changed what is being converted. */
static int py_encode_changed(struct py_encode *e, const char *what) {
    py_place_error(&e->place, PyExc_RuntimeError, "%s changed size during conversion", what);
    return -1;
}

/* Where the next n bytes go, or NULL with MemoryError. */
static inline uint8_t *py_encode_room(struct py_encode *e, size_t n) {
    if (buf_reserve(e->out, n) < 0) {
        PyErr_NoMemory();
        return NULL;
    }
    return e->out->data + e->out->len;
}

static inline void py_encode_be32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* A tag and a length of four bytes. */
static int py_encode_head(struct py_encode *e, uint8_t tag, size_t n) {
    uint8_t *p;

    if (n > UINT32_MAX)
        return py_encode_bad(e, "too large for an Erlang term");
    p = py_encode_room(e, 5);
    if (!p)
        return -1;
    p[0] = tag;
    py_encode_be32(p + 1, (uint32_t)n);
    e->out->len += 5;
    return 0;
}

/* Atoms, numbers */

static int py_encode_name(struct py_encode *e, const char *name, size_t n) {
    uint8_t *p = py_encode_room(e, 3 + n);
    size_t head = 2;

    if (!p)
        return -1;
    if (n <= 255) {
        p[0] = ETF_SMALL_ATOM_UTF8;
        p[1] = (uint8_t)n;
    } else {
        p[0] = ETF_ATOM_UTF8;
        p[1] = (uint8_t)(n >> 8);
        p[2] = (uint8_t)n;
        head = 3;
    }
    memcpy(p + head, name, n);
    e->out->len += head + n;
    return 0;
}

static int py_encode_atom(struct py_encode *e, PyObject *obj) {
    Py_ssize_t n;
    const char *name = PyUnicode_AsUTF8AndSize(obj, &n);

    return name ? py_encode_name(e, name, (size_t)n) : -1;
}

/* SMALL_BIG for what has at most eight bytes; big has the length that is needed, as the BEAM's. */
static int py_encode_small_big(struct py_encode *e, uint64_t magnitude, bool negative) {
    uint8_t *p = py_encode_room(e, 11);
    uint8_t n = 0;

    if (!p)
        return -1;
    for (; magnitude; magnitude >>= 8)
        p[3 + n++] = (uint8_t)magnitude;
    p[0] = ETF_SMALL_BIG;
    p[1] = n;
    p[2] = negative;
    e->out->len += 3u + n;
    return 0;
}

/* Writes the little endian magnitude of value (>= 0) into p, room for n bytes: 0/-1. */
static int py_encode_magnitude(PyObject *value, uint8_t *p, size_t n) {
#if PY_VERSION_HEX >= 0x030D0000
    Py_ssize_t need = PyLong_AsNativeBytes(
        value, p, (Py_ssize_t)n, Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER);

    return need < 0 ? -1 : 0;
#else
    return _PyLong_AsByteArray((PyLongObject *)value, p, n, 1, 0);
#endif
}

/* Bytes of the magnitude of value (>= 0), or -1 with an exception. */
static Py_ssize_t py_encode_magnitude_size(PyObject *value) {
    PyObject *bits = PyObject_CallMethod(value, "bit_length", NULL);
    Py_ssize_t n = bits ? PyLong_AsSsize_t(bits) : -1;

    Py_XDECREF(bits);
    return n < 0 ? -1 : n / 8 + (n % 8 != 0);
}

/* An integer of more than eight bytes. */
static int py_encode_large_big(struct py_encode *e, PyObject *obj, bool negative) {
    PyObject *value = PyLong_Type.tp_as_number->nb_absolute(obj);
    Py_ssize_t n = value ? py_encode_magnitude_size(value) : -1;
    size_t head = n > 255 ? 6 : 3;
    uint8_t *p = NULL;
    int status = -1;

    if (n > PY_ENCODE_BIG)
        py_encode_bad(e, "the integer is too large for Erlang");
    else if (n >= 0)
        p = py_encode_room(e, head + (size_t)n);
    if (p && py_encode_magnitude(value, p + head, (size_t)n) == 0) {
        if (head == 6) {
            p[0] = ETF_LARGE_BIG;
            py_encode_be32(p + 1, (uint32_t)n);
        } else {
            p[0] = ETF_SMALL_BIG;
            p[1] = (uint8_t)n;
        }
        p[head - 1] = negative;
        e->out->len += head + (size_t)n;
        status = 0;
    }
    Py_XDECREF(value);
    return status;
}

/* Writes an integer of at most 32 bits at p, which has room for 5 bytes; answers how many. */
static inline size_t py_encode_int32(uint8_t *p, long value) {
    if (value >= 0 && value <= 255) {
        p[0] = ETF_SMALL_INTEGER;
        p[1] = (uint8_t)value;
        return 2;
    }
    p[0] = ETF_INTEGER;
    py_encode_be32(p + 1, (uint32_t)value);
    return 5;
}

/* 1 and the value if obj (an exact int) is so small that Python keeps it in one digit of 30 bits,
 * which needs no call. */
static inline int py_encode_compact(PyObject *obj, long *value) {
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)obj))
        return 0;
    *value = (long)PyUnstable_Long_CompactValue((PyLongObject *)obj);
    return *value >= INT32_MIN && *value <= INT32_MAX;
#else
    Py_ssize_t size = Py_SIZE(obj);

    if (size < -1 || size > 1)
        return 0;
    *value = size == 0 ? 0 : (long)size * (long)((PyLongObject *)obj)->ob_digit[0];
    return 1;
#endif
}

/* Any int, also of a subclass. */
static int py_encode_int(struct py_encode *e, PyObject *obj) {
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(obj, &overflow);
    uint8_t *p;

    if (overflow)
        return py_encode_large_big(e, obj, overflow < 0);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < INT32_MIN || value > INT32_MAX)
        return py_encode_small_big(e, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
    p = py_encode_room(e, 5);
    if (!p)
        return -1;
    e->out->len += py_encode_int32(p, (long)value);
    return 0;
}

static int py_encode_float(struct py_encode *e, double value) {
    uint64_t bits;
    uint8_t *p;

    if (isnan(value))
        return py_encode_name(e, "nan", 3);
    if (isinf(value))
        return value > 0 ? py_encode_name(e, "infinity", 8) : py_encode_name(e, "neg_infinity", 12);
    p = py_encode_room(e, 9);
    if (!p)
        return -1;
    memcpy(&bits, &value, sizeof bits);
    p[0] = ETF_NEW_FLOAT;
    py_encode_be32(p + 1, (uint32_t)(bits >> 32));
    py_encode_be32(p + 5, (uint32_t)bits);
    e->out->len += 9;
    return 0;
}

static int py_encode_none(struct py_encode *e) {
    return py_encode_name(e, py_encode_settings.none_atom, strlen(py_encode_settings.none_atom));
}

/* Binaries */

/* The one place where large data is written. */
static int py_encode_binary(struct py_encode *e, const void *data, size_t n) {
    uint8_t *p;

    if (py_encode_head(e, ETF_BINARY, n) < 0)
        return -1;
    p = py_encode_room(e, n);
    if (!p)
        return -1;
    if (n > 0)
        memcpy(p, data, n);
    e->out->len += n;
    return 0;
}

/* Writes one character that is not ASCII; answers how many bytes, 0 for a surrogate. */
static size_t py_encode_char(uint8_t *p, Py_UCS4 c) {
    if (c < 0x800) {
        p[0] = (uint8_t)(0xC0 | c >> 6);
        p[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        if (c >= 0xD800 && c <= 0xDFFF)
            return 0;
        p[0] = (uint8_t)(0xE0 | c >> 12);
        p[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        p[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    p[0] = (uint8_t)(0xF0 | c >> 18);
    p[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    p[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    p[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

/* A str with more than ASCII in it. Written straight from its characters: Python's own UTF-8 would
 * stay with the str as a second copy. */
static int py_encode_wide(struct py_encode *e, PyObject *obj) {
    Py_ssize_t n = PyUnicode_GET_LENGTH(obj);
    int kind = (int)PyUnicode_KIND(obj);
    const void *data = PyUnicode_DATA(obj);
    size_t start = e->out->len, each = 4, len;
    uint8_t *p, *at;
    Py_UCS4 c;

    if (kind == PyUnicode_1BYTE_KIND)
        each = 2;
    else if (kind == PyUnicode_2BYTE_KIND)
        each = 3;
    if (py_encode_head(e, ETF_BINARY, (size_t)n) < 0) /* the length follows */
        return -1;
    p = at = py_encode_room(e, (size_t)n * each);
    if (!p)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        c = PyUnicode_READ(kind, data, i);
        if (c < 0x80) {
            *at++ = (uint8_t)c;
            continue;
        }
        len = py_encode_char(at, c);
        if (len == 0) {
            py_place_error(&e->place, PyExc_ValueError,
                           "the str has a lone surrogate at index %zd and no UTF-8 form", i);
            return -1;
        }
        at += len;
    }
    len = (size_t)(at - p);
    if (len > UINT32_MAX)
        return py_encode_bad(e, "too large for an Erlang term");
    py_encode_be32(e->out->data + start + 1, (uint32_t)len);
    e->out->len += len;
    return 0;
}

/* Any str, also of a subclass. */
static int py_encode_str(struct py_encode *e, PyObject *obj) {
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(obj) < 0)
        return -1;
#endif
    if (PyUnicode_IS_ASCII(obj))
        return py_encode_binary(e, PyUnicode_DATA(obj), (size_t)PyUnicode_GET_LENGTH(obj));
    return py_encode_wide(e, obj);
}

static int py_encode_bits(struct py_encode *e, PyObject *obj) {
    int bits;
    struct slice data = py_types_bits_data(obj, &bits);
    uint8_t *p;

    if (bits == 8)
        return py_encode_binary(e, data.data, data.len);
    if (py_encode_head(e, ETF_BIT_BINARY, data.len) < 0)
        return -1;
    p = py_encode_room(e, 1 + data.len);
    if (!p)
        return -1;
    p[0] = (uint8_t)bits;
    memcpy(p + 1, data.data, data.len);
    e->out->len += 1 + data.len;
    return 0;
}

/* Bytes that are the term already. */
static int py_encode_slice(struct py_encode *e, struct slice term) {
    uint8_t *p = py_encode_room(e, term.len);

    if (!p)
        return -1;
    memcpy(p, term.data, term.len);
    e->out->len += term.len;
    return 0;
}

/* Containers */

/* One level down. Its pair is py_encode_leave(), on success as on failure. */
static int py_encode_enter(struct py_encode *e) {
    if (e->depth >= py_encode_settings.max_depth) {
        py_place_error(&e->place, PyExc_ValueError, "nested deeper than %d levels",
                       py_encode_settings.max_depth);
        return -1;
    }
    e->depth++;
    return 0;
}

static inline void py_encode_leave(struct py_encode *e) {
    e->depth--;
}

/* Writes the small integers that come next in a list; answers where it stopped. No code of a user
 * runs meanwhile, so the list stays as it is. */
static Py_ssize_t py_encode_integers(struct py_encode *e, PyObject *list, Py_ssize_t i,
                                     Py_ssize_t n) {
    PyObject *item;
    uint8_t *p;
    long value;

    if (!PyLong_CheckExact(PyList_GET_ITEM(list, i)) ||
        buf_reserve(e->out, (size_t)(n - i) * 5) < 0)
        return i;
    p = e->out->data + e->out->len;
    for (; i < n; i++) {
        item = PyList_GET_ITEM(list, i); /* borrowed */
        if (!PyLong_CheckExact(item) || !py_encode_compact(item, &value))
            break;
        p += py_encode_int32(p, value);
    }
    e->out->len = (size_t)(p - e->out->data);
    return i;
}

static int py_encode_list(struct py_encode *e, PyObject *list) {
    Py_ssize_t n = PyList_GET_SIZE(list), i = 0;
    PyObject *item;
    uint8_t *p;
    int status;

    if (n > 0 && py_encode_head(e, ETF_LIST, (size_t)n) < 0)
        return -1;
    while (i < n) {
        i = py_encode_integers(e, list, i, n);
        if (i == n)
            break;
        item = Py_NewRef(PyList_GET_ITEM(list, i));
        status = py_encode_term(e, item);
        Py_DECREF(item);
        if (status < 0) {
            py_place_index(&e->place, (size_t)i);
            return -1;
        }
        if (PyList_GET_SIZE(list) != n) {
            return py_encode_changed(e, "list");
        }
        i++;
    }
    p = py_encode_room(e, 1);
    if (!p)
        return -1;
    *p = ETF_NIL;
    e->out->len++;
    return 0;
}

static int py_encode_tuple(struct py_encode *e, PyObject *tuple) {
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    uint8_t *p;

    if (n > PY_ENCODE_TUPLE)
        return py_encode_bad(e, "too large for an Erlang tuple");
    if (n > 255) {
        if (py_encode_head(e, ETF_LARGE_TUPLE, (size_t)n) < 0)
            return -1;
    } else {
        p = py_encode_room(e, 2);
        if (!p)
            return -1;
        p[0] = ETF_SMALL_TUPLE;
        p[1] = (uint8_t)n;
        e->out->len += 2;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (py_encode_term(e, PyTuple_GET_ITEM(tuple, i)) < 0) {
            py_place_index(&e->place, (size_t)i);
            return -1;
        }
    }
    return 0;
}

/* A set as a list, in its own order. Through its iterator, which notices a change. */
static int py_encode_set(struct py_encode *e, PyObject *set) {
    Py_ssize_t n = PySet_GET_SIZE(set), i = 0;
    PyObject *iterator = PySet_Type.tp_iter(set), *item;
    uint8_t *p;
    int status = -1;

    if (!iterator || (n > 0 && py_encode_head(e, ETF_LIST, (size_t)n) < 0))
        goto out;
    while ((item = PyIter_Next(iterator))) {
        status = i++ < n ? py_encode_term(e, item) : 0;
        Py_DECREF(item);
        if (status < 0) {
            py_place_step(&e->place, " item");
            goto out;
        }
    }
    status = -1;
    if (PyErr_Occurred())
        goto out;
    if (i != n) {
        py_encode_changed(e, "set");
        goto out;
    }
    p = py_encode_room(e, 1);
    if (!p)
        goto out;
    *p = ETF_NIL;
    e->out->len++;
    status = 0;
out:
    Py_XDECREF(iterator);
    return status;
}

/* A key that has been seen, as its encoded bytes. */
struct py_encode_seen {
    size_t offset;
    size_t len; /* 0: free */
};

static uint64_t py_encode_hash(const uint8_t *p, size_t n) {
    uint64_t hash = 0xCBF29CE484222325u;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001B3u;
    return hash ^ hash >> 32;
}

/* Puts a key into the table of mask + 1 slots: 0, or 1 if an equal one is there. */
static int py_encode_see(const uint8_t *base, struct py_encode_seen *table, size_t mask,
                         struct py_encode_seen key) {
    size_t i = py_encode_hash(base + key.offset, key.len) & mask;

    for (; table[i].len; i = (i + 1) & mask)
        if (table[i].len == key.len &&
            memcmp(base + table[i].offset, base + key.offset, key.len) == 0)
            return 1;
    table[i] = key;
    return 0;
}

/* Notes that the dict's key number i is there twice. */
static int py_encode_twice(struct py_encode *e, PyObject *dict, size_t i) {
    PyObject *key, *value;
    Py_ssize_t pos = 0;

    py_encode_bad(e, "two keys of the dict are equal in Erlang");
    while (PyDict_Next(dict, &pos, &key, &value)) { /* borrowed */
        if (i-- == 0) {
            Py_INCREF(key);
            py_place_key(&e->place, key);
            Py_DECREF(key);
            break;
        }
    }
    return -1;
}

/* Refuses a dict, just written from offset start on, that has two equal keys. Keys of different
 * Python types can become the same term, which shows only in the bytes. */
static int py_encode_check_keys(struct py_encode *e, PyObject *dict, size_t start) {
    const uint8_t *base = e->out->data;
    struct etf r = {base + start, base + e->out->len};
    size_t n = (size_t)PyDict_GET_SIZE(dict), size = 8, i;
    struct py_encode_seen *table, seen;
    struct slice key, value;

    while (size < n * 2)
        size *= 2;
    table = PyMem_Calloc(size, sizeof *table);
    if (!table) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < n; i++) {
        if (etf_get_term(&r, &key) < 0 || etf_get_term(&r, &value) < 0) {
            i = n;
            break;
        }
        seen = (struct py_encode_seen){(size_t)(key.data - base), key.len};
        if (py_encode_see(base, table, size - 1, seen))
            break;
    }
    PyMem_Free(table);
    return i < n ? py_encode_twice(e, dict, i) : 0;
}

/* Writes one pair. key and value are borrowed and kept alive meanwhile. */
static int py_encode_pair(struct py_encode *e, PyObject *key, PyObject *value) {
    int status;

    Py_INCREF(key);
    Py_INCREF(value);
    status = py_encode_term(e, key);
    if (status < 0) {
        py_place_step(&e->place, " key");
    } else {
        status = py_encode_term(e, value);
        if (status < 0)
            py_place_key(&e->place, key);
    }
    Py_DECREF(key);
    Py_DECREF(value);
    return status;
}

/* Whether keys like this one differ in Erlang whenever they differ in Python. An Atom does so from
 * a str, which it would be equal to. */
static inline bool py_encode_plain_key(PyObject *key) {
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key);
}

static int py_encode_dict(struct py_encode *e, PyObject *dict) {
    Py_ssize_t n = PyDict_GET_SIZE(dict), pos = 0, done = 0;
    PyObject *key, *value;
    bool plain = true;
    size_t start;

    if (py_encode_head(e, ETF_MAP, (size_t)n) < 0)
        return -1;
    start = e->out->len;
    while (done < n && PyDict_Next(dict, &pos, &key, &value)) {
        plain = plain && py_encode_plain_key(key);
        if (py_encode_pair(e, key, value) < 0)
            return -1;
        done++;
        if (PyDict_GET_SIZE(dict) != n)
            break;
    }
    if (done != n || PyDict_GET_SIZE(dict) != n)
        return py_encode_changed(e, "dict");
    return plain || n < 2 ? 0 : py_encode_check_keys(e, dict, start);
}

/* Everything else */

/* What Python calls a type in its own messages: with the module, except builtins and __main__. */
static PyObject *py_encode_type_name(PyTypeObject *type) {
    PyObject *module = PyObject_GetAttrString((PyObject *)type, "__module__");
    PyObject *name = PyType_GetQualName(type), *full = NULL;

    if (name && module && PyUnicode_Check(module) &&
        PyUnicode_CompareWithASCIIString(module, "builtins") != 0 &&
        PyUnicode_CompareWithASCIIString(module, "__main__") != 0)
        full = PyUnicode_FromFormat("%U.%U", module, name);
    else if (name)
        full = Py_NewRef(name);
    PyErr_Clear();
    Py_XDECREF(module);
    Py_XDECREF(name);
    return full ? full : PyUnicode_FromString(type->tp_name);
}

/* Writes what the call gave; takes over made, which may be NULL with an exception. One level
 * down, so that what always makes another object ends by the cap. */
static int py_encode_made(struct py_encode *e, PyObject *made) {
    int status = -1;

    if (made && py_encode_enter(e) == 0) {
        status = py_encode_term(e, made);
        py_encode_leave(e);
    }
    Py_XDECREF(made);
    return status;
}

/* 1 and a new reference to the converter of the type or of the nearest of its bases; 0: none. */
static int py_encode_converter(PyTypeObject *type, PyObject **converter) {
    PyObject *mro = type->tp_mro, *found = NULL;

    if (!py_encode_converters || !mro)
        return 0;
    Py_INCREF(mro);
    for (Py_ssize_t i = 0; !found && i < PyTuple_GET_SIZE(mro); i++) {
        found = PyDict_GetItemWithError(py_encode_converters, PyTuple_GET_ITEM(mro, i));
        Py_XINCREF(found);
        if (!found && PyErr_Occurred())
            break;
    }
    Py_DECREF(mro);
    *converter = found;
    return found ? 1 : PyErr_Occurred() ? -1 : 0;
}

/* Any object with a contiguous buffer, as a binary. 1: it has none. */
static int py_encode_buffer(struct py_encode *e, PyObject *obj) {
    Py_buffer view;
    int status;

    if (!PyObject_CheckBuffer(obj))
        return 1;
    if (PyObject_GetBuffer(obj, &view, PyBUF_SIMPLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError))
            return -1;
        PyErr_Clear();
        return 1;
    }
    status = py_encode_binary(e, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return status;
}

/* An object with tolist(), as numpy's are. 1: it has none. */
static int py_encode_tolist(struct py_encode *e, PyObject *obj) {
    PyObject *method;
    int status;

    if (PyType_Check(obj) || PyModule_Check(obj)) /* a class has the method, but no self for it; a
                                                   * module may make up what it is asked for */
        return 1;
    method = PyObject_GetAttrString(obj, "tolist");
    if (!method) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 1;
    }
    status = PyCallable_Check(method) ? py_encode_made(e, PyObject_CallNoArgs(method)) : 1;
    Py_DECREF(method);
    return status;
}

static int py_encode_unconvertible(struct py_encode *e, PyObject *obj) {
    PyObject *name;

    if (py_encode_settings.unconvertible_str)
        return py_encode_made(e, PyObject_Str(obj));
    name = py_encode_type_name(Py_TYPE(obj));
    if (!name)
        return -1;
    py_place_error(&e->place, PyExc_TypeError, "cannot convert %U to an Erlang term", name);
    Py_DECREF(name);
    return -1;
}

/* A container, of its exact type or a subclass, one level down. */
static int py_encode_nested(struct py_encode *e, PyObject *obj,
                            int (*encode)(struct py_encode *, PyObject *)) {
    int status;

    if (py_encode_enter(e) < 0)
        return -1;
    status = encode(e, obj);
    py_encode_leave(e);
    return status;
}

/* A memoryview that is no binary; an exception that is set says why already. */
static int py_encode_gaps(struct py_encode *e) {
    if (!PyErr_Occurred() && !e->place.text)
        py_place_error(&e->place, PyExc_TypeError,
                       "cannot convert a memoryview that is not contiguous");
    return -1;
}

/* Subclasses of the builtin types. 1: it is none. */
static int py_encode_subclass(struct py_encode *e, PyObject *obj) {
    if (PyUnicode_Check(obj))
        return py_encode_str(e, obj);
    if (PyLong_Check(obj))
        return py_encode_int(e, obj);
    if (PyFloat_Check(obj))
        return py_encode_float(e, PyFloat_AS_DOUBLE(obj));
    if (PyBytes_Check(obj))
        return py_encode_binary(e, PyBytes_AS_STRING(obj), (size_t)PyBytes_GET_SIZE(obj));
    if (PyTuple_Check(obj))
        return py_encode_nested(e, obj, py_encode_tuple);
    if (PyList_Check(obj))
        return py_encode_nested(e, obj, py_encode_list);
    if (PyDict_Check(obj))
        return py_encode_nested(e, obj, py_encode_dict);
    if (PyAnySet_Check(obj))
        return py_encode_nested(e, obj, py_encode_set);
    if (PyByteArray_Check(obj))
        return py_encode_buffer(e, obj);
    if (PyMemoryView_Check(obj)) /* one with gaps is refused: its tolist() would give numbers */
        return py_encode_buffer(e, obj) == 0 ? 0 : py_encode_gaps(e);
    return 1;
}

/* numpy's arrays are lists of numbers; other buffers (array.array, mmap, ctypes) are bytes, also
 * if they have a tolist(). */
static bool py_encode_is_numpy_like(PyObject *obj) {
    return PyObject_HasAttrString(obj, "__array_interface__");
}

/* What is not of an exact builtin type. */
static int py_encode_other(struct py_encode *e, PyObject *obj) {
    PyObject *converter;
    int status = py_encode_converter(Py_TYPE(obj), &converter);

    if (status < 0)
        return -1;
    if (status == 1) {
        status = py_encode_made(e, PyObject_CallOneArg(converter, obj));
        Py_DECREF(converter);
        return status;
    }
    status = py_encode_subclass(e, obj);
    if (status == 1 && !py_encode_is_numpy_like(obj))
        status = py_encode_buffer(e, obj);
    if (status == 1)
        status = py_encode_tolist(e, obj);
    if (status == 1)
        status = py_encode_buffer(e, obj);
    return status == 1 ? py_encode_unconvertible(e, obj) : status;
}

/* The types that cannot have a subclass, and those of this module. 1: it is none. */
static int py_encode_final(struct py_encode *e, PyObject *obj) {
    PyTypeObject *type = Py_TYPE(obj);
    struct slice term;

    if (obj == Py_None)
        return py_encode_none(e);
    if (obj == Py_True)
        return py_encode_name(e, "true", 4);
    if (obj == Py_False)
        return py_encode_name(e, "false", 5);
    if (type == py_types_atom)
        return py_encode_atom(e, obj);
    if (type == py_types_bitstring)
        return py_encode_bits(e, obj);
    return py_types_slice(obj, &term) ? py_encode_slice(e, term) : 1;
}

/* obj is borrowed; the caller keeps it alive. */
static int py_encode_term(struct py_encode *e, PyObject *obj) {
    PyTypeObject *type = Py_TYPE(obj);
    int status;

    if (type == &PyUnicode_Type)
        return py_encode_str(e, obj);
    if (type == &PyLong_Type)
        return py_encode_int(e, obj);
    if (type == &PyFloat_Type)
        return py_encode_float(e, PyFloat_AS_DOUBLE(obj));
    if (type == &PyTuple_Type)
        return py_encode_nested(e, obj, py_encode_tuple);
    if (type == &PyList_Type)
        return py_encode_nested(e, obj, py_encode_list);
    if (type == &PyDict_Type)
        return py_encode_nested(e, obj, py_encode_dict);
    if (type == &PyBytes_Type)
        return py_encode_binary(e, PyBytes_AS_STRING(obj), (size_t)PyBytes_GET_SIZE(obj));
    status = py_encode_final(e, obj);
    if (status != 1)
        return status;
    if (type == &PySet_Type || type == &PyFrozenSet_Type)
        return py_encode_nested(e, obj, py_encode_set);
    return py_encode_other(e, obj);
}

int py_encode(struct buf *out, PyObject *obj, const char *root) {
    struct py_encode e = {.out = out, .place = {.root = root ? root : "result"}};
    size_t start = out->len;

    if (py_encode_term(&e, obj) == 0) {
        if (out->len - start <= UINT32_MAX)
            return 0;
        py_encode_bad(&e, "too large for an Erlang term");
    }
    out->len = start;
    py_place_raise(&e.place);
    return -1;
}

/* Whether every object of the type is converted before a converter is looked for. */
static bool py_encode_is_fixed(PyObject *type) {
    return type == (PyObject *)&PyUnicode_Type || type == (PyObject *)&PyLong_Type ||
           type == (PyObject *)&PyFloat_Type || type == (PyObject *)&PyTuple_Type ||
           type == (PyObject *)&PyList_Type || type == (PyObject *)&PyDict_Type ||
           type == (PyObject *)&PyBytes_Type || type == (PyObject *)&PySet_Type ||
           type == (PyObject *)&PyFrozenSet_Type || type == (PyObject *)&PyBool_Type ||
           type == (PyObject *)Py_TYPE(Py_None) || type == (PyObject *)py_types_atom ||
           type == (PyObject *)py_types_bitstring || py_types_is_opaque((PyTypeObject *)type);
}

int py_encode_register(PyObject *type, PyObject *converter) {
    if (!PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "register_converter: %.100s is not a type",
                     Py_TYPE(type)->tp_name);
        return -1;
    }
    if (converter != Py_None && !PyCallable_Check(converter)) {
        PyErr_SetString(PyExc_TypeError, "register_converter: the converter is not callable");
        return -1;
    }
    if (py_encode_is_fixed(type)) {
        PyErr_Format(PyExc_ValueError, "register_converter: %.100s has its own Erlang form",
                     ((PyTypeObject *)type)->tp_name);
        return -1;
    }
    if (!py_encode_converters && !(py_encode_converters = PyDict_New()))
        return -1;
    if (converter != Py_None)
        return PyDict_SetItem(py_encode_converters, type, converter);
    if (PyDict_Contains(py_encode_converters, type) == 1)
        return PyDict_DelItem(py_encode_converters, type);
    return PyErr_Occurred() ? -1 : 0;
}
