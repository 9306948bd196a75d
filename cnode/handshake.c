/* handshake.c - how a connection begins, in both directions: libei's handshakes, and who yields. */
#include "config.h"

#include "handshake.h"
#include "conn.h"
#include "exec.h"
#include "io.h"
#include "log.h"
#include "meet.h"
#include "stats.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    HANDSHAKE_MAX = 64,    /* at a time; the oldest makes room for a newer one */
    HANDSHAKE_SECONDS = 7, /* as net_setuptime */
    HANDSHAKE_AWAIT_MS = 300,
    HANDSHAKE_AWAIT_STEP_MS = 10,
};

/* What a BEAM needs and libei does not offer: SPAWN (rpc and erpc), ALIAS, and
 * DIST_MONITOR_NAME, without which the BEAM sends no monitor at all. erts/emulator/beam/dist.h */
static const uint64_t HANDSHAKE_FLAGS = UINT64_C(1) << 32 | UINT64_C(1) << 35 | 0x20;

/* The first packet of a peer that connects: length, 'N', flags, creation, length of name, name. */
enum {
    HANDSHAKE_HELLO_NAME = 2 + 1 + 8 + 4 + 2,
    HANDSHAKE_HELLO = HANDSHAKE_HELLO_NAME + MAXNODELEN
};

/* A socket while libei shakes hands on it. */
struct handshake_socket {
    int fd;
    int64_t deadline; /* monotonic ns; 0: none */
    bool shaken;      /* the handshake is over */
    bool keep;        /* closing it leaves the descriptor open: it is ours now */

    /* Of an incoming one until the peer has told its name. */
    bool greeting;
    size_t hello_len;
    uint8_t hello[HANDSHAKE_HELLO];
};

struct handshake {
    struct handshake *next;
    int fd;
    _Atomic bool evicted;
    bool refused; /* in favour of our own connection */
    char peer[MAXNODELEN + 1];
    struct meet meet;
};

static struct {
    ei_cnode *cnode;
    int listener;
    pthread_mutex_t lock;   /* guards what follows */
    struct handshake *list; /* the newest first */
    int n;
    bool accepting;
} handshake = {.lock = PTHREAD_MUTEX_INITIALIZER, .accepting = true};

/* What this thread is at, for the callbacks: the descriptor that it has accepted, the incoming
 * handshake, or its own attempt to connect. */
static _Thread_local int handshake_accepted = -1;
static _Thread_local struct handshake *handshake_current;
static _Thread_local struct meet *handshake_dialing;
static _Thread_local int64_t handshake_until; /* an attempt's own deadline, if it is the earlier */

/* The socket callbacks of libei ("User Supplied Socket Implementation"). They answer 0 or an
 * errno. */

static struct handshake_socket *handshake_socket_new(int fd, bool deadline) {
    struct handshake_socket *s = xcalloc(1, sizeof *s);

    s->fd = fd;
    if (deadline)
        s->deadline = clock_now() + (int64_t)HANDSHAKE_SECONDS * 1000000000;
    if (handshake_until > 0 && handshake_until < s->deadline)
        s->deadline = handshake_until;
    return s;
}

/* Waits until fd is ready, never beyond the handshake's deadline, however slowly bytes drip. */
static int handshake_wait(const struct handshake_socket *s, short events) {
    struct pollfd p = {s->fd, events, 0};
    int ms = -1, n;

    if (s->shaken)
        return 0;
    do {
        if (s->deadline) {
            int64_t left = s->deadline - clock_now();

            if (left <= 0)
                return ETIMEDOUT;
            ms = (int)(left / 1000000) + 1;
        }
        n = poll(&p, 1, ms);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno;
    return n == 0 ? ETIMEDOUT : 0;
}

static int handshake_cb_socket(void **ctx, void *setup) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)setup;
    if (fd < 0)
        return errno;
    *ctx = handshake_socket_new(fd, true);
    return 0;
}

/* Closes a descriptor of an incoming handshake, which nobody may shut down from then on: its number
 * may be another's. */
static void handshake_close(struct handshake *h, int fd) {
    pthread_mutex_lock(&handshake.lock);
    h->fd = -1;
    close(fd);
    pthread_mutex_unlock(&handshake.lock);
}

static int handshake_cb_close(void *ctx) {
    struct handshake_socket *s = ctx;

    if (!s->keep && handshake_current)
        handshake_close(handshake_current, s->fd);
    else if (!s->keep)
        close(s->fd);
    free(s);
    return 0;
}

