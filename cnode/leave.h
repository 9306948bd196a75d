/* leave.h - how the node goes: signals, drain, and stopping in the reverse order of the start.
 *
 * The main thread's, but for leave_has_started(), leave_request(), leave_wait(), leave_kick(), leave_told()
 * and leave_drain(), which are any thread's, and leave_stop() when the main thread is stuck.
 * Without the GIL, as it waits for threads that need it.
 */
#ifndef PYNODE_LEAVE_H
#define PYNODE_LEAVE_H

#include "err.h"

#include <stdbool.h>

/* Installs the handlers. script: SIGTERM and SIGINT are left to Python. */
int leave_init(double drain_timeout, bool script, struct err *e);

/* The script's handler of SIGTERM, which is there, is called soon by the thread that calls this: Python alone does not
 * see to that when another thread gets the signal, or it comes just before the thread sleeps (CPython's
 * Modules/signalmodule.c, trip_signal()). A handler that is installed later is Python's alone. */
void leave_watch_script(void);

/* From now on requests may come: before, SIGTERM ends the process at once, with status 0. */
void leave_started(void);
bool leave_has_started(void);

/* Asks the node to drain and go, as SIGTERM does. */
void leave_request(void);

/* Whether the SIGTERM that a script has got, and hears now, was such a request; the next time: no. */
bool leave_requested(void);

/* Waits until the node is told to go, or is kicked: the main thread has something else to do. Whether it
 * is told to go; without waiting. A second SIGTERM, or SIGINT, ends the process at once. */
void leave_wait(void);
void leave_kick(void);
bool leave_told(void);

/* Lets running work finish; at once if that has been done. The second comes back before if needed() says that its
 * thread is. */
void leave_drain(void);
void leave_drain_unless(bool (*needed)(void));

/* The same in steps, for a script: no new work from here on; whether all has ended, or the
 * drain timeout has passed; a short wait. */
void leave_drain_begin(void);
bool leave_drained(void);
void leave_pause(void);

/* Gives the name back, parts from the homes, ends the threads. Whether all have ended: if not, some are in Python and
 * the interpreter must not be ended. Once; later calls answer the same. */
bool leave_stop(void);

#endif
