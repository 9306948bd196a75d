/* test_log.c - the log: levels, both formats, hostile texts, long lines, threads, rotation.
 *
 * Runs under TSan as well: four threads write while the main thread lets the file be opened again.
 */
#include "config.h"

#include "log.h"
#include "tap.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>

enum { LINE_MAX_BYTES = 4096, THREADS = 4, LINES = 2000 };

static char *path; /* the log that most tests write */

/* Starts an empty log. */
static void fresh(enum log_level level, enum log_format format) {
    unlink(path);
    if (log_open(level, format, path) < 0)
        tap_bail("cannot open %s", path);
}

/* Whether s begins with a time like 2026-11-21T11:47:10.123Z. */
static bool is_time(const char *s) {
    const char *shape = "dddd-dd-ddTdd:dd:dd.dddZ";

    for (; *shape; shape++, s++)
        if (*shape == 'd' ? !isdigit((unsigned char)*s) : *s != *shape)
            return false;
    return true;
}

/* The log's one line after its time and a space; it stays valid until the next call. */
static const char *line(void) {
    static char *text;
    size_t n = strlen("2026-11-21T11:47:10.123Z ");

    free(text);
    text = tap_slurp(path);
    return strlen(text) > n && is_time(text) ? text + n : text;
}

/* The log's one line of JSON from the level on. */
static const char *json(void) {
    static char *text;
    const char *head = "{\"time\":\"", *rest;

    free(text);
    text = tap_slurp(path);
    rest = text + strlen(head);
    if (strncmp(text, head, strlen(head)) != 0 || !is_time(rest))
        return text;
    return rest + strlen("2026-11-21T11:47:10.123Z\",");
}

static void test_levels(void) {
    fresh(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT);
    log_debug("a");
    log_info("b");
    is_str(line(), "", "lines below the level are dropped");
    log_warning("c %d", 1);
    is_str(line(), "warning c 1\n", "a line at the level is written");
    fresh(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    log_warning("c");
    log_error("d");
    is_str(line(), "error d\n", "a line above it, too");
    fresh(LOG_LEVEL_DEBUG, LOG_FORMAT_TEXT);
    log_debug("node py@h: ready");
    is_str(line(), "debug node py@h: ready\n", "debug is the lowest");
}

static void test_text(void) {
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("a\nb\tc\rd\033[31me\177f\302\233g");
    is_str(line(), "info a b c d [31me f g\n", "control characters become spaces");
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("%s", "gr\303\274n \342\202\254 \360\237\220\215");
    is_str(line(), "info gr\303\274n \342\202\254 \360\237\220\215\n", "UTF-8 stays");
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("%s", "\"quoted\" \\ back");
    is_str(line(), "info \"quoted\" \\ back\n", "quotes stay in text");
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("%s", "");
    is_str(line(), "info \n", "an empty event is a line");
}

static void test_journal(void) {
    char *text;

    fresh(LOG_LEVEL_DEBUG, LOG_FORMAT_JOURNAL);
    log_debug("a");
    log_info("b \"c\"");
    log_warning("d\ne");
    log_error("%s", "\303\274 \377");
    text = tap_slurp(path);
    is_str(text, "<7>a\n<6>b \"c\"\n<4>d e\n<3>\303\274 \357\277\275\n",
           "for the journal: priority and text");
    free(text);
}

/* Each of these bytes is not UTF-8; "?" in the second column stands for U+FFFD. */
static void test_invalid(void) {
    static const char *const cases[][2] = {
        {"\200", "?"},                            /* a continuation alone */
        {"\300\257", "??"},                       /* an overlong slash */
        {"\301\277", "??"},                       /* overlong */
        {"\340\237\277", "???"},                  /* overlong, three bytes */
        {"\355\240\200", "???"},                  /* a surrogate */
        {"\360\217\277\277", "????"},             /* overlong, four bytes */
        {"\364\220\200\200", "????"},             /* above U+10FFFF */
        {"\365\200\200\200", "????"},             /* no such first byte */
        {"\377x", "?x"},                          /* never in UTF-8 */
        {"\342\202x", "??x"},                     /* cut by a letter */
        {"x\342\202", "x??"},                     /* cut by the end */
        {"\303", "?"},                            /* a first byte alone at the end */
        {"\364\217\277\277", "\364\217\277\277"}, /* U+10FFFF is right */
        {"\355\237\277", "\355\237\277"},         /* so is U+D7FF */
    };
    char want[64];
    size_t i;

    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *at = stpcpy(want, "info ");
        const char *p;

        for (p = cases[i][1]; *p; p++)
            at += sprintf(at, *p == '?' ? "\357\277\275" : "%c", *p);
        strcpy(at, "\n");
        fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
        log_info("%s", cases[i][0]);
        is_str(line(), want, "invalid UTF-8 is replaced, case %zu", i);
    }
}

