/* test_py_terms.c - terms to Python and back: the table, every refusal, and what tests/py holds.
 *
 * Embeds Python with a module _erlang of its own that has the types and the two conversions, since
 * the real one needs a node. One thread, which holds the GIL all the time.
 */
#include "config.h"

#include "tap.h"

#include "buf.h"
#include "etf.h"
#include "py_atom.h"
#include "py_decode.h"
#include "py_encode.h"
#include "py_interrupt.h"
#include "py_log.h"
#include "py_types.h"
#include "utf8.h"

#include <Python.h>

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { MAX_ATOMS = 2000 };

static PyObject *globals; /* the namespace that the expressions below are evaluated in */

/* The module _erlang */

static PyObject *module_encode(PyObject *Py_UNUSED(module), PyObject *obj) {
    struct buf out = {0};
    PyObject *bytes = NULL;

    etf_put_version(&out);
    if (py_encode(&out, obj, NULL) == 0)
        bytes = PyBytes_FromStringAndSize((char *)out.data, (Py_ssize_t)out.len);
    buf_done(&out);
    return bytes;
}

static PyObject *module_decode(PyObject *Py_UNUSED(module), PyObject *bytes) {
    struct etf r;
    PyObject *obj;

    r.p = (const uint8_t *)PyBytes_AsString(bytes);
    if (!r.p)
        return NULL;
    r.end = r.p + PyBytes_GET_SIZE(bytes);
    if (etf_get_version(&r) < 0) {
        PyErr_SetString(PyExc_ValueError, "term: does not begin with the version byte 131");
        return NULL;
    }
    obj = py_decode(&r, NULL);
    if (obj && r.p != r.end) {
        PyErr_SetString(PyExc_ValueError, "term: bytes after its end");
        Py_CLEAR(obj);
    }
    return obj;
}

