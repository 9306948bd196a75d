/* test_options.c - the command line: every option, every refusal, names, cookie, program. */
#include "config.h"

#include "options.h"
#include "tap.h"

#include <fcntl.h>
#include <sysexits.h>

enum { ARGS_MAX = 64 };

static struct options o;
static struct err e;
static char *cookie_file; /* a good one, given by parse() */
static char *args[ARGS_MAX + 1];

/* Parses `pynode <words...>`, the words separated by single spaces; `~` in a word becomes a
 * space and an empty word stays one. The answer is options_parse()'s code, 0 when all is well. */
static int parse_plain(const char *words) {
    static char *copy;
    int argc = 1;
    char *p, *word;

    options_done(&o);
    memset(&e, 0, sizeof e);
    free(copy);
    copy = strdup(words);
    args[0] = "pynode";
    for (p = copy; p && *words && argc < ARGS_MAX;) {
        word = p;
        p = strchr(p, ' ');
        if (p)
            *p++ = 0;
        args[argc++] = word;
        for (; *word; word++)
            if (*word == '~')
                *word = ' ';
    }
    args[argc] = NULL;
    return options_parse(&o, argc, args, &e) == 0 ? 0 : e.code;
}

/* The same with a cookie file that is all right. */
static int parse(const char *words) {
    char line[4096];

    snprintf(line, sizeof line, "--cookie-file=%s%s%s", cookie_file, *words ? " " : "", words);
    return parse_plain(line);
}

/* Writes a file with a mode and gives its path, to be freed. */
static char *write_file(const char *name, const char *text, size_t len, mode_t mode) {
    char *path = tap_path(name);
    FILE *f;

    unlink(path);
    f = fopen(path, "w");
    if (!f || fwrite(text, 1, len, f) != len || fclose(f) != 0 || chmod(path, mode) != 0)
        tap_bail("cannot write %s", path);
    return path;
}

static void test_defaults(void) {
    is_int(parse(""), 0, "nothing given is all right");
    is_int(o.action, OPTIONS_RUN, "default: run");
    is_str(o.alive, "py", "default: the name py");
    ok(!o.long_names, "default: a short name");
    ok(o.host && *o.host && !strchr(o.host, '.'), "default: the host without its domain");
    ok(!o.bind, "default: no --bind");
    ok(!o.metrics, "default: no --metrics");
    ok(!o.notify_socket && o.watchdog == 0, "default: no service manager");
    is_int(o.listen_min, 0, "default: any port");
    is_int(o.listen_max, 0, "default: any port, upper end");
    is_int(o.net_ticktime, 60, "default: net_ticktime 60");
    is_int(o.max_frame, 256 << 20, "default: frames to 256 MiB");
    is_int(o.max_atoms, 262144, "default: 262144 atoms");
    ok(o.workers >= 1 && o.workers <= 1024, "default: workers after the processors");
    is_int(o.max_workers, 512, "default: 512 workers at most");
    is_int(o.queue_size, 10000, "default: 10000 wait");
    is_int(o.max_connections, 512, "default: 512 threads have connections of their own");
    is_int(o.mailbox_size, 10000, "default: 10000 messages wait");
    is_int(o.max_tasks, 100000, "default: 100000 tasks");
    is_int(o.remember_ids, 1024, "default: 1024 ids are remembered");
    is_int(o.loop, OPTIONS_LOOP_AUTO, "default: uvloop if it is there");
    ok(o.drain_timeout == 30, "default: 30 s to drain");
    is_int(o.path.len + o.imports.len + o.allow.len + o.connect.len, 0, "default: empty lists");
    ok(!o.owned, "default: owned by nobody");
    ok(!o.venv && !o.log_file, "default: no venv, log on stderr");
    ok(!o.strings_as_bytes && !o.unconvertible_str, "default: utf8, unconvertible is an error");
    is_str(o.none_atom, "none", "default: none");
    is_int(o.log_level, LOG_LEVEL_INFO, "default: level info");
    is_int(o.log_format, LOG_FORMAT_TEXT, "default: text");
    is_int(o.program, OPTIONS_NONE, "default: no program");
}

