/* scrape.c - with --metrics: answers who asks for the metrics, over HTTP. */
#include "config.h"

#include "scrape.h"
#include "clock.h"
#include "http.h"
#include "log.h"
#include "thread.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    SCRAPE_CONNS = 8,
    SCRAPE_BACKLOG = 128,
    SCRAPE_SECONDS = 5, /* a connection lives at most so long, however slowly bytes drip */
    SCRAPE_PAUSE_MS = 100,
};

static const int64_t scrape_second = 1000000000;

/* Reads a request; then out is filled and written; then it waits for the client to close: a close
 * with something unread would take the answer away from it. */
struct scrape_conn {
    int fd; /* -1: none */
    int64_t deadline;
    char in[HTTP_REQUEST_MAX];
    size_t in_len;
    struct buf out;
    size_t sent;
};

/* The thread's, once it runs. */
static struct {
    int listener;
    void (*put)(struct buf *out);
    const char *type;
    struct scrape_conn conns[SCRAPE_CONNS];
} scrape = {.listener = -1};

/* Connections. */

static void scrape_close(struct scrape_conn *c) {
    close(c->fd);
    c->fd = -1;
    buf_done(&c->out);
}

static bool scrape_is_written(const struct scrape_conn *c) {
    return c->out.len > 0 && c->sent == c->out.len;
}

/* Writes what the socket takes: false when the connection broke. */
static bool scrape_write(struct scrape_conn *c) {
    while (c->sent < c->out.len) {
        ssize_t n =
            send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        c->sent += (size_t)n;
    }
    return shutdown(c->fd, SHUT_WR) == 0;
}

static bool scrape_answer(struct scrape_conn *c, enum http_verdict verdict) {
    struct buf text = {0};

    if (verdict == HTTP_OK) {
        scrape.put(&text);
        http_put_head(&c->out, verdict, scrape.type, text.len);
        buf_put(&c->out, text.data, text.len);
        buf_done(&text);
    } else {
        http_put_refusal(&c->out, verdict);
    }
    return scrape_write(c);
}

/* What comes after the request is nobody's. */
static bool scrape_read(struct scrape_conn *c) {
    enum http_verdict verdict;
    char ignored[HTTP_REQUEST_MAX];
    bool ends = c->out.len > 0;
    ssize_t n = recv(c->fd, ends ? ignored : c->in + c->in_len,
                     ends ? sizeof ignored : sizeof c->in - c->in_len, MSG_DONTWAIT);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    if (ends)
        return true;
    c->in_len += (size_t)n;
    verdict = http_parse(c->in, c->in_len);
    return verdict == HTTP_MORE || scrape_answer(c, verdict);
}

/* A place for one more: a free one, or that of the oldest, so that clients which only connect cannot
 * keep others out. */
static struct scrape_conn *scrape_place(void) {
    struct scrape_conn *oldest = &scrape.conns[0];

    for (int i = 0; i < SCRAPE_CONNS; i++) {
        struct scrape_conn *c = &scrape.conns[i];

        if (c->fd < 0)
            return c;
        if (c->deadline < oldest->deadline)
            oldest = c;
    }
    scrape_close(oldest);
    return oldest;
}

/* Without a descriptor to be had the client waits, and this must not turn in circles meanwhile. */
static void scrape_accept(void) {
    int fd = accept4(scrape.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct scrape_conn *c;

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            thread_pause(SCRAPE_PAUSE_MS);
        return;
    }
    c = scrape_place();
    c->fd = fd;
    c->deadline = clock_now() + SCRAPE_SECONDS * scrape_second;
    c->in_len = c->sent = 0;
}

/* The thread. */

/* Closes what has had its time: how many ms until the next one has, or -1. */
static int scrape_expire(void) {
    int64_t now = clock_now(), next = -1;

    for (int i = 0; i < SCRAPE_CONNS; i++) {
        struct scrape_conn *c = &scrape.conns[i];

        if (c->fd >= 0 && c->deadline <= now)
            scrape_close(c);
        if (c->fd >= 0 && (next < 0 || c->deadline - now < next))
            next = c->deadline - now;
    }
    return next < 0 ? -1 : (int)(next / 1000000) + 1;
}

static short scrape_events(const struct scrape_conn *c) {
    return c->out.len == 0 || scrape_is_written(c) ? POLLIN : POLLOUT;
}

static void scrape_serve(struct scrape_conn *c, short events) {
    if (!(events == POLLIN ? scrape_read(c) : scrape_write(c)))
        scrape_close(c);
}

/* New connections last: they may take the places of those that were looked at. */
static void scrape_turn(void) {
    struct pollfd p[SCRAPE_CONNS + 1];
    int timeout = scrape_expire();

    for (int i = 0; i < SCRAPE_CONNS; i++)
        p[i] = (struct pollfd){scrape.conns[i].fd, scrape_events(&scrape.conns[i]), 0};
    p[SCRAPE_CONNS] = (struct pollfd){scrape.listener, POLLIN, 0};
    if (poll(p, SCRAPE_CONNS + 1, timeout) <= 0)
        return;
    for (int i = 0; i < SCRAPE_CONNS; i++)
        if (p[i].revents)
            scrape_serve(&scrape.conns[i], p[i].events);
    if (p[SCRAPE_CONNS].revents)
        scrape_accept();
}

static void *scrape_main(void *arg) {
    for (;;)
        scrape_turn();
    return arg;
}

/* Starting. */

/* A child that Python forks must not keep the port taken. */
static void scrape_in_child(void) {
    close(scrape.listener);
    for (int i = 0; i < SCRAPE_CONNS; i++)
        if (scrape.conns[i].fd >= 0)
            close(scrape.conns[i].fd);
}

/* Tells where the socket has come to listen, as port 0 leaves it to the system. */
static void scrape_log(void) {
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char host[64], port[8];

    if (getsockname(scrape.listener, (struct sockaddr *)&at, &len) == 0 &&
        getnameinfo((struct sockaddr *)&at, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        log_info("metrics: at http://%s%s%s:%s/metrics", at.ss_family == AF_INET6 ? "[" : "", host,
                 at.ss_family == AF_INET6 ? "]" : "", port);
}

static int scrape_bind(const struct addrinfo *to) {
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, to->ai_addr, to->ai_addrlen) == 0 && listen(fd, SCRAPE_BACKLOG) == 0)
        return fd;
    close(fd);
    return -1;
}

int scrape_listen(const char *address, int port, struct err *e) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char service[16];
    int error, fd;

    snprintf(service, sizeof service, "%d", port);
    error = getaddrinfo(address, service, &hints, &found);
    if (error)
        return err_set(e, EX_USAGE, "--metrics: %.80s: %s", address, gai_strerror(error));
    fd = scrape_bind(found);
    error = errno;
    freeaddrinfo(found);
    if (fd < 0)
        return err_set(e, EX_UNAVAILABLE, "--metrics: cannot listen on %.80s port %d: %s", address,
                       port, strerror(error));
    scrape.listener = fd;
    return 0;
}

int scrape_start(void (*put)(struct buf *out), const char *type, struct err *e) {
    int error;

    scrape.put = put;
    scrape.type = type;
    for (int i = 0; i < SCRAPE_CONNS; i++)
        scrape.conns[i].fd = -1;
    pthread_atfork(NULL, NULL, scrape_in_child);
    error = thread_start(scrape_main, NULL);
    if (error)
        return err_set(e, EX_OSERR, "--metrics: cannot start a thread: %s", strerror(error));
    scrape_log();
    return 0;
}