static PyObject *module_register_converter(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *type, *converter;

    if (!PyArg_ParseTuple(args, "OO", &type, &converter) || py_encode_register(type, converter) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *module_settings(PyObject *Py_UNUSED(module), PyObject *args) {
    int as_bytes, unconvertible;
    const char *none;

    if (!PyArg_ParseTuple(args, "psp", &as_bytes, &none, &unconvertible))
        return NULL;
    py_decode_settings.strings_as_bytes = as_bytes;
    snprintf(py_encode_settings.none_atom, sizeof py_encode_settings.none_atom, "%s", none);
    py_encode_settings.unconvertible_str = unconvertible;
    Py_RETURN_NONE;
}

static PyObject *module_ok(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name, *text;
    int passed;

    if (!PyArg_ParseTuple(args, "pss", &passed, &name, &text))
        return NULL;
    ok(passed, "%s", name);
    if (!passed)
        diag("%s", text);
    Py_RETURN_NONE;
}

/* What only a node has. */
static PyObject *module_nothing(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args)) {
    PyErr_SetString(PyExc_RuntimeError, "there is no node here");
    return NULL;
}

static PyMethodDef module_methods[] = {
    {"encode", module_encode, METH_O, NULL},
    {"decode", module_decode, METH_O, NULL},
    {"register_converter", module_register_converter, METH_VARARGS, NULL},
    {"settings", module_settings, METH_VARARGS, NULL},
    {"ok", module_ok, METH_VARARGS, NULL},
    {"call", module_nothing, METH_VARARGS, NULL},
    {"cast", module_nothing, METH_VARARGS, NULL},
    {"consume_time_slice", module_nothing, METH_VARARGS, NULL},
    {"demonitor", module_nothing, METH_VARARGS, NULL},
    {"link", module_nothing, METH_VARARGS, NULL},
    {"monitor", module_nothing, METH_VARARGS, NULL},
    {"node", module_nothing, METH_VARARGS, NULL},
    {"receive", module_nothing, METH_VARARGS, NULL},
    {"register", module_nothing, METH_VARARGS, NULL},
    {"schedule", module_nothing, METH_VARARGS, NULL},
    {"schedule_py", module_nothing, METH_VARARGS, NULL},
    {"self", module_nothing, METH_VARARGS, NULL},
    {"send", module_nothing, METH_VARARGS, NULL},
    {"unlink", module_nothing, METH_VARARGS, NULL},
    {"unregister", module_nothing, METH_VARARGS, NULL},
    {"whereis", module_nothing, METH_VARARGS, NULL},
    {"_log", py_log_record, METH_VARARGS, NULL},
    {"_log_wanted", py_log_wanted, METH_NOARGS, NULL},
    {"_Sink", module_nothing, METH_VARARGS, NULL},
    {"_sink", module_nothing, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, .m_name = "_erlang", .m_size = 0,
                                        .m_methods = module_methods};

static PyObject *module_init(void) {
    PyObject *module = PyModule_Create(&module_def);

    if (!module || py_types_add(module) < 0 || py_interrupt_add(module) < 0 ||
        py_atom_init(MAX_ATOMS) < 0 ||
        PyModule_AddIntConstant(module, "sanitized", SANITIZED) < 0)
        return NULL;
    return module;
}

/* Helpers */

/* Ends the test with Python's own words: something that has nothing to do with the test failed. */
static _Noreturn void die(const char *what) {
    diag("%s", what);
    PyErr_Print();
    exit(1);
}

static PyObject *eval(const char *expr) {
    PyObject *obj = PyRun_String(expr, Py_eval_input, globals, globals);

    if (!obj)
        die(expr);
    return obj;
}

/* The bytes of a hex text, which may hold blanks; the caller frees them. */
static struct buf unhex(const char *hex) {
    struct buf b = {0};
    unsigned byte;
    uint8_t c;

    for (; *hex; hex += 2) {
        while (*hex == ' ')
            hex++;
        if (sscanf(hex, "%2x", &byte) != 1)
            die(hex);
        c = (uint8_t)byte;
        buf_put(&b, &c, 1);
    }
    return b;
}

/* "ValueError: text" of the exception that is set, or "none"; clears it. */
static const char *error_text(void) {
    static char text[2000];
    PyObject *type, *value, *traceback, *str;

    if (!PyErr_Occurred())
        return "none";
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    str = PyObject_Str(value);
    snprintf(text, sizeof text, "%s: %s", ((PyTypeObject *)type)->tp_name,
             str ? PyUnicode_AsUTF8(str) : "?");
    Py_XDECREF(str);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return text;
}

static PyObject *decode(struct buf b, const char *root) {
    uint8_t *copy = xmalloc(b.len ? b.len : 1); /* ends where the term ends, for ASan */
    struct etf r = {copy, copy + b.len};
    PyObject *obj;

    memcpy(copy, b.data ? b.data : (const uint8_t *)"", b.len);
    obj = py_decode(&r, root);
    if (obj && r.p != r.end) {
        PyErr_SetString(PyExc_AssertionError, "bytes are left over");
        Py_CLEAR(obj);
    }
    if (!obj && r.p != copy)
        die("a failed py_decode() has moved the position");
    free(copy);
    return obj;
}

/* The bytes become what the expression is, type for type. */
static void is_decoded(const char *hex, const char *expr) {
    struct buf b = unhex(hex);
    PyObject *got = decode(b, NULL), *want = eval(expr);
    PyObject *got_repr = got ? PyObject_Repr(got) : NULL, *want_repr = PyObject_Repr(want);

    if (got_repr && want_repr)
        is_str(PyUnicode_AsUTF8(got_repr), PyUnicode_AsUTF8(want_repr), "decode %.60s", expr);
    else
        ok(0, "decode %.60s: %s", expr, error_text());
    if (got && PyObject_RichCompareBool(got, want, Py_EQ) != 1)
        ok(0, "decode %.60s: not equal", expr);
    Py_XDECREF(got);
    Py_XDECREF(want);
    Py_XDECREF(got_repr);
    Py_XDECREF(want_repr);
    buf_done(&b);
}

/* The expression's value becomes the bytes. */
static void is_encoded(const char *expr, const char *hex) {
    struct buf want = unhex(hex), got = {0};
    PyObject *obj = eval(expr);

    if (py_encode(&got, obj, NULL) == 0)
        is_mem(got.data, got.len, want.data, want.len, "encode %.60s", expr);
    else
        ok(0, "encode %.60s: %s", expr, error_text());
    Py_DECREF(obj);
    buf_done(&got);
    buf_done(&want);
}

static void is_refused_in(const char *root, const char *hex, const char *text) {
    struct buf b = unhex(hex);
    PyObject *got = decode(b, root);

    is_str(error_text(), text, "decode: %s", text);
    Py_XDECREF(got);
    buf_done(&b);
}

static void is_refused(const char *hex, const char *text) {
    is_refused_in(NULL, hex, text);
}

static void is_refused_out(const char *expr, const char *text) {
    struct buf out = {0};
    PyObject *obj = eval(expr);

    buf_put(&out, "before", 6);
    is_int(py_encode(&out, obj, NULL), -1, "encode %.60s fails", expr);
    is_str(error_text(), text, "encode: %s", text);
    is_mem(out.data, out.len, "before", 6, "and leaves what was in the buffer");
    Py_DECREF(obj);
    buf_done(&out);
}

/* The table */

#define NODE "7707 6e406c6f63616c" /* 'n@local' */
#define OLD_NODE "6400 07 6e406c6f63616c"

/* What term_to_binary gives, what it is in Python, and whether Python gives the same bytes. */
static const struct row {
    const char *hex, *expr;
    bool back;
} rows[] = {
    {"7704 74727565", "True", true},
    {"7705 66616c7365", "False", true},
    {"7704 6e6f6e65", "None", true},
    {"7703 6e696c", "None", false},
    {"7709 756e646566696e6564", "None", false},
    {"7702 6f6b", "Atom('ok')", true},
    {"7700", "Atom('')", true},
    {"770b 68656c6c6f20776f726c64", "Atom('hello world')", true},
    {"7706 c3a5c3a4c3b6", "Atom('\\xe5\\xe4\\xf6')", true},
    {"760006 c3a5c3a4c3b6", "Atom('\\xe5\\xe4\\xf6')", false},
    {"640003 e5e4f6", "Atom('\\xe5\\xe4\\xf6')", false},
    {"7303 e5e4f6", "Atom('\\xe5\\xe4\\xf6')", false},
    {"640004 74727565", "True", false},
    {"6100", "0", true},
    {"61ff", "255", true},
    {"6200000100", "256", true},
    {"62ffffffff", "-1", true},
    {"627fffffff", "2**31-1", true},
    {"6280000000", "-2**31", true},
    {"6e0400 00000080", "2**31", true},
    {"6e0401 01000080", "-2**31-1", true},
    {"6e0800 ffffffffffffff7f", "2**63-1", true},
    {"6e0800 0000000000000080", "2**63", true},
    {"6e0800 ffffffffffffffff", "2**64-1", true},
    {"6e0801 0000000000000080", "-2**63", true},
    {"6e0801 0100000000000080", "-2**63-1", true},
    {"6e0900 000000000000000001", "2**64", true},
    {"6e0901 000000000000000001", "-2**64", true},
    {"6e0000", "0", false},
    {"6e0001", "0", false},
    {"6e0500 0100000000", "1", false},
    {"6f00000001 00 07", "7", false},
    {"6f0000000a 01 00000000000000000100", "-2**64", false},
    {"460000000000000000", "0.0", true},
    {"468000000000000000", "-0.0", true},
    {"463ff8000000000000", "1.5", true},
    {"46fe37e43c8800759c", "-1.0e300", true},
    {"460000000000000001", "5e-324", true},
    {"63 312e3530303030303030303030303030303030303030652b3030 0000000000", "1.5", false},
    {"6d00000000", "''", true},
    {"6d00000001 61", "'a'", true},
    {"6d00000003 616263", "'abc'", true},
    {"6d00000003 610062", "'a\\0b'", true},
    {"6d00000002 c3a5", "'\\xe5'", true},
    {"6d0000000a e697a5e69cacf09f908d", "'\\u65e5\\u672c\\U0001f40d'", true},
    {"6d00000002 fffe", "b'\\xff\\xfe'", true},
    {"6d00000003 61ff62", "b'a\\xffb'", true},
    {"6d00000002 c080", "b'\\xc0\\x80'", true},               /* overlong */
    {"6d00000003 eda080", "b'\\xed\\xa0\\x80'", true},        /* a surrogate */
    {"6d00000004 f4908080", "b'\\xf4\\x90\\x80\\x80'", true}, /* past the last plane */
    {"6d00000002 e697", "b'\\xe6\\x97'", true},
    {"6802 77056279746573 6d00000003 616263", "b'abc'", false},
    {"6802 77056279746573 6d00000000", "b''", false},
    {"6802 77056279746573 6101", "(Atom('bytes'), 1)", true},
    {"6802 77056279746573 6802 77056279746573 6d00000000", "(Atom('bytes'), b'')", false},
    {"6803 77056279746573 6d00000000 6101", "(Atom('bytes'), '', 1)", true},
    {"4d00000001 03 a0", "Bitstring(b'\\xa0', 3)", true},
    {"4d00000002 03 01a0", "Bitstring(b'\\x01\\xa0', 3)", true},
    {"4d00000001 03 ff", "Bitstring(b'\\xe0', 3)", false},
    {"4d00000002 08 6162", "'ab'", false},
    {"4d00000000 00", "''", false},
    {"6a", "[]", true},
    {"6b0003 010203", "[1, 2, 3]", false},
    {"6b0000", "[]", false},
    {"6c00000003 6101 6102 6103 6a", "[1, 2, 3]", true},
    {"6c00000000 6a", "[]", false},
    {"6c00000003 62000003e8 62fffffffb 770161 6a", "[1000, -5, Atom('a')]", true},
    {"6c00000002 6c00000001 6101 6a 6a 6a", "[[1], []]", true},
    {"6c00000003 6101 6e0400 00000080 6102 6a", "[1, 2**31, 2]", true},
    {"6800", "()", true},
    {"6802 6101 6102", "(1, 2)", true},
    {"6900000002 6101 6102", "(1, 2)", false},
    {"6802 770161 6802 770162 6c00000001 770163 6a", "(Atom('a'), (Atom('b'), [Atom('c')]))", true},
    {"7400000000", "{}", true},
    {"7400000001 770161 6101", "{Atom('a'): 1}", true},
    {"7400000002 6d00000001 62 6101 6d00000001 61 6102", "{'b': 1, 'a': 2}", true},
    {"7400000001 6d00000001 6b 6c00000001 463ff8000000000000 6a", "{'k': [1.5]}", true},
    {"7400000001 6b0002 0102 770178", "{(1, 2): Atom('x')}", false},
    {"7400000001 6a 770178", "{(): Atom('x')}", false},
    {"7400000001 7400000002 770161 6b0001 02 770162 6101 770178",
     "{((Atom('a'), (2,)), (Atom('b'), 1)): Atom('x')}", false},
    {"7400000001 7400000002 770162 6101 770161 6b0001 02 770178",
     "{((Atom('a'), (2,)), (Atom('b'), 1)): Atom('x')}", false},
    {"7400000001 6802 6101 6b0001 02 770179", "{(1, (2,)): Atom('y')}", false},
    {"7400000001 6802 6101 7400000000 770179", "{(1, ()): Atom('y')}", false},
    {"7400000001 7400000003 6103 770178 770161 770179 6d00000001 7a 77017a 77016d",
     "{(('z', Atom('z')), (3, Atom('x')), (Atom('a'), Atom('y'))): Atom('m')}", false},
    {"7400000001 7400000003 6d00000001 7a 77017a 770161 770179 6103 770178 77016d",
     "{(('z', Atom('z')), (3, Atom('x')), (Atom('a'), Atom('y'))): Atom('m')}", false},
};

/* Python's own types that have no bytes of their own to come from. */
static const struct encode_row {
    const char *expr, *hex;
} encode_rows[] = {
    {"float('nan')", "7703 6e616e"},
    {"float('inf')", "7708 696e66696e697479"},
    {"-float('inf')", "770c 6e65675f696e66696e697479"},
    {"b'abc'", "6d00000003 616263"},
    {"bytearray(b'\\xff')", "6d00000001 ff"},
    {"memoryview(b'xabcx')[1:4]", "6d00000003 616263"},
    {"{7}", "6c00000001 6107 6a"},
    {"frozenset()", "6a"},
    {"Point(1, 2)", "6802 6101 6102"},
    {"Level.HIGH", "6103"},
    {"Name('n')", "6d00000001 6e"},
    {"Float(1.5)", "463ff8000000000000"},
    {"Bytes(b'a')", "6d00000001 61"},
    {"List([1])", "6c00000001 6101 6a"},
    {"collections.OrderedDict(a=1)", "7400000001 6d00000001 61 6101"},
    {"Array([1, [2]])", "6c00000002 6101 6c00000001 6102 6a 6a"},
    {"array.array('b', [1, -1])", "6d00000002 01ff"},
    {"ctypes.c_uint16(0xff00)", "6d00000002 00ff"},
    {"Bitstring(b'ab')", "6d00000002 6162"},
    {"Bitstring(b'')", "6d00000000"},
    {"Bitstring(b'\\xff', 3)", "4d00000001 03 e0"},
    {"Atom('true')", "7704 74727565"},
    {"{1: 2, 'a': b'a', 2.5: None}", "7400000003 6101 6102 6d00000001 61 6d00000001 61"
                                     "464004000000000000 7704 6e6f6e65"},
};

/* Terms that come back bit by bit, and how they look. */
static const struct opaque_row {
    const char *hex, *repr;
} opaque_rows[] = {
    {"58" NODE "0000000c 00000001 6532a1b0", "Pid<n@local.12.1>"},
    {"67" NODE "0000000c 00000001 03", "Pid<n@local.12.1>"},
    {"67" OLD_NODE "0000000c 00000001 03", "Pid<n@local.12.1>"},
    {"5a 0003" NODE "6532a1b0 00000003 00000002 00000001", "Ref<n@local.1.2.3>"},
    {"5a 0005" NODE "6532a1b0 00000003 00000002 00000001 00000004 00000005",
     "Ref<n@local.5.4.1.2.3>"},
    {"72 0001" NODE "03 00000003", "Ref<n@local.3>"},
    {"65" NODE "00000003 03", "Ref<n@local.3>"},
    {"66" NODE "00000007 03", "Port<n@local.7>"},
    {"59" NODE "00000007 6532a1b0", "Port<n@local.7>"},
    {"78" NODE "ffffffffffffffff 6532a1b0", "Port<n@local.18446744073709551615>"},
    {"71 7705 6c69737473 7703 6d6170 6102", "Fun<lists:map/2>"},
    {"66 7703 6e0a61 00000007 03", "Port<'n\\na'.7>"}, /* no second line in a log */
    /* A closure: size, arity, uniq, index, free variables; the size is wrong, as some OTPs send. */
    {"70 000000ff 01 00112233445566778899aabbccddeeff 00000005 00000002 7701 6d 6101 6102"
     "58" NODE "0000000c 00000001 6532a1b0 6101 6a",
     "Fun<m.5/1>"},
};

static void test_table(void) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        is_decoded(rows[i].hex, rows[i].expr);
        if (rows[i].back)
            is_encoded(rows[i].expr, rows[i].hex);
    }
    for (size_t i = 0; i < sizeof encode_rows / sizeof *encode_rows; i++)
        is_encoded(encode_rows[i].expr, encode_rows[i].hex);
}

