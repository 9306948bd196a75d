/* test_route.c - control messages: what goes back, what is queued, who is told of an end.
 *
 * Two connections; the main thread plays the leader, the worker and both peers. No pool, so that the
 * queue is looked at before anything is run.
 */
#include "config.h"

#include "control.h"
#include "ends.h"
#include "io.h"
#include "process.h"
#include "route.h"
#include "stats.h"
#include "tap.h"
#include "term.h"

enum { LIMIT = 4 };

#define P "<a@h,1,2,3>" /* a process of a@h */
#define Q "<b@h,4,0,5>" /* a process of b@h */
#define R "#<a@h,7,8,9>"
#define R2 "#<a@h,7,8,10>"
#define R3 "#<a@h,7,8,11>"
#define RB "#<b@h,7,8,12>"
#define NOBODY "<py@h,99,9,77>" /* a pid of ours that has never lived */

static struct end a, b;

/* All that is queued, as text: kind, call or object, arguments. Each ends at once. */
static const char *queued(void) {
    struct term_out o = term_out_new();
    struct request *r;

    while ((r = exec_pop(&me))) {
        term_add(&o, "%s%d %.*s%s%.*s %s", o.len > 0 ? "\n" : "", r->kind, (int)r->module.len,
                 r->module.data ? (const char *)r->module.data : "",
                 r->target ? r->target->name : ":", (int)r->function.len,
                 r->function.data ? (const char *)r->function.data : "", term_text(r->args));
        finish(r, "normal");
    }
    return o.text;
}

static const char *ping(struct end *e, const char *pid, const char *tag, const char *body) {
    return tell(e, line("{6,%s,'',net_kernel}", pid),
                line("{'$gen_call',{%s,%s},%s}", pid, tag, body));
}

static void test_ping(void) {
    uint64_t pings = stats_get(STATS_PINGS);

    is_str(ping(&a, P, R, "{is_auth,a@h}"), "{2,''," P "} + {" R ",yes}", "a ping");
    is_str(ping(&a, P, "[alias|" R "]", "{is_auth,a@h}"),
           "{33,<py@h,0,0,77>," R "} + {[alias|" R "],yes}",
           "one that wants its answer at an alias");
    is_str(tell(&b, "{16," Q ",'',net_kernel,token}", "{'$gen_call',{" Q "," RB "},{is_auth,b@h}}"),
           "{2,''," Q "} + {" RB ",yes}", "one with a trace token, of another peer");
    is_str(got(&a), "", "which the first does not see");
    is_int(stats_get(STATS_PINGS) - pings, 3, "three are counted");
    is_str(ping(&a, P, R, "{is_auth,a@h,x}"), "", "net_kernel knows no other call");
    is_str(ping(&a, P, R, "is_auth"), "", "nor a bare word");
    is_str(ping(&a, P, R, "{spawn,x}"), "", "nor another tuple");
    is_str(ping(&a, P, R, "{1,x}"), "", "nor one without a name");
    is_str(tell(&a, "{6," P ",'',net_kernel}", "{is_auth,a@h}"), "", "nor what is no call");
    is_int(stats_get(STATS_PINGS) - pings, 3, "none of these counts");
}

static void test_tick(void) {
    is_str(tell(&a, NULL, NULL), "tick", "a tick is answered");
    is_str(tell(&a, NULL, NULL), "", "not a second one within a moment");
    is_str(tell(&b, NULL, NULL), "tick", "that of another peer is");
    a.conn->ticked -= 500000000;
    is_str(tell(&a, NULL, NULL), "tick", "half a second later it is again");
}

