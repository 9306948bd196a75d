/* test_io.c - the event loop's sockets: peers, ticks, back pressure, clients, epmd, signals. */
#include "config.h"

#include "io_peers.h"

enum { TICKTIME = 2 }; /* seconds: the shortest in which a busy machine does not look like a dead peer */

static int accepted;           /* clients */
static int epmd_lost, reports; /* calls of the hooks */
static char reported[256];     /* the peers that io_list() has told of */

/* No worker runs anything, nor could. */
static bool is_quiet(void) {
    struct pool_numbers n;

    pool_read_numbers(&n);
    return n.running == 0 && exec_ready() == 0;
}

static bool is_written(void) {
    return !io_pending();
}

static bool is_reopened(void) {
    return access(log_path, F_OK) == 0;
}

static void test_peer(void) {
    int fd = peer("peer@h");

    is_str(ping(fd), PONG, "a ping is answered");
    ok(logged("conn peer@h: up"), "the connection was logged");
    close(fd);
    ok(logged("conn peer@h: closed: peer closed"), "the end of a peer is logged");
}

static int compare_sizes(const void *a, const void *b) {
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* Small frames take long to read. What has been read of them when somebody else has an answer is what the peer has
 * sent meanwhile, for it sends as soon as there is room. */
static void test_many_small_frames(void) {
    enum { TIMES = 200, BYTES = 512 << 10 };
    int fd = peer("aside@h"), chatty = peer("small@h"), wrong = 0;
    size_t sent[TIMES];
    pthread_t thread;

    if (pthread_create(&thread, NULL, chatty_main, &chatty) != 0)
        tap_bail("no thread");
    for (int i = 0; i < TIMES; i++) {
        size_t before = atomic_load(&chatty_sent);

        wrong += strcmp(ping(fd), PONG) != 0;
        sent[i] = atomic_load(&chatty_sent) - before;
    }
    qsort(sent, TIMES, sizeof *sent, compare_sizes);
    diag("%zu KiB are read in the meantime, at most %zu", sent[TIMES / 4] >> 10, sent[TIMES - 1] >> 10);
    is_int(wrong, 0, "pings beside a peer that sends small frames without end");
    ok(sent[TIMES / 4] < BYTES, "it is read for a moment before others have their turn");
    atomic_store(&chatty_ends, true);
    pthread_join(thread, NULL);
    atomic_store(&chatty_ends, false);
    close(fd);
    close(chatty);
}

/* What one peer sends is no concern of the others. */
static void test_malformed(void) {
    int good = peer("good@h"), bad = peer("bad@h"), longer = peer("long@h"), slow = peer("slow@h");
    static const uint8_t head[] = {0, 0x10, 0, 1, 112};
    struct buf b = {0};
    size_t i;

    say(bad, "{99," P "}", NULL);
    is_str(hear(bad), "closed", "a malformed frame closes its connection");
    ok(logged("conn bad@h: closed: unknown control message"), "with the reason in the log");
    if (send(longer, head, sizeof head, 0) < 0)
        tap_bail("cannot send");
    is_str(hear(longer), "closed", "so does one that is too long, before it is all there");
    ok(logged("conn long@h: closed: frame longer than --max-frame"), "with its reason, too");
    is_str(ping(good), PONG, "the others are untouched");
    term_put_frame(&b, PING);
    for (i = 0; i < b.len; i++) {
        if (send(slow, b.data + i, 1, 0) != 1)
            tap_bail("cannot send");
        if (i % 20 == 0)
            is_str(ping(good), PONG, "while a frame comes byte by byte, others go on");
    }
    is_str(hear(slow), PONG, "until it is whole");
    buf_done(&b);
    close(good);
    close(bad);
    close(longer);
    close(slow);
}

static void test_find_and_replace(void) {
    int first = peer("twice@h"), second;
    struct conn *c = io_find("twice@h"), *again;

    ok(c && strcmp(c->peer, "twice@h") == 0, "a connection is found as soon as it is added");
    ok(!io_find("twice@") && !io_find("twice@hh"), "not by another name");
    is_str(ping(first), PONG, "nor is it lost when it is up");
    again = io_find("twice@h");
    ok(again == c, "it is the same");
    conn_unref(again);
    second = peer("twice@h");
    is_str(hear(first), "closed", "a second one of this peer closes the first");
    ok(logged("conn twice@h: closed: the peer has connected again"), "as the log says");
    is_str(ping(second), PONG, "and takes its place");
    again = io_find("twice@h");
    ok(again && again != c, "also when it is looked for");
    conn_unref(again);
    conn_unref(c);
    close(first);
    close(second);
    ok(forgotten("twice@h"), "a connection that has ended is not found");
}

/* A peer that asks for much and reads nothing; 12 answers are far more than CONN_HIGH. */
static void test_back_pressure(void) {
    int slow = peer("full@h"), other = peer("other@h");
    uint64_t pings;
    int i, much = 0, pongs = 0;

    for (i = 0; i < 12; i++)
        ask(slow, "much", "answer");
    ok(wait_for(&held, 1), "calls of a peer that does not read are kept back");
    ok(until(is_quiet), "so that no worker has anything to do");
    ok(io_pending(), "something waits to be sent");
    is_str(ping(other), PONG, "others are served");
    is_str(ping(other), PONG, "again and again");
    pings = stats_get(STATS_PINGS);
    say(slow, PING);
    is_str(ping(other), PONG, "and again");
    is_str(call(other, "m", "f"), ANSWER("f"), "their calls, too");
    is_int(stats_get(STATS_PINGS) - pings, 1, "but the peer that does not read is not read");
    for (i = 0; i < 13; i++) {
        const char *text = hear(slow);

        much += strcmp(text, "much") == 0;
        pongs += strcmp(text, PONG) == 0;
    }
    is_int(much, 12, "when it reads it gets every answer");
    is_int(pongs, 1, "and is read again");
    is_str(call(slow, "m", "f"), ANSWER("f"), "as before");
    close(slow);
    ok(forgotten("full@h"), "it goes");
    ok(until(is_written), "and nothing waits any more");

    slow = peer("gone@h");
    i = look(&held);
    for (much = 0; much < 12; much++)
        ask(slow, "much", "answer");
    ok(wait_for(&held, i + 1), "another one");
    shutdown(slow, SHUT_WR);
    ok(forgotten("gone@h"), "goes without having read");
    ok(logged("conn gone@h: closed: peer closed"), "which is seen though it is not read");
    close(slow);
    is_str(call(other, "m", "f"), ANSWER("f"), "others are served");
    ok(until(is_empty), "what was kept back of it is cancelled");
    close(other);
}

static void put(struct buf *b, const char *text) {
    buf_put(b, text, strlen(text));
}

/* A frame that has a buffer of its own. */
static void test_large(void) {
    int fd = peer("large@h");
    struct buf b = {0};
    static char text[300000];

    memset(text, 'x', sizeof text - 1);
    put(&b, "{" P ",{call,m,f,[<<\"");
    put(&b, text);
    put(&b, "\">>],user}}");
    buf_put(&b, "", 1);
    say(fd, "{6," P ",'',rex}", (const char *)b.data);
    is_str(hear(fd), ANSWER("f"), "a call of 300 kB");
    is_str(ping(fd), PONG, "and the ping behind it");
    buf_done(&b);
    close(fd);
}

/* The hooks of io_init(). */

static void accept_cb(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    io_add(conn_new(fd, "client@h"));
    change(&accepted, 1);
}

static void epmd_cb(void) {
    change(&epmd_lost, 1);
}

static void list_cb(void *arg, const struct conn *c) {
    snprintf((char *)arg + strlen(arg), sizeof reported - strlen(arg), "%s ", c->peer);
}

static bool report_blocks;

static void report_cb(void) {
    *reported = 0;
    io_list(list_cb, reported);
    change(&reports, 1);
    if (report_blocks)
        block();
}

static int client(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        tap_bail("cannot connect");
    return fd;
}

static void test_listener(void) {
    int other = peer("other@h"), fd = client();

    ok(wait_for(&accepted, 1), "the leader has a client accepted");
    is_str(ping(fd), PONG, "which is served");
    io_set_accepting(false);
    close(fd);
    fd = client();
    is_str(ping(other), PONG, "while accepting pauses");
    is_str(ping(other), PONG, "others are served");
    is_int(look(&accepted), 1, "and a client has to wait");
    io_set_accepting(true);
    ok(wait_for(&accepted, 2), "until it goes on");
    is_str(ping(fd), PONG, "which is seen");
    close(fd);
    close(other);
}

static void test_epmd(void) {
    int other = peer("other@h"), fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ||
        send(fds[1], "\1\2", 2, 0) < 0)
        tap_bail("no socket pair");
    io_watch_epmd(fds[0]);
    is_str(ping(other), PONG, "the rest of epmd's first answer");
    is_str(ping(other), PONG, "is read over");
    is_int(look(&epmd_lost), 0, "and not taken for its end");
    close(fds[1]);
    ok(wait_for(&epmd_lost, 1), "its end is noticed");
    is_str(ping(other), PONG, "the others stay");
    is_int(look(&epmd_lost), 1, "it is told once");
    close(fds[0]);
    close(other);
}