static int handshake_cb_listen(void *ctx, void *addr, int *len, int backlog) {
    struct handshake_socket *s = ctx;
    socklen_t size = (socklen_t)*len;
    int on = 1;

    setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s->fd, addr, size) < 0 || getsockname(s->fd, addr, &size) < 0 ||
        listen(s->fd, backlog) < 0 || fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
        return errno;
    *len = (int)size;
    return 0;
}

/* The connection has been accepted already, by handshake_accept(). */
static int handshake_cb_accept(void **ctx, void *addr, int *len, unsigned tmo) {
    socklen_t size = (socklen_t)*len;

    (void)tmo;
    if (getpeername(handshake_accepted, addr, &size) < 0)
        return errno;
    *len = (int)size;
    *ctx = handshake_socket_new(handshake_accepted, true);
    ((struct handshake_socket *)*ctx)->greeting = true;
    handshake_accepted = -1;
    return 0;
}

static int handshake_cb_connect(void *ctx, void *addr, int len, unsigned tmo) {
    struct handshake_socket *s = ctx;
    socklen_t size = sizeof(int);
    int error;

    (void)tmo;
    if (handshake_dialing && !meet_dial(handshake_dialing))
        return EALREADY;
    if (connect(s->fd, addr, (socklen_t)len) == 0)
        return 0;
    if (errno != EINPROGRESS && errno != EINTR)
        return errno;
    error = handshake_wait(s, POLLOUT);
    if (!error && getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    return error;
}

static int handshake_cb_writev(void *ctx, const void *iov, int n, ssize_t *len, unsigned tmo) {
    struct handshake_socket *s = ctx;
    int error = handshake_wait(s, POLLOUT);

    (void)tmo;
    if (error)
        return error;
    *len = writev(s->fd, iov, n);
    return *len < 0 ? errno : 0;
}

/* Adds our flags to the one packet of the handshake that names them: length, 'N', flags (8
 * bytes), ... The digest does not cover them and the protocol fixes the layout. */
static void handshake_add_flags(uint8_t *packet, size_t len) {
    uint64_t flags;

    if (len < 3 + 8 || packet[2] != 'N' || etf_be16(packet) != len - 2)
        return;
    flags = etf_be64(packet + 3) | HANDSHAKE_FLAGS;
    for (int i = 0; i < 8; i++)
        packet[3 + i] = (uint8_t)(flags >> (56 - 8 * i));
}

/* The peer's name out of its first packet: false when that is not as it should be. */
static bool handshake_hello_name(const struct handshake_socket *s, char *name, size_t size) {
    size_t len;

    if (s->hello_len < HANDSHAKE_HELLO_NAME || s->hello[2] != 'N')
        return false;
    len = etf_be16(s->hello + HANDSHAKE_HELLO_NAME - 2);
    if (len > s->hello_len - HANDSHAKE_HELLO_NAME || len >= size)
        return false;
    memcpy(name, s->hello + HANDSHAKE_HELLO_NAME, len);
    name[len] = 0;
    return true;
}

/* libei greets every peer with "ok"; this says what is right when we are connecting to it, too.
 * What libei gave counts as written. */
static int handshake_greet(struct handshake_socket *s) {
    static const char *const statuses[] = {
        [MEET_OK] = "ok", [MEET_OK_SIMULTANEOUS] = "ok_simultaneous", [MEET_NOK] = "nok"};
    struct handshake *h = handshake_current;
    enum meet_status status = MEET_OK;
    char packet[32];
    int n;

    s->greeting = false;
    if (handshake_hello_name(s, h->peer, sizeof h->peer))
        status = meet_greet(&h->meet, h->peer);
    h->refused = status == MEET_NOK;
    n = snprintf(packet + 2, sizeof packet - 2, "s%s", statuses[status]);
    packet[0] = 0;
    packet[1] = (char)n;
    if (send(s->fd, packet, (size_t)n + 2, MSG_NOSIGNAL) != n + 2)
        return errno ? errno : EIO;
    return 0;
}

static int handshake_cb_write(void *ctx, const char *data, ssize_t *len, unsigned tmo) {
    struct handshake_socket *s = ctx;
    uint8_t packet[1024];
    int error = handshake_wait(s, POLLOUT);

    (void)tmo;
    if (error)
        return error;
    if (s->greeting)
        return handshake_greet(s);
    if (handshake_current && handshake_current->refused)
        return EALREADY;
    if (!s->shaken && *len > 0 && (size_t)*len <= sizeof packet) {
        memcpy(packet, data, (size_t)*len);
        handshake_add_flags(packet, (size_t)*len);
        data = (const char *)packet;
    }
    *len = send(s->fd, data, (size_t)*len, MSG_NOSIGNAL);
    return *len < 0 ? errno : 0;
}

static int handshake_cb_read(void *ctx, char *data, ssize_t *len, unsigned tmo) {
    struct handshake_socket *s = ctx;
    int error = handshake_wait(s, POLLIN);

    (void)tmo;
    if (error)
        return error;
    *len = recv(s->fd, data, (size_t)*len, 0);
    if (*len < 0)
        return errno;
    if (s->greeting && (size_t)*len <= sizeof s->hello - s->hello_len) {
        memcpy(s->hello + s->hello_len, data, (size_t)*len);
        s->hello_len += (size_t)*len;
    }
    return 0;
}

static int handshake_cb_header(void *ctx, int *size) {
    (void)ctx;
    *size = 2;
    return 0;
}

static int handshake_cb_shaken(void *ctx) {
    struct handshake_socket *s = ctx;
    int on = 1;

    s->shaken = true;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    s->keep = true;
    return 0;
}

static int handshake_cb_fd(void *ctx, int *fd) {
    *fd = ((struct handshake_socket *)ctx)->fd;
    return 0;
}

static ei_socket_callbacks handshake_table = {
    .flags = EI_SCLBK_FLG_FULL_IMPL,
    .socket = handshake_cb_socket,
    .close = handshake_cb_close,
    .listen = handshake_cb_listen,
    .accept = handshake_cb_accept,
    .connect = handshake_cb_connect,
    .writev = handshake_cb_writev,
    .write = handshake_cb_write,
    .read = handshake_cb_read,
    .handshake_packet_header_size = handshake_cb_header,
    .connect_handshake_complete = handshake_cb_shaken,
    .accept_handshake_complete = handshake_cb_shaken,
    .get_fd = handshake_cb_fd,
};

ei_socket_callbacks *const handshake_callbacks = &handshake_table;

void handshake_init(ei_cnode *cnode) {
    handshake.cnode = cnode;
}

void handshake_set_listener(int fd) {
    handshake.listener = fd;
}

/* Handshakes. */

/* libei has shaken hands on fd: takes the descriptor out of its hands and passes it on. */
static struct conn *handshake_shaken(int fd, const char *peer) {
    struct conn *c;

    ei_close_connection(fd); /* frees libei's entry; handshake_cb_close() keeps the descriptor */
    stats_add(STATS_CONNECTS, 1);
    c = conn_new(fd, peer);
    io_add(conn_ref(c));
    return c;
}

static void handshake_ended(struct handshake *h) {
    struct handshake **at = &handshake.list;

    pthread_mutex_lock(&handshake.lock);
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    handshake.n--;
    if (!handshake.accepting)
        io_set_accepting(handshake.accepting = true);
    pthread_mutex_unlock(&handshake.lock);
}

static void handshake_failed(const struct handshake *h) {
    if (h->refused) {
        log_info("handshake: %s and this node connect at once, this node's connection stays",
                 h->peer);
        return;
    }
    stats_add(STATS_HANDSHAKES_FAILED, 1);
    if (h->evicted)
        log_warning("handshake: failed: made room for a newer one");
    else if (*h->peer) /* libei does not say more: EIO */
        log_warning("handshake: failed: %s: another cookie, or it went away", h->peer);
    else
        log_warning("handshake: failed: %s", strerror(erl_errno));
}

static void *handshake_main(void *arg) {
    struct handshake *h = arg;
    ErlConnect peer;
    int fd;

    handshake_accepted = h->fd;
    handshake_current = h;
    fd = ei_accept_tmo(handshake.cnode, handshake.listener, &peer, HANDSHAKE_SECONDS * 1000);
    if (fd < 0) {
        handshake_failed(h);
        if (handshake_accepted >= 0)
            handshake_close(h, handshake_accepted);
    }
    handshake_ended(h); /* first: after this the descriptor may be closed by others */
    if (fd >= 0)
        conn_unref(handshake_shaken(fd, peer.nodename));
    meet_end(&h->meet); /* last: who has waited for it looks for the connection */
    free(h);
    return NULL;
}

/* Lets the oldest handshake fail, so that the one that waits can come in. */
static void handshake_evict_locked(void) {
    struct handshake *h = handshake.list;

    while (h && h->next)
        h = h->next;
    if (h && !h->evicted) {
        h->evicted = true;
        if (h->fd >= 0)
            shutdown(h->fd, SHUT_RDWR);
    }
    io_set_accepting(handshake.accepting = false);
}

static void handshake_begin(int fd) {
    struct handshake *h = xcalloc(1, sizeof *h);
    int error;

    h->fd = fd;
    pthread_mutex_lock(&handshake.lock);
    h->next = handshake.list;
    handshake.list = h;
    handshake.n++;
    pthread_mutex_unlock(&handshake.lock);
    error = thread_start(handshake_main, h);
    if (error) {
        log_warning("handshake: cannot start a thread: %s", strerror(error));
        handshake_ended(h);
        free(h);
        close(fd);
    }
}

void handshake_accept(void) {
    for (bool first = true;; first = false) {
        bool full;
        int fd;

        pthread_mutex_lock(&handshake.lock);
        full = handshake.n >= HANDSHAKE_MAX;
        if (full && first) /* only then it is sure that one more waits */
            handshake_evict_locked();
        pthread_mutex_unlock(&handshake.lock);
        if (full)
            return;
        fd = accept4(handshake.listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return;
        handshake_begin(fd);
    }
}

/* A peer that connects to us at the same moment refuses our connection in favour of its own, which
 * is there already or will be at once: counted, or NULL. */
static struct conn *handshake_await(const char *peer) {
    int64_t until = clock_now() + (int64_t)HANDSHAKE_AWAIT_MS * 1000000;
    struct conn *c;

    while (!(c = io_find(peer)) && clock_now() < until) {
        thread_pause(HANDSHAKE_AWAIT_STEP_MS);
        meet_wait(peer);
    }
    return c;
}

/* Connects, as the only one that does so to this peer at present. */
static struct conn *handshake_dial(struct meet *m, char *peer, struct err *e) {
    struct conn *c = NULL;
    int fd, error;

    handshake_dialing = m;
    fd = ei_connect_tmo(handshake.cnode, peer, HANDSHAKE_SECONDS * 1000);
    handshake_dialing = NULL;
    error = erl_errno;
    if (fd >= 0)
        return handshake_shaken(fd, peer);
    if (error == EALREADY || (error == EIO && m->dialing))
        c = handshake_await(peer);
    if (!c)
        err_set(e, EX_UNAVAILABLE, "node: cannot connect to %s: %s", peer, strerror(error));
    return c;
}

struct conn *handshake_connect(const char *peer, struct err *e) {
    char name[MAXNODELEN + 1];
    struct meet m;
    struct conn *c;

    if (snprintf(name, sizeof name, "%s", peer) >= (int)sizeof name) {
        err_set(e, EX_USAGE, "node: the name %.40s... is too long", peer);
        return NULL;
    }
    do
        if ((c = io_find(name)))
            return c;
    while (!meet_plan(&m, name));
    if (!(c = io_find(name))) /* the peer's attempt may have ended just before ours was planned */
        c = handshake_dial(&m, name, e);
    meet_end(&m);
    return c;
}

int handshake_connect_as(const char *alive, uint32_t creation, const char *peer, int64_t deadline,
                         struct err *e) {
    char self[MAXNODELEN + 1], name[MAXNODELEN + 1];
    int64_t until = clock_now() + (int64_t)HANDSHAKE_SECONDS * 1000000000, left;
    ei_cnode cnode;
    int fd;

    if (snprintf(self, sizeof self, "%s@%s", alive, handshake.cnode->thishostname) >=
            (int)sizeof self ||
        snprintf(name, sizeof name, "%s", peer) >= (int)sizeof name ||
        ei_connect_xinit_ussi(&cnode, handshake.cnode->thishostname, alive, self, NULL,
                              handshake.cnode->ei_connect_cookie, creation, handshake_callbacks,
                              sizeof *handshake_callbacks, NULL) < 0)
        return err_set(e, EX_USAGE, "node: the name %.40s... or %.40s... is too long", alive, peer);
    if (deadline > 0 && deadline < until)
        until = deadline;
    left = until - clock_now();
    if (left <= 0)
        return err_set(e, EX_TEMPFAIL, "node: no time left to connect to %s", peer);
    handshake_until = until;
    fd = ei_connect_tmo(&cnode, name, (unsigned)(left / 1000000) + 1);
    handshake_until = 0;
    if (fd < 0)
        return err_set(e, EX_UNAVAILABLE, "node: %s cannot connect to %s: %s", self, peer,
                       strerror(erl_errno));
    ei_close_connection(fd); /* frees libei's entry; handshake_cb_close() keeps the descriptor */
    stats_add(STATS_CONNECTS, 1);
    return fd;
}
