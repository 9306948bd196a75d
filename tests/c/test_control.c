/* test_control.c - the pseudo-module `pynode`: each function, by every way that leads to it, and
 * what is left to Python.
 *
 * The pool is a true one, so that pynode:threads() has something to tell; its hooks stand for
 * Python and hold a request until the main thread lets it go.
 */
#include "config.h"

#include "control.h"
#include "outcome.h"
#include "pool.h"
#include "procs.h"
#include "route.h"
#include "stats.h"
#include "tap.h"
#include "term.h"

#include <sched.h>

enum { SECONDS = 30 };

#define P "<a@h,1,2,3>" /* the caller */
#define R "#<a@h,7,8,9>"
#define RES "#<a@h,7,8,10>"

#define LABELS                                                                                  \
    ",labels=>#{<<\"gpu\">>=>true,<<\"zone\">>=><<\"a=b\">>,<<\"zones\">>=>-2,<<\"long\">>=><<" \
    "\"1234567890123456\">>}"                                                                   \
    ",imports=>[<<\"json\">>,<<\"os.path\">>]"

/* What status() ends with when no thread has called Erlang. */
#define NONE \
    ",processes=>0,thread_connections=>0,thread_connections_unused=>0,rss=>N,gil_wait=>0" LABELS

static int drains;

static void drain_cb(void) {
    drains++;
}

static char *labels[] = {"gpu", "zone=a=b", "zones=-2", "long=1234567890123456"};
static char *imports[] = {"json", "os.path"};

static struct control_facts facts = {.node = "py@h",
                                     .version = "1.2",
                                     .python = "3.11.2",
                                     .erlang = "5.3",
                                     .workers = 3,
                                     .max_workers = 7,
                                     .labels = {labels, 4},
                                     .imports = {imports, 2},
                                     .may_drain = true,
                                     .drain = drain_cb};

/* The request that a frame asks for. */
static struct request *request_of(const char *control, const char *payload) {
    struct buf b = {0};
    struct frame frame = {.whole = true};
    struct dist_msg msg;
    const char *why = "?";
    struct request *r;

    term_put_frame(&b, control, payload);
    frame.data = b.data;
    frame.len = b.len;
    if (dist_parse(b.data, b.len, &msg, &why) < 0)
        tap_bail("%s: %s", control, why);
    r = msg.op == DIST_SPAWN_REQUEST ? request_from_spawn(&msg, &frame)
                                     : request_from_rex(&msg, &frame);
    if (!r)
        tap_bail("%s + %s: not a request", control, payload);
    return r;
}

/* What is answered to a frame: "" is nothing, "no" says that it is not control's business. The
 * process of the request is shown as <py@h,1,1,77>. */
static const char *answer(const char *control, const char *payload) {
    struct request *r = request_of(control, payload);
    struct buf out = {0};
    const char *text;

    if (r->pid_id) {
        r->pid_id = 1;
        r->pid_serial = 1;
    }
    if (control_answer(r, &out)) {
        text = out.len > 0 ? term_take(&out) : "";
    } else {
        text = out.len > 0 ? "no, but something was written" : "no";
    }
    request_free(r);
    buf_done(&out);
    return text;
}

#define REX "{6," P ",'',rex}"

/* The answer to erl_call's form of pynode:function(args), without what is around the value. */
static const char *ask_with(const char *function, const char *args) {
    static const char head[] = "{2,''," P "} + {rex,";
    static char payload[256], value[4096];
    const char *text;
    size_t n;

    snprintf(payload, sizeof payload, "{" P ",{call,pynode,%s,%s,user}}", function, args);
    text = answer(REX, payload);
    n = strlen(text);
    if (strncmp(text, head, sizeof head - 1) != 0 || text[n - 1] != '}')
        return text;
    snprintf(value, sizeof value, "%.*s", (int)(n - sizeof head), text + sizeof head - 1);
    return value;
}

static const char *ask(const char *function) {
    return ask_with(function, "[]");
}

/* The text with the number after key as N: what depends on time. */
static const char *mask(const char *text, const char *key) {
    static char ring[4][4096];
    static int next;
    char *masked = ring[next++ % 4];
    const char *at = strstr(text, key), *end;

    if (!at)
        return text;
    at += strlen(key);
    end = at + strspn(at, "0123456789");
    snprintf(masked, sizeof ring[0], "%.*sN%s", (int)(at - text), text, end);
    return masked;
}

