/* fuzz_http.c - any bytes as what a client of --metrics sends.
 *
 * What is held: a request is judged once; the bytes that come after a verdict do not change it, and
 * what is longer than the bound has one. One thread; `make fuzz` builds it for libFuzzer, else
 * replay.c plays the corpus.
 */
#include "config.h"

#include "http.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise is broken: both libFuzzer and the replay see the signal. */
static void fuzz_hold(bool held) {
    if (!held)
        abort();
}

/* A copy that ends where its memory ends, so that a sanitizer sees one byte too far. */
static enum http_verdict fuzz_parse(const uint8_t *data, size_t size) {
    char *copy = xmalloc(size + 1) /* one byte in front */, *text = copy + 1;
    enum http_verdict verdict;

    memcpy(text, data, size);
    verdict = http_parse(text, size);
    free(copy);
    return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum http_verdict whole, before = HTTP_MORE;

    if (size > 2 * HTTP_REQUEST_MAX || size == 0)
        return 0;
    whole = fuzz_parse(data, size);
    fuzz_hold(whole != HTTP_MORE || size < HTTP_REQUEST_MAX);
    for (size_t n = 1; n < size; n = n < 64 ? n + 1 : n + n / 8) {
        enum http_verdict now = fuzz_parse(data, n);

        fuzz_hold(before == HTTP_MORE || now == before);
        before = now;
    }
    fuzz_hold(before == HTTP_MORE || whole == before);
    if (whole == HTTP_OK)
        fuzz_hold(size > 12 && memcmp(data, "GET /metrics", 12) == 0);
    return 0;
}
