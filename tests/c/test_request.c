/* test_request.c - requests: every form in which work arrives.
 *
 * Each request is made twice, out of a frame that it may keep and out of one that it must copy
 * (which is then overwritten), and must be the same.
 */
#include "config.h"

#include "request.h"
#include "made.h"
#include "tap.h"
#include "term.h"

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

/* The Erlang application's. */

/* All that such a request has read, as text; what is not there is left out. */
static const char *app_fields(const struct request *r) {
    const struct request_options *o = r ? &r->options : NULL;
    static char line[4096];
    char stream[32] = "";

    if (!r)
        return "none";
    if (o->stream > 0)
        snprintf(stream, sizeof stream, " stream %u/%lld", (unsigned)o->stream, (long long)r->credit);
    snprintf(line, sizeof line, "%d %s %s:%s %s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s", r->kind, term_text(r->ref),
             text(r->module), text(r->function), term_text(r->args),
             o->kwargs.data ? " kwargs " : "", o->kwargs.data ? term_text(o->kwargs) : "",
             o->queue.data ? " queue " : "", o->queue.data ? term_text(o->queue) : "",
             o->strings == REQUEST_STRINGS_UTF8    ? " utf8"
             : o->strings == REQUEST_STRINGS_BYTES ? " bytes"
                                                   : "",
             o->traceback ? " traceback" : "", o->thread ? " thread" : "",
             o->executor ? " executor" : "", o->loop ? " loop" : "", o->map ? " map" : "", stream,
             o->id.len > 0 ? " id " : "", o->id.len > 0 ? text(o->id) : "",
             o->bad.data ? " bad " : "",
             o->bad.data ? text(o->bad) : "", r->gathered ? " gathered" : "");
    if (r->from.data || r->tag.data || r->to.data || r->res.data || r->pid_id || r->spawn_flags)
        tap_bail("%s: more was filled in than the application says", line);
    return line;
}

#define CALL(opts) "{call," R ",m,f,[1]," opts "}"
#define CAST(opts) "{cast,m,f,[1]," opts "}"
#define ID64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CALLED "9 " R " m:f [1]"
#define CAST_ "10 - m:f [1]"

