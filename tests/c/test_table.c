/* test_table.c - the table of requests: found by reference or pid, and walked through. */
#include "config.h"

#include "table.h"
#include "tap.h"

enum { MANY = 20000 };

/* What stands for connections: the table compares their addresses only. */
static char conns[2];
#define CONN(n) ((struct conn *)&conns[n])

static struct slice ref_of(const char *ref) {
    return (struct slice){(const uint8_t *)ref, strlen(ref)};
}

static void test_find(void) {
    struct request a = {.conn = CONN(0), .ref = ref_of("a")};
    struct request same = {.conn = CONN(1), .ref = ref_of("a")};
    struct request none = {.conn = CONN(0)};

    ok(!table_find(CONN(0), ref_of("a")), "nothing is found in an empty table");
    table_add(&a);
    table_add(&same);
    table_add(&none);
    ok(table_find(CONN(0), ref_of("a")) == &a, "a request is found by connection and reference");
    ok(table_find(CONN(1), ref_of("a")) == &same, "another connection's has the same one");
    ok(!table_find(CONN(0), ref_of("b")), "another reference is nobody's");
    table_remove(&a);
    ok(!table_find(CONN(0), ref_of("a")), "what is removed is not found");
    ok(table_find(CONN(1), ref_of("a")) == &same, "the other is");
    table_remove(&none);
    table_remove(&same);
}

static void test_pid(void) {
    struct request a = {.pid_id = 7, .pid_serial = 1}, none = {.pid_serial = 3};

    table_add(&a);
    table_add(&none);
    ok(table_find_pid(7, 1) == &a, "a process is found by its pid");
    ok(!table_find_pid(7, 2), "not by another serial");
    ok(!table_find_pid(8, 1), "nor by another id");
    ok(!table_find_pid(0, 3), "what is no process is not found");
    table_remove(&a);
    table_remove(&none);
}

static void test_walk(void) {
    static struct request all[MANY];
    static char refs[MANY][8];
    struct table_walk walk = {0};
    struct request *r;
    int seen = 0, found = 0;

    for (int i = 0; i < MANY; i++) {
        snprintf(refs[i], sizeof refs[i], "%d", i);
        all[i].conn = CONN(i % 2);
        all[i].ref = i % 3 ? ref_of(refs[i]) : (struct slice){0};
        table_add(&all[i]);
    }
    for (int i = 0; i < MANY; i++)
        found += i % 3 && table_find(CONN(i % 2), ref_of(refs[i])) == &all[i];
    is_int(found, MANY - (MANY + 2) / 3, "each of many is found");
    for (; (r = table_step(&walk)); seen++)
        if (r->conn == CONN(0))
            table_remove(r);
    is_int(seen, MANY, "a walk sees each once, also when it removes");
    walk = (struct table_walk){0};
    for (seen = 0; (r = table_step(&walk)); seen++)
        table_remove(r);
    is_int(seen, MANY / 2, "and the rest is still there");
    walk = (struct table_walk){0};
    ok(!table_step(&walk), "in the end it is empty");
}

int main(void) {
    test_find();
    test_pid();
    test_walk();
    return tap_end();
}
