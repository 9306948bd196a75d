/* test_connect.c - connections that are kept: the greeting, again after a loss, how often is tried.
 *
 * The peer is the other end of a socket pair. What plays epmd closes each connection, so the node's
 * own tries fail, and the connections it finds are those that the peer has made.
 */
#include "config.h"

#include "connect.h"
#include "conn.h"
#include "control.h"
#include "io.h"
#include "log.h"
#include "node.h"
#include "peer.h"
#include "scene.h"
#include "term.h"

#include <arpa/inet.h>

#define PEER "app@127.0.0.1"
#define GREETING "{6,<py@h,0,0,C>,'',py_coordinator} + {py_hello,py@h}"

static char *log_path;

static void scene_done(struct request *r) {
    (void)r;
}

static void test_pauses(void) {
    static const int longest[] = {200, 200, 400, 800, 1600, 3200, 5000, 5000};
    unsigned n = sizeof longest / sizeof *longest;

    for (unsigned failures = 0; failures < n; failures++) {
        int least = longest[failures], most = 0;

        for (uint32_t random = 0; random < 100000; random += 7) {
            int pause = connect_pause(failures, random);

            least = pause < least ? pause : least;
            most = pause > most ? pause : most;
        }
        is_int(most, longest[failures], "after %u failures: the longest pause", failures);
        is_int(least, longest[failures] * 3 / 4, "the shortest");
    }
    ok(connect_pause(4000000000U, 0) > 0, "however many there were");
}

/* How often the log has the text. */
static int times(const char *text) {
    char *lines = tap_slurp(log_path);
    int n = 0;

    for (const char *p = lines; (p = strstr(p, text)); p++)
        n++;
    free(lines);
    return n;
}

/* The application at the peer takes the node in. */
static void attach(int fd) {
    struct buf b = {0};

    term_put_frame(&b, "{6,<" PEER ",1,2,3>,'',pynode}", "{attach,<" PEER ",1,2,3>}");
    if (send(fd, b.data, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
        tap_bail("the attachment cannot be sent");
    buf_done(&b);
}

/* Whether nothing comes for longer than the pause before the next greeting would be. */
static bool is_silent(int fd) {
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, 1000) == 0;
}

/* A new connection of the peer's: its end of it. */
static int peer_connects(void) {
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        tap_bail("no socket pair");
    io_add(conn_new(fds[0], PEER));
    return fds[1];
}

/* The frame that comes next, its creation as C. */
static const char *frame(int fd) {
    static char text[256];
    uint8_t bytes[4096];
    const char *p, *q;
    uint32_t len;

    if (!read_all(fd, bytes, 4))
        return "closed";
    len = etf_be32(bytes);
    if (len > sizeof bytes - 4 || !read_all(fd, bytes + 4, len))
        return "no frame";
    p = term_frames(bytes, len + 4);
    q = strstr(p, ",0,0,");
    if (!q)
        return p;
    snprintf(text, sizeof text, "%.*s,0,0,C%s", (int)(q - p), p, strchr(q, '>'));
    return text;
}

/* What the node takes for epmd; its port goes into the environment. */
static int listen_as_epmd(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char port[16];

    if (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 8) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        tap_bail("no port");
    snprintf(port, sizeof port, "%d", ntohs(address.sin_port));
    setenv("ERL_EPMD_PORT", port, 1);
    return fd;
}

/* Lets one try of the node's fail. */
static void refuse(int epmd) {
    struct pollfd p = {epmd, POLLIN, 0};

    if (poll(&p, 1, PEER_SECONDS * 1000) != 1)
        tap_bail("the node does not try");
    close(accept(epmd, NULL, NULL));
}

static void start(void) {
    static char alive[] = "py", host[] = "h", cookie[] = "secret", peer[] = PEER;
    static char *nodes[] = {peer};
    static const struct options_list list = {nodes, 1};
    static struct options options = {.alive = alive, .host = host, .cookie = cookie};
    static const struct control_facts facts = {.node = "py@h", .version = "1", .python = "3"};
    struct err e;

    control_init(&facts);
    if (node_init(&options, &e) < 0)
        tap_bail("%s", e.text);
    exec_init(1, 1, 10, &hooks);
    scene_start(nothing_cb);
    connect_start(&list);
}

int main(void) {
    int epmd, fd;

    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    test_pauses();
    epmd = listen_as_epmd();
    start();
    for (int i = 0; i < 3; i++)
        refuse(epmd);
    is_int(times("connect " PEER ": trying on: "), 1, "of tries that fail one is told");
    close(epmd);
    fd = peer_connects();
    is_str(frame(fd), GREETING, "the peer's own connection is found, and it is greeted");
    ok(peer_logged(log_path, "connect " PEER ": greeted"), "that is told");
    is_str(frame(fd), GREETING, "a greeting may have come too early: there is another one");
    is_int(times("greeted"), 1, "which is not told");
    attach(fd);
    while (strstr(frame(fd), "py_hello"))
        ;
    has_str(frame(fd), "[{load,", "who has attached is told of the load");
    ok(is_silent(fd), "but not greeted any more");
    connect_lost("other@127.0.0.1");
    close(fd);
    ok(peer_logged(log_path, "conn " PEER ": closed"), "the connection is lost");
    fd = peer_connects();
    is_str(frame(fd), GREETING, "the next one is greeted, too");
    close(fd);
    fd = peer_connects();
    is_str(frame(fd), GREETING, "and the one after it");
    close(fd);
    free(log_path);
    return tap_end();
}
