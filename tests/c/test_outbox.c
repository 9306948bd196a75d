/* test_outbox.c - the outbox: order, large and small, a full and a broken socket, many threads. */
#include "config.h"

#include "outbox.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

enum { THREADS = 4, FRAMES = 3000, MIB = 1 << 20 };

static int ours, theirs; /* the two ends of a socket */

static void open_pair(struct outbox *o) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        tap_bail("no socket pair");
    ours = fds[0];
    theirs = fds[1];
    outbox_init(o, ours);
}

static void close_pair(struct outbox *o) {
    outbox_done(o);
    close(ours);
    if (theirs >= 0)
        close(theirs);
}

/* Reads what is there, up to size bytes, without waiting. */
static size_t read_some(void *data, size_t size) {
    size_t len = 0;
    ssize_t n;

    while (len < size && (n = recv(theirs, (char *)data + len, size - len, MSG_DONTWAIT)) > 0)
        len += (size_t)n;
    return len;
}

/* A byte that says where in the stream it is. */
static uint8_t byte_at(size_t i) {
    return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

/* Allocates the n bytes of the stream that begin at from. */
static uint8_t *stream(size_t from, size_t n) {
    uint8_t *p = xmalloc(n);
    size_t i;

    for (i = 0; i < n; i++)
        p[i] = byte_at(from + i);
    return p;
}

static size_t waiting(struct outbox *o) {
    return atomic_load(&o->bytes);
}

static void test_small(void) {
    struct outbox o;
    char data[64];

    open_pair(&o);
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "nothing to send");
    outbox_put(&o, "abc", 3);
    outbox_put(&o, "", 0);
    outbox_put(&o, "defg", 4);
    is_int(waiting(&o), 7, "7 bytes wait");
    is_int(read_some(data, sizeof data), 0, "putting sends nothing");
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "flushed");
    is_mem(data, read_some(data, sizeof data), "abcdefg", 7, "what was put, in order");
    is_int(waiting(&o), 0, "none waits");
    is_int(atomic_load(&o.sent), 7, "7 bytes are sent");
    outbox_put(&o, "h", 1);
    outbox_flush(&o);
    is_mem(data, read_some(data, sizeof data), "h", 1, "and on");
    is_int(atomic_load(&o.sent), 8, "sent counts on");
    close_pair(&o);
}

/* A small buffer keeps its memory for the next frame, a large one gives it away. */
static void test_buf(void) {
    struct outbox o;
    struct buf b = {0};
    char data[64];
    uint8_t *kept, *got, *want;

    open_pair(&o);
    outbox_put_buf(&o, &b);
    is_int(waiting(&o), 0, "an empty buffer adds nothing");
    buf_put(&b, "small", 5);
    kept = b.data;
    outbox_put_buf(&o, &b);
    ok(b.len == 0 && b.data == kept, "a small buffer is copied and left empty");
    outbox_flush(&o);
    is_mem(data, read_some(data, sizeof data), "small", 5, "and sent");

    want = stream(0, 100000);
    got = xmalloc(100000);
    outbox_put(&o, want, 10);
    buf_put(&b, want + 10, 99980);
    outbox_put_buf(&o, &b);
    ok(b.len == 0 && b.cap == 0 && !b.data, "a large one is moved");
    outbox_put(&o, want + 99990, 10);
    is_int(waiting(&o), 100000, "all of it waits");
    outbox_flush(&o);
    is_mem(got, read_some(got, 100000), want, 100000, "small, large, small keep their order");
    free(want);
    free(got);
    buf_done(&b);
    close_pair(&o);
}

/* The socket takes a part: the rest follows when the peer has read, each byte once. */
static void test_full(void) {
    struct outbox o;
    size_t total = 8 * MIB, len = 0, rounds = 0;
    uint8_t *want = stream(0, total), *got = xmalloc(total);
    struct buf b = {0};
    enum outbox_result result;

    open_pair(&o);
    outbox_put(&o, want, MIB);
    buf_put(&b, want + MIB, 6 * MIB);
    outbox_put_buf(&o, &b);
    outbox_put(&o, want + 7 * MIB, MIB);
    result = outbox_flush(&o);
    is_int(result, OUTBOX_FULL, "a socket that nobody reads is full");
    ok(waiting(&o) > 0 && waiting(&o) < total, "a part has left");
    is_int(atomic_load(&o.sent) + waiting(&o), total, "sent and waiting are all");
    is_int(outbox_flush(&o), OUTBOX_FULL, "still full");
    while (result == OUTBOX_FULL && rounds++ < total) {
        len += read_some(got + len, total - len);
        result = outbox_flush(&o);
    }
    len += read_some(got + len, total - len);
    is_int(result, OUTBOX_EMPTY, "empty in the end");
    is_mem(got, len, want, total, "the peer has each byte once, in order");
    is_int(atomic_load(&o.sent), total, "all are counted");
    free(want);
    free(got);
    close_pair(&o);
}

