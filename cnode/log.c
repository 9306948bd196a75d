/* log.c - one line an event, the subject first.
 *
 * Any thread; no GIL; no lock and no allocation, so it works when memory is short. log_open()
 * runs before the other threads start; from then on the descriptor's number never changes
 * (log_reopen puts another file behind it), so writers need not be stopped.
 */
#include "config.h"

#include "log.h"
#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LOG_LINE_MAX = 4096, /* POSIX pipes take this much in one piece (PIPE_BUF on Linux) */
    LOG_TAIL = 8,        /* kept free for "..." and what closes the line */
};

struct log_line {
    char data[LOG_LINE_MAX];
    size_t len;
    bool full; /* something did not fit; nothing is added any more */
};

static enum log_level log_level = LOG_LEVEL_INFO;
static enum log_format log_format = LOG_FORMAT_TEXT;
static int log_fd = STDERR_FILENO;
static char *log_path; /* NULL: stderr */

static const char *const log_level_names[] = {"debug", "info", "warning", "error"};
static const char *const log_priorities[] = {"<7>", "<6>", "<4>", "<3>"};

/* A log may name peers and arguments, so it is not for everybody's eyes. */
static int log_open_file(const char *path) {
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
}

int log_open(enum log_level level, enum log_format format, const char *path) {
    int fd = STDERR_FILENO;

    if (path) {
        fd = log_open_file(path);
        if (fd < 0)
            return -1;
    }
    if (log_path) {
        close(log_fd);
        free(log_path);
    }
    log_level = level;
    log_format = format;
    log_fd = fd;
    log_path = path ? xstrdup(path) : NULL;
    return 0;
}

/* dup2(2) swaps the files in one step: a thread that writes meanwhile meets the old one or the
 * new one, never a closed descriptor. */
void log_reopen(void) {
    int fd;

    if (!log_path)
        return;
    fd = log_open_file(log_path);
    if (fd < 0) {
        log_error("log %s: not opened again: %s", log_path, strerror(errno));
        return;
    }
    dup2(fd, log_fd);
    fcntl(log_fd, F_SETFD, FD_CLOEXEC);
    close(fd);
}

/* Adds n bytes if they fit whole; a character or an escape is never cut in two. */
static void log_put(struct log_line *l, const char *p, size_t n) {
    if (l->full || n > LOG_LINE_MAX - LOG_TAIL - l->len) {
        l->full = true;
        return;
    }
    memcpy(l->data + l->len, p, n);
    l->len += n;
}

static void log_puts(struct log_line *l, const char *s) {
    log_put(l, s, strlen(s));
}

/* Adds what must be there however full the line is; it fits into LOG_TAIL. */
static void log_close_line(struct log_line *l, const char *end) {
    size_t n = strlen(end);

    if (l->full) {
        memcpy(l->data + l->len, "...", 3);
        l->len += 3;
    }
    memcpy(l->data + l->len, end, n);
    l->len += n;
}

/* The length of the UTF-8 character at p, 0 when there is none (RFC 3629, table 3-7 of Unicode). */
static size_t log_utf8(const unsigned char *p, size_t left) {
    unsigned char low = 0x80, high = 0xbf;
    size_t n, i;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n > left)
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0; /* no overlong forms */
    else if (p[0] == 0xed)
        high = 0x9f; /* no surrogates */
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f; /* nothing above U+10FFFF */
    if (p[1] < low || p[1] > high)
        return 0;
    for (i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    return n;
}

/* Control characters, with C1 (U+0080 to U+009F): a terminal would act on them. */
static bool log_is_control(const unsigned char *p) {
    return p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
}

/* Adds a control character: a space, so that an event stays one line; \uXXXX in JSON. */
static void log_put_control(struct log_line *l, const unsigned char *p) {
    unsigned code = p[0] == 0xc2 ? p[1] : p[0];
    char escape[8];

    if (log_format != LOG_FORMAT_JSON) {
        log_puts(l, " ");
    } else if (code == '\n') {
        log_puts(l, "\\n");
    } else if (code == '\t') {
        log_puts(l, "\\t");
    } else {
        snprintf(escape, sizeof escape, "\\u%04x", code & 0xff);
        log_puts(l, escape);
    }
}

