/* test_ties.c - the monitors that our own processes have made: found by process, reference and
 * connection; many threads. Runs under TSan as well.
 */
#include "config.h"

#include "ties.h"
#include "tap.h"
#include "term.h"

#include <sched.h>
#include <stdlib.h>

enum { THREADS = 4, ROUNDS = 2000 };

/* What stands for connections: ties compares their addresses only. */
static char conns[2];
#define CONN(n) ((struct conn *)&conns[n])

#define P "<a@h,1,2,3>"

/* A term out of text, in a ring of buffers. */
static struct slice term(const char *text) {
    static struct buf ring[8];
    static int next;
    struct buf *b = &ring[next++ % 8];

    b->len = 0;
    term_put(b, text);
    return (struct slice){b->data, b->len};
}

static struct slice ref(uint32_t number) {
    char text[32];

    snprintf(text, sizeof text, "#<py@h,77,%u>", number);
    return term(text);
}

/* Frees a list: each as id.serial, connection, target and reference. */
static const char *said(struct tie *list) {
    struct term_out o = term_out_new();

    while (list) {
        struct tie *next = list->next;

        term_add(&o, "%s%u.%u ", o.len ? "; " : "", list->id, list->serial);
        if (list->conn)
            term_add(&o, "%d ", (int)((char *)list->conn - conns));
        else
            term_add(&o, "- ");
        term_add_one(&o, list->to.data);
        term_add(&o, " ");
        term_add_one(&o, list->ref.data);
        free(list);
        list = next;
    }
    return o.text;
}

static void test_one(void) {
    is_str(said(ties_take(1, 2, ref(1))), "", "no tie at first");
    is_str(said(ties_take_all(1, 2)), "", "of nobody");
    is_str(said(ties_take_conn(CONN(0))), "", "over no connection");
    ties_add(1, 2, CONN(0), term(P), ref(1));
    is_str(said(ties_take(1, 3, ref(1))), "", "another process's is not found");
    is_str(said(ties_take(257, 2, ref(1))), "", "also of the same bucket");
    is_str(said(ties_take(1, 2, ref(2))), "", "nor by another reference");
    is_str(said(ties_take_conn(CONN(1))), "", "nor by another connection");
    is_str(said(ties_take(1, 2, ref(1))), "1.2 0 " P " #<py@h,77,1>", "its own is");
    is_str(said(ties_take(1, 2, ref(1))), "", "once");
}

static void test_lists(void) {
    ties_add(1, 2, CONN(0), term(P), ref(1));
    ties_add(1, 2, NULL, term("counter"), ref(2));
    ties_add(1, 2, CONN(1), term("name"), ref(3));
    ties_add(1, 3, CONN(0), term(P), ref(4));
    ties_add(257, 2, CONN(1), term(P), ref(5));
    is_str(said(ties_take_conn(CONN(0))), "1.2 0 " P " #<py@h,77,1>; 1.3 0 " P " #<py@h,77,4>",
           "all of a connection, whoever they are of");
    is_str(said(ties_take_all(1, 2)), "1.2 - counter #<py@h,77,2>; 1.2 1 name #<py@h,77,3>",
           "all of a process, whatever they are over");
    is_str(said(ties_take_all(1, 3)), "", "nothing is left of the other");
    is_str(said(ties_take_conn(CONN(1))), "257.2 1 " P " #<py@h,77,5>",
           "the one of the same bucket is");
    ties_add(1, 2, NULL, term("counter"), ref(6));
    is_str(said(ties_take_conn(CONN(0))), "", "one over no connection is of none");
    is_str(said(ties_take_all(1, 2)), "1.2 - counter #<py@h,77,6>", "but its process's");
}

static void test_many(void) {
    struct tie *list;
    int n = 0, found = 0;

    for (uint32_t i = 0; i < 2000; i++)
        ties_add(i, 1, CONN(i % 2), term(P), ref(i));
    for (uint32_t i = 0; i < 1000; i++) {
        struct tie *t = ties_take(i, 1, ref(i));

        found += t && t->id == i && !t->next;
        free(t);
    }
    is_int(found, 1000, "1000 of 2000 are taken one by one");
    for (list = ties_take_conn(CONN(0)); list; n++) {
        struct tie *next = list->next;

        free(list);
        list = next;
    }
    is_int(n, 500, "500 with their connection");
    for (uint32_t i = 0; i < 2000; i++)
        n += strlen(said(ties_take_all(i, 1))) > 0;
    is_int(n, 1000, "and 500 with their processes");
}

/* Each is taken once, by its process or with its connection. */

static _Atomic int added, taken, adding;

static void take_list(struct tie *list) {
    while (list) {
        struct tie *next = list->next;

        atomic_fetch_add(&taken, 1);
        free(list);
        list = next;
    }
}

static void *thread_main(void *arg) {
    uint32_t me = *(uint32_t *)arg;
    struct buf to = {0}, r = {0};

    term_put(&to, P);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const uint32_t ids[] = {i, me};

        r.len = 0;
        etf_put_ref(&r, "py@h", 77, ids, 2);
        ties_add(i % 3, me % 2, CONN(i % 2), (struct slice){to.data, to.len},
                 (struct slice){r.data, r.len});
        atomic_fetch_add(&added, 1);
        if (i % 2)
            take_list(ties_take(i % 3, me % 2, (struct slice){r.data, r.len}));
        if (i % 100 == 0)
            take_list(ties_take_all(i % 3, me % 2));
    }
    atomic_fetch_sub(&adding, 1);
    buf_done(&to);
    buf_done(&r);
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[THREADS];
    uint32_t ids[THREADS];

    atomic_store(&adding, THREADS);
    for (int i = 0; i < THREADS; i++) {
        ids[i] = (uint32_t)i;
        if (pthread_create(&threads[i], NULL, thread_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    while (atomic_load(&adding) > 0) {
        take_list(ties_take_conn(CONN(0)));
        sched_yield();
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    take_list(ties_take_conn(CONN(0)));
    take_list(ties_take_conn(CONN(1)));
    is_int(taken, added, "%d threads: each tie is taken once", THREADS);
}

int main(void) {
    test_one();
    test_lists();
    test_many();
    test_threads();
    return tap_end();
}