/* Tuples, binaries, atoms and integers around the sizes where their heads change. */
static void test_sizes(void) {
    static const char *const same[] = {
        "tuple([1] * 255)",
        "tuple([1] * 256)",
        "'x' * 255",
        "'x' * 65536",
        "'\\xe5' * 65536",
        "'\\u65e5' * 65536",
        "b'\\xff' * 65536",
        "[1] * 65535",
        "[1] * 65536",
        "list(range(-70000, 70000))",
        "Atom('a' * 255)",
        "Atom('\\u65e5' * 255)",
        "1 << 2039",
        "1 << 2040",
        "-(1 << 2047)",
        "(1 << 524280 * 8) - 1",
        "-(1 << 524280 * 8) + 1",
        "{i: str(i) for i in range(5000)}",
        "[[[[[]]]]]",
        "nest(511)",
        "[None, True, [False]]",
        "[2**i for i in range(300)]",
        "[-2**i for i in range(300)]",
        "[2.0**-i for i in range(300)]",
    };
    struct buf out = {0};
    PyObject *obj, *back;
    struct etf r;

    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        obj = eval(same[i]);
        out.len = 0;
        if (py_encode(&out, obj, NULL) < 0) {
            ok(0, "%s: %s", same[i], error_text());
        } else {
            r = (struct etf){out.data, out.data + out.len};
            back = py_decode(&r, NULL);
            ok(back && r.p == r.end && PyObject_RichCompareBool(obj, back, Py_EQ) == 1,
               "%s there and back", same[i]);
            if (!back)
                diag("%s", error_text());
            Py_XDECREF(back);
        }
        Py_DECREF(obj);
    }
    buf_done(&out);
}