static const char *status(void) {
    return mask(mask(mask(ask("status"), "uptime=>"), "os_pid=>"), "rss=>");
}

static void test_starting(void) {
    is_str(ask("ready"), "false", "a node that starts is not ready");
    is_str(status(),
           "#{state=>starting,node=>py@h,pid=><py@h,0,0,77>,version=><<\"1.2\">>,python=><<\"3.11.2\">>,os_pid=>N,"
           "uptime=>N,workers=>0,min_workers=>3,max_workers=>7,running=>0,blocked=>0,queued=>0,"
           "tasks=>0,registered=>0" NONE "}",
           "and says so in its status");
    is_str(ask("threads"), "[]", "there are no threads yet");
    control_set_ready();
    is_str(ask("ready"), "true", "from control_set_ready() on it is ready");
    has_str(status(), "#{state=>ready,", "by its status, too");
}

static void test_version(void) {
    is_str(ask("version"),
           "#{pynode=><<\"1.2\">>,python=><<\"3.11.2\">>,erl_interface=><<\"5.3\">>}",
           "the versions of all that it is made of");
}

static void test_outcomes(void) {
    has_str(ask("outcomes"), "#{ok=>0,error=>0,cancelled=>0,refused=>0,times=>[{100,0},{250,0},",
            "how requests have ended");
    has_str(ask("outcomes"), ",{60000000,0}],longer=>0}", "and how long they took");
    outcome_add(OUTCOME_REFUSED);
    outcome_answered(OUTCOME_ERROR, outcome_now() - 200000);
    has_str(ask("outcomes"), "#{ok=>0,error=>1,cancelled=>0,refused=>1,times=>[{100,0},{250,",
            "since the first time");
}

static void test_stats(void) {
    is_str(
        ask("stats"),
        "#{calls=>0,errors=>0,cancelled=>0,refused=>0,dropped=>0,frames_in=>0,bytes_in=>0,"
        "bytes_out=>0,pings=>0,connects=>0,handshakes_failed=>0,mailbox_dropped=>0,lead_taken=>0}",
        "all counters are there and begin at 0");
    for (int i = 0; i < STATS_END; i++)
        stats_add((enum stats_counter)i, (uint64_t)i + 1);
    stats_add(STATS_BYTES_IN, UINT64_C(1) << 40);
    is_str(ask("stats"),
           "#{calls=>1,errors=>2,cancelled=>3,refused=>4,dropped=>5,frames_in=>6,"
           "bytes_in=>16#0000010000000007,bytes_out=>8,pings=>9,connects=>10,handshakes_failed=>11,"
           "mailbox_dropped=>12,lead_taken=>13}",
           "each has its own number, large ones included");
}

#define SPAWN(flags) "{29," R "," P "," P ",{erpc,execute_call,4}," flags "}"
#define REPLY(flags) "{31," R "," P "," flags ",<py@h,1,1,77>}"
#define DOWN "{28,<py@h,1,1,77>," P "," R "} + "
#define EXIT "{24,<py@h,1,1,77>," P "} + "

/* Every way in which a call can come, with the frames that answer it. */
static void test_ways(void) {
    static const struct {
        const char *what, *control, *payload, *want;
    } ways[] = {
        {"erpc:call", SPAWN("[monitor]"), "[" RES ",pynode,ready,[]]",
         REPLY("2") "\n" DOWN "{" RES ",return,true}"},
        {"the same with a link", SPAWN("[link,monitor]"), "[" RES ",pynode,ready,[]]",
         REPLY("3") "\n" DOWN "{" RES ",return,true}\n" EXIT "normal"},
        {"the same without a monitor", SPAWN("[]"), "[" RES ",pynode,ready,[]]", REPLY("0")},
        {"erpc:cast", "{29," R "," P "," P ",{erpc,execute_cast,3},[]}", "[pynode,ready,[]]",
         REPLY("0")},
        {"spawn_monitor", "{29," R "," P "," P ",{pynode,ready,0},[monitor]}", "[]",
         REPLY("2") "\n" DOWN "normal"},
        {"block_call", REX, "{'$gen_call',{" P "," R "},{block_call,pynode,ready,[],user}}",
         "{2,''," P "} + {" R ",true}"},
        {"a call to an alias", REX,
         "{'$gen_call',{" P ",[alias|" R "]},{call,pynode,ready,[],user}}",
         "{33,<py@h,0,0,77>," R "} + {[alias|" R "],true}"},
        {"a cast to rex", REX, "{'$gen_cast',{cast,pynode,ready,[],user}}", ""},
    };

    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        is_str(answer(ways[i].control, ways[i].payload), ways[i].want, "%s", ways[i].what);
}

