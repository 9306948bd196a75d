/* test_request.c - requests: every form in which work arrives, every frame that answers it.
 *
 * Each request is made twice, out of a frame that it may keep and out of one that it must copy
 * (which is then overwritten), and must be the same.
 */
#include "config.h"

#include "answer.h"
#include "tap.h"
#include "term.h"

#define P "<a@h,1,2,3>"       /* the caller */
#define R "#<a@h,7,8,9>"      /* its spawn request */
#define RES "#<a@h,7,8,10>"   /* erpc's own reference */
#define ALIAS "#<a@h,7,8,11>" /* gen_server's */
#define TAG "[alias|" ALIAS "]"
#define NOBODY "<py@h,0,0,77>" /* a pid of ours that never lived */

typedef struct request *request_maker(const struct dist_msg *, struct frame *);

/* Makes a request out of a frame. A shared one lies behind other bytes, as in a connection's
 * buffer, and is overwritten as soon as the request is there. */
static struct request *make(request_maker *maker, const char *control, const char *payload,
                            bool whole) {
    struct buf b = {0};
    struct frame frame = {.whole = whole};
    struct dist_msg msg;
    struct request *r;
    const char *why = NULL;
    size_t offset = whole ? 0 : 13;

    buf_put(&b, "before, before", offset);
    term_put_frame(&b, control, payload);
    frame.data = b.data + offset;
    frame.len = b.len - offset;
    if (dist_parse(frame.data, frame.len, &msg, &why) < 0)
        tap_bail("%s: %s", control, why);
    r = maker(&msg, &frame);
    if (whole && r && frame.data)
        tap_bail("%s: the whole frame was not taken", control);
    if (!whole)
        memset(b.data, 0xee, b.len);
    if (!whole || !r) {
        /* Not taken: still the caller's, so still there. */
        ok(frame.data == b.data + offset, "%s %s: the frame stays the caller's", control, payload);
        if (frame.data)
            free(b.data);
    }
    return r;
}

/* Text that is not a term. */
static const char *text(struct slice s) {
    static char ring[4][256];
    static int next;
    char *t = ring[next++ % 4];

    snprintf(t, sizeof ring[0], "%.*s", s.data ? (int)s.len : 1,
             s.data ? (const char *)s.data : "-");
    return t;
}

/* All that a request has read, as text. */
static const char *fields(const struct request *r) {
    static char line[2048];

    if (!r)
        return "none";
    snprintf(line, sizeof line,
             "%d from %s ref %s tag %s to %s res %s call %s:%s args %s flags %d pid %d", r->kind,
             term_text(r->from), term_text(r->ref), term_text(r->tag), term_text(r->to),
             term_text(r->res), text(r->module), text(r->function), term_text(r->args),
             r->spawn_flags, r->pid_serial > 0);
    return line;
}

#define SPAWN(mfa, opts) "{29," R "," P "," P "," mfa "," opts "}"
#define SEND(name) "{6," P ",''," name "}"
#define EXECUTE_CALL "{erpc,execute_call,4}"
#define EXECUTE_CAST "{erpc,execute_cast,3}"

