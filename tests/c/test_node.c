/* test_node.c - how the node meets others: name, listening, handshakes in both directions, epmd.
 *
 * The peers are feigned by hand over TCP; a pool of one worker leads. A real epmd runs on a port of its own; it dies
 * with this program.
 */
#include "config.h"

#include "conn.h"
#include "handshake.h"
#include "io.h"
#include "lead.h"
#include "log.h"
#include "meet.h"
#include "node.h"
#include "pool.h"
#include "route.h"
#include "stats.h"
#include "thread.h"
#include "peer.h"
#include "shakes.h"
#include "tap.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sysexits.h>

enum { SECONDS = 30, CLIENTS = 64 };

#define HOST "127.0.0.1"
#define SELF "py@" HOST
#define COOKIE "secret"

/* What a BEAM needs of us beside libei's own. */
static const uint64_t flags_of_ours = UINT64_C(1) << 32 | UINT64_C(1) << 35 | 0x20;

static char *log_path;

static bool logged(const char *text) {
    return peer_logged(log_path, text);
}

/* Waits until a counter has come to a value. */
static bool counted(enum stats_counter counter, uint64_t value) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (stats_get(counter) < value && clock_now() < end)
        moment();
    return stats_get(counter) == value;
}

/* Whether our node answers a ping on a connection that has shaken hands. */
static bool pings(int fd) {
    struct buf b = {0};
    uint8_t frame[512];
    size_t n = 0;

    term_put_frame(&b, "{6,<a@h,1,2,3>,'',net_kernel}",
                   "{'$gen_call',{<a@h,1,2,3>,#<a@h,7,8,9>},{is_auth,a@h}}");
    (void)!send(fd, b.data, b.len, MSG_NOSIGNAL);
    buf_done(&b);
    while (n == 0) { /* over ticks */
        if (!read_all(fd, frame, 4))
            return false;
        n = etf_be32(frame);
    }
    return n < sizeof frame - 4 && read_all(fd, frame + 4, n) &&
           strcmp(term_frames(frame, 4 + n), "{2,'',<a@h,1,2,3>} + {#<a@h,7,8,9>,yes}") == 0;
}

/* Waits until io knows the peer. */
static bool is_up(const char *name) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct conn *c;

    while (!(c = io_find(name)) && clock_now() < end)
        moment();
    if (c)
        conn_unref(c);
    return c != NULL;
}

static struct options options = {.alive = (char[]){"py"},
                                 .host = (char[]){HOST},
                                 .cookie = (char[]){COOKIE},
                                 .bind = (char[]){HOST}};

static void test_init(void) {
    struct options o = options;
    char longer[600];
    struct err e = {0};

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    o.cookie = longer;
    is_int(node_init(&o, &e), -1, "a cookie that is too long");
    is_int(e.code, EX_CONFIG, "is an error of the configuration");
    has_str(e.text, "node: " SELF ": name or cookie is too long", "and named");
    ok(!strstr(e.text, "xxxx"), "but not told");
    o = options;
    o.alive = longer;
    is_int(node_init(&o, &e), -1, "a name that is too long");
    is_int(node_init(&options, &e), 0, "good ones");
    is_str(node_name(), SELF, "the name");
    ok(node_creation() != 0, "a creation");
}

static void test_listen(void) {
    struct options o = options;
    struct err e = {0};
    int taken = 0, fd = tcp_listen(&taken);
    char text[128];

    o.bind = (char[]){"::1"};
    is_int(node_listen(&o, &e), -1, "an address that is none of IPv4");
    has_str(e.text, "node: host ::1 has no IPv4 address", "is refused");
    o = options;
    o.listen_min = o.listen_max = taken;
    is_int(node_listen(&o, &e), -1, "a port that is taken");
    is_int(e.code, EX_UNAVAILABLE, "is refused");
    snprintf(text, sizeof text, "node: cannot listen on " HOST " port %d to %d: ", taken, taken);
    has_str(e.text, text, "with its number");
    o.listen_max = taken + 20;
    ok(taken + 20 > 65535 || (node_listen(&o, &e) == 0 && node_port() > taken),
       "in a range another one is found");
    is_int(node_listen(&options, &e), 0, "any port");
    ok(node_port() > 0 && node_listener() >= 0, "is told");
    close(fd);
}

