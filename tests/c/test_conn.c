/* test_conn.c - a connection: frames whole, split, many and large; its end; who holds it; back
 * pressure. One end of a socket pair is the connection's, the other one plays the peer.
 */
#include "config.h"

#include "conn.h"
#include "stats.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>

enum { KIB = 1 << 10, MIB = 1 << 20, MAX = 64 * MIB };
enum { READ_AT_ONCE = 64 * KIB, LARGE = 16 * KIB }; /* as in conn.c */

static int theirs; /* the peer's end */

static struct conn *open_pair(void) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        tap_bail("no socket pair");
    theirs = fds[1];
    return conn_new(fds[0], "a@host");
}

static void close_pair(struct conn *c) {
    conn_unref(c);
    close(theirs);
}

static void send_all(const void *data, size_t len) {
    if (send(theirs, data, len, MSG_NOSIGNAL) != (ssize_t)len)
        tap_bail("the socket does not take %zu bytes", len);
}

/* Appends a frame with n bytes behind its length, which follow from its number. */
static void put_frame(struct buf *b, size_t n, int number) {
    const uint8_t head[] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};

    buf_put(b, head, sizeof head);
    if (buf_reserve(b, n) < 0)
        tap_bail("no memory");
    for (size_t i = 0; i < n; i++)
        b->data[b->len++] = (uint8_t)((size_t)number + i * 31 + (i >> 8) * 7);
}

/* Whether a frame is the one that put_frame() makes; one that was handed over is freed. */
static bool is_frame(struct frame *f, size_t n, int number) {
    struct buf want = {0};
    bool same;

    put_frame(&want, n, number);
    same = f->len == want.len && memcmp(f->data, want.data, want.len) == 0;
    buf_done(&want);
    if (f->whole)
        free(f->data);
    return same;
}

static void test_new(void) {
    struct conn *c = open_pair();
    struct frame f;
    const char *why = NULL;

    is_str(c->peer, "a@host", "it knows its peer");
    ok(fcntl(c->fd, F_GETFL) & O_NONBLOCK, "its socket does not block");
    is_int(conn_next(c, MAX, &f), 0, "before anything is read there is no frame");
    is_int(conn_unread(c), 0, "nothing has come");
    is_int(conn_read(c, &why), CONN_EMPTY, "nothing to read");
    is_int(conn_next(c, MAX, &f), 0, "no frame");
    ok(!why && c->received == 0, "and nothing wrong");
    close_pair(c);
}

static void test_whole(void) {
    struct conn *c = open_pair();
    uint64_t frames = stats_get(STATS_FRAMES_IN), bytes = stats_get(STATS_BYTES_IN);
    struct buf b = {0};
    struct frame f = {0};
    const char *why;

    put_frame(&b, 100, 1);
    put_frame(&b, 0, 2);
    send_all(b.data, b.len);
    is_int(conn_unread(c), 108, "108 bytes have come");
    is_int(c->received, 0, "which are not read yet");
    is_int(conn_read(c, &why), CONN_EMPTY, "one read takes them");
    is_int(conn_unread(c), 0, "none is left");
    is_int(c->received, 108, "all are counted");
    is_int(conn_next(c, MAX, &f), 1, "a frame");
    ok(!f.whole && is_frame(&f, 100, 1), "with its length and bytes, borrowed");
    is_int(conn_next(c, MAX, &f), 1, "a tick behind it");
    ok(!f.whole && is_frame(&f, 0, 2), "is a frame of its length alone");
    is_int(conn_next(c, MAX, &f), 0, "then none");
    is_int(stats_get(STATS_FRAMES_IN) - frames, 2, "the statistics have two frames");
    is_int(stats_get(STATS_BYTES_IN) - bytes, 108, "and their bytes");
    buf_done(&b);
    close_pair(c);
}

