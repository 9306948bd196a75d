/* test_outbox.c - the outbox: order, large and small, a full and a broken socket, many threads; and
 * the items that are gathered in one frame.
 */
#include "config.h"

#include "outbox.h"
#include "dist.h"
#include "tap.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

enum { THREADS = 4, FRAMES = 3000, MIB = 1 << 20 };

static int ours, theirs; /* the two ends of a socket */

static void open_pair_of(struct outbox *o, int type) {
    int fds[2];

    if (socketpair(AF_UNIX, type, 0, fds) < 0)
        tap_bail("no socket pair");
    ours = fds[0];
    theirs = fds[1];
    outbox_init(o, ours);
}

static void open_pair(struct outbox *o) {
    open_pair_of(o, SOCK_STREAM);
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

/* Gathered frames. */

#define HOME "<a@h,1,2,3>"
#define HOME2 "<another@host.example,4,5,6>" /* its frames begin with more bytes */

/* From now on items are gathered for that process; NULL: for none. */
static void set_home(struct outbox *o, const char *pid) {
    struct buf begin = {0}, home = {0};

    if (pid) {
        term_put(&home, pid);
        dist_begin(&begin);
        dist_put_send(&begin, (struct slice){home.data, home.len});
        etf_put_list(&begin, 0);
    }
    outbox_set_home(o, &begin);
    if (begin.data)
        tap_bail("the frame's beginning was not taken");
    buf_done(&home);
}

/* How many bytes come before the first item. */
static size_t head_len(const char *pid) {
    struct buf b = {0};
    size_t len;

    term_put_frame(&b, "{2,'',x}", "[y|z]");
    len = b.len - 6; /* without y and z, */
    b.len = 0;
    term_put(&b, pid);
    len = len - 3 + b.len; /* and for pid instead of x */
    buf_done(&b);
    return len;
}

static bool gather(struct outbox *o, const char *term) {
    struct buf item = {0};
    bool gathered;

    term_put(&item, term);
    gathered = outbox_gather(o, &item);
    if (gathered != (item.len == 0))
        tap_bail("%s: the item was %semptied", term, gathered ? "not " : "");
    buf_done(&item);
    return gathered;
}

/* An item of n bytes: a tuple {Number, Binary}. */
static void put_item(struct buf *b, uint32_t number, size_t n) {
    size_t begin = b->len, head;

    etf_put_tuple(b, 2);
    etf_put_integer(b, number);
    head = b->len - begin + 5;
    etf_put_binary(b, NULL, 0);
    if (n < head || buf_reserve(b, n - head) < 0)
        tap_bail("no item of %zu bytes", n);
    etf_set_be32(b->data + b->len - 4, (uint32_t)(n - head));
    memset(b->data + b->len, (int)(number & 0xff), n - head);
    b->len += n - head;
}

/* Sends all, and reads it as text, one frame a line. */
static const char *sent(struct outbox *o) {
    uint8_t bytes[4096];
    size_t len;

    if (outbox_flush(o) != OUTBOX_EMPTY)
        tap_bail("the outbox cannot be written");
    len = read_some(bytes, sizeof bytes);
    return term_frames(bytes, len);
}

static void test_gather(void) {
    struct outbox o;
    size_t frame;

    open_pair(&o);
    ok(!outbox_gathers(&o), "without a home nothing is gathered");
    ok(!gather(&o, "x"), "an item is the caller's still");
    is_int(waiting(&o), 0, "and does not wait");
    set_home(&o, HOME);
    ok(outbox_gathers(&o), "for a home it is");
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "but there is no frame without an item");
    is_int(waiting(&o), 0, "which would be bytes that wait");
    ok(gather(&o, "x") && gather(&o, "{y,1}"), "items are taken");
    frame = head_len(HOME) + 3 + 7 + 1;
    is_int(waiting(&o), frame, "their frame waits");
    is_str(sent(&o), "{2,''," HOME "} + [x,{y,1}]", "who writes closes it: one message");
    is_int(waiting(&o), 0, "none waits");
    is_int(atomic_load(&o.sent), frame, "all of it is counted as sent");
    gather(&o, "z");
    is_str(sent(&o), "{2,''," HOME "} + [z]", "the next item begins another one");
    is_int(waiting(&o), 0, "none waits");
    close_pair(&o);
}

