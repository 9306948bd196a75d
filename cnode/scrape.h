/* scrape.h - with --metrics: answers who asks for the metrics, over HTTP.
 *
 * One thread of its own does all of it, so that neither the leader is held up by it nor Python can hold
 * it up. Main thread, at the start; no GIL.
 */
#ifndef PYNODE_SCRAPE_H
#define PYNODE_SCRAPE_H

#include "err.h"

/* Listens at this address, a number, and port; 0: any. 0, or -1 with e. */
int scrape_listen(const char *address, int port, struct err *e);

/* Answers from here on, until the process ends: 0, or -1 with e. put appends the text of that type. */
struct buf;
int scrape_start(void (*put)(struct buf *out), const char *type, struct err *e);

#endif
