/* node.c - the node's identity and how it meets others: epmd, listening, handshakes. */
#include "config.h"

#include "node.h"
#include "conn.h"
#include "exec.h"
#include "io.h"
#include "log.h"
#include "meet.h"
#include "stats.h"

#include <arpa/inet.h>
#include <ei.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

extern char **environ;

enum {
    NODE_HANDSHAKES = 64,       /* at a time; the oldest makes room for a newer one */
    NODE_HANDSHAKE_SECONDS = 7, /* as net_setuptime */
    NODE_HANDSHAKE_STACK = 256 << 10,
    NODE_BACKLOG = 128,
    NODE_EPMD_RETRY_MS = 200,
    NODE_AWAIT_MS = 300,
    NODE_AWAIT_STEP_MS = 10,
    NODE_EPMD_START_SECONDS = 5,
};

/* What a BEAM needs and libei does not offer: SPAWN (rpc and erpc), ALIAS, and
 * DIST_MONITOR_NAME, without which the BEAM sends no monitor at all. erts/emulator/beam/dist.h */
static const uint64_t NODE_FLAGS = UINT64_C(1) << 32 | UINT64_C(1) << 35 | 0x20;

/* The first packet of a peer that connects: length, 'N', flags, creation, length of name, name. */
enum { NODE_HELLO_NAME = 2 + 1 + 8 + 4 + 2, NODE_HELLO = NODE_HELLO_NAME + MAXNODELEN };

/* A socket while libei shakes hands on it. */
struct node_socket {
    int fd;
    int64_t deadline; /* monotonic ns; 0: none */
    bool shaken;      /* the handshake is over */
    bool keep;        /* closing it leaves the descriptor open: it is ours now */

    /* Of an incoming one until the peer has told its name. */
    bool greeting;
    size_t hello_len;
    uint8_t hello[NODE_HELLO];
};

struct node_handshake {
    struct node_handshake *next;
    int fd;
    bool evicted;
    bool refused; /* in favour of our own connection */
    char peer[MAXNODELEN + 1];
    struct meet meet;
};

static struct {
    ei_cnode cnode;
    int listener, port;
    _Atomic int epmd;                  /* the connection that keeps the name */
    pthread_mutex_t lock;              /* guards what follows */
    struct node_handshake *handshakes; /* the newest first */
    int n_handshakes;
    bool accepting;
} node = {.listener = -1, .epmd = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .accepting = true};

/* What this thread is at, for the callbacks: the descriptor that it has accepted, the incoming
 * handshake, or its own attempt to connect. */
static _Thread_local int node_accepted = -1;
static _Thread_local struct node_handshake *node_shaking;
static _Thread_local struct meet *node_dialing;

const char *node_name(void) {
    return ei_thisnodename(&node.cnode);
}

uint32_t node_creation(void) {
    return node.cnode.creation;
}

int node_listener(void) {
    return node.listener;
}

int node_port(void) {
    return node.port;
}

/* The socket callbacks of libei ("User Supplied Socket Implementation"). They answer 0 or an
 * errno. */

static struct node_socket *node_socket_new(int fd, bool deadline) {
    struct node_socket *s = xcalloc(1, sizeof *s);

    s->fd = fd;
    if (deadline)
        s->deadline = exec_now() + (int64_t)NODE_HANDSHAKE_SECONDS * 1000000000;
    return s;
}

