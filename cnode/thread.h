/* thread.h - a thread of our own: detached, deaf to signals.
 *
 * Any thread; no GIL.
 */
#ifndef PYNODE_THREAD_H
#define PYNODE_THREAD_H

#include <stdbool.h>
#include <sys/types.h>

/* Starts fn(arg), with a small stack, or with one that Python can use: 0, or an errno. */
int thread_start(void *(*fn)(void *), void *arg);
int thread_start_python(void *(*fn)(void *), void *arg);

/* The calling thread, as the kernel names it. */
pid_t thread_id(void);

/* Whether that thread of this process runs, or only waits for a processor: about 10 us. */
bool thread_is_runnable(pid_t id);

/* Sleeps. */
void thread_pause(int ms);

#endif
