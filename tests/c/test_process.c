/* test_process.c - processes of ours: messages, monitors and links here and over connections, names,
 * ends, and that nothing is left of them.
 *
 * Two connections; the main thread plays the leader, the worker and both peers. Runs under TSan as
 * well: many threads watch what ends at the same moment.
 */
#include "config.h"

#include "process.h"
#include "control.h"
#include "ends.h"
#include "io.h"
#include "log.h"
#include "mailbox.h"
#include "ties.h"

enum { LIMIT = 4, MAIL = 3, THREADS = 4, ROUNDS = 150 };

#define P "<a@h,1,2,3>" /* a process of a@h */
#define P2 "<a@h,1,3,3>"
#define Q "<b@h,4,0,5>" /* a process of b@h */
#define R "#<a@h,7,8,9>"
#define R2 "#<a@h,7,8,10>"
#define RB "#<b@h,7,8,12>"
#define NOBODY "<py@h,99,9,77>" /* a pid of ours that has never lived */

static struct end a, b;
static char *log_path;
static int object; /* stands for what Python has registered */

static void release_cb(void *what) {
    ++*(int *)what;
}

static struct slice slice(const struct buf *bytes) {
    return (struct slice){bytes->data, bytes->len};
}

/* A term out of text, in a ring of buffers. */
static struct slice term(const char *text) {
    static struct buf ring[8];
    static int next;
    struct buf *bytes = &ring[next++ % 8];

    bytes->len = 0;
    term_put(bytes, text);
    return slice(bytes);
}

static const char *pid(const struct proc *p) {
    return line("<py@h,%u,%u,77>", p->id, p->serial);
}

/* All that is in the mailbox of p, as text. */
static const char *mail(struct proc *p) {
    struct term_out o = term_out_new();
    struct mailbox_message *m;

    while ((m = mailbox_take(p->mailbox))) {
        term_add(&o, "%s", o.len > 0 ? "\n" : "");
        if (term_add_one(&o, m->term) != m->term + m->len)
            tap_bail("not a term");
        free(m);
    }
    return o.text;
}

/* All that is queued for objects: kind, object, arguments. Each ends at once. */
static const char *queued(void) {
    struct term_out o = term_out_new();
    struct request *r;

    while ((r = exec_pop(&me))) {
        term_add(&o, "%s%d %s %s", o.len > 0 ? "\n" : "", r->kind, r->target->name,
                 term_text(r->args));
        finish(r, "normal");
    }
    return o.text;
}

/* p ends; nobody but the caller may hold it. */
static void end(struct proc *p, const char *reason) {
    process_ended(p, term(reason));
    if (atomic_load(&p->refs) != 1)
        tap_bail("%s is held by others", pid(p));
    proc_unref(p);
}

/* What p watches: the reference as text. */
static const char *monitor(struct proc *p, struct conn *c, const char *node, const char *to) {
    struct buf ref = {0};
    const char *text;

    process_monitor(p->id, p->serial, !c && strcmp(node, "py@h") == 0, c, node, term(to), &ref);
    text = line("%s", term_text(slice(&ref)));
    buf_done(&ref);
    return text;
}

static const char *monitor_own(struct proc *p, const char *to) {
    return monitor(p, NULL, "py@h", to);
}

static void demonitor(struct proc *p, const char *ref) {
    process_demonitor(p->id, p->serial, term(ref));
}

static void link_own(struct proc *p, const char *to) {
    process_link(p->id, p->serial, true, NULL, term(to));
}

static void unlink_own(struct proc *p, const char *to) {
    process_drop_link(p->id, p->serial, true, NULL, term(to));
}

static void link_to(struct proc *p, struct conn *c, const char *to) {
    process_link(p->id, p->serial, false, c, term(to));
}

static void unlink_from(struct proc *p, struct conn *c, const char *to) {
    process_drop_link(p->id, p->serial, false, c, term(to));
}

/* Nobody watches anything here, and nothing waits. */
static void nothing_left(const char *of) {
    ok(!procs_watched() && procs_processes() == 0 && exec_load() == 0 &&
           atomic_load(&a.conn->refs) == 1 && atomic_load(&b.conn->refs) == 1,
       "nothing is left of %s", of);
}

static struct proc *find(const char *name) {
    struct proc *p = procs_find_name((struct slice){(const uint8_t *)name, strlen(name)});

    if (!p)
        tap_bail("%s: not registered", name);
    proc_unref(p); /* its name holds it */
    return p;
}

static void unregister(const char *name, const char *reason) {
    struct proc *p = procs_unregister(name);

    if (!p)
        tap_bail("%s: not registered", name);
    process_unregistered(p, name, reason);
    proc_unref(p);
}

