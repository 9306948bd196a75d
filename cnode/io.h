/* io.h - the event loop: sockets, listener, epmd, ticks; led by a worker or by the io thread.
 *
 * io_lead() is a worker's turn as leader; the io thread (io_start) stands in when the leader
 * stays in Python. io_flush(), io_add() and io_signal() are any thread's, io_signal() also a
 * signal handler's. No GIL.
 */
#ifndef PYNODE_IO_H
#define PYNODE_IO_H

#include "conn.h"
#include "err.h"

struct io_settings {
    int listener;         /* a listening socket; io waits for it, accept() takes what comes */
    int net_ticktime;     /* seconds */
    size_t max_frame;     /* bytes */
    void (*accept)(void); /* the listener is readable; must not block */
    void (*epmd)(void);   /* epmd has closed the connection that keeps the name */
    void (*report)(void); /* SIGUSR1: print the native state */
};

int io_init(const struct io_settings *settings, struct err *e);

/* Starts the io thread: 0, or -1 with e. io_stop() ends it and every leader. */
int io_start(struct err *e);
void io_stop(void);

/* Worker `me` leads until requests are queued (true; it is then away and must serve them), or
 * cannot lead, as another does or the node stops (false). */
bool io_lead(uint32_t me);

/* The thread of the event loop waits for something to do there (tasks_due()), for fd to be readable, or
 * for the deadline (clock_now(); 0: none). It leads meanwhile if it can: then a task runs in the thread
 * that has read it. */
void io_wait_tasks(int fd, int64_t deadline);

/* The same for a loop that sleeps elsewhere: a moment awake, before it does. Not after many tasks at once: the next
 * ones are left to a worker. Until then a worker that reads a task leaves the lead to the loop, which is to look
 * again after its turn. */
void io_look_for_tasks(int fd, bool few);

/* A connection that has shaken hands; taken. One to the same peer that is there already is
 * closed: the peer would not have come again if it still were alive. */
void io_add(struct conn *c);

/* Writes what c's outbox holds; what the socket does not take now the leader writes later. */
void io_flush(struct conn *c);

/* The same before long: somebody else is about to write more into it. The leader sees to it if not. */
void io_flush_soon(struct conn *c);

/* Waits while so much is in c's outbox that its peer is not served: for a thread that sends of its
 * own accord, outside Python. False when a signal came before. */
bool io_wait_room(struct conn *c);

/* The connection to a peer: counted, or NULL. Whether any has something left to send. */
struct conn *io_find(const char *peer);
bool io_pending(void);

/* How many connections there are. */
int io_count(void);

/* Wakes the leader: something was queued by a thread that is not the leader. */
void io_kick(void);

/* Waits until the leader, whoever that is, has gone round once: it answers wake-ups. For one thread,
 * before io_stop(). */
void io_go_round(void);

/* Whether this is a child of the process that the node is: it has none of the node's threads, and
 * its copies of the node's descriptors were closed, for peers must see the node go. */
bool io_forked(void);

/* Watches fd, which keeps the name at epmd, for its end; -1: no more. */
void io_watch_epmd(int fd);

/* Pauses or resumes accepting. Any thread. */
void io_set_accepting(bool accepting);

/* Wakes the leader for SIGUSR1 (report) or SIGHUP (log_reopen). Async-signal-safe. */
void io_signal(int signo);

/* Calls fn for each connection. The leader's only, so from settings->report. */
void io_list(void (*fn)(void *arg, const struct conn *c), void *arg);

#endif