static void test_values(void) {
    is_int(parse("--name a-B_9@h.x --bind 127.0.0.1 --listen-min 4000 --listen-max 4010 "
                 "--net-ticktime 4 --workers 3 --max-workers 9 --queue-size 7 --max-frame 2M "
                 "--max-connections 11 --mailbox-size 12 --max-tasks 13 --loop uvloop --remember-ids 14 "
                 "--max-atoms 99 --drain-timeout 1.5 --log-file /l --log-level debug "
                 "--log-format json --strings bytes --none-atom nil --unconvertible str"),
           0, "all with a value");
    is_str(o.alive, "a-B_9", "--name: alive name");
    is_str(o.host, "h.x", "--name: host");
    ok(o.long_names, "--name: long");
    is_str(o.bind, "127.0.0.1", "--bind");
    is_int(o.listen_min, 4000, "--listen-min");
    is_int(o.listen_max, 4010, "--listen-max");
    is_int(o.net_ticktime, 4, "--net-ticktime");
    is_int(o.workers, 3, "--workers");
    is_int(o.max_workers, 9, "--max-workers");
    is_int(o.queue_size, 7, "--queue-size");
    is_int(o.max_connections, 11, "--max-connections");
    is_int(o.mailbox_size, 12, "--mailbox-size");
    is_int(o.max_tasks, 13, "--max-tasks");
    is_int(o.remember_ids, 14, "--remember-ids");
    is_int(o.loop, OPTIONS_LOOP_UVLOOP, "--loop uvloop");
    is_int(o.max_frame, 2 << 20, "--max-frame");
    is_int(o.max_atoms, 99, "--max-atoms");
    ok(o.drain_timeout == 1.5, "--drain-timeout");
    is_str(o.log_file, "/l", "--log-file");
    is_int(o.log_level, LOG_LEVEL_DEBUG, "--log-level");
    is_int(o.log_format, LOG_FORMAT_JSON, "--log-format");
    ok(o.strings_as_bytes, "--strings bytes");
    is_str(o.none_atom, "nil", "--none-atom");
    ok(o.unconvertible_str, "--unconvertible str");
    is_int(parse("--max-connections 0 --mailbox-size 1 --remember-ids 0"), 0, "the least");
    is_int(o.remember_ids, 0, "no ids");
    is_int(o.max_connections, 0, "no connections of their own");
    is_int(o.mailbox_size, 1, "one message");
    is_int(parse("--max-connections 16384 --mailbox-size 10000000 --remember-ids 65536"), 0, "the most");
    is_int(o.remember_ids, 65536, "65536 ids");
    is_int(o.max_connections, 16384, "16384 connections");
    is_int(o.mailbox_size, 10000000, "10000000 messages");
    is_int(parse("--loop asyncio"), 0, "--loop asyncio");
    is_int(o.loop, OPTIONS_LOOP_ASYNCIO, "is asyncio's");
    is_int(parse("--port=4711"), 0, "--port with =");
    is_int(o.listen_min, 4711, "--port is a range of one");
    is_int(o.listen_max, 4711, "--port, upper end");
    is_int(parse("--workers 600"), 0, "more workers than the default cap");
    is_int(o.max_workers, 600, "raise the cap with them");
    is_int(parse("--bind a --bind b --strings bytes --strings utf8"), 0, "given twice");
    is_str(o.bind, "b", "the last one counts");
    ok(!o.strings_as_bytes, "for words, too");
}

