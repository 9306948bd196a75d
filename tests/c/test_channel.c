/* test_channel.c - a thread's own connection to an Erlang node: calls and what becomes of them, the
 * pool, names, ticks, malformed and large frames, signals, fork(2).
 *
 * The main thread plays the node at the other end, too. Runs under TSan as well.
 */
#include "config.h"

#include "channel_ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sysexits.h>

#define H2 "<a@h,21,0,3>" /* another handler */
#define P "<a@h,1,2,3>"   /* another process there */
#define R "#<a@h,7,8,9>"

static void test_take(void) {
    int64_t deadline = in_seconds(SECONDS);
    struct err e = {0};
    struct channel *ch = channels_take("a@h", ME, false, deadline, &e), *second, *third;

    ok(ch && net.n == 1, "a channel is connected");
    is_str(ch->name, "py-thread-1@h", "its name");
    is_str(last_end()->alive, "py-thread-1", "by which it connects");
    is_str(last_end()->peer, "a@h", "to the node");
    ok(last_end()->deadline == deadline, "until the deadline");
    is_str(self(ch), line("<py-thread-1@h,1,0,%u>", last_end()->creation), "its pid");
    is_int(all(), 1, "there is one");
    is_int(pooled(), 0, "which is not in the pool");
    second = take("a@h");
    is_str(second->name, "py-thread-2@h", "the next one has another name");
    channels_give(ch);
    is_int(pooled(), 1, "one that is given back is in the pool");
    ok(take("a@h") == ch && net.n == 2, "and is taken again, instead of a new one");
    channels_give(ch);
    channels_give(second);
    ok(take("a@h") == second, "the latest is the first");
    ok(take("a@h") == ch, "then the other one");
    is_int(all(), 2, "two in all");
    channels_give(second);
    channels_give(ch);
    hang_up(end_of(ch));
    ok(take("a@h") == second, "one whose node has gone is passed over");
    is_int(all(), 1, "and is no more");
    third = take("b@h");
    is_str(last_end()->peer, "b@h", "each node has its own");
    channels_give(third);
    channels_give(second);
    ok(take("a@h") == second && take("b@h") == third, "also in the pool");
    channels_give(third);
    close_all(second);
    is_int(pooled(), 0, "when all nodes have gone, no channel is left");
}

/* It counted as unused since the machine was started. */
static void test_new_stays(void) {
    struct channel *ch = take("a@h");

    channels_give(ch);
    channels_tick();
    is_int(pooled(), 1, "one that is new and has called nothing stays in the pool");
    close_all(NULL);
}

/* The first reference in a text. */
static const char *ref_in(const char *text) {
    const char *at = strstr(text, "#<");

    return at ? line("%.*s", (int)strcspn(at, ">") + 1, at) : "no reference";
}

static void test_handler(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    const char *text, *me = self(ch);

    channel_begin(ch);
    ok(!channel_check(ch), "at first there is no handler");
    is_str(heard(end), "", "and none is asked for");
    say_to(end, ch, "{py_handler," H "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "then one is there");
    text = heard(end);
    is_str(text,
           line("{19,%s,py_coordinator,%s}\n{6,%s,'',py_coordinator} + {py_thread,%s}", me,
                ref_in(text), me, me),
           "the coordinator is watched and asked");
    ok(channel_check(ch), "the handler is known");
    is_str(heard(end), line("{20,%s,py_coordinator,%s}", me, ref_in(text)),
           "and the coordinator is not watched any more");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "it is still there");
    channel_end(ch);
    channels_give(ch);
    ok(take("a@h") == ch, "it goes into the pool with its channel");
    channel_begin(ch);
    ok(channel_check(ch), "and comes back with it");
    is_str(heard(end), "", "nobody is asked again");
    channel_end(ch);
    close_all(ch);
}

