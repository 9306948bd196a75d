/* py_arena.c - keeps a few of the arenas that Python's allocator gives back. */
#include "config.h"

#include "py_arena.h"

#include <Python.h>
#include <pthread.h>

enum { PY_ARENA_KEPT = 8 }; /* what an idle node can have too much, in arenas */

/* A leaf: nothing is called under it. One interpreter's GIL would do, but there can be more of
 * them, each with its own. */
static pthread_mutex_t py_arena_lock = PTHREAD_MUTEX_INITIALIZER;
static void *py_arena_kept[PY_ARENA_KEPT];
static size_t py_arena_count, py_arena_size;
static PyObjectArenaAllocator py_arena_system;

static void *py_arena_alloc(void *Py_UNUSED(context), size_t size) {
    void *arena = NULL;

    pthread_mutex_lock(&py_arena_lock);
    if (py_arena_count > 0 && size == py_arena_size)
        arena = py_arena_kept[--py_arena_count];
    pthread_mutex_unlock(&py_arena_lock);
    return arena ? arena : py_arena_system.alloc(py_arena_system.ctx, size);
}

static void py_arena_free(void *Py_UNUSED(context), void *arena, size_t size) {
    pthread_mutex_lock(&py_arena_lock);
    if (py_arena_count == 0)
        py_arena_size = size;
    if (py_arena_count < PY_ARENA_KEPT && size == py_arena_size) {
        py_arena_kept[py_arena_count++] = arena;
        arena = NULL;
    }
    pthread_mutex_unlock(&py_arena_lock);
    if (arena)
        py_arena_system.free(py_arena_system.ctx, arena, size);
}

void py_arena_init(void) {
    PyObjectArenaAllocator keeper = {NULL, py_arena_alloc, py_arena_free};

    PyObject_GetArenaAllocator(&py_arena_system);
    PyObject_SetArenaAllocator(&keeper);
}