static void test_opaque(void) {
    for (size_t i = 0; i < sizeof opaque_rows / sizeof *opaque_rows; i++) {
        struct buf b = unhex(opaque_rows[i].hex), out = {0};
        PyObject *obj = decode(b, NULL), *repr = obj ? PyObject_Repr(obj) : NULL;
        struct slice encoded;

        if (repr && py_encode(&out, obj, NULL) == 0) {
            is_str(PyUnicode_AsUTF8(repr), opaque_rows[i].repr, "%s", opaque_rows[i].repr);
            is_mem(out.data, out.len, b.data, b.len, "%s back, bit by bit", opaque_rows[i].repr);
            ok(py_types_slice(obj, &encoded) == 1 && encoded.len == b.len, "its bytes");
        } else {
            ok(0, "%s: %s", opaque_rows[i].repr, error_text());
        }
        Py_XDECREF(obj);
        Py_XDECREF(repr);
        buf_done(&out);
        buf_done(&b);
    }
}

static void test_opaque_made(void) {
    struct buf pid = unhex("58" NODE "0000000c 00000001 6532a1b0");
    struct slice encoded = {pid.data, pid.len};
    PyObject *obj = py_types_opaque(PY_TYPES_PID, encoded);

    ok(obj && strcmp(Py_TYPE(obj)->tp_name, "erlang.Pid") == 0, "a Pid made from its bytes");
    Py_XDECREF(obj);
    ok(!py_types_opaque(PY_TYPES_REF, encoded), "but no Ref");
    is_str(error_text(), "ValueError: malformed reference", "text");
    encoded.len--;
    ok(!py_types_opaque(PY_TYPES_PID, encoded), "nor a Pid that is cut short");
    is_str(error_text(), "ValueError: malformed pid", "text");
    buf_done(&pid);
}

