/* outbox.c - what a connection has still to send: whole frames, in order, from any thread. */
#include "config.h"

#include "outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    OUTBOX_PIECE = 32 << 10, /* bytes of a piece that collects small frames */
    OUTBOX_MOVE = 16 << 10,  /* from here on a buffer is moved instead of copied */
    OUTBOX_IOV = 32,
};

/* A run of bytes to send: either collected in place or moved in from a struct buf. */
struct outbox_piece {
    struct outbox_piece *next;
    uint8_t *data;
    size_t len, cap, done;
    uint8_t place[];
};

void outbox_init(struct outbox *o, int fd) {
    *o = (struct outbox){.fd = fd};
    pthread_mutex_init(&o->lock, NULL);
}

static void outbox_free(struct outbox_piece *piece) {
    if (piece && piece->data != piece->place)
        free(piece->data);
    free(piece);
}

void outbox_close(struct outbox *o) {
    pthread_mutex_lock(&o->lock);
    o->fd = -1;
    while (o->head) {
        struct outbox_piece *piece = o->head;

        o->head = piece->next;
        outbox_free(piece);
    }
    o->tail = NULL;
    atomic_store_explicit(&o->bytes, 0, memory_order_relaxed);
    pthread_mutex_unlock(&o->lock);
}

void outbox_done(struct outbox *o) {
    outbox_close(o);
    outbox_free(o->spare);
    pthread_mutex_destroy(&o->lock);
}

static void outbox_append_locked(struct outbox *o, struct outbox_piece *piece) {
    piece->next = NULL;
    if (o->tail)
        o->tail->next = piece;
    else
        o->head = piece;
    o->tail = piece;
}

/* A piece with room for small frames: the spare one, or a new one. */
static struct outbox_piece *outbox_piece_locked(struct outbox *o) {
    struct outbox_piece *piece = o->spare;

    o->spare = NULL;
    if (!piece)
        piece = xmalloc(sizeof *piece + OUTBOX_PIECE);
    *piece = (struct outbox_piece){.data = piece->place, .cap = OUTBOX_PIECE};
    return piece;
}

static void outbox_put_locked(struct outbox *o, const uint8_t *data, size_t len) {
    while (len > 0) {
        struct outbox_piece *piece = o->tail;
        size_t n;

        if (!piece || piece->len == piece->cap) {
            piece = outbox_piece_locked(o);
            outbox_append_locked(o, piece);
        }
        n = piece->cap - piece->len < len ? piece->cap - piece->len : len;
        memcpy(piece->data + piece->len, data, n);
        piece->len += n;
        data += n;
        len -= n;
    }
}

void outbox_put(struct outbox *o, const void *data, size_t len) {
    pthread_mutex_lock(&o->lock);
    if (o->fd >= 0) {
        outbox_put_locked(o, data, len);
        atomic_fetch_add_explicit(&o->bytes, len, memory_order_relaxed);
    }
    pthread_mutex_unlock(&o->lock);
}

void outbox_put_buf(struct outbox *o, struct buf *b) {
    struct outbox_piece *piece;

    if (b->len < OUTBOX_MOVE) {
        outbox_put(o, b->data, b->len);
        b->len = 0;
        return;
    }
    piece = xmalloc(sizeof *piece);
    *piece = (struct outbox_piece){.data = b->data, .len = b->len, .cap = b->len};
    *b = (struct buf){0};
    pthread_mutex_lock(&o->lock);
    if (o->fd >= 0) {
        outbox_append_locked(o, piece);
        atomic_fetch_add_explicit(&o->bytes, piece->len, memory_order_relaxed);
        piece = NULL;
    }
    pthread_mutex_unlock(&o->lock);
    outbox_free(piece);
}

/* Takes n written bytes off the front. */
static void outbox_advance_locked(struct outbox *o, size_t n) {
    atomic_fetch_sub(&o->bytes, n); /* before conn_release() looks at held */
    atomic_fetch_add_explicit(&o->sent, n, memory_order_relaxed);
    while (n > 0) {
        struct outbox_piece *piece = o->head;
        size_t left = piece->len - piece->done;

        if (n < left) {
            piece->done += n;
            return;
        }
        n -= left;
        o->head = piece->next;
        if (!o->head)
            o->tail = NULL;
        if (!o->spare && piece->data == piece->place)
            o->spare = piece;
        else
            outbox_free(piece);
    }
}

enum outbox_result outbox_flush(struct outbox *o) {
    enum outbox_result result = OUTBOX_EMPTY;

    pthread_mutex_lock(&o->lock);
    while (o->head && o->fd >= 0) {
        struct iovec iov[OUTBOX_IOV];
        struct msghdr msg = {.msg_iov = iov};
        ssize_t n;

        for (struct outbox_piece *p = o->head; p && msg.msg_iovlen < OUTBOX_IOV; p = p->next)
            iov[msg.msg_iovlen++] = (struct iovec){p->data + p->done, p->len - p->done};
        n = sendmsg(o->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            result = errno == EAGAIN || errno == EWOULDBLOCK ? OUTBOX_FULL : OUTBOX_BROKEN;
            break;
        }
        outbox_advance_locked(o, (size_t)n);
    }
    pthread_mutex_unlock(&o->lock);
    return result;
}
