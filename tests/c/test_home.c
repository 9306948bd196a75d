/* test_home.c - the Erlang application at the other end: what it sends, what is gathered for it.
 *
 * Two connections; the main thread plays the leader, the workers of the pool, and both peers. Only a
 * queue has a thread, in which a request runs until it is let go.
 */
#include "config.h"

#include "home.h"
#include "answer.h"
#include "callback.h"
#include "control.h"
#include "ends.h"
#include "io.h"
#include "log.h"
#include "pool.h"
#include "route.h"
#include "tap.h"
#include "term.h"

#include <sched.h>
#include <semaphore.h>
#include <unistd.h>

enum { LIMIT = 8, SECONDS = 60 };

#define P "<a@h,1,2,3>" /* a caller */
#define H "<a@h,20,0,3>"
#define H2 "<a@h,21,0,3>"
#define HC "<c@h,22,0,5>"
#define HD "<d@h,23,0,5>"
#define R1 "#<a@h,3,1,1>"
#define R2 "#<a@h,3,2,1>"
#define R3 "#<a@h,3,3,1>"
#define R4 "#<a@h,3,4,1>"
#define NOBODY "<py@h,0,0,77>"

#define CALL(ref) "{call," ref ",m,f,[],#{}}"
#define STRAIGHT(ref, result) "{33," NOBODY "," ref "} + {py_response," ref "," result "}"
#define TO(home) "{2,''," home "} + "

static struct end a, b;
static char *log_path;
static int attached; /* how often it was told that there is a home */

static void attached_cb(void) {
    attached++;
}

/* Sends a message to the name pynode: what the peer gets. */
static const char *say(struct end *e, const char *message) {
    return tell(e, "{6," P ",'',pynode}", message);
}

static void attach(struct end *e, const char *home) {
    has_str(say(e, line("{attach,%s}", home)), line("{2,'',%s} + {py_attached,#{", home),
            "%s attaches and is told of the node", home);
}

static struct slice slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Answers as a worker does. */
static void answer(struct request *r, struct exec_worker *w) {
    struct buf out = {0}, why = {0};
    bool wanted = exec_claim(r);
    size_t begin;

    if (wanted && r->interrupted) {
        answer_refuse(r, &out, "cancelled");
    } else if (wanted && answer_begin(r, &out, &begin)) {
        term_put(&out, "42");
        answer_end(r, &out, begin);
    } else if (!wanted) {
        home_put_ended(r->conn, r->ref);
    }
    route_put(r, &out);
    etf_put_atom(&why, "normal");
    exec_finish(w, r);
    route_ended(r, slice(&why));
    buf_done(&out);
    buf_done(&why);
}

/* The thread of a queue: each request runs until it is let go. */

static sem_t entered, let_go, interrupted, ended;

static void wait_for(sem_t *s) {
    while (sem_wait(s) < 0)
        ;
}

static void worker_cb(struct exec_worker *w) {
    (void)w;
}

static void serve_cb(struct exec_worker *w) {
    struct request *r;

    while ((r = exec_pop(w))) {
        sem_post(&entered);
        wait_for(&let_go);
        answer(r, w);
        sem_post(&ended);
    }
}

static bool hit_cb(const struct exec_worker *w) {
    (void)w;
    return true;
}

static void interrupt_cb(void) {
    pool_each_interrupt(hit_cb);
    sem_post(&interrupted);
}

/* Answers all that is queued: how many. */
static int answer_all(void) {
    struct request *r;
    int n = 0;

    for (; (r = exec_pop(&me)); n++)
        answer(r, &me);
    return n;
}

static bool logged(const char *text) {
    char *lines = tap_slurp(log_path);
    bool found = strstr(lines, text);

    free(lines);
    return found;
}

/* Whether that is home_conn()'s answer. */
static bool home_conn_is(struct conn *wanted, const struct conn *want) {
    struct conn *c = home_conn(wanted);

    if (c)
        conn_unref(c);
    return c == want;
}

/* The node that home_peer() names, "" if it names none. */
static const char *peer(struct conn *wanted) {
    static char name[300];

    return home_peer(wanted, name, sizeof name) ? name : "";
}

/* Whether home_conn_to() finds that connection, NULL: none. */
static bool home_conn_to_is(const char *name, const struct conn *want) {
    struct conn *c = home_conn_to(name);

    if (c)
        conn_unref(c);
    return c == want;
}