static void test_metrics(void) {
    is_int(parse("--metrics 127.0.0.1:9464"), 0, "--metrics");
    is_str(o.metrics, "127.0.0.1", "its address");
    is_int(o.metrics_port, 9464, "and its port");
    is_int(parse("--metrics [::1]:0"), 0, "an address of IPv6");
    is_str(o.metrics, "::1", "without its brackets");
    is_int(o.metrics_port, 0, "any port");
    is_int(parse("--metrics 0.0.0.0:65535 --metrics [ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:1"), 0,
           "a long one, given last");
    is_str(o.metrics, "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "counts");
}

/* What systemd has in the environment. */
static void set_manager(const char *socket, const char *usec, const char *pid) {
    setenv("NOTIFY_SOCKET", socket, 1);
    setenv("WATCHDOG_USEC", usec, 1);
    setenv("WATCHDOG_PID", pid, 1);
}

static void test_manager(void) {
    char pid[32];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    set_manager("/run/s", "30000000", pid);
    is_int(parse(""), 0, "a service manager");
    is_str(o.notify_socket, "/run/s", "its socket");
    is_int(o.watchdog, 30000000, "its watchdog");
    ok(!getenv("NOTIFY_SOCKET") && !getenv("WATCHDOG_USEC") && !getenv("WATCHDOG_PID"),
       "children are not told of it");
    set_manager("@s", "5", "");
    is_int(parse(""), 0, "a watchdog for whoever it is");
    is_int(o.watchdog, 5, "counts");
    set_manager("@s", "5", "1");
    is_int(parse(""), 0, "one for another process");
    is_int(o.watchdog, 0, "does not");
    is_str(o.notify_socket, "@s", "but the socket does");
    set_manager("", "5", pid);
    is_int(parse(""), 0, "an empty socket");
    ok(!o.notify_socket && o.watchdog == 0, "is none");
    set_manager("/run/s", "5", pid);
    is_int(parse("--owned"), 0, "a node that is owned");
    ok(!o.notify_socket && o.watchdog == 0, "leaves the manager to its owner");
    ok(!getenv("NOTIFY_SOCKET"), "and its children, too");
    set_manager("/run/s", "18446744073709551615", pid);
    is_int(parse(""), 0, "a watchdog in half a million years");
    is_int(o.watchdog, INT64_C(1) << 50, "comes sooner");
    set_manager("/run/s", "0", pid);
    is_int(parse(""), EX_USAGE, "no time at all is refused");
    is_str(e.text, "WATCHDOG_USEC: '0' is not a number of microseconds", "and named");
    set_manager("/run/s", "1s", pid);
    is_int(parse(""), EX_USAGE, "so is a unit");
    set_manager("/run/s", "5", "x");
    is_int(parse(""), EX_USAGE, "and a process that is none");
    is_str(e.text, "WATCHDOG_PID: 'x' is not a process", "which is named");
}

static void test_lists(void) {
    is_int(parse("--path /b --path /a --import m --import a.b --allow math --allow os.path:join "
                 "--allow a:B.c"),
           0, "repeatable options");
    is_int(o.path.len, 2, "two --path");
    is_str(o.path.items[0], "/b", "in the order given, first");
    is_str(o.path.items[1], "/a", "second");
    is_int(o.imports.len, 2, "two --import");
    is_str(o.imports.items[1], "a.b", "a dotted one");
    is_int(o.allow.len, 3, "three --allow");
    is_str(o.allow.items[0], "math", "--allow M");
    is_str(o.allow.items[1], "os.path:join", "--allow M:F");
    is_str(o.allow.items[2], "a:B.c", "--allow M:F with a dotted F");
    is_int(parse("--label gpu --label zone=a --label zone=b=c --label zones=2"), 0, "labels");
    is_int(o.labels.len, 3, "each key once");
    is_str(o.labels.items[0], "gpu", "--label KEY");
    is_str(o.labels.items[1], "zone=b=c", "--label KEY=VALUE, the last one");
    is_str(o.labels.items[2], "zones=2", "another key that begins alike");
}

static void test_connect(void) {
    char many[300], words[600];

    is_int(parse("--connect app@h --sname a@h --connect a@i --owned --log-format journal"), 0,
           "nodes to connect to");
    is_int(o.connect.len, 2, "two --connect");
    is_str(o.connect.items[0], "app@h", "in the order given, first");
    is_str(o.connect.items[1], "a@i", "second");
    ok(o.owned, "--owned");
    is_int(o.log_format, LOG_FORMAT_JOURNAL, "--log-format journal");
    is_int(parse("--name a@127.0.0.1 --connect b@127.0.0.1 --connect c@::1"), 0, "long names");
    memset(many, 'a', sizeof many);
    many[sizeof many - 1] = 0;
    snprintf(words, sizeof words, "--sname b@h --connect %s@h", many);
    is_int(parse(words), EX_USAGE, "a node's name that is too long");
    has_str(e.text, "--connect: 'aaa", "is told");
}

/* Words that must be refused, with the code and the text. */
static void test_refused(void) {
    static const struct {
        const char *words;
        int code;
        const char *text;
    } cases[] = {
        {"--nope", EX_USAGE, "--nope: unknown or ambiguous option; see pynode --help"},
        {"--log x", EX_USAGE, "--log: unknown or ambiguous option; see pynode --help"},
        {"-x", EX_USAGE, "-x: unknown or ambiguous option; see pynode --help"},
        {"--check-config --nope=1 s", EX_USAGE,
         "--nope=1: unknown or ambiguous option; see pynode --help"},
        {"--name", EX_USAGE, "--name: a value is missing; see pynode --help"},
        {"-m", EX_USAGE, "-m: a value is missing; see pynode --help"},
        {"-c", EX_USAGE, "-c: a value is missing; see pynode --help"},
        {"--help=1", EX_USAGE, "--help=1: this option takes no value; see pynode --help"},
        {"--bind=", EX_USAGE, "--bind: the value is empty"},
        {"--path=", EX_USAGE, "--path: the value is empty"},
        {"--workers=", EX_USAGE, "--workers: the value is empty"},
        {"--workers abc", EX_USAGE, "--workers: 'abc' is not a number from 1 to 1024"},
        {"--workers 0", EX_USAGE, "--workers: '0' is not a number from 1 to 1024"},
        {"--workers 1025", EX_USAGE, "--workers: '1025' is not a number from 1 to 1024"},
        {"--workers -1", EX_USAGE, "--workers: '-1' is not a number from 1 to 1024"},
        {"--workers +1", EX_USAGE, "--workers: '+1' is not a number from 1 to 1024"},
        {"--workers ~1", EX_USAGE, "--workers: ' 1' is not a number from 1 to 1024"},
        {"--workers 0x10", EX_USAGE, "--workers: '0x10' is not a number from 1 to 1024"},
        {"--workers 3x", EX_USAGE, "--workers: '3x' is not a number from 1 to 1024"},
        {"--workers 18446744073709551617", EX_USAGE,
         "--workers: '18446744073709551617' is not a number from 1 to 1024"},
        {"--max-workers 0", EX_USAGE, "--max-workers: '0' is not a number from 1 to 1024"},
        {"--workers 9 --max-workers 8", EX_USAGE, "--max-workers: 8 is below --workers 9"},
        {"--queue-size 0", EX_USAGE, "--queue-size: '0' is not a number from 1 to 10000000"},
        {"--max-connections -1", EX_USAGE,
         "--max-connections: '-1' is not a number from 0 to 16384"},
        {"--max-connections 16385", EX_USAGE,
         "--max-connections: '16385' is not a number from 0 to 16384"},
        {"--max-connections many", EX_USAGE,
         "--max-connections: 'many' is not a number from 0 to 16384"},
        {"--mailbox-size 0", EX_USAGE, "--mailbox-size: '0' is not a number from 1 to 10000000"},
        {"--mailbox-size 10000001", EX_USAGE,
         "--mailbox-size: '10000001' is not a number from 1 to 10000000"},
        {"--max-tasks 0", EX_USAGE, "--max-tasks: '0' is not a number from 1 to 10000000"},
        {"--remember-ids 65537", EX_USAGE, "--remember-ids: '65537' is not a number from 0 to 65536"},
        {"--loop trio", EX_USAGE, "--loop: 'trio' is not one of auto, asyncio, uvloop"},
        {"--max-atoms x", EX_USAGE, "--max-atoms: 'x' is not a number from 1 to 16777216"},
        {"--metrics 9464", EX_USAGE,
         "--metrics: '9464' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1", EX_USAGE,
         "--metrics: '127.0.0.1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1:", EX_USAGE,
         "--metrics: '127.0.0.1:' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1:x", EX_USAGE,
         "--metrics: '127.0.0.1:x' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1:65536", EX_USAGE,
         "--metrics: '127.0.0.1:65536' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1:-1", EX_USAGE,
         "--metrics: '127.0.0.1:-1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics :9464", EX_USAGE,
         "--metrics: ':9464' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics localhost:9464", EX_USAGE,
         "--metrics: 'localhost:9464' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics ::1:9464", EX_USAGE,
         "--metrics: '::1:9464' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics [::1]", EX_USAGE,
         "--metrics: '[::1]' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics [::1]9464", EX_USAGE,
         "--metrics: '[::1]9464' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics [127.0.0.1]:1", EX_USAGE,
         "--metrics: '[127.0.0.1]:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics []:1", EX_USAGE,
         "--metrics: '[]:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics [:1", EX_USAGE,
         "--metrics: '[:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics [::1:1", EX_USAGE,
         "--metrics: '[::1:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics ]:1", EX_USAGE,
         "--metrics: ']:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 127.0.0.1]:1", EX_USAGE,
         "--metrics: '127.0.0.1]:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 999.0.0.1:1", EX_USAGE,
         "--metrics: '999.0.0.1:1' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--metrics 1.2.3.4:5:6", EX_USAGE,
         "--metrics: '1.2.3.4:5:6' is not ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464"},
        {"--net-ticktime 0", EX_USAGE, "--net-ticktime: '0' is not a number from 1 to 86400"},
        {"--port 65536", EX_USAGE, "--port: '65536' is not a number from 0 to 65535"},
        {"--listen-min 0", EX_USAGE, "--listen-min: '0' is not a number from 1 to 65535"},
        {"--listen-min 5", EX_USAGE, "--listen-min and --listen-max need each other"},
        {"--listen-max 5", EX_USAGE, "--listen-min and --listen-max need each other"},
        {"--listen-min 6 --listen-max 5", EX_USAGE, "--listen-min: 6 is above --listen-max 5"},
        {"--port 4 --listen-min 4 --listen-max 5", EX_USAGE,
         "--port cannot be used with --listen-min and --listen-max"},
        {"--max-frame 1023", EX_USAGE, "--max-frame: '1023' is not a size from 1K to 2047M"},
        {"--max-frame 2G", EX_USAGE, "--max-frame: '2G' is not a size from 1K to 2047M"},
        {"--max-frame 2048M", EX_USAGE, "--max-frame: '2048M' is not a size from 1K to 2047M"},
        {"--max-frame 1T", EX_USAGE, "--max-frame: '1T' is not a size from 1K to 2047M"},
        {"--max-frame 1MB", EX_USAGE, "--max-frame: '1MB' is not a size from 1K to 2047M"},
        {"--max-frame M", EX_USAGE, "--max-frame: 'M' is not a size from 1K to 2047M"},
        {"--max-frame 99999999999999999999K", EX_USAGE,
         "--max-frame: '99999999999999999999K' is not a size from 1K to 2047M"},
        {"--drain-timeout inf", EX_USAGE,
         "--drain-timeout: 'inf' is not a number of seconds from 0 to 86400"},
        {"--drain-timeout -1", EX_USAGE,
         "--drain-timeout: '-1' is not a number of seconds from 0 to 86400"},
        {"--drain-timeout 1.2.3", EX_USAGE,
         "--drain-timeout: '1.2.3' is not a number of seconds from 0 to 86400"},
        {"--drain-timeout .", EX_USAGE,
         "--drain-timeout: '.' is not a number of seconds from 0 to 86400"},
        {"--drain-timeout 86401", EX_USAGE,
         "--drain-timeout: '86401' is not a number of seconds from 0 to 86400"},
        {"--strings latin1", EX_USAGE, "--strings: 'latin1' is not one of utf8, bytes"},
        {"--none-atom null", EX_USAGE, "--none-atom: 'null' is not one of none, undefined, nil"},
        {"--unconvertible x", EX_USAGE, "--unconvertible: 'x' is not one of error, str"},
        {"--log-level loud", EX_USAGE,
         "--log-level: 'loud' is not one of debug, info, warning, error"},
        {"--log-format xml", EX_USAGE, "--log-format: 'xml' is not one of text, json, journal"},
        {"--owned=1", EX_USAGE, "--owned=1: this option takes no value; see pynode --help"},
        {"--sname a@h --connect b", EX_USAGE, "--connect: 'b' is not NAME@HOST"},
        {"--sname a@h --connect b@", EX_USAGE, "--connect: 'b@' is not NAME@HOST"},
        {"--sname a@h --connect @h", EX_USAGE, "--connect: '@h' is not NAME@HOST"},
        {"--sname a@h --connect b@h@h", EX_USAGE, "--connect: 'b@h@h' is not NAME@HOST"},
        {"--sname a@h --connect b.c@h", EX_USAGE, "--connect: 'b.c@h' is not NAME@HOST"},
        {"--sname a@h --connect b@h --connect b@h.x", EX_USAGE,
         "--connect: 'b@h.x' has a long name, this node a short one"},
        {"--connect b@h --name a@h.x", EX_USAGE,
         "--connect: 'b@h' has a short name, this node a long one"},
        {"--sname a@h --connect a@h", EX_USAGE, "--connect: 'a@h' is this node"},
        {"--allow :f", EX_USAGE, "--allow: ':f' is not MODULE or MODULE:FUNCTION"},
        {"--allow m:", EX_USAGE, "--allow: 'm:' is not MODULE or MODULE:FUNCTION"},
        {"--allow m:f:2", EX_USAGE, "--allow: 'm:f:2' is not MODULE or MODULE:FUNCTION"},
        {"--label =1", EX_USAGE, "--label: '=1' is not KEY or KEY=VALUE in UTF-8"},
        {"--allow m~n", EX_USAGE, "--allow: 'm n' is not MODULE or MODULE:FUNCTION"},
        {"--venv /nonexistent", EX_CONFIG,
         "--venv: '/nonexistent' is not a virtual environment: pyvenv.cfg: No such file or "
         "directory"},
        {"/nonexistent/s.py", EX_NOINPUT, "script /nonexistent/s.py: No such file or directory"},
        {"--nope\nerror", EX_USAGE, "--nope error: unknown or ambiguous option; see pynode --help"},
    };
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        is_int(parse(cases[i].words), cases[i].code, "refused: %s", cases[i].words);
        is_str(e.text, cases[i].text, "says so: %s", cases[i].words);
    }
}