static void test_handshake(void) {
    struct shake s;
    int fd = shake("a@" HOST, COOKIE, &s);

    is_str(s.status, "sok", "a peer is welcome");
    is_str(s.name, SELF, "the node tells its name");
    is_int(s.creation, node_creation(), "and creation");
    ok((s.flags & flags_of_ours) == flags_of_ours, "it can spawn, has aliases, monitors names");
    ok(s.proven, "it knows the cookie");
    ok(is_up("a@" HOST), "the connection can be found");
    ok(pings(fd), "and is used");
    is_int(stats_get(STATS_CONNECTS), 1, "it is counted");
    ok(logged("conn a@" HOST ": up"), "and logged");
    close(fd);
    ok(logged("conn a@" HOST ": closed: peer closed"), "so is its end");
}

static void test_bad_handshakes(void) {
    static const struct {
        const char *what, *bytes;
        size_t len;
    } garbage[] = {
        {"a browser", "GET / HTTP/1.1\r\n\r\n", 18},
        {"an empty packet", "\0\0", 2},
        {"a packet of one byte", "\0\1N", 3},
        {"another packet than the first", "\0\3sok", 5},
        {"a name that is longer than its packet", "\0\20N\0\0\0\0\3\7\17\274\0\0\0\1\1\0a", 18},
        {"a peer that can nothing", "\0\22N\0\0\0\0\0\0\0\0\0\0\0\1\0\3a@h", 20},
    };
    uint64_t failed = stats_get(STATS_HANDSHAKES_FAILED), connects = stats_get(STATS_CONNECTS);
    struct shake s;
    int fd = shake("bad@" HOST, "guess", &s);

    ok(!s.proven, "a peer with another cookie is not told ours");
    ok(is_closed(fd), "but sent away");
    ok(counted(STATS_HANDSHAKES_FAILED, ++failed), "which is counted");
    ok(logged("handshake: failed: "), "and logged");
    close(fd);
    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        fd = tcp(node_port());
        if (send(fd, garbage[i].bytes, garbage[i].len, MSG_NOSIGNAL) < 0 ||
            shutdown(fd, SHUT_WR) < 0)
            tap_bail("cannot send");
        ok(is_closed(fd), "%s is sent away", garbage[i].what);
        ok(counted(STATS_HANDSHAKES_FAILED, ++failed), "and counted");
        close(fd);
    }
    fd = tcp(node_port());
    hello(fd, "early@" HOST);
    close(fd);
    ok(counted(STATS_HANDSHAKES_FAILED, ++failed), "one that goes after its name is counted");
    is_int(stats_get(STATS_CONNECTS) - connects, 0, "none of them was connected");
    ok(!io_find("bad@" HOST) && !io_find("early@" HOST), "nor can be found");
}

/* Our attempt to connect is under way when the peer's comes. */
static void test_crossing(void) {
    uint64_t failed = stats_get(STATS_HANDSHAKES_FAILED);
    struct meet ours;
    struct shake s;
    int fd;

    if (!meet_plan(&ours, "a@" HOST) || !meet_dial(&ours))
        tap_bail("an attempt is left from before");
    fd = shake("a@" HOST, COOKIE, &s);
    is_str(s.status, "snok", "a peer of a lesser name has to leave");
    ok(is_closed(fd), "and its connection is closed");
    ok(logged("handshake: a@" HOST " and this node connect at once"), "the log says why");
    is_int(stats_get(STATS_HANDSHAKES_FAILED) - failed, 0, "that is no failure");
    close(fd);
    fd = shake("z@" HOST, COOKIE, &s);
    is_str(s.status, "sok", "a peer that we do not connect to is welcome meanwhile");
    close(fd);
    meet_end(&ours);

    if (!meet_plan(&ours, "zz@" HOST) || !meet_dial(&ours))
        tap_bail("an attempt is left from before");
    fd = shake("zz@" HOST, COOKIE, &s);
    is_str(s.status, "sok_simultaneous", "a peer of a greater name stays");
    ok(s.proven && is_up("zz@" HOST) && pings(fd), "and is connected");
    meet_end(&ours);
    close(fd);
}

