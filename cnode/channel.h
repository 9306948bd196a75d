/* channel.h - a Python thread's own connection to an Erlang node, and its handler process there.
 *
 * A channel is a hidden node of its own (ALIVE-thread-N@HOST, from a bounded set of names) that is
 * connected to one Erlang node. A process there, the handler, runs what the thread calls. A channel
 * belongs to one thread at a time, which alone calls over it and reads its socket; channels.h has all
 * of them. The leader keeps it alive (channel_tick) and answers what others ask of such a node while no
 * call is under way. No GIL, unless said.
 *
 * docs/protocol.md, "What Python threads call", has the messages.
 */
#ifndef PYNODE_CHANNEL_H
#define PYNODE_CHANNEL_H

#include "conn.h"
#include "err.h"

enum channel_result {
    CHANNEL_ANSWERED,
    CHANNEL_LATE,        /* the deadline has passed */
    CHANNEL_SIGNALLED,   /* a signal has come; wait on, or abandon */
    CHANNEL_LOST,        /* the connection has ended */
    CHANNEL_INTERRUPTED, /* by channel_interrupt() */
    CHANNEL_ENDED,       /* the handler has ended in the middle; the answer is its exit reason */
    CHANNEL_RETIRED,     /* the handler had ended before it took the call: call again */
    CHANNEL_HOMELESS,    /* no coordinator there to ask for a handler */
};

struct channel {
    struct channel *next, **at; /* all there are */
    struct channel *pooled;     /* the next in the pool */
    struct channel *held;       /* the next of its owner's */
    struct conn *conn;          /* whose read side is the channel's, too */
    char name[512];             /* ALIVE-thread-NUMBER@HOST */
    int number;
    uint8_t pid_tail[12]; /* id, serial and creation of self */
    struct buf self;      /* its pid, a term */
    struct buf handler;   /* the handler's; empty: there is none */
    struct buf watch;     /* the monitor of the coordinator while it is asked */
    unsigned long thread; /* the owner's own name for itself; the list's lock */
    _Atomic bool calling; /* set and reset by the owner, see channel_stop() */
    _Atomic bool interrupted;
    _Atomic bool reading; /* somebody has the read side: the owner in a call, or the tick */
    _Atomic bool broken;  /* it has ended, or will as soon as it is read */
    int64_t used;         /* when a call began last */
    uint64_t tag;         /* of the call that is under way; 0: none */
    struct frame kept;    /* the answer's frame, if it has a buffer of its own */
    struct slice answer;  /* ANSWERED: the terms Class, Value and Stack; ENDED: Reason */

    /* The tick's. */
    _Atomic uint64_t received; /* bytes, as the reader last said */
    uint64_t tick_received, tick_sent;
    int silent;
};

/* The longest frame that is read. Once, before any other thread. */
void channel_init(size_t max_frame);

/* One over fd, taken, which has shaken hands with peer under that name; it is the thread's, its own name
 * for itself. */
struct channel *channel_new(const char *name, int number, uint32_t creation, int fd,
                            const char *peer, unsigned long thread);
void channel_free(struct channel *ch);

/* Whether its connection still lives, as far as what has come says. */
bool channel_is_alive(struct channel *ch);

/* A call, by the owner: begin marks it and has to be followed by end. In between check says, without
 * waiting, whether a handler is there; if not ready sees to one (ANSWERED: there is one); put opens the
 * frame of a call, which the caller completes with the terms Name and Args and dist_end(); call sends it
 * and waits; wait waits on after SIGNALLED and LATE. What the answer points to is good until end. begin
 * and end with the GIL, so that channels_interrupt(), which has it, too, sees whether there is a call. */
void channel_begin(struct channel *ch);
bool channel_check(struct channel *ch);
enum channel_result channel_ready(struct channel *ch, int64_t deadline);
size_t channel_put(struct channel *ch, struct buf *out);
enum channel_result channel_call(struct channel *ch, struct buf *frame, int64_t deadline);
enum channel_result channel_wait(struct channel *ch, int64_t deadline);
void channel_end(struct channel *ch);

/* Nobody waits for the answer any more: the handler is killed with what it runs. */
void channel_abandon(struct channel *ch);

/* For channels: ends the call under way as INTERRUPTED, and the channel with it; keeps the tick from
 * reading; the leader's tick. Under the lock that keeps its descriptor from being closed. */
void channel_stop(struct channel *ch);
void channel_start_reading(struct channel *ch);
void channel_stop_reading(struct channel *ch);
void channel_tick(struct channel *ch);

#endif
