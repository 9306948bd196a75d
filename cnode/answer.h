/* answer.h - how a request is answered: the frames for each kind of it.
 *
 * The forms on the wire: docs/protocol.md. Whoever owns the request, any thread; no GIL.
 */
#ifndef PYNODE_ANSWER_H
#define PYNODE_ANSWER_H

#include "request.h"

/* Each appends whole frames to out; what a kind has no use for appends nothing.
 * answer_begin() says whether a value is wanted; if so the caller appends the value's
 * term and calls answer_end(): 0, or -1 (out as before) when the frame is too long. */
bool answer_begin(struct request *r, struct buf *out, size_t *begin);
int answer_end(const struct request *r, struct buf *out, size_t begin);

/* For what wants no value: it has ended well. */
void answer_done(struct request *r, struct buf *out);

/* It ended in error Reason with Stack (both encoded terms). */
void answer_error(struct request *r, struct buf *out, struct slice reason, struct slice stack);

/* The R of the {error, R} that the application is told of such an error. */
void answer_put_reason(const struct request *r, struct buf *out, struct slice reason,
                       struct slice stack);

/* It was never run: why is an atom such as overloaded or draining. */
void answer_refuse(struct request *r, struct buf *out, const char *why);

/* Opens a message {py_items, Ref, [Item, ...]} to who reads the stream; n items, a nil and answer_end()
 * follow. */
size_t answer_items_begin(const struct request *r, struct buf *out, uint32_t n);

/* It is a call of the application and comes to what another one has come to: a term. */
void answer_result(struct request *r, struct buf *out, struct slice result);

/* That term in the answer to a call of the application; empty if there is none. */
struct slice answer_result_in(const struct request *r, const struct buf *out);

/* An option of it is none, or has a wrong value. */
void answer_bad_option(const struct request *r, struct buf *out);

/* out has an item for the gathered frame, but nothing is gathered any more: a frame instead. */
void answer_ungather(struct request *r, struct buf *out);

/* Its process was told to exit, or an alias of it: who watches it gets the reason. */
void answer_exit(struct request *r, struct buf *out, struct slice reason);

/* SPAWN_REPLY with its pid, once; nothing for kinds without a process. */
void answer_announce(struct request *r, struct buf *out);

/* Opens the frame that answers a gen_server:call; the reply term and dist_end() follow. */
size_t answer_gen_begin(struct buf *out, const struct request_gen *gen);

#endif
