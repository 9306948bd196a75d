/* dist.h - distribution frames and control messages: bytes in, struct out, and back.
 *
 * Source: erts/doc "Distribution Protocol", section "Protocol between Connected Nodes", and
 * erts/emulator/beam/dist.c. A frame is a 4-byte length, the pass-through byte 'p', a control
 * tuple and, for some, a payload; length 0 is a tick. No fragments and no atom cache: the
 * handshake does not offer them. Pure: no I/O, no state, any thread, no GIL.
 */
#ifndef PYNODE_DIST_H
#define PYNODE_DIST_H

#include "etf.h"

enum dist_op {
    DIST_LINK = 1,
    DIST_SEND = 2,
    DIST_EXIT = 3,
    DIST_UNLINK = 4, /* obsolete since OTP 23, harmless */
    DIST_REG_SEND = 6,
    DIST_GROUP_LEADER = 7,
    DIST_EXIT2 = 8,
    DIST_SEND_TT = 12,
    DIST_EXIT_TT = 13,
    DIST_REG_SEND_TT = 16,
    DIST_EXIT2_TT = 18,
    DIST_MONITOR = 19,
    DIST_DEMONITOR = 20,
    DIST_MONITOR_EXIT = 21,
    DIST_SEND_SENDER = 22,
    DIST_SEND_SENDER_TT = 23,
    DIST_PAYLOAD_EXIT = 24,
    DIST_PAYLOAD_EXIT_TT = 25,
    DIST_PAYLOAD_EXIT2 = 26,
    DIST_PAYLOAD_EXIT2_TT = 27,
    DIST_PAYLOAD_MONITOR_EXIT = 28,
    DIST_SPAWN_REQUEST = 29,
    DIST_SPAWN_REQUEST_TT = 30,
    DIST_SPAWN_REPLY = 31,
    DIST_SPAWN_REPLY_TT = 32,
    DIST_ALIAS_SEND = 33,
    DIST_ALIAS_SEND_TT = 34,
    DIST_UNLINK_ID = 35,
    DIST_UNLINK_ID_ACK = 36,
    DIST_TICK = 256, /* ours: an empty frame */
};

/* Flags of SPAWN_REPLY. */
enum { DIST_SPAWN_LINK = 1, DIST_SPAWN_MONITOR = 2 };

enum { DIST_HEADER = 4 };

/* One control message. The slices point into the frame. Trace-token variants and payload
 * variants come out as their plain op: op is one of LINK SEND EXIT UNLINK REG_SEND
 * GROUP_LEADER EXIT2 MONITOR DEMONITOR MONITOR_EXIT SPAWN_REQUEST SPAWN_REPLY ALIAS_SEND
 * UNLINK_ID UNLINK_ID_ACK TICK. A field that the op does not have is empty. */
struct dist_msg {
    enum dist_op op;
    struct slice from;    /* pid; pid or atom for MONITOR_EXIT */
    struct slice to;      /* pid; atom for REG_SEND; pid or atom for MONITOR, DEMONITOR */
    struct slice ref;     /* monitor reference, spawn request id, alias */
    struct slice id;      /* UNLINK_ID: an integer */
    struct slice reason;  /* EXIT EXIT2 MONITOR_EXIT; SPAWN_REPLY: pid or error atom */
    struct slice mfa;     /* SPAWN_REQUEST: {M,F,Arity} */
    struct slice opts;    /* SPAWN_REQUEST: list */
    struct slice payload; /* SEND REG_SEND ALIAS_SEND: message; SPAWN_REQUEST: argument list */
};

/* Looks for a whole frame at data. Returns 1 and *total, its length with the header; 0 when
 * more bytes are needed (*total is then the frame's length, or 0 when not even that is known);
 * -1 when the frame is longer than max bytes, *total telling its length. */
int dist_next(const uint8_t *data, size_t len, size_t max, size_t *total);

/* Takes one whole frame apart, header included: 0, or -1 with *why, when it is malformed. */
int dist_parse(const uint8_t *frame, size_t total, struct dist_msg *msg, const char **why);

/* Writing: dist_begin() opens a frame, one dist_put_*() writes the control message, for those
 * marked (+payload) the caller appends the payload term, dist_end() closes the frame: 0, or -1
 * (and the frame is taken back) when it is longer than the protocol allows (2^31-1 bytes). */
size_t dist_begin(struct buf *b);
int dist_end(struct buf *b, size_t begin);

void dist_put_tick(struct buf *b);                  /* a frame of its own, no begin and end */
void dist_put_send(struct buf *b, struct slice to); /* +payload */
void dist_put_reg_send(struct buf *b, struct slice from, struct slice name);    /* +payload */
void dist_put_alias_send(struct buf *b, struct slice from, struct slice alias); /* +payload */
void dist_put_exit(struct buf *b, struct slice from, struct slice to);          /* +payload */
void dist_put_noproc(struct buf *b, struct slice from, struct slice to);        /* to a LINK */
void dist_put_monitor_exit(struct buf *b, struct slice from, struct slice to,
                           struct slice ref); /* +payload: the reason */
void dist_put_spawn_reply(struct buf *b, struct slice ref, struct slice to, int flags,
                          struct slice result); /* pid, or an atom that says why not */
void dist_put_unlink_ack(struct buf *b, struct slice id, struct slice from, struct slice to);
void dist_put_link(struct buf *b, struct slice from, struct slice to);
void dist_put_unlink(struct buf *b, uint64_t id, struct slice from, struct slice to); /* id > 0 */
void dist_put_monitor(struct buf *b, struct slice from, struct slice to, struct slice ref);
void dist_put_demonitor(struct buf *b, struct slice from, struct slice to, struct slice ref);
void dist_put_exit2(struct buf *b, struct slice from, struct slice to); /* +payload: the reason */

#endif