static void test_broken(void) {
    struct outbox o;

    open_pair(&o);
    close(theirs);
    theirs = -1;
    outbox_put(&o, "x", 1);
    is_int(outbox_flush(&o), OUTBOX_BROKEN, "a peer that is gone, and no SIGPIPE");
    is_int(outbox_flush(&o), OUTBOX_BROKEN, "stays gone");
    close_pair(&o);
}

static void test_close(void) {
    struct outbox o;
    struct buf b = {0};
    char data[64];

    open_pair(&o);
    outbox_put(&o, "never sent", 10);
    outbox_close(&o);
    is_int(waiting(&o), 0, "closing drops what waits");
    outbox_put(&o, "x", 1);
    buf_put(&b, "y", 1);
    outbox_put_buf(&o, &b);
    is_int(b.len, 0, "a buffer is emptied all the same");
    is_int(buf_reserve(&b, 50000), 0, "room");
    b.len = 50000;
    memset(b.data, 'z', b.len);
    outbox_put_buf(&o, &b);
    is_int(waiting(&o), 0, "what comes later is dropped");
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "there is nothing to flush");
    is_int(read_some(data, sizeof data), 0, "the peer gets nothing");
    ok(fcntl(ours, F_GETFD) >= 0, "the descriptor is still the caller's");
    outbox_close(&o);
    buf_done(&b);
    close_pair(&o);
}

/* A frame of the threaded test: length, thread, number, then bytes that follow from them. */
struct head {
    uint32_t len, thread, number;
};

static struct outbox shared;
static bool broken_flush[THREADS];

static uint32_t frame_len(uint32_t thread, uint32_t number) {
    return number % 100 == 0 ? 40000 + thread : sizeof(struct head) + (number * 7 + thread) % 200;
}

/* Puts frames in both ways and flushes after some, as workers do. */
static void *putter_main(void *arg) {
    uint32_t me = *(uint32_t *)arg, i;
    struct buf b = {0};

    for (i = 0; i < FRAMES; i++) {
        struct head h = {frame_len(me, i), me, i};

        buf_put(&b, &h, sizeof h);
        if (buf_reserve(&b, h.len) < 0)
            break;
        memset(b.data + b.len, (int)(i & 0xff), h.len - sizeof h);
        b.len += h.len - sizeof h;
        if (i % 2) {
            outbox_put(&shared, b.data, b.len);
            b.len = 0;
        } else {
            outbox_put_buf(&shared, &b);
        }
        if (i % 3 == 0 && outbox_flush(&shared) == OUTBOX_BROKEN)
            broken_flush[me] = true;
    }
    buf_done(&b);
    return NULL;
}

/* Reads exactly n bytes, flushing on behalf of the writers while the peer has nothing. */
static bool read_exactly(void *data, size_t n) {
    size_t len = 0;

    while (len < n) {
        size_t more = read_some((char *)data + len, n - len);
        struct pollfd p = {.fd = theirs, .events = POLLIN};

        len += more;
        if (more == 0 && outbox_flush(&shared) == OUTBOX_BROKEN)
            return false;
        if (more == 0 && waiting(&shared) == 0 && poll(&p, 1, 10000) != 1)
            return false;
    }
    return true;
}

static void test_threads(void) {
    pthread_t threads[THREADS];
    uint32_t ids[THREADS], expected[THREADS] = {0}, i, frames = 0, wrong = 0;
    static uint8_t body[50000];
    size_t total = 0;

    open_pair(&shared);
    for (i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, putter_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (; frames < THREADS * FRAMES; frames++) {
        struct head h;

        if (!read_exactly(&h, sizeof h) || h.thread >= THREADS ||
            h.len != frame_len(h.thread, h.number) || !read_exactly(body, h.len - sizeof h))
            break;
        wrong += h.number != expected[h.thread]++;
        for (i = 0; i < h.len - sizeof h; i++)
            if (body[i] != (h.number & 0xff)) {
                wrong++;
                break;
            }
        total += h.len;
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += broken_flush[i];
    }
    is_int(frames, THREADS * FRAMES, "%d threads: every frame arrives", THREADS);
    is_int(wrong, 0, "each whole, those of one thread in order");
    is_int(atomic_load(&shared.sent), total, "all bytes are counted");
    is_int(waiting(&shared), 0, "none is left");
    close_pair(&shared);
}

int main(void) {
    test_small();
    test_buf();
    test_full();
    test_broken();
    test_close();
    test_threads();
    return tap_end();
}