/* An item, and what is read from it, but for the word `gathered`. */
static const struct {
    const char *item, *want;
} app_forms[] = {
    {CALL("#{}"), CALLED},
    {CAST("#{}"), CAST_},
    {"{call," R ",<<\"os.path\">>,<<\"join\">>,[],#{}}", "9 " R " os.path:join []"},
    {"{call," R ",'os.path',<<\"join\">>,[],#{}}", "9 " R " os.path:join []"},
    {"{cast,<<\"os.path\">>,join,[],#{}}", "10 - os.path:join []"},
    {"{call," R ",m,f,x,#{}}", "9 " R " m:f x"},
    {"{call," R ",'','',[],#{}}", "9 " R " : []"},

    {CALL("#{kwargs=>#{a=>1,<<\"b\">>=>[]}}"), CALLED " kwargs #{a=>1,<<\"b\">>=>[]}"},
    {CALL("#{kwargs=>#{}}"), CALLED " kwargs #{}"},
    {CALL("#{kwargs=>[]}"), CALLED " kwargs [] bad kwargs"},
    {CALL("#{kwargs=>none}"), CALLED " kwargs none bad kwargs"},
    {CALL("#{strings=>utf8}"), CALLED " utf8"},
    {CALL("#{strings=>bytes}"), CALLED " bytes"},
    {CALL("#{strings=>latin1}"), CALLED " utf8 bad strings"},
    {CALL("#{strings=><<\"bytes\">>}"), CALLED " utf8 bad strings"},
    {CALL("#{traceback=>true}"), CALLED " traceback"},
    {CALL("#{traceback=>false}"), CALLED},
    {CALL("#{traceback=>1}"), CALLED " bad traceback"},
    {CALL("#{queue=>db}"), CALLED " queue db"},
    {CALL("#{queue=>{<<\"db\">>,1,#<a@h,7,8,12>}}"), CALLED " queue {<<\"db\">>,1,#<a@h,7,8,12>}"},
    {CALL("#{thread=>new}"), CALLED " thread"},
    {CALL("#{thread=>old}"), CALLED " thread bad thread"},
    {CALL("#{thread=>true}"), CALLED " thread bad thread"},
    {CALL("#{executor=>blocking}"), CALLED " executor"},
    {CALL("#{executor=>default}"), CALLED " executor bad executor"},
    {CALL("#{loop=>true}"), CALLED " loop"},
    {CALL("#{loop=>false}"), CALLED " loop bad loop"},
    {CALL("#{loop=>true,queue=>q}"), CALLED " queue q loop bad loop"},
    {CALL("#{loop=>true,thread=>new}"), CALLED " thread loop bad loop"},
    {CALL("#{loop=>true,executor=>blocking}"), CALLED " executor loop bad loop"},
    {CALL("#{loop=>true,map=>true}"), CALLED " loop map"},
    {CALL("#{map=>true}"), CALLED " map bad map"},
    {CALL("#{loop=>true,map=>yes}"), CALLED " loop map bad map"},
    {CALL("#{loop=>true,map=>true,stream=>1}"), CALLED " loop map stream 1/1 bad map"},
    {CALL("#{stream=>64}"), CALLED " stream 64/64"},
    {CALL("#{loop=>true,stream=>1048576}"), CALLED " loop stream 1048576/1048576"},
    {CALL("#{stream=>1048577}"), CALLED " bad stream"},
    {CALL("#{stream=>0}"), CALLED " bad stream"},
    {CALL("#{stream=>-1}"), CALLED " bad stream"},
    {CALL("#{stream=>many}"), CALLED " bad stream"},
    {CALL("#{id=><<\"a\">>}"), CALLED " id a"},
    {CALL("#{id=><<\"" ID64 "\">>,loop=>true,map=>true}"), CALLED " loop map id " ID64},
    {CALL("#{id=><<\"" ID64 "x\">>}"), CALLED " id " ID64 "x bad id"},
    {CALL("#{id=><<\"\">>}"), CALLED " bad id"},
    {CALL("#{id=>a}"), CALLED " bad id"},
    {CALL("#{id=>[97]}"), CALLED " bad id"},
    {CALL("#{id=><<\"a\">>,stream=>1}"), CALLED " stream 1/1 id a bad id"},
    {CALL("#{id=><<\"a\">>,queue=>q}"), CALLED " queue q id a"},
    {CAST("#{id=><<\"a\">>}"), CAST_ " id a bad id"},
    {CAST("#{loop=>true}"), CAST_ " loop"},
    {CALL("#{timeout=>5000}"), CALLED " bad timeout"},
    {CALL("#{kwarg=>#{}}"), CALLED " bad kwarg"},
    {CALL("#{strings=>bytes,kwargs=>#{a=>1},queue=>q,traceback=>true,executor=>blocking}"),
     CALLED " kwargs #{a=>1} queue q bytes traceback executor"},
    {CALL("#{wrong=>1,strings=>bytes}"), CALLED " bytes bad wrong"},
    {CAST("#{queue=>q,kwargs=>#{a=>1}}"), CAST_ " kwargs #{a=>1} queue q"},
    {CAST("#{wrong=>1}"), CAST_ " bad wrong"},

    {"{call," R ",m,f,[]}", "none"},
    {"{call," R ",m,f,[],#{},x}", "none"},
    {"{call,m,f,[],#{}}", "none"},
    {"{cast," R ",m,f,[],#{}}", "none"},
    {"{cast,m,f,[]}", "none"},
    {"{send,m,f,[],#{}}", "none"},
    {"{1,m,f,[],#{}}", "none"},
    {"{call,ref,m,f,[],#{}}", "none"},
    {"{call," P ",m,f,[],#{}}", "none"},
    {"{call," R ",1,f,[],#{}}", "none"},
    {"{call," R ",m,[102],[],#{}}", "none"},
    {"{call," R ",m,f,[],[]}", "none"},
    {"{call," R ",m,f,[],[{strings,bytes}]}", "none"},
    {"{call," R ",m,f,[],#{1=>2}}", "none"},
    {"{call," R ",m,f,[],#{<<\"strings\">>=>bytes}}", "none"},
    {"{cast,m,f,[],x}", "none"},
    {"{}", "none"},
    {"[]", "none"},
    {"call", "none"},
};