static void test_call(void) {
    struct channel *ch = take_ready();
    uint64_t first;

    channel_begin(ch);
    ok(channel_check(ch), "a call");
    is_int(call_answered(ch, "ok,{a,1},[]"), CHANNEL_ANSWERED, "that is answered");
    is_str(answer(ch), "ok {a,1} []", "class, value and stack");
    first = ch->tag;
    is_str(heard(end_of(ch)), line("{2,''," H "} + {py_call,%" PRIu64 ",<<\"f\">>,[1]}", first),
           "what the handler got");
    channel_end(ch);
    ok(!ch->answer.data, "then the answer is gone");
    channel_begin(ch);
    channel_check(ch);
    is_int(call_answered(ch, "error,badarg,[]"), CHANNEL_ANSWERED, "the next one");
    is_str(answer(ch), "error badarg []", "has its own answer");
    ok(ch->tag != first, "by a tag of its own");
    channel_end(ch);
    close_all(ch);
}

/* What is not the answer does not end the waiting. */
static void test_dropped(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    uint32_t creation = end->creation;
    const char *name = ch->name;
    struct buf out = {0};

    channel_begin(ch);
    say_to(end, ch, "{py_reply,0,ok,wrong,[]}");
    ok(channel_check(ch), "an answer before there is a call");
    put_call(ch, &out);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong,[]}", ch->tag - 1));
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong,[]}", ch->tag + 1));
    say_to(end, ch, "{py_reply,tag,ok,wrong,[]}");
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,wrong}", ch->tag));
    say_to(end, ch, line("{py_answer,%" PRIu64 ",ok,wrong,[]}", ch->tag));
    say_to(end, ch, "{py_handler,none}");
    say_to(end, ch, "{1,2}");
    say_to(end, ch, "hello");
    say(end, line("{2,'',<%s,1,0,%u>}", name, creation + 1),
        line("{py_reply,%" PRIu64 ",ok,earlier,[]}", ch->tag));
    say(end, line("{2,'',<%s,2,0,%u>}", name, creation),
        line("{py_reply,%" PRIu64 ",ok,other,[]}", ch->tag));
    say(end, "{2,'',name}", line("{py_reply,%" PRIu64 ",ok,name,[]}", ch->tag));
    say(end, line("{3," P ",%s,oops}", self(ch)), NULL);
    say(end, line("{24," H2 ",%s}", self(ch)), "oops");
    say(end, line("{8," P ",%s,kill}", self(ch)), NULL);
    say(end, line("{28,py_coordinator,%s," R "}", self(ch)), "noproc");
    say(end, line("{36,1," P ",%s}", self(ch)), NULL);
    say_bytes(end, "\0\0\0", 4);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,right,[]}", ch->tag));
    is_int(channel_call(ch, &out, 0), CHANNEL_ANSWERED, "much that is no answer to the call");
    is_str(answer(ch), "ok right []", "is passed over: wrong tags, earlier lives, others' ends");
    channel_end(ch);
    buf_done(&out);
    close_all(ch);
}

static void test_late(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    int64_t deadline;
    uint64_t tag;

    channel_begin(ch);
    channel_check(ch);
    is_int(call(ch, 1), CHANNEL_LATE, "a deadline that has passed already");
    deadline = clock_now() + 5000000;
    is_int(channel_wait(ch, deadline), CHANNEL_LATE, "one that passes");
    ok(clock_now() >= deadline, "not before its time");
    tag = ch->tag;
    heard(end);
    channel_abandon(ch);
    is_str(heard(end), line("{26,%s," H "} + kill", self(ch)), "abandoned: the handler is killed");
    channel_end(ch);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,late,[]}", tag));
    say(end, line("{24," H ",%s}", self(ch)), "killed");
    channel_begin(ch);
    ok(!channel_check(ch), "the next call needs another handler");
    say_to(end, ch, "{py_handler," H2 "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "which comes");
    heard(end);
    is_int(call_answered(ch, "ok,2,[]"), CHANNEL_ANSWERED, "and is called");
    is_str(answer(ch), "ok 2 []", "the late answer and the end of the first are none to it");
    has_str(heard(end), "{2,''," H2 "} + ", "the second handler got the call");
    channel_abandon(ch);
    channel_abandon(ch);
    is_str(heard(end), line("{26,%s," H2 "} + kill", self(ch)), "it is killed once");
    channel_end(ch);
    close_all(ch);
}

