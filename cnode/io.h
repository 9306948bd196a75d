/* io.h - what happens on the sockets: connections, listener, epmd, ticks.
 *
 * One thread at a time sees to it, the leader (lead.h). io_flush(), io_add() and io_signal() are any thread's,
 * io_signal() also a signal handler's. No GIL.
 */
#ifndef PYNODE_IO_H
#define PYNODE_IO_H

#include "conn.h"
#include "err.h"

#include <sys/epoll.h>

struct io_settings {
    int listener;         /* a listening socket; io waits for it, accept() takes what comes */
    int net_ticktime;     /* seconds */
    size_t max_frame;     /* bytes */
    void (*accept)(void); /* the listener is readable; must not block */
    void (*epmd)(void);   /* epmd has closed the connection that keeps the name */
    void (*report)(void); /* SIGUSR1: print the native state */
};

enum { IO_EVENTS = 64 };

/* What a wait has found. */
struct io_events {
    struct epoll_event list[IO_EVENTS];
    int n; /* -1: a signal came */
};

int io_init(const struct io_settings *settings, struct err *e);

/* The node stops: every leader sees that, waiting or not. */
void io_stop(void);
bool io_is_stopping(void);

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
 * before lead_stop(). */
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

/* The leader's only, what follows. */

/* A look, without a wait: whether there was something, which has been seen to. The second one is only at the connection
 * that has brought something last, without asking epoll. */
bool io_look(void);
bool io_look_hot(void);

/* A wait of so many ms, -1: without end, for events: how many there are, or -1 for a signal; and what they ask for is
 * done. Who has lost the lead in between leaves that: the new leader finds the same events. */
int io_wait(struct io_events *events, int timeout);
void io_see_to(const struct io_events *events);

/* A wait also for fd: whether io_look() will find something. fd counts as readable when a signal has come. */
bool io_wait_with(int fd, int timeout, bool *readable);

/* When something was last read, or may have been caused. */
int64_t io_traffic(void);
void io_set_traffic(int64_t now);

/* Writes what there is for all connections; what io_flush_soon() has left to others for too long: whether anything is
 * still left to them. */
void io_flush_all(void);
bool io_flush_overdue(int64_t now);

/* Homes are to hear something at another time than before (home_report_due()). */
void io_set_timer(void);

/* Calls fn for each connection: for settings->report. */
void io_list(void (*fn)(void *arg, const struct conn *c), void *arg);

#endif
