/* test_procs.c - names, pids, watches: who is found, who is told, what is freed, many threads.
 *
 * Runs under TSan as well. Objects are addresses of counters, so that each release is seen.
 */
#include "config.h"

#include "procs.h"
#include "tap.h"
#include "term.h"

enum { THREADS = 4, ROUNDS = 3000 };

static char conns[THREADS + 1];
#define CONN(n) ((struct conn *)&conns[n])

/* An object that counts how often it was let go. */
struct object {
    _Atomic int released;
};

static void release(void *object) {
    atomic_fetch_add(&((struct object *)object)->released, 1);
}

/* A term out of text, in a ring of buffers. */
static struct slice term(const char *text) {
    static struct buf ring[8];
    static int next;
    struct buf *b = &ring[next++ % 8];

    b->len = 0;
    term_put(b, text);
    return (struct slice){b->data, b->len};
}

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void unregister(const char *name) {
    struct proc *p = procs_unregister(name);

    if (!p)
        tap_bail("%s: not registered", name);
    proc_unref(p);
}

static void test_names(void) {
    struct object a = {0}, b = {0};
    struct proc *p, *q;

    ok(!procs_find_name(text("counter")), "no name at first");
    ok(!procs_unregister("counter"), "nor one to take away");
    ok(procs_register("counter", &a), "a name is given");
    ok(!procs_register("counter", &b), "not twice");
    is_int(b.released, 0, "an object that was not taken is not let go");
    ok(procs_register("other", &b), "another name for another object");
    is_int(procs_count(), 2, "two names");
    p = procs_find_name(text("counter"));
    ok(p && p->object == &a, "the name finds its object");
    q = procs_find_name(text("other"));
    ok(q && q->object == &b, "and the other one its own");
    ok(!procs_find_name(text("count")) && !procs_find_name(text("counter2")) &&
           !procs_find_name(text("")),
       "a part of a name is another name");
    ok(p->id != q->id || p->serial != q->serial, "each has a pid of its own");
    proc_unref(q);
    q = procs_find_pid(p->id, p->serial);
    ok(q == p, "the pid finds the same");
    ok(!procs_find_pid(p->id, p->serial + 1), "another pid does not");

    unregister("counter");
    is_int(procs_count(), 1, "one name");
    ok(!procs_find_name(text("counter")), "a name that was taken away is not found");
    ok(!procs_find_pid(p->id, p->serial), "nor its pid");
    is_int(a.released, 0, "but who has found it may still use the object");
    proc_unref(q);
    is_int(a.released, 0, "until the last");
    proc_unref(p);
    is_int(a.released, 1, "has let it go: once");
    ok(procs_register("counter", &a), "the name can be given again");
    unregister("counter");
    unregister("other");
    is_int(a.released, 2, "and is let go again");
    is_int(b.released, 1, "the other, too");
}

/* A name as a term, "-" if the process has none. */
static const char *name_of(struct proc *p) {
    struct buf b = {0};
    const char *name = procs_put_name(p, &b) ? term_text((struct slice){b.data, b.len}) : "-";

    if (*name == '-' && b.len > 0)
        tap_bail("something was written for a name that there is not");
    buf_done(&b);
    return name;
}

/* Processes with a mailbox. */
static void test_processes(void) {
    struct object a = {0};
    struct proc *p = procs_spawn(0, 0), *q = procs_spawn(0, 0), *object, *again;
    uint32_t id, serial;

    ok(p != q && (p->id != q->id || p->serial != q->serial), "two processes have two pids");
    ok(p->mailbox && q->mailbox && p->mailbox != q->mailbox, "and a mailbox each");
    is_int(procs_processes(), 2, "there are two");
    is_int(procs_count(), 0, "without names");
    is_str(name_of(p), "-", "none is named");
    again = procs_spawn(p->id, p->serial);
    ok(again == p, "a process that is there is not made anew");
    is_int(procs_processes(), 2, "nor counted");
    proc_unref(again);

    ok(procs_set_name(p, "thread"), "one gets a name");
    ok(!procs_set_name(q, "thread"), "which no other can have");
    ok(!procs_set_name(p, "other"), "nor has it a second one");
    is_str(name_of(p), "thread", "it is its");
    is_str(name_of(q), "-", "and not the other's");
    is_int(procs_count(), 1, "one name");
    again = procs_find_name(text("thread"));
    ok(again == p, "the name finds it");
    proc_unref(again);
    ok(!procs_register("thread", &a), "an object cannot have it");
    ok(procs_register("object", &a) && !procs_set_name(q, "object"), "nor a process an object's");
    object = procs_find_name(text("object"));
    ok(!object->mailbox, "an object has no mailbox");
    is_int(procs_processes(), 2, "and is not counted among the processes");
    is_str(name_of(object), "object", "it has its name");
    again = procs_spawn(object->id, object->serial);
    ok(again == object, "its pid is nobody else's");
    proc_unref(again);
    proc_unref(object);
    unregister("object");
    is_int(a.released, 1, "it is let go");

    again = procs_unregister("thread");
    ok(again == p, "a name is taken away");
    proc_unref(again);
    is_str(name_of(p), "-", "then the process has none");
    is_int(procs_processes(), 2, "but lives");
    again = procs_find_pid(p->id, p->serial);
    ok(again == p, "and is found by its pid");
    proc_unref(again);
    ok(procs_set_name(p, "other") && procs_set_name(q, "thread"), "names can be given again");

    id = p->id;
    serial = p->serial;
    ok(procs_remove(p), "a process ends");
    ok(!procs_remove(p), "once");
    ok(!procs_find_pid(id, serial) && !procs_find_name(text("other")), "then it is not found");
    is_int(procs_processes(), 1, "the other one is left");
    ok(!procs_set_name(p, "again"), "it gets no name any more");
    again = procs_spawn(id, serial);
    ok(again != p, "its pid could be another's");
    ok(!procs_remove(p), "whose end is not its end");
    is_int(procs_processes(), 2, "as that lives");
    ok(procs_remove(again), "until it ends, too");
    proc_unref(again);
    proc_unref(p);
    ok(procs_remove(q), "the last ends, with its name");
    proc_unref(q);
    is_int(procs_count() + procs_processes(), 0, "nothing is left");
}