/* Who asks for a handler in vain asks once more; the one that comes then too much was left alive. */
static void test_late_handler(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    const char *first, *sent;

    channel_begin(ch);
    channel_check(ch);
    is_int(channel_ready(ch, clock_now() + 1000000), CHANNEL_LATE, "no handler in time");
    first = ref_in(heard(end));
    say_to(end, ch, "{py_handler," H "}");
    say_to(end, ch, "{py_handler," H2 "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "asked again: two come");
    has_str(heard(end), line("{20,%s,py_coordinator,%s}", self(ch), first),
            "the first monitor is given up");
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "the first is called");
    ok(channel_check(ch), "and stays");
    sent = heard(end);
    has_str(sent, "{2,''," H "} + {py_call,", "it has got the call");
    has_str(sent, line("{26,%s," H2 "} + kill", self(ch)), "the second is killed");
    channel_end(ch);
    close_all(ch);
}

static void test_retired(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);

    channel_begin(ch);
    channel_check(ch);
    say(end, line("{24," H ",%s}", self(ch)), "{shutdown,retired}");
    is_int(call(ch, 0), CHANNEL_RETIRED, "a handler that ended before it took the call");
    channel_end(ch);
    channel_begin(ch);
    ok(!channel_check(ch), "is not there any more");
    say_to(end, ch, "{py_handler," H "}");
    is_int(channel_ready(ch, 0), CHANNEL_ANSWERED, "another one is");
    channel_end(ch);
    say(end, line("{24," H ",%s}", self(ch)), "{shutdown,retired}");
    channel_begin(ch);
    ok(!channel_check(ch), "one that ends between two calls is seen before the next");
    channel_end(ch);
    close_all(ch);
}

static void test_ended(void) {
    static const char *const reasons[] = {"killed", "{shutdown,x}", "{shutdown,retired,x}",
                                          "retired", "{retired,shutdown}"};

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        struct channel *ch = take_ready();

        channel_begin(ch);
        channel_check(ch);
        if (i % 2)
            say(end_of(ch), line("{3," H ",%s,%s}", self(ch), reasons[i]), NULL);
        else
            say(end_of(ch), line("{24," H ",%s}", self(ch)), reasons[i]);
        is_int(call(ch, 0), CHANNEL_ENDED, "the handler ends in the middle of a call");
        is_str(answer(ch), reasons[i], "with a reason");
        ok(!channel_check(ch), "and is there no more");
        channel_end(ch);
        close_all(ch);
    }
}

/* The connection ends at each step. */
static void test_lost(void) {
    struct channel *ch = take("a@h");
    struct buf frame = {0};

    hang_up(end_of(ch));
    channel_begin(ch);
    ok(!channel_check(ch), "the node goes before anything was asked");
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "lost");
    channel_end(ch);
    close_all(ch);

    ch = take("a@h");
    channel_begin(ch);
    channel_check(ch);
    hang_up(end_of(ch));
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "or before there is a handler: lost");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    hang_up(end_of(ch));
    is_int(call(ch, 0), CHANNEL_LOST, "or before the call is sent: lost");
    channel_end(ch);
    close_all(ch);

    for (int size = 10; size <= 100000; size *= 100) {
        struct buf out = {0}, payload = {0};
        char *text = xcalloc(1, (size_t)size + 1);

        ch = take_ready();
        memset(text, 'x', (size_t)size);
        channel_begin(ch);
        channel_check(ch);
        put_call(ch, &out);
        etf_put_tuple(&payload, 5);
        etf_put_atom(&payload, "py_reply");
        etf_put_integer(&payload, (int64_t)ch->tag);
        etf_put_atom(&payload, "ok");
        etf_put_binary(&payload, text, (uint32_t)size);
        etf_put_nil(&payload);
        frame.len = 0;
        term_put_frame_of(&frame, line("{2,'',%s}", self(ch)),
                          (struct slice){payload.data, payload.len});
        say_bytes(end_of(ch), frame.data, frame.len - 3);
        is_int(channel_call(ch, &out, clock_now() + 1000000), CHANNEL_LATE,
               "most of an answer with %d bytes is none", size);
        hang_up(end_of(ch));
        is_int(channel_wait(ch, 0), CHANNEL_LOST, "and then the node goes: lost");
        ok(ch->broken, "the channel is of no use any more");
        channel_abandon(ch);
        channel_end(ch);
        close_all(ch);
        free(text);
        buf_done(&out);
        buf_done(&payload);
    }

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    frame.len = 0;
    put_call(ch, &frame);
    say_to(end_of(ch), ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", ch->tag));
    is_int(channel_call(ch, &frame, 0), CHANNEL_ANSWERED, "an answer just before the node goes");
    hang_up(end_of(ch));
    is_str(answer(ch), "ok 1 []", "is one");
    channel_end(ch);
    is_int(all(), 1, "the channel is there");
    channels_give(ch);
    channels_tick();
    is_int(all(), 0, "until somebody looks");
    forget_ends();
    buf_done(&frame);
}

