/* py_arena.h - keeps a few of the arenas that Python's allocator gives back.
 *
 * A large term fills some of Python's arenas (1 MiB each) and empties them a moment later. Without
 * this each call would unmap them, map them again and fault in every page: more than half the time
 * it takes to decode a long list of integers. Any thread; no GIL needed.
 */
#ifndef PYNODE_PY_ARENA_H
#define PYNODE_PY_ARENA_H

/* Once, before Python starts. */
void py_arena_init(void);

#endif
