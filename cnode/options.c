/* options.c - the command line and environment as one struct, checked.
 *
 * Main thread, before any other thread exists; no GIL. First argv is scanned into the struct
 * (options_scan), then what depends on several options or on the machine is settled: names,
 * ranges, files, cookie. The first thing wrong ends it with one line that names it.
 */
#include "config.h"

#include "options.h"
#include "buf.h"
#include "cookie.h"
#include "utf8.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    OPTIONS_NAME_MAX = 254, /* of alive@host: a node's name is an atom and ei keeps 255 bytes */
    OPTIONS_HOST_MAX = 256,
    OPTIONS_WORKERS_MAX = 1024,
    OPTIONS_CONNECTIONS_MAX = 16384,
    OPTIONS_IDS_MAX = 65536,
    OPTIONS_SECONDS_MAX = 86400,
    OPTIONS_PATH_MAX = 4096,
};

/* Half of it in nanoseconds has to have room in 64 bits. */
static const uint64_t OPTIONS_WATCHDOG_MAX = UINT64_C(1) << 50;

/* The values of getopt_long(3); -m and -c are their own letters. */
enum {
    OPT_ALLOW = 256,
    OPT_BIND,
    OPT_CHECK_CONFIG,
    OPT_CONNECT,
    OPT_COOKIE_FILE,
    OPT_DRAIN_TIMEOUT,
    OPT_HELP,
    OPT_IMPORT,
    OPT_LABEL,
    OPT_LISTEN_MAX,
    OPT_LISTEN_MIN,
    OPT_LOG_FILE,
    OPT_LOG_FORMAT,
    OPT_LOG_LEVEL,
    OPT_LOOP,
    OPT_MAILBOX_SIZE,
    OPT_MAX_ATOMS,
    OPT_MAX_CONNECTIONS,
    OPT_MAX_FRAME,
    OPT_MAX_TASKS,
    OPT_MAX_WORKERS,
    OPT_METRICS,
    OPT_NAME,
    OPT_NET_TICKTIME,
    OPT_NONE_ATOM,
    OPT_OWNED,
    OPT_PATH,
    OPT_PORT,
    OPT_QUEUE_SIZE,
    OPT_REMEMBER_IDS,
    OPT_SNAME,
    OPT_STRINGS,
    OPT_UNCONVERTIBLE,
    OPT_VENV,
    OPT_VERSION,
    OPT_WORKERS,
};

static const struct option options_long[] = {
    {"allow", required_argument, NULL, OPT_ALLOW},
    {"bind", required_argument, NULL, OPT_BIND},
    {"check-config", no_argument, NULL, OPT_CHECK_CONFIG},
    {"connect", required_argument, NULL, OPT_CONNECT},
    {"cookie-file", required_argument, NULL, OPT_COOKIE_FILE},
    {"drain-timeout", required_argument, NULL, OPT_DRAIN_TIMEOUT},
    {"help", no_argument, NULL, OPT_HELP},
    {"import", required_argument, NULL, OPT_IMPORT},
    {"label", required_argument, NULL, OPT_LABEL},
    {"listen-max", required_argument, NULL, OPT_LISTEN_MAX},
    {"listen-min", required_argument, NULL, OPT_LISTEN_MIN},
    {"log-file", required_argument, NULL, OPT_LOG_FILE},
    {"log-format", required_argument, NULL, OPT_LOG_FORMAT},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"loop", required_argument, NULL, OPT_LOOP},
    {"mailbox-size", required_argument, NULL, OPT_MAILBOX_SIZE},
    {"max-atoms", required_argument, NULL, OPT_MAX_ATOMS},
    {"max-connections", required_argument, NULL, OPT_MAX_CONNECTIONS},
    {"max-frame", required_argument, NULL, OPT_MAX_FRAME},
    {"max-tasks", required_argument, NULL, OPT_MAX_TASKS},
    {"max-workers", required_argument, NULL, OPT_MAX_WORKERS},
    {"metrics", required_argument, NULL, OPT_METRICS},
    {"name", required_argument, NULL, OPT_NAME},
    {"net-ticktime", required_argument, NULL, OPT_NET_TICKTIME},
    {"none-atom", required_argument, NULL, OPT_NONE_ATOM},
    {"owned", no_argument, NULL, OPT_OWNED},
    {"path", required_argument, NULL, OPT_PATH},
    {"port", required_argument, NULL, OPT_PORT},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"remember-ids", required_argument, NULL, OPT_REMEMBER_IDS},
    {"sname", required_argument, NULL, OPT_SNAME},
    {"strings", required_argument, NULL, OPT_STRINGS},
    {"unconvertible", required_argument, NULL, OPT_UNCONVERTIBLE},
    {"venv", required_argument, NULL, OPT_VENV},
    {"version", no_argument, NULL, OPT_VERSION},
    {"workers", required_argument, NULL, OPT_WORKERS},
    {NULL, 0, NULL, 0},
};