/* Frees a list of watches: who is told what, in the order of the text, "from to ref" each. */
static const char *told(struct watch *list) {
    static char line[1024];

    *line = 0;
    while (list) {
        struct watch *next = list->next;

        snprintf(line + strlen(line), sizeof line - strlen(line), "%s%d%s %s %s %s",
                 *line ? "; " : "", list->conn ? (int)((char *)list->conn - conns) : -1,
                 list->link ? " link" : "",
                 term_text(list->from), term_text(list->to),
                 list->ref.len ? term_text(list->ref) : "-");
        free(list);
        list = next;
    }
    return line;
}

/* Frees a list of watches: how many there were. */
static int drop(struct watch *list) {
    int n = 0;

    for (; list; n++) {
        struct watch *next = list->next;

        free(list);
        list = next;
    }
    return n;
}

#define P "<a@h,1,2,3>"
#define Q "<a@h,1,2,4>"
#define R "#<a@h,7,8>"
#define S "#<a@h,7,9>"
#define NO_REF ((struct slice){NULL, 0})

static void test_watches(void) {
    is_str(told(procs_end(term("counter"))), "", "nobody watches at first");
    ok(!procs_unwatch(CONN(0), term(P), term("counter"), term(R)), "nothing to end");
    procs_watch(CONN(0), term(P), term("counter"), term(R));
    is_str(told(procs_end(term("counter"))), "0 " P " counter " R, "who watches is told");
    is_str(told(procs_end(term("counter"))), "", "once");

    procs_watch(CONN(0), term(P), term("counter"), term(R));
    procs_watch(CONN(0), term(P), term("counter"), term(S));
    ok(!procs_unwatch(CONN(1), term(P), term("counter"), term(R)), "another connection's: no");
    ok(!procs_unwatch(CONN(0), term(Q), term("counter"), term(R)), "another process's: no");
    ok(!procs_unwatch(CONN(0), term(P), term("other"), term(R)), "of another name: no");
    ok(procs_unwatch(CONN(0), term(P), term("counter"), term(R)), "its own: yes");
    ok(!procs_unwatch(CONN(0), term(P), term("counter"), term(R)), "once");
    is_str(told(procs_end(term("counter"))), "0 " P " counter " S, "the other one is still there");

    procs_watch(CONN(0), term(P), term("counter"), term(R));
    procs_watch(CONN(1), term(Q), term("counter"), term(S));
    procs_watch(CONN(0), term(P), term("other"), term(S));
    procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), term(R));
    is_int(drop(procs_forget_conn(CONN(0))), 3, "a connection that is gone has three watches");
    is_str(told(procs_end(term("counter"))), "1 " Q " counter " S,
           "a connection that is gone is not told, the others are");
    is_str(told(procs_end(term("other"))), "", "of no name");
    is_str(told(procs_end(term("<py@h,4,5,77>"))), "", "nor pid");
}

static void test_links(void) {
    procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF);
    procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), term(R));
    ok(procs_unwatch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "a link is ended");
    ok(!procs_unwatch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "once");
    is_str(told(procs_end(term("<py@h,4,5,77>"))), "0 " P " <py@h,4,5,77> " R,
           "and the monitor stays");
    ok(procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "a link");
    ok(!procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "a second one is none");
    ok(procs_watch(CONN(1), term(P), term("<py@h,4,5,77>"), NO_REF), "one over another connection is");
    is_str(told(procs_forget_conn(CONN(1))), "1 link " P " <py@h,4,5,77> -", "and ends with that");
    is_str(told(procs_end(term("<py@h,4,5,77>"))), "0 link " P " <py@h,4,5,77> -",
           "who is linked is told");
    ok(procs_watch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "then it can be linked again");
    ok(procs_unwatch(CONN(0), term(P), term("<py@h,4,5,77>"), NO_REF), "and unlinked");
}

