/* http.c - one HTTP request: from its bytes to what is to be answered, and the head of that answer. */
#include "config.h"

#include "http.h"

#include <stdio.h>

static const char http_path[] = "/metrics";

/* The rest of the request, borrowed. */
struct http_text {
    const char *at, *end;
};

/* What names and methods are made of (RFC 9110, section 5.6.2). */
static bool http_is_token(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* What the value of a field is made of: also bytes beyond ASCII. */
static bool http_is_text(char c) {
    return c == '\t' || ((unsigned char)c >= ' ' && c != 127);
}

/* Visible ASCII. */
static bool http_is_visible(char c) {
    return c > ' ' && c < 127;
}

/* Takes the visible bytes that come next: none is wrong. */
static bool http_take_word(struct http_text *line, struct http_text *word) {
    word->at = line->at;
    while (line->at < line->end && http_is_visible(*line->at))
        line->at++;
    word->end = line->at;
    return word->end > word->at;
}

static bool http_take(struct http_text *line, const char *expected) {
    size_t len = strlen(expected);

    if ((size_t)(line->end - line->at) < len || memcmp(line->at, expected, len) != 0)
        return false;
    line->at += len;
    return true;
}

/* A line of text, taken without its end: false when it is not whole yet. */
static bool http_take_line(struct http_text *text, struct http_text *line) {
    const char *end = memchr(text->at, '\n', (size_t)(text->end - text->at));

    if (!end)
        return false;
    *line = (struct http_text){text->at, end};
    text->at = end + 1;
    return true;
}

/* Lines end in CR LF; a CR alone is nothing that a client sends. */
static bool http_trim_line(struct http_text *line) {
    if (line->at == line->end || line->end[-1] != '\r')
        return false;
    line->end--;
    return !memchr(line->at, '\r', (size_t)(line->end - line->at));
}

static bool http_is_path(struct http_text target) {
    struct http_text rest = target;

    return http_take(&rest, http_path) && (rest.at == rest.end || *rest.at == '?');
}

/* GET /metrics HTTP/1.1: the status that it would have if all else is right. */
static enum http_verdict http_request_line(struct http_text line) {
    struct http_text method, target, c;

    if (!http_take_word(&line, &method) || !http_take(&line, " ") ||
        !http_take_word(&line, &target) || !http_take(&line, " HTTP/1.") ||
        line.at + 1 != line.end || *line.at < '0' || *line.at > '9')
        return HTTP_BAD_REQUEST;
    for (c = method; c.at < c.end; c.at++)
        if (!http_is_token(*c.at))
            return HTTP_BAD_REQUEST;
    if (!http_is_path(target))
        return HTTP_NOT_FOUND;
    return method.end - method.at == 3 && http_take(&method, "GET") ? HTTP_OK : HTTP_NOT_ALLOWED;
}

/* Name: value */
static bool http_is_field(struct http_text line) {
    const char *name = line.at;

    while (line.at < line.end && http_is_token(*line.at))
        line.at++;
    if (line.at == name || line.at == line.end || *line.at != ':')
        return false;
    while (++line.at < line.end)
        if (!http_is_text(*line.at))
            return false;
    return true;
}

/* What is too long is refused when it is sure not to end in time. */
static enum http_verdict http_unfinished(size_t len) {
    return len < HTTP_REQUEST_MAX ? HTTP_MORE : HTTP_BAD_REQUEST;
}

/* The fields, up to the empty line: MORE when that has not come yet. */
static enum http_verdict http_fields(struct http_text text, size_t len) {
    struct http_text line;

    while (http_take_line(&text, &line)) {
        if (!http_trim_line(&line))
            return HTTP_BAD_REQUEST;
        if (line.at == line.end)
            return HTTP_OK;
        if (!http_is_field(line))
            return HTTP_BAD_REQUEST;
    }
    return http_unfinished(len);
}

enum http_verdict http_parse(const char *data, size_t len) {
    size_t n = len < HTTP_REQUEST_MAX ? len : HTTP_REQUEST_MAX;
    struct http_text text = {data, data + n}, line;
    enum http_verdict verdict, fields;

    if (!http_take_line(&text, &line))
        return http_unfinished(n);
    if (!http_trim_line(&line))
        return HTTP_BAD_REQUEST;
    verdict = http_request_line(line);
    if (verdict == HTTP_BAD_REQUEST)
        return verdict;
    fields = http_fields(text, n);
    return fields == HTTP_OK ? verdict : fields;
}

static const char *http_reason(enum http_verdict verdict) {
    switch (verdict) {
    case HTTP_OK:
        return "OK";
    case HTTP_NOT_FOUND:
        return "Not Found";
    case HTTP_NOT_ALLOWED:
        return "Method Not Allowed";
    default:
        return "Bad Request";
    }
}

void http_put_head(struct buf *out, enum http_verdict verdict, const char *type, size_t length) {
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\n"
                     "Content-Type: %s\r\n"
                     "Content-Length: %zu\r\n"
                     "%sConnection: close\r\n\r\n",
                     (int)verdict, http_reason(verdict), type, length,
                     verdict == HTTP_NOT_ALLOWED ? "Allow: GET\r\n" : "");

    buf_put(out, head, (size_t)n);
}

void http_put_refusal(struct buf *out, enum http_verdict verdict) {
    const char *reason = http_reason(verdict);

    http_put_head(out, verdict, "text/plain; charset=utf-8", strlen(reason) + 1);
    buf_put(out, reason, strlen(reason));
    buf_put(out, "\n", 1);
}
