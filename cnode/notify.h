/* notify.h - tells the service manager how the node is: ready, draining, alive.
 *
 * The protocol is that of sd_notify(3). Without a socket to tell it to nothing here does anything.
 * The main thread's, or whose the drain is; the watchdog has a thread of its own. Without the GIL.
 */
#ifndef PYNODE_NOTIFY_H
#define PYNODE_NOTIFY_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the watchdog's thread asks of Python: start and stop are called once, look each time. It
 * returns when the interpreter can be had, and not before. */
struct notify_hooks {
    void (*start)(void);
    void (*look)(void);
    void (*stop)(void);
};

/* Where to tell: a path or an @abstract name; NULL: nowhere. 0, or -1 with e. */
int notify_init(const char *socket, struct err *e);

/* The node is ready; a line that says more. */
void notify_ready(const char *status);

/* From here on says twice in each interval (microseconds; 0: never) that the node is alive, if it is:
 * that the leader goes round and that Python can be entered. 0, or -1 with e. */
int notify_watch(uint64_t interval, const struct notify_hooks *hooks, struct err *e);

/* The node drains and so many requests are left; asks for more time. As often as one likes. */
void notify_draining(size_t requests);

/* The node stops: false when the watchdog's thread has not ended within that many seconds, as the
 * interpreter cannot be had. Before lead_stop(). */
bool notify_stop(double seconds);

#endif
