/* test_buf.c - struct buf: growth, refusal of absurd sizes, slices, and xmalloc's relatives. */
#include "config.h"

#include "buf.h"
#include "tap.h"

#include <signal.h>

static void test_growth(void) {
    struct buf b = {0};
    uint8_t chunk[97];
    size_t i, wrong = 0;

    for (i = 0; i < sizeof chunk; i++)
        chunk[i] = (uint8_t)i;
    for (i = 0; i < 5000; i++)
        buf_put(&b, chunk, sizeof chunk);
    is_int(b.len, 5000 * sizeof chunk, "5000 pieces have their length");
    ok(b.cap >= b.len, "capacity is not below length");
    for (i = 0; i < b.len; i++)
        wrong += b.data[i] != i % sizeof chunk;
    is_int(wrong, 0, "each byte is where it was put");
    buf_done(&b);
    ok(!b.data && !b.len && !b.cap, "buf_done leaves an empty buffer");
    buf_done(&b);
    ok(!b.data, "buf_done does no harm to an empty one");
}

static void test_nothing(void) {
    struct buf b = {0};

    buf_put(&b, NULL, 0);
    ok(!b.data && b.len == 0, "nothing put into an empty buffer allocates nothing");
    is_int(buf_reserve(&b, 0), 0, "room for nothing is there");
    buf_done(&b);
}

static void test_reserve(void) {
    struct buf b = {0};
    uint8_t *data;

    is_int(buf_reserve(&b, 1000), 0, "room for 1000 bytes");
    ok(b.cap >= 1000 && b.len == 0, "reserving changes the capacity only");
    data = b.data;
    is_int(buf_reserve(&b, b.cap), 0, "room that is there already");
    ok(b.data == data, "is not allocated again");
    is_int(buf_reserve(&b, b.cap + 1), 0, "one byte more grows it");
    buf_done(&b);
}

/* The failures below must leave the buffer usable. */
static void test_refused(void) {
    struct buf b = {0};

    buf_put(&b, "abc", 3);
    is_int(buf_grow(&b, SIZE_MAX), -1, "a size that overflows is refused");
    is_int(buf_grow(&b, SIZE_MAX / 2), -1, "so is one that would double past the end");
    is_mem(b.data, b.len, "abc", 3, "and the buffer is as it was");
    buf_put(&b, "def", 3);
    is_mem(b.data, b.len, "abcdef", 6, "and can be written on");
    buf_done(&b);
}

static void test_slices(void) {
    struct slice a = {(const uint8_t *)"abc", 3}, b = {(const uint8_t *)"abcd", 3};
    struct slice longer = {(const uint8_t *)"abcd", 4}, other = {(const uint8_t *)"abd", 3};

    ok(slice_equal(a, b), "slices with the same bytes are equal");
    ok(!slice_equal(a, longer), "a longer one is another");
    ok(!slice_equal(a, other), "one with other bytes is another");
    ok(slice_equal((struct slice){a.data, 0}, (struct slice){b.data, 0}), "empty ones are equal");
    ok(slice_equal((struct slice){NULL, 0}, (struct slice){b.data, 0}),
       "also one of no bytes at all");
}

static void test_alloc(void) {
    char *s = xstrdup("word");
    int *zero = xcalloc(100, sizeof *zero);
    int i, sum = 0;

    for (i = 0; i < 100; i++)
        sum |= zero[i];
    is_str(s, "word", "xstrdup copies");
    is_int(sum, 0, "xcalloc gives zeros");
    free(s);
    free(zero);
    s = xmalloc(16);
    ok(s != NULL, "xmalloc gives memory");
    free(s);
}

static void too_much(void) {
    struct buf b = {0};

    buf_put(&b, "x", SIZE_MAX);
}

static void test_fatal(void) {
    char *path = tap_path("fatal.log");
    int status = tap_child(too_much, path);
    char *text = tap_slurp(path);

    ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "buf_put without memory aborts");
    has_str(text, "error memory: cannot grow a buffer", "and says why");
    free(text);
    free(path);
}

int main(void) {
    test_growth();
    test_nothing();
    test_reserve();
    test_refused();
    test_slices();
    test_alloc();
    test_fatal();
    return tap_end();
}