/* As long as nobody has attached. */
static void test_no_home(void) {
    is_str(say(&a, "{call," R1 ",m,f,[1],#{}}"), "", "a call has no answer yet");
    is_str(say(&a, "{cast,<<\"m\">>,g,[2],#{kwargs=>#{a=>1}}}"), "", "nor has a cast");
    is_int(exec_queued(), 2, "both are queued");
    is_int(answer_all(), 2, "and run");
    is_str(got(&a), STRAIGHT(R1, "{ok,42}"), "the call is answered at its alias");
    is_str(say(&a, "[" CALL(R1) "," CALL(R2) "]"), "", "two calls in a list");
    answer_all();
    is_str(got(&a), STRAIGHT(R1, "{ok,42}") "\n" STRAIGHT(R2, "{ok,42}"),
           "are answered so, too, without a home");
    is_str(say(&a, "{cancel," R1 "}"), "", "nobody is told of what is cancelled");
    ok(home_conn_is(NULL, NULL) && home_conn_is(a.conn, NULL), "there is no home to be called");
    is_int(dropped(), 0, "nothing is dropped");
}

static void test_attach(void) {
    int before = attached;

    attach(&a, H);
    is_int(attached - before, 1, "that there is a home is told");
    ok(logged("home a@h: attached"), "and logged");
    ok(home_conn_is(NULL, a.conn) && home_conn_is(a.conn, a.conn), "it can be called");
    is_str(say(&a, "[" CALL(R1) ",{cast,m,g,[],#{}}," CALL(R2) "]"), "", "calls in a list");
    is_str(say(&a, CALL(R3)), "", "and one by itself");
    is_int(exec_queued(), 4, "all are queued");
    is_int(answer_all(), 4, "and run");
    is_str(got(&a), STRAIGHT(R3, "{ok,42}") "\n" TO(H) "[{" R1 ",{ok,42}},{" R2 ",{ok,42}}]",
           "those of the list are answered in one frame, the other at its alias");
    is_str(say(&a, "[" CALL(R1) "]"), "", "a list of one");
    answer_all();
    is_str(got(&a), TO(H) "[{" R1 ",{ok,42}}]", "is a list all the same");
}

/* What is answered without Python. */
static void test_at_once(void) {
    int full = LIMIT;

    is_str(say(&a, "{call," R1 ",pynode,ready,[],#{}}"), STRAIGHT(R1, "{ok,false}"),
           "what the node itself is asked");
    is_str(say(&a, "[{call," R1 ",pynode,ready,[],#{}},{call," R2 ",pynode,ready,[],#{}}]"),
           TO(H) "[{" R1 ",{ok,false}},{" R2 ",{ok,false}}]", "also in a list");
    is_str(say(&a, "{call," R1 ",m,f,[],#{wrong=>1}}"), STRAIGHT(R1, "{error,{bad_option,wrong}}"),
           "a bad option");
    is_str(say(&a, "[{call," R1 ",m,f,[],#{strings=>x}}]"),
           TO(H) "[{" R1 ",{error,{bad_option,strings}}}]", "also in a list");
    is_str(say(&a, "{call," R1 ",m,f,[],#{''=>1}}"), STRAIGHT(R1, "{error,{bad_option,''}}"),
           "also one with an empty name");
    is_int(exec_queued(), 0, "none of these is queued");
    while (full-- > 0)
        say(&a, "{cast,m,f,[],#{}}");
    is_str(say(&a, CALL(R1)), STRAIGHT(R1, "{error,overloaded}"), "the queue is full");
    is_str(say(&a, "[" CALL(R1) "]"), TO(H) "[{" R1 ",{error,overloaded}}]", "also in a list");
    is_str(say(&a, "{cast,m,f,[],#{}}"), "", "nobody is told of a cast");
    is_int(answer_all(), LIMIT, "what was taken runs");
    is_str(got(&a), "", "and has no answers");
}

/* A cast has nobody to tell, so the log is told. */
static void test_bad_cast(void) {
    is_str(say(&a, "{cast,m,f,[],#{wrong=>1}}"), "", "a cast with a bad option is not answered");
    ok(logged("cast: bad option: wrong"), "but logged");
    is_int(exec_queued(), 0, "and not queued");
}

