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
    struct buf home; /* how a gathered frame begins, up to and with its list's head; or empty */
    struct buf open; /* the gathered frame that is not closed yet */
    uint32_t items;  /* in it */
    _Atomic size_t bytes;  /* waiting; read without the lock */
    _Atomic uint64_t sent; /* bytes written so far; the tick timer looks whether it moved */
};

void outbox_init(struct outbox *o, int fd);

/* Drops what is left. The descriptor stays the caller's. */
void outbox_close(struct outbox *o);
bool outbox_is_closed(struct outbox *o);
void outbox_done(struct outbox *o);

/* Appends len bytes: whole frames only. */
void outbox_put(struct outbox *o, const void *data, size_t len);

/* Appends all of b and leaves it empty; a large one is moved, not copied. */
void outbox_put_buf(struct outbox *o, struct buf *b);

/* Items for one process of the peer's are gathered: they are the elements of a list, which is one
 * message, closed by whoever writes it. begin is the frame's beginning with the list's head, whose
 * numbers are filled in when it is closed; taken; empty: nothing is gathered from now on. */
void outbox_set_home(struct outbox *o, struct buf *begin);
bool outbox_gathers(struct outbox *o); /* false, too, when it is closed */

/* Appends one term to the gathered frame and empties item: false, and item is as it was, when
 * nothing is gathered here. A large one is moved, not copied. */
bool outbox_gather(struct outbox *o, struct buf *item);

/* Writes until nothing is left (EMPTY), the socket is full (FULL) or fails (BROKEN). */
enum outbox_result outbox_flush(struct outbox *o);

#endif