static _Atomic int64_t connect_at; /* 0: not known yet */

/* Plays a thread that sends to a node. */
static void *connect_main(void *arg) {
    struct err e;
    void *c;

    while (atomic_load(&connect_at) == 0 || clock_now() < atomic_load(&connect_at))
        ;
    c = handshake_connect(arg, &e);
    if (!c)
        printf("# connect: %s\n", e.text);
    return c;
}

/* What a thread gets that wants to connect to a peer so many ns after that has said its name, and shakes hands. */
static struct conn *connect_meanwhile(char *name, int64_t after) {
    struct shake s = {.cookie = COOKIE};
    uint8_t head[5];
    int fd = tcp(node_port());
    pthread_t thread;
    void *c;
    struct pollfd p = {fd, POLLIN, 0};

    atomic_store(&connect_at, 0);
    hello(fd, name);
    if (poll(&p, 1, SECONDS * 1000) != 1 || recv(fd, head, sizeof head, MSG_PEEK) < 3)
        tap_bail("no status");
    if (pthread_create(&thread, NULL, connect_main, name) != 0)
        tap_bail("no thread");
    atomic_store(&connect_at, clock_now() + after);
    if (!shake_on(fd, &s))
        tap_bail("%s cannot shake hands", name);
    pthread_join(thread, &c);
    close(fd);
    return c;
}

static void test_theirs_is_taken(void) {
    uint64_t connects = stats_get(STATS_CONNECTS);
    char name[64] = "w@" HOST;
    struct conn *c = connect_meanwhile(name, 0);
    int rounds = 1000, found = 0;

    ok(c && strcmp(c->peer, name) == 0,
       "who wants to connect while a peer shakes hands gets its connection");
    is_int(stats_get(STATS_CONNECTS) - connects, 1, "there is but one");
    for (int i = 0; i < rounds; i++) {
        if (c)
            conn_unref(c);
        snprintf(name, sizeof name, "w%d@" HOST, i);
        c = connect_meanwhile(name, i % 500 * 1000);
        found += c != NULL;
    }
    is_int(found, rounds, "also at each moment of the handshake, and right after it");
    if (c)
        conn_unref(c);
}

static void test_again(void) {
    struct shake s;
    int first = shake("twice@" HOST, COOKIE, &s), second;

    ok(pings(first), "a peer");
    second = shake("twice@" HOST, COOKIE, &s);
    ok(s.proven && pings(second), "that comes again is welcome");
    ok(is_closed(first), "its first connection is closed");
    ok(logged("conn twice@" HOST ": closed: the peer has connected again"), "as the log says");
    close(first);
    close(second);
}