const char options_help[] =
    "Usage: pynode [options] [script.py args ... | -m module args ... | -c code args ...]\n"
    "\n"
    "Runs Python as a distributed Erlang node. With a script, -m or -c, that runs on the main\n"
    "thread as python3 would run it, and the node leaves with it; without one the node stays.\n"
    "\n"
    "Node:\n"
    "  --name NAME[@HOST]    long name; without HOST this host's full name (default: --sname py)\n"
    "  --sname NAME[@HOST]   short name; without HOST this host's name up to the first dot\n"
    "  --cookie-file FILE    file with the cookie, for its owner only (default: ~/.erlang.cookie;\n"
    "                        PYNODE_COOKIE in the environment goes before it)\n"
    "  --bind ADDRESS        listen there only (default: what the node's host resolves to)\n"
    "  --port PORT           listen on this port (default: 0, any)\n"
    "  --listen-min PORT, --listen-max PORT\n"
    "                        listen on the first free port of this range (default: any)\n"
    "  --connect NODE        keep a connection to this Erlang node; repeatable (default: none)\n"
    "  --label KEY[=VALUE]   what the node is good for, for who chooses among nodes; repeatable\n"
    "                        (default: none)\n"
    "  --metrics ADDRESS:PORT\n"
    "                        answer GET /metrics for Prometheus there (default: nowhere)\n"
    "  --net-ticktime SEC    drop a peer that is silent for so long (default: 60)\n"
    "  --max-frame SIZE      largest message taken, K, M or G may follow (default: 256M)\n"
    "\n"
    "Work:\n"
    "  --workers N           calls that run at once (default: the processors online)\n"
    "  --max-workers N       the same with those that sleep or wait (default: 512)\n"
    "  --queue-size N        calls that wait; more get 'overloaded' (default: 10000)\n"
    "  --max-tasks N         tasks of the event loop that wait or run; more get 'overloaded'\n"
    "                        (default: 100000)\n"
    "  --loop auto|asyncio|uvloop\n"
    "                        whose event loop: uvloop's if it is installed (default: auto)\n"
    "  --max-connections N   Python threads with a connection of their own to Erlang; more share "
    "the\n"
    "                        node's (default: 512)\n"
    "  --mailbox-size N      messages that wait for a Python thread; more are dropped\n"
    "                        (default: 10000)\n"
    "  --remember-ids N      ids of calls that run once however often they are sent (default: "
    "1024)\n"
    "  --allow MODULE[:FUNCTION]\n"
    "                        allow this and refuse all else; repeatable (default: all is allowed)\n"
    "  --drain-timeout SEC   time for running calls after SIGTERM (default: 30)\n"
    "\n"
    "Python:\n"
    "  --path DIR            put DIR before the module search path; repeatable (default: none)\n"
    "  --venv DIR            use this virtual environment (default: none)\n"
    "  --import MODULE       import it before the node is ready; repeatable (default: none)\n"
    "\n"
    "Terms:\n"
    "  --strings utf8|bytes  what a binary of valid UTF-8 becomes: str or bytes (default: utf8)\n"
    "  --none-atom none|undefined|nil\n"
    "                        what None becomes (default: none)\n"
    "  --unconvertible error|str\n"
    "                        an object without an Erlang form is an error, or becomes str(object)\n"
    "                        (default: error)\n"
    "  --max-atoms N         distinct atoms taken or made (default: 262144)\n"
    "\n"
    "Log:\n"
    "  --log-level debug|info|warning|error\n"
    "                        write this and what is worse (default: info)\n"
    "  --log-format text|json|journal\n"
    "                        (default: text)\n"
    "  --log-file FILE       append to FILE, opened again at SIGHUP (default: standard error)\n"
    "\n"
    "  --owned               end when the standard input ends (default: stay)\n"
    "  --check-config        check options, cookie, Python and imports, then leave (default: run)\n"
    "  --version             print the version and leave\n"
    "  --help                print this and leave\n"
    "\n"
    "See pynode(1) for signals, exit codes and examples.\n";

