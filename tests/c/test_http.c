/* test_http.c - a request's bytes and the verdict on them: whole, split, malformed, too long; answers. */
#include "config.h"

#include "http.h"
#include "tap.h"

static int parse(const char *text) {
    return (int)http_parse(text, strlen(text));
}

#define HOST "Host: a\r\n\r\n"

static void test_verdicts(void) {
    static const struct {
        const char *text;
        int verdict;
        const char *what;
    } cases[] = {
        {"GET /metrics HTTP/1.1\r\n\r\n", 200, "without a field"},
        {"GET /metrics HTTP/1.1\r\n" HOST, 200, "with one"},
        {"GET /metrics HTTP/1.0\r\n" HOST, 200, "of HTTP/1.0"},
        {"GET /metrics?a=b HTTP/1.1\r\n" HOST, 200, "with a query"},
        {"GET /metrics HTTP/1.1\r\nA:\r\nB: \t\xc3\xa4 \r\n\r\n", 200, "values empty and beyond ASCII"},
        {"GET /metrics HTTP/1.1\r\n" HOST "more", 200, "what comes after it does not count"},
        {"GET / HTTP/1.1\r\n" HOST, 404, "another path"},
        {"GET /metrics/ HTTP/1.1\r\n" HOST, 404, "a longer path"},
        {"GET /metricsx HTTP/1.1\r\n" HOST, 404, "a longer name"},
        {"GET /metric HTTP/1.1\r\n" HOST, 404, "a shorter one"},
        {"GET /METRICS HTTP/1.1\r\n" HOST, 404, "in capitals"},
        {"GET http://a/metrics HTTP/1.1\r\n" HOST, 404, "for a proxy"},
        {"POST / HTTP/1.1\r\n" HOST, 404, "another path by another method"},
        {"POST /metrics HTTP/1.1\r\n" HOST, 405, "POST"},
        {"HEAD /metrics HTTP/1.1\r\n" HOST, 405, "HEAD"},
        {"GETS /metrics HTTP/1.1\r\n" HOST, 405, "a longer method"},
        {"get /metrics HTTP/1.1\r\n" HOST, 405, "a method in small letters"},
        {"GET /metrics HTTP/2.0\r\n" HOST, 400, "HTTP/2"},
        {"GET /metrics HTTP/1.10\r\n" HOST, 400, "a long version"},
        {"GET /metrics HTTP/1.\r\n" HOST, 400, "half a version"},
        {"GET /metrics HTTP/1.x\r\n" HOST, 400, "a version of letters"},
        {"GET /metrics http/1.1\r\n" HOST, 400, "a protocol in small letters"},
        {"GET /metrics\r\n" HOST, 400, "no version"},
        {"GET  /metrics HTTP/1.1\r\n" HOST, 400, "two spaces"},
        {" GET /metrics HTTP/1.1\r\n" HOST, 400, "a space in front"},
        {"GET /metrics HTTP/1.1 \r\n" HOST, 400, "a space behind"},
        {"GET\t/metrics HTTP/1.1\r\n" HOST, 400, "a tab"},
        {"GET /met\x80rics HTTP/1.1\r\n" HOST, 400, "a target beyond ASCII"},
        {"G@T /metrics HTTP/1.1\r\n" HOST, 400, "a method that is none"},
        {"\r\n", 400, "nothing"},
        {"GET /metrics HTTP/1.1\n\n", 400, "lines without CR"},
        {"GET /metrics HTTP/1.1\r\r\n" HOST, 400, "a CR too many"},
        {"GET /metrics HTTP/1.1\r\nA: b\n\r\n", 400, "a field without CR"},
        {"GET /metrics HTTP/1.1\r\nA: \r b\r\n\r\n", 400, "a CR in a field"},
        {"GET /metrics HTTP/1.1\r\nA b\r\n\r\n", 400, "a field without a colon"},
        {"GET /metrics HTTP/1.1\r\nA : b\r\n\r\n", 400, "a space before the colon"},
        {"GET /metrics HTTP/1.1\r\n: b\r\n\r\n", 400, "a field without a name"},
        {"GET /metrics HTTP/1.1\r\n A: b\r\n\r\n", 400, "a folded field"},
        {"GET /metrics HTTP/1.1\r\nA: \x01\r\n\r\n", 400, "a control character in a value"},
        {"GET /metrics HTTP/1.1\r\nA: \x7f\r\n\r\n", 400, "DEL in a value"},
        {"\x16\x03\x01\x02 TLS\r\n\n", 400, "the beginning of TLS"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        is_int(parse(cases[i].text), cases[i].verdict, "%s: %d", cases[i].what, cases[i].verdict);
    is_int(http_parse("GET /metrics HTTP/1.1\r\nA: \0\r\n\r\n", 30), 400, "a zero byte: 400");
}

/* Each beginning asks for more, and the whole is judged as if it had come at once. */
static void test_split(void) {
    static const char whole[] = "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
    int wrong = 0;

    for (size_t n = 0; n < sizeof whole - 1; n++)
        wrong += http_parse(whole, n) != HTTP_MORE;
    is_int(wrong, 0, "each beginning of a request asks for more");
    is_int(parse(whole), 200, "the whole does not");
    is_int(parse("GET /x HTTP/1.1\r\nHost: a\r\n"), HTTP_MORE, "404 waits for the end, too");
    is_int(parse("nonsense\r\n"), 400, "nonsense is refused at its first line");
}

static void test_long(void) {
    static char text[HTTP_REQUEST_MAX + 100];
    static const char begin[] = "GET /metrics HTTP/1.1\r\nA: ";

    memset(text, 'a', sizeof text);
    is_int(http_parse(text, HTTP_REQUEST_MAX - 1), HTTP_MORE, "a long line may still end");
    is_int(http_parse(text, HTTP_REQUEST_MAX), 400, "one of 4 KiB is too long");
    memcpy(text, begin, sizeof begin - 1);
    is_int(http_parse(text, HTTP_REQUEST_MAX), 400, "so is a field");
    memcpy(text + HTTP_REQUEST_MAX - 4, "\r\n\r\n", 4);
    is_int(http_parse(text, HTTP_REQUEST_MAX), 200, "a request of 4 KiB is taken");
    is_int(http_parse(text, sizeof text), 200, "with more behind it, too");
    memcpy(text + HTTP_REQUEST_MAX - 4, "a\r\n\r\n", 5);
    is_int(http_parse(text, HTTP_REQUEST_MAX + 1), 400, "one byte more is too long");
}

static void test_answers(void) {
    struct buf out = {0};

    http_put_head(&out, HTTP_OK, "text/x", 12);
    buf_put(&out, "", 1);
    is_str((char *)out.data,
           "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 12\r\nConnection: close\r\n\r\n",
           "the head of an answer");
    out.len = 0;
    http_put_refusal(&out, HTTP_NOT_ALLOWED);
    buf_put(&out, "", 1);
    is_str((char *)out.data,
           "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\n"
           "Content-Length: 19\r\nAllow: GET\r\nConnection: close\r\n\r\nMethod Not Allowed\n",
           "405 says what is allowed");
    out.len = 0;
    http_put_refusal(&out, HTTP_NOT_FOUND);
    buf_put(&out, "", 1);
    has_str((char *)out.data, "HTTP/1.1 404 Not Found\r\n", "404");
    out.len = 0;
    http_put_refusal(&out, HTTP_BAD_REQUEST);
    buf_put(&out, "", 1);
    has_str((char *)out.data, "HTTP/1.1 400 Bad Request\r\n", "400");
    buf_done(&out);
}

int main(void) {
    test_verdicts();
    test_split();
    test_long();
    test_answers();
    return tap_end();
}