/* Before the leader has seen the first of them. */
static void test_twice_at_once(void) {
    int first, second;
    struct conn *c;

    report_blocks = true;
    io_signal(SIGUSR1);
    ok(wait_for(&inside, 1), "the leader is elsewhere");
    first = peer("twin@h");
    second = peer("twin@h");
    c = io_find("twin@h");
    ok(c && c->next == NULL, "of two connections of a peer that come meanwhile the second is found");
    conn_unref(c);
    report_blocks = false;
    change(&release, 1);
    is_str(hear(first), "closed", "the first is closed");
    is_str(ping(second), PONG, "and the second stays");
    close(first);
    close(second);
    change(&reports, -1);
}

static void test_signals(void) {
    int fd = peer("listed@h");
    char *moved = tap_path("moved");

    is_str(ping(fd), PONG, "a peer");
    io_signal(SIGUSR1);
    ok(wait_for(&reports, 1), "SIGUSR1 makes the leader report");
    has_str(reported, "listed@h ", "which knows the connections");
    rename(log_path, moved);
    io_signal(SIGHUP);
    ok(until(is_reopened), "SIGHUP opens the log anew");
    close(fd);
    ok(logged("conn listed@h: closed"), "and it is used");
    free(moved);
}

/* A peer that has said nothing from the beginning on, and one that only answers ticks. */
static int silent;