/* Waits until fd is ready, never beyond the handshake's deadline, however slowly bytes drip. */
static int node_wait(const struct node_socket *s, short events) {
    struct pollfd p = {s->fd, events, 0};
    int ms = -1, n;

    if (s->shaken)
        return 0;
    do {
        if (s->deadline) {
            int64_t left = s->deadline - exec_now();

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

static int node_cb_socket(void **ctx, void *setup) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)setup;
    if (fd < 0)
        return errno;
    *ctx = node_socket_new(fd, true);
    return 0;
}

/* Closes a descriptor of an incoming handshake, which nobody may shut down from then on: its number
 * may be another's. */
static void node_close_handshake(struct node_handshake *h, int fd) {
    pthread_mutex_lock(&node.lock);
    h->fd = -1;
    close(fd);
    pthread_mutex_unlock(&node.lock);
}

static int node_cb_close(void *ctx) {
    struct node_socket *s = ctx;

    if (!s->keep && node_shaking)
        node_close_handshake(node_shaking, s->fd);
    else if (!s->keep)
        close(s->fd);
    free(s);
    return 0;
}

static int node_cb_listen(void *ctx, void *addr, int *len, int backlog) {
    struct node_socket *s = ctx;
    socklen_t size = (socklen_t)*len;
    int on = 1;

    setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s->fd, addr, size) < 0 || getsockname(s->fd, addr, &size) < 0 ||
        listen(s->fd, backlog) < 0 || fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
        return errno;
    *len = (int)size;
    return 0;
}

/* The connection has been accepted already, by node_accept(). */
static int node_cb_accept(void **ctx, void *addr, int *len, unsigned tmo) {
    socklen_t size = (socklen_t)*len;

    (void)tmo;
    if (getpeername(node_accepted, addr, &size) < 0)
        return errno;
    *len = (int)size;
    *ctx = node_socket_new(node_accepted, true);
    ((struct node_socket *)*ctx)->greeting = true;
    node_accepted = -1;
    return 0;
}

static int node_cb_connect(void *ctx, void *addr, int len, unsigned tmo) {
    struct node_socket *s = ctx;

    (void)tmo;
    if (!meet_dial(node_dialing))
        return EALREADY;
    return connect(s->fd, addr, (socklen_t)len) < 0 ? errno : 0;
}

static int node_cb_writev(void *ctx, const void *iov, int n, ssize_t *len, unsigned tmo) {
    struct node_socket *s = ctx;
    int error = node_wait(s, POLLOUT);

    (void)tmo;
    if (error)
        return error;
    *len = writev(s->fd, iov, n);
    return *len < 0 ? errno : 0;
}

/* Adds our flags to the one packet of the handshake that names them: length, 'N', flags (8
 * bytes), ... The digest does not cover them and the protocol fixes the layout. */
static void node_add_flags(uint8_t *packet, size_t len) {
    uint64_t flags;

    if (len < 3 + 8 || packet[2] != 'N' || etf_be16(packet) != len - 2)
        return;
    flags = etf_be64(packet + 3) | NODE_FLAGS;
    for (int i = 0; i < 8; i++)
        packet[3 + i] = (uint8_t)(flags >> (56 - 8 * i));
}

/* The peer's name out of its first packet: false when that is not as it should be. */
static bool node_hello_name(const struct node_socket *s, char *name, size_t size) {
    size_t len;

    if (s->hello_len < NODE_HELLO_NAME || s->hello[2] != 'N')
        return false;
    len = etf_be16(s->hello + NODE_HELLO_NAME - 2);
    if (len > s->hello_len - NODE_HELLO_NAME || len >= size)
        return false;
    memcpy(name, s->hello + NODE_HELLO_NAME, len);
    name[len] = 0;
    return true;
}

/* libei greets every peer with "ok"; this says what is right when we are connecting to it, too.
 * What libei gave counts as written. */
static int node_greet(struct node_socket *s) {
    static const char *const statuses[] = {
        [MEET_OK] = "ok", [MEET_OK_SIMULTANEOUS] = "ok_simultaneous", [MEET_NOK] = "nok"};
    struct node_handshake *h = node_shaking;
    enum meet_status status = MEET_OK;
    char packet[32];
    int n;

    s->greeting = false;
    if (node_hello_name(s, h->peer, sizeof h->peer))
        status = meet_greet(&h->meet, h->peer);
    h->refused = status == MEET_NOK;
    n = snprintf(packet + 2, sizeof packet - 2, "s%s", statuses[status]);
    packet[0] = 0;
    packet[1] = (char)n;
    if (send(s->fd, packet, (size_t)n + 2, MSG_NOSIGNAL) != n + 2)
        return errno ? errno : EIO;
    return 0;
}