/* A frame that comes byte by byte, also behind the end of another. */
static void test_split(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct frame f;
    const char *why;
    int early = 0;

    put_frame(&b, 30, 1);
    put_frame(&b, 40, 2);
    for (size_t i = 0; i < 33; i++) {
        send_all(b.data + i, 1);
        early += conn_read(c, &why) != CONN_EMPTY || conn_next(c, MAX, &f) != 0;
    }
    is_int(early, 0, "of a frame that comes byte by byte nothing is seen before its last");
    send_all(b.data + 33, 3);
    conn_read(c, &why);
    ok(conn_next(c, MAX, &f) == 1 && is_frame(&f, 30, 1), "with it comes the frame");
    is_int(conn_next(c, MAX, &f), 0, "half the length of the next is no frame");
    send_all(b.data + 36, b.len - 36);
    conn_read(c, &why);
    ok(conn_next(c, MAX, &f) == 1 && is_frame(&f, 40, 2), "with the rest it is");
    is_int(conn_next(c, MAX, &f), 0, "and the last");
    buf_done(&b);
    close_pair(c);
}

/* Reads what there is: whether exactly the frames came whose lengths len_of() tells, in order. */
static bool read_frames(struct conn *c, size_t (*len_of)(int), int from, int until, int *wholes) {
    enum conn_result more = CONN_MORE;
    const char *why;
    struct frame f;
    bool good = true;
    int found = 0;

    while (more == CONN_MORE) {
        more = conn_read(c, &why);
        while ((found = conn_next(c, MAX, &f)) > 0) {
            *wholes += f.whole;
            good = is_frame(&f, len_of(from), from) && good;
            from++;
        }
    }
    return good && more == CONN_EMPTY && found == 0 && from == until;
}

static size_t small_len(int number) {
    return (size_t)number * 37 % 900;
}

/* More than one read holds, so that frames lie across the end of the buffer. */
static void test_many(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    int n, wholes = 0;

    for (n = 0; b.len < READ_AT_ONCE + 30000; n++)
        put_frame(&b, small_len(n), n);
    send_all(b.data, b.len);
    ok(read_frames(c, small_len, 0, n, &wholes), "%d frames in %zu bytes: all, in order", n, b.len);
    is_int(wholes, 0, "small ones are not handed over");
    is_int(c->received, b.len, "every byte was read");
    buf_done(&b);
    close_pair(c);
}

static void test_more(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct frame f;
    const char *why;
    int n = 0;

    while (b.len < READ_AT_ONCE)
        put_frame(&b, 60, 0);
    send_all(b.data, b.len);
    is_int(conn_read(c, &why), CONN_MORE, "a read that fills the buffer: there may be more");
    while (conn_next(c, MAX, &f) == 1)
        n++;
    is_int(n, READ_AT_ONCE / 64, "its frames");
    is_int(conn_read(c, &why), CONN_EMPTY, "if there was not, the next read says so");
    buf_done(&b);
    close_pair(c);
}

/* Sends one frame behind `before` bytes of another and reads it: whether it is right; and whether
 * its buffer was handed over, in *whole. */
static bool one_large(size_t n, size_t before, size_t head, bool *whole) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct frame f = {0};
    const char *why;
    bool good = true;

    if (before > 0)
        put_frame(&b, before - 4, 7);
    put_frame(&b, n, 8);
    send_all(b.data, before + head);
    conn_read(c, &why);
    if (before > 0)
        good = conn_next(c, MAX, &f) == 1 && is_frame(&f, before - 4, 7);
    f = (struct frame){0};
    if (conn_next(c, MAX, &f) == 0) {
        send_all(b.data + before + head, b.len - before - head);
        for (int i = 0; i < 4 && conn_next(c, MAX, &f) == 0; i++)
            conn_read(c, &why);
    } else {
        good = good && head == n + 4;
    }
    *whole = f.whole;
    good = is_frame(&f, n, 8) && good;
    b.len = 0;
    put_frame(&b, 50, 9);
    send_all(b.data, b.len);
    conn_read(c, &why);
    good = conn_next(c, MAX, &f) == 1 && !f.whole && is_frame(&f, 50, 9) && good;
    buf_done(&b);
    close_pair(c);
    return good;
}