/* By its pid instead of its name: a later node of that name takes nothing that was meant for this one. */
static void test_by_pid(void) {
    is_str(tell(&a, "{2,''," NOBODY "}", "[" CALL(R1) "," CALL(R2) "]"), "",
           "calls to the node's pid");
    is_int(answer_all(), 2, "run as those to its name");
    is_str(got(&a), TO(H) "[{" R1 ",{ok,42}},{" R2 ",{ok,42}}]", "and are answered so");
    dropped();
    is_str(tell(&a, "{2,'',<py@h,0,0,76>}", CALL(R1)), "",
           "calls to the node that was there before");
    is_int(dropped(), 1, "are dropped");
    is_int(exec_queued(), 0, "and do not run");
}

/* A list is taken element by element: what is none of them is dropped, the rest goes on. */
static void test_list(void) {
    dropped();
    is_str(say(&a, "[hello," CALL(R1) ",[" CALL(R2) "],{cancel," R3 "}," CALL(R4) "|tail]"),
           TO(H) "[{ended," R3 "}]", "a list of all kinds");
    is_int(dropped(), 2, "what is neither a call nor a command is dropped");
    is_str(say(&a, "[{cancel," R1 "},{drop_queue,q}]"), TO(H) "[{ended," R1 "}]", "commands alone");
    is_int(answer_all(), 1, "a call that a later list cancels does not run");
    is_str(got(&a), TO(H) "[{" R4 ",{ok,42}}]", "the others do");
}

/* Credit is for a stream of the same connection. */
static void test_credit(void) {
    struct exec_worker me = {.number = 1};
    struct request *r;

    say(&a, "{call," R1 ",m,f,[],#{stream=>2}}");
    say(&a, "{credit," R1 ",5}");
    r = exec_pop(&me);
    is_int(r->credit, 7, "a stream gets credit");
    dropped();
    say(&a, "[{credit," R1 ",1},{credit," R2 ",1}]");
    is_int(r->credit, 8, "also in a list");
    is_int(dropped(), 0, "one that has ended needs none");
    say(&a, "{credit," R1 ",0}");
    say(&a, "{credit," R1 ",-1}");
    say(&a, "{credit," R1 ",many}");
    say(&a, "{credit,stream,1}");
    is_int(dropped(), 4, "what is no credit is dropped");
    is_int(r->credit, 8, "and changes nothing");
    answer(r, &me);
    got(&a);
    buf_done(&me.out);
}

static void test_garbage(void) {
    static const char *const messages[] = {
        "hello",
        "[]",
        "{}",
        "{attach}",
        "{attach,h}",
        "{attach," R1 "}",
        "{attach," H2 ",x}",
        "{cancel,x}",
        "{cancel," P "}",
        "{cancel}",
        "{1," R1 "}",
        "{stop," R1 "}",
        "{call," R1 ",m,f,[]}",
        "{call,m,f,[],#{}}",
        "{call," R1 ",m,f,[],[]}",
        "{cast," R1 ",m,f,[],#{}}",
        "#{call=>" R1 "}",
        "<<\"call\">>",
    };

    dropped();
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        is_str(say(&a, messages[i]), "", "%s: no answer", messages[i]);
        is_int(dropped(), 1, "but it is counted");
    }
    is_int(exec_queued(), 0, "none is a call");
    say(&a, "[" CALL(R1) "]");
    answer_all();
    is_str(got(&a), TO(H) "[{" R1 ",{ok,42}}]", "the home is as it was");
}

static void test_cancel(void) {
    uint64_t cancelled = stats_get(STATS_CANCELLED);
    struct request *r;

    is_str(say(&a, "[{cancel," R1 "}]"), TO(H) "[{ended," R1 "}]",
           "one that is not there has ended");
    say(&a, CALL(R1));
    say(&a, "[" CALL(R2) "]");
    say(&a, CALL(R3));
    is_str(say(&a, "{cancel," R2 "}"), TO(H) "[{ended," R2 "}]", "one that waits has, too");
    is_int(exec_queued(), 2, "it waits no more");
    is_int(stats_get(STATS_CANCELLED) - cancelled, 1, "and is counted");
    r = exec_pop(&me);
    is_str(say(&b, "{cancel," R1 "}"), "", "another peer");
    ok(!r->interrupt && !r->abandoned, "cannot cancel it");
    is_str(say(&a, "{cancel," R1 "}"), "", "one that runs has not ended yet");
    wait_for(&interrupted);
    ok(r->interrupt && r->abandoned, "but is interrupted");
    answer(r, &me);
    is_str(got(&a), TO(H) "[{ended," R1 "}]", "its end is told, and no answer");
    r = exec_pop(&me);
    exec_claim(r);
    is_str(say(&a, "{cancel," R3 "}"), TO(H) "[{ended," R3 "}]",
           "one whose answer is under way has ended");
    exec_finish(&me, r);
    route_ended(r, (struct slice){0});
}