static void test_messages(void) {
    struct proc *p = procs_spawn(0, 0);
    uint64_t lost = stats_get(STATS_MAILBOX_DROPPED);
    char *text;

    dropped();
    is_int(procs_processes(), 1, "a process");
    is_str(tell(&a, line("{2,'',%s}", pid(p)), "hello"), "", "a message to its pid");
    is_str(tell(&b, line("{22," Q ",%s}", pid(p)), "{'$gen_call',{" Q "," RB "},x}"), "",
           "what looks like a call");
    is_str(mail(p), "hello\n{'$gen_call',{" Q "," RB "},x}", "are in its mailbox as they came");
    ok(procs_set_name(p, "thread"), "it gets a name");
    tell(&a, "{6," P ",'',thread}", "{'$gen_cast',1}");
    is_str(tell(&a, "{6," P ",'',rex}", "{" P ",{sbcast,thread,2}}"),
           "{2,''," P "} + {rex,py@h,py@h}", "a broadcast is confirmed");
    is_str(mail(p), "{'$gen_cast',1}\n2", "messages to the name, too");
    is_int(dropped(), 0, "nothing is dropped");
    is_int(exec_queued(), 0, "and nothing is a request");

    for (int i = 0; i < MAIL + 2; i++)
        tell(&a, line("{2,'',%s}", pid(p)), line("%d", i));
    is_int(stats_get(STATS_MAILBOX_DROPPED) - lost, 2, "more than the mailbox holds is dropped");
    process_send(p, term("sure"), true);
    ok(!process_send(p, term("more"), false), "also what this node sends");
    is_str(mail(p), "0\n1\n2\nsure", "but not what was asked for");
    text = tap_slurp(log_path);
    has_str(text, line("process %u.%u: its mailbox is full", p->id, p->serial), "which is logged");
    ok(!strstr(strstr(text, "is full") + 1, "is full"), "once");
    free(text);
    if (truncate(log_path, 0) < 0)
        tap_bail("the log cannot be emptied");

    tell(&a, line("{2,'',%s}", pid(p)), "unread");
    text = (char *)line("{2,'',%s}", pid(p));
    end(p, "normal");
    dropped();
    tell(&a, text, "late");
    tell(&a, "{6," P ",'',thread}", "late");
    is_int(dropped(), 2, "when it has ended it is nobody, by pid and name");
    nothing_left("it");
}

/* An object gets a message as a request. */
static void test_objects(void) {
    int before = object;

    procs_register("counter", &object);
    ok(process_send(find("counter"), term("hello"), false), "a message to an object");
    ok(process_send(find("counter"), term("{'$gen_cast',up}"), true), "a cast");
    ok(process_send(find("counter"), term("{'$gen_call',{" P "," R "},get}"), false), "a call");
    process_send(find("counter"), term("1"), false);
    ok(!process_send(find("counter"), term("2"), true), "one more than waits");
    is_str(queued(),
           "8 counter hello\n7 counter up\n8 counter {'$gen_call',{" P "," R "},get}\n8 counter 1",
           "are requests of its lane");
    unregister("counter", "normal");
    is_int(object - before, 1, "the object is let go");
    nothing_left("an object");
}

/* A call by erpc that waits: its pid, as text. */
static const char *call(struct end *e, const char *from, const char *ref) {
    const char *why = feed(
        e, line("{29,%s,%s,%s,{erpc,execute_call,4},[monitor]}", ref, from, from), "[res,m,f,[]]");
    const char *reply, *at;

    if (why)
        tap_bail("%s", why);
    exec_announce(route_put);
    reply = got(e);
    at = strstr(reply, "<py@h,");
    if (!at)
        tap_bail("no SPAWN_REPLY: %s", reply);
    return line("%.*s", (int)strcspn(at, ">") + 1, at);
}

