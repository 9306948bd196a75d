/* lead.h - the threads that take turns as the leader, who sees to what happens on the sockets (io.h).
 *
 * lead_as_worker() is a worker's turn, lead_for_tasks() and lead_look_for_tasks() are the event loop's thread's; the io
 * thread (lead_start) stands in when the leader stays in Python. Who leads is in one word (leader.h). No GIL.
 */
#ifndef PYNODE_LEAD_H
#define PYNODE_LEAD_H

#include "err.h"

#include <stdbool.h>
#include <stdint.h>

/* Starts the io thread, which leads until a worker does: 0, or -1 with e. After io_init(). lead_stop() ends it and
 * every leader. */
int lead_start(struct err *e);
void lead_stop(void);

/* Worker `me` leads until requests are queued (true; it is then away and must serve them), or
 * cannot lead, as another does or the node stops (false). */
bool lead_as_worker(uint32_t me);

/* The thread of the event loop waits for something to do there (tasks_due()), for fd to be readable, or
 * for the deadline (clock_now(); 0: none). It leads meanwhile if it can: then a task runs in the thread
 * that has read it. */
void lead_for_tasks(int fd, int64_t deadline);

/* The same for a loop that sleeps elsewhere: a moment awake, before it does. Not after many tasks at once: the next
 * ones are left to a worker. Until then a worker that reads a task leaves the lead to the loop, which is to look
 * again after its turn. */
void lead_look_for_tasks(int fd, bool few);

#endif