/* What is asked for and settled only when all options are known. */
struct options_scan {
    const char *name; /* borrowed from argv, like the others */
    const char *cookie_file;
    bool port;   /* --port was given */
    bool listen; /* --listen-min or --listen-max was given */
    bool max_workers;
};

/* Sets a string field, which it owns. */
static int options_string(char **field, const char *value) {
    free(*field);
    *field = xstrdup(value);
    return 0;
}

/* Appends to a list, which owns its strings. */
static int options_append(struct options_list *list, const char *value) {
    char **items = xmalloc((list->len + 1) * sizeof *items);

    if (list->len > 0)
        memcpy(items, list->items, list->len * sizeof *items);
    free(list->items);
    list->items = items;
    items[list->len++] = xstrdup(value);
    return 0;
}

static void options_list_done(struct options_list *list) {
    while (list->len > 0)
        free(list->items[--list->len]);
    free(list->items);
    list->items = NULL;
}

/* Reads digits and nothing else (no sign, space or hex): the end of them, NULL if there are none or
 * the number is above max. */
static const char *options_digits(const char *s, unsigned long max, unsigned long *value) {
    const char *start = s;
    unsigned long v = 0;

    for (; *s >= '0' && *s <= '9'; s++) {
        unsigned long digit = (unsigned long)(*s - '0');

        if (v > (max - digit) / 10)
            return NULL;
        v = v * 10 + digit;
    }
    *value = v;
    return s == start ? NULL : s;
}

/* A whole number from min to max. */
static int options_size(size_t *field, const char *option, const char *value, unsigned long min,
                        unsigned long max, struct err *e) {
    unsigned long v;
    const char *end = options_digits(value, max, &v);

    if (!end || *end || v < min)
        return err_set(e, EX_USAGE, "--%s: '%.80s' is not a number from %lu to %lu", option, value,
                       min, max);
    *field = v;
    return 0;
}

static int options_int(int *field, const char *option, const char *value, int min, int max,
                       struct err *e) {
    size_t v = 0;

    if (options_size(&v, option, value, (unsigned long)min, (unsigned long)max, e) < 0)
        return -1;
    *field = (int)v;
    return 0;
}

/* A number of bytes; K, M or G (of 1024) may follow. A frame's length field ends at 2G-1. */
static int options_bytes(size_t *field, const char *option, const char *value, struct err *e) {
    unsigned long v, unit = 1;
    const char *end = options_digits(value, INT_MAX, &v);

    if (end && *end) {
        unit = *end == 'K' ? 1UL << 10 : *end == 'M' ? 1UL << 20 : *end == 'G' ? 1UL << 30 : 0;
        end++;
    }
    if (!end || *end || unit == 0 || v > INT_MAX / unit || v * unit < 1024)
        return err_set(e, EX_USAGE, "--%s: '%.80s' is not a size from 1K to 2047M", option, value);
    *field = v * unit;
    return 0;
}

/* Seconds, with a fraction if wanted. strtod(3) alone would also take "inf", "nan" and hex. */
static int options_seconds(double *field, const char *option, const char *value, struct err *e) {
    double v = strspn(value, "0123456789.") == strlen(value) ? 0 : -1;
    char *end = NULL;

    if (v == 0)
        v = strtod(value, &end);
    if (!end || end == value || *end || v > OPTIONS_SECONDS_MAX)
        return err_set(e, EX_USAGE, "--%s: '%.80s' is not a number of seconds from 0 to %d", option,
                       value, OPTIONS_SECONDS_MAX);
    *field = v;
    return 0;
}

/* One of the words: its place among them, or -1. */
static int options_word(const char *option, const char *value, const char *const *words,
                        struct err *e) {
    char all[80] = "";
    int i;

    for (i = 0; words[i]; i++) {
        if (strcmp(words[i], value) == 0)
            return i;
        strcat(all, i ? ", " : "");
        strcat(all, words[i]);
    }
    return err_set(e, EX_USAGE, "--%s: '%.80s' is not one of %s", option, value, all);
}