/* What the home is told beside answers. */
static void test_events(void) {
    struct buf ref = {0};

    term_put(&ref, R1);
    home_put_started(a.conn, slice(&ref));
    home_put_ended(a.conn, slice(&ref));
    is_str(got(&a), TO(H) "[{started," R1 "},{ended," R1 "}]", "that one runs, and has ended");
    home_put_started(b.conn, slice(&ref));
    is_str(got(&b), "", "who has no home is told nothing");
    buf_done(&ref);
}

static void test_replaced(void) {
    struct request *r;
    int before = attached;
    const char *frames;

    say(&a, "[" CALL(R1) "," CALL(R2) "]");
    r = exec_pop(&me);
    answer(r, &me);
    frames = say(&a, "{attach," H2 "}");
    has_str(frames, TO(H) "[{" R1 ",{ok,42}}]\n" TO(H2) "{py_attached,#{",
            "a later home takes the place of that before, which has what was for it");
    is_int(attached - before, 1, "it is the first again");
    answer_all();
    is_str(got(&a), TO(H2) "[{" R2 ",{ok,42}}]", "what is answered from then on goes to the later");
    is_str(say(&a, "{detach," H "}"), "", "the one before goes");
    is_str(say(&a, "{detach,x}"), "", "and what has never been there");
    say(&a, "[" CALL(R1) "]");
    answer_all();
    is_str(got(&a), TO(H2) "[{" R1 ",{ok,42}}]", "which changes nothing");
    ok(home_conn_is(NULL, a.conn), "at all");
    ok(!logged("home a@h: detached"), "and is not logged");
    is_int(dropped(), 0, "but counts as known");
}

/* Calls came in a list, and then there was nobody to gather the answers for. */
static void test_detach(void) {
    struct callback cb;
    struct request *r;

    callback_begin(&cb, home_conn(NULL));
    say(&a, "[" CALL(R1) "," CALL(R2) "," CALL(R3) "]");
    answer(exec_pop(&me), &me);
    r = exec_pop(&me);
    is_str(say(&a, "{detach," H2 "}"), TO(H2) "[{" R1 ",{ok,42}}]", "the home goes");
    ok(logged("home a@h: detached"), "which is logged");
    is_int(callback_wait(&cb, 0), CALLBACK_LOST, "whom it would have answered are told");
    callback_end(&cb);
    ok(home_conn_is(NULL, NULL) && home_conn_is(a.conn, NULL), "there is none to be called");
    answer(r, &me);
    is_str(got(&a), STRAIGHT(R2, "{ok,42}"), "what ran then is answered at its alias");
    answer_all();
    is_str(got(&a), STRAIGHT(R3, "{ok,42}"), "what waited, too");
    is_str(say(&a, "[{call," R1 ",m,f,[],#{wrong=>1}},{cancel," R2 "}]"),
           STRAIGHT(R1, "{error,{bad_option,wrong}}"), "and what comes then");
    is_str(say(&a, "{detach," H2 "}"), "", "it cannot go twice");
    is_int(dropped(), 0, "which is no harm");
}

/* What Python has called there: its answers come in lists, too. */
static void test_reply(void) {
    struct callback cb, lost;
    char text[80];

    say(&a, "{attach," H "}");
    callback_begin(&cb, home_conn(NULL));
    callback_begin(&lost, home_conn(NULL));
    dropped();
    snprintf(text, sizeof text, "[{py_reply,%d,ok,1,[]}]", (int)cb.id);
    is_str(say(&a, text), "", "an answer to Python");
    is_int(callback_wait(&cb, 0), CALLBACK_ANSWERED, "is given to who waits for it");
    is_str(term_text((struct slice){cb.answer.data, 4}), "ok", "from the class on");
    is_int(dropped(), 0, "nothing is dropped");
    callback_end(&cb);
    say(&a, text);
    is_int(dropped(), 1, "a late one is");
    say(&a, "[{py_reply,x,ok,1,[]},{py_reply,1,ok}]");
    is_int(dropped(), 2, "what is no answer, too");
    say(&a, "{detach," H "}");
    is_int(callback_wait(&lost, 0), CALLBACK_LOST, "who waits for a home that goes is told");
    callback_end(&lost);
}

