/* py_backedge.c - gives the back edges of loops the exception handlers that CPython leaves out. */
#include "config.h"

#include "py_backedge.h"

#if PY_VERSION_HEX < 0x030f0000

#include "buf.h"

#include <opcode.h>
#include <stdlib.h>

/* The exception table of a code object: entries in order of their start, each four numbers of six bits a byte, high
 * ones first. Source: CPython, InternalDocs/exception_handling.md; a code unit is two bytes of co_code. */
enum {
    PY_BACKEDGE_FIRST = 0x80,
    PY_BACKEDGE_MORE = 0x40,
    PY_BACKEDGE_BITS = 6,
    PY_BACKEDGE_MASK = 0x3f
};

struct py_backedge_entry {
    uint32_t start, size; /* code units that it covers */
    uint32_t handler, depth;
};

struct py_backedge_table {
    struct py_backedge_entry *entries;
    size_t len;
};

static uint32_t py_backedge_read(const uint8_t **at, const uint8_t *end) {
    uint32_t value = 0;
    uint8_t byte = PY_BACKEDGE_MORE;

    while (*at < end && byte & PY_BACKEDGE_MORE) {
        byte = *(*at)++;
        value = value << PY_BACKEDGE_BITS | (byte & PY_BACKEDGE_MASK);
    }
    return value;
}

static void py_backedge_parse(PyObject *bytes, struct py_backedge_table *table) {
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(bytes);
    const uint8_t *end = at + PyBytes_GET_SIZE(bytes);

    table->entries = xmalloc(((size_t)(end - at) / 4 + 1) * sizeof *table->entries);
    for (table->len = 0; at < end; table->len++) {
        struct py_backedge_entry *e = &table->entries[table->len];

        e->start = py_backedge_read(&at, end);
        e->size = py_backedge_read(&at, end);
        e->handler = py_backedge_read(&at, end);
        e->depth = py_backedge_read(&at, end);
    }
}

static void py_backedge_write(struct buf *out, uint32_t value, uint8_t first) {
    int shift = 0;

    while (value >> shift > PY_BACKEDGE_MASK)
        shift += PY_BACKEDGE_BITS;
    for (; shift >= 0; shift -= PY_BACKEDGE_BITS, first = 0) {
        uint8_t more = shift > 0 ? PY_BACKEDGE_MORE : 0;
        uint8_t byte = (uint8_t)(first | more | (value >> shift & PY_BACKEDGE_MASK));

        buf_put(out, &byte, 1);
    }
}

/* The table's bytes: a new reference. */
static PyObject *py_backedge_format(const struct py_backedge_table *table) {
    struct buf out = {0};
    PyObject *bytes;

    for (size_t i = 0; i < table->len; i++) {
        const struct py_backedge_entry *e = &table->entries[i];

        py_backedge_write(&out, e->start, PY_BACKEDGE_FIRST);
        py_backedge_write(&out, e->size, 0);
        py_backedge_write(&out, e->handler, 0);
        py_backedge_write(&out, e->depth, 0);
    }
    bytes = PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.len);
    buf_done(&out);
    return bytes;
}

/* Whether what is at that unit is covered as e says. */
static bool py_backedge_is_covered(const struct py_backedge_table *table, uint32_t unit,
                                   const struct py_backedge_entry *e) {
    for (size_t i = 0; i < table->len; i++) {
        const struct py_backedge_entry *other = &table->entries[i];

        if (other->start <= unit && unit - other->start < other->size)
            return other->handler == e->handler && other->depth == e->depth;
    }
    return false;
}

#if PY_VERSION_HEX >= 0x030d0000

static bool py_backedge_is_condition(uint8_t opcode) {
    return opcode == POP_JUMP_IF_FALSE || opcode == POP_JUMP_IF_TRUE ||
           opcode == POP_JUMP_IF_NONE || opcode == POP_JUMP_IF_NOT_NONE;
}

/* How many units the jump back takes that comes right behind what e covers, with the jump over it, if it leads to where
 * e's handler is: then it is of a loop in the same block. Else 0. */