/* As many clients as there is room for, that say nothing. */
static void test_eviction(void) {
    uint64_t failed = stats_get(STATS_HANDSHAKES_FAILED);
    int fds[CLIENTS], fd, i, open = 0;
    struct shake s;
    uint8_t byte;

    for (i = 0; i < CLIENTS; i++)
        fds[i] = tcp(node_port());
    fd = shake("late@" HOST, COOKIE, &s);
    ok(s.proven && pings(fd), "%d silent clients do not keep another out", CLIENTS);
    ok(is_closed(fds[0]), "the oldest has made room");
    for (i = 1; i < CLIENTS; i++)
        open += recv(fds[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
    is_int(open, CLIENTS - 1, "the others may go on");
    ok(logged("handshake: failed: made room for a newer one"), "the log says so");
    hello(fds[5], "patient@" HOST);
    s = (struct shake){.cookie = COOKIE};
    ok(shake_on(fds[5], &s) && pings(fds[5]), "and one does");
    for (i = 0; i < CLIENTS; i++)
        close(fds[i]);
    ok(counted(STATS_HANDSHAKES_FAILED, failed + CLIENTS - 1), "the rest is counted as failed");
    close(fd);
}

/* epmd. */

static int epmd_port;

/* Starts an epmd that ends with this process: its pid. */
static pid_t start_epmd(void) {
    char port[16];
    pid_t pid;
    int fd;

    snprintf(port, sizeof port, "%d", epmd_port);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* It complains of clients that say nothing. */
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        execl(PYNODE_EPMD, "epmd", "-port", port, "-address", HOST, "-relaxed_command_check", NULL);
        _exit(127);
    }
    while (pid > 0 && (fd = tcp_try(epmd_port)) < 0 && waitpid(pid, NULL, WNOHANG) == 0)
        moment();
    if (pid < 0 || fd < 0)
        tap_bail("no epmd");
    close(fd);
    return pid;
}

static void stop_epmd(pid_t pid) {
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
}

/* Registers a feigned node: the connection that keeps its name. */
static int epmd_register(const char *alive, int port) {
    int fd = tcp(epmd_port);
    uint8_t answer[2];
    struct buf b = {0};

    put_number(&b, 120, 1);
    put_number(&b, (uint64_t)port, 2);
    put_number(&b, 72, 1); /* hidden */
    put_number(&b, 0, 1);
    put_number(&b, 6, 2);
    put_number(&b, 5, 2);
    put_text(&b, alive, true);
    put_number(&b, 0, 2);
    packet_send(fd, &b);
    if (!read_all(fd, answer, 2) || answer[1] != 0)
        tap_bail("epmd does not take %s", alive);
    return fd;
}

/* The port that epmd has for a name, 0 if it does not know it. */
static int epmd_lookup(const char *alive) {
    int fd = tcp(epmd_port), port = 0;
    uint8_t answer[4];
    struct buf b = {0};

    put_number(&b, 122, 1);
    put_text(&b, alive, false);
    packet_send(fd, &b);
    if (read_all(fd, answer, 2) && answer[1] == 0 && read_all(fd, answer + 2, 2))
        port = etf_be16(answer + 2);
    close(fd);
    return port;
}

/* Waits until epmd has that port for the name; 0: does not know it. */
static bool epmd_knows(const char *alive, int port) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (epmd_lookup(alive) != port && clock_now() < end)
        moment();
    return epmd_lookup(alive) == port;
}

static void test_epmd(pid_t *epmd) {
    int fd = epmd_register("py", 4321);
    struct err e = {0};

    is_int(node_epmd_port(), 0, "no epmd yet");
    is_int(node_publish(&e), -1, "a name that another node has");
    is_int(e.code, EX_TEMPFAIL, "may be free later");
    has_str(e.text, "epmd: the name " SELF " is taken by a running node", "and is told");
    close(fd);
    ok(epmd_knows("py", 0), "it is free");
    is_int(node_publish(&e), 0, "then it can be registered");
    is_int(epmd_lookup("py"), node_port(), "with the port");
    is_int(node_epmd_port(), epmd_port, "epmd's own port is known");
    for (int i = 0; i < 2; i++) {
        stop_epmd(*epmd);
        *epmd = start_epmd();
        ok(epmd_knows("py", node_port()), "after the end of epmd a new one is told the same");
        while (node_epmd_port() == 0) /* the answer may still be on its way */
            moment();
        is_int(node_epmd_port(), epmd_port, "and the node knows it");
    }
    ok(logged("epmd: gone, registering again when it is back"), "its end was logged");
    ok(logged("epmd: registered again"), "so was the new one");
}

static void test_unpublish(pid_t *epmd) {
    struct err e = {0};

    node_unpublish();
    ok(epmd_knows("py", 0), "the name is given back");
    while (node_epmd_port() != 0) /* the leader closes the connection */
        moment();
    is_int(node_publish(&e), 0, "and registered anew");
    stop_epmd(*epmd);
    while (node_epmd_port() != 0)
        moment();
    node_unpublish();
    *epmd = start_epmd();
    thread_pause(500);
    is_int(epmd_lookup("py"), 0, "a node that leaves while there is no epmd does not register at the next one");
}