/* The call that a thread has under way, or is about to begin, or has just ended. */
static void test_interrupt_early(void) {
    struct channel *ch = take_ready();

    channels_interrupt(ME);
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(OTHER);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "neither another thread's nor before");
    channel_end(ch);
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(ME);
    is_int(call(ch, 0), CHANNEL_INTERRUPTED, "a call that is interrupted before it is sent");
    ok(ch->broken, "its channel ends with it");
    channel_end(ch);
    close_all(ch);

    ch = take("a@h");
    channel_begin(ch);
    channel_check(ch);
    channels_interrupt(ME);
    is_int(channel_ready(ch, 0), CHANNEL_INTERRUPTED, "one that has no handler yet");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channel_begin(ch);
    channel_check(ch);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "one that has its answer");
    channels_interrupt(ME);
    is_str(answer(ch), "ok 1 []", "keeps it");
    channel_end(ch);
    channel_begin(ch);
    ok(!channel_check(ch), "but the channel has ended");
    is_int(channel_ready(ch, 0), CHANNEL_LOST, "as the next call sees, which is not interrupted");
    channel_end(ch);
    close_all(ch);

    ch = take_ready();
    channels_give(ch);
    channels_interrupt(ME);
    channels_interrupt(0);
    ok(take("a@h") == ch, "what is in the pool is nobody's, and stays");
    close_all(ch);
}

/* Whether a node that has refused after since is not asked again: that is so for a second. */
static bool is_refused(const char *peer, int64_t since) {
    struct err e = {0};
    int n = net.n;

    return (!channels_take(peer, ME, false, 0, &e) && e.code == EX_TEMPFAIL && net.n == n) ||
           clock_now() - since >= 1000000000;
}

/* As many as may be: those of the pool give way to who wants to go elsewhere. */
static void test_cap(void) {
    struct channel *held[MAX], *ch;
    struct err e = {0};
    int64_t since;
    int connected;

    for (int i = 0; i < MAX; i++)
        held[i] = take("a@h");
    is_int(all(), MAX, "as many as may be");
    connected = net.n;
    ok(!channels_take("a@h", ME, true, 0, &e) && e.code == EX_TEMPFAIL, "one more is refused");
    has_str(e.text, "node: no connection of its own to a@h", "and says so");
    ok(!channels_take("b@h", ME, true, 0, &e) && e.code == EX_TEMPFAIL, "to another node, too");
    is_int(net.n, connected, "nobody is asked for that");
    channels_give(held[3]);
    channels_give(held[5]);
    ch = take("b@h");
    is_int(net.n, connected + 1, "one of the pool gives way to a connection elsewhere");
    ok(take("a@h") == held[5], "the one that was unused for longer: the other is still there");
    is_int(all(), MAX, "and there are no more");
    is_int(pooled(), 0, "none of them in the pool");
    net.refuse = true;
    channels_give(held[5]);
    since = clock_now();
    ok(!channels_take("c@h", ME, false, 0, &e) && e.code == EX_UNAVAILABLE,
       "to a node that refuses");
    is_int(all(), MAX - 1, "one gives way in vain");
    net.refuse = false;
    held[3] = take("a@h");
    channels_give(held[3]);
    net.refuse = true;
    ok(is_refused("c@h", since), "when it is known to refuse");
    ok(pooled() == 1 || clock_now() - since >= 1000000000, "none does");
    net.refuse = false;
    held[3] = take("a@h");
    for (int i = 0; i < MAX; i++)
        if (i != 5)
            channels_give(held[i]);
    close_all(ch);
}