static const struct {
    request_maker *maker;
    const char *control, *payload, *want;
} forms[] = {
    {request_from_spawn, SPAWN(EXECUTE_CALL, "[monitor]"), "[" RES ",math,sqrt,[2]]",
     "0 from " P " ref " R " tag - to - res " RES " call math:sqrt args [2] flags 2 pid 1"},
    {request_from_spawn, SPAWN(EXECUTE_CALL, "[{monitor,[]},link]"), "[" RES ",m,f,[]]",
     "0 from " P " ref " R " tag - to - res " RES " call m:f args [] flags 3 pid 1"},
    {request_from_spawn, SPAWN(EXECUTE_CAST, "[]"), "[m,f,[1,2]]",
     "1 from " P " ref " R " tag - to - res - call m:f args [1,2] flags 0 pid 1"},
    {request_from_spawn, SPAWN("{math,sqrt,1}", "[link]"), "[2]",
     "2 from " P " ref " R " tag - to - res - call math:sqrt args [2] flags 1 pid 1"},
    {request_from_spawn, SPAWN("{erpc,execute_call,4}", "[]"), "[" RES ",'os.path','Path.cwd',[]]",
     "0 from " P " ref " R " tag - to - res " RES " call os.path:Path.cwd args [] flags 0 pid 1"},
    {request_from_spawn, SPAWN(EXECUTE_CALL, "[monitor]"), "[1,m,f]", "none"},
    {request_from_spawn, SPAWN(EXECUTE_CALL, "[monitor]"), "[" RES ",1,f,[]]", "none"},
    {request_from_spawn, SPAWN(EXECUTE_CALL, "[monitor]"), "x", "none"},
    {request_from_spawn, SPAWN(EXECUTE_CAST, "[]"), "[" RES ",m,f,[]]", "none"},
    {request_from_spawn, SPAWN("{m,f}", "[]"), "[]", "none"},
    {request_from_spawn, SPAWN("{1,f,0}", "[]"), "[]", "none"},

    {request_from_rex, SEND("rex"), "{'$gen_call',{" P "," TAG "},{block_call,m,f,[1]," P "}}",
     "3 from " P " ref " ALIAS " tag " TAG " to - res - call m:f args [1] flags 0 pid 0"},
    {request_from_rex, SEND("rex"), "{'$gen_call',{" P "," R "},{call,m,f,[]," P "}}",
     "3 from " P " ref " R " tag " R " to - res - call m:f args [] flags 0 pid 0"},
    {request_from_rex, SEND("rex"), "{'$gen_cast',{cast,m,f,[1]," P "}}",
     "4 from - ref - tag - to - res - call m:f args [1] flags 0 pid 0"},
    {request_from_rex, SEND("rex"), "{" P ",{call,m,f,[1]," P "}}",
     "5 from " P " ref - tag - to - res - call m:f args [1] flags 0 pid 0"},
    {request_from_rex, SEND("rex"), "{" P ",{call,m,f,[1],user}}",
     "5 from " P " ref - tag - to - res - call m:f args [1] flags 0 pid 0"},
    {request_from_rex, SEND("rex"), "{" P ",{call,m,f,[1]}}", "none"},
    {request_from_rex, SEND("rex"), "{" P ",{sbcast,n,m}}", "none"},
    {request_from_rex, SEND("rex"), "{n,{call,m,f,[1]," P "}}", "none"},
    {request_from_rex, SEND("rex"), "{'$gen_call',{1," TAG "},{call,m,f,[]," P "}}", "none"},
    {request_from_rex, SEND("rex"), "{'$gen_call',{" P "},{call,m,f,[]," P "}}", "none"},
    {request_from_rex, SEND("rex"), "{'$gen_call',{" P "," TAG "},{call,1,f,[]," P "}}", "none"},
    {request_from_rex, SEND("rex"), "{'$gen_cast',{call,m,f,[]," P "}}", "none"},
    {request_from_rex, SEND("rex"), "hello", "none"},
    {request_from_rex, SEND("rex"), "{}", "none"},
    {request_from_rex, SEND("rex"), "[]", "none"},

    {request_from_server, SEND("counter"), "{'$gen_call',{" P "," TAG "},{add,5}}",
     "6 from " P " ref " ALIAS " tag " TAG " to counter res - call -:- args {add,5} flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{'$gen_call',{" P "," R "},x}",
     "6 from " P " ref " R " tag " R " to counter res - call -:- args x flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{'$gen_call',{" P ",7},x}",
     "6 from " P " ref - tag 7 to counter res - call -:- args x flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{'$gen_call',{" P ",[other|" R "]},x}",
     "6 from " P " ref - tag [other|" R "] to counter res - call -:- args x flags 0 pid 0"},
    {request_from_server, "{2,'',<py@h,4,5,6>}", "{'$gen_cast',{add,5}}",
     "7 from - ref - tag - to <py@h,4,5,6> res - call -:- args {add,5} flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{hello,1}",
     "8 from - ref - tag - to counter res - call -:- args {hello,1} flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{'$gen_call',{1,2},x}",
     "8 from - ref - tag - to counter res - call -:- args {'$gen_call',{1,2},x} flags 0 pid 0"},
    {request_from_server, SEND("counter"), "{'$gen_cast',1,2}",
     "8 from - ref - tag - to counter res - call -:- args {'$gen_cast',1,2} flags 0 pid 0"},
};