static void test_requests(void) {
    const char *waits = call(&a, P, R), *runs = call(&a, P, R2);
    uint32_t id, serial;
    struct request *r = exec_pop(&me), *second;
    struct proc *p;

    dropped();
    is_int(procs_processes(), 0, "a request has no mailbox");
    tell(&b, line("{2,'',%s}", waits), "first");
    is_int(procs_processes(), 1, "until it is sent something");
    tell(&b, line("{2,'',%s}", waits), "second");
    tell(&b, line("{2,'',%s}", runs), "third");
    is_int(procs_processes(), 2, "whether it runs or waits");
    is_int(dropped(), 0, "nothing is dropped");
    ok(request_own_pid(term(waits), &id, &serial), "its pid");
    p = procs_spawn(id, serial);
    is_str(mail(p), "first\nsecond", "finds what it was sent");
    ok(process_send_request(id, serial, term("fourth")), "this node sends to it, too");
    is_str(mail(p), "fourth", "and it gets it");
    is_str(tell(&b, line("{19," Q ",%s," RB "}", waits), NULL), "", "it is watched");
    finish(r, "{oops,1}");
    is_str(got(&b), line("{28,%s," Q "," RB "} + {oops,1}", waits), "its end is told");
    is_int(procs_processes(), 1, "and its mailbox goes");
    proc_unref(p);
    tell(&b, line("{2,'',%s}", waits), "late");
    is_int(dropped(), 1, "what comes then is dropped");
    ok(!process_send_request(id, serial, term("late")), "also what this node sends");
    second = exec_pop(&me);
    finish(second, "normal");
    nothing_left("requests");
}

/* A name or pid of this node. */
static void test_own_monitors(void) {
    struct proc *p = procs_spawn(0, 0), *q = procs_spawn(0, 0);
    const char *ref, *second, *third;

    ref = monitor_own(p, "nobody");
    is_str(mail(p), line("{'DOWN',%s,process,{nobody,py@h},noproc}", ref), "nobody's name");
    ref = monitor_own(p, NOBODY);
    is_str(mail(p), line("{'DOWN',%s,process," NOBODY ",noproc}", ref), "nobody's pid");
    ref = monitor_own(p, "<py@h,99,9,78>");
    is_str(mail(p), line("{'DOWN',%s,process,<py@h,99,9,78>,noproc}", ref),
           "one of an earlier life of the node's");
    second = monitor_own(p, "rex");
    is_str(mail(p), "", "rex is there");
    demonitor(p, second);
    ok(!procs_watched(), "none of that leaves a watch");

    ref = monitor_own(p, pid(q));
    second = monitor_own(p, pid(q));
    third = monitor_own(p, pid(q));
    ok(strcmp(ref, second) != 0, "each monitor has a reference of its own");
    demonitor(p, second);
    demonitor(p, second);
    demonitor(q, third);
    is_str(mail(p), "", "a process that lives");
    procs_set_name(q, "thread");
    second = monitor_own(p, "thread");
    end(q, "{oops,1}");
    {
        const char *got = mail(p);

        has_str(got, line("{'DOWN',%s,process,", ref), "its end is told");
        has_str(got, line("{'DOWN',%s,process,", third), "by each monitor");
        has_str(got, line("{'DOWN',%s,process,{thread,py@h},{oops,1}}", second),
                "also by its name, with the reason");
    }
    is_str(mail(p), "", "once");
    demonitor(p, ref);
    monitor_own(p, pid(p));
    is_str(mail(p), "", "itself");
    end(p, "normal");
    nothing_left("own monitors");
}

static void test_monitored_object(void) {
    struct proc *p = procs_spawn(0, 0);
    const char *ref, *second, *object_pid;

    procs_register("counter", &object);
    object_pid = pid(find("counter"));
    ref = monitor_own(p, "counter");
    second = monitor_own(p, object_pid);
    is_str(mail(p), "", "an object is watched by name and pid");
    unregister("counter", "shutdown");
    is_str(mail(p),
           line("{'DOWN',%s,process,{counter,py@h},shutdown}\n{'DOWN',%s,process,%s,shutdown}", ref,
                second, object_pid),
           "and its end is told");
    procs_register("counter", &object);
    ref = monitor(find("counter"), NULL, "py@h", pid(p));
    object_pid = pid(p);
    end(p, "normal");
    is_str(queued(), line("8 counter {'DOWN',%s,process,%s,normal}", ref, object_pid),
           "an object watches, too");
    p = procs_spawn(0, 0);
    monitor(find("counter"), NULL, "py@h", pid(p));
    unregister("counter", "normal");
    ok(!procs_watched(), "until it is unregistered");
    end(p, "normal");
    is_int(exec_queued(), 0, "then it is not told");
    nothing_left("objects that watch and are watched");
}

/* Its handler still ran, and what it then watched was never forgotten. */
static void test_ended_object_watches(void) {
    struct proc *object_proc, *p = procs_spawn(0, 0);

    procs_register("counter", &object);
    tell(&a, "{6," P ",'',counter}", "hello");
    {
        struct request *r = exec_pop(&me);

        object_proc = r->target;
        unregister("counter", "normal");
        monitor(object_proc, NULL, "py@h", pid(p));
        monitor(object_proc, a.conn, "a@h", P);
        link_own(object_proc, pid(p));
        link_to(object_proc, b.conn, Q);
        finish(r, "normal");
    }
    got(&a);
    has_str(got(&b), " + noproc", "who is linked to one that has ended is told");
    ok(atomic_load(&a.conn->refs) == 1 && atomic_load(&b.conn->refs) == 1,
       "an object that was unregistered while it ran watches nothing any more");
    mail(p);
    end(p, "normal");
    ok(!procs_watched(), "nor does anybody watch it");
    got(&a);
    got(&b);
    nothing_left("it");
}