static void test_accepted(void) {
    static const char *const cases[] = {
        "--workers 1 --max-workers 1",
        "--workers 1024",
        "--workers 007",
        "--max-frame 1024",
        "--max-frame 1K",
        "--max-frame 2047M",
        "--max-frame 1G",
        "--max-frame 2147483647",
        "--drain-timeout 0",
        "--drain-timeout .5",
        "--drain-timeout 86400",
        "--port 0",
        "--port 65535",
        "--listen-min 5 --listen-max 5",
        "--name py@127.0.0.1",
        "--name py@::1",
        "--sname py@h",
        "--work 3",
        "--",
    };
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++)
        is_int(parse(cases[i]), 0, "taken: %s", cases[i]);
    is_int(parse("--max-frame 1G"), 0, "a gigabyte");
    is_int(o.max_frame, 1 << 30, "has 2^30 bytes");
}

static void test_names(void) {
    static const struct {
        const char *words, *text;
    } cases[] = {
        {"--sname py@a.b", "--sname: host 'a.b' has a dot; use --name"},
        {"--name py@a", "--name: host 'a' has no dot; use --sname"},
        {"--sname a --name b", "--name and --sname cannot be used together"},
        {"--sname a.b", "--sname: 'a.b' may have letters, digits, _ and - only"},
        {"--sname @h", "--sname: '' may have letters, digits, _ and - only"},
        {"--sname p~y@h", "--sname: 'p y' may have letters, digits, _ and - only"},
        {"--sname g\303\274n@h", "--sname: 'g\303\274n' may have letters, digits, _ and - only"},
        {"--sname py@", "--sname: '' is not a host name"},
        {"--sname py@h@h", "--sname: 'h@h' is not a host name"},
        {"--sname py@h~h", "--sname: 'h h' is not a host name"},
    };
    char host[256], words[600], many[300];
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        is_int(parse(cases[i].words), EX_USAGE, "refused: %s", cases[i].words);
        is_str(e.text, cases[i].text, "says so: %s", cases[i].words);
    }
    is_int(parse("--sname a --sname b@h"), 0, "the same kind twice");
    is_str(o.alive, "b", "the last one counts");
    gethostname(host, sizeof host);
    host[strcspn(host, ".")] = 0;
    is_int(parse("--sname a"), 0, "--sname without a host");
    is_str(o.host, host, "takes this host's up to the first dot");

    memset(many, 'a', sizeof many);
    many[252] = 0;
    snprintf(words, sizeof words, "--sname %s@h", many);
    is_int(parse(words), 0, "254 bytes of name");
    many[252] = 'a';
    many[253] = 0;
    snprintf(words, sizeof words, "--sname %s@h", many);
    is_int(parse(words), EX_USAGE, "255 bytes are too long");
    has_str(e.text, "is longer than 254 bytes", "and it says so");
}