/* By itself, in a frame that is kept and one that is copied, and as one of several in a list. */
static void test_app_forms(void) {
    for (size_t i = 0; i < sizeof app_forms / sizeof *app_forms; i++) {
        const char *item = app_forms[i].item, *want = app_forms[i].want;
        bool is_call = strncmp(want, "9 ", 2) == 0 && !strstr(want, " stream "); /* never gathered */

        for (int how = 0; how < 4; how++) {
            bool gathered = how / 2, whole = how % 2;
            struct request *r = make_app(item, gathered, whole);
            char line[4096];

            snprintf(line, sizeof line, "%s%s", want, gathered && is_call ? " gathered" : "");
            is_str(app_fields(r), line, "%s (%s, %s)", item, gathered ? "of a list" : "alone",
                   whole ? "kept" : "copied");
            if (r)
                request_free(r);
        }
    }
}

/* An item whose end is missing, in memory that ends there. */
static void test_app_truncated(void) {
    static const char *const items[] = {
        CALL("#{kwargs=>#{a=>1},queue=>{q,<<\"x\">>},traceback=>true}"),
        CAST("#{strings=>bytes}"),
    };
    int made = 0, whole = 0;

    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        struct buf b = {0};

        term_put(&b, items[i]);
        for (size_t n = 0; n <= b.len; n++) {
            uint8_t *copy = xmalloc(n + 1);
            struct frame frame = {copy, n, false};
            struct request *r;

            memcpy(copy, b.data, n);
            copy = realloc(copy, n ? n : 1);
            frame.data = copy;
            r = request_from_app((struct slice){copy, n}, &frame, true);
            *(n < b.len ? &made : &whole) += r != NULL;
            if (r)
                request_free(r);
            free(copy);
        }
        buf_done(&b);
    }
    is_int(made, 0, "no beginning of an item is one");
    is_int(whole, 2, "the whole of it is");
}

/* n times the text. */
static struct slice times(struct buf *b, const char *s, int n) {
    b->len = 0;
    while (n-- > 0)
        buf_put(b, s, strlen(s));
    return (struct slice){b->data, b->len};
}

/* A call of module and function, each a term; then an option. */
static struct request *named(struct slice module, struct slice function, struct slice option) {
    struct buf b = {0};
    struct request *r;

    etf_put_tuple(&b, 6);
    etf_put_atom(&b, "call");
    term_put(&b, R);
    etf_put_slice(&b, module);
    etf_put_slice(&b, function);
    etf_put_nil(&b);
    etf_put_map(&b, option.len > 0);
    etf_put_slice(&b, option);
    if (option.len > 0)
        etf_put_nil(&b);
    r = make_app_of((struct slice){b.data, b.len}, false, true);
    buf_done(&b);
    return r;
}

enum { AS_BINARY, AS_ATOM, AS_LATIN1 };

/* A name as a term. */
static struct slice name_term(struct buf *b, int as, struct slice name) {
    b->len = 0;
    if (as == AS_BINARY)
        etf_put_binary(b, name.data, (uint32_t)name.len);
    else
        etf_put_atom_slice(b, name);
    if (as == AS_LATIN1)
        b->data[0] = b->data[0] == ETF_SMALL_ATOM_UTF8 ? ETF_SMALL_ATOM : ETF_ATOM;
    return (struct slice){b->data, b->len};
}