/* Those that nobody waits for are told once a list. */
static void test_reply_sink(void) {
    struct callback cb[2], *first;
    struct callback_sink sink;
    char text[80];
    uint64_t times = 0;

    callback_sink_init(&sink);
    say(&a, "{attach," H "}");
    for (int i = 0; i < 2; i++)
        callback_begin_in(&cb[i], home_conn(NULL), &sink);
    snprintf(text, sizeof text, "[{py_reply,%d,ok,1,[]},{py_reply,%d,ok,2,[]}]", (int)cb[1].id,
             (int)cb[0].id);
    say(&a, text);
    ok(read(sink.wake.fd, &times, sizeof times) == sizeof times && times == 1,
       "a loop is woken once for all the answers of a list");
    first = callback_take(&sink, 9);
    ok(first == &cb[1] && first->ready == &cb[0] && !cb[0].ready, "and gets them in their order");
    for (int i = 0; i < 2; i++)
        callback_release(&cb[i]);
    callback_sink_done(&sink);
    say(&a, "{detach," H "}");
}

static void wait_for_no_queue(void) {
    struct pool_numbers n;
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    for (pool_read_numbers(&n); n.queues > 0 && clock_now() < end; pool_read_numbers(&n))
        sched_yield();
    is_int(n.queues, 0, "the queue's thread has ended");
}

#define QUEUED(ref) "{call," ref ",m,f,[],#{queue=>q}}"

static void test_drop_queue(void) {
    uint64_t cancelled = stats_get(STATS_CANCELLED);

    is_str(say(&a, "{drop_queue,nobody}"), "", "a queue that is not there");
    is_int(dropped(), 0, "can be dropped all the same");
    attach(&a, H);
    say(&a, QUEUED(R1));
    wait_for(&entered);
    say(&a, "[" QUEUED(R2) "," QUEUED(R3) "]");
    say(&a, QUEUED(R4));
    say(&b, "{cast,m,f,[],#{queue=>q}}");
    is_int(exec_queued(), 4, "one runs in a queue, the others wait behind it");
    is_str(say(&a, "{drop_queue,q}"),
           STRAIGHT(R4, "{error,cancelled}") "\n" TO(H) "[{" R2 ",{error,cancelled}},{" R3
                                                        ",{error,cancelled}}]",
           "those that wait are answered at once");
    is_int(exec_queued(), 0, "and wait no more");
    is_int(stats_get(STATS_CANCELLED) - cancelled, 4, "all are counted");
    wait_for(&interrupted);
    sem_post(&let_go);
    wait_for(&ended);
    is_str(got(&a), STRAIGHT(R1, "{error,cancelled}"), "the one that ran is when it has ended");
    wait_for_no_queue();
    is_str(got(&b), "", "nobody is told of a cast");
    say(&a, "{detach," H "}");
}

/* The connection ends: whether nothing holds it any more. */
static bool gone(struct end *e) {
    outbox_close(&e->conn->out);
    route_closed(e->conn);
    return close_end(e);
}

/* The load, as it is reported. */

#define SECOND ((int64_t)1000000000)

/* The report in what the peer has got, with what nobody knows before as N; "" if there is none. */
static const char *report_in(const char *frames) {
    static char ring[4][1024];
    static int next;
    char *text = ring[next++ % 4];
    const char *at = strstr(frames, "{load,"), *rss = at ? strstr(at, "rss=>") : NULL;

    text[0] = '\0';
    if (rss)
        snprintf(text, sizeof ring[0], "%.*srss=>N%s", (int)(rss - at), at,
                 strstr(rss, ",gil_wait"));
    return text;
}

/* calls and errors: more than there were when this test began. */
static uint64_t calls, errors;

static const char *report(const char *state, int queued, int more_calls, int more_errors) {
    return line("{load,#{state=>%s,others=>0,running=>0,blocked=>0,queued=>%d,tasks=>0,workers=>0,"
                "min_workers=>0,max_workers=>7,calls=>%d,"
                "errors=>%d,rss=>N,gil_wait=>0}}]",
                state, queued, (int)calls + more_calls, (int)errors + more_errors);
}