/* No channel at all: in a process of its own, as it is said once. */
static void none_scene(void) {
    struct err e = {0};

    channel_init(MAX_FRAME);
    channels_init("none@h", connect_cb, 0);
    if (channels_take("a@h", ME, true, 0, &e) || e.code != EX_TEMPFAIL || net.n > 0)
        _exit(1);
    channels_tick();
    channels_interrupt(ME);
}

/* A node that takes no connection is not asked again at once. */
static void test_refused(void) {
    int64_t since = clock_now();
    struct channel *ch;
    struct err e = {0};
    char peer[16];
    int n = net.n, wrong = 0;

    net.refuse = true;
    ok(!channels_take("no@h", ME, false, 0, &e), "a node that takes no connection");
    is_int(e.code, EX_UNAVAILABLE, "the reason is that of the connecting");
    is_str(e.text, "no@h takes nobody", "with its text");
    is_int(all(), 0, "nothing is left of it");
    ok(is_refused("no@h", since), "is remembered, and not asked");
    net.refuse = false;
    ch = take("a@h");
    ok(ch, "others are");
    channels_give(ch);
    ch = channels_take("no@h", ME, true, 0, &e);
    ok(ch && net.n == n + 2, "unless that is forced");
    channels_give(ch);
    ok(channels_take("no@h", ME, false, 0, &e) == ch,
       "then it is in the pool and taken from there");
    close_all(ch);
    net.refuse = true;
    for (int i = 0; i < 100; i++) {
        snprintf(peer, sizeof peer, "no%d@h", i);
        since = clock_now();
        wrong += channels_take(peer, ME, false, 0, &e) || e.code != EX_UNAVAILABLE;
        wrong += !is_refused(peer, since);
    }
    is_int(wrong, 0, "100 such nodes, each remembered for a while");
    net.refuse = false;
    is_int(all(), 0, "nothing is left of them");
}

/* Names are of a small number, and none is another's at once: the node might still know it. */
static void test_names(void) {
    int last = 0, again = 0, out_of_bounds = 0;
    int64_t freed = 0;

    for (int i = 0; i < 4 * MAX; i++) {
        struct channel *ch = take("a@h");

        again += ch->number == last && clock_now() - freed < 2000000000;
        last = ch->number;
        out_of_bounds += ch->number < 1 || ch->number > MAX;
        freed = clock_now();
        close_all(ch);
    }
    is_int(out_of_bounds, 0, "%d channels have %d names", 4 * MAX, MAX);
    is_int(again, 0, "none the one that was given up last");
}

/* Ticks. */

static void test_ticks(void) {
    struct channel *ch = take_ready(), *idle = take("a@h");
    struct end *end = end_of(ch);

    heard(end);
    channels_give(idle);
    channels_tick();
    heard(end);
    channels_tick();
    is_str(heard(end), "tick", "a channel to which nothing was sent sends a tick");
    is_str(heard(end_of(idle)), "tick\ntick", "also in the pool");
    channel_begin(ch);
    channel_check(ch);
    call_answered(ch, "ok,1,[]");
    channel_end(ch);
    heard(end);
    channels_tick();
    is_str(heard(end), "", "not when something else was sent");
    channel_begin(ch);
    channels_tick();
    is_str(heard(end), "tick", "in the middle of a call, too");
    channel_end(ch);
    channels_give(ch);
    close_all(NULL);
}