static void test_ticks(void) {
    int ticking = peer("ticking@h"), ticks = 0, answered = 0, others = 0;
    struct pollfd p[2] = {{silent, POLLIN, 0}, {ticking, POLLIN, 0}};
    const char *text;

    while ((p[0].fd >= 0 || answered == 0) && poll(p, 2, SECONDS * 1000) > 0) {
        if (p[1].revents) {
            if (strcmp(next_frame(ticking), "tick") != 0)
                break;
            answered += send(ticking, "\0\0\0", 4, MSG_NOSIGNAL) == 4;
        }
        if (p[0].revents) {
            text = next_frame(silent);
            ticks += strcmp(text, "tick") == 0;
            others += strcmp(text, "tick") != 0;
            if (strcmp(text, "closed") == 0)
                p[0].fd = -1;
        }
    }
    ok(p[0].fd < 0, "a peer that has been silent for the tick time is closed");
    is_int(ticks, 3, "having been sent a tick at each look before");
    is_int(others, 1, "and nothing else");
    ok(logged("conn silent@h: closed: heartbeat missed"), "which the log says, too");
    is_str(ping(ticking), PONG, "one that has answered %d ticks stays", answered);
    close(silent);
    close(ticking);
}

/* Whether the next frames are ticks, which are answered, and reports of the load, the last of them with such a text. */
static bool report_comes(int fd, const char *text) {
    for (;;) {
        const char *heard = next_frame(fd);

        if (strcmp(heard, "tick") == 0)
            send(fd, "\0\0\0", 4, MSG_NOSIGNAL);
        else if (!strstr(heard, "[{load,#{"))
            return false;
        else if (strstr(heard, text))
            return true;
    }
}

static void test_reports(void) {
    int fd = peer("home@h"), before = look(&inside);

    say(fd, "{6," P ",'',pynode}", "{attach," P "}");
    has_str(hear(fd), "{py_attached,#{", "a home attaches");
    ok(report_comes(fd, "running=>0,"), "and is told of the load");
    say(fd, "{6," P ",'',rex}", "{'$gen_cast',{cast,block,f,[],user}}");
    ok(wait_for(&inside, before + 1), "something runs");
    ok(report_comes(fd, "running=>1,"), "which it is told");
    change(&release, 1);
    ok(report_comes(fd, "running=>0,"), "and that it has ended");
    ok(report_comes(fd, "running=>0,"), "then the same after a while");
    close(fd);
}

int main(void) {
    start((struct io_settings){.net_ticktime = TICKTIME,
                               .accept = accept_cb,
                               .epmd = epmd_cb,
                               .report = report_cb},
          NULL);
    silent = peer("silent@h");
    test_peer();
    test_malformed();
    test_find_and_replace();
    test_back_pressure();
    test_large();
    test_listener();
    test_epmd();
    test_ticks(); /* before the log is moved */
    test_twice_at_once();
    test_signals();
    test_reports();
    test_many_small_frames(); /* what takes a while comes after the ticks, some of which are counted from the start on */
    stop();
    free(log_path);
    return tap_end();
}