/* A long name without a host needs a machine with a domain: both outcomes are right. */
static void test_long_host(void) {
    int code = parse("--name py");

    if (code == 0) {
        ok(strchr(o.host, '.') != NULL, "--name py: the host '%s' has a dot", o.host);
    } else {
        is_int(code, EX_CONFIG, "--name py: refused on a machine without a domain");
        has_str(e.text, "--name py@host.domain", "and it says what to do");
    }
}

static void test_actions(void) {
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;

    setenv("HOME", "/nonexistent", 1);
    is_int(parse_plain("--help --nope"), 0, "--help needs no cookie and ends the options");
    is_int(o.action, OPTIONS_HELP, "--help");
    is_int(parse_plain("--version"), 0, "--version needs no cookie");
    is_int(o.action, OPTIONS_VERSION, "--version");
    is_int(parse_plain("--nope --help"), EX_USAGE, "what is wrong before --help is told");
    is_int(parse_plain("--check-config"), EX_CONFIG, "--check-config looks for the cookie");
    is_int(parse("--check-config --workers 2"), 0, "and for the rest");
    is_int(o.action, OPTIONS_CHECK, "--check-config");
    is_int(o.workers, 2, "goes on with the options");
    if (home)
        setenv("HOME", home, 1);
    else
        unsetenv("HOME");
    free(home);
}