/* A frame above 16 KiB whose length is known before it has come is read into a buffer of its own. */
static void test_large(void) {
    static const struct {
        size_t n, before, head;
        bool whole;
        const char *what;
    } cases[] = {
        {100 * 1000, 0, 4, true, "100 kB, the length first"},
        {100 * 1000, 0, 5000, true, "100 kB, a part first"},
        {100 * 1000, 300, 4, true, "100 kB behind a small frame, the length first"},
        {100 * 1000, 300, 5000, true, "100 kB behind a small frame, a part first"},
        {100 * 1000, 300, 2, true, "100 kB behind a small frame, half the length first"},
        {20 * 1000, 300, 2, false, "20 kB behind a small frame, half the length first"},
        {LARGE + 1 - 4, 0, 4, true, "a byte more than 16 KiB"},
        {LARGE - 4, 0, 4, false, "16 KiB"},
        {LARGE - 5, 20, 100, false, "a byte less"},
        {20 * 1000, 0, 20 * 1000 + 4, false, "20 kB that come at once"},
        {READ_AT_ONCE - 4, 0, READ_AT_ONCE, true, "64 KiB that come at once"},
        {READ_AT_ONCE - 4, 0, 100, true, "64 KiB, as much as the buffer"},
        {READ_AT_ONCE - 4, 40, 100, true, "64 KiB behind a small frame"},
        {READ_AT_ONCE - 3, 0, 100, true, "a byte more than 64 KiB"},
        {READ_AT_ONCE - 5, 0, 100, true, "a byte less than 64 KiB"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool whole;

        ok(one_large(cases[i].n, cases[i].before, cases[i].head, &whole),
           "%s: it and the next one are right", cases[i].what);
        is_int(whole, cases[i].whole, "%s: %s", cases[i].what,
               cases[i].whole ? "handed over" : "borrowed");
    }
}

static size_t mixed_len(int number) {
    static const size_t lens[] = {0, 10, 70000, 16380, 16381, 200, 300000, 3, 65532, 65533, 40000};

    return lens[number % 11];
}

struct sender {
    const struct buf *b;
    bool all;
};

/* Sends in odd pieces, as the network would cut it. */
static void *sender_main(void *arg) {
    struct sender *s = arg;
    size_t done = 0, piece = 1;

    while (done < s->b->len) {
        size_t n = s->b->len - done < piece ? s->b->len - done : piece;
        ssize_t sent = send(theirs, s->b->data + done, n, MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        done += (size_t)sent;
        piece = piece * 7 % 50021;
    }
    s->all = done == s->b->len;
    shutdown(theirs, SHUT_WR);
    return NULL;
}

static void test_mixed(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct sender s = {&b, false};
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    pthread_t thread;
    struct frame f;
    const char *why = "";
    int n, next = 0, wrong = 0;

    for (n = 0; b.len < 8 * MIB; n++)
        put_frame(&b, mixed_len(n), n);
    if (pthread_create(&thread, NULL, sender_main, &s) != 0)
        tap_bail("no thread");
    while (poll(&p, 1, 60000) == 1) {
        enum conn_result more = conn_read(c, &why);

        while (conn_next(c, MAX, &f) > 0) {
            wrong += !is_frame(&f, mixed_len(next), next);
            next++;
        }
        if (more == CONN_CLOSED)
            break;
    }
    pthread_join(thread, NULL);
    ok(s.all, "frames of all sizes, sent in pieces that have nothing to do with them");
    is_int(next, n, "all of them come");
    is_int(wrong, 0, "and are right");
    is_int(c->received, b.len, "no byte is lost");
    is_str(why, "peer closed", "until the end");
    buf_done(&b);
    close_pair(c);
}

static void test_max(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct frame f;
    const char *why;

    put_frame(&b, 1000, 1);
    put_frame(&b, 1001, 2);
    send_all(b.data, 1004 + 3);
    conn_read(c, &why);
    ok(conn_next(c, 1000, &f) == 1 && is_frame(&f, 1000, 1), "as long as may be");
    is_int(conn_next(c, 1000, &f), 0, "before its length is known none is too long");
    send_all(b.data + 1004 + 3, 1);
    conn_read(c, &why);
    is_int(conn_next(c, 1000, &f), -1, "a byte more: refused as soon as its length is known");
    is_int(conn_next(c, 1000, &f), -1, "for ever");
    buf_done(&b);
    close_pair(c);

    c = open_pair();
    send_all("\xff\xff\xff\xff", 4);
    conn_read(c, &why);
    is_int(conn_next(c, MAX, &f), -1, "4 GiB are refused");
    ok(c->in_cap <= READ_AT_ONCE, "without taking memory for it");
    close_pair(c);
}

/* What was sent before the end is there first. */
static void test_closed(void) {
    struct conn *c = open_pair();
    struct buf b = {0};
    struct frame f;
    const char *why = "";

    put_frame(&b, 10, 1);
    put_frame(&b, 10, 2);
    send_all(b.data, b.len - 1);
    close(theirs);
    is_int(conn_read(c, &why), CONN_EMPTY, "what a peer has sent before it closed is read");
    ok(conn_next(c, MAX, &f) == 1 && is_frame(&f, 10, 1), "a frame of it");
    is_int(conn_next(c, MAX, &f), 0, "half a frame is none");
    is_int(conn_read(c, &why), CONN_CLOSED, "then the end");
    is_str(why, "peer closed", "with the reason");
    is_int(conn_read(c, &why), CONN_CLOSED, "which stays");
    conn_unref(c);
    buf_done(&b);
}

static struct {
    struct conn *c;
    _Atomic int result;
    _Atomic bool done;
} awaiter;

static void *awaiter_main(void *arg) {
    const char *why = "";

    awaiter.result = (int)conn_await(awaiter.c, &why);
    atomic_store(&awaiter.done, true);
    return arg;
}

static void signalled_cb(int signo) {
    (void)signo;
}

/* A connection that one thread reads alone. */
static void test_await(void) {
    struct sigaction action = {.sa_handler = signalled_cb}; /* without SA_RESTART */
    struct conn *c = awaiter.c = open_pair();
    struct buf b = {0};
    struct frame f;
    const char *why = "";
    pthread_t thread;

    conn_set_blocking(c);
    ok(!(fcntl(c->fd, F_GETFL) & O_NONBLOCK), "a connection whose socket blocks");
    is_int(conn_read(c, &why), CONN_EMPTY, "can still be read without waiting");
    put_frame(&b, 10, 1);
    send_all(b.data, b.len);
    is_int(conn_await(c, &why), CONN_EMPTY, "what is there is read");
    ok(conn_next(c, MAX, &f) == 1 && is_frame(&f, 10, 1), "it is the frame");
    is_int(c->received, b.len, "counted");

    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&awaiter.done, false);
    if (pthread_create(&thread, NULL, awaiter_main, NULL) != 0)
        tap_bail("no thread");
    while (!atomic_load(&awaiter.done)) { /* a signal may come before it waits */
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    pthread_join(thread, NULL);
    is_int(awaiter.result, CONN_EMPTY, "a signal ends the waiting");
    is_int(c->received, b.len, "and nothing has been read");

    atomic_store(&awaiter.done, false);
    if (pthread_create(&thread, NULL, awaiter_main, NULL) != 0)
        tap_bail("no thread");
    send_all(b.data, 7);
    pthread_join(thread, NULL);
    is_int(c->received, b.len + 7, "else it ends when something comes");
    is_int(conn_next(c, MAX, &f), 0, "half a frame");
    send_all(b.data + 7, b.len - 7);
    conn_await(c, &why);
    ok(conn_next(c, MAX, &f) == 1 && is_frame(&f, 10, 1), "and the rest of it");

    atomic_store(&awaiter.done, false);
    if (pthread_create(&thread, NULL, awaiter_main, NULL) != 0)
        tap_bail("no thread");
    shutdown(c->fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    is_int(awaiter.result, CONN_CLOSED, "or when the connection ends, also from here");
    buf_done(&b);
    close_pair(c);
}

/* Writing never waits, whatever the socket does. */
static void test_blocking_write(void) {
    struct conn *c = open_pair();
    struct buf b = {0};

    conn_set_blocking(c);
    put_frame(&b, 4 * MIB, 1);
    outbox_put_buf(&c->out, &b);
    is_int(outbox_flush(&c->out), OUTBOX_FULL, "a socket that blocks is written as far as it goes");
    ok(atomic_load(&c->out.bytes) > 0, "the rest waits");
    buf_done(&b);
    close_pair(c);
}

/* A connection by TCP: only there is such a thing as a reset. */
static struct conn *open_tcp(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM, 0), ours = socket(AF_INET, SOCK_STREAM, 0);

    if (listener < 0 || ours < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&a, &len) < 0 ||
        connect(ours, (struct sockaddr *)&a, sizeof a) < 0 ||
        (theirs = accept(listener, NULL, NULL)) < 0)
        tap_bail("no TCP on this machine: %s", strerror(errno));
    close(listener);
    return conn_new(ours, "a@host");
}

static void test_was_reset(void) {
    const struct linger at_once = {1, 0};
    struct conn *c = open_tcp();
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    const char *why = "";

    setsockopt(theirs, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(theirs);
    if (poll(&p, 1, 10000) != 1)
        tap_bail("the reset does not come");
    is_int(conn_read(c, &why), CONN_CLOSED, "a connection that is reset is at its end");
    is_str(why, strerror(ECONNRESET), "for that reason");
    conn_unref(c);
}

/* Whatever waits to be acknowledged, and whoever holds a reference still. */
static void test_reset(void) {
    struct conn *c = open_tcp();
    struct pollfd p = {.fd = theirs, .events = POLLIN};
    char byte;

    conn_reset(c);
    ok(poll(&p, 1, 10000) == 1, "the peer of a connection that we reset knows");
    ok(recv(theirs, &byte, 1, 0) < 0 && errno == ECONNRESET, "that it is at its end");
    is_int(send(c->fd, "", 1, MSG_NOSIGNAL), -1, "nothing can be sent to it any more");
    close_pair(c);
    c = open_pair();
    conn_reset(c);
    is_int(recv(theirs, &byte, 1, MSG_DONTWAIT), 0, "one that is not by TCP is shut down");
    close_pair(c);
}

static void test_unread(void) {
    struct conn *c = open_pair();
    const char *why;

    send_all("\0\0\0\4ab", 6);
    is_int(conn_unread(c), 6, "what has come");
    send_all("cd", 2);
    is_int(conn_unread(c), 8, "and more");
    conn_read(c, &why);
    is_int(conn_unread(c), 0, "what is read is not unread, though no frame was taken");
    close(theirs);
    is_int(conn_unread(c), 0, "an end is no byte");
    shutdown(c->fd, SHUT_RDWR);
    is_int(conn_unread(c), 0, "nor is there one after we have closed it");
    conn_unref(c);
}

static void *unref_main(void *arg) {
    for (int i = 0; i < 20000; i++)
        conn_unref(conn_ref(arg));
    conn_unref(arg);
    return NULL;
}

static void test_references(void) {
    struct conn *c = open_pair();
    pthread_t threads[4];
    const char *why;
    char byte;
    int fd = c->fd;

    ok(conn_ref(c) == c, "a reference is the connection");
    conn_unref(c);
    ok(fcntl(fd, F_GETFD) >= 0, "while somebody has it the descriptor is open");
    send_all("\0\0\0\0\0\0", 6); /* what is half read is freed with it */
    conn_read(c, &why);
    outbox_put(&c->out, "never sent", 10);
    for (int i = 0; i < 4; i++) {
        conn_ref(c);
        if (pthread_create(&threads[i], NULL, unref_main, c) != 0)
            tap_bail("no thread");
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    is_int(atomic_load(&c->refs), 1, "four threads have given back what they took");
    ok(fcntl(fd, F_GETFD) >= 0, "the descriptor is still open");
    conn_unref(c);
    ok(fcntl(fd, F_GETFD) < 0 && errno == EBADF, "with the last one it is closed");
    is_int(recv(theirs, &byte, 1, MSG_DONTWAIT), 0, "and the peer sees the end, nothing else");
    close(theirs);
}

/* Plays the writer: takes so many bytes out of the outbox's count. */
static void set_waiting(struct conn *c, size_t bytes) {
    atomic_store(&c->out.bytes, bytes);
}

static void test_hold(void) {
    struct conn *c = open_pair();

    ok(!conn_hold(c), "nothing waits: nothing is kept back");
    ok(!conn_release(c), "nor let go");
    set_waiting(c, CONN_HIGH);
    ok(!conn_hold(c), "as much as may wait");
    set_waiting(c, CONN_HIGH + 1);
    ok(conn_hold(c), "a byte more");
    ok(conn_hold(c), "and for the next request, too");
    ok(!conn_release(c), "not let go while as much waits");
    set_waiting(c, CONN_HIGH);
    ok(!conn_release(c), "nor when a little less does");
    set_waiting(c, CONN_LOW);
    ok(!conn_release(c), "nor at the lower mark");
    set_waiting(c, CONN_LOW - 1);
    ok(conn_release(c), "but below it");
    ok(!conn_release(c), "once");
    set_waiting(c, CONN_LOW);
    ok(!conn_hold(c), "then it is served up to the upper mark again");
    set_waiting(c, 0);
    close_pair(c);
}

enum { ROUNDS = 50000 };

static struct {
    struct conn *c;
    pthread_mutex_t lock; /* as exec's: what is kept back is kept back under it */
    bool kept;
    _Atomic bool done;
    int times; /* that something was kept back */
} race = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool race_kept(void) {
    bool kept;

    pthread_mutex_lock(&race.lock);
    kept = race.kept;
    pthread_mutex_unlock(&race.lock);
    return kept;
}

static void race_let_go(void) {
    pthread_mutex_lock(&race.lock);
    race.kept = false;
    pthread_mutex_unlock(&race.lock);
}

/* Plays a worker: answers, and asks whether the next request may be run; if not it stays until the
 * request is let go. */
static void *worker_main(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&race.c->out.bytes, CONN_HIGH + 1);
        pthread_mutex_lock(&race.lock);
        race.kept = conn_hold(race.c);
        race.times += race.kept;
        pthread_mutex_unlock(&race.lock);
        while (race_kept())
            sched_yield();
    }
    atomic_store(&race.done, true);
    return arg;
}

/* One answers and holds while another writes and releases; who writes looks only when there was
 * something to write. What is kept back beside an empty outbox would stay there for ever. */
static void test_hold_race(void) {
    struct conn *c = race.c = open_pair();
    int lost = 0, released = 0;
    pthread_t worker;

    if (pthread_create(&worker, NULL, worker_main, NULL) != 0)
        tap_bail("no thread");
    while (!atomic_load(&race.done)) {
        bool kept = race_kept();
        size_t waiting = atomic_load(&c->out.bytes);

        if (waiting > 0) {
            atomic_fetch_sub(&c->out.bytes, waiting);
            if (conn_release(c)) {
                released++;
                race_let_go();
            }
        } else if (kept) {
            lost++;
            race_let_go();
        }
    }
    pthread_join(worker, NULL);
    is_int(lost, 0, "%d answers while another writes: all that is kept back is let go", ROUNDS);
    ok(race.times > 0 && released >= race.times, "it came to that: %d times kept back, %d let go",
       race.times, released);
    set_waiting(c, 0);
    close_pair(c);
}

int main(void) {
    test_new();
    test_whole();
    test_split();
    test_many();
    test_more();
    test_large();
    test_mixed();
    test_max();
    test_closed();
    test_await();
    test_blocking_write();
    test_was_reset();
    test_reset();
    test_unread();
    test_references();
    test_hold();
    test_hold_race();
    return tap_end();
}