/* Others that ask something of a node that runs nothing. */
static void test_questions(void) {
    struct channel *ch = take_ready();
    struct end *end = end_of(ch);
    const char *me = self(ch);

    say(end, "{29," R "," P "," P ",{m,f,0},[monitor]}", "[]");
    say(end, "{19," P ",rex," R "}", NULL);
    say(end, line("{19," P ",%s," R "}", me), NULL);
    say(end, line("{35,7," P ",%s}", me), NULL);
    say(end, "{1," P ",<py@h,9,9,9>}", NULL);
    say(end, line("{1," P ",%s}", me), NULL);
    say(end, "{6," P ",'',net_kernel}", "{'$gen_call',{" P "," R "},{is_auth,a@h}}");
    say(end, "{6," P ",'',rex}", "{'$gen_call',{" P "," R "},{call,m,f,[],user}}");
    say(end, "{6," P ",'',net_kernel}", "hello");
    say(end, "{20," P ",rex," R "}", NULL);
    channels_tick();
    is_str(heard(end),
           line("{31," R "," P ",0,notsup}\n{28,rex," P "," R "} + noproc\n"
                "{28,%s," P "," R "} + noproc\n{36,7,%s," P "}\n{3,<py@h,9,9,9>," P ",noproc}\n"
                "{2,''," P "} + {" R ",yes}",
                me, me),
           "spawn, monitors, unlink, a link to nobody, a ping are answered by the tick");
    channel_begin(ch);
    channel_check(ch);
    say(end, "{19," P ",rex," R "}", NULL);
    is_int(call_answered(ch, "ok,1,[]"), CHANNEL_ANSWERED, "in the middle of a call");
    channel_end(ch);
    channels_tick();
    has_str(heard(end), "{28,rex," P "," R "} + noproc", "questions are answered, too");
    close_all(ch);
}

/* Who asks and reads no answers gets none: they would take all memory. */
static void test_deaf(void) {
    struct channel *ch;
    struct buf b = {0};

    net.small = 4096;
    ch = take("a@h");
    net.small = 0;
    while (b.len < 60000)
        term_put_frame(&b, "{19," P ",rex," R "}", NULL);
    for (int i = 0; i < 400; i++) {
        size_t done = 0;

        while (done < b.len) {
            ssize_t n = send(end_of(ch)->fd, b.data + done, b.len - done, MSG_DONTWAIT);

            done += n > 0 ? (size_t)n : 0;
            if (n <= 0)
                channels_tick();
        }
    }
    channels_tick();
    ok(atomic_load(&ch->conn->out.bytes) < CONN_HIGH + 65536,
       "24 MB of questions by who reads nothing leave no more than 4 MB of answers");
    diag("%zu bytes wait", atomic_load(&ch->conn->out.bytes));
    buf_done(&b);
    close_all(ch);
}

static void test_dead(void) {
    struct channel *ch = take_ready(), *waiting = take("a@h");
    int n;

    channels_give(waiting);
    hang_up(end_of(waiting));
    hang_up(end_of(ch));
    logged();
    channels_tick();
    is_int(pooled(), 0, "a channel in the pool whose node has gone is closed by the tick");
    is_int(all(), 1, "one that is held is its holder's");
    for (n = 0; n < 10; n++)
        channels_tick();
    is_str(logged(), "", "nothing is said of it, however long that takes");
    channel_begin(ch);
    ok(!channel_check(ch), "who sees");
    channel_end(ch);
    close_all(ch);
}

static void test_silent(void) {
    struct channel *ch = take_ready(), *waiting = take("a@h"), *busy = take("a@h");
    const char *last = line("channel %d to a@h: closed: heartbeat missed", waiting->number);
    struct buf half = {0};

    logged();
    channels_give(waiting);
    channel_begin(busy);
    for (int i = 0; i < 10; i++) {
        say_bytes(end_of(ch), "\0\0\0", 4);
        say_bytes(end_of(waiting), "\0\0\0", 4);
        say_bytes(end_of(busy), "\0\0\0", 4); /* nobody reads them */
        channels_tick();
    }
    is_int(all(), 3, "channels that are ticked live");
    is_str(logged(), "", "whether somebody reads the ticks or not");
    term_put_frame(&half, line("{2,'',%s}", self(ch)), "hello");
    say_bytes(end_of(ch), half.data, half.len / 2);
    for (int i = 0; i < 3; i++)
        channels_tick();
    is_int(all(), 3, "three ticks without any news: they live still");
    say_bytes(end_of(waiting), "\0\0\0", 4);
    channels_tick();
    is_int(all(), 3, "one more");
    has_str(logged(), line("channel %d to a@h: closed: heartbeat missed", busy->number),
            "is too much for the one in a call");
    channels_tick();
    has_str(logged(), line("channel %d to a@h: closed: heartbeat missed", ch->number),
            "and for the other that is held");
    is_int(call(busy, 0), CHANNEL_LOST, "the call ends");
    channel_end(busy);
    for (int i = 0; i < 10; i++)
        channels_tick();
    is_int(all(), 2, "the one in the pool is gone, too");
    has_str(logged(), last, "which is said");
    is_str(logged(), "", "once");
    buf_done(&half);
    channels_give(busy);
    close_all(ch);
}