static void test_program(void) {
    char *script = write_file("s.py", "pass\n", 5, 0644);
    char words[600];

    snprintf(words, sizeof words, "--workers 2 %s -m x --port 1", script);
    is_int(parse(words), 0, "a script");
    is_int(o.program, OPTIONS_SCRIPT, "is one");
    is_str(o.script, script, "its path");
    is_int(o.script_argc, 4, "what follows is its own");
    is_str(o.script_argv[0], "-m", "first");
    is_str(o.script_argv[3], "1", "last");
    ok(!o.script_argv[4], "and a NULL");
    is_int(o.listen_min, 0, "none of it is ours");

    snprintf(words, sizeof words, "-- %s", script);
    is_int(parse(words), 0, "a script after --");
    is_str(o.script, script, "its path");
    is_int(o.script_argc, 0, "without arguments");

    is_int(parse("-m json.tool --port 1 file"), 0, "-m");
    is_int(o.program, OPTIONS_MODULE, "is a module");
    is_str(o.script, "json.tool", "its name");
    is_int(o.script_argc, 3, "its arguments");
    is_str(o.script_argv[0], "--port", "come unchanged");

    is_int(parse("-c print(1) -c"), 0, "-c");
    is_int(o.program, OPTIONS_COMMAND, "is code");
    is_str(o.script, "print(1)", "the code");
    is_int(o.script_argc, 1, "its arguments");
    is_int(parse("-cprint(1)"), 0, "-c without a space");
    is_str(o.script, "print(1)", "the same code");
    is_int(parse("-c "), 0, "empty code");
    is_str(o.script, "", "is code, too");
    free(script);
}

static void test_venv(void) {
    char *dir = tap_path("venv"), *cfg;
    char words[600], lib[600];

    mkdir(dir, 0700);
    snprintf(words, sizeof words, "--venv %s", dir);
    is_int(parse(words), EX_CONFIG, "a directory without pyvenv.cfg is no venv");
    cfg = write_file("venv/pyvenv.cfg", "", 0, 0600);
    is_int(parse(words), EX_CONFIG, "nor is one of another Python");
    has_str(e.text, "is of another Python: it has no lib/python", "it says so");
    snprintf(lib, sizeof lib, "%s/lib", dir);
    mkdir(lib, 0700);
    snprintf(lib, sizeof lib, "%s/lib/python%s", dir, PYNODE_PYTHON_VERSION);
    mkdir(lib, 0700);
    is_int(parse(words), 0, "with one it is");
    is_str(o.venv, dir, "--venv");
    free(cfg);
    free(dir);
}

/* Parses with a cookie file of this text and mode. */
static int parse_cookie(const char *text, size_t len, mode_t mode) {
    char *path = write_file("cookie", text, len, mode);
    char words[600];
    int code;

    snprintf(words, sizeof words, "--cookie-file %s", path);
    code = parse_plain(words);
    free(path);
    return code;
}

