/* test_err.c - err_set(): the code, the text, and a text that is too long. */
#include "config.h"

#include "err.h"
#include "tap.h"

#include <sysexits.h>

int main(void) {
    struct err e;
    char big[1000];

    memset(&e, 'x', sizeof e);
    is_int(err_set(&e, EX_CONFIG, "cookie file %s: %d", "/a", 7), -1, "err_set answers -1");
    is_int(e.code, EX_CONFIG, "the code is kept");
    is_str(e.text, "cookie file /a: 7", "the text is formatted");

    err_set(&e, EX_USAGE, "%s", "");
    is_int(e.code, EX_USAGE, "a second error replaces the first");
    is_str(e.text, "", "an empty text is one");

    memset(big, 'b', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_set(&e, EX_SOFTWARE, "%s", big);
    is_int(strlen(e.text), sizeof e.text - 1, "a long text is cut where the room ends");
    ok(strncmp(e.text, big, sizeof e.text - 1) == 0, "what is kept is its beginning");
    return tap_end();
}
