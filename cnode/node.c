/* node.c - the node's identity: name, cookie, creation, listening socket, epmd. */
#include "config.h"

#include "node.h"
#include "exec.h"
#include "handshake.h"
#include "io.h"
#include "log.h"
#include "meet.h"
#include "thread.h"

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
    NODE_BACKLOG = 128,
    NODE_EPMD_RETRY_MS = 200,
    NODE_EPMD_START_SECONDS = 5,
};

static struct {
    ei_cnode cnode;
    int listener, port;
    pthread_mutex_t epmd_lock; /* what follows */
    int epmd;                  /* the connection that keeps the name; the leader closes it */
    bool leaving;              /* the name is not wanted any more */
} node = {.listener = -1, .epmd_lock = PTHREAD_MUTEX_INITIALIZER, .epmd = -1};

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
        if (node.listener >= 0) {
            handshake_set_listener(node.listener);
            return 0;
        }
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
        creation = (uint32_t)clock_now();
    snprintf(name, sizeof name, "%s@%s", o->alive, o->host);
    if (ei_connect_xinit_ussi(&node.cnode, o->host, o->alive, name, NULL, o->cookie, creation,
                              handshake_callbacks, sizeof *handshake_callbacks, NULL) < 0)
        return err_set(e, EX_CONFIG, "node: %s: name or cookie is too long", name);
    handshake_init(&node.cnode);
    meet_init(node_name());
    return 0;
}

/* epmd. */

int node_epmd_port(void) {
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int result;

    pthread_mutex_lock(&node.epmd_lock);
    result = getpeername(node.epmd, (struct sockaddr *)&address, &len);
    pthread_mutex_unlock(&node.epmd_lock);
    return result < 0 ? 0 : ntohs(address.sin_port);
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

/* Tries once: the descriptor, or -1 with erl_errno. Not with a time limit: ei_publish_tmo() makes
 * EIO of a refused connection, which is how a name that is taken looks. */
static int node_register(void) {
    return ei_publish(&node.cnode, node.port);
}

static void node_set_leaving(bool leaving) {
    pthread_mutex_lock(&node.epmd_lock);
    node.leaving = leaving;
    if (leaving &&
        node.epmd >= 0) /* not closed: its number would be another's while the leader looks at it */
        shutdown(node.epmd, SHUT_RDWR);
    pthread_mutex_unlock(&node.epmd_lock);
}

/* What node_register() has given is watched: whether it is wanted. */
static bool node_keep(int fd) {
    bool wanted;

    pthread_mutex_lock(&node.epmd_lock);
    wanted = !node.leaving;
    if (wanted) {
        node.epmd = fd;
        io_watch_epmd(fd);
    } else {
        close(fd);
    }
    pthread_mutex_unlock(&node.epmd_lock);
    return wanted;
}

int node_publish(struct err *e) {
    int64_t deadline;
    int fd;

    node_set_leaving(false);
    fd = node_register();
    if (fd < 0 && erl_errno == ECONNREFUSED) {
        log_info("epmd: none is running, starting one");
        if (node_start_epmd() < 0)
            return err_set(e, EX_UNAVAILABLE, "epmd: cannot start one: %s", strerror(errno));
        deadline = clock_now() + (int64_t)NODE_EPMD_START_SECONDS * 1000000000;
        do {
            thread_pause(20);
            fd = node_register();
        } while (fd < 0 && erl_errno == ECONNREFUSED && clock_now() < deadline);
    }
    if (fd >= 0) {
        node_keep(fd);
        return 0;
    }
    if (erl_errno == EIO)
        return err_set(e, EX_TEMPFAIL, "epmd: the name %s is taken by a running node", node_name());
    return err_set(e, EX_UNAVAILABLE, "epmd: cannot register: %s", strerror(erl_errno));
}

void node_unpublish(void) {
    node_set_leaving(true);
}

static bool node_is_leaving(void) {
    bool leaving;

    pthread_mutex_lock(&node.epmd_lock);
    leaving = node.leaving;
    pthread_mutex_unlock(&node.epmd_lock);
    return leaving;
}

static void *node_register_main(void *arg) {
    bool told = false;
    int fd;

    while ((fd = node_register()) < 0) {
        if (!told && erl_errno != ECONNREFUSED)
            log_warning("epmd: cannot register again, trying on: %s", strerror(erl_errno));
        told = told || erl_errno != ECONNREFUSED;
        thread_pause(NODE_EPMD_RETRY_MS);
        if (node_is_leaving())
            return arg;
    }
    if (node_keep(fd))
        log_info("epmd: registered again");
    return arg;
}

void node_epmd_lost(void) {
    int error;

    pthread_mutex_lock(&node.epmd_lock);
    close(node.epmd);
    node.epmd = -1;
    pthread_mutex_unlock(&node.epmd_lock);
    if (node_is_leaving())
        return;
    log_warning("epmd: gone, registering again when it is back");
    error = thread_start(node_register_main, NULL);
    if (error)
        log_error("epmd: cannot start a thread to register again: %s", strerror(error));
}