static void test_report(void) {
    int64_t now, due;

    calls = stats_get(STATS_CALLS);
    errors = stats_get(STATS_ERRORS);
    is_int(home_report_due(), 0, "without a home nothing is due");
    is_str(report_in(say(&a, "{attach," H "}")), report("starting", 0, 0, 0),
           "a home is told of the load when it attaches");
    now = clock_now();
    due = home_report_due();
    ok(due > now && due <= now + SECOND, "a look is due within a second");
    ok(!home_report(now), "nothing has changed");
    is_str(got(&a), "", "so nothing is said");
    due = home_report_due();
    ok(due > now + 4 * SECOND && due <= now + 5 * SECOND,
       "an idle node has nothing to say for five");
    ok(home_report(due), "then it has");
    is_str(report_in(got(&a)), report("starting", 0, 0, 0), "what it has said before");
    is_int(home_report_due() - due, 5 * SECOND, "and again");

    now = due;
    say(&a, CALL(R1));
    is_int(home_report_due() - now, SECOND,
           "as soon as there is load a look is due after a second");
    ok(home_report(now += SECOND), "it has changed");
    is_str(report_in(got(&a)), report("starting", 1, 0, 0), "what waits is told");
    is_int(home_report_due() - now, SECOND, "while there is load it is looked at each second");
    ok(!home_report(now += SECOND), "though nothing is said");
    is_int(home_report_due() - now, SECOND, "if nothing changes");
    answer_all();
    got(&a);
    stats_add(STATS_CALLS, 1);
    ok(home_report(now += SECOND), "that it is gone");
    is_str(report_in(got(&a)), report("starting", 0, 1, 0), "is told, too");
    is_int(home_report_due() - now, 5 * SECOND, "and the node is idle again");
    stats_add(STATS_CALLS, 1);
    stats_add(STATS_ERRORS, 1);
    is_int(home_report_due() - now, SECOND, "but for what has run and ended meanwhile");
    ok(home_report(now += SECOND), "of which is told");
    is_str(report_in(got(&a)), report("starting", 0, 2, 1), "when it has");
    home_report_soon();
    ok(home_report_due() > 0 && home_report_due() <= clock_now(), "what is urgent is due at once");
    ok(!home_report(now), "if it is nothing new");
    is_str(got(&a), "", "nothing is said");
    say(&a, "{detach," H "}");
    is_int(home_report_due(), 0, "the home has gone: nothing is due");
}

static void test_reports(void) {
    struct buf waiting = {0};
    struct end c;
    int64_t now, due;

    open_end(&c, "c@h");
    attach(&a, H);
    attach(&c, HC);
    due = home_report_due();
    ok(home_report(due + 5 * SECOND), "two homes");
    has_str(got(&a), TO(H) "[{load,", "are told");
    has_str(got(&c), TO(HC) "[{load,", "at the same time");
    now = due + 5 * SECOND;
    is_int(home_report_due() - now, 5 * SECOND, "so that they are one look");

    if (buf_reserve(&waiting, CONN_LOW + 1) < 0)
        tap_bail("no memory");
    waiting.len = CONN_LOW + 1;
    memset(waiting.data, 0, waiting.len);
    outbox_put(&a.conn->out, waiting.data, waiting.len);
    stats_add(STATS_CALLS, 1);
    ok(home_report(now += SECOND), "much waits for one of them");
    has_str(got(&c), TO(HC) "[{load,", "the other is told");
    is_int(atomic_load(&a.conn->out.bytes), CONN_LOW + 1, "and that one not");
    is_int(home_report_due() - now, SECOND, "but looked after in a second");
    while (atomic_load(&a.conn->out.bytes) > 0) {
        outbox_flush(&a.conn->out);
        recv(a.peer, waiting.data, CONN_LOW, MSG_DONTWAIT);
    }
    while (recv(a.peer, waiting.data, CONN_LOW, MSG_DONTWAIT) > 0)
        ;
    ok(home_report(now += SECOND), "when there is room");
    has_str(got(&a), TO(H) "[{load,", "it is told");
    got(&c); /* which may have seen the memory change */
    say(&a, CALL(R1));
    ok(home_report(now += SECOND), "one of them sends a request");
    has_str(got(&a), ",others=>0,", "that is not another's to itself");
    has_str(got(&c), ",others=>1,", "but to the other one");
    answer_all();
    got(&a);
    got(&c);
    buf_done(&waiting);
    say(&a, "{detach," H "}");
    ok(gone(&c), "both go");
    is_int(home_report_due(), 0, "and nothing is due");
}