/* MODULE or MODULE:FUNCTION, each may have dots. */
static int options_allow(struct options *o, const char *value, struct err *e) {
    const char *colon = strchr(value, ':');

    if (strpbrk(value, " \t\r\n") || colon == value ||
        (colon && (!colon[1] || strchr(colon + 1, ':'))))
        return err_set(e, EX_USAGE, "--allow: '%.80s' is not MODULE or MODULE:FUNCTION", value);
    return options_append(&o->allow, value);
}

/* A later one of the same key takes its place. */
static int options_label(struct options *o, const char *value, struct err *e) {
    size_t key = strcspn(value, "=");

    if (key == 0 || utf8_count((const uint8_t *)value, strlen(value)) < 0)
        return err_set(e, EX_USAGE, "--label: '%.80s' is not KEY or KEY=VALUE in UTF-8", value);
    for (size_t i = 0; i < o->labels.len; i++) {
        char **item = &o->labels.items[i];

        if (strcspn(*item, "=") == key && memcmp(*item, value, key) == 0)
            return options_string(item, value);
    }
    return options_append(&o->labels, value);
}

static bool options_is_address(const char *text) {
    uint8_t address[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

/* ADDRESS:PORT, the address a number; one of IPv6 stands in brackets, as it has colons itself. */
static int options_metrics(struct options *o, const char *value, struct err *e) {
    const char *colon = strrchr(value, ':'), *end = colon;
    bool brackets = *value == '[' && colon && colon > value && colon[-1] == ']';
    char address[INET6_ADDRSTRLEN + 1];
    unsigned long port;
    int n = -1;

    value += brackets;
    if (colon) {
        n = snprintf(address, sizeof address, "%.*s", (int)(colon - value) - brackets, value);
        end = options_digits(colon + 1, 65535, &port);
    }
    if (n < 0 || n >= (int)sizeof address || !end || *end || !options_is_address(address) ||
        brackets != (strchr(address, ':') != NULL))
        return err_set(e, EX_USAGE,
                       "--metrics: '%.80s' is not ADDRESS:PORT, such as 127.0.0.1:9464 or "
                       "[::1]:9464",
                       value - brackets);
    o->metrics_port = (int)port;
    return options_string(&o->metrics, address);
}

/* The options that say how terms are converted and events logged: a word out of a few. */
static int options_take_word(struct options *o, int opt, const char *option, const char *value,
                             struct err *e) {
    static const char *const strings[] = {"utf8", "bytes", NULL};
    static const char *const none_atoms[] = {"none", "undefined", "nil", NULL};
    static const char *const unconvertible[] = {"error", "str", NULL};
    static const char *const loops[] = {"auto", "asyncio", "uvloop", NULL};
    static const char *const levels[] = {"debug", "info", "warning", "error", NULL};
    static const char *const formats[] = {"text", "json", "journal", NULL};
    const char *const *words = opt == OPT_STRINGS         ? strings
                               : opt == OPT_NONE_ATOM     ? none_atoms
                               : opt == OPT_UNCONVERTIBLE ? unconvertible
                               : opt == OPT_LOOP          ? loops
                               : opt == OPT_LOG_LEVEL     ? levels
                                                          : formats;
    int i = options_word(option, value, words, e);

    if (i < 0)
        return -1;
    if (opt == OPT_STRINGS)
        o->strings_as_bytes = i == 1;
    else if (opt == OPT_NONE_ATOM)
        return options_string(&o->none_atom, value);
    else if (opt == OPT_UNCONVERTIBLE)
        o->unconvertible_str = i == 1;
    else if (opt == OPT_LOOP)
        o->loop = i;
    else if (opt == OPT_LOG_LEVEL)
        o->log_level = (enum log_level)i;
    else
        o->log_format = (enum log_format)i;
    return 0;
}

/* The options that are a number. */
static int options_take_number(struct options *o, struct options_scan *s, int opt,
                               const char *option, const char *value, struct err *e) {
    switch (opt) {
    case OPT_PORT:
        s->port = true;
        if (options_int(&o->listen_min, option, value, 0, 65535, e) < 0)
            return -1;
        o->listen_max = o->listen_min;
        return 0;
    case OPT_LISTEN_MIN:
        s->listen = true;
        return options_int(&o->listen_min, option, value, 1, 65535, e);
    case OPT_LISTEN_MAX:
        s->listen = true;
        return options_int(&o->listen_max, option, value, 1, 65535, e);
    case OPT_NET_TICKTIME:
        return options_int(&o->net_ticktime, option, value, 1, OPTIONS_SECONDS_MAX, e);
    case OPT_WORKERS:
        return options_int(&o->workers, option, value, 1, OPTIONS_WORKERS_MAX, e);
    case OPT_MAX_WORKERS:
        s->max_workers = true;
        return options_int(&o->max_workers, option, value, 1, OPTIONS_WORKERS_MAX, e);
    case OPT_QUEUE_SIZE:
        return options_int(&o->queue_size, option, value, 1, 10000000, e);
    case OPT_MAX_TASKS:
        return options_int(&o->max_tasks, option, value, 1, 10000000, e);
    case OPT_MAX_CONNECTIONS:
        return options_int(&o->max_connections, option, value, 0, OPTIONS_CONNECTIONS_MAX, e);
    case OPT_MAILBOX_SIZE:
        return options_int(&o->mailbox_size, option, value, 1, 10000000, e);
    case OPT_REMEMBER_IDS:
        return options_int(&o->remember_ids, option, value, 0, OPTIONS_IDS_MAX, e);
    case OPT_MAX_ATOMS:
        return options_size(&o->max_atoms, option, value, 1, 16777216, e);
    case OPT_MAX_FRAME:
        return options_bytes(&o->max_frame, option, value, e);
    default:
        return options_seconds(&o->drain_timeout, option, value, e);
    }
}

/* A node has one name: --name and --sname shut each other out. */
static int options_take_name(struct options *o, struct options_scan *s, bool long_names,
                             const char *value, struct err *e) {
    if (s->name && o->long_names != long_names)
        return err_set(e, EX_USAGE, "--name and --sname cannot be used together");
    s->name = value;
    o->long_names = long_names;
    return 0;
}

/* One option that getopt_long(3) has recognized. */
static int options_take(struct options *o, struct options_scan *s, int opt, const char *option,
                        const char *value, struct err *e) {
    switch (opt) {
    case OPT_NAME:
    case OPT_SNAME:
        return options_take_name(o, s, opt == OPT_NAME, value, e);
    case OPT_COOKIE_FILE:
        s->cookie_file = value;
        return 0;
    case OPT_METRICS:
        return options_metrics(o, value, e);
    case OPT_BIND:
        return options_string(&o->bind, value);
    case OPT_PATH:
        return options_append(&o->path, value);
    case OPT_VENV:
        return options_string(&o->venv, value);
    case OPT_IMPORT:
        return options_append(&o->imports, value);
    case OPT_LABEL:
        return options_label(o, value, e);
    case OPT_CONNECT:
        return options_append(&o->connect, value);
    case OPT_ALLOW:
        return options_allow(o, value, e);
    case OPT_LOG_FILE:
        return options_string(&o->log_file, value);
    case OPT_STRINGS:
    case OPT_NONE_ATOM:
    case OPT_UNCONVERTIBLE:
    case OPT_LOOP:
    case OPT_LOG_LEVEL:
    case OPT_LOG_FORMAT:
        return options_take_word(o, opt, option, value, e);
    default:
        return options_take_number(o, s, opt, option, value, e);
    }
}

/* What getopt_long(3) refused, told in our words. word is the argument it stopped in. */
static int options_refuse(int opt, const char *word, struct err *e) {
    if (opt == ':')
        return err_set(e, EX_USAGE, "%.80s: a value is missing; see pynode --help", word);
    if (optopt >= OPT_ALLOW)
        return err_set(e, EX_USAGE, "%.80s: this option takes no value; see pynode --help", word);
    return err_set(e, EX_USAGE, "%.80s: unknown or ambiguous option; see pynode --help", word);
}

/* Makes getopt_long(3) start anew, wherever an earlier scan has stopped. */
static void options_rewind(void) {
#if defined __APPLE__ || defined __FreeBSD__ || defined __NetBSD__ || defined __OpenBSD__
    optreset = 1;
    optind = 1;
#else
    optind = 0;
#endif
    opterr = 0;
}

/* Takes the program to run, which ends our options, and what is left for it. */
static void options_program(struct options *o, enum options_program program, const char *script,
                            int argc, char **argv) {
    o->program = program;
    options_string(&o->script, script);
    o->script_argc = argc - optind;
    o->script_argv = argv + optind;
}

/* Goes through argv up to the program to run; --help and --version end it where they stand. */
static int options_scan(struct options *o, struct options_scan *s, int argc, char **argv,
                        struct err *e) {
    options_rewind();
    for (;;) {
        int index = 0;
        int before = optind ? optind : 1;
        int opt = getopt_long(argc, argv, "+:m:c:", options_long, &index);

        if (opt == -1)
            break;
        if (opt == ':' || opt == '?')
            return options_refuse(opt, argv[before], e);
        if (opt == 'm' || opt == 'c') {
            options_program(o, opt == 'm' ? OPTIONS_MODULE : OPTIONS_COMMAND, optarg, argc, argv);
            return 0;
        }
        if (opt == OPT_HELP || opt == OPT_VERSION) {
            o->action = opt == OPT_HELP ? OPTIONS_HELP : OPTIONS_VERSION;
            return 0;
        }
        if (opt == OPT_CHECK_CONFIG) {
            o->action = OPTIONS_CHECK;
            continue;
        }
        if (opt == OPT_OWNED) {
            o->owned = true;
            continue;
        }
        if (!*optarg)
            return err_set(e, EX_USAGE, "--%s: the value is empty", options_long[index].name);
        if (options_take(o, s, opt, options_long[index].name, optarg, e) < 0)
            return -1;
    }
    if (optind < argc) {
        const char *script = argv[optind++];

        options_program(o, OPTIONS_SCRIPT, script, argc, argv);
    }
    return 0;
}

/* What the machine calls itself, with its domain for a long name. */
static int options_this_host(char *host, size_t size, bool long_names, struct err *e) {
    struct addrinfo hints = {.ai_flags = AI_CANONNAME, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;

    if (gethostname(host, size) < 0)
        return err_set(e, EX_CONFIG, "host name: %s", strerror(errno));
    host[size - 1] = 0;
    if (!long_names) {
        host[strcspn(host, ".")] = 0;
        return 0;
    }
    if (!strchr(host, '.') && getaddrinfo(host, NULL, &hints, &found) == 0) {
        if (found->ai_canonname)
            snprintf(host, size, "%s", found->ai_canonname);
        freeaddrinfo(found);
    }
    if (!strchr(host, '.'))
        return err_set(e, EX_CONFIG,
                       "--name: host '%.80s' has no domain; give one (--name py@host.domain or "
                       "py@127.0.0.1) or use --sname",
                       host);
    return 0;
}

/* OTP's rule for what stands before the @ (kernel, net_kernel). */
static bool options_valid_alive(const char *s) {
    size_t n = strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-");

    return n > 0 && !s[n];
}

/* OTP takes any character that shows; one more @ or one outside ASCII is never a host. */
static bool options_valid_host(const char *s) {
    const char *p = s;

    while (*p > ' ' && *p <= '~' && *p != '@')
        p++;
    return p > s && !*p;
}

/* Splits what --name or --sname gave into alive name and host, and checks both. */
static int options_settle_name(struct options *o, const struct options_scan *s, struct err *e) {
    const char *option = o->long_names ? "name" : "sname";
    const char *name = s->name ? s->name : "py";
    const char *at = strchr(name, '@');
    char host[OPTIONS_HOST_MAX];

    o->alive = xstrdup(name);
    if (at)
        o->alive[at - name] = 0;
    else if (options_this_host(host, sizeof host, o->long_names, e) < 0)
        return -1;
    o->host = xstrdup(at ? at + 1 : host);
    if (!options_valid_alive(o->alive))
        return err_set(e, EX_USAGE, "--%s: '%.80s' may have letters, digits, _ and - only", option,
                       o->alive);
    if (!options_valid_host(o->host))
        return err_set(e, EX_USAGE, "--%s: '%.80s' is not a host name", option, o->host);
    if (!o->long_names && strchr(o->host, '.'))
        return err_set(e, EX_USAGE, "--sname: host '%.80s' has a dot; use --name", o->host);
    if (o->long_names && !strpbrk(o->host, ".:"))
        return err_set(e, EX_USAGE, "--name: host '%.80s' has no dot; use --sname", o->host);
    if (strlen(o->alive) + 1 + strlen(o->host) > OPTIONS_NAME_MAX)
        return err_set(e, EX_USAGE, "--%s: '%.80s...' is longer than %d bytes", option, name,
                       OPTIONS_NAME_MAX);
    return 0;
}

/* One of --connect: another node's whole name, of the same kind as our own. */
static int options_check_connect(const struct options *o, const char *node, struct err *e) {
    const char *at = strchr(node, '@');
    char alive[OPTIONS_NAME_MAX + 1];

    if (strlen(node) > OPTIONS_NAME_MAX || !at || !options_valid_host(at + 1))
        return err_set(e, EX_USAGE, "--connect: '%.80s' is not NAME@HOST", node);
    snprintf(alive, sizeof alive, "%.*s", (int)(at - node), node);
    if (!options_valid_alive(alive))
        return err_set(e, EX_USAGE, "--connect: '%.80s' is not NAME@HOST", node);
    if (o->long_names != (strpbrk(at + 1, ".:") != NULL))
        return err_set(e, EX_USAGE, "--connect: '%.80s' has a %s name, this node a %s one", node,
                       o->long_names ? "short" : "long", o->long_names ? "long" : "short");
    if (strcmp(alive, o->alive) == 0 && strcmp(at + 1, o->host) == 0)
        return err_set(e, EX_USAGE, "--connect: '%.80s' is this node", node);
    return 0;
}

static int options_settle_connect(const struct options *o, struct err *e) {
    for (size_t i = 0; i < o->connect.len; i++)
        if (options_check_connect(o, o->connect.items[i], e) < 0)
            return -1;
    return 0;
}

/* Holds the options that limit each other against each other. */
static int options_settle_ranges(struct options *o, const struct options_scan *s, struct err *e) {
    if (s->port && s->listen)
        return err_set(e, EX_USAGE, "--port cannot be used with --listen-min and --listen-max");
    if (s->listen && (!o->listen_min || !o->listen_max))
        return err_set(e, EX_USAGE, "--listen-min and --listen-max need each other");
    if (o->listen_min > o->listen_max)
        return err_set(e, EX_USAGE, "--listen-min: %d is above --listen-max %d", o->listen_min,
                       o->listen_max);
    if (!s->max_workers && o->max_workers < o->workers)
        o->max_workers = o->workers;
    if (o->max_workers < o->workers)
        return err_set(e, EX_USAGE, "--max-workers: %d is below --workers %d", o->max_workers,
                       o->workers);
    return 0;
}

/* Makes a path independent of the working directory, as the shell would: no link is followed. */
static int options_absolute(char **path, struct err *e) {
    char cwd[OPTIONS_PATH_MAX], *absolute;
    size_t size;

    if (**path == '/')
        return 0;
    if (!getcwd(cwd, sizeof cwd))
        return err_set(e, EX_OSERR, "%s: the working directory: %s", *path, strerror(errno));
    size = strlen(cwd) + strlen(*path) + 2;
    absolute = xmalloc(size);
    snprintf(absolute, size, "%s/%s", cwd, *path);
    free(*path);
    *path = absolute;
    return 0;
}

/* Looks whether the files that Python will open are there: its own message would come late. */
static int options_settle_files(struct options *o, struct err *e) {
    char path[OPTIONS_PATH_MAX];

    if (o->program == OPTIONS_SCRIPT && strcmp(o->script, "-") != 0 && access(o->script, R_OK) < 0)
        return err_set(e, EX_NOINPUT, "script %.200s: %s", o->script, strerror(errno));
    if (!o->venv)
        return 0;
    if (options_absolute(&o->venv, e) < 0)
        return -1;
    if (snprintf(path, sizeof path, "%s/pyvenv.cfg", o->venv) >= (int)sizeof path)
        errno = ENAMETOOLONG;
    if (strlen(o->venv) >= sizeof path - 32 || access(path, R_OK) < 0)
        return err_set(e, EX_CONFIG,
                       "--venv: '%.200s' is not a virtual environment: pyvenv.cfg: %s", o->venv,
                       strerror(errno));
    snprintf(path, sizeof path, "%s/lib/python%s", o->venv, PYNODE_PYTHON_VERSION);
    if (access(path, R_OK) < 0)
        return err_set(e, EX_CONFIG,
                       "--venv: '%.200s' is of another Python: it has no lib/python%s", o->venv,
                       PYNODE_PYTHON_VERSION);
    return 0;
}

/* ei reads ERL_EPMD_PORT without a look at what it says. */
static int options_check_epmd_port(struct err *e) {
    const char *text = getenv("ERL_EPMD_PORT");
    char *end;
    long port;

    if (!text)
        return 0;
    port = strtol(text, &end, 10);
    if (*text >= '0' && *text <= '9' && *end == '\0' && port >= 1 && port <= 65535)
        return 0;
    return err_set(e, EX_USAGE, "ERL_EPMD_PORT: '%.100s' is not a port from 1 to 65535", text);
}

/* A variable of the service manager's, taken so that no child thinks it is meant. */
static char *options_take_variable(const char *name) {
    const char *value = getenv(name);
    char *copy = value && *value ? xstrdup(value) : NULL;

    unsetenv(name);
    return copy;
}

/* What sd_watchdog_enabled(3) reads. A watchdog for another process is none of ours. */
static int options_watchdog(struct options *o, const char *usec, const char *pid, struct err *e) {
    unsigned long interval, process;
    const char *end;

    if (!usec)
        return 0;
    end = options_digits(usec, ULONG_MAX, &interval);
    if (!end || *end || interval == 0)
        return err_set(e, EX_USAGE, "WATCHDOG_USEC: '%.80s' is not a number of microseconds", usec);
    if (pid) {
        end = options_digits(pid, INT_MAX, &process);
        if (!end || *end)
            return err_set(e, EX_USAGE, "WATCHDOG_PID: '%.80s' is not a process", pid);
        if ((pid_t)process != getpid())
            return 0;
    }
    o->watchdog = interval < OPTIONS_WATCHDOG_MAX ? interval : OPTIONS_WATCHDOG_MAX;
    return 0;
}

/* A node that a BEAM owns speaks to that: what the variables say is meant for the BEAM. */
static int options_manager(struct options *o, struct err *e) {
    char *socket = options_take_variable("NOTIFY_SOCKET");
    char *usec = options_take_variable("WATCHDOG_USEC");
    char *pid = options_take_variable("WATCHDOG_PID");
    int result = 0;

    if (!o->owned && socket) {
        options_string(&o->notify_socket, socket);
        result = options_watchdog(o, usec, pid, e);
    }
    free(socket);
    free(usec);
    free(pid);
    return result;
}

/* As many workers as can run at once. */
static int options_processors(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n < 1 ? 1 : n > OPTIONS_WORKERS_MAX ? OPTIONS_WORKERS_MAX : (int)n;
}

static void options_defaults(struct options *o) {
    memset(o, 0, sizeof *o);
    o->net_ticktime = 60;
    o->max_frame = (size_t)256 << 20;
    o->max_atoms = 262144;
    o->workers = options_processors();
    o->max_workers = 512;
    o->queue_size = 10000;
    o->max_connections = 512;
    o->mailbox_size = 10000;
    o->max_tasks = 100000;
    o->remember_ids = 1024;
    o->drain_timeout = 30;
    o->none_atom = xstrdup("none");
    o->log_level = LOG_LEVEL_INFO;
    o->log_format = LOG_FORMAT_TEXT;
}

/* A value may hold a newline; the text of an error is one line. */
static int options_fail(struct err *e) {
    char *p;

    for (p = e->text; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    return -1;
}

int options_parse(struct options *o, int argc, char **argv, struct err *e) {
    struct options_scan s = {0};

    options_defaults(o);
    o->cookie = cookie_take();
    if (options_scan(o, &s, argc, argv, e) < 0)
        return options_fail(e);
    if (o->action == OPTIONS_HELP || o->action == OPTIONS_VERSION)
        return 0;
    if (options_settle_name(o, &s, e) < 0 || options_settle_connect(o, e) < 0 ||
        options_settle_ranges(o, &s, e) < 0 || options_settle_files(o, e) < 0 ||
        options_check_epmd_port(e) < 0 || options_manager(o, e) < 0 ||
        cookie_settle(&o->cookie, s.cookie_file, e) < 0)
        return options_fail(e);
    return 0;
}

void options_done(struct options *o) {
    if (o->cookie)
        cookie_wipe(o->cookie, strlen(o->cookie));
    free(o->cookie);
    free(o->alive);
    free(o->host);
    free(o->bind);
    free(o->metrics);
    free(o->notify_socket);
    free(o->venv);
    free(o->none_atom);
    free(o->log_file);
    free(o->script);
    options_list_done(&o->path);
    options_list_done(&o->imports);
    options_list_done(&o->labels);
    options_list_done(&o->connect);
    options_list_done(&o->allow);
    memset(o, 0, sizeof *o);
}
