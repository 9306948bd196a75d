/* py_atom.c - the node's atom table: one Atom object a name, found by its UTF-8 bytes.
 *
 * Open addressing over the bytes themselves, with a hash of our own: a known atom costs one
 * look at its bytes and no Python object. Slots are never freed while the node runs.
 */
#include "config.h"

#include "py_atom.h"
#include "py_types.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct py_atom_slot {
    PyObject *atom;   /* NULL: free; owned */
    const char *name; /* UTF-8, kept by the Atom itself */
    size_t len;
    uint64_t hash;
};

enum { PY_ATOM_FIRST = 1024 }; /* slots; always a power of two */

static struct py_atom_slot *py_atom_slots;
static size_t py_atom_size, py_atom_used, py_atom_max;
static uint64_t py_atom_seed;

/* Seeded, so that nobody can choose names that all fall into one slot. */
static uint64_t py_atom_hash(struct slice name) {
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    uint64_t hash = py_atom_seed ^ (name.len * odd), word;
    size_t i = 0;

    for (; i + 8 <= name.len; i += 8) {
        memcpy(&word, name.data + i, 8);
        hash = (hash ^ word) * odd;
        hash ^= hash >> 32;
    }
    for (word = 0; i < name.len; i++)
        word = word << 8 | name.data[i];
    hash = (hash ^ word) * odd;
    return hash ^ hash >> 29;
}

int py_atom_init(size_t max_atoms) {
    if (getentropy(&py_atom_seed, sizeof py_atom_seed) < 0)
        py_atom_seed = (uint64_t)time(NULL) * 1000003u ^ (uint64_t)getpid();
    py_atom_slots = PyMem_Calloc(PY_ATOM_FIRST, sizeof *py_atom_slots);
    if (!py_atom_slots) {
        PyErr_NoMemory();
        return -1;
    }
    py_atom_size = PY_ATOM_FIRST;
    py_atom_used = 0;
    py_atom_max = max_atoms;
    return 0;
}

void py_atom_done(void) {
    for (size_t i = 0; i < py_atom_size; i++)
        Py_XDECREF(py_atom_slots[i].atom);
    PyMem_Free(py_atom_slots);
    py_atom_slots = NULL;
    py_atom_size = py_atom_used = 0;
}

size_t py_atom_count(void) {
    return py_atom_used;
}

/* The name's slot, or the free one where it belongs. */
static struct py_atom_slot *py_atom_find(struct slice name, uint64_t hash) {
    size_t mask = py_atom_size - 1, i = hash & mask;
    struct py_atom_slot *slot;

    for (;; i = (i + 1) & mask) {
        slot = &py_atom_slots[i];
        if (!slot->atom)
            return slot;
        if (slot->hash == hash && slot->len == name.len &&
            memcmp(slot->name, name.data, name.len) == 0)
            return slot;
    }
}

/* Doubles the table: 0, or -1 with MemoryError and the table as it was. */
static int py_atom_grow(void) {
    struct py_atom_slot *old = py_atom_slots;
    size_t size = py_atom_size, i, at;

    py_atom_slots = PyMem_Calloc(size * 2, sizeof *py_atom_slots);
    if (!py_atom_slots) {
        py_atom_slots = old;
        PyErr_NoMemory();
        return -1;
    }
    py_atom_size = size * 2;
    for (i = 0; i < size; i++) {
        if (!old[i].atom)
            continue;
        for (at = old[i].hash & (py_atom_size - 1); py_atom_slots[at].atom;)
            at = (at + 1) & (py_atom_size - 1);
        py_atom_slots[at] = old[i];
    }
    PyMem_Free(old);
    return 0;
}

/* New str of the name, or ValueError in words of our own. */
static PyObject *py_atom_text(struct slice name) {
    PyObject *text = PyUnicode_DecodeUTF8((const char *)name.data, (Py_ssize_t)name.len, "strict");

    if (!text) {
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            PyErr_SetString(PyExc_ValueError, "atom is not valid UTF-8");
        }
        return NULL;
    }
    if (PyUnicode_GET_LENGTH(text) > PY_ATOM_CHARS) {
        Py_DECREF(text);
        PyErr_Format(PyExc_ValueError, "atom is longer than %d characters", PY_ATOM_CHARS);
        return NULL;
    }
    return text;
}

/* Adds a name that the table does not have. */
static PyObject *py_atom_add(struct slice name, uint64_t hash) {
    PyObject *text = NULL, *atom = NULL;
    struct py_atom_slot *slot;
    const char *utf8;
    Py_ssize_t len;

    if (py_atom_used >= py_atom_max) {
        PyErr_Format(PyExc_ValueError, "atom table is full (--max-atoms %zu)", py_atom_max);
        return NULL;
    }
    text = py_atom_text(name);
    atom = text ? py_types_atom_new(text) : NULL;
    Py_XDECREF(text);
    utf8 = atom ? PyUnicode_AsUTF8AndSize(atom, &len) : NULL;
    if (!utf8 || (py_atom_used * 2 >= py_atom_size && py_atom_grow() < 0)) {
        Py_XDECREF(atom);
        return NULL;
    }
    /* Looked up again: making the object may have run a finalizer that interned atoms. */
    slot = py_atom_find(name, hash);
    if (slot->atom) {
        Py_DECREF(atom);
    } else {
        *slot = (struct py_atom_slot){atom, utf8, (size_t)len, hash};
        py_atom_used++;
    }
    return Py_NewRef(slot->atom);
}

PyObject *py_atom_intern(struct slice utf8) {
    uint64_t hash = py_atom_hash(utf8);
    struct py_atom_slot *slot = py_atom_find(utf8, hash);

    return slot->atom ? Py_NewRef(slot->atom) : py_atom_add(utf8, hash);
}

PyObject *py_atom_decode(struct slice utf8) {
    switch (utf8.len) {
    case 3:
        if (memcmp(utf8.data, "nil", 3) == 0)
            return Py_NewRef(Py_None);
        break;
    case 4:
        if (memcmp(utf8.data, "true", 4) == 0)
            return Py_NewRef(Py_True);
        if (memcmp(utf8.data, "none", 4) == 0)
            return Py_NewRef(Py_None);
        break;
    case 5:
        if (memcmp(utf8.data, "false", 5) == 0)
            return Py_NewRef(Py_False);
        break;
    case 9:
        if (memcmp(utf8.data, "undefined", 9) == 0)
            return Py_NewRef(Py_None);
        break;
    default:
        break;
    }
    return py_atom_intern(utf8);
}
