/* http.h - one HTTP request: from its bytes to what is to be answered, and the head of that answer.
 *
 * Knows one resource, /metrics, and one method. Pure; any thread; no GIL. Source: RFC 9112.
 */
#ifndef PYNODE_HTTP_H
#define PYNODE_HTTP_H

#include "buf.h"

enum { HTTP_REQUEST_MAX = 4096 }; /* bytes, with the empty line that ends it */

/* MORE: it is not whole yet; else the status of the answer. */
enum http_verdict {
    HTTP_MORE = 0,
    HTTP_OK = 200,
    HTTP_BAD_REQUEST = 400,
    HTTP_NOT_FOUND = 404,
    HTTP_NOT_ALLOWED = 405,
};

/* What to answer to the bytes that have come so far. Once it is not MORE, more bytes change nothing. */
enum http_verdict http_parse(const char *data, size_t len);

/* Appends the status line and the header of an answer with a body of that many bytes, of that type. */
void http_put_head(struct buf *out, enum http_verdict verdict, const char *type, size_t length);

/* Appends a whole answer without anything to tell but its status. */
void http_put_refusal(struct buf *out, enum http_verdict verdict);

#endif