static void test_cookie_file(void) {
    char many[2000];
    char *path = tap_path("cookie");
    static const mode_t refused[] = {0640, 0620, 0610, 0604, 0602, 0601, 0644, 0666, 0440};
    char want[700];
    size_t i;

    is_int(parse_cookie("sesame", 6, 0600), 0, "mode 0600");
    is_str(o.cookie, "sesame", "the cookie");
    is_int(parse_cookie("sesame\n", 7, 0400), 0, "mode 0400");
    is_str(o.cookie, "sesame", "a newline at the end does no harm");
    is_int(parse_cookie("sesame\r\n\n", 9, 0600), 0, "several");
    is_str(o.cookie, "sesame", "do none either");
    is_int(parse_cookie(" a b ", 5, 0600), 0, "spaces");
    is_str(o.cookie, " a b ", "are part of it");
    for (i = 0; i < sizeof refused / sizeof *refused; i++) {
        is_int(parse_cookie("sesame", 6, refused[i]), EX_NOPERM, "mode %04o", (unsigned)refused[i]);
        snprintf(want, sizeof want,
                 "cookie file %s: mode %04o lets others in; mend it with chmod 600 %s", path,
                 (unsigned)refused[i], path);
        is_str(e.text, want, "says how to mend %04o", (unsigned)refused[i]);
    }
    is_int(parse_cookie("", 0, 0600), EX_CONFIG, "an empty file");
    has_str(e.text, "the cookie is empty", "says so");
    is_int(parse_cookie("\n\r\n", 3, 0600), EX_CONFIG, "newlines only");
    has_str(e.text, "the cookie is empty", "say so");
    is_int(parse_cookie("ses\namesecret", 13, 0600), EX_CONFIG, "a newline inside");
    has_str(e.text, "not printable", "says so");
    ok(!strstr(e.text, "secret"), "without the cookie");
    is_int(parse_cookie("ses\0ame", 7, 0600), EX_CONFIG, "a zero byte inside");
    is_int(parse_cookie("g\303\274n", 4, 0600), EX_CONFIG, "a letter outside ASCII");
    memset(many, 'k', sizeof many);
    is_int(parse_cookie(many, 255, 0600), 0, "255 bytes");
    is_int(strlen(o.cookie), 255, "are kept");
    is_int(parse_cookie(many, 256, 0600), EX_CONFIG, "256 bytes");
    has_str(e.text, "longer than 255 bytes", "say so");
    ok(!strstr(e.text, "kkk"), "without the cookie");
    is_int(parse_cookie(many, sizeof many, 0600), EX_CONFIG, "2000 bytes");
    free(path);
}

static void test_cookie_place(void) {
    char words[600];
    char *path;

    snprintf(words, sizeof words, "--cookie-file %s", tap_dir());
    is_int(parse_plain(words), EX_CONFIG, "a directory is no cookie file");
    has_str(e.text, "not a regular file", "says so");
    path = tap_path("fifo");
    if (mkfifo(path, 0600) < 0)
        tap_bail("no FIFO");
    snprintf(words, sizeof words, "--cookie-file %s", path);
    is_int(parse_plain(words), EX_CONFIG, "a FIFO is none, and does not block");
    free(path);
    is_int(parse_plain("--cookie-file /nonexistent"), EX_CONFIG, "a file that is not there");
    is_str(e.text, "cookie file /nonexistent: No such file or directory", "says so");
    path = tap_path("link");
    if (symlink(cookie_file, path) < 0)
        tap_bail("no symlink");
    snprintf(words, sizeof words, "--cookie-file %s", path);
    is_int(parse_plain(words), 0, "a link to a good file");
    free(path);
}

static void test_cookie_home(void) {
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    char *path = write_file(".erlang.cookie", "athome", 6, 0400);

    setenv("HOME", tap_dir(), 1);
    is_int(parse_plain(""), 0, "without --cookie-file");
    is_str(o.cookie, "athome", "~/.erlang.cookie is taken");
    chmod(path, 0644);
    is_int(parse_plain(""), EX_NOPERM, "if nobody else can read it");
    unlink(path);
    is_int(parse_plain(""), EX_CONFIG, "and if it is there");
    has_str(e.text, path, "it says where it looked");
    unsetenv("HOME");
    ok(parse_plain("--help") == 0, "--help works without HOME");
    if (home)
        setenv("HOME", home, 1);
    free(home);
    free(path);
}