static void test_forms(void) {
    size_t i;

    for (i = 0; i < sizeof forms / sizeof *forms; i++) {
        int whole;

        for (whole = 0; whole < 2; whole++) {
            struct request *r = make(forms[i].maker, forms[i].control, forms[i].payload, whole);

            is_str(fields(r), forms[i].want, "%s %s%s", forms[i].control, forms[i].payload,
                   whole ? " (kept)" : " (copied)");
            if (r)
                request_free(r);
        }
    }
}

/* Requests to answer, one of each kind that is answered differently. */
static struct request *call(const char *opts) {
    char control[256];

    snprintf(control, sizeof control, SPAWN(EXECUTE_CALL, "%s"), opts);
    return make(request_from_spawn, control, "[" RES ",m,f,[]]", true);
}

static struct request *cast(void) {
    return make(request_from_spawn, SPAWN(EXECUTE_CAST, "[]"), "[m,f,[]]", true);
}

static struct request *spawn(const char *opts) {
    char control[256];

    snprintf(control, sizeof control, SPAWN("{m,f,0}", "%s"), opts);
    return make(request_from_spawn, control, "[]", true);
}

static struct request *rex_call(void) {
    return make(request_from_rex, SEND("rex"),
                "{'$gen_call',{" P "," TAG "},{block_call,m,f,[]," P "}}", true);
}

static struct request *rex_cast(void) {
    return make(request_from_rex, SEND("rex"), "{'$gen_cast',{cast,m,f,[]," P "}}", true);
}

static struct request *rex_old(void) {
    return make(request_from_rex, SEND("rex"), "{" P ",{call,m,f,[]," P "}}", true);
}

static struct request *server_call(const char *tag) {
    char payload[256];

    snprintf(payload, sizeof payload, "{'$gen_call',{" P ",%s},x}", tag);
    return make(request_from_server, SEND("counter"), payload, true);
}

static struct request *server_cast(void) {
    return make(request_from_server, SEND("counter"), "{'$gen_cast',x}", true);
}

static struct request *server_info(void) {
    return make(request_from_server, SEND("counter"), "x", true);
}

/* A format with the request's own pid put in for each %s. */
static const char *with_pid(const struct request *r, const char *format) {
    static char line[2048];
    char pid[64];

    snprintf(pid, sizeof pid, "<py@h,%u,%u,77>", r->pid_id, r->pid_serial);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(line, sizeof line, format, pid, pid, pid);
#pragma GCC diagnostic pop
    return line;
}

static struct buf out;

/* Compares the frames that were written, then frees the request. */
static void answered(struct request *r, const char *want, const char *name) {
    is_str(term_take(&out), with_pid(r, want), "%s", name);
    request_free(r);
}

/* Gives the value 42, if one is wanted. */
static struct request *reply(struct request *r) {
    size_t begin = 0;

    if (answer_begin(r, &out, &begin)) {
        term_put(&out, "42");
        is_int(answer_end(r, &out, begin), 0, "the answer is closed");
    } else {
        answer_done(r, &out);
    }
    return r;
}

#define SPAWN_REPLY(flags) "{31," R "," P "," flags ",%s}"

static void test_value(void) {
    answered(reply(call("[monitor]")),
             SPAWN_REPLY("2") "\n{28,%s," P "," R "} + {" RES ",return,42}", "call: a value");
    answered(reply(call("[monitor,link]")),
             SPAWN_REPLY("3") "\n{28,%s," P "," R "} + {" RES ",return,42}"
                              "\n{24,%s," P "} + normal",
             "call with a link: a value");
    answered(reply(call("[]")), SPAWN_REPLY("0"), "call that nobody watches: none");
    answered(reply(cast()), SPAWN_REPLY("0"), "cast: none");
    answered(reply(spawn("[]")), SPAWN_REPLY("0"), "spawn: none");
    answered(reply(spawn("[monitor,link]")),
             SPAWN_REPLY("3") "\n{28,%s," P "," R "} + normal\n{24,%s," P "} + normal",
             "spawn that is watched: it ends normally");
    answered(reply(rex_call()), "{33," NOBODY "," ALIAS "} + {" TAG ",42}", "rex call: a value");
    answered(reply(rex_cast()), "", "rex cast: none");
    answered(reply(rex_old()), "{2,''," P "} + {rex,42}", "old rex call: a value");
    answered(reply(server_call(TAG)), "{33," NOBODY "," ALIAS "} + {" TAG ",42}",
             "gen_server:call: a value to the alias");
    answered(reply(server_call(R)), "{2,''," P "} + {" R ",42}",
             "gen_server:call without an alias: a value to the pid");
    answered(reply(server_cast()), "", "gen_server:cast: none");
    answered(reply(server_info()), "", "message: none");
}