/* A feigned node that we connect to: what it does with who connects. */
struct host {
    int listener, fd;
    const char *status; /* what it answers */
    bool honest;        /* knows the cookie */
    bool dials;         /* and connects itself meanwhile */
    struct shake shake;
    int own; /* its own connection */
};

static struct host host;

/* The other side of the handshake. */
static void *host_main(void *arg) {
    struct host *h = arg;
    uint8_t packet[512], digest[16];
    struct shake own;
    struct buf b = {0};

    h->fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC);
    if (h->fd < 0 || !read_name(h->fd, &h->shake, NULL))
        return NULL;
    put_text(&b, h->status, false);
    packet_send(h->fd, &b);
    if (h->dials)
        h->own = shake("zhost@" HOST, COOKIE, &own);
    if (strcmp(h->status, "snok") == 0)
        return NULL;
    put_text(&b, "N", false);
    put_number(&b, flags_of_peer, 8);
    put_number(&b, 99, 4);
    put_number(&b, 4711, 4);
    put_text(&b, "zhost@" HOST, true);
    packet_send(h->fd, &b);
    if (packet_read(h->fd, packet, sizeof packet) != 21 || packet[0] != 'r')
        return NULL;
    digest_of(COOKIE, 99, digest);
    h->shake.proven = memcmp(packet + 5, digest, 16) == 0;
    digest_of(h->honest ? COOKIE : "guess", etf_be32(packet + 1), digest);
    put_text(&b, "a", false);
    buf_put(&b, digest, 16);
    packet_send(h->fd, &b);
    return NULL;
}

/* Connects to the feigned node, which behaves as told. */
static struct conn *connect_host(const char *status, bool honest, bool dials, struct err *e) {
    int listener = host.listener;
    struct conn *c;
    pthread_t thread;

    host = (struct host){.listener = listener, .fd = -1, .own = -1};
    host.status = status;
    host.honest = honest;
    host.dials = dials;
    if (pthread_create(&thread, NULL, host_main, &host) != 0)
        tap_bail("no thread");
    c = handshake_connect("zhost@" HOST, e);
    pthread_join(thread, NULL);
    return c;
}

static void test_connect(void) {
    uint64_t connects = stats_get(STATS_CONNECTS);
    struct err e = {0};
    struct conn *c, *again;
    char longer[600];
    int port = 0, fd;

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    ok(!handshake_connect(longer, &e), "a name that is too long");
    has_str(e.text, "is too long", "is told");
    ok(!handshake_connect("nobody@" HOST, &e), "a node that epmd does not know");
    has_str(e.text, "node: cannot connect to nobody@" HOST ": ", "is told");
    ok(!handshake_connect("nobody", &e), "what is no node at all, too");

    host.listener = tcp_listen(&port);
    fd = epmd_register("zhost", port);
    ok(!connect_host("sok", false, false, &e), "a node that does not know the cookie");
    ok(is_closed(host.fd), "is hung up on");
    close(host.fd);
    ok(!connect_host("snok", true, false, &e), "one that refuses");
    is_int(e.code, EX_UNAVAILABLE, "cannot be reached");
    close(host.fd);
    is_int(stats_get(STATS_CONNECTS) - connects, 0, "none was connected");

    c = connect_host("snok", true, true, &e);
    ok(c && strcmp(c->peer, "zhost@" HOST) == 0, "one that refuses as it connects itself");
    ok(host.own >= 0 && pings(host.own), "by its own connection");
    is_int(stats_get(STATS_CONNECTS) - connects, 1, "the only one");
    if (c)
        conn_unref(c);
    close(host.own);
    close(host.fd);
    while ((c = io_find("zhost@" HOST))) { /* until its end has been seen */
        conn_unref(c);
        moment();
    }

    c = connect_host("sok", true, false, &e);
    ok(c && strcmp(c->peer, "zhost@" HOST) == 0, "one that is as it should be is connected");
    is_str(host.shake.name, SELF, "our name");
    is_int(host.shake.creation, node_creation(), "and creation were told");
    ok((host.shake.flags & flags_of_ours) == flags_of_ours, "and what we can");
    ok(host.shake.proven, "and that we know the cookie");
    ok(pings(host.fd), "it is served as any other");
    again = handshake_connect("zhost@" HOST, &e);
    ok(c == again, "who connects to it again gets the same connection");
    is_int(stats_get(STATS_CONNECTS) - connects, 2, "which has not shaken hands twice");
    if (c)
        conn_unref(c);
    if (again)
        conn_unref(again);
    close(host.fd);
    close(host.listener);
    close(fd);
}