/* Items and whole frames at once: none lands inside another. */
static void test_gather_among_frames(void) {
    struct outbox o;
    struct buf b = {0};
    const char *frames;

    open_pair(&o);
    set_home(&o, HOME);
    gather(&o, "x");
    term_put_frame(&b, "{1," HOME "," HOME "}", NULL);
    outbox_put(&o, b.data, b.len);
    gather(&o, "y");
    outbox_put_buf(&o, &b);
    gather(&o, "z");
    frames = sent(&o);
    has_str(frames, "{2,''," HOME "} + [x,y,z]", "the items are in one frame");
    has_str(frames, "{1," HOME "," HOME "}\n{1," HOME "," HOME "}", "beside the others");
    is_int(waiting(&o), 0, "none waits");
    buf_done(&b);
    close_pair(&o);
}

/* An answer and what is told of it wake the peer once. A packet is what one call has written. */
static void test_gather_one_write(void) {
    struct outbox o;
    uint8_t packet[4096];
    ssize_t n;
    size_t all;

    open_pair_of(&o, SOCK_SEQPACKET);
    set_home(&o, HOME);
    outbox_put(&o, "frame", 5);
    gather(&o, "x");
    all = waiting(&o);
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "a frame and an item are sent");
    n = recv(theirs, packet, sizeof packet, MSG_DONTWAIT);
    is_int(n, all, "in one write");
    close_pair(&o);
}

/* What a reader of gathered frames has found. */
struct found {
    uint32_t frames, items, next; /* next: the number that the next item must have */
    size_t longest;               /* frame, in items */
    bool wrong;
};

/* Takes a frame of items {Number, Binary} apart; binaries are of bytes that say the number. */
static void find_items(struct found *f, const uint8_t *frame, size_t len) {
    struct dist_msg msg;
    const char *why;
    struct slice item;
    struct etf at, in;
    uint32_t n, arity;
    int64_t number;

    if (dist_parse(frame, len, &msg, &why) < 0 || msg.op != DIST_SEND) {
        f->wrong = true;
        return;
    }
    at = (struct etf){msg.payload.data, msg.payload.data + msg.payload.len};
    if (etf_get_list(&at, &n) < 0 || n == 0)
        f->wrong = true;
    f->frames++;
    f->longest = n > f->longest ? n : f->longest;
    for (; n > 0 && etf_get_term(&at, &item) == 0; n--) {
        in = (struct etf){item.data, item.data + item.len};
        if (etf_get_tuple(&in, &arity) < 0 || arity != 2 || etf_get_integer(&in, &number) < 0 ||
            number != f->next)
            f->wrong = true;
        for (const uint8_t *p = in.p + 5; p < in.end; p++)
            f->wrong = f->wrong || *p != (f->next & 0xff);
        f->next++;
        f->items++;
    }
    if (n > 0 || etf_get_nil(&at) < 0 || at.p != at.end)
        f->wrong = true;
}

/* Sends and reads until nothing is left; all frames are of items that are numbered on from *f. */
static size_t find_all(struct found *f, struct outbox *o) {
    struct buf in = {0};
    size_t at = 0, total;
    enum outbox_result result;

    do {
        result = outbox_flush(o);
        if (buf_reserve(&in, MIB) < 0)
            tap_bail("no memory");
        in.len += read_some(in.data + in.len, MIB);
    } while (result == OUTBOX_FULL);
    while (dist_next(in.data + at, in.len - at, INT32_MAX, &total) == 1) {
        find_items(f, in.data + at, total);
        at += total;
    }
    f->wrong = f->wrong || at != in.len;
    buf_done(&in);
    return at;
}

/* A frame that has become large is closed, so that it need not be moved again and again. */
static void test_gather_size(void) {
    enum { ITEMS = 500, ITEM = 1000 };
    struct outbox o;
    struct buf item = {0};
    struct found f = {0};
    size_t all;

    open_pair(&o);
    set_home(&o, HOME);
    for (uint32_t i = 0; i < ITEMS; i++) {
        put_item(&item, i, ITEM);
        if (!outbox_gather(&o, &item))
            tap_bail("not gathered");
    }
    all = waiting(&o);
    is_int(find_all(&f, &o), all, "all that waited arrives");
    ok(!f.wrong, "each frame is whole, its items in order");
    is_int(f.items, ITEMS, "with all items");
    is_int(all, ITEMS * ITEM + f.frames * (head_len(HOME) + 1), "the frames' own bytes are counted");
    ok(f.frames > 1 && f.longest < 64, "a frame does not grow without end");
    ok(f.longest > 16, "nor is there one for each");
    is_int(waiting(&o), 0, "none waits");
    buf_done(&item);
    close_pair(&o);
}