/* What goes back in an answer has to be an atom that the peer can read. */
static void test_app_names(void) {
    static const struct {
        int as;
        const char *text;
        int times;
        bool good;
        const char *what;
    } names[] = {
        {AS_BINARY, "x", 255, true, "a binary of 255 bytes"},
        {AS_BINARY, "x", 256, false, "a binary of 256 bytes"},
        {AS_BINARY, "x", 100000, false, "a binary of 100000 bytes"},
        {AS_BINARY, "\xc3\xa9", 255, true, "a binary of 255 characters of two bytes"},
        {AS_BINARY, "\xc3\xa9", 256, false, "a binary of 256 characters of two bytes"},
        {AS_BINARY, "\xe9", 1, false, "a binary that is no UTF-8"},
        {AS_BINARY, "\xed\xa0\x80", 1, false, "a binary with a surrogate"},
        {AS_ATOM, "x", 255, true, "an atom of 255 bytes"},
        {AS_ATOM, "x", 256, false, "an atom of 256 bytes"},
        {AS_ATOM, "\xc3\xa9", 255, true, "an atom of 255 characters of two bytes"},
        {AS_ATOM, "\xf0\x9f\x98\x80", 255, true, "an atom of 255 characters of four bytes"},
        {AS_ATOM, "\xc3", 1, false, "an atom that is no UTF-8"},
        {AS_LATIN1, "x", 300, false, "an old atom of 300 bytes"},
        {AS_LATIN1, "\xe9", 1, false, "an old atom in Latin-1"},
    };
    struct buf bytes = {0}, term = {0}, other = {0};

    term_put(&other, "x");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct slice x = {other.data, other.len}, none = {0};
        struct slice name = times(&bytes, names[i].text, names[i].times);
        struct slice t = name_term(&term, names[i].as, name);
        struct request *r = named(t, x, none);

        is_str(text(r->options.bad), names[i].good ? "-" : "module", "%s for a module",
               names[i].what);
        ok(slice_equal(r->module, name), "is read");
        request_free(r);
        r = named(x, t, none);
        is_str(text(r->options.bad), names[i].good ? "-" : "function", "for a function");
        request_free(r);
        if (names[i].as == AS_BINARY)
            continue;
        r = named(x, x, t);
        if (names[i].good)
            ok(r && slice_equal(r->options.bad, name), "for an option: not known");
        else
            ok(!r, "for an option: it cannot be named in the answer, so there is no such call");
        if (r)
            request_free(r);
    }
    buf_done(&bytes);
    buf_done(&term);
    buf_done(&other);
}

/* It was taken for an empty field: for no bad option at all. */
static void test_app_empty_option(void) {
    struct request *r = make_app(CALL("#{''=>1}"), false, true);

    ok(r && r->options.bad.data && r->options.bad.len == 0, "an option with an empty name is bad");
    request_free(r);
}

static void test_gen(void) {
    struct buf b = {0};
    struct request_gen gen;

    term_put(&b, "{'$gen_call',{" P "," TAG "},{is_auth,a@h}}");
    is_int(request_read_gen_call((struct slice){b.data, b.len}, &gen), 0, "a gen_server:call");
    is_str(term_text(gen.pid), P, "its caller");
    is_str(term_text(gen.tag), TAG, "its tag");
    is_str(term_text(gen.body), "{is_auth,a@h}", "its body");
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
        struct request *r =
            make(request_from_spawn, SPAWN(EXECUTE_CAST, "[]"), "[m,f,[]]", true);

        seen[1] = (uint64_t)r->pid_serial << 28 | r->pid_id;
        same += seen[1] <= seen[0];
        seen[0] = seen[1];
        request_free(r);
    }
    is_int(same, 0, "1000 requests have 1000 pids");
    buf_done(&b);
}

static void test_refs(void) {
    struct buf b = {0}, before = {0};
    int same = 0;

    request_new_ref(&b);
    is_str(term_text((struct slice){b.data, b.len}), "#<py@h,77,1,0,0>", "our first reference");
    for (int i = 0; i < 300000; i++) {
        before.len = 0;
        buf_put(&before, b.data, b.len);
        b.len = 0;
        request_new_ref(&b);
        same += before.len != b.len || memcmp(before.data, b.data, b.len) == 0;
    }
    is_int(same, 0, "each one is new");
    is_str(term_text((struct slice){b.data, b.len}), "#<py@h,77,37857,1,0>",
           "the first word has 18 bits, then the next counts");
    request_new_ref(&b);
    is_int(b.len, 2 * before.len, "it is appended");
    buf_done(&b);
    buf_done(&before);
}

int main(void) {
    request_init("py@h", 77);
    test_forms();
    test_app_forms();
    test_app_truncated();
    test_app_names();
    test_app_empty_option();
    test_gen();
    test_pids();
    test_refs();
    return tap_end();
}