static void test_remote_monitors(void) {
    struct proc *p = procs_spawn(0, 0);
    const char *ref = monitor(p, a.conn, "a@h", P), *second, *third;

    is_str(got(&a), line("{19,%s," P ",%s}", pid(p), ref), "a process of another node is watched");
    second = monitor(p, a.conn, "a@h", "name");
    is_str(got(&a), line("{19,%s,name,%s}", pid(p), second), "and a name there");
    third = monitor(p, b.conn, "b@h", Q);
    got(&b);
    dropped();
    tell(&b, line("{21," P ",%s,%s,wrong}", pid(p), R), NULL);
    tell(&b, line("{21," P "," NOBODY ",%s,wrong}", ref), NULL);
    tell(&b, line("{21," P "," P ",%s,wrong}", ref), NULL);
    is_int(dropped(), 3, "an end by another reference, or of another process's monitor");
    is_str(mail(p), "", "is nobody's");
    tell(&a, line("{21," P ",%s,%s,{oops,1}}", pid(p), ref), NULL);
    is_str(mail(p), line("{'DOWN',%s,process," P ",{oops,1}}", ref), "the end is a message");
    tell(&a, line("{28,name,%s,%s}", pid(p), second), "noproc");
    is_str(mail(p), line("{'DOWN',%s,process,{name,a@h},noproc}", second), "that of a name, too");
    is_int(dropped(), 0, "both were asked for");
    tell(&a, line("{28,name,%s,%s}", pid(p), second), "noproc");
    is_int(dropped(), 1, "not twice");
    is_str(mail(p), "", "nothing comes of that");
    demonitor(p, third);
    is_str(got(&b), line("{20,%s," Q ",%s}", pid(p), third), "one is given up");
    tell(&b, line("{28," Q ",%s,%s}", pid(p), third), "normal");
    is_int(dropped(), 1, "an end that was under way is dropped");
    is_str(mail(p), "", "and not told");
    demonitor(p, third);
    is_str(got(&b), "", "what was given up cannot be once more");

    ref = monitor(p, a.conn, "a@h", P);
    second = monitor(p, b.conn, "b@h", "name");
    got(&a);
    got(&b);
    ref = line("{20,%s," P ",%s}", pid(p), ref);
    second = line("{20,%s,name,%s}", pid(p), second);
    end(p, "normal");
    is_str(got(&a), ref, "a process that ends gives up what it watches");
    is_str(got(&b), second, "everywhere");
    nothing_left("monitors of other nodes' processes");
}

/* A mailbox that is full takes what was asked for. */
static void test_sure(void) {
    struct proc *p = procs_spawn(0, 0);
    const char *ref = monitor(p, a.conn, "a@h", P);

    got(&a);
    tell(&a, line("{1," P ",%s}", pid(p)), NULL);
    for (int i = 0; i < MAIL + 1; i++)
        tell(&a, line("{2,'',%s}", pid(p)), line("%d", i));
    tell(&a, line("{8," P2 ",%s,kill}", pid(p)), NULL);
    tell(&a, line("{28," P ",%s,%s}", pid(p), ref), "normal");
    tell(&a, line("{24," P ",%s}", pid(p)), "normal");
    is_str(mail(p), line("0\n1\n2\n{'DOWN',%s,process," P ",normal}\n{'EXIT'," P ",normal}", ref),
           "a full mailbox takes ends of what is watched and linked, and nobody's signals");
    end(p, "normal");
    nothing_left("a full mailbox");
}