static void test_json(void) {
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    log_info("node py@h: ready: port %d", 1);
    is_str(json(), "\"level\":\"info\",\"event\":\"node py@h: ready: port 1\"}\n", "JSON line");
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    log_error("say \"a\\b\"\n\t\r\001\177\302\205 \303\274 \377.");
    is_str(json(),
           "\"level\":\"error\",\"event\":\"say \\\"a\\\\b\\\"\\n\\t\\u000d\\u0001\\u007f\\u0085 "
           "\303\274 \357\277\275.\"}\n",
           "JSON escapes");
}

/* Logs n times the piece and gives the line back. */
static const char *repeated(const char *piece, size_t n, enum log_format format) {
    size_t len = strlen(piece), i;
    char *text = calloc(n + 1, len);

    if (!text)
        tap_bail("no memory");
    for (i = 0; i < n; i++)
        memcpy(text + i * len, piece, len);
    fresh(LOG_LEVEL_INFO, format);
    log_info("%s", text);
    free(text);
    return format == LOG_FORMAT_JSON ? json() : line();
}

static bool ends_with(const char *s, const char *end) {
    return strlen(s) >= strlen(end) && strcmp(s + strlen(s) - strlen(end), end) == 0;
}

/* Pieces of several bytes and all offsets, so that the cut falls everywhere in a piece. */
static void test_long(void) {
    static const char *const pieces[] = {"x", "\"", "\001", "\303\274", "\360\237\220\215", "\377"};
    static const char *const json_ends[] = {"x...\"}\n",
                                            "\\\"...\"}\n",
                                            "\\u0001...\"}\n",
                                            "\303\274...\"}\n",
                                            "\360\237\220\215...\"}\n",
                                            "\357\277\275...\"}\n"};
    static const char *const text_ends[] = {
        "x...\n",           "\"...\n", " ...\n", "\303\274...\n", "\360\237\220\215...\n",
        "\357\277\275...\n"};
    char name[64];
    size_t i;

    for (i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        snprintf(name, sizeof name, "a long line, piece %zu", i);
        ok(ends_with(repeated(pieces[i], 5000, LOG_FORMAT_TEXT), text_ends[i]), "%s: text", name);
        ok(strlen(line()) <= LINE_MAX_BYTES, "%s: text is cut at 4 KiB", name);
        ok(ends_with(repeated(pieces[i], 5000, LOG_FORMAT_JSON), json_ends[i]), "%s: JSON", name);
        ok(strlen(json()) <= LINE_MAX_BYTES, "%s: JSON is cut at 4 KiB", name);
    }
    ok(ends_with(repeated("x", 4000, LOG_FORMAT_TEXT), "xx\n"), "4000 bytes are not cut");
}

static void test_errno(void) {
    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    errno = ENOENT;
    log_info("%s", "x");
    is_int(errno, ENOENT, "logging leaves errno alone");
    is_int(log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "/nonexistent/dir/log"), -1, "no such place");
    is_int(errno, ENOENT, "errno tells why");
    log_info("y");
    has_str(line(), "info x\n", "the log that was open stays so");
}

