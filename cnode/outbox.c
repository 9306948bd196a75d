/* outbox.c - what a connection has still to send: whole frames, in order, from any thread. */
#include "config.h"

#include "outbox.h"
#include "etf.h"

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
    o->open.len = 0;
    atomic_store_explicit(&o->bytes, 0, memory_order_relaxed);
    pthread_mutex_unlock(&o->lock);
}

bool outbox_is_closed(struct outbox *o) {
    bool closed;

    pthread_mutex_lock(&o->lock);
    closed = o->fd < 0;
    pthread_mutex_unlock(&o->lock);
    return closed;
}

void outbox_done(struct outbox *o) {
    outbox_close(o);
    outbox_free(o->spare);
    buf_done(&o->home);
    buf_done(&o->open);
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

/* A gathered frame's two numbers: its length, at its very beginning, and the list's, at the end of
 * what comes before the items. */
static void outbox_fill_in(uint8_t *frame, size_t head, size_t total, uint32_t items) {
    etf_set_be32(frame, (uint32_t)(total - 4));
    etf_set_be32(frame + head - 4, items);
}

static void outbox_close_open_locked(struct outbox *o) {
    if (o->open.len == 0)
        return;
    buf_put(&o->open, (const uint8_t[]){ETF_NIL}, 1);
    outbox_fill_in(o->open.data, o->home.len, o->open.len, o->items);
    outbox_put_locked(o, o->open.data, o->open.len);
    o->open.len = 0;
    o->items = 0;
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

/* Gathered frames. */

void outbox_set_home(struct outbox *o, struct buf *begin) {
    pthread_mutex_lock(&o->lock);
    outbox_close_open_locked(o);
    buf_done(&o->home);
    o->home = *begin;
    pthread_mutex_unlock(&o->lock);
    *begin = (struct buf){0};
}

bool outbox_gathers(struct outbox *o) {
    bool gathers;

    pthread_mutex_lock(&o->lock);
    gathers = o->home.len > 0 && o->fd >= 0;
    pthread_mutex_unlock(&o->lock);
    return gathers;
}

/* Appends a frame of one large item, which is moved. */
static void outbox_gather_large_locked(struct outbox *o, struct buf *item) {
    struct outbox_piece *piece = xmalloc(sizeof *piece);
    uint8_t *head = xmalloc(o->home.len);

    outbox_close_open_locked(o);
    memcpy(head, o->home.data, o->home.len);
    outbox_fill_in(head, o->home.len, o->home.len + item->len + 1, 1);
    outbox_put_locked(o, head, o->home.len);
    free(head);
    *piece = (struct outbox_piece){.data = item->data, .len = item->len, .cap = item->len};
    *item = (struct buf){0};
    outbox_append_locked(o, piece);
    outbox_put_locked(o, (const uint8_t[]){ETF_NIL}, 1);
}

bool outbox_gather(struct outbox *o, struct buf *item) {
    size_t more = item->len;
    bool gathered;

    pthread_mutex_lock(&o->lock);
    gathered = o->home.len > 0;
    if (gathered && o->fd >= 0) {
        if (o->open.len == 0 || item->len >= OUTBOX_MOVE)
            more += o->home.len + 1;
        atomic_fetch_add_explicit(&o->bytes, more, memory_order_relaxed);
        if (item->len >= OUTBOX_MOVE) {
            outbox_gather_large_locked(o, item);
        } else {
            if (o->open.len == 0)
                buf_put(&o->open, o->home.data, o->home.len);
            buf_put(&o->open, item->data, item->len);
            o->items++;
            if (o->open.len >= OUTBOX_PIECE)
                outbox_close_open_locked(o);
        }
    }
    pthread_mutex_unlock(&o->lock);
    if (gathered)
        item->len = 0;
    return gathered;
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
    if (atomic_load_explicit(&o->bytes, memory_order_relaxed) <= OUTBOX_PIECE)
        outbox_close_open_locked(o); /* one write sends it all */
    for (;;) {
        struct iovec iov[OUTBOX_IOV];
        struct msghdr msg = {.msg_iov = iov};
        ssize_t n;

        if (!o->head)
            outbox_close_open_locked(o);
        if (!o->head || o->fd < 0)
            break;
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