/* Several homes: the first is the one to be called, unless another is wanted. */
static void test_several(void) {
    struct end c, d, e;
    int before = attached;

    open_end(&c, "c@h");
    open_end(&d, "d@h");
    open_end(&e, "e@h");
    attach(&c, HC);
    attach(&d, HD);
    is_int(attached - before, 1, "the second home is nothing new");
    is_str(peer(NULL), "c@h", "the first one's node is the one to call");
    is_str(peer(d.conn), "d@h", "the second if it is wanted");
    is_str(peer(e.conn), "c@h", "the first if who is wanted is none");
    ok(home_conn_to_is("c@h", c.conn) && home_conn_to_is("d@h", d.conn),
       "each is found by its name");
    ok(home_conn_to_is("e@h", NULL) && home_conn_to_is("c@", NULL), "and nobody else");
    ok(home_conn_is(NULL, c.conn), "the first is called");
    ok(home_conn_is(d.conn, d.conn), "the second if it is wanted");
    ok(home_conn_is(e.conn, c.conn), "the first if who is wanted is none");
    say(&c, "[" CALL(R1) "]");
    say(&d, "[" CALL(R2) "]");
    answer_all();
    is_str(got(&c), TO(HC) "[{" R1 ",{ok,42}}]", "each has its own answers");
    is_str(got(&d), TO(HD) "[{" R2 ",{ok,42}}]", "and no other");
    outbox_close(&c.conn->out);
    ok(home_conn_is(c.conn, NULL), "the first goes: who wanted it is not sent to another");
    is_str(peer(c.conn), "", "by name neither");
    ok(gone(&c), "nothing holds its connection");
    ok(home_conn_to_is("c@h", NULL), "by its name it is not found");
    ok(home_conn_is(NULL, d.conn), "then the second is called");
    is_str(peer(NULL), "d@h", "its node is named");
    home_closed(e.conn);
    ok(home_conn_is(NULL, d.conn), "until it has gone, and not somebody else");
    conn_ref(d.conn);
    attach(&e, "<e@h,1,0,1>");
    ok(!gone(&d), "as it has");
    ok(home_conn_is(NULL, e.conn) && home_conn_is(d.conn, NULL), "then the third is called");
    conn_unref(d.conn);
    ok(gone(&e), "and when that has gone");
    ok(home_conn_is(NULL, NULL), "none");
    is_str(peer(NULL), "e@h", "but the node of the last is named: it may come back");
    attach(&a, H);
    is_int(attached - before, 2, "that there is one again is told");
    say(&a, "{detach," H "}");
}

/* One log record. */
static bool log_text(const char *text) {
    struct buf item = {0};
    bool taken;

    term_put(&item, line("{log,info,root,<<\"%s\">>,#{}}", text));
    taken = home_log(&item);
    if (item.data)
        tap_bail("home_log() has left the item");
    return taken;
}

#define RECORD(text) "{log,info,root,<<\"" text "\">>,#{}}"

static void test_log(void) {
    struct buf waiting = {0};
    struct end c;
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    ok(!log_text("nobody"), "without a home a record is dropped");
    open_end(&c, "c@h");
    attach(&a, H);
    attach(&c, HC);
    atomic_store(&a.conn->want_write, false);
    ok(log_text("one") && log_text("two"), "else it is taken");
    ok(atomic_load(&a.conn->want_write), "and to be written");
    is_str(got(&a), TO(H) "[" RECORD("one") "," RECORD("two") "]", "the first home has it");
    is_str(got(&c), "", "the second has not");

    if (buf_reserve(&waiting, CONN_LOW + 1) < 0)
        tap_bail("no memory");
    waiting.len = CONN_LOW;
    outbox_put(&a.conn->out, waiting.data, waiting.len);
    ok(log_text("three"), "as long as not much waits for it");
    atomic_store(&a.conn->want_write, false);
    ok(!log_text("four"), "then records are dropped");
    ok(!atomic_load(&a.conn->want_write), "which wakes nobody");
    while (atomic_load(&a.conn->out.bytes) > 0 && clock_now() < end) {
        outbox_flush(&a.conn->out);
        recv(a.peer, waiting.data, CONN_LOW, MSG_DONTWAIT);
    }
    while (recv(a.peer, waiting.data, CONN_LOW, MSG_DONTWAIT) > 0)
        ;
    ok(log_text("five"), "when there is room again they are not");
    is_str(got(&a), TO(H) "[" RECORD("five") "]", "and arrive");

    say(&a, "{detach," H "}");
    ok(log_text("six"), "when the first home has gone");
    is_str(got(&a), "", "it has no more of them");
    is_str(got(&c), TO(HC) "[" RECORD("six") "]", "the second has");
    ok(gone(&c), "when that has gone, too");
    ok(!log_text("seven"), "nobody has");
    buf_done(&waiting);
}