/* Connects as another node to the feigned one, which behaves as told: the descriptor or -1. */
static int connect_as_host(const char *status, bool honest, int64_t deadline, struct err *e) {
    int listener = host.listener, fd;
    pthread_t thread;

    host = (struct host){.listener = listener, .fd = -1, .own = -1};
    host.status = status;
    host.honest = honest;
    if (pthread_create(&thread, NULL, host_main, &host) != 0)
        tap_bail("no thread");
    fd = handshake_connect_as("py-thread-1", 1234567, "zhost@" HOST, deadline, e);
    pthread_join(thread, NULL);
    return fd;
}

/* A connection of another name, which is none of this node's. */
static void test_connect_as(void) {
    int64_t soon = clock_now() + (int64_t)SECONDS * 1000000000;
    uint64_t connects = stats_get(STATS_CONNECTS);
    struct err e = {0};
    char longer[600];
    int port = 0, name, fd;
    uint8_t byte = 0;

    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    is_int(handshake_connect_as(longer, 1, "zhost@" HOST, 0, &e), -1, "a name that is too long");
    is_int(e.code, EX_USAGE, "is none");
    has_str(e.text, "is too long", "which is told");
    is_int(handshake_connect_as("py-thread-1", 1, longer, 0, &e), -1, "one of the other node, too");
    is_int(e.code, EX_USAGE, "is none");
    is_int(handshake_connect_as("py-thread-1", 1, "nobody@" HOST, 0, &e), -1,
           "a node that epmd does not know");
    is_int(e.code, EX_UNAVAILABLE, "cannot be reached");
    has_str(e.text, "node: py-thread-1@" HOST " cannot connect to nobody@" HOST ": ", "and is told");
    is_int(handshake_connect_as("py-thread-1", 1, "zhost@" HOST, 1, &e), -1, "no time");
    is_int(e.code, EX_TEMPFAIL, "is told");

    host.listener = tcp_listen(&port);
    name = epmd_register("zhost", port);
    {
        int64_t deadline = clock_now() + 20000000;

        is_int(handshake_connect_as("py-thread-1", 1, "zhost@" HOST, deadline, &e), -1,
               "a node that says nothing");
        is_int(e.code, EX_UNAVAILABLE, "cannot be reached");
        ok(clock_now() >= deadline, "which is known at the deadline");
        fd = accept4(host.listener, NULL, NULL, SOCK_CLOEXEC);
        ok(is_closed(fd), "then it is hung up on");
        close(fd);
    }
    is_int(connect_as_host("snok", true, soon, &e), -1, "one that refuses");
    close(host.fd);
    is_int(connect_as_host("sok", false, soon, &e), -1, "one that does not know the cookie");
    ok(is_closed(host.fd), "is hung up on");
    close(host.fd);
    is_int(stats_get(STATS_CONNECTS) - connects, 0, "none was connected");

    fd = connect_as_host("sok", true, 0, &e);
    ok(fd >= 0, "one that is as it should be is");
    is_str(host.shake.name, "py-thread-1@" HOST, "by the other name");
    is_int(host.shake.creation, 1234567, "and creation");
    ok((host.shake.flags & flags_of_ours) == flags_of_ours, "with what we can");
    ok(host.shake.proven, "and by our cookie");
    is_int(stats_get(STATS_CONNECTS) - connects, 1, "it is counted");
    ok(!io_find("zhost@" HOST), "but no connection of this node's");
    ok(send(host.fd, "x", 1, MSG_NOSIGNAL) == 1 && read_all(fd, &byte, 1), "it can be read");
    ok(send(fd, "y", 1, MSG_NOSIGNAL) == 1 && read_all(host.fd, &byte, 1), "and written");
    close(fd);
    ok(is_closed(host.fd), "and is its owner's to close");
    close(host.fd);
    close(host.listener);
    close(name);
    while (!epmd_knows("zhost", 0))
        moment();
}