static void test_dropped(void) {
    static const char *const messages[][3] = {
        {"REG_SEND to a name that nobody has", "{6," P ",'',nobody}", "hello"},
        {"the same with a trace token", "{16," P ",'',nobody,token}", "hello"},
        {"SEND to a pid that nobody has", "{2,''," NOBODY "}", "hello"},
        {"SEND to a pid of another node", "{2,''," P "}", "hello"},
        {"SEND_SENDER", "{22," P "," NOBODY "}", "hello"},
        {"SEND_SENDER_TT", "{23," P "," NOBODY ",token}", "hello"},
        {"ALIAS_SEND", "{33," P ",#<py@h,77,1,2>}", "hello"},
        {"GROUP_LEADER", "{7," P "," NOBODY "}", NULL},
        {"MONITOR_EXIT", "{21," P "," NOBODY "," R ",normal}", NULL},
        {"PAYLOAD_MONITOR_EXIT", "{28,name," NOBODY "," R "}", "normal"},
        {"SPAWN_REPLY", "{31," R "," NOBODY ",0," P "}", NULL},
        {"UNLINK_ID_ACK", "{36,1," P "," NOBODY "}", NULL},
    };

    dropped();
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
        is_str(tell(&a, messages[i][1], messages[i][2]), "", "%s: no answer", messages[i][0]);
        is_int(dropped(), 1, "but it is counted");
    }
    is_int(exec_queued(), 0, "none is a request");
}

static void test_malformed(void) {
    static const char *const messages[][3] = {
        {"{99," P "}", NULL, "unknown control message"},
        {"{1," P "}", NULL, "control tuple of the wrong size"},
        {"{1,x," P "}", NULL, "malformed control tuple"},
        {"{35,x," P "," P "}", NULL, "malformed control tuple"},
        {"{2,''," P "}", NULL, "no payload"},
        {"{1," P "," P "}", "more", "bytes after the control tuple"},
        {"x", NULL, "no control tuple"},
    };

    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++)
        is_str(feed(&a, messages[i][0], messages[i][1]), messages[i][2], "%s", messages[i][0]);
    is_str(got(&a), "", "nothing of it is answered");
}

static void test_rex(void) {
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",features_request}"),
           "{2,''," P "} + {features_reply,py@h,[erpc]}", "what rex can do");
    is_str(tell(&a, "{6," P ",'',rex}", "{'$gen_call',{" P "," R "},{block_call,m,f,[1],user}}"),
           "", "a call to rex has no answer yet");
    tell(&a, "{16," P ",'',rex,token}", "{'$gen_cast',{cast,m,g,[2],user}}");
    tell(&a, "{6," P ",'',rex}", "{" P ",{call,m,h,[3],user}}");
    is_str(queued(), "3 m:f [1]\n4 m:g [2]\n5 m:h [3]", "it is queued, and a cast, and erl_call's");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{sbcast,counter,hello}}"),
           "{2,''," P "} + {rex,py@h,{nonexisting_name,counter}}", "a broadcast to nobody");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",features}"), "", "another question");
    is_str(tell(&a, "{6," P ",'',rex}", "{x,features_request}"), "", "one of no process");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{sbcast,<<\"counter\">>,hello}}"), "",
           "a broadcast to what is no name");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{call,m,f}}"), "", "half a call");
    is_str(tell(&a, "{6," P ",'',rex}", "hello"), "", "a word");
    is_int(exec_queued(), 0, "are all ignored");
}

static int object; /* stands for what Python has registered */

static void release_cb(void *what) {
    ++*(int *)what;
}

/* The pid of a registered object, as text. */
static const char *pid_of(const char *name) {
    struct proc *p = procs_find_name((struct slice){(const uint8_t *)name, strlen(name)});
    const char *text;

    if (!p)
        tap_bail("%s: not registered", name);
    text = line("<py@h,%u,%u,77>", p->id, p->serial);
    proc_unref(p);
    return text;
}

static void unregister(const char *name, const char *reason) {
    struct proc *p = procs_unregister(name);

    if (!p)
        tap_bail("%s: not registered", name);
    process_unregistered(p, name, reason);
    proc_unref(p);
}