/* A peer's bytes close the channel, with a line in the log. */
static void test_malformed(void) {
    static const struct {
        const char *bytes, *why;
        size_t len;
    } garbage[] = {
        {"\0\0\0\1x", "not a pass-through frame", 5},
        {"\0\0\0\1p", "no control tuple", 5},
        {"\0\0\0\6p\x83h\1a\x63", "unknown control message", 10},
        {"\x7f\xff\xff\xff", "frame longer than --max-frame", 4},
        {"\0\x80\0\1", "frame longer than --max-frame", 4},
    };
    struct buf large = {0};

    logged();
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        struct channel *ch = take_ready();
        const char *want = line("channel %d to a@h: closed: %s", ch->number, garbage[i].why);

        channel_begin(ch);
        channel_check(ch);
        say_bytes(end_of(ch), garbage[i].bytes, garbage[i].len);
        is_int(call(ch, 0), CHANNEL_LOST, "%s: the call is lost", garbage[i].why);
        channel_end(ch);
        has_str(logged(), want, "which is logged");
        close_all(ch);
        ch = take_ready();
        say_bytes(end_of(ch), garbage[i].bytes, garbage[i].len);
        channels_give(ch);
        channels_tick();
        is_int(all(), 0, "the same between two calls");
        logged();
        forget_ends();
    }
    buf_put(&large, "\0\2\0\0", 4);
    while (large.len < 4 + 0x20000)
        buf_put(&large, "x", 1);
    for (int i = 0; i < 2; i++) {
        struct channel *ch = take_ready();

        channel_begin(ch);
        channel_check(ch);
        say_bytes(end_of(ch), large.data, large.len);
        is_int(call(ch, 0), CHANNEL_LOST, "a large frame of nothing: lost");
        channel_end(ch);
        close_all(ch);
    }
    buf_done(&large);
}

/* Large frames that are no answer and such as end the waiting are freed: the leak was of the end of a
 * coordinator with much to say. */
