/* metrics.h - what the node tells Prometheus of itself, as text.
 *
 * Any thread, once control_init() and exec_init() have been; no GIL, so it also works while Python
 * hangs. docs/operation.md has the table. Source: Prometheus, "Exposition formats", text format 0.0.4.
 */
#ifndef PYNODE_METRICS_H
#define PYNODE_METRICS_H

#include "buf.h"

/* The type of the text, as HTTP names it. */
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Appends all figures as they are now. */
void metrics_put(struct buf *out);

/* Appends a label's value in its quotation marks. */
void metrics_put_label(struct buf *out, const char *value);

#endif