static void test_objects(void) {
    const char *pid;

    procs_register("counter", &object);
    pid = pid_of("counter");
    tell(&a, "{6," P ",'',counter}", "{'$gen_call',{" P "," R "},get}");
    tell(&a, "{16," P ",'',counter,token}", "{'$gen_cast',up}");
    tell(&a, line("{2,'',%s}", pid), "hello");
    tell(&a, line("{12,'',%s,token}", pid), "{a,b}");
    is_int(exec_ready(), 1, "the messages to an object have a lane");
    is_int(exec_queued(), LIMIT, "where they wait");
    is_str(tell(&a, line("{22," P ",%s}", pid), "{'$gen_call',{" P "," R "},set}"),
           line("{28,%s," P "," R "} + overloaded", pid),
           "one more call: refused by the DOWN of the caller's monitor");
    is_str(tell(&a, line("{2,'',%s}", pid), "hello"), "", "one more message: nobody is told");
    is_str(queued(), "6 counter get\n7 counter up\n8 counter hello\n8 counter {a,b}",
           "by name and by pid, in their order");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{sbcast,counter,{x,1}}}"),
           "{2,''," P "} + {rex,py@h,py@h}", "a broadcast to it is confirmed");
    is_str(queued(), "8 counter {x,1}", "and delivered");
    is_int(object, 0, "the object is still held by its name");
    unregister("counter", "normal");
    is_int(object, 1, "and by nothing else");
}

/* A call by erpc that waits: its pid, as text. R, R2 or R3 is the id of the request. */
static const char *call(struct end *e, const char *from, const char *ref, const char *opts) {
    const char *why = feed(e, line("{29,%s,%s,%s,{erpc,execute_call,4},%s}", ref, from, from, opts),
                           "[res,m,f,[]]");
    uint64_t announced;
    const char *reply, *at;

    if (why)
        tap_bail("%s", why);
    announced = exec_unannounced();
    exec_announce(route_put);
    reply = got(e);
    at = strstr(reply, "<py@h,");
    if (announced != 1 || !at)
        tap_bail("no SPAWN_REPLY: %s", reply);
    return line("%.*s", (int)strcspn(at, ">") + 1, at);
}

static void test_monitors(void) {
    const char *pid;
    struct request *r;

    is_str(tell(&a, "{19," P ",nobody," R "}", NULL), "{28,nobody," P "," R "} + noproc",
           "a monitor of nobody's name");
    is_str(tell(&a, "{19," P "," NOBODY "," R "}", NULL), "{28," NOBODY "," P "," R "} + noproc",
           "of nobody's pid");
    is_str(tell(&a, "{19," P "," Q "," R "}", NULL), "{28," Q "," P "," R "} + noproc",
           "of a pid of another node");
    is_str(tell(&a, "{19," P ",rex," R "}", NULL), "", "rex is there");
    is_str(tell(&a, "{19," P ",net_kernel," R "}", NULL), "", "net_kernel is, too");
    is_str(tell(&a, "{19," P ",pynode," R "}", NULL), "", "so is pynode");
    ok(!procs_watched(), "none of that leaves a watch");

    procs_register("counter", &object);
    pid = pid_of("counter");
    is_str(tell(&a, "{19," P ",counter," R "}", NULL), "", "an object by its name");
    is_str(tell(&a, "{19," P ",counter," R2 "}", NULL), "", "once more");
    is_str(tell(&b, line("{19," Q ",%s," RB "}", pid), NULL), "", "and by its pid");
    is_str(tell(&a, "{20," P ",counter," R "}", NULL), "", "one of them is dropped again");
    is_str(tell(&a, "{20," P ",counter," R3 "}", NULL), "", "one that never was does no harm");
    unregister("counter", "normal");
    is_str(got(&a), "{28,counter," P "," R2 "} + normal",
           "its end is told to who watches the name");
    is_str(got(&b), line("{28,%s," Q "," RB "} + normal", pid), "and the pid");

    pid = call(&a, P, R, "[monitor]");
    is_str(tell(&b, line("{19," Q ",%s," RB "}", pid), NULL), "", "the process of a call");
    r = exec_pop(&me);
    is_str(tell(&a, line("{19," P ",%s," R2 "}", pid), NULL), "", "which runs by now");
    is_str(tell(&a, line("{20," P ",%s," R2 "}", pid), NULL), "", "one is dropped");
    finish(r, "{oops,[]}");
    is_str(got(&b), line("{28,%s," Q "," RB "} + {oops,[]}", pid), "ends with the reason of it");
    is_str(got(&a), "", "its caller has its answer by other ways");
    is_str(tell(&b, line("{19," Q ",%s," RB "}", pid), NULL),
           line("{28,%s," Q "," RB "} + noproc", pid), "then it is nobody");
    ok(!procs_watched(), "no watch is left");
}