/* A peer that is gone is nobody's home. */
static void test_closed(void) {
    struct end c;
    struct request *r;

    open_end(&c, "c@h");
    attach(&c, "<c@h,1,0,1>");
    feed(&c, "{6," P ",'',pynode}", "[" CALL(R1) "," CALL(R2) "]");
    r = exec_pop(&me);
    outbox_close(&c.conn->out);
    route_closed(c.conn);
    is_int(exec_queued(), 0, "what waited of a peer that is gone is cancelled");
    wait_for(&interrupted);
    ok(r->interrupt && r->abandoned, "what ran is interrupted");
    answer(r, &me);
    is_int(atomic_load(&c.conn->out.bytes), 0, "what ran has nobody to be told");
    ok(home_conn_is(NULL, NULL), "it is nobody's home");
    ok(close_end(&c), "and nothing holds the connection");
}

static void test_all(void) {
    dropped();
    test_no_home();
    test_attach();
    test_at_once();
    test_bad_cast();
    test_by_pid();
    test_list();
    test_garbage();
    test_cancel();
    test_events();
    test_replaced();
    test_detach();
    test_reply();
    test_reply_sink();
    test_drop_queue();
    test_credit();
    test_report();
    test_reports();
    test_several();
    test_log();
    test_closed();
}

static void test_draining(void) {
    attach(&a, H);
    say(&a, CALL(R2));
    route_drain();
    ok(home_report_due() <= clock_now() && home_report(clock_now()),
       "that a node drains is told at once");
    has_str(report_in(got(&a)), "{load,#{state=>draining,", "as its state");
    is_str(say(&a, CALL(R1)), STRAIGHT(R1, "{error,draining}"), "a node that drains takes no call");
    is_str(say(&a, "[" CALL(R1) "]"), TO(H) "[{" R1 ",{error,draining}}]", "also of a list");
    is_str(say(&a, "{call," R1 ",pynode,ready,[],#{}}"), STRAIGHT(R1, "{ok,false}"),
           "what the node itself is asked it answers");
}

/* It drains, and a call has not ended. */
static void test_leaving(void) {
    struct end c;
    int64_t now = clock_now();

    open_end(&c, "c@h");
    home_leave();
    ok(home_report_due() <= clock_now(), "that a node leaves is urgent");
    home_report(now);
    ok(!strstr(got(&a), "leaving"), "but not said while a call runs");
    answer_all();
    is_str(got(&a), STRAIGHT(R2, "{ok,42}"), "when that has its answer");
    ok(home_report(now), "a home");
    has_str(got(&a), "leaving", "is told");
    home_report(now + SECOND);
    ok(!strstr(got(&a), "leaving"), "once");
    has_str(say(&c, "{attach," HC "}"), "leaving", "one that attaches then is, too");
    is_str(say(&a, "[" CALL(R1) "]"), TO(H) "[{" R1 ",{error,draining}}]",
           "a call that comes is refused");
    is_int(home_count(), 2, "they are there until they detach");
    say(&a, "{detach," H "}");
    say(&c, "{detach," HC "}");
    is_int(home_count(), 0, "as they do");
    is_str(say(&a, "[" CALL(R1) "]"), STRAIGHT(R1, "{error,draining}"),
           "then a call is refused without them");
    ok(close_end(&c), "nobody holds the second one's connection");
}

int main(void) {
    static const struct exec_hooks hooks = {
        .start = worker_cb, .serve = serve_cb, .stop = worker_cb, .interrupt = interrupt_cb};
    static const struct control_facts facts = {
        .node = "py@h", .version = "1", .python = "3", .max_workers = 7};
    struct io_settings settings = {.net_ticktime = 60};
    struct err e;

    sem_init(&entered, 0, 0);
    sem_init(&let_go, 0, 0);
    sem_init(&interrupted, 0, 0);
    sem_init(&ended, 0, 0);
    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    open_end(&a, "a@h");
    open_end(&b, "b@h");
    settings.listener = dup(a.peer);
    if (io_init(&settings, &e) < 0)
        tap_bail("%s", e.text);
    request_init("py@h", 77);
    route_init("py@h");
    home_init(attached_cb);
    control_init(&facts);
    exec_init(1, 1, LIMIT, &hooks);
    test_all();
    whole = true;
    if (truncate(log_path, 0) < 0)
        tap_bail("the log cannot be emptied");
    diag("each frame in a buffer of its own");
    test_all();
    test_draining();
    test_leaving();
    is_int(exec_load(), 0, "no request is left");
    ok(close_end(&a) && close_end(&b), "nobody holds the connections any more");
    free(log_path);
    return tap_end();
}