static int node_cb_write(void *ctx, const char *data, ssize_t *len, unsigned tmo) {
    struct node_socket *s = ctx;
    uint8_t packet[1024];
    int error = node_wait(s, POLLOUT);

    (void)tmo;
    if (error)
        return error;
    if (s->greeting)
        return node_greet(s);
    if (node_shaking && node_shaking->refused)
        return EALREADY;
    if (!s->shaken && *len > 0 && (size_t)*len <= sizeof packet) {
        memcpy(packet, data, (size_t)*len);
        node_add_flags(packet, (size_t)*len);
        data = (const char *)packet;
    }
    *len = send(s->fd, data, (size_t)*len, MSG_NOSIGNAL);
    return *len < 0 ? errno : 0;
}

static int node_cb_read(void *ctx, char *data, ssize_t *len, unsigned tmo) {
    struct node_socket *s = ctx;
    int error = node_wait(s, POLLIN);

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

static int node_cb_header(void *ctx, int *size) {
    (void)ctx;
    *size = 2;
    return 0;
}

static int node_cb_shaken(void *ctx) {
    struct node_socket *s = ctx;
    int on = 1;

    s->shaken = true;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    s->keep = true;
    return 0;
}

static int node_cb_fd(void *ctx, int *fd) {
    *fd = ((struct node_socket *)ctx)->fd;
    return 0;
}

static ei_socket_callbacks node_callbacks = {
    .flags = EI_SCLBK_FLG_FULL_IMPL,
    .socket = node_cb_socket,
    .close = node_cb_close,
    .listen = node_cb_listen,
    .accept = node_cb_accept,
    .connect = node_cb_connect,
    .writev = node_cb_writev,
    .write = node_cb_write,
    .read = node_cb_read,
    .handshake_packet_header_size = node_cb_header,
    .connect_handshake_complete = node_cb_shaken,
    .accept_handshake_complete = node_cb_shaken,
    .get_fd = node_cb_fd,
};

/* Starting. */

/* libei sizes its table of descriptors by the limit at ei_init(). */
static void node_raise_limit(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int node_resolve(const char *host, struct in_addr *address, struct err *e) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(host, NULL, &hints, &found);

    if (error)
        return err_set(e, EX_UNAVAILABLE, "node: host %s has no IPv4 address: %s", host,
                       gai_strerror(error));
    *address = ((struct sockaddr_in *)found->ai_addr)->sin_addr;
    freeaddrinfo(found);
    return 0;
}

int node_listen(const struct options *o, struct err *e) {
    const char *host = o->bind ? o->bind : o->host;
    struct in_addr address;

    if (node_resolve(host, &address, e) < 0)
        return -1;
    for (int port = o->listen_min; port <= o->listen_max; port++) {
        node.port = port;
        node.listener = ei_xlisten(&node.cnode, &address, &node.port, NODE_BACKLOG);
        if (node.listener >= 0)
            return 0;
    }
    return err_set(e, EX_UNAVAILABLE, "node: cannot listen on %s port %d to %d: %s", host,
                   o->listen_min, o->listen_max, strerror(erl_errno));
}

int node_init(const struct options *o, struct err *e) {
    char name[MAXNODELEN + 1];
    uint32_t creation = 0;

    node_raise_limit();
    if (ei_init() != 0)
        return err_set(e, EX_SOFTWARE, "node: libei cannot start");
    if (getrandom(&creation, sizeof creation, 0) != sizeof creation)
        creation = (uint32_t)exec_now();
    snprintf(name, sizeof name, "%s@%s", o->alive, o->host);
    if (ei_connect_xinit_ussi(&node.cnode, o->host, o->alive, name, NULL, o->cookie, creation,
                              &node_callbacks, sizeof node_callbacks, NULL) < 0)
        return err_set(e, EX_CONFIG, "node: %s: name or cookie is too long", name);
    meet_init(node_name());
    return 0;
}

/* epmd. */

int node_epmd_port(void) {
    struct sockaddr_in address;
    socklen_t len = sizeof address;

    if (getpeername(node.epmd, (struct sockaddr *)&address, &len) < 0)
        return 0;
    return ntohs(address.sin_port);
}

/* Runs `epmd -daemon`, which returns at once. */
static int node_start_epmd(void) {
    char *arguments[] = {"epmd", "-daemon", NULL};
    pid_t pid;
    int status;

    if (posix_spawn(&pid, PYNODE_EPMD, NULL, NULL, arguments, environ) != 0 &&
        posix_spawnp(&pid, "epmd", NULL, NULL, arguments, environ) != 0)
        return -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return 0;
}

static void node_pause(int ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&t, NULL);
}