static void test_demonitor_cancels(void) {
    uint64_t cancelled = stats_get(STATS_CANCELLED);
    const char *pid = call(&a, P, R, "[monitor]");
    struct request *r;

    tell(&b, line("{19," Q ",%s," RB "}", pid), NULL);
    is_str(tell(&b, line("{20," P ",%s," R "}", pid), NULL), "", "another peer's DEMONITOR");
    is_int(exec_queued(), 1, "does not cancel a call");
    is_str(tell(&a, line("{20," P ",%s," R "}", pid), NULL), "", "that of its caller");
    is_int(exec_queued(), 0, "does");
    is_str(got(&b), line("{28,%s," Q "," RB "} + killed", pid), "who else watches it is told");
    procs_register("counter", &object);
    tell(&a, "{19," P ",counter," R "}", NULL);
    tell(&a, "{6," P ",'',counter}", "{'$gen_call',{" P ",[alias|" R "]},get}");
    tell(&a, "{20," P ",counter," R "}", NULL);
    is_int(exec_queued(), 0, "a call to an object is cancelled by its monitor");
    is_int(stats_get(STATS_CANCELLED) - cancelled, 2, "two are counted");
    tell(&a, "{6," P ",'',counter}", "{'$gen_call',{" P "," R "},get}");
    r = exec_pop(&me);
    tell(&a, "{20," P ",counter," R "}", NULL);
    ok(!exec_claim(r), "one that runs has no audience");
    finish(r, "normal");
    unregister("counter", "normal");
    is_str(got(&a), "", "a monitor that was dropped tells nothing");
    ok(!procs_watched(), "no watch is left");
}

/* An answer through the caller's own monitor is its last. */
static void test_told(void) {
    struct request *r;

    procs_register("counter", &object);
    tell(&a, "{19," P ",counter," R "}", NULL);
    tell(&a, "{6," P ",'',counter}", "{'$gen_call',{" P "," R "},get}");
    r = exec_pop(&me);
    route_told(r);
    ok(!procs_watched(), "route_told() forgets the monitor that it was told by");
    finish(r, "normal");
    unregister("counter", "normal");
    is_str(got(&a), "", "which then has no second end");
}

static void test_links(void) {
    const char *pid;

    is_str(tell(&a, "{1," P "," NOBODY "}", NULL), "{3," NOBODY "," P ",noproc}",
           "a link to nobody");
    procs_register("counter", &object);
    pid = pid_of("counter");
    is_str(tell(&a, line("{1," P ",%s}", pid), NULL), "", "a link to an object");
    is_str(tell(&b, line("{1," Q ",%s}", pid), NULL), "", "another");
    is_str(tell(&a, line("{35,7," P ",%s}", pid), NULL), line("{36,7,%s," P "}", pid),
           "UNLINK_ID is acknowledged");
    is_str(tell(&a, "{35,5000000000," P "," NOBODY "}", NULL),
           "{36,16#000000012a05f200," NOBODY "," P "}", "also for what was never linked");
    unregister("counter", "shutdown");
    is_str(got(&b), line("{24,%s," Q "} + shutdown", pid), "the end is an exit signal");
    is_str(got(&a), "", "not to who has unlinked");
    procs_register("counter", &object);
    pid = pid_of("counter");
    tell(&a, line("{1," P ",%s}", pid), NULL);
    is_str(tell(&a, line("{4," P ",%s}", pid), NULL), "", "the old UNLINK has no answer");
    ok(!procs_watched(), "but ends the link");
    unregister("counter", "normal");
}

