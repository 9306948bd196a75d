/* tap.h - what the tests in C share: TAP on stdout, a temporary directory, a child process.
 *
 * A test's main() calls ok(), is_int(), is_str() ... from one thread (other threads leave their
 * findings in variables) and ends with `return tap_end();`: the plan comes last, so a program that
 * dies half-way is seen by its missing plan. The exit status is 0 also when tests have failed,
 * since their lines have said so.
 */
#ifndef PYNODE_TAP_H
#define PYNODE_TAP_H

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAP_UNUSED __attribute__((unused))

/* Each takes at its end a printf(3) format with arguments: what is held to be so. */
#define ok(cond, ...) tap_ok((cond), __FILE__, __LINE__, #cond, __VA_ARGS__)
#define is_int(got, want, ...) \
    tap_int((intmax_t)(got), (intmax_t)(want), __FILE__, __LINE__, #got, __VA_ARGS__)
#define is_str(got, want, ...) tap_str((got), (want), __FILE__, __LINE__, #got, __VA_ARGS__)
#define is_mem(got, got_len, want, want_len, ...) \
    tap_mem((got), (got_len), (want), (want_len), __FILE__, __LINE__, #got, __VA_ARGS__)
#define has_str(got, part, ...) tap_has((got), (part), __FILE__, __LINE__, #got, __VA_ARGS__)

static int tap_count;

/* Prints the result line of a test; a name with a newline or a directive would not be TAP. */
static void tap_line(bool passed, const char *fmt, va_list ap) {
    char name[512], *p;

    vsnprintf(name, sizeof name, fmt, ap);
    for (p = name; *p; p++)
        if (*p == '\n' || (*p == '#' && strchr(" \tsStT", p[1])))
            *p = ' ';
    printf("%s %d - %s\n", passed ? "ok" : "not ok", ++tap_count, name);
    fflush(stdout);
}

/* A line of explanation. */
__attribute__((format(printf, 1, 2))) TAP_UNUSED static void diag(const char *fmt, ...) {
    va_list ap;

    printf("# ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

__attribute__((format(printf, 5, 6))) TAP_UNUSED static bool
tap_ok(bool passed, const char *file, int line, const char *expr, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    tap_line(passed, fmt, ap);
    va_end(ap);
    if (!passed)
        diag("%s:%d: not true: %s", file, line, expr);
    return passed;
}

__attribute__((format(printf, 6, 7))) TAP_UNUSED static bool tap_int(intmax_t got, intmax_t want,
                                                                     const char *file, int line,
                                                                     const char *expr,
                                                                     const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    tap_line(got == want, fmt, ap);
    va_end(ap);
    if (got != want)
        diag("%s:%d: %s is %jd, not %jd", file, line, expr, got, want);
    return got == want;
}

__attribute__((format(printf, 6, 7))) TAP_UNUSED static bool
tap_str(const char *got, const char *want, const char *file, int line, const char *expr,
        const char *fmt, ...) {
    bool passed = got && want ? strcmp(got, want) == 0 : got == want;
    va_list ap;

    va_start(ap, fmt);
    tap_line(passed, fmt, ap);
    va_end(ap);
    if (!passed)
        diag("%s:%d: %s is '%s', not '%s'", file, line, expr, got ? got : "(NULL)",
             want ? want : "(NULL)");
    return passed;
}

__attribute__((format(printf, 6, 7))) TAP_UNUSED static bool
tap_has(const char *got, const char *part, const char *file, int line, const char *expr,
        const char *fmt, ...) {
    bool passed = got && strstr(got, part);
    va_list ap;

    va_start(ap, fmt);
    tap_line(passed, fmt, ap);
    va_end(ap);
    if (!passed)
        diag("%s:%d: %s is '%s', without '%s'", file, line, expr, got ? got : "(NULL)", part);
    return passed;
}

/* The first 32 bytes of a run, as hexadecimal digits. */
TAP_UNUSED static void tap_hex(const char *label, const void *data, size_t len) {
    const unsigned char *p = data;
    size_t i;

    printf("#   %s, %zu bytes:", label, len);
    for (i = 0; i < len && i < 32; i++)
        printf(" %02x", p[i]);
    printf(len > 32 ? " ...\n" : "\n");
}

__attribute__((format(printf, 8, 9))) TAP_UNUSED static bool
tap_mem(const void *got, size_t got_len, const void *want, size_t want_len, const char *file,
        int line, const char *expr, const char *fmt, ...) {
    bool passed = got_len == want_len && (got_len == 0 || memcmp(got, want, got_len) == 0);
    va_list ap;

    va_start(ap, fmt);
    tap_line(passed, fmt, ap);
    va_end(ap);
    if (!passed) {
        diag("%s:%d: %s is not what it should be", file, line, expr);
        tap_hex("got", got, got_len);
        tap_hex("not", want, want_len);
    }
    return passed;
}

/* The plan; what main() returns. */
TAP_UNUSED static int tap_end(void) {
    printf("1..%d\n", tap_count);
    fflush(stdout);
    return 0;
}

/* The test cannot go on at all. */
__attribute__((format(printf, 1, 2), noreturn)) TAP_UNUSED static void tap_bail(const char *fmt,
                                                                                ...) {
    va_list ap;

    printf("Bail out! ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    exit(1);
}

static char tap_dir_path[256];

/* Removes a directory with all in it; links are not followed. */
TAP_UNUSED static void tap_remove(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    char inner[4096];
    struct stat st;

    while (dir && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (lstat(inner, &st) == 0 && S_ISDIR(st.st_mode))
            tap_remove(inner);
        else
            remove(inner);
    }
    if (dir)
        closedir(dir);
    remove(path);
}

TAP_UNUSED static void tap_dir_done(void) {
    tap_remove(tap_dir_path);
}

/* A temporary directory, made at the first call and removed at exit(3). */
TAP_UNUSED static const char *tap_dir(void) {
    const char *tmp = getenv("TMPDIR");

    if (*tap_dir_path)
        return tap_dir_path;
    snprintf(tap_dir_path, sizeof tap_dir_path, "%s/pynode-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(tap_dir_path))
        tap_bail("no temporary directory: %s", tap_dir_path);
    atexit(tap_dir_done);
    return tap_dir_path;
}

/* The path of a file in the temporary directory; the caller frees it. */
TAP_UNUSED static char *tap_path(const char *name) {
    size_t n = strlen(tap_dir()) + strlen(name) + 2;
    char *path = malloc(n);

    if (!path)
        tap_bail("no memory");
    snprintf(path, n, "%s/%s", tap_dir(), name);
    return path;
}

/* A whole file as a string that the caller frees; "" when it is not there. */
TAP_UNUSED static char *tap_slurp(const char *path) {
    FILE *f = fopen(path, "rb");
    size_t len = 0, cap = 1 << 16, n;
    char *data = malloc(cap);

    if (!data)
        tap_bail("no memory");
    while (f && (n = fread(data + len, 1, cap - len - 1, f)) > 0) {
        len += n;
        if (cap - len < 2) {
            cap *= 2;
            data = realloc(data, cap);
            if (!data)
                tap_bail("no memory");
        }
    }
    if (f)
        fclose(f);
    data[len] = 0;
    return data;
}

/* Runs fn in a child whose stderr goes to the file err (NULL: /dev/null): the wait(2) status. */
TAP_UNUSED static int tap_child(void (*fn)(void), const char *err) {
    int status = -1;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        if (!freopen(err ? err : "/dev/null", "w", stderr))
            _exit(99);
        fn();
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        tap_bail("no child process");
    return status;
}

#endif
