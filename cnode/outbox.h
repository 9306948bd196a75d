/* outbox.h - what a connection has still to send: whole frames, in order, from any thread.
 *
 * Everything leaves through here (replies, ticks, monitor exits), so no byte lands inside
 * another frame. outbox_put() only appends; outbox_flush() writes as much as the socket takes.
 * Its lock is a leaf: nothing else is locked and no Python runs inside. No GIL.
 */
#ifndef PYNODE_OUTBOX_H
#define PYNODE_OUTBOX_H

#include "buf.h"

#include <pthread.h>
#include <stdatomic.h>

enum outbox_result { OUTBOX_EMPTY, OUTBOX_FULL, OUTBOX_BROKEN };

struct outbox_piece;

struct outbox {
    pthread_mutex_t lock; /* guards all below but bytes and sent */
    int fd;               /* -1 once closed: whatever is put then is dropped */
    struct outbox_piece *head, *tail;
    struct outbox_piece *spare;
    _Atomic size_t bytes;  /* waiting; read without the lock */
    _Atomic uint64_t sent; /* bytes written so far; the tick timer looks whether it moved */
};

void outbox_init(struct outbox *o, int fd);

/* Drops what is left. The descriptor stays the caller's. */
void outbox_close(struct outbox *o);
void outbox_done(struct outbox *o);

/* Appends len bytes: whole frames only. */
void outbox_put(struct outbox *o, const void *data, size_t len);

/* Appends all of b and leaves it empty; a large one is moved, not copied. */
void outbox_put_buf(struct outbox *o, struct buf *b);

/* Writes until nothing is left (EMPTY), the socket is full (FULL) or fails (BROKEN). */
enum outbox_result outbox_flush(struct outbox *o);

#endif