/* Exit signals to calls: in all their forms, to one that waits and to one that runs. */
static void test_exits(void) {
    static const struct {
        const char *control, *payload, *seen; /* control with %s for the pid */
    } exits[] = {
        {"{3," Q ",%s,oops}", NULL, "oops"},       {"{13," Q ",%s,token,oops}", NULL, "oops"},
        {"{24," Q ",%s}", "{oops,1}", "{oops,1}"}, {"{25," Q ",%s,token}", "{oops,1}", "{oops,1}"},
        {"{8," Q ",%s,kill}", NULL, "killed"},     {"{18," Q ",%s,token,oops}", NULL, "oops"},
        {"{26," Q ",%s}", "kill", "killed"},       {"{27," Q ",%s,token}", "oops", "oops"},
        {"{24," Q ",%s}", "kill", "kill"}, /* a link hands it on as any other reason */
    };
    char control[256];

    for (size_t i = 0; i < sizeof exits / sizeof exits[0]; i++) {
        const char *pid = call(&a, P, R, "[link,monitor]"), *want;
        struct request *r = i % 2 ? exec_pop(&me) : NULL;
        const char *at = strstr(exits[i].control, "%s");
        uint64_t cancelled = stats_get(STATS_CANCELLED);

        snprintf(control, sizeof control, "%.*s%s%s", (int)(at - exits[i].control),
                 exits[i].control, pid, at + 2);
        tell(&b, line("{19," Q ",%s," RB "}", pid), NULL);
        is_str(tell(&b, control, exits[i].payload),
               line("{28,%s," Q "," RB "} + %s", pid, exits[i].seen),
               "%s to a call that %s: a watcher is told", control, r ? "runs" : "waits");
        want = line("{28,%s," P "," R "} + %s\n{24,%s," P "} + %s", pid, exits[i].seen, pid,
                    exits[i].seen);
        is_str(got(&a), want, "so is its caller");
        is_int(exec_load(), r ? 1 : 0, "%s", r ? "it runs on" : "it waits no more");
        is_int(stats_get(STATS_CANCELLED) - cancelled, r ? 0 : 1, "%s as cancelled",
               r ? "which does not count" : "which counts");
        if (r)
            finish(r, "normal");
        is_str(got(&b), "", "nobody is told twice");
    }
}

static void test_no_exits(void) {
    const char *pid = call(&a, P, R, "[monitor]");

    is_str(tell(&b, line("{8," Q ",%s,normal}", pid), NULL), "", "exit(Pid, normal)");
    is_str(tell(&b, line("{3," Q ",%s,normal}", pid), NULL), "", "the same by a link");
    is_int(exec_queued(), 1, "do nothing to a call");
    tell(&b, "{8," Q "," NOBODY ",kill}", NULL);
    tell(&b, "{8," Q "," P ",kill}", NULL);
    is_str(got(&b), "", "to nobody, or to a process of another node: nothing");
    is_int(exec_queued(), 1, "nor to anybody else");
    is_str(got(&a), "", "its caller hears nothing");
    queued();
    procs_register("counter", &object);
    pid = pid_of("counter");
    tell(&a, line("{1," P ",%s}", pid), NULL);
    tell(&a, line("{3," P ",%s,{oops,1}}", pid), NULL);
    ok(!procs_watched(), "a link ends by its signal");
    tell(&a, line("{8," P ",%s,kill}", pid), NULL);
    tell(&a, line("{26," P ",%s}", pid), "normal");
    is_str(queued(),
           "8 counter {'EXIT'," P ",{oops,1}}\n8 counter {'EXIT'," P ",kill}\n"
           "8 counter {'EXIT'," P ",normal}",
           "to an object they are messages");
    unregister("counter", "normal");
}

