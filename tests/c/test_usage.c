/* test_usage.c - descriptors and processor time are those of this process. */
#include "config.h"

#include "usage.h"
#include "tap.h"

#include <fcntl.h>
#include <time.h>

enum { FDS = 20 };

static void test_descriptors(void) {
    struct usage before, after, last;
    int fds[FDS];

    usage_read(&before);
    for (int i = 0; i < FDS; i++)
        fds[i] = open("/dev/null", O_RDONLY);
    usage_read(&after);
    for (int i = 0; i < FDS; i++)
        close(fds[i]);
    usage_read(&last);
    ok(before.fds >= 3, "the standard ones are open");
    is_int(after.fds - before.fds, FDS, "each that is opened counts");
    is_int(last.fds, before.fds, "until it is closed");
}

static void test_time(void) {
    struct usage before, after;
    time_t now = time(NULL);

    usage_read(&before);
    while (clock() < CLOCKS_PER_SEC / 5)
        ;
    usage_read(&after);
    ok(after.cpu >= 0.19 && after.cpu > before.cpu, "a fifth of a second was computed");
    ok(after.started > (double)now - 60 && after.started < (double)now + 1, "it began just now");
    ok(after.started == before.started, "and that stays so");
}

int main(void) {
    usage_init();
    test_descriptors();
    test_time();
    return tap_end();
}