/* Ends it in the error {python_error,x} with a stack of one. */
static struct request *fail(struct request *r) {
    struct buf reason = {0}, stack = {0};

    term_put(&reason, "{python_error,x}");
    term_put(&stack, "[s]");
    answer_error(r, &out, (struct slice){reason.data, reason.len},
                        (struct slice){stack.data, stack.len});
    buf_done(&reason);
    buf_done(&stack);
    return r;
}

#define WHY "{{python_error,x},[s]}"

static void test_error(void) {
    answered(fail(call("[monitor]")),
             SPAWN_REPLY("2") "\n{28,%s," P "," R "} + {" RES ",error,{python_error,x},[s]}",
             "call: an error");
    answered(fail(call("[link]")), SPAWN_REPLY("1") "\n{24,%s," P "} + " WHY,
             "call with a link: an error");
    answered(fail(cast()), SPAWN_REPLY("0"), "cast: an error");
    answered(fail(spawn("[monitor,link]")),
             SPAWN_REPLY("3") "\n{28,%s," P "," R "} + " WHY "\n{24,%s," P "} + " WHY,
             "spawn: an error");
    answered(fail(rex_call()), "{33," NOBODY "," ALIAS "} + {" TAG ",{badrpc,{'EXIT'," WHY "}}}",
             "rex call: an error");
    answered(fail(rex_cast()), "", "rex cast: an error");
    answered(fail(rex_old()), "{2,''," P "} + {rex,{badrpc,{'EXIT'," WHY "}}}",
             "old rex call: an error");
    answered(fail(server_call(TAG)), "{28,counter," P "," ALIAS "} + " WHY,
             "gen_server:call: an error by its monitor");
    answered(fail(server_call(R)), "{28,counter," P "," R "} + " WHY,
             "gen_server:call without an alias: the same");
    answered(fail(server_call("7")), "", "gen_server:call without a monitor: nobody to tell");
    answered(fail(server_cast()), "", "gen_server:cast: an error");
    answered(fail(server_info()), "", "message: an error");
}

static struct request *refuse(struct request *r) {
    answer_refuse(r, &out, "overloaded");
    return r;
}

static void test_refused(void) {
    const char *spawn_reply = "{31," R "," P ",0,overloaded}";

    answered(refuse(call("[monitor]")), spawn_reply, "call: refused");
    answered(refuse(cast()), spawn_reply, "cast: refused");
    answered(refuse(spawn("[link]")), spawn_reply, "spawn: refused");
    answered(refuse(rex_call()), "{33," NOBODY "," ALIAS "} + {" TAG ",{badrpc,overloaded}}",
             "rex call: refused");
    answered(refuse(rex_cast()), "", "rex cast: refused");
    answered(refuse(rex_old()), "{2,''," P "} + {rex,{badrpc,overloaded}}",
             "old rex call: refused");
    answered(refuse(server_call(TAG)), "{28,counter," P "," ALIAS "} + overloaded",
             "gen_server:call: refused");
    answered(refuse(server_call("7")), "", "gen_server:call without a monitor: refused");
    answered(refuse(server_cast()), "", "gen_server:cast: refused");
    answered(refuse(server_info()), "", "message: refused");
}

static struct request *told_to_exit(struct request *r) {
    struct buf reason = {0};

    term_put(&reason, "killed");
    answer_exit(r, &out, (struct slice){reason.data, reason.len});
    buf_done(&reason);
    return r;
}

static void test_exit(void) {
    answered(told_to_exit(call("[monitor]")), SPAWN_REPLY("2") "\n{28,%s," P "," R "} + killed",
             "call: told to exit");
    answered(told_to_exit(spawn("[link]")), SPAWN_REPLY("1") "\n{24,%s," P "} + killed",
             "spawn: told to exit");
    answered(told_to_exit(server_call(TAG)), "", "gen_server:call: is no process");
}