/* Tries once: the descriptor, or -1 with erl_errno. Not with a time limit: ei_publish_tmo() makes
 * EIO of a refused connection, which is how a name that is taken looks. */
static int node_register(void) {
    return ei_publish(&node.cnode, node.port);
}

int node_publish(struct err *e) {
    int64_t deadline;

    node.epmd = node_register();
    if (node.epmd < 0 && erl_errno == ECONNREFUSED) {
        log_info("epmd: none is running, starting one");
        if (node_start_epmd() < 0)
            return err_set(e, EX_UNAVAILABLE, "epmd: cannot start one: %s", strerror(errno));
        deadline = exec_now() + (int64_t)NODE_EPMD_START_SECONDS * 1000000000;
        do {
            node_pause(20);
            node.epmd = node_register();
        } while (node.epmd < 0 && erl_errno == ECONNREFUSED && exec_now() < deadline);
    }
    if (node.epmd >= 0) {
        io_watch_epmd(node.epmd);
        return 0;
    }
    if (erl_errno == EIO)
        return err_set(e, EX_TEMPFAIL, "epmd: the name %s is taken by a running node", node_name());
    return err_set(e, EX_UNAVAILABLE, "epmd: cannot register: %s", strerror(erl_errno));
}

void node_unpublish(void) {
    if (node.epmd >= 0)
        close(node.epmd);
    node.epmd = -1;
}

static void *node_register_main(void *arg) {
    bool told = false;
    int fd;

    while ((fd = node_register()) < 0) {
        if (!told && erl_errno != ECONNREFUSED)
            log_warning("epmd: cannot register again, trying on: %s", strerror(erl_errno));
        told = told || erl_errno != ECONNREFUSED;
        node_pause(NODE_EPMD_RETRY_MS);
    }
    node.epmd = fd;
    log_info("epmd: registered again");
    io_watch_epmd(fd);
    return arg;
}