/* A pool of one worker that leads; nothing is called. */

static void nothing_cb(struct exec_worker *w) {
    (void)w;
}

static bool lead_cb(struct exec_worker *w) {
    return lead_as_worker(w->number);
}

static void nothing(void) {
}

static void start(void) {
    static const struct exec_hooks hooks = {nothing_cb, nothing_cb, lead_cb, nothing_cb, NULL, NULL};
    struct io_settings settings = {.net_ticktime = 60,
                                   .max_frame = 1 << 20,
                                   .accept = handshake_accept,
                                   .epmd = node_epmd_lost,
                                   .report = nothing};
    struct err e;

    settings.listener = node_listener();
    request_init(node_name(), node_creation());
    route_init(node_name());
    exec_init(1, 1, 100, &hooks);
    if (io_init(&settings, &e) < 0 || lead_start(&e) < 0)
        tap_bail("%s", e.text);
    if (pool_start() < 0)
        tap_bail("no pool");
}

/* A log that nobody reads: who logs a warning waits. */
static void clog_log(void) {
    char *path = tap_path("clogged"), bytes[4096] = {0};
    int fd;

    if (mkfifo(path, 0600) < 0 || (fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0)
        _exit(98);
    log_open(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, path);
    while (write(fd, bytes, sizeof bytes) > 0 || write(fd, bytes, 1) > 0)
        ;
    free(path);
}

/* A handshake that has failed is in the list still while its thread logs that, but its descriptor's
 * number may be another's. In a process of its own. */
static void stale_scene(void) {
    struct pollfd p = {.events = POLLIN};
    struct err e;
    int garbage;

    alarm(SECONDS);
    clog_log();
    if (node_init(&options, &e) < 0 || node_listen(&options, &e) < 0)
        _exit(97);
    start();
    garbage = tcp(node_port());
    shutdown(garbage, SHUT_WR);
    if (!is_closed(garbage)) /* its thread waits to log that */
        _exit(1);
    p.fd = tcp(node_port()); /* gets the same number in the node */
    for (int i = 0; i < CLIENTS - 1; i++)
        tcp(node_port()); /* one too many: the oldest, which is the dropped one, makes room */
    _exit(poll(&p, 1, 300) == 0 ? 0 : 2);
}

int main(void) {
    char port[16];
    pid_t epmd;
    int fd;

    /* None that connect(2) may take for its own end: it would meet itself before epmd is up. */
    epmd_port = 20000 + (int)getpid() % 10000;
    while ((fd = tcp_listen(&epmd_port)) < 0)
        epmd_port++;
    close(fd);
    snprintf(port, sizeof port, "%d", epmd_port);
    setenv("ERL_EPMD_PORT", port, 1);
    is_int(tap_child(stale_scene, NULL), 0,
           "a client with the number of a dropped one's descriptor is not shut down for it");
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    epmd = start_epmd();
    test_init();
    test_listen();
    start();
    test_handshake();
    test_bad_handshakes();
    test_crossing();
    test_theirs_is_taken();
    test_again();
    test_eviction();
    test_epmd(&epmd);
    test_connect_as();
    test_connect();
    test_unpublish(&epmd);
    pool_stop_begin();
    lead_stop();
    ok(pool_stop_wait(SECONDS), "all ends");
    stop_epmd(epmd);
    free(log_path);
    return tap_end();
}