/* Another node that cannot be reached, or goes. */
static void test_noconnection(void) {
    struct proc *p = procs_spawn(0, 0), *q = procs_spawn(0, 0);
    struct end c;
    const char *ref = monitor(p, NULL, "c@h", P), *second;

    is_str(mail(p), line("{'DOWN',%s,process," P ",noconnection}", ref), "no connection");
    ref = monitor(p, NULL, "c@h", "name");
    is_str(mail(p), line("{'DOWN',%s,process,{name,c@h},noconnection}", ref), "a name there");
    process_link(p->id, p->serial, false, NULL, term(P));
    is_str(mail(p), "{'EXIT'," P ",noconnection}", "a link");
    process_drop_link(p->id, p->serial, false, NULL, term(P));
    is_str(mail(p), "", "the end of one: nothing");

    open_end(&c, "c@h");
    ref = monitor(p, c.conn, "c@h", "<c@h,1,2,3>");
    second = monitor(q, c.conn, "c@h", "name");
    link_to(p, c.conn, "<c@h,1,2,3>");
    tell(&c, line("{1,<c@h,2,2,3>,%s}", pid(q)), NULL);
    tell(&c, line("{19,<c@h,2,2,3>,%s," R "}", pid(q)), NULL);
    outbox_close(&c.conn->out);
    route_closed(c.conn);
    {
        const char *got = mail(p);

        has_str(got, line("{'DOWN',%s,process,<c@h,1,2,3>,noconnection}", ref),
                "a node that goes: who watches is told");
        has_str(got, "{'EXIT',<c@h,1,2,3>,noconnection}", "who is linked, too");
        got = mail(q);
        has_str(got, line("{'DOWN',%s,process,{name,c@h},noconnection}", second),
                "each of its own");
        has_str(got, "{'EXIT',<c@h,2,2,3>,noconnection}", "whoever has made the link");
    }
    ok(!procs_watched(), "no watch is left");
    is_int(atomic_load(&c.conn->refs), 1, "nor a hold on the connection");
    ref = monitor(p, c.conn, "c@h", P);
    is_str(mail(p), line("{'DOWN',%s,process," P ",noconnection}", ref),
           "a monitor over a connection that has just ended");
    link_to(p, c.conn, P);
    is_str(mail(p), "{'EXIT'," P ",noconnection}", "a link over it");
    ok(close_end(&c), "hold nothing");
    end(p, "normal");
    end(q, "normal");
    nothing_left("a node that has gone");
}

static void test_own_links(void) {
    struct proc *p = procs_spawn(0, 0), *q = procs_spawn(0, 0);
    const char *gone;

    link_own(p, NOBODY);
    is_str(mail(p), "{'EXIT'," NOBODY ",noproc}", "a link to nobody");
    ok(!procs_watched(), "is none");
    link_own(p, pid(p));
    is_str(mail(p), "", "a link to oneself");
    ok(!procs_watched(), "neither");
    link_own(p, pid(q));
    link_own(p, pid(q));
    link_own(q, pid(p));
    unlink_own(q, pid(p));
    ok(!procs_watched(), "however often two are linked, one unlink ends it, from either side");
    link_own(p, pid(q));
    link_own(q, pid(p));
    gone = pid(q);
    end(q, "{oops,1}");
    is_str(mail(p), line("{'EXIT',%s,{oops,1}}", gone), "an end is told, once");
    ok(!procs_watched(), "and with it the link has ended");
    unlink_own(p, gone);
    q = procs_spawn(0, 0);
    link_own(p, pid(q));
    gone = pid(p);
    end(p, "normal");
    is_str(mail(q), line("{'EXIT',%s,normal}", gone), "it goes both ways");
    procs_register("counter", &object);
    link_own(q, pid(find("counter")));
    gone = pid(q);
    end(q, "killed");
    is_str(queued(), line("8 counter {'EXIT',%s,killed}", gone),
           "an object that is linked is told");
    p = procs_spawn(0, 0);
    link_own(p, pid(find("counter")));
    gone = pid(find("counter"));
    unregister("counter", "normal");
    is_str(mail(p), line("{'EXIT',%s,normal}", gone), "and its end is");
    end(p, "normal");
    nothing_left("own links");
}

