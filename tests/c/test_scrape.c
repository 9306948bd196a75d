/* test_scrape.c - the thread that answers scrapes: whole and split requests, refusals, slow clients,
 * more of them than have room. Runs under TSan as well.
 */
#include "config.h"

#include "scrape.h"
#include "buf.h"
#include "clock.h"
#include "log.h"
#include "tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sysexits.h>

enum { SECONDS = 30, LARGE = 4 << 20, MANY = 100 };

static uint16_t port;
static _Atomic int scrapes;
static _Atomic bool large;

static void put_cb(struct buf *out) {
    atomic_fetch_add(&scrapes, 1);
    if (atomic_load(&large) && buf_reserve(out, LARGE) == 0) {
        memset(out->data, 'x', LARGE);
        out->len = LARGE;
    } else {
        buf_put(out, "a 1\n", 4);
    }
}

static int client(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct timeval limit = {SECONDS, 0};

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        tap_bail("cannot connect: %s", strerror(errno));
    return fd;
}

static void say(int fd, const char *text) {
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);

    (void)n; /* one that was dropped is found out by what comes back */
}

/* All that comes until the end, which is closed: its length, or -1 when it ends badly. */
static ssize_t hear(int fd, char *into, size_t size) {
    size_t len = 0;
    ssize_t n;

    while ((n = recv(fd, into + len, size - 1 - len, 0)) > 0)
        len += (size_t)n;
    into[len] = 0;
    close(fd);
    return n == 0 ? (ssize_t)len : -1;
}

static const char *ask(const char *request) {
    static char answer[65536];
    int fd = client();

    say(fd, request);
    return hear(fd, answer, sizeof answer) < 0 ? "broken" : answer;
}

#define GET "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

static const char answered[] = "HTTP/1.1 200 OK\r\nContent-Type: text/t\r\nContent-Length: 4\r\n"
                               "Connection: close\r\n\r\na 1\n";

static void test_answers(void) {
    static char long_one[8192];

    is_str(ask(GET), answered, "a scrape is answered, and the connection ends");
    is_str(ask(GET "and more"), answered, "what comes behind it does not take the answer away");
    has_str(ask("GET /x HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 ", "another path: 404");
    has_str(ask("PUT /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 ", "another method: 405");
    has_str(ask("nonsense\r\n\r\n"), "HTTP/1.1 400 ", "nonsense: 400");
    memset(long_one, 'a', sizeof long_one - 1);
    has_str(ask(long_one), "HTTP/1.1 400 ", "8 KiB without an end: 400");
}

static void test_split(void) {
    char answer[4096];
    int fd = client();
    const char *rest = GET;
    char byte[2] = "";

    for (; *rest; rest++) {
        byte[0] = *rest;
        say(fd, byte);
    }
    ok(hear(fd, answer, sizeof answer) > 0, "byte by byte");
    is_str(answer, answered, "it is the same");
}

/* More than a socket takes at once, read by a client that begins late. */
static void test_large(void) {
    static char answer[LARGE + 4096];
    int fd = client();
    int before = atomic_load(&scrapes);

    atomic_store(&large, true);
    say(fd, GET);
    while (atomic_load(&scrapes) == before)
        poll(NULL, 0, 1);
    has_str(ask("GET /x HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 ", "another client is answered meanwhile");
    ok(hear(fd, answer, sizeof answer) > LARGE, "the whole answer comes");
    atomic_store(&large, false);
}

/* Clients that say nothing, or half of it. */
static void test_slow(void) {
    int64_t began = clock_now();
    char answer[256];
    int fd = client();
    double took;

    say(fd, "GET /met");
    is_int(hear(fd, answer, sizeof answer), 0, "a slow client gets nothing");
    took = (double)(clock_now() - began) / 1e9;
    ok(took > 4.5 && took < SECONDS, "and is dropped after five seconds (%.1f)", took);
}

static void test_many(void) {
    int fds[MANY], open = 0;
    int64_t began;

    for (int i = 0; i < MANY; i++) {
        fds[i] = client();
        say(fds[i], "GET ");
    }
    began = clock_now();
    is_str(ask(GET), answered, "behind %d slow clients a scrape is answered", MANY);
    ok(clock_now() - began < INT64_C(4000000000), "without waiting for their end");
    for (int i = 0; i < MANY; i++) {
        struct pollfd p = {fds[i], POLLIN, 0};

        open += poll(&p, 1, 0) == 0;
        close(fds[i]);
    }
    ok(open <= 8, "at most 8 of them are still there (%d)", open);
}

/* Where it listens is in the log. */
static void read_port(const char *path) {
    char line[256] = "", *at;
    FILE *f = fopen(path, "r");

    if (!f || !fgets(line, sizeof line, f))
        tap_bail("nothing in the log");
    fclose(f);
    at = strstr(line, "metrics: at http://127.0.0.1:");
    ok(at, "where it listens is logged");
    port = at ? (uint16_t)strtoul(at + strlen("metrics: at http://127.0.0.1:"), NULL, 10) : 0;
    ok(port > 0, "port 0 picks one");
}

static void test_taken(void) {
    struct err e = {0};

    is_int(scrape_listen("127.0.0.1", port, &e), -1, "a port that is taken");
    is_int(e.code, EX_UNAVAILABLE, "is refused with 69");
    has_str(e.text, "--metrics: cannot listen on 127.0.0.1 port ", "the option is named");
}

int main(void) {
    char *path = tap_path("log");
    struct err e = {0};

    if (log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, path) < 0)
        tap_bail("no log");
    is_int(scrape_listen("no address", 0, &e), -1, "what is no address is refused");
    is_int(e.code, EX_USAGE, "with 64");
    if (scrape_listen("127.0.0.1", 0, &e) < 0 || scrape_start(put_cb, "text/t", &e) < 0)
        tap_bail("%s", e.text);
    read_port(path);
    test_answers();
    test_split();
    test_large();
    test_many();
    test_slow();
    test_taken();
    free(path);
    return tap_end();
}
