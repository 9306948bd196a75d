/* options.h - the command line and environment as one struct, checked.
 *
 * Read once by the main thread before any other thread exists; read-only afterwards. The only
 * place that looks at argv and getenv(3). No GIL.
 */
#ifndef PYNODE_OPTIONS_H
#define PYNODE_OPTIONS_H

#include "err.h"
#include "log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum options_action { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION, OPTIONS_CHECK };
enum options_program { OPTIONS_NONE, OPTIONS_SCRIPT, OPTIONS_MODULE, OPTIONS_COMMAND };

struct options_list {
    char **items;
    size_t len;
};

struct options {
    enum options_action action;

    char *alive;     /* "py" of py@host */
    char *host;      /* "host" of py@host */
    bool long_names; /* --name, not --sname */
    bool owned;      /* --owned */
    char *cookie;    /* never logged */
    char *bind;      /* NULL: what host resolves to */
    char *metrics;   /* the address of --metrics, or NULL; and its port */
    int metrics_port;
    int listen_min; /* port range; 0..0: any */
    int listen_max;
    int net_ticktime; /* seconds, default 60 */
    size_t max_frame; /* bytes, default 256 MiB */
    size_t max_atoms; /* distinct atoms the node takes or makes, default 262144 */

    int workers;         /* target for running ones; default: processors online */
    int max_workers;     /* hard cap, blocked ones included; default 512 */
    int queue_size;      /* requests waiting, default 10000 */
    int max_connections; /* of Python threads' own, default 512 */
    int mailbox_size;    /* messages, default 10000 */
    int max_tasks;       /* on the event loop, waiting or begun, default 100000 */
    int remember_ids;    /* of calls; 0: none; default 1024 */
    enum { OPTIONS_LOOP_AUTO, OPTIONS_LOOP_ASYNCIO, OPTIONS_LOOP_UVLOOP } loop;
    double drain_timeout; /* seconds, default 30 */

    struct options_list path;    /* --path, in order */
    struct options_list imports; /* --import, in order */
    struct options_list connect; /* --connect, each name@host */
    struct options_list allow;   /* --allow M or M:F; empty: everything is allowed */
    struct options_list labels;  /* --label KEY or KEY=VALUE, each key once */
    char *venv;                  /* NULL: none */
    bool strings_as_bytes;       /* --strings bytes */
    char *none_atom;             /* "none", "undefined" or "nil" */
    bool unconvertible_str;      /* --unconvertible str */

    char *notify_socket; /* where the service manager listens, or NULL */
    uint64_t watchdog; /* within how many microseconds it wants to hear something; 0: it does not */

    enum log_level log_level;
    enum log_format log_format;
    char *log_file; /* NULL: stderr */

    enum options_program program;
    char *script;    /* the file, module name or code */
    int script_argc; /* what follows it; borrowed from argv */
    char **script_argv;
};

/* Fills o from argv and the environment. 0, or -1 with e (EX_USAGE, EX_CONFIG, EX_NOPERM,
 * EX_NOINPUT). The caller calls options_done() in both cases. */
int options_parse(struct options *o, int argc, char **argv, struct err *e);
void options_done(struct options *o);

/* The text of --help, ending in a newline. */
extern const char options_help[];

#endif