/* Sizes around the one from which on an item is moved. */
static void test_gather_large(void) {
    static const size_t sizes[] = {100, 16383, 16384, 100, 16385, 1 << 20, 1 << 20, 100, 100};
    enum { N = sizeof sizes / sizeof *sizes };
    struct outbox o;
    struct buf item = {0};
    struct found f = {0};
    size_t all, bytes = 0;
    uint32_t moved = 0;

    open_pair(&o);
    set_home(&o, HOME);
    for (uint32_t i = 0; i < N; i++) {
        put_item(&item, i, sizes[i]);
        bytes += item.len;
        if (!outbox_gather(&o, &item) || item.len > 0)
            tap_bail("not gathered");
        moved += !item.data;
    }
    is_int(moved, 4, "large items are moved");
    all = waiting(&o);
    is_int(find_all(&f, &o), all, "all that waited arrives");
    ok(!f.wrong, "each frame is whole, small and large items in order");
    is_int(f.items, N, "with all items");
    is_int(f.frames, 7, "a large item has a frame of its own");
    is_int(all, bytes + f.frames * (head_len(HOME) + 1), "the frames' own bytes are counted");
    is_int(waiting(&o), 0, "none waits");
    buf_done(&item);
    close_pair(&o);
}

/* Nobody reads: items wait, and are sent when there is room again. */
static void test_gather_full(void) {
    struct outbox o;
    struct buf item = {0};
    struct found f = {0};
    uint32_t n = 0;
    size_t all;

    open_pair(&o);
    set_home(&o, HOME);
    do {
        put_item(&item, n++, 2000);
        outbox_gather(&o, &item);
    } while (outbox_flush(&o) != OUTBOX_FULL);
    for (int i = 0; i < 1000; i++) {
        put_item(&item, n++, i % 50 ? 2000 : 20000);
        outbox_gather(&o, &item);
        outbox_flush(&o);
    }
    all = waiting(&o) + atomic_load(&o.sent);
    is_int(find_all(&f, &o), all, "a full socket: all arrives in the end");
    ok(!f.wrong, "each frame is whole, its items in order");
    is_int(f.items, n, "with all items");
    ok(f.longest > 8, "what has to wait is gathered");
    is_int(waiting(&o), 0, "none waits");
    buf_done(&item);
    close_pair(&o);
}

static void test_gather_home_changed(void) {
    struct outbox o;
    size_t all;

    open_pair(&o);
    set_home(&o, HOME);
    gather(&o, "x");
    set_home(&o, HOME2);
    gather(&o, "y");
    gather(&o, "z");
    set_home(&o, NULL);
    ok(!outbox_gathers(&o), "a home can be taken away");
    ok(!gather(&o, "late"), "nothing is gathered then");
    all = waiting(&o);
    is_str(sent(&o), "{2,''," HOME "} + [x]\n{2,''," HOME2 "} + [y,z]",
           "each home has what was gathered for it");
    is_int(atomic_load(&o.sent), all, "all is counted");
    is_int(waiting(&o), 0, "none waits");
    set_home(&o, HOME);
    gather(&o, "x");
    is_str(sent(&o), "{2,''," HOME "} + [x]", "there can be one again");
    close_pair(&o);
}

static void test_gather_closed(void) {
    struct outbox o;
    struct buf item = {0};
    char data[64];

    open_pair(&o);
    set_home(&o, HOME);
    gather(&o, "x");
    outbox_close(&o);
    is_int(waiting(&o), 0, "closing drops what is gathered");
    ok(gather(&o, "y"), "a closed one takes items, as it takes frames");
    put_item(&item, 0, 100000);
    ok(outbox_gather(&o, &item) && item.len == 0, "large ones, too");
    is_int(waiting(&o), 0, "and drops them");
    is_int(outbox_flush(&o), OUTBOX_EMPTY, "there is nothing to flush");
    is_int(read_some(data, sizeof data), 0, "the peer gets nothing");
    ok(!outbox_gathers(&o), "there is nobody to gather for");
    set_home(&o, HOME2);
    gather(&o, "z");
    is_int(waiting(&o), 0, "nor is there with another home");
    buf_done(&item);
    close_pair(&o);
}

/* An item of the threaded test is {Thread, {Number, Binary}}. */
static _Atomic uint32_t gathering; /* threads */

static size_t item_len(uint32_t thread, uint32_t number) {
    return number % 100 == 0 ? 20000 + thread : 20 + (number * 7 + thread) % 200;
}

static void *gatherer_main(void *arg) {
    uint32_t me = *(uint32_t *)arg;
    struct buf b = {0};

    for (uint32_t i = 0; i < FRAMES; i++) {
        etf_put_tuple(&b, 2);
        etf_put_integer(&b, me);
        put_item(&b, i, item_len(me, i));
        if (!outbox_gather(&shared, &b))
            break;
        if (i % 10 == 0) { /* a whole frame among them */
            term_put_frame(&b, "{1,<a@h,1,2,3>,<a@h,1,2,3>}", NULL);
            outbox_put_buf(&shared, &b);
        }
    }
    buf_done(&b);
    atomic_fetch_sub(&gathering, 1);
    return NULL;
}

