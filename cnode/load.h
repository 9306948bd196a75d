/* load.h - what being loaded costs: how long the GIL is waited for, how much memory there is.
 *
 * Any thread; atomics, no lock; no GIL.
 */
#ifndef PYNODE_LOAD_H
#define PYNODE_LOAD_H

#include "clock.h"

/* A thread is about to take the GIL, and has taken it. */
int64_t load_entering(void);
void load_entered(int64_t since);

/* Microseconds that a thread which wants the GIL waits for it at present, estimated: the longest wait of late,
 * in full for a second or two, then a 256th of that with each second; or how long nobody has got it of
 * those who wait now, if that is more. 0 when nobody has wanted it for a while. Only workers and the event loop
 * are measured, each time that they enter Python: two looks at the clock. */
uint64_t load_gil_wait(int64_t now);

/* Bytes of the process in memory; 0 when the system does not say. */
uint64_t load_rss(void);

#endif
