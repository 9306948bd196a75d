/* test_answer.c - answers: the frames, and the gathered items, that end each kind of request. */
#include "config.h"

#include "answer.h"
#include "made.h"
#include "tap.h"
#include "term.h"

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

static struct request *app_call(const char *opts, bool gathered) {
    char item[512];

    snprintf(item, sizeof item, "{call," R ",m,f,[],%s}", opts);
    return make_app(item, gathered, true);
}

static struct request *app_cast(const char *opts, bool gathered) {
    char item[512];

    snprintf(item, sizeof item, "{cast,m,f,[],%s}", opts);
    return make_app(item, gathered, true);
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

/* Compares the item that was written, then frees the request. */
static void gathered(struct request *r, const char *want, const char *name) {
    is_str(term_text((struct slice){out.len ? out.data : NULL, out.len}), want, "%s", name);
    out.len = 0;
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

/* Ends it in that error with a stack of one. */
static struct request *fail_with(struct request *r, const char *why) {
    struct buf reason = {0}, stack = {0};

    term_put(&reason, why);
    term_put(&stack, "[s]");
    answer_error(r, &out, (struct slice){reason.data, reason.len},
                 (struct slice){stack.data, stack.len});
    buf_done(&reason);
    buf_done(&stack);
    return r;
}

static struct request *fail(struct request *r) {
    return fail_with(r, "{python_error,x}");
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

/* The Erlang application's. */

#define TO_ALIAS "{33," NOBODY "," R "} + {py_response," R ","
#define PYTHON_ERROR "{python_error,'ValueError',<<\"no\">>}"

static void test_app_value(void) {
    answered(reply(app_call("#{}", false)), TO_ALIAS "{ok,42}}", "py:call: a value to the alias");
    gathered(reply(app_call("#{}", true)), "{" R ",{ok,42}}", "of a list: an item");
    answered(reply(app_cast("#{}", false)), "", "py:cast: none");
    gathered(reply(app_cast("#{}", true)), "-", "of a list: none");
}

static void test_app_error(void) {
    static const struct {
        const char *opts, *reason, *want, *what;
    } errors[] = {
        {"#{}", PYTHON_ERROR, "{'ValueError',<<\"no\">>}", "an exception"},
        {"#{traceback=>false}", PYTHON_ERROR, "{'ValueError',<<\"no\">>}", "without its stack"},
        {"#{traceback=>true}", PYTHON_ERROR, "{'ValueError',<<\"no\">>,[s]}", "with its stack"},
        {"#{traceback=>true}", "{not_allowed,{m,f}}", "{not_allowed,{m,f}}",
         "what is no exception has none"},
        {"#{}", "{python_error,x}", "{python_error,x}", "nor is half of one"},
        {"#{traceback=>true}", "{python_errors,x,y}", "{python_errors,x,y}", "nor another word"},
        {"#{}", "{1,x,y}", "{1,x,y}", "nor a number"},
        {"#{}", "killed", "killed", "nor a word alone"},
    };
    char want[512];

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        snprintf(want, sizeof want, TO_ALIAS "{error,%s}}", errors[i].want);
        answered(fail_with(app_call(errors[i].opts, false), errors[i].reason), want,
                 errors[i].what);
        snprintf(want, sizeof want, "{" R ",{error,%s}}", errors[i].want);
        gathered(fail_with(app_call(errors[i].opts, true), errors[i].reason), want, "of a list");
    }
    answered(fail_with(app_cast("#{}", false), PYTHON_ERROR), "", "py:cast: none");
    gathered(fail_with(app_cast("#{}", true), PYTHON_ERROR), "-", "of a list: none");
}

static void test_app_refused(void) {
    answered(refuse(app_call("#{}", false)), TO_ALIAS "{error,overloaded}}", "py:call: refused");
    gathered(refuse(app_call("#{}", true)), "{" R ",{error,overloaded}}", "of a list: an item");
    answered(refuse(app_cast("#{}", false)), "", "py:cast: nobody is told");
    gathered(refuse(app_cast("#{}", true)), "-", "of a list: nobody");
}

static struct request *bad_option(struct request *r) {
    answer_bad_option(r, &out);
    return r;
}

static void test_app_bad_option(void) {
    answered(bad_option(app_call("#{wrong=>1}", false)), TO_ALIAS "{error,{bad_option,wrong}}}",
             "py:call: a bad option is named");
    gathered(bad_option(app_call("#{wrong=>1}", true)), "{" R ",{error,{bad_option,wrong}}}",
             "of a list: an item");
    answered(bad_option(app_call("#{''=>1}", false)), TO_ALIAS "{error,{bad_option,''}}}",
             "one with an empty name, too");
    answered(bad_option(app_cast("#{wrong=>1}", false)), "", "py:cast: nobody is told");
    gathered(bad_option(app_cast("#{wrong=>1}", true)), "-", "of a list: nobody");
    answered(bad_option(call("[monitor]")), "", "a call by erpc has no options");
}

/* It is no process: nobody watches it, and no exit signal can reach it. */
static void test_app_process(void) {
    struct request *r = app_call("#{}", false);

    answer_announce(r, &out);
    answer_done(r, &out);
    answered(told_to_exit(r), "", "py:call is no process to its caller");
}

/* Behind other bytes in the buffer, which stay. */
static void test_app_behind(void) {
    struct request *r = app_call("#{}", true);
    struct buf first = {0};

    term_put(&out, "first");
    term_put(&first, "first");
    reply(r);
    is_mem(out.data, first.len, first.data, first.len, "what was there before stays");
    is_str(term_text((struct slice){out.data + first.len, out.len - first.len}), "{" R ",{ok,42}}",
           "and the item follows");
    out.len = 0;
    request_free(r);
    buf_done(&first);
}

/* What was an item becomes a frame. */
static void test_ungather(void) {
    struct request *r = reply(app_call("#{}", true));

    answer_ungather(r, &out);
    ok(!r->gathered, "it is not gathered any more");
    answered(r, TO_ALIAS "{ok,42}}", "a value goes to the alias");
    r = fail_with(app_call("#{traceback=>true}", true), PYTHON_ERROR);
    answer_ungather(r, &out);
    answered(r, TO_ALIAS "{error,{'ValueError',<<\"no\">>,[s]}}}", "an error, too");
    r = refuse(app_call("#{}", true));
    answer_ungather(r, &out);
    answered(r, TO_ALIAS "{error,overloaded}}", "and a refusal");
}

/* Claims that so many bytes follow begin, which nobody looks at: as answer_end(). */
static int end_at(struct request *r, size_t begin, size_t len) {
    size_t cap = out.cap;
    int result;

    out.len = out.cap = begin + len;
    result = answer_end(r, &out, begin);
    out.cap = cap;
    return result;
}

/* Its length would have been more than the four bytes of a frame's can say. */
static void test_app_too_long(void) {
    struct request *r = app_call("#{}", false);
    size_t begin;

    if (!answer_begin(r, &out, &begin))
        tap_bail("no value wanted");
    is_int(end_at(r, begin, (size_t)INT32_MAX + 100), -1, "2^31 bytes to the alias are refused");
    is_int(out.len, begin, "and taken back");
    out.len = begin;
    answered(fail(r), TO_ALIAS "{error,{python_error,x}}}", "an error goes instead");

    r = app_call("#{}", true);
    if (!answer_begin(r, &out, &begin))
        tap_bail("no value wanted");
    is_int(end_at(r, begin, INT32_MAX), -1, "an item that has no room in a frame is refused");
    is_int(out.len, begin, "and taken back");
    out.len = begin;
    gathered(fail(r), "{" R ",{error,{python_error,x}}}", "an error goes instead");

    r = app_call("#{}", true);
    if (!answer_begin(r, &out, &begin))
        tap_bail("no value wanted");
    is_int(end_at(r, begin, (size_t)1 << 30), 0, "one of 2^30 bytes is not");
    out.len = 0;
    request_free(r);
}

static void test_items(void) {
    struct request *r = app_call("#{stream=>2}", false);
    size_t begin = answer_items_begin(r, &out, 2);

    term_put(&out, "1");
    term_put(&out, "{a}");
    etf_put_nil(&out);
    is_int(answer_end(r, &out, begin), 0, "items of a stream");
    is_str(term_take(&out), "{33," NOBODY "," R "} + {py_items," R ",[1,{a}]}", "go to who reads it");
    request_free(r);
}

static void test_gen(void) {
    struct buf pid = {0}, tag = {0};
    struct request_gen gen = {{0}, {0}, {0}};
    size_t begin;

    term_put(&pid, P);
    term_put(&tag, TAG);
    gen.pid = (struct slice){pid.data, pid.len};
    gen.tag = (struct slice){tag.data, tag.len};
    begin = answer_gen_begin(&out, &gen);
    term_put(&out, "yes");
    is_int(dist_end(&out, begin), 0, "the answer to a gen_server:call");
    is_str(term_take(&out), "{33," NOBODY "," ALIAS "} + {" TAG ",yes}", "goes to the alias");
    buf_done(&pid);
    buf_done(&tag);
}

int main(void) {
    request_init("py@h", 77);
    test_value();
    test_error();
    test_refused();
    test_exit();
    test_announce();
    test_too_long();
    test_items();
    test_gen();
    test_app_value();
    test_app_error();
    test_app_refused();
    test_app_bad_option();
    test_app_process();
    test_app_behind();
    test_ungather();
    test_app_too_long();
    buf_done(&out);
    return tap_end();
}