static void test_reopen(void) {
    char *old = tap_path("log.1");
    char *text;

    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("before");
    rename(path, old);
    log_info("renamed");
    log_reopen();
    log_info("after");
    is_str(line(), "info after\n", "after log_reopen the new file gets the lines");
    text = tap_slurp(old);
    has_str(text, "info renamed\n", "until then the old one");
    free(text);
    log_reopen();
    log_info("again");
    text = tap_slurp(path);
    has_str(text, "info again\n", "a file that is still there is appended to");
    has_str(text, "info after\n", "not emptied");
    free(text);
    free(old);
}

/* A log whose place is gone goes on in the file it had. */
static void test_reopen_failed(void) {
    char *dir = tap_path("sub"), *inner = tap_path("sub/log"), *moved = tap_path("moved");
    char *text;

    mkdir(dir, 0700);
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, inner);
    rename(dir, moved);
    log_reopen();
    log_info("on");
    free(inner);
    inner = tap_path("moved/log");
    text = tap_slurp(inner);
    has_str(text, "not opened again: No such file", "a reopen that fails is told");
    has_str(text, "info on\n", "and the old file is kept");
    free(text);
    free(dir);
    free(inner);
    free(moved);
}

static void to_stderr(void) {
    if (log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, NULL) < 0)
        _exit(98);
    log_info("one");
    log_reopen();
    log_info("two");
}

static void die(void) {
    to_stderr();
    fatal("pool: %d threads too many", 3);
}

static void test_stderr(void) {
    char *err = tap_path("stderr"), *text;
    int status = tap_child(to_stderr, err);

    is_int(status, 0, "a log on stderr works");
    text = tap_slurp(err);
    has_str(text, "info one\n", "its first line");
    has_str(text, "info two\n", "log_reopen leaves stderr as it is");
    free(text);
    status = tap_child(die, err);
    ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "fatal aborts");
    text = tap_slurp(err);
    has_str(text, "error pool: 3 threads too many\n", "after one line that says why");
    free(text);
    free(err);
}

static void *writer_main(void *arg) {
    int me = *(int *)arg, i;

    for (i = 0; i < LINES; i++)
        log_info("writer %d: line %d: %0*d", me, i, 20 + i % 300, 0);
    return NULL;
}

/* Counts the lines of a file, each of which must be whole. */
static int whole_lines(const char *file, int *broken) {
    char *text = tap_slurp(file), *p, *next;
    int n = 0, me, i, zeros = 0;

    for (p = text; *p; p = next) {
        next = strchr(p, '\n');
        if (!next) {
            ++*broken;
            break;
        }
        *next++ = 0;
        zeros = 0;
        n++;
        if (!is_time(p) || sscanf(p + 24, " info writer %d: line %d: %n", &me, &i, &zeros) != 2 ||
            zeros == 0 || strlen(p + 24 + zeros) != (size_t)(20 + i % 300) ||
            strspn(p + 24 + zeros, "0") != strlen(p + 24 + zeros))
            ++*broken;
    }
    free(text);
    return n;
}

/* The file is moved away and opened again while all threads write: no line is lost or mixed. */
static void test_threads(void) {
    pthread_t threads[THREADS];
    int ids[THREADS], lines = 0, broken = 0, i;
    char *old;
    char name[32];

    fresh(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    for (i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, writer_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "rotated.%d", i);
        old = tap_path(name);
        rename(path, old);
        log_reopen();
        free(old);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "rotated.%d", i);
        old = tap_path(name);
        lines += whole_lines(old, &broken);
        free(old);
    }
    lines += whole_lines(path, &broken);
    is_int(lines, THREADS * LINES, "%d threads: every line is there", THREADS);
    is_int(broken, 0, "and none is mixed with another");
}

int main(void) {
    path = tap_path("log");
    test_levels();
    test_text();
    test_journal();
    test_invalid();
    test_json();
    test_long();
    test_errno();
    test_reopen();
    test_reopen_failed();
    test_stderr();
    test_threads();
    free(path);
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, NULL);
    return tap_end();
}