static void test_remote_links(void) {
    struct proc *p = procs_spawn(0, 0);
    const char *me_pid = pid(p);

    link_to(p, a.conn, P);
    is_str(got(&a), line("{1,%s," P "}", me_pid), "a link to a process of another node");
    link_to(p, a.conn, P);
    is_str(got(&a), "", "a second one is none");
    tell(&a, line("{24," P ",%s}", me_pid), "{oops,1}");
    is_str(mail(p), "{'EXIT'," P ",{oops,1}}", "its end is a message");
    tell(&a, line("{24," P ",%s}", me_pid), "again");
    is_str(mail(p), "", "once");
    ok(!procs_watched(), "with it the link has ended");

    link_to(p, a.conn, P);
    got(&a);
    unlink_from(p, a.conn, P);
    has_str(got(&a), line(",%s," P "}", me_pid), "it is unlinked");
    tell(&a, line("{3," P ",%s,oops}", me_pid), NULL);
    is_str(mail(p), "", "an end that was under way is not told");
    unlink_from(p, a.conn, P);
    is_str(got(&a), "", "what is not linked is not unlinked");
    is_str(tell(&a, line("{36,1," P ",%s}", me_pid), NULL), "", "the acknowledgement is heard");
    link_to(p, a.conn, P);
    got(&a);
    tell(&a, line("{3," P ",%s,noproc}", me_pid), NULL);
    is_str(mail(p), "{'EXIT'," P ",noproc}", "linked again: the next end is");

    tell(&a, line("{1," P ",%s}", me_pid), NULL);
    tell(&a, line("{1," P ",%s}", me_pid), NULL);
    is_int(atomic_load(&a.conn->refs), 2, "who links itself twice is linked once");
    link_to(p, a.conn, P);
    is_str(got(&a), "", "who has linked itself is not linked once more");
    is_str(tell(&a, line("{35,7," P ",%s}", me_pid), NULL), line("{36,7,%s," P "}", me_pid),
           "it unlinks itself");
    ok(!procs_watched(), "which ends it for both");
    tell(&a, line("{1," P ",%s}", me_pid), NULL);
    tell(&b, line("{1," Q ",%s}", me_pid), NULL);
    unlink_from(p, a.conn, P);
    has_str(got(&a), line(",%s," P "}", me_pid), "one that the other has made can be ended, too");
    link_to(p, a.conn, P2);
    got(&a);
    end(p, "{oops,1}");
    is_str(got(&a), line("{24,%s," P2 "} + {oops,1}", me_pid), "the end goes to who is linked");
    is_str(got(&b), line("{24,%s," Q "} + {oops,1}", me_pid), "at each node");
    nothing_left("links to other nodes' processes");
}

/* The references by which links are ended are no two the same. */
static void test_unlink_ids(void) {
    struct proc *p = procs_spawn(0, 0);
    char last[64] = "";
    int same = 0;

    for (int i = 0; i < 5; i++) {
        char now[64];

        link_to(p, a.conn, P);
        got(&a);
        unlink_from(p, a.conn, P);
        snprintf(now, sizeof now, "%.20s", got(&a));
        same += strcmp(now, last) == 0 || strncmp(now, "{35,", 4) != 0 || now[4] == '0';
        strcpy(last, now);
    }
    is_int(same, 0, "each UNLINK_ID has a number of its own");
    end(p, "normal");
    nothing_left("unlinking");
}

/* Exit signals to a process: it traps them. */
static void test_signals(void) {
    struct proc *p = procs_spawn(0, 0);

    tell(&a, line("{8," P ",%s,kill}", pid(p)), NULL);
    tell(&a, line("{26," P ",%s}", pid(p)), "{a,1}");
    is_str(mail(p), "{'EXIT'," P ",kill}\n{'EXIT'," P ",{a,1}}", "exit(Pid, Reason) is a message");
    tell(&a, line("{3," P ",%s,oops}", pid(p)), NULL);
    is_str(mail(p), "", "a link's end is not, if there is no link");
    is_int(procs_processes(), 1, "the process lives");
    end(p, "normal");
    nothing_left("signals");
}

static void test_watched(void) {
    struct proc *p = procs_spawn(0, 0);
    const char *me_pid = pid(p);

    procs_set_name(p, "thread");
    is_str(tell(&a, line("{19," P ",%s," R "}", me_pid), NULL), "", "a process is watched");
    is_str(tell(&a, "{19," P ",thread," R2 "}", NULL), "", "by its name, too");
    is_str(tell(&b, line("{19," Q ",%s," RB "}", me_pid), NULL), "", "and from elsewhere");
    is_str(tell(&b, line("{20," Q ",%s," RB "}", me_pid), NULL), "", "that is given up");
    unregister("thread", "normal");
    is_str(got(&a), "{28,thread," P "," R2 "} + normal", "a name that is taken away is told");
    is_int(procs_processes(), 1, "the process lives on");
    ok(procs_find_name(term("thread")) == NULL, "the name is free");
    is_str(tell(&a, "{19," P ",thread," R2 "}", NULL), "{28,thread," P "," R2 "} + noproc",
           "and nobody");
    ok(procs_set_name(p, "again"), "it can have another one");
    tell(&a, "{19," P ",again," R2 "}", NULL);
    end(p, "{oops,1}");
    {
        const char *all = got(&a);

        has_str(all, line("{28,%s," P "," R "} + {oops,1}", me_pid),
                "its end is told to who watches");
        has_str(all, "{28,again," P "," R2 "} + {oops,1}", "the pid and the name");
    }
    is_str(got(&b), "", "not to who does not any more");
    is_str(tell(&a, line("{19," P ",%s," R "}", me_pid), NULL),
           line("{28,%s," P "," R "} + noproc", me_pid), "then it is not there");
    is_str(tell(&a, line("{1," P ",%s}", me_pid), NULL), line("{3,%s," P ",noproc}", me_pid),
           "neither for a link");
    nothing_left("who was watched");
}

