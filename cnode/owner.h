/* owner.h - the program ends when whoever has started it does: its standard input ends then.
 *
 * Main thread, before any other thread and before Python. A thread of its own watches from then on,
 * so that neither an import nor code that keeps the GIL can hold it up. No GIL.
 */
#ifndef PYNODE_OWNER_H
#define PYNODE_OWNER_H

#include "err.h"

/* Takes the standard input away from the program, which gets /dev/null in its place, and ends
 * the process with what Python has started when it ends: 0, or -1 with e. */
int owner_start(struct err *e);

#endif