/* Refusals */

static void test_refused(void) {
    is_refused("", "ValueError: term: the term is truncated");
    is_refused("ff", "ValueError: term: unknown tag 255");
    is_refused("79 00", "ValueError: term: unknown tag 121");
    is_refused("50 00000010 789c", "ValueError: term: compressed terms are not taken");
    is_refused("46 7ff0000000000000", "ValueError: term: the float is not finite");
    is_refused("46 7ff8000000000000", "ValueError: term: the float is not finite");
    is_refused("63 78000000000000000000000000000000 000000000000000000000000000000",
               "ValueError: term: malformed float");
    is_refused("7701 ff", "ValueError: term: atom is not valid UTF-8");
    is_refused("4d00000001 00 ff", "ValueError: term: malformed bitstring");
    is_refused("4d00000001 09 ff", "ValueError: term: malformed bitstring");
    is_refused("4d00000000 03", "ValueError: term: malformed bitstring");
    is_refused("6f00080000 00", "ValueError: term: the term is truncated");
    is_refused("58 6101 0000000c 00000001 6532a1b0", "ValueError: term: malformed pid");
    is_refused("58 7701ff 0000000c 00000001 6532a1b0", "ValueError: term: malformed pid");
    is_refused("5a 0006" NODE "6532a1b0 00000003 00000002 00000001 00000004 00000005 00000006",
               "ValueError: term: malformed reference");
    is_refused("5a 0000" NODE "6532a1b0", "ValueError: term: malformed reference");
    is_refused("78" NODE "00000001", "ValueError: term: malformed port");
    is_refused("71 7701 61 7701 62 620000ffff", "ValueError: term: malformed fun");
    is_refused("70 00000000", "ValueError: term: malformed fun");
    is_refused("6c00000001 6101 6102", "TypeError: term: an improper list has no Python form");
    is_refused("6c00000000 6102", "TypeError: term: an improper list has no Python form");
    is_refused("7400000002 6101 770161 463ff0000000000000 770162",
               "ValueError: term[1.0]: two keys of the map are equal in Python");
    is_refused("7400000002 6101 770161 7704 74727565 770162",
               "ValueError: term[True]: two keys of the map are equal in Python");
    is_refused("7400000002 7703 6e696c 770161 7704 6e6f6e65 770162",
               "ValueError: term[None]: two keys of the map are equal in Python");
    is_refused("7400000002 770161 6101 6d00000001 61 6102",
               "ValueError: term['a']: two keys of the map are equal in Python");
    is_refused("7400000001 77016b 7400000002 6b0001 01 770161 6801 6101 770162",
               "ValueError: term[Atom('k')][(1,)]: two keys of the map are equal in Python");
}