/* process_ended() twice, and of what is not there. */
static void test_end_twice(void) {
    struct proc *p = procs_spawn(0, 0);

    procs_set_name(p, "thread");
    process_ended(p, term("normal"));
    ok(!procs_set_name(p, "again"), "what has ended gets no name");
    is_str(tell(&a, "{19," P ",thread," R "}", NULL), "{28,thread," P "," R "} + noproc",
           "it is found no more");
    process_ended(p, term("normal"));
    is_str(got(&a), "", "and ends once");
    proc_unref(p);
    process_pid_ended(99, 9, term("normal"));
    process_demonitor(99, 9, term(R));
    process_drop_link(99, 9, true, NULL, term(P));
    process_drop_link(99, 9, false, a.conn, term(P));
    is_str(got(&a), "", "what nobody has asked for ends without a word");
    nothing_left("nobody");
}

/* Exit signals to requests, with a mailbox and without: see also test_route. */
static void test_request_exits(void) {
    static const struct {
        const char *control;
        bool claimed, ends;
        const char *message;
    } exits[] = {
        {"{8," Q ",%s,oops}", false, true, ""},
        {"{8," Q ",%s,oops}", true, false, "{'EXIT'," Q ",oops}"},
        {"{8," Q ",%s,normal}", false, false, ""},
        {"{8," Q ",%s,normal}", true, false, "{'EXIT'," Q ",normal}"},
        {"{8," Q ",%s,kill}", false, true, ""},
        {"{8," Q ",%s,kill}", true, true, ""},
        {"{3," Q ",%s,oops}", true, false, ""}, /* not linked */
    };
    char control[256];

    for (size_t i = 0; i < sizeof exits / sizeof *exits; i++) {
        const char *pid = call(&a, P, R), *at = strstr(exits[i].control, "%s");
        struct request *r = exec_pop(&me);
        struct proc *p = procs_spawn(r->pid_id, r->pid_serial);

        snprintf(control, sizeof control, "%.*s%s%s", (int)(at - exits[i].control),
                 exits[i].control, pid, at + 2);
        atomic_store(&p->claimed, exits[i].claimed);
        tell(&b, line("{19," Q ",%s," RB "}", pid), NULL);
        tell(&b, control, NULL);
        is_int(*got(&a) != 0, exits[i].ends, "%s to a request that has %sasked who it is: %s",
               exits[i].control, exits[i].claimed ? "" : "not ", exits[i].ends ? "an end" : "none");
        is_str(mail(p), exits[i].message, "its mailbox");
        is_int(procs_processes(), !exits[i].ends, "the process is %sthere",
               exits[i].ends ? "not " : "");
        finish(r, "normal");
        got(&a);
        got(&b);
        proc_unref(p);
    }
    nothing_left("requests that were told to exit");
}

/* Many threads. */

static struct {
    pthread_barrier_t begin, done;
    struct proc *target, *watchers[THREADS];
    struct conn *conn; /* over which they watch, or NULL */
    const char *to;
    int number; /* of the round: what they do */
    bool stop;
    _Atomic int wrong;
} race;

/* How many messages p has got. */
static int mails(struct proc *p) {
    struct mailbox_message *m;
    int n = 0;

    for (; (m = mailbox_take(p->mailbox)); n++)
        free(m);
    return n;
}

static void *watcher_main(void *arg) {
    int number = *(int *)arg;
    struct buf to = {0}, ref = {0};

    for (;;) {
        struct proc *p;

        pthread_barrier_wait(&race.begin);
        if (race.stop)
            break;
        p = race.watchers[number];
        to.len = ref.len = 0;
        term_put(&to, race.to);
        switch (race.number % 4) {
        case 0:
            process_monitor(p->id, p->serial, !race.conn, race.conn, race.conn ? "c@h" : "py@h",
                            slice(&to), &ref);
            break;
        case 1:
            process_link(p->id, p->serial, !race.conn, race.conn, slice(&to));
            break;
        case 2:
            process_monitor(p->id, p->serial, !race.conn, race.conn, race.conn ? "c@h" : "py@h",
                            slice(&to), &ref);
            process_demonitor(p->id, p->serial, slice(&ref));
            break;
        default:
            process_link(p->id, p->serial, !race.conn, race.conn, slice(&to));
            process_drop_link(p->id, p->serial, !race.conn, race.conn, slice(&to));
            break;
        }
        pthread_barrier_wait(&race.done);
    }
    buf_done(&to);
    buf_done(&ref);
    return NULL;
}

