/* cookie.c - the node's cookie: from the environment, a file, or where erl keeps it. */
#include "config.h"

#include "cookie.h"
#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

extern char **environ;

enum {
    COOKIE_MAX = 255, /* a cookie is an atom on the Erlang side; ei keeps 512 bytes */
    COOKIE_PATH_MAX = 4096,
};

/* Overwrites a secret in a way that a compiler may not leave out. */
void cookie_wipe(char *p, size_t n) {
    volatile char *v = p;

    while (n--)
        *v++ = 0;
}

/* The bytes are overwritten where they are, else /proc/PID/environ would show them as long as the
 * process lives, and children would inherit them. */
char *cookie_take(void) {
    static const char name[] = "PYNODE_COOKIE=";
    size_t n = sizeof name - 1;
    char *cookie = NULL, **p;

    for (p = environ; p && *p; p++) {
        if (strncmp(*p, name, n) != 0)
            continue;
        if (!cookie)
            cookie = xstrdup(*p + n);
        cookie_wipe(*p + n, strlen(*p + n));
    }
    unsetenv("PYNODE_COOKIE");
    return cookie;
}

/* The cookie file that erl uses: in HOME, else where the user database says. */
static int cookie_default_file(char *path, size_t size, struct err *e) {
    const char *home = getenv("HOME");
    struct passwd *pw = home && *home ? NULL : getpwuid(getuid());

    if (pw)
        home = pw->pw_dir;
    if (!home || !*home)
        return err_set(e, EX_CONFIG,
                       "cookie: no HOME to look for .erlang.cookie in; give "
                       "--cookie-file");
    if (snprintf(path, size, "%s/.erlang.cookie", home) >= (int)size)
        return err_set(e, EX_CONFIG, "cookie: HOME is too long; give --cookie-file");
    return 0;
}

/* Opens the cookie file if nobody but its owner can use it: the descriptor, or -1. What is
 * checked is the open file, so it cannot be exchanged in between. */
static int cookie_open(const char *path, struct err *e) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not block */

    if (fd < 0)
        return err_set(e, errno == EACCES ? EX_NOPERM : EX_CONFIG, "cookie file %.200s: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) < 0)
        err_set(e, EX_CONFIG, "cookie file %.200s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        err_set(e, EX_CONFIG, "cookie file %.200s: not a regular file", path);
    else if (st.st_mode & (S_IRWXG | S_IRWXO))
        err_set(e, EX_NOPERM,
                "cookie file %.150s: mode %04o lets others in; mend it with chmod 600 %.150s", path,
                (unsigned)st.st_mode & 07777, path);
    else
        return fd;
    close(fd);
    return -1;
}

/* Reads up to size bytes: how many, or -1. */
static ssize_t cookie_read_all(int fd, char *data, size_t size) {
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, data + len, size - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

/* Checks a cookie by OTP's rule; source says in the error where it came from. */
static int cookie_check(const char *cookie, const char *source, struct err *e) {
    size_t len = strlen(cookie), i;

    if (len == 0)
        return err_set(e, EX_CONFIG, "%.250s: the cookie is empty", source);
    if (len > COOKIE_MAX)
        return err_set(e, EX_CONFIG, "%.250s: the cookie is longer than %d bytes", source,
                       COOKIE_MAX);
    for (i = 0; i < len; i++)
        if (cookie[i] < ' ' || cookie[i] > '~')
            return err_set(e, EX_CONFIG,
                           "%.250s: the cookie has a character that is not printable "
                           "ASCII",
                           source);
    return 0;
}

/* Reads the cookie file; an editor's newline at its end is no part of the cookie. */
static int cookie_read(char **cookie, const char *path, struct err *e) {
    char data[1024], source[300];
    int result = -1;
    int fd = cookie_open(path, e);
    ssize_t len;

    if (fd < 0)
        return -1;
    snprintf(source, sizeof source, "cookie file %.200s", path);
    len = cookie_read_all(fd, data, sizeof data - 1);
    if (len < 0) {
        err_set(e, EX_CONFIG, "%s: %s", source, strerror(errno));
        goto out;
    }
    while (len > 0 && (data[len - 1] == '\n' || data[len - 1] == '\r'))
        len--;
    data[len] = 0;
    if (memchr(data, 0, (size_t)len)) {
        err_set(e, EX_CONFIG, "%s: the cookie has a zero byte", source);
        goto out;
    }
    *cookie = xstrdup(data);
    result = cookie_check(*cookie, source, e);
out:
    cookie_wipe(data, sizeof data);
    close(fd);
    return result;
}

int cookie_settle(char **cookie, const char *file, struct err *e) {
    char path[COOKIE_PATH_MAX];

    if (*cookie)
        return cookie_check(*cookie, "PYNODE_COOKIE", e);
    if (file)
        return cookie_read(cookie, file, e);
    if (cookie_default_file(path, sizeof path, e) < 0)
        return -1;
    return cookie_read(cookie, path, e);
}