static void test_not_ours(void) {
    is_str(ask_with("ready", "[1]"), "no", "an argument too many");
    is_str(ask_with("ready", "[[]]"), "no", "even an empty one");
    is_str(ask_with("status", "{}"), "no", "what is no list of arguments");
    is_str(ask_with("drain", "[now]"), "no", "pynode:drain/1");
    is_str(ask("reload"), "no", "pynode:reload() is Python's");
    is_str(ask("''"), "no", "no function at all");
    is_str(ask("stat"), "no", "a part of a name");
    is_str(ask("status2"), "no", "a name with something behind");
    is_str(ask("'Ready'"), "no", "a name in capitals");
    is_str(answer(REX, "{" P ",{call,pynod,ready,[],user}}"), "no", "another module");
    is_str(answer(REX, "{" P ",{call,'pynode.x',ready,[],user}}"), "no", "a module of its own");
    is_str(answer(SPAWN("[monitor]"), "[" RES ",math,ready,[]]"), "no",
           "a function of this name elsewhere: nothing is announced either");
    is_int(drains, 0, "none of all that drains");
}

static void test_drain(void) {
    facts.may_drain = false;
    is_str(ask("drain"), "no", "where --allow forbids it, drain is left to Python to refuse");
    is_int(drains, 0, "and does nothing");
    is_str(ask("ready"), "true", "the others are allowed all the same");
    facts.may_drain = true;
    is_str(ask("drain"), "ok", "where it is allowed it answers");
    is_int(drains, 1, "and tells the node to go");
    is_str(answer(REX, "{'$gen_cast',{cast,pynode,drain,[],user}}"), "", "a cast has no answer");
    is_int(drains, 2, "but drains as well");
    route_drain();
    is_str(ask("ready"), "false", "a node that drains is not ready");
    has_str(status(), "#{state=>draining,", "and says so in its status");
}

static void test_worker_state(void) {
    static const char *const names[] = {[EXEC_IDLE] = "idle",
                                        [EXEC_LEADING] = "leading",
                                        [EXEC_ENTERING] = "entering",
                                        [EXEC_RUNNING] = "running"};
    struct exec_worker w = {0};

    for (int i = 0; i < 8; i++) {
        w.blocked = i >= 4;
        atomic_store(&w.state, i % 4);
        is_str(control_worker_state(&w), i == 4 + EXEC_RUNNING ? "blocked" : names[i % 4],
               "state %d, %s", i % 4, w.blocked ? "blocked" : "not blocked");
    }
}

/* From here on: a true pool of two. */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int inside;   /* requests that run */
static bool release; /* they may end */

static void start_cb(struct exec_worker *w) {
    w->context = w;
}

/* Each request runs for twelve seconds already when the main thread hears of it. */
static void serve_cb(struct exec_worker *w) {
    struct request *r;

    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w))) {
        w->since -= INT64_C(12345) * 1000000;
        pthread_mutex_lock(&lock);
        inside++;
        pthread_cond_broadcast(&changed);
        while (!release)
            pthread_cond_wait(&changed, &lock);
        inside--;
        pthread_mutex_unlock(&lock);
        exec_claim(r);
        exec_finish(w, r);
        if (r->target)
            proc_unref(r->target);
        request_free(r);
    }
}

static bool lead_cb(struct exec_worker *w) {
    return w->context != w;
}

static const struct exec_hooks hooks = {start_cb, serve_cb, lead_cb, start_cb, NULL, NULL};

static void release_cb(void *object) {
    (void)object;
}

/* Looks after the pool until it has that many idle, running and blocked workers. */
static bool settle(int idle, int running, int blocked) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    struct pool_numbers n;

    do {
        pool_supervise(clock_now());
        sched_yield();
        pool_read_numbers(&n);
    } while ((n.idle != idle || n.running != running || n.blocked != blocked) && clock_now() < end);
    return n.idle == idle && n.running == running && n.blocked == blocked;
}

