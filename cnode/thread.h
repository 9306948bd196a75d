/* thread.h - a thread of our own: detached, deaf to signals.
 *
 * Any thread; no GIL.
 */
#ifndef PYNODE_THREAD_H
#define PYNODE_THREAD_H

/* Starts fn(arg), with a small stack, or with one that Python can use: 0, or an errno. */
int thread_start(void *(*fn)(void *), void *arg);
int thread_start_python(void *(*fn)(void *), void *arg);

/* Sleeps. */
void thread_pause(int ms);

#endif