static void test_place(void) {
    is_refused_in("args",
                  "6c00000002 6101 7400000001 6d00000003 6b6579"
                  "6c00000002 6101 6c00000001 6101 6102 6a 6a",
                  "TypeError: args[1]['key'][1]: an improper list has no Python form");
    is_refused_in("args", "6802 6101 ff", "ValueError: args[1]: unknown tag 255");
    is_refused_in("args", "6c00000001 ff 6a", "ValueError: args[0]: unknown tag 255");
    is_refused_in("args", "6c00000002 6101 ff 6a 00", "ValueError: args[1]: unknown tag 255");
    is_refused_in("args", "7400000001 6801 ff 6101", "ValueError: args key[0]: unknown tag 255");
    is_refused_in("message",
                  "7400000001 6d00000050"
                  "61616161616161616161616161616161616161616161616161616161616161616161"
                  "61616161616161616161616161616161616161616161616161616161616161616161"
                  "616161616161616161616161 ff",
                  "ValueError: message['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                  "...]: unknown tag 255");
}

/* What claims to be large must fail at once, before memory is taken for it. */
static void test_claims(void) {
    static const char *const claims[] = {
        "6c 80000000 6a6a6a6a6a",
        "6c ffffffff 6a",
        "69 7fffffff 6a",
        "74 7fffffff 6a6a",
        "74 ffffffff 6a",
        "6d ffffffff 61",
        "4d ffffffff 03 61",
        "6f ffffffff 00 61",
        "6b ffff 61",
        "6e ff 00 61",
        "77 ff 61",
        "76 ffff 61",
        "69 00000003 6a 69 00000002 6a 6a", /* the outer one still waits for one */
    };

    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        struct buf b = unhex(claims[i]);
        PyObject *got = decode(b, NULL);

        has_str(error_text(), "the term is truncated", "%s", claims[i]);
        Py_XDECREF(got);
        buf_done(&b);
    }
}

static void test_caps(void) {
    struct buf b = {0};
    uint8_t deep[] = {ETF_SMALL_TUPLE, 1};
    PyObject *got;

    for (int i = 0; i < 200000; i++)
        buf_put(&b, deep, sizeof deep);
    buf_put(&b, (uint8_t[]){ETF_NIL}, 1);
    got = decode(b, NULL);
    has_str(error_text(),
            "ValueError: term[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]..."
            "[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: nested deeper than 512 levels",
            "a term nested 200000 deep");
    Py_XDECREF(got);
    buf_done(&b);

    py_decode_settings.max_items = 4;
    is_decoded("6804 6101 6101 6101 6101", "(1, 1, 1, 1)");
    is_refused("6803 6101 6801 6101 6801 6101",
               "ValueError: term[2]: more than 4 items in one term");
    is_refused("6b0005 0000000000", "ValueError: term: more than 4 items in one term");
    py_decode_settings.max_items = 64u << 20;
}

static void test_strings_as_bytes(void) {
    py_decode_settings.strings_as_bytes = true;
    is_decoded("6d00000003 616263", "b'abc'");
    is_decoded("6802 77056279746573 6d00000003 616263", "b'abc'");
    is_decoded("4d00000002 08 6162", "b'ab'");
    py_decode_settings.strings_as_bytes = false;
}