/* Those of our own processes, which have no connection. */
static void test_own_watches(void) {
    const char *me = "<py@h,7,1,77>", *other = "<py@h,8,1,77>";

    ok(!procs_watched(), "nothing is watched");
    procs_watch(NULL, term(me), term("counter"), term(R));
    procs_watch(NULL, term(me), term(other), NO_REF);
    procs_watch(NULL, term(other), term(me), NO_REF);
    procs_watch(CONN(0), term(me), term("counter"), term(S));
    ok(procs_watched(), "something is");
    is_str(told(procs_forget_conn(CONN(1))), "", "they are of no connection");
    is_str(told(procs_forget_from(term(P))), "", "nor of another process");
    ok(!procs_unwatch(CONN(0), term(me), term("counter"), term(R)), "nor found with one");
    is_str(told(procs_end(term(me))), "-1 link <py@h,8,1,77> <py@h,7,1,77> -", "who ends is watched");
    {
        const char *mine = told(procs_forget_from(term(me)));

        ok(strstr(mine, "-1 <py@h,7,1,77> counter " R) && strstr(mine, "-1 link <py@h,7,1,77> "),
           "what it watches is forgotten");
    }
    is_str(told(procs_end(term("counter"))), "0 <py@h,7,1,77> counter " S,
           "not what came over a connection");
    ok(!procs_watched(), "nothing is watched any more");
}

/* Many in few buckets: all are found again, whatever shares their bucket. */
static void test_many(void) {
    char name[32];
    int i, found = 0;

    for (i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "name%d", i);
        procs_watch(CONN(i % 2), term(P), term(name), term(R));
    }
    for (i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "name%d", i);
        found += procs_unwatch(CONN(i % 2), term(P), term(name), term(R));
    }
    is_int(found, 1000, "1000 of 2000 watches are ended by those who made them");
    is_int(drop(procs_forget_conn(CONN(0))), 500, "500 were of a connection that is gone");
    for (i = found = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "name%d", i);
        found += *told(procs_end(term(name))) != 0;
    }
    is_int(found, 500, "500 are told");
}

static _Atomic int registered, ended, unwatched, watched;
static struct object shared;

/* One thread's own terms: the ring above is the main thread's. */
struct terms {
    struct buf name, from, ref, put;
};

static struct slice slice(const struct buf *b) {
    return (struct slice){b->data, b->len};
}

/* Registers and unregisters names that the others use, too; watches, ends watches, finds. */
static void *thread_main(void *arg) {
    int me = *(int *)arg, i;
    struct terms t = {0};

    term_put(&t.from, P);
    term_put(&t.ref, R);
    for (i = 0; i < ROUNDS; i++) {
        static const char *const names[] = {"one", "two", "three"};
        const char *name = names[(i + me) % 3];
        struct proc *p;
        struct watch *list, *next;

        t.name.len = 0;
        term_put(&t.name, name);
        if (procs_register(name, &shared))
            atomic_fetch_add(&registered, 1);
        procs_watch(CONN(me), slice(&t.from), slice(&t.name), slice(&t.ref));
        atomic_fetch_add(&watched, 1);
        p = procs_find_name(text(name));
        if (p) {
            struct proc *q = procs_find_pid(p->id, p->serial);

            if (q)
                proc_unref(q);
            proc_unref(p);
        }
        if (i % 2 && procs_unwatch(CONN(me), slice(&t.from), slice(&t.name), slice(&t.ref)))
            atomic_fetch_add(&unwatched, 1);
        p = i % 3 ? procs_unregister(name) : NULL;
        if (p)
            proc_unref(p);
        p = procs_spawn(1 + (uint32_t)i % 2, 9); /* others have it, too */
        procs_set_name(p, name);
        t.put.len = 0;
        procs_put_name(p, &t.put);
        procs_remove(p);
        proc_unref(p);
        for (list = i % 5 ? NULL : procs_end(slice(&t.name)); list; list = next) {
            next = list->next;
            atomic_fetch_add(&ended, 1);
            free(list);
        }
    }
    buf_done(&t.name);
    buf_done(&t.from);
    buf_done(&t.ref);
    buf_done(&t.put);
    return NULL;
}

static void test_threads(void) {
    static const char *const names[] = {"one", "two", "three"};
    pthread_t threads[THREADS];
    int ids[THREADS], i;
    struct watch *list, *next;

    for (i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, thread_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < 3; i++) {
        struct proc *p = procs_unregister(names[i]);

        if (p)
            proc_unref(p);
        for (list = procs_end(term(names[i])); list; list = next) {
            next = list->next;
            atomic_fetch_add(&ended, 1);
            free(list);
        }
    }
    is_int(procs_count(), 0, "%d threads: no name is left", THREADS);
    is_int(procs_processes(), 0, "nor a process");
    is_int(shared.released, registered, "each that was registered was let go, once");
    is_int(ended + unwatched, watched, "each watch was told or ended, once");
}

int main(void) {
    request_init("py@h", 77);
    procs_init(release);
    test_names();
    test_processes();
    test_watches();
    test_links();
    test_own_watches();
    test_many();
    test_threads();
    return tap_end();
}