/* Pushes a request and waits until it runs. */
static void run(struct request *r, int running) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    bool runs = false;

    if (!exec_push(r))
        tap_bail("a request was not taken");
    while (!runs && clock_now() < end) {
        pool_supervise(clock_now());
        pthread_mutex_lock(&lock);
        runs = inside == running;
        pthread_mutex_unlock(&lock);
        sched_yield();
    }
    ok(runs, "%d workers run", running);
}

/* What `threads` tells once that is in it: a worker without work may still be on its way to where it is idle. */
static const char *threads_with(const char *expected) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;
    const char *text = ask("threads");

    while (!strstr(text, expected) && clock_now() < end) {
        usleep(1000);
        text = ask("threads");
    }
    return text;
}

static void test_threads(void) {
    struct request *first = request_of(REX, "{" P ",{call,'os.path',join,[],user}}"), *second;
    struct request *queued;
    struct buf name = {0};
    const char *text;

    if (pool_start() < 0)
        tap_bail("no pool");
    ok(settle(2, 0, 0), "two workers with nothing to do");
    is_str(threads_with("state=>idle,call=>none,ms=>0}|[#{worker=>1,state=>idle,"),
           "[#{worker=>2,state=>idle,call=>none,ms=>0}|"
           "[#{worker=>1,state=>idle,call=>none,ms=>0}]]",
           "both are listed");
    has_str(status(), ",workers=>2,min_workers=>3,max_workers=>7,running=>0,", "and counted");

    run(first, 1);
    text = threads_with("state=>idle,call=>none,ms=>0");
    has_str(text, "state=>running,call=>{'os.path',join},ms=>12", "what a worker calls, how long");
    has_str(text, "state=>idle,call=>none,ms=>0", "beside one that is idle");
    has_str(status(), ",running=>1,blocked=>0,queued=>0,tasks=>0,registered=>0" NONE "}",
            "the same in numbers");

    if (!procs_register("counter", &drains))
        tap_bail("no name");
    second = request_of(REX, "{'$gen_cast',{cast,m,f,[],user}}");
    second->module = second->function = (struct slice){0};
    second->target = procs_find_name((struct slice){(const uint8_t *)"counter", 7});
    run(second, 2);
    has_str(ask("threads"), "call=>counter,ms=>12", "a registered object by its name");
    exec_push(request_of(REX, "{" P ",{call,m,f,[],user}}"));
    ok(settle(0, 2, 2), "after two looks of the pool both are blocked");
    has_str(ask("threads"), "state=>blocked,call=>{'os.path',join}", "which is told");
    has_str(status(), ",running=>2,blocked=>2,queued=>1,tasks=>0,registered=>1" NONE "}",
            "the same in numbers");

    term_put(&name, "{jobs,1}");
    queued = request_of(REX, "{" P ",{call,m,f,[],user}}");
    queued->options.queue = (struct slice){name.data, name.len};
    run(queued, 3);
    has_str(mask(ask("threads"), "ms=>"), "state=>running,call=>{m,f},ms=>N,queue=>{jobs,1}}",
            "the thread of a queue by the queue's name");
    queued = request_of(REX, "{" P ",{call,m,f,[],user}}");
    queued->options.thread = true;
    run(queued, 4);
    has_str(mask(ask("threads"), "ms=>"), "state=>running,call=>{m,f},ms=>N,thread=>new}",
            "and that of a single request");
    has_str(status(), ",workers=>2,min_workers=>3,max_workers=>7,running=>4,",
            "they run beside the pool");

    pthread_mutex_lock(&lock);
    release = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    buf_done(&name);
    ok(settle(2, 0, 0), "all have ended");
    text = "[#{worker=>2,state=>idle,call=>none,ms=>0}|";
    has_str(threads_with(text), text, "and are idle again");
    text = "state=>idle,call=>none,ms=>0,queue=>{jobs,1}}";
    has_str(threads_with(text), text, "the queue's, too");
    proc_unref(procs_unregister("counter"));
    pool_stop_begin();
    ok(pool_stop_wait(SECONDS), "the pool ends");
}

int main(void) {
    request_init("py@h", 77);
    route_init("py@h");
    procs_init(release_cb);
    control_init(&facts);
    exec_init(2, 2, 100, &hooks);
    test_starting();
    test_version();
    test_outcomes();
    test_stats();
    test_ways();
    test_not_ours();
    test_worker_state();
    test_threads();
    test_drain();
    return tap_end();
}
