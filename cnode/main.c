/* main.c - pynode: Python as a node of an Erlang cluster.
 *
 * Starts the parts in order, waits, and stops them in reverse:
 *
 *     options   the command line
 *     log       one line an event on stderr
 *     owner     with --owned, the watch over the standard input
 *     py        the interpreter, its settings, what --import names
 *     node      name, cookie, listening socket; epmd
 *     exec      the threads that run Python
 *     io        the sockets: read by whichever worker leads, or by the io thread
 *     scrape    with --metrics, the answers to who asks for them
 *     notify    under a service manager, what it is told
 *     leave     signals; drain; stop
 *     py_loop   the event loop, with the first task
 *     connect   with --connect, the connections that are kept
 */
#include "config.h"

#include "buf.h"
#include "channels.h"
#include "connect.h"
#include "control.h"
#include "pool.h"
#include "handshake.h"
#include "home.h"
#include "ids.h"
#include "io.h"
#include "lead.h"
#include "leave.h"
#include "log.h"
#include "mailbox.h"
#include "metrics.h"
#include "node.h"
#include "notify.h"
#include "options.h"
#include "outcome.h"
#include "owner.h"
#include "process.h"
#include "py.h"
#include "py_arena.h"
#include "py_log.h"
#include "py_loop.h"
#include "py_worker.h"
#include "report.h"
#include "route.h"
#include "scrape.h"
#include "usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static struct options options;
static struct control_facts facts;

static bool main_may_drain(void) {
    for (size_t i = 0; i < options.allow.len; i++)
        if (strcmp(options.allow.items[i], "pynode") == 0 ||
            strcmp(options.allow.items[i], "pynode:drain") == 0)
            return true;
    return options.allow.len == 0;
}

static void main_tell_facts(void) {
    static char python[64];

    snprintf(python, sizeof python, "%.*s", (int)strcspn(Py_GetVersion(), " "), Py_GetVersion());
    facts = (struct control_facts){
        .node = node_name(),
        .version = PACKAGE_VERSION,
        .python = python,
        .erlang = PYNODE_ERLANG,
        .workers = options.workers,
        .max_workers = options.max_workers,
        .labels = options.labels,
        .imports = options.imports,
        .may_drain = main_may_drain(),
        .drain = leave_request,
    };
    control_init(&facts);
}

/* An owner waits for this line, whatever the level and the file of the log are. */
static void main_tell_ready(void) {
    char status[300];

    snprintf(status, sizeof status, "ready: node %.255s, port %d", node_name(), node_port());
    notify_ready(status);
    (options.owned ? log_stderr : log_info)(
        "node %s: ready: port %d, epmd %d, python %s, workers %d", node_name(), node_port(),
        node_epmd_port(), facts.python, options.workers);
}

/* Whether the interpreter can be had: it returns when it can. */
static void main_look(void) {
    py_enter();
    py_leave();
}

static int main_listen(struct err *e) {
    if (node_listen(&options, e) < 0)
        return -1;
    if (!options.metrics)
        return 0;
    outcome_measure();
    return scrape_listen(options.metrics, options.metrics_port, e);
}

/* What is seen from outside, once there is something to see. */
static int main_show(struct err *e) {
    static const struct notify_hooks hooks = {py_attach, main_look, py_detach};

    if (options.metrics && scrape_start(metrics_put, METRICS_TYPE, e) < 0)
        return -1;
    return notify_watch(options.watchdog, &hooks, e);
}

/* Python first, so that all that is imported is there before the first request. */
static int main_start(const char *program, struct err *e) {
    struct io_settings io = {.accept = handshake_accept, .epmd = node_epmd_lost, .report = report};

    if (options.owned && options.action == OPTIONS_RUN && owner_start(e) < 0)
        return -1;
    if (notify_init(options.notify_socket, e) < 0 || node_init(&options, e) < 0)
        return -1;
    request_init(node_name(), node_creation());
    route_init(node_name());
    process_init(node_name());
    mailbox_init((size_t)options.mailbox_size);
    channel_init(options.max_frame);
    channels_init(node_name(), handshake_connect_as, options.max_connections);
    if (leave_init(options.drain_timeout, options.program != OPTIONS_NONE, e) < 0)
        return -1;
    py_arena_init();
    if (py_init(&options, program, e) < 0 || py_import(&options, e) < 0 ||
        py_loop_check(&options, e) < 0)
        return -1;
    if (options.action == OPTIONS_CHECK)
        return 0;
    main_tell_facts();
    home_init(py_log_attach);
    if (main_listen(e) < 0)
        return -1;
    io.listener = node_listener();
    io.net_ticktime = options.net_ticktime;
    io.max_frame = options.max_frame;
    if (io_init(&io, e) < 0)
        return -1;
    ids_init((size_t)options.remember_ids);
    exec_init(options.workers, options.max_workers, (size_t)options.queue_size, &py_worker_hooks);
    if (lead_start(e) < 0)
        return -1;
    if (pool_start() < 0)
        return err_set(e, EX_OSERR, "exec: cannot start threads: %s", strerror(errno));
    if (main_show(e) < 0)
        return -1;
    leave_started();
    if (node_publish(e) < 0)
        return -1;
    control_set_ready();
    home_report_soon();
    main_tell_ready();
    connect_start(&options.connect);
    return 0;
}

/* Until the node is told to go, or its script has returned: the exit status. */
static int main_run(void) {
    if (options.program != OPTIONS_NONE)
        return py_run_script();
    py_leave();
    leave_wait();
    if (leave_told())
        leave_drain_unless(py_loop_is_wanted); /* by what came before, and is heard of now */
    if (py_loop_is_wanted()) {
        py_enter();
        py_loop_run();
        py_leave();
    }
    leave_drain();
    leave_stop();
    py_enter();
    py_done();
    _exit(0);
}

/* Whoever starts us without a stdin, stdout or stderr must not find a socket in its place. */
static void main_open_standard(void) {
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

static int main_open_log(struct err *e) {
    if (log_open(options.log_level, options.log_format, options.log_file) == 0)
        return 0;
    return err_set(e, EX_CANTCREAT, "--log-file %s: %s", options.log_file, strerror(errno));
}

int main(int argc, char **argv) {
    struct err e = {0};
    int status = 0;

    xmalloc_init();
    usage_init();
    main_open_standard();
    if (options_parse(&options, argc, argv, &e) < 0 || main_open_log(&e) < 0) {
        fprintf(stderr, "pynode: %s\n", e.text);
        return e.code;
    }
    if (options.action == OPTIONS_HELP)
        fputs(options_help, stdout);
    else if (options.action == OPTIONS_VERSION)
        printf("pynode %s (Python %s)\n", PACKAGE_VERSION, PY_VERSION);
    else if (main_start(argv[0], &e) < 0) {
        log_error("%s", e.text);
        _exit(e.code);
    } else if (options.action == OPTIONS_CHECK)
        puts("pynode: the configuration is good");
    else
        status = main_run();
    options_done(&options);
    return status;
}