/* Starts a detached thread with a small stack. */
static int node_thread(void *(*fn)(void *), void *arg) {
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    int error;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, NODE_HANDSHAKE_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

void node_epmd_lost(void) {
    int error;

    close(node.epmd);
    node.epmd = -1;
    log_warning("epmd: gone, registering again when it is back");
    error = node_thread(node_register_main, NULL);
    if (error)
        log_error("epmd: cannot start a thread to register again: %s", strerror(error));
}

/* Handshakes. */

/* libei has shaken hands on fd: takes the descriptor out of its hands and passes it on. */
static struct conn *node_shaken(int fd, const char *peer) {
    struct conn *c;

    ei_close_connection(fd); /* frees libei's entry; node_cb_close() keeps the descriptor */
    stats_add(STATS_CONNECTS, 1);
    c = conn_new(fd, peer);
    io_add(conn_ref(c));
    return c;
}

static void node_handshake_ended(struct node_handshake *h) {
    struct node_handshake **at = &node.handshakes;

    pthread_mutex_lock(&node.lock);
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    node.n_handshakes--;
    if (!node.accepting)
        io_set_accepting(node.accepting = true);
    pthread_mutex_unlock(&node.lock);
}

static void node_handshake_failed(const struct node_handshake *h) {
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

static void *node_handshake_main(void *arg) {
    struct node_handshake *h = arg;
    ErlConnect peer;
    int fd;

    node_accepted = h->fd;
    node_shaking = h;
    fd = ei_accept_tmo(&node.cnode, node.listener, &peer, NODE_HANDSHAKE_SECONDS * 1000);
    if (fd < 0) {
        node_handshake_failed(h);
        if (node_accepted >= 0)
            node_close_handshake(h, node_accepted);
    }
    node_handshake_ended(h); /* first: after this the descriptor may be closed by others */
    if (fd >= 0)
        conn_unref(node_shaken(fd, peer.nodename));
    meet_end(&h->meet); /* last: who has waited for it looks for the connection */
    free(h);
    return NULL;
}

/* Lets the oldest handshake fail, so that the one that waits can come in. */
static void node_evict_locked(void) {
    struct node_handshake *h = node.handshakes;

    while (h && h->next)
        h = h->next;
    if (h && !h->evicted) {
        h->evicted = true;
        if (h->fd >= 0)
            shutdown(h->fd, SHUT_RDWR);
    }
    io_set_accepting(node.accepting = false);
}

static void node_shake(int fd) {
    struct node_handshake *h = xcalloc(1, sizeof *h);
    int error;

    h->fd = fd;
    pthread_mutex_lock(&node.lock);
    h->next = node.handshakes;
    node.handshakes = h;
    node.n_handshakes++;
    pthread_mutex_unlock(&node.lock);
    error = node_thread(node_handshake_main, h);
    if (error) {
        log_warning("handshake: cannot start a thread: %s", strerror(error));
        node_handshake_ended(h);
        free(h);
        close(fd);
    }
}

void node_accept(void) {
    for (bool first = true;; first = false) {
        bool full;
        int fd;

        pthread_mutex_lock(&node.lock);
        full = node.n_handshakes >= NODE_HANDSHAKES;
        if (full && first) /* only then it is sure that one more waits */
            node_evict_locked();
        pthread_mutex_unlock(&node.lock);
        if (full)
            return;
        fd = accept4(node.listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return;
        node_shake(fd);
    }
}

/* A peer that connects to us at the same moment refuses our connection in favour of its own, which
 * is there already or will be at once: counted, or NULL. */
static struct conn *node_await(const char *peer) {
    int64_t until = exec_now() + (int64_t)NODE_AWAIT_MS * 1000000;
    struct conn *c;

    while (!(c = io_find(peer)) && exec_now() < until) {
        node_pause(NODE_AWAIT_STEP_MS);
        meet_wait(peer);
    }
    return c;
}

/* Connects, as the only one that does so to this peer at present. */
static struct conn *node_dial(struct meet *m, char *peer, struct err *e) {
    struct conn *c = NULL;
    int fd, error;

    node_dialing = m;
    fd = ei_connect_tmo(&node.cnode, peer, NODE_HANDSHAKE_SECONDS * 1000);
    node_dialing = NULL;
    error = erl_errno;
    if (fd >= 0)
        return node_shaken(fd, peer);
    if (error == EALREADY || (error == EIO && m->dialing))
        c = node_await(peer);
    if (!c)
        err_set(e, EX_UNAVAILABLE, "node: cannot connect to %s: %s", peer, strerror(error));
    return c;
}

struct conn *node_connect(const char *peer, struct err *e) {
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
    c = node_dial(&m, name, e);
    meet_end(&m);
    return c;
}
