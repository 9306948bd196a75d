/* py_worker.h - what a thread of the pool does with requests: decode, call, encode, answer.
 *
 * The hooks of exec.h; each runs on the worker's own thread.
 */
#ifndef PYNODE_PY_WORKER_H
#define PYNODE_PY_WORKER_H

#include "exec.h"

extern const struct exec_hooks py_worker_hooks;

#endif