static uint32_t py_backedge_hole(const struct py_backedge_table *table,
                                 const struct py_backedge_entry *e, const uint8_t *code,
                                 uint32_t units) {
    uint32_t begin = e->start + e->size, at = begin, distance = 0;

    if (at < units && py_backedge_is_condition(code[2 * at]))
        at += 2; /* the instruction, and its cache */
#ifdef NOT_TAKEN
    if (at < units && code[2 * at] == NOT_TAKEN)
        at++;
#endif
    while (at < units && code[2 * at] == EXTENDED_ARG)
        distance = distance << 8 | code[2 * at++ + 1];
    if (at + 1 >= units || code[2 * at] != JUMP_BACKWARD)
        return 0;
    distance = distance << 8 | code[2 * at + 1];
    at += 2; /* and its cache */
    if (distance > at || (e + 1 < table->entries + table->len && e[1].start < at))
        return 0;
    return py_backedge_is_covered(table, at - distance, e) ? at - begin : 0;
}

/* Of a conditional jump back the compiler makes two instructions, and covers only the first of them, or none. */
static bool py_backedge_fill(struct py_backedge_table *table, const uint8_t *code, uint32_t units) {
    bool found = false;

    for (size_t i = 0; i < table->len; i++) {
        uint32_t hole = py_backedge_hole(table, &table->entries[i], code, units);

        table->entries[i].size += hole;
        found = found || hole > 0;
    }
    return found;
}

#else

static bool py_backedge_is_jump(uint8_t opcode) {
#ifdef POP_JUMP_BACKWARD_IF_TRUE
    if (opcode == POP_JUMP_BACKWARD_IF_TRUE || opcode == POP_JUMP_BACKWARD_IF_FALSE ||
        opcode == POP_JUMP_BACKWARD_IF_NONE || opcode == POP_JUMP_BACKWARD_IF_NOT_NONE)
        return true;
#endif
    return opcode == JUMP_BACKWARD;
}

/* Whether a jump back that e covers, or another entry of its handler, leads to its start. */
static bool py_backedge_begins_loop(const struct py_backedge_table *table,
                                    const struct py_backedge_entry *e, const uint8_t *code,
                                    uint32_t units) {
    uint32_t distance = 0;

    for (uint32_t at = e->start; at < units; at++) {
        uint32_t end = at + 1;

        distance = distance << 8 | code[2 * at + 1];
        if (code[2 * at] == EXTENDED_ARG)
            continue;
        while (end < units && code[2 * end] == CACHE)
            end++;
        if (py_backedge_is_jump(code[2 * at]) && end - e->start == distance &&
            py_backedge_is_covered(table, at, e))
            return true;
        distance = 0;
    }
    return false;
}

/* What is raised at a jump back counts as raised in front of where that leads. When a block begins with its loop, that
 * is the instruction of `try`, which does nothing and raises nothing itself. */
static bool py_backedge_fill(struct py_backedge_table *table, const uint8_t *code, uint32_t units) {
    bool found = false;

    for (size_t i = 0; i < table->len; i++) {
        struct py_backedge_entry *e = &table->entries[i], *before = i > 0 ? e - 1 : NULL;

        if (e->start == 0 || e->start > units || code[2 * (e->start - 1)] != NOP ||
            !py_backedge_begins_loop(table, e, code, units))
            continue;
        if (before && before->start + before->size == e->start)
            before->size--; /* to none, it may be: then it is found by nobody */
        e->start--;
        e->size++;
        found = true;
    }
    return found;
}

#endif

/* In place: the frames that run it look there. */
static void py_backedge_cover_code(PyCodeObject *code) {
    struct py_backedge_table table = {0};
    PyObject *bytes = NULL, *whole = NULL;

    if (PyBytes_GET_SIZE(code->co_exceptiontable) == 0)
        return;
    bytes = PyCode_GetCode(code);
    if (!bytes)
        return;
    py_backedge_parse(code->co_exceptiontable, &table);
    if (py_backedge_fill(&table, (const uint8_t *)PyBytes_AS_STRING(bytes),
                         (uint32_t)(PyBytes_GET_SIZE(bytes) / 2)))
        whole = py_backedge_format(&table);
    if (whole)
        Py_SETREF(code->co_exceptiontable, whole);
    free(table.entries);
    Py_DECREF(bytes);
}

void py_backedge_cover(PyObject *frame) {
    PyFrameObject *at = (PyFrameObject *)Py_XNewRef(frame);

    while (at) {
        PyCodeObject *code = PyFrame_GetCode(at);

        py_backedge_cover_code(code);
        Py_DECREF(code);
        Py_SETREF(at, PyFrame_GetBack(at));
    }
    PyErr_Clear();
}

#else

void py_backedge_cover(PyObject *frame) {
    (void)frame;
}

#endif