static void test_refused_out(void) {
    is_refused_out("object()", "TypeError: result: cannot convert object to an Erlang term");
    is_refused_out("[0, 1, {'k': datetime.datetime(2020, 1, 1)}]",
                   "TypeError: result[2]['k']: cannot convert datetime.datetime to an Erlang term");
    is_refused_out("decimal.Decimal(1)",
                   "TypeError: result: cannot convert decimal.Decimal to an Erlang term");
    is_refused_out("Colour.RED", "TypeError: result: cannot convert Colour to an Erlang term");
    is_refused_out("1j", "TypeError: result: cannot convert complex to an Erlang term");
    is_refused_out("Array", "TypeError: result: cannot convert type to an Erlang term");
    is_refused_out("({1, object},)",
                   "TypeError: result[0] item: cannot convert type to an Erlang term");
    is_refused_out("{(1, 2j): 3}",
                   "TypeError: result key[1]: cannot convert complex to an Erlang term");
    is_refused_out("{Odd(): 2j}", "TypeError: result key: cannot convert Odd to an Erlang term");
    is_refused_out("{OddName('x'): 2j}",
                   "TypeError: result[<OddName>]: cannot convert complex to an Erlang term");
    is_refused_out("memoryview(b'abcdef')[::2]",
                   "TypeError: result: cannot convert a memoryview that is not contiguous");
    is_refused_out("['a\\ud800']", "ValueError: result[0]: the str has a lone surrogate at index 1"
                                   " and no UTF-8 form");
    is_refused_out("{'\\udfff': 1}", "ValueError: result key: the str has a lone surrogate at index"
                                     " 0 and no UTF-8 form");
    is_refused_out("1 << 524280 * 8", "ValueError: result: the integer is too large for Erlang");
    is_refused_out("[-(1 << 524280 * 8)]",
                   "ValueError: result[0]: the integer is too large for Erlang");
    is_refused_out("(None,) * (1 << 24)", "ValueError: result: too large for an Erlang tuple");
    is_refused_out("{b'a': 1, 'a': 2}",
                   "ValueError: result['a']: two keys of the dict are equal in Erlang");
    is_refused_out("[{True: 1, 'x': 3, Atom('true'): 2}]",
                   "ValueError: result[0][Atom('true')]: two keys of the dict are equal in Erlang");
    is_refused_out("{None: 1, Atom('none'): 2}",
                   "ValueError: result[Atom('none')]: two keys of the dict are equal in Erlang");
    is_refused_out("{(1, b'a'): 1, (1, 'a'): 2}",
                   "ValueError: result[(1, 'a')]: two keys of the dict are equal in Erlang");
    is_refused_out("{float('nan'): 1, float('nan'): 2}",
                   "ValueError: result[nan]: two keys of the dict are equal in Erlang");
    is_refused_out("{i: 0 for i in [*range(1000), b'x', 'x']}",
                   "ValueError: result['x']: two keys of the dict are equal in Erlang");
    is_refused_out(
        "nest(513)",
        "ValueError: result[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]..."
        "[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: nested deeper than 512 levels");
    is_refused_out(
        "cycle()['self']",
        "ValueError: result['self']['self']['self']['self']['self']['self']['self']"
        "['self']['self']['self']['self']['self']['self']['self']['self']['self']..."
        "['self']['self']['self']['self']['self']['self']['self']['self']['self']"
        "['self']['self']['self']['self']['self']['self']['self']: nested deeper than 512"
        " levels");
    is_refused_out("Endless()", "ValueError: result: nested deeper than 512 levels");
    is_refused_out("Broken()", "ZeroDivisionError: division by zero");
}

static void test_settings_out(void) {
    strcpy(py_encode_settings.none_atom, "undefined");
    is_encoded("[None]", "6c00000001 7709 756e646566696e6564 6a");
    strcpy(py_encode_settings.none_atom, "none");
    py_encode_settings.unconvertible_str = true;
    is_encoded("decimal.Decimal('1.5')", "6d00000003 312e35");
    is_refused_out("Broken2()", "ZeroDivisionError: division by zero");
    py_encode_settings.unconvertible_str = false;
}

/* A claim is held against each byte that is there: no beginning of a term is a term. */
static void test_truncated(void) {
    size_t n = sizeof rows / sizeof *rows, total = n + sizeof opaque_rows / sizeof *opaque_rows;
    size_t wrong = 0, tried = 0;

    for (size_t i = 0; i < total; i++) {
        struct buf b = unhex(i < n ? rows[i].hex : opaque_rows[i - n].hex);
        PyObject *got;

        for (size_t len = b.len; b.len > 0; tried++) {
            b.len--;
            got = decode(b, NULL);
            if (got || !PyErr_ExceptionMatches(PyExc_ValueError)) {
                diag("row %zu cut to %zu of %zu bytes: %s", i, b.len, len, error_text());
                wrong++;
            }
            PyErr_Clear();
            Py_XDECREF(got);
        }
        buf_done(&b);
    }
    is_int(wrong, 0, "%zu beginnings of terms are refused", tried);
}

/* The atom table */

static void test_atoms(void) {
    static const char text[] = "a name of its own";
    struct slice name = {(const uint8_t *)text, sizeof text - 1};
    PyObject *a = py_atom_intern(name), *b = py_atom_intern(name);

    ok(a && a == b, "one Atom for a name");
    ok(a && Py_IS_TYPE(a, py_types_atom), "of that very type");
    Py_XDECREF(a);
    Py_XDECREF(b);
    ok(!py_atom_intern((struct slice){(const uint8_t *)"\xff", 1}), "not UTF-8");
    is_str(error_text(), "ValueError: atom is not valid UTF-8", "text");
    a = eval("'\\u65e5' * 256");
    b = PyObject_CallOneArg((PyObject *)py_types_atom, a);
    is_str(error_text(), "ValueError: atom is longer than 255 characters", "text");
    Py_XDECREF(a);
    Py_XDECREF(b);
}