/* What they watch ends at the same moment: who has not given it up is told once. */
static void test_races(void) {
    pthread_t threads[THREADS];
    int ids[THREADS], told = 0, untold = 0;

    pthread_barrier_init(&race.begin, NULL, THREADS + 1);
    pthread_barrier_init(&race.done, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        race.watchers[i] = procs_spawn(0, 0);
        if (pthread_create(&threads[i], NULL, watcher_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (int i = 0; i < ROUNDS; i++) {
        struct end c;
        struct buf why = {0};

        race.number = i;
        race.target = procs_spawn(0, 0);
        open_end(&c, "c@h");
        race.conn = i / 4 % 2 ? c.conn : NULL;
        race.to = race.conn ? "<c@h,1,2,3>" : pid(race.target);
        etf_put_atom(&why, "normal");
        pthread_barrier_wait(&race.begin);
        for (int n = 0; n < i % 5; n++)
            sched_yield();
        if (race.conn) {
            outbox_close(&c.conn->out);
            route_closed(c.conn);
        } else {
            process_ended(race.target, slice(&why));
        }
        pthread_barrier_wait(&race.done);
        if (!race.conn)
            process_pid_ended(race.target->id, race.target->serial, slice(&why));
        else
            process_ended(race.target, slice(&why));
        for (int w = 0; w < THREADS; w++) {
            int n = mails(race.watchers[w]);

            race.wrong += i % 4 < 2 ? n != 1 : n > 1;
            told += n > 0;
            untold += n == 0;
        }
        proc_unref(race.target);
        race.wrong += !close_end(&c);
        buf_done(&why);
    }
    race.stop = true;
    pthread_barrier_wait(&race.begin);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    is_int(race.wrong, 0, "%d threads watch what ends: each is told once, or has given it up",
           THREADS);
    diag("%d told, %d not", told, untold);
    for (int i = 0; i < THREADS; i++)
        end(race.watchers[i], "normal");
    nothing_left("races");
}

static _Atomic bool sending;

static void *sender_main(void *arg) {
    struct buf message = {0};

    etf_put_atom(&message, "hello");
    while (atomic_load(&sending)) {
        struct proc *p = procs_find_name((struct slice){(const uint8_t *)"thread", 6});

        if (p) {
            process_send(p, slice(&message), false);
            proc_unref(p);
        }
    }
    buf_done(&message);
    return arg;
}

/* Messages to processes that come and go. */
static void test_senders(void) {
    pthread_t threads[2];
    int got_some = 0;

    atomic_store(&sending, true);
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, sender_main, NULL) != 0)
            tap_bail("no thread");
    for (int i = 0; i < 500 || (got_some == 0 && i < 1000000); i++) {
        struct proc *p = procs_spawn(0, 0);

        procs_set_name(p, "thread");
        sched_yield();
        got_some += mails(p) > 0;
        process_ended(p, term("normal"));
        proc_unref(p);
    }
    atomic_store(&sending, false);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ok(got_some > 0, "messages reach processes that come and go: %d have got some", got_some);
    nothing_left("them");
}

static void test_all(void) {
    test_messages();
    test_objects();
    test_requests();
    test_own_monitors();
    test_monitored_object();
    test_ended_object_watches();
    test_remote_monitors();
    test_sure();
    test_noconnection();
    test_own_links();
    test_remote_links();
    test_unlink_ids();
    test_signals();
    test_watched();
    test_end_twice();
    test_request_exits();
}

int main(void) {
    static const struct exec_hooks hooks;
    static const struct control_facts facts = {.node = "py@h"};
    struct io_settings settings = {.net_ticktime = 60};
    struct err e;

    log_path = tap_path("log");
    log_open(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, log_path);
    open_end(&a, "a@h");
    open_end(&b, "b@h");
    settings.listener = dup(a.peer);
    if (io_init(&settings, &e) < 0)
        tap_bail("%s", e.text);
    request_init("py@h", 77);
    route_init("py@h");
    process_init("py@h");
    mailbox_init(MAIL);
    procs_init(release_cb);
    control_init(&facts);
    exec_init(1, 1, LIMIT, &hooks);
    test_all();
    whole = true;
    if (truncate(log_path, 0) < 0)
        tap_bail("the log cannot be emptied");
    diag("each frame in a buffer of its own");
    test_all();
    test_races();
    test_senders();
    ok(close_end(&a) && close_end(&b), "nobody holds the connections any more");
    free(log_path);
    return tap_end();
}