/* Writes, as the leader does, and has another home now and then. */
static void *flusher_main(void *arg) {
    enum outbox_result result;
    bool *broken = arg, more;
    uint32_t i = 0;

    do {
        more = atomic_load(&gathering) > 0;
        if (i++ % 50 == 0)
            set_home(&shared, i % 100 == 1 ? HOME : HOME2);
        result = outbox_flush(&shared);
        sched_yield();
    } while (result == OUTBOX_FULL || (more && result != OUTBOX_BROKEN));
    *broken = result == OUTBOX_BROKEN;
    return NULL;
}

/* Takes the items out of one frame: false when anything of it is wrong. */
static bool find_threads_items(const struct dist_msg *msg, uint32_t *next, uint32_t *items) {
    struct etf at = {msg->payload.data, msg->payload.data + msg->payload.len};
    struct slice item;
    int64_t thread, number;
    uint32_t n, arity;

    if (etf_get_list(&at, &n) < 0 || n == 0)
        return false;
    for (; n > 0; n--, ++*items) {
        struct etf in;

        if (etf_get_term(&at, &item) < 0)
            return false;
        in = (struct etf){item.data, item.data + item.len};
        if (etf_get_tuple(&in, &arity) < 0 || etf_get_integer(&in, &thread) < 0 ||
            thread >= THREADS || etf_left(&in) != item_len((uint32_t)thread, next[thread]) ||
            etf_get_tuple(&in, &arity) < 0 || etf_get_integer(&in, &number) < 0 ||
            number != next[thread])
            return false;
        for (const uint8_t *p = in.p + 5; p < in.end; p++)
            if (*p != (number & 0xff))
                return false;
        next[thread]++;
    }
    return etf_get_nil(&at) == 0 && at.p == at.end;
}

/* Reads a whole frame: false when it does not come. */
static bool read_frame(struct buf *frame) {
    size_t want = DIST_HEADER;

    for (frame->len = 0; frame->len < want;) {
        struct pollfd p = {.fd = theirs, .events = POLLIN};
        ssize_t n;

        if (buf_reserve(frame, want - frame->len) < 0 || poll(&p, 1, 30000) != 1)
            return false;
        n = recv(theirs, frame->data + frame->len, want - frame->len, 0);
        if (n <= 0)
            return false;
        frame->len += (size_t)n;
        if (frame->len == DIST_HEADER)
            want += etf_be32(frame->data);
    }
    return true;
}

static void test_gather_threads(void) {
    pthread_t threads[THREADS], flusher;
    uint32_t ids[THREADS], next[THREADS] = {0}, items = 0, others = 0, i;
    bool broken = false, good = true;
    struct buf frame = {0};
    size_t total = 0;

    open_pair(&shared);
    set_home(&shared, HOME);
    atomic_store(&gathering, THREADS);
    for (i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, gatherer_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    if (pthread_create(&flusher, NULL, flusher_main, &broken) != 0)
        tap_bail("no thread");
    while (good && (items < THREADS * FRAMES || others < THREADS * FRAMES / 10)) {
        struct dist_msg msg;
        const char *why;

        good = read_frame(&frame) && dist_parse(frame.data, frame.len, &msg, &why) == 0;
        if (good && msg.op == DIST_SEND)
            good = find_threads_items(&msg, next, &items);
        else
            others++;
        total += frame.len;
    }
    if (!good) /* so that nobody waits for room */
        shutdown(theirs, SHUT_RDWR);
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(flusher, NULL);
    ok(good, "%d threads gather, one writes: every frame is whole, each thread's items in order",
       THREADS);
    ok(!broken, "and each was written");
    is_int(items, THREADS * FRAMES, "all items are there");
    is_int(others, THREADS * FRAMES / 10, "and all other frames");
    is_int(atomic_load(&shared.sent), total, "all bytes are counted");
    is_int(waiting(&shared), 0, "none is left");
    buf_done(&frame);
    close_pair(&shared);
}

int main(void) {
    test_small();
    test_buf();
    test_full();
    test_broken();
    test_close();
    test_threads();
    test_gather();
    test_gather_among_frames();
    test_gather_one_write();
    test_gather_size();
    test_gather_large();
    test_gather_full();
    test_gather_home_changed();
    test_gather_closed();
    test_gather_threads();
    return tap_end();
}