/* The last test: no new atom can be made after it. */
static void test_atoms_full(void) {
    char name[32];
    size_t made = 0, before;
    PyObject *atom;

    for (int i = 0; i < 2 * MAX_ATOMS; i++) {
        int n = snprintf(name, sizeof name, "filler %d", i);

        atom = py_atom_intern((struct slice){(uint8_t *)name, (size_t)n});
        if (!atom)
            break;
        made++;
        Py_DECREF(atom);
    }
    is_str(error_text(), "ValueError: atom table is full (--max-atoms 2000)", "the table is full");
    is_int(py_atom_count(), MAX_ATOMS, "at its cap");
    before = py_atom_count();
    is_refused_in("args", "6c00000001 77086e6577206e616d65 6a",
                  "ValueError: args[0]: atom table is full (--max-atoms 2000)");
    is_decoded("7702 6f6b", "Atom('ok')");
    is_decoded("77 08 66696c6c65722030", "Atom('filler 0')");
    is_int(py_atom_count(), before, "known atoms still work");
    diag("%zu atoms made", made);
}

static void test_register(void) {
    PyObject *number = PyLong_FromLong(1), *type = (PyObject *)&PyComplex_Type;

    is_int(py_encode_register(number, Py_None), -1, "a converter for an object");
    is_str(error_text(), "TypeError: register_converter: int is not a type", "text");
    is_int(py_encode_register(type, number), -1, "a converter that cannot be called");
    is_str(error_text(), "TypeError: register_converter: the converter is not callable", "text");
    is_int(py_encode_register((PyObject *)&PyLong_Type, Py_None), -1, "a converter for int");
    is_str(error_text(), "ValueError: register_converter: int has its own Erlang form", "text");
    is_int(py_encode_register(type, Py_None), 0, "no converter where there was none");
    Py_DECREF(number);
}

static void test_utf8(void) {
    static const struct {
        const char *text;
        int count;
    } samples[] = {{"", 0},
                   {"abc", 3},
                   {"0123456789abcdef0123456789abcdef!", 33},
                   {"0123456789abcdef0123456789abcde\xc3\xa5!", 33},
                   {"\xc3\xa5\xe6\x97\xa5\xf0\x9f\x90\x8d", 3},
                   {"\xc1\xbf", -1},
                   {"\xe0\x9f\xbf", -1},
                   {"\xed\xa0\x80", -1},
                   {"\xf0\x8f\xbf\xbf", -1},
                   {"\xf4\x8f\xbf\xbf", 1},
                   {"\xf4\x90\x80\x80", -1},
                   {"\xf5\x80\x80\x80", -1},
                   {"\x80", -1},
                   {"\xc3", -1},
                   {"\xe6\x97", -1},
                   {"\xf0\x9f\x90", -1},
                   {"\xf0\x9f\x90g", -1}};

    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
        is_int(utf8_count((const uint8_t *)samples[i].text, strlen(samples[i].text)),
               samples[i].count, "utf8 sample %zu", i);
}

/* Runs a file of tests/py in the namespace of the test. */
static void run_file(const char *name) {
    const char *top = getenv("abs_top_srcdir");
    char path[4096];
    FILE *f;
    PyObject *done;

    snprintf(path, sizeof path, "%s/tests/py/%s", top ? top : ".", name);
    f = fopen(path, "r");
    if (!f)
        die(path);
    done = PyRun_FileEx(f, path, Py_file_input, globals, globals, 1);
    if (!done)
        die(path);
    Py_DECREF(done);
}

static void start(void) {
    PyConfig config;
    PyStatus status;
    const char *top = getenv("abs_top_srcdir");
    PyObject *path, *dir;

    PyImport_AppendInittab("_erlang", module_init);
    PyConfig_InitIsolatedConfig(&config);
    config.write_bytecode = 0;
    status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    path = PySys_GetObject("path"); /* borrowed */
    dir = PyUnicode_FromFormat("%s/python", top ? top : ".");
    if (!path || !dir || PyList_Insert(path, 0, dir) < 0)
        die("sys.path");
    Py_DECREF(dir);
    globals = PyDict_New();
    if (!globals || PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) < 0)
        die("globals");
    run_file("samples.py");
    run_file("type_cases.py");
}

int main(void) {
    start();
    test_utf8();
    test_atoms();
    test_register();
    test_table();
    test_sizes();
    test_opaque();
    test_opaque_made();
    test_refused();
    test_place();
    test_claims();
    test_caps();
    test_strings_as_bytes();
    test_refused_out();
    test_settings_out();
    test_truncated();
    run_file("terms.py");
    test_atoms_full();
    Py_DECREF(globals);
    return tap_end();
}