static void test_spawn(void) {
    static const char *const wrong[][2] = {
        {"{m,f}", "[]"},
        {"{m,1,0}", "[]"},
        {"{erpc,execute_call,4}", "[m,f,[]]"},
        {"{erpc,execute_call,4}", "[res,m,<<\"f\">>,[]]"},
        {"{erpc,execute_cast,3}", "[res,m,f,[]]"},
        {"{erpc,execute_cast,3}", "args"},
    };
    uint64_t refused = stats_get(STATS_REFUSED);
    int i;

    for (i = 0; i < (int)(sizeof wrong / sizeof wrong[0]); i++)
        is_str(tell(&a, line("{29," R "," P "," P ",%s,[monitor]}", wrong[i][0]), wrong[i][1]),
               "{31," R "," P ",0,badarg}", "%s with %s is no call", wrong[i][0], wrong[i][1]);
    is_int(exec_queued(), 0, "none is queued");
    is_int(stats_get(STATS_REFUSED) - refused, 0, "nor counted as refused");

    tell(&a, "{29," R "," P "," P ",{erpc,execute_call,4},[monitor]}", "[res,m,f,[1]]");
    tell(&a, "{30," R2 "," P "," P ",{erpc,execute_cast,3},[],token}", "[m,g,[2]]");
    tell(&a, "{29," R3 "," P "," P ",{m,h,1},[{monitor,x}]}", "[3]");
    tell(&b, "{6," Q ",'',rex}", "{" Q ",{call,m,i,[4],user}}");
    is_int(exec_queued(), LIMIT, "calls are queued until the queue is full");
    is_str(tell(&a, "{29," R "," P "," P ",{m,f,0},[monitor]}", "[]"),
           "{31," R "," P ",0,overloaded}", "then they are refused");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{call,m,f,[],user}}"),
           "{2,''," P "} + {rex,{badrpc,overloaded}}", "each in its own way");
    is_int(stats_get(STATS_REFUSED) - refused, 2, "and counted");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{call,pynode,ready,[],user}}"),
           "{2,''," P "} + {rex,false}", "the node itself is asked without the queue");
    is_str(queued(), "0 m:f [1]\n1 m:g [2]\n2 m:h [3]\n5 m:i [4]", "what was queued, in order");
}

/* Delivers a message of this node's own to the object. */
static bool deliver(const char *payload) {
    struct buf bytes = {0};
    struct dist_msg msg = {.op = DIST_SEND};
    struct frame frame = {.whole = true};
    bool taken;

    term_put(&bytes, payload);
    msg.payload = (struct slice){bytes.data, bytes.len};
    frame.data = bytes.data;
    frame.len = bytes.len;
    taken =
        route_deliver(procs_find_name((struct slice){(const uint8_t *)"counter", 7}), &msg, &frame);
    free(frame.data);
    return taken;
}

static void test_deliver(void) {
    int before = object;

    procs_register("counter", &object);
    ok(deliver("hello"), "a message of this node's own");
    ok(deliver("{'$gen_cast',up}"), "a cast");
    ok(deliver("{'$gen_call',{" P "," R "},get}"), "what looks like a call");
    ok(deliver("{x,y}"), "one more");
    ok(!deliver("hello"), "a full queue takes no more");
    is_str(queued(),
           "8 counter hello\n7 counter up\n8 counter {'$gen_call',{" P "," R "},get}\n"
           "8 counter {x,y}",
           "each as what it is: a call has nobody to answer");
    unregister("counter", "normal");
    is_int(object - before, 1, "the object is not held any more");
}