static void test_cookie_environment(void) {
    char variable[] = "PYNODE_COOKIE=opensesame";
    char *value = variable + strlen("PYNODE_COOKIE=");
    size_t i, left = 0;

    putenv(variable);
    is_int(parse(""), 0, "PYNODE_COOKIE");
    is_str(o.cookie, "opensesame", "goes before the file");
    ok(!getenv("PYNODE_COOKIE"), "and is gone from the environment");
    for (i = 0; i < strlen("opensesame"); i++)
        left += value[i] != 0;
    is_int(left, 0, "its bytes are overwritten");

    setenv("PYNODE_COOKIE", "", 1);
    is_int(parse(""), EX_CONFIG, "an empty PYNODE_COOKIE is an error");
    is_str(e.text, "PYNODE_COOKIE: the cookie is empty", "says so");
    setenv("PYNODE_COOKIE", "tab\there", 1);
    is_int(parse(""), EX_CONFIG, "one with a tab, too");
    ok(!strstr(e.text, "here"), "the text does not show it");
    setenv("PYNODE_COOKIE", "opensesame", 1);
    is_int(parse_plain("--nope"), EX_USAGE, "an error elsewhere");
    ok(!getenv("PYNODE_COOKIE"), "removes it all the same");
    is_int(parse_plain("--cookie-file /nonexistent"), EX_CONFIG, "the next parse has it no more");
}

/* What `test_options environ` does: parse, then look whether the cookie can still be seen. */
static int environ_main(void) {
    char data[65536];
    ssize_t n, i;
    int fd;

    if (parse_plain("--sname x@h") != 0 || !o.cookie || strcmp(o.cookie, "opensesame") != 0)
        return 2;
    options_done(&o);
    fd = open("/proc/self/environ", O_RDONLY);
    n = fd < 0 ? 0 : read(fd, data, sizeof data);
    for (i = 0; i + 10 <= n; i++)
        if (memcmp(data + i, "opensesame", 10) == 0)
            return 1;
    return 0;
}

static const char *self; /* argv[0] */

static void exec_environ(void) {
    char *argv[] = {(char *)self, "environ", NULL};
    char *envp[] = {"A=1", "PYNODE_COOKIE=opensesame", "B=2", NULL};

    execve(self, argv, envp);
    _exit(3);
}

static void test_environ(void) {
    int status = tap_child(exec_environ, NULL);

    is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0,
           "/proc/PID/environ does not show the cookie");
}

/* Root may read everything, so the child becomes somebody who may not enter the directory. */
static void parse_as_nobody(void) {
    char words[600];
    int code;

    if (geteuid() == 0 && setuid(65534) < 0)
        _exit(1);
    snprintf(words, sizeof words, "--cookie-file %s/closed/cookie", tap_dir());
    code = parse_plain(words);
    if (code != EX_NOPERM)
        _exit(2);
    setenv("PYNODE_COOKIE", "x", 1);
    snprintf(words, sizeof words, "%s/closed/script.py", tap_dir());
    _exit(parse_plain(words) == EX_NOINPUT ? 0 : 3);
}

static void test_unreadable(void) {
    char *dir = tap_path("closed");
    int status;

    mkdir(dir, 0);
    status = tap_child(parse_as_nobody, NULL);
    is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0,
           "cookie file and script that may not be read: EX_NOPERM and EX_NOINPUT");
    rmdir(dir);
    free(dir);
}

static void test_help(void) {
    static const char *const names[] = {
        "--name",       "--sname",      "--cookie-file",   "--bind",          "--port",
        "--listen-min", "--listen-max", "--net-ticktime",  "--workers",       "--max-workers",
        "--queue-size", "--path",       "--venv",          "--import",        "--allow",
        "--strings",    "--none-atom",  "--unconvertible", "--max-frame",     "--max-atoms",
        "--log-level",  "--log-format", "--log-file",      "--drain-timeout", "--check-config",
        "--connect",    "--owned",      "--max-connections", "--mailbox-size",
        "--max-tasks",  "--loop",       "--remember-ids",
        "--version",    "--help",
    };
    const char *p, *next;
    size_t i, longest = 0;

    for (i = 0; i < sizeof names / sizeof *names; i++)
        has_str(options_help, names[i], "--help names %s", names[i]);
    for (p = options_help; *p; p = next + 1) {
        next = strchr(p, '\n');
        if (!next)
            break;
        if ((size_t)(next - p) > longest)
            longest = (size_t)(next - p);
    }
    ok(longest < 100, "no line of --help is longer than 99 columns");
    ok(!*p, "it ends in a newline");
}

static void test_done(void) {
    parse("--name a@b.c --path x --venv y");
    options_done(&o);
    ok(!o.alive && !o.cookie && !o.path.items && !o.script, "options_done empties the struct");
    options_done(&o);
    ok(!o.alive, "and does no harm twice");
}

int main(int argc, char **argv) {
    self = argv[0];
    if (argc > 1 && strcmp(argv[1], "environ") == 0)
        return environ_main();
    unsetenv("PYNODE_COOKIE");
    cookie_file = write_file("good.cookie", "secret", 6, 0600);
    test_defaults();
    test_values();
    test_metrics();
    test_manager();
    test_lists();
    test_connect();
    test_refused();
    test_accepted();
    test_names();
    test_long_host();
    test_actions();
    test_program();
    test_venv();
    test_cookie_file();
    test_cookie_place();
    test_cookie_home();
    test_cookie_environment();
    test_environ();
    test_unreadable();
    test_help();
    test_done();
    free(cookie_file);
    return tap_end();
}