/* Adds a character that can be shown; JSON wants a backslash before two of them. */
static void log_put_plain(struct log_line *l, const char *p, size_t n) {
    if (log_format == LOG_FORMAT_JSON && *p == '"')
        log_puts(l, "\\\"");
    else if (log_format == LOG_FORMAT_JSON && *p == '\\')
        log_puts(l, "\\\\");
    else
        log_put(l, p, n);
}

/* Adds text that may hold anything a peer or user sent. */
static void log_put_text(struct log_line *l, const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    const unsigned char *end = p + strlen(text);
    size_t n;

    for (; p < end && !l->full; p += n) {
        n = log_utf8(p, (size_t)(end - p));
        if (n == 0) {
            log_puts(l, "\xef\xbf\xbd"); /* U+FFFD, the replacement character */
            n = 1;
        } else if (log_is_control(p)) {
            log_put_control(l, p);
        } else {
            log_put_plain(l, (const char *)p, n);
        }
    }
}

/* Adds the time of day in UTC: 2026-11-21T11:47:10.123Z. */
static void log_put_time(struct log_line *l) {
    struct timespec now;
    struct tm tm;
    char text[64];
    size_t n;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
    log_puts(l, text);
}

/* Adds what stands before the text: when it was, and how bad. */
static void log_put_head(struct log_line *l, enum log_level level) {
    bool json = log_format == LOG_FORMAT_JSON;

    if (log_format == LOG_FORMAT_JOURNAL) {
        log_puts(l, log_priorities[level]);
        return;
    }
    if (json)
        log_puts(l, "{\"time\":\"");
    log_put_time(l);
    log_puts(l, json ? "\",\"level\":\"" : " ");
    log_puts(l, log_level_names[level]);
    log_puts(l, json ? "\",\"event\":\"" : " ");
}

/* Makes the line and writes it with one write(2). The text buffer is as long as a line, and
 * each of its bytes becomes at least one: the line is full before a cut text ends. */
static void log_write(int fd, enum log_level level, const char *fmt, va_list ap) {
    int saved = errno; /* for %m in fmt, and so that logging never hides an error */
    struct log_line l;
    char text[LOG_LINE_MAX];
    bool json = log_format == LOG_FORMAT_JSON;

    l.len = 0;
    l.full = false;
    vsnprintf(text, sizeof text, fmt, ap);
    log_put_head(&l, level);
    log_put_text(&l, text);
    log_close_line(&l, json ? "\"}\n" : "\n");
    while (write(fd, l.data, l.len) < 0 && errno == EINTR)
        ;
    errno = saved;
}

/* The four levels and fatal() differ in their level only. */
#define LOG_AT(level_, fmt_)                     \
    do {                                         \
        va_list ap;                              \
                                                 \
        if ((level_) < log_level)                \
            break;                               \
        va_start(ap, fmt_);                      \
        log_write(log_fd, (level_), (fmt_), ap); \
        va_end(ap);                              \
    } while (0)

void log_debug(const char *fmt, ...) {
    LOG_AT(LOG_LEVEL_DEBUG, fmt);
}

void log_info(const char *fmt, ...) {
    LOG_AT(LOG_LEVEL_INFO, fmt);
}

void log_warning(const char *fmt, ...) {
    LOG_AT(LOG_LEVEL_WARNING, fmt);
}

void log_error(const char *fmt, ...) {
    LOG_AT(LOG_LEVEL_ERROR, fmt);
}

void log_stderr(const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    log_write(STDERR_FILENO, LOG_LEVEL_INFO, fmt, ap);
    va_end(ap);
}

void fatal(const char *fmt, ...) {
    LOG_AT(LOG_LEVEL_ERROR, fmt);
    abort();
}