/* A peer goes while its requests wait and run. */
static void test_closed(void) {
    uint64_t cancelled = stats_get(STATS_CANCELLED);
    struct end c;
    const char *first, *second;
    struct request *r;
    int before = object;

    open_end(&c, "c@h");
    procs_register("counter", &object);
    first = call(&c, P, R, "[monitor]");
    second = call(&c, P, R2, "[monitor]");
    r = exec_pop(&me);
    tell(&c, "{6," P ",'',counter}", "{'$gen_cast',up}");
    tell(&a, "{6," P ",'',counter}", "{'$gen_cast',down}");
    tell(&b, line("{19," Q ",%s," RB "}", first), NULL);
    tell(&b, line("{19," Q ",%s," R2 "}", second), NULL);
    tell(&c, "{19," P ",counter," R "}", NULL);
    tell(&c, line("{1," P ",%s}", second), NULL);
    route_closed(c.conn);
    is_int(stats_get(STATS_CANCELLED) - cancelled, 2, "what waits of it is cancelled, casts too");
    is_int(exec_queued(), 1, "the other peer's is not");
    is_str(got(&b), line("{28,%s," Q "," R2 "} + killed", second), "who watches a call is told");
    ok(!exec_claim(r), "what runs has no audience");
    finish(r, "normal");
    is_str(got(&b), line("{28,%s," Q "," RB "} + normal", first), "and is told when it ends");
    unregister("counter", "normal");
    is_str(got(&c), "", "what it watched is forgotten");
    is_str(queued(), "7 counter down", "the other peer's message is there");
    is_int(object - before, 1, "nothing holds the object");
    ok(!procs_watched(), "no watch is left");
    ok(close_end(&c), "nor anything that holds the connection");
}

static void test_draining(void) {
    route_drain();
    ok(route_draining(), "the node drains");
    is_str(tell(&a, "{29," R "," P "," P ",{m,f,0},[monitor]}", "[]"),
           "{31," R "," P ",0,draining}", "a spawn is refused");
    is_str(tell(&a, "{6," P ",'',rex}", "{'$gen_call',{" P "," R "},{call,m,f,[],user}}"),
           "{2,''," P "} + {" R ",{badrpc,draining}}", "a call to rex, too");
    procs_register("counter", &object);
    tell(&a, "{19," P ",counter," R "}", NULL);
    is_str(tell(&a, "{6," P ",'',counter}", "{'$gen_call',{" P "," R "},get}"),
           "{28,counter," P "," R "} + draining", "and one to an object");
    ok(!procs_watched(), "whose monitor was used up by that");
    ok(!deliver("hello"), "the node's own messages as well");
    unregister("counter", "normal");
    is_str(ping(&a, P, R, "{is_auth,a@h}"), "{2,''," P "} + {" R ",yes}", "a ping is answered");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{call,pynode,ready,[],user}}"),
           "{2,''," P "} + {rex,false}", "so is what the node itself is asked");
    is_int(exec_load(), 0, "nothing is queued");
}

/* All that is the same however a frame has come. */
static void test_all(void) {
    test_ping();
    a.conn->ticked = b.conn->ticked = 0;
    test_tick();
    test_dropped();
    test_malformed();
    test_rex();
    test_objects();
    test_monitors();
    test_demonitor_cancels();
    test_told();
    test_links();
    test_exits();
    test_no_exits();
    test_spawn();
    test_deliver();
    test_closed();
}

int main(void) {
    static const struct exec_hooks hooks;
    static const struct control_facts facts = {.node = "py@h"};
    struct io_settings settings = {.net_ticktime = 60};
    struct err e;
    uint64_t out;

    open_end(&a, "a@h");
    open_end(&b, "b@h");
    settings.listener = dup(a.peer);
    if (io_init(&settings, &e) < 0)
        tap_bail("%s", e.text);
    request_init("py@h", 77);
    route_init("py@h");
    procs_init(release_cb);
    control_init(&facts);
    exec_init(1, 1, LIMIT, &hooks);
    out = stats_get(STATS_BYTES_OUT);
    test_all();
    object = 0;
    whole = true;
    diag("each frame in a buffer of its own");
    test_all();
    test_draining();
    ok(stats_get(STATS_BYTES_OUT) > out, "what was sent is counted");
    is_int(exec_load(), 0, "no request is left");
    ok(close_end(&a) && close_end(&b), "nobody holds the connections any more");
    return tap_end();
}