static void test_large_frames(void) {
    enum { SIZE = 100000 };
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    char *name = xcalloc(1, SIZE + 64);
    struct buf out = {0};

    snprintf(name, 64, "<<\"");
    memset(name + 3, 'x', SIZE);
    strcpy(name + 3 + SIZE, "\">>");
    channel_begin(ch);
    channel_check(ch);
    for (int i = 0; i < 2; i++) {
        struct buf frame = {0};
        size_t begin = dist_begin(&frame);

        /* SEND, with much where the cookie was once */
        etf_put_tuple(&frame, 3);
        etf_put_integer(&frame, 2);
        etf_put_binary(&frame, name, SIZE);
        etf_put_slice(&frame, (struct slice){ch->self.data, ch->self.len});
        etf_put_version(&frame);
        term_put(&frame, "{py_handler," H "}");
        dist_end(&frame, begin);
        say_bytes(end, frame.data, frame.len);
        if (channel_ready(ch, 0) != CHANNEL_ANSWERED)
            tap_bail("no handler");
        if (i == 0) {
            say(end, line("{24," H ",%s}", self(ch)), name);
            is_int(call(ch, 0), CHANNEL_ENDED, "a handler that ends with much to say");
        }
        buf_done(&frame);
    }
    put_call(ch, &out);
    say_to(end, ch, name);
    say_to(end, ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", ch->tag));
    is_int(channel_call(ch, &out, 0), CHANNEL_ANSWERED, "a large message that is no answer");
    channel_end(ch);
    say_to(end, ch, name);
    channels_tick();
    ok(!ch->kept.data, "none is kept between calls");
    buf_done(&out);
    free(name);
    close_all(ch);
}

static void signalled_cb(int signo) {
    (void)signo;
}

static struct {
    struct channel *ch;
    int64_t deadline;
    _Atomic int result;
} waiter;

static void *waiter_main(void *arg) {
    struct buf out = {0};

    put_call(waiter.ch, &out);
    out.len = 0;
    atomic_store(&waiter.result, (int)channel_wait(waiter.ch, waiter.deadline));
    buf_done(&out);
    return arg;
}

/* Signals until the thread returns: one may come before it has begun to wait. */
static void test_signal(int64_t deadline) {
    struct sigaction action = {.sa_handler = signalled_cb}; /* without SA_RESTART */
    int64_t end = in_seconds(SECONDS);
    pthread_t thread;

    sigaction(SIGUSR1, &action, NULL);
    waiter.ch = take_ready();
    waiter.deadline = deadline;
    atomic_store(&waiter.result, -1);
    channel_begin(waiter.ch);
    if (pthread_create(&thread, NULL, waiter_main, NULL) != 0)
        tap_bail("no thread");
    while (atomic_load(&waiter.result) < 0 && clock_now() < end) {
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    is_int(atomic_load(&waiter.result), CHANNEL_SIGNALLED, "a signal ends the wait %s a deadline",
           deadline ? "with" : "without");
    pthread_join(thread, NULL);
    say_to(end_of(waiter.ch), waiter.ch, line("{py_reply,%" PRIu64 ",ok,1,[]}", waiter.ch->tag));
    is_int(channel_wait(waiter.ch, deadline), CHANNEL_ANSWERED, "not the call");
    channel_end(waiter.ch);
    close_all(waiter.ch);
}

/* The child's copies are closed: who is at the other end sees the connection go with the node. */
static void test_fork(void) {
    struct channel *ch = take("a@h");
    struct end *end = end_of(ch);
    struct pollfd p = {end->fd, POLLIN, 0};
    int fds[2], status = -1;
    char byte;
    pid_t pid;

    if (pipe(fds) < 0)
        tap_bail("no pipe");
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(fds[1]);
        (void)!read(fds[0], &byte, 1); /* until the parent closes it */
        _exit(fcntl(ch->conn->fd, F_GETFD) < 0 && errno == EBADF ? 0 : 1);
    }
    close(fds[0]);
    ok(fcntl(ch->conn->fd, F_GETFD) >= 0, "after fork(2) a channel is the parent's");
    say_bytes(end, "\0\0\0\1x", 5);
    channel_begin(ch);
    channel_check(ch);
    channel_end(ch);
    channels_give(ch);
    ok(poll(&p, 1, SECONDS * 1000) == 1 && recv(end->fd, &byte, 1, 0) == 0,
       "its end is seen while the child lives");
    close(fds[1]);
    waitpid(pid, &status, 0);
    is_int(status, 0, "which has closed its copy");
    is_int(all(), 0, "no channel is left");
    logged();
    forget_ends();
}

int main(void) {
    is_int(tap_child(none_scene, NULL), 0, "a node that may have no channels has none");
    begin_channels();
    test_take();
    test_new_stays();
    test_handler();
    test_call();
    test_dropped();
    test_late();
    test_late_handler();
    test_retired();
    test_ended();
    test_lost();
    test_interrupt_early();
    test_cap();
    test_refused();
    test_names();
    test_ticks();
    test_questions();
    test_deaf();
    test_dead();
    test_silent();
    test_malformed();
    test_large_frames();
    test_signal(0);
    test_signal(in_seconds(SECONDS));
    test_fork();
    close_all(NULL);
    is_int(all(), 0, "no channel is left");
    end_channels();
    return tap_end();
}
