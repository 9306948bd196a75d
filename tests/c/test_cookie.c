/* test_cookie.c - the cookie: out of the environment for good, from a file of its owner's, from HOME. */
#include "config.h"

#include "cookie.h"
#include "tap.h"

#include <fcntl.h>
#include <sysexits.h>

extern char **environ;

static struct err e;

static char *file(const char *name, const char *text, mode_t mode) {
    char *path = tap_path(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fchmod(fd, mode) < 0)
        tap_bail("no file %s", path);
    close(fd);
    return path;
}

static void test_environment(void) {
    static char one[] = "PYNODE_COOKIE=secret", other[] = "OTHER=1", again[] = "PYNODE_COOKIE=next";
    char *mine[] = {other, one, again, NULL}, **before = environ, *cookie;

    environ = mine;
    cookie = cookie_take();
    is_str(cookie, "secret", "the first counts");
    ok(!getenv("PYNODE_COOKIE"), "it is not in the environment any more");
    is_str(getenv("OTHER"), "1", "the rest is");
    ok(!strstr(one + 14, "secret") && !strstr(again + 14, "next"), "nor in its memory");
    free(cookie);
    ok(!cookie_take(), "without one: none");
    environ = before;
}

static void test_file(void) {
    char *path = file("cookie", "sesame\n", 0600), *cookie = NULL;

    is_int(cookie_settle(&cookie, path, &e), 0, "a file of its owner's");
    is_str(cookie, "sesame", "without the newline at its end");
    is_int(cookie_settle(&cookie, "/nonexistent", &e), 0,
           "one that is there already is checked only");
    free(cookie);
    cookie = NULL;
    chmod(path, 0640);
    is_int(cookie_settle(&cookie, path, &e), -1, "one that others can read is refused");
    is_int(e.code, EX_NOPERM, "as a matter of permission");
    ok(!cookie, "and gives none");
    free(path);
    path = file("cookie", "", 0600);
    is_int(cookie_settle(&cookie, path, &e), -1, "so is an empty one");
    has_str(e.text, "the cookie is empty", "which is said");
    free(cookie);
    cookie = strdup("two words\t");
    is_int(cookie_settle(&cookie, NULL, &e), -1, "a control character is refused");
    has_str(e.text, "PYNODE_COOKIE: the cookie has a character that is not printable",
            "with where it came from");
    ok(!strstr(e.text, "two words"), "but without the cookie");
    free(cookie);
    free(path);
}

static void test_home(void) {
    char *path = file(".erlang.cookie", "home", 0400), *cookie = NULL;

    setenv("HOME", tap_dir(), 1);
    is_int(cookie_settle(&cookie, NULL, &e), 0, "without a file: where erl keeps it");
    is_str(cookie, "home", "in HOME");
    cookie_wipe(cookie, 4);
    is_mem(cookie, 4, "\0\0\0\0", 4, "and wiped");
    free(cookie);
    free(path);
}

int main(void) {
    test_environment();
    test_file();
    test_home();
    return tap_end();
}
