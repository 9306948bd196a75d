/* thread.h - a short-lived thread of our own: detached, with a small stack, deaf to signals.
 *
 * Any thread; no GIL.
 */
#ifndef PYNODE_THREAD_H
#define PYNODE_THREAD_H

/* Starts fn(arg): 0, or an errno. */
int thread_start(void *(*fn)(void *), void *arg);

/* Sleeps. */
void thread_pause(int ms);

#endif