static void test_announce(void) {
    struct request *r = call("[monitor]");

    answer_announce(r, &out);
    ok(r->announced, "a request knows that it is announced");
    is_str(term_take(&out), with_pid(r, SPAWN_REPLY("2")), "SPAWN_REPLY when the work starts");
    answer_announce(r, &out);
    is_str(term_take(&out), "", "once only");
    reply(r);
    answered(r, "{28,%s," P "," R "} + {" RES ",return,42}", "and not again with the value");
    r = server_call(TAG);
    answer_announce(r, &out);
    answered(r, "", "gen_server:call has no process to announce");
}

/* An answer of 2^31 bytes is taken back, and an error can be sent instead. */
static void test_too_long(void) {
    struct request *r = call("[monitor]");
    size_t begin, before, cap;

    term_put_frame(&out, "{1," P "," P "}", NULL);
    answer_announce(r, &out);
    before = out.len;
    if (!answer_begin(r, &out, &begin))
        tap_bail("no value wanted");
    cap = out.cap;
    out.len = out.cap = begin + (size_t)INT32_MAX + 100;
    is_int(answer_end(r, &out, begin), -1, "2^31 bytes are refused");
    out.cap = cap;
    is_int(out.len, before, "and what was there before stays");
    fail(r);
    answered(r,
             "{1," P "," P "}\n" SPAWN_REPLY("2") "\n{28,%s," P "," R "} + {" RES
                                                  ",error,{python_error,x},[s]}",
             "an error goes instead");
}

static void test_gen(void) {
    struct buf b = {0};
    struct request_gen gen;
    size_t begin;

    term_put(&b, "{'$gen_call',{" P "," TAG "},{is_auth,a@h}}");
    is_int(request_read_gen_call((struct slice){b.data, b.len}, &gen), 0, "a gen_server:call");
    is_str(term_text(gen.pid), P, "its caller");
    is_str(term_text(gen.tag), TAG, "its tag");
    is_str(term_text(gen.body), "{is_auth,a@h}", "its body");
    begin = answer_gen_begin(&out, &gen);
    term_put(&out, "yes");
    is_int(dist_end(&out, begin), 0, "the answer");
    is_str(term_take(&out), "{33," NOBODY "," ALIAS "} + {" TAG ",yes}", "goes to the alias");
    buf_done(&b);
}

static void test_pids(void) {
    struct buf b = {0};
    uint32_t id = 0, serial = 0, i, same = 0;
    uint64_t seen[2] = {0, 0};

    request_put_pid(&b, 0x0fffffff, 0xffffffff);
    is_str(term_text((struct slice){b.data, b.len}), "<py@h,268435455,4294967295,77>", "our pid");
    ok(request_own_pid((struct slice){b.data, b.len}, &id, &serial), "is ours");
    is_int(id, 0x0fffffff, "its id");
    is_int(serial, 0xffffffff, "its serial");
    for (i = 0; i < b.len; i++)
        same += request_own_pid((struct slice){b.data, i}, &id, &serial);
    is_int(same, 0, "a beginning of it is not");
    b.len = 0;
    term_put(&b, "<py@h,1,2,78>");
    ok(!request_own_pid((struct slice){b.data, b.len}, &id, &serial), "of another creation: not");
    b.len = 0;
    term_put(&b, "<py@i,1,2,77>");
    ok(!request_own_pid((struct slice){b.data, b.len}, &id, &serial), "of another node: not");
    b.len = 0;
    term_put(&b, "counter");
    ok(!request_own_pid((struct slice){b.data, b.len}, &id, &serial), "an atom: not");
    ok(!request_own_pid((struct slice){NULL, 0}, &id, &serial), "nothing: not");
    for (i = same = 0; i < 1000; i++) {
        struct request *r = cast();

        seen[1] = (uint64_t)r->pid_serial << 28 | r->pid_id;
        same += seen[1] <= seen[0];
        seen[0] = seen[1];
        request_free(r);
    }
    is_int(same, 0, "1000 requests have 1000 pids");
    buf_done(&b);
}

int main(void) {
    request_init("py@h", 77);
    test_forms();
    test_value();
    test_error();
    test_refused();
    test_exit();
    test_announce();
    test_too_long();
    test_gen();
    test_pids();
    buf_done(&out);
    return tap_end();
}
