/* test_py_interrupt.c - erlang.Cancelled in Python code that runs: where it arrives, and where not.
 *
 * Embeds Python. A true pool, whose hooks run the text of a request's function as statements; the
 * main thread, outside Python, pushes, interrupts and plays the io thread.
 */
#include "config.h"

#include "pool.h"
#include "py.h"
#include "py_interrupt.h"
#include "tap.h"
#include "watched.h"

#include <sched.h>

enum { TARGET = 2, MAX = 4, LIMIT = 10000, SECONDS = 60 };

static char conn;

static int started;   /* threads */
static int served;    /* requests */
static int cancelled; /* of these, ended in Cancelled */
static int failed;    /* of these, ended in something else */
static int wrong;     /* of these, ended in Cancelled, which nobody wanted of them */

static PyObject *names; /* what the statements see: note() tells the main thread */
static int noted;

static PyObject *note(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none)) {
    change(&noted, 1);
    return Py_NewRef(Py_None);
}

static PyMethodDef note_def = {"note", note, METH_NOARGS, NULL};

static void start_cb(struct exec_worker *w) {
    w->python_id = PyThread_get_thread_ident();
    py_attach();
    change(&started, 1);
}

static void stop_cb(struct exec_worker *w) {
    (void)w;
    py_detach();
}

static _Atomic int begun[10000]; /* the requests whose references are these numbers */

/* Runs a text, or calls a function of C with no bytecode after it that could raise. */
static PyObject *call(const char *statements) {
    if (strcmp(statements, "nap") == 0)
        return PyObject_CallFunction(PyDict_GetItemString(names, "sleep"), "d", 0.0001);
    return PyRun_String(statements, Py_file_input, names, names);
}

/* As py_worker.c does it. */
static void run(struct exec_worker *w, struct request *r) {
    PyObject *result;
    bool raised;

    atomic_store(&begun[atoi((const char *)r->ref.data)], 1);
    result = call((const char *)r->function.data);
    exec_claim(r);
    if (r->interrupted)
        py_forget_raised();
    raised = !result && PyErr_ExceptionMatches(py_interrupt_exception());
    change(&cancelled, raised);
    change(&failed, !result && !raised);
    change(&wrong, raised && !r->interrupted);
    PyErr_Clear();
    Py_XDECREF(result);
    exec_finish(w, r);
    request_free(r);
    change(&served, 1);
}

static void serve_cb(struct exec_worker *w) {
    struct request *r;

    py_enter();
    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w)))
        run(w, r);
    py_leave();
}

static bool lead_cb(struct exec_worker *w) {
    (void)w;
    return false;
}

static int looks; /* for workers to interrupt */

static void interrupt_cb(void) {
    py_interrupt();
    change(&looks, 1);
}

static const struct exec_hooks hooks = {.start = start_cb,
                                        .serve = serve_cb,
                                        .lead = lead_cb,
                                        .stop = stop_cb,
                                        .interrupt = interrupt_cb};

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, s ? strlen(s) : 0};
}

static void push(const char *ref, const char *queue, const char *statements) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_APP_CALL;
    r->conn = (struct conn *)&conn;
    r->ref = text(ref);
    r->function = text(statements);
    r->options.queue = text(queue);
    if (!exec_push(r))
        tap_bail("%s was not taken", ref);
}

static enum exec_cancelled interrupt(const char *ref) {
    struct request *r;
    enum exec_cancelled result = exec_interrupt((struct conn *)&conn, text(ref), &r);

    if (r)
        request_free(r);
    return result;
}

/* Plays the io thread until *what is as wanted: whether it came to that in time. */
static bool until(const int *what, int wanted) {
    int64_t end = clock_now() + (int64_t)SECONDS * 1000000000;

    while (clock_now() < end && look(what) != wanted) {
        pool_supervise(clock_now());
        sched_yield();
    }
    return look(what) == wanted;
}

static void begin(void) {
    pthread_mutex_lock(&lock);
    served = cancelled = failed = wrong = noted = 0;
    pthread_mutex_unlock(&lock);
}

static void test_loop(void) {
    begin();
    push("a", NULL, "note()\nwhile x: x = 1\n");
    push("b", "q", "note()\nwhile x: x = 1\n");
    push("c", NULL, "note()\nwhile x: x = 1\n");
    ok(until(&noted, 3), "three loops that do not end, one of them in a queue");
    is_int(interrupt("a"), EXEC_INTERRUPTED, "one is interrupted");
    ok(until(&cancelled, 1), "and ends");
    is_int(interrupt("b"), EXEC_INTERRUPTED, "that in the queue");
    ok(until(&cancelled, 2), "and ends");
    is_int(interrupt("c"), EXEC_INTERRUPTED, "the last");
    ok(until(&served, 3), "and ends");
    is_int(look(&cancelled), 3, "all by the exception");
    push("d", NULL, "note()\n");
    push("e", "q", "note()\n");
    ok(until(&served, 5), "the threads serve on");
    is_int(look(&cancelled) + look(&failed), 3, "as if nothing had been");
}

#define SPIN        \
    "def spin():\n" \
    "    while x: pass\n"

static void test_caught(void) {
    begin();
    push("a", NULL,
         SPIN "try:\n"
              "    note()\n"
              "    while x:\n"
              "        try:\n"
              "            spin()\n"
              "        except Exception: pass\n"
              "finally:\n"
              "    note()\n");
    ok(until(&noted, 1), "a loop in a loop that goes on after every Exception");
    interrupt("a");
    ok(until(&served, 1), "ends all the same");
    is_int(look(&noted), 2, "and its finally has run");
    push("b", NULL,
         SPIN "try:\n"
              "    note()\n"
              "    spin()\n"
              "except BaseException as e:\n"
              "    name = type(e).__module__ + '.' + type(e).__qualname__\n"
              "    assert name == 'erlang.Cancelled', name\n");
    ok(until(&noted, 3), "one that catches everything");
    interrupt("b");
    ok(until(&served, 2), "ends as it likes");
    is_int(look(&cancelled) + look(&failed), 1, "with no error");
}

/* The jump back is the one place at which something can be raised. */
#define BLOCK(head, body, tail)       \
    "def block():\n" head "        note()\n" \
    "        while x:\n" body tail "block()\n"
#define FINALLY "    finally:\n        note()\n"
#define TEN "            y = 1; y = 1; y = 1; y = 1; y = 1; y = 1; y = 1; y = 1; y = 1; y = 1\n"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

/* Each notes when it has begun, and when its block is left. In some the loop is the first thing in the block, in others
 * the jump back has a long distance, or there are several, or one block is in another. */
static const char *const blocks[] = {
    "def block():\n"
    "    note()\n"
    "    try:\n"
    "        while True: y = x\n" FINALLY "block()\n",
    "def block():\n"
    "    note()\n"
    "    try:\n"
    "        while x:\n"
    "            if x: continue\n"
    "            y = x\n" FINALLY "block()\n",
    "def block():\n"
    "    try:\n"
    "        note()\n"
    "        try:\n"
    "            while True: y = x\n"
    "        except KeyError: pass\n" FINALLY "block()\n",
    "def block():\n"
    "    note()\n"
    "    try:\n"
    "        try:\n"
    "            while True: y = x\n"
    "        except KeyError: pass\n" FINALLY "block()\n",
    "def block():\n"
    "    y = z = 0\n"
    "    try:\n"
    "        note()\n"
    "        while True:\n"
    "            try: y += 1\n"
    "            finally: z += 1\n"
    "    finally:\n"
    "        if y == z: note()\n" /* not twice in one round */
    "block()\n",
    "from itertools import repeat\n"
    "def block():\n"
    "    try:\n"
    "        note()\n"
    "        for y in repeat(x):\n"
    "            if not y:\n"
    "                y = 1\n" FINALLY "block()\n",
    BLOCK("    try:\n", "            pass\n", FINALLY),
    BLOCK("    try:\n", HUNDRED HUNDRED, FINALLY),
    BLOCK("    try:\n", "            pass\n", "    except BaseException:\n        note()\n        raise\n"),
    "class Context:\n"
    "    def __enter__(self): note()\n"
    "    def __exit__(self, *raised): note()\n"
    "def block():\n"
    "    with Context():\n"
    "        while x: pass\n"
    "block()\n",
    "def block():\n"
    "    try:\n"
    "        while x:\n"
    "            try: y = 1\n"
    "            except ValueError: pass\n"
    "            for z in 1, 2:\n"
    "                try:\n"
    "                    note()\n"
    "                    while x: pass\n"
    "                except KeyError: pass\n"
    "    finally: note()\n"
    "block()\n",
    "def spin():\n"
    "    y = 1\n"
    "    while x: pass\n"
    "def block():\n"
    "    try:\n"
    "        note()\n"
    "        while x: spin()\n"
    "    finally: note()\n"
    "block()\n",
};

static void test_block(void) {
    bool left = true;

    begin();
    for (int i = 0; i < 5; i++)
        for (size_t j = 0; j < sizeof blocks / sizeof *blocks; j++) {
            push("a", NULL, blocks[j]);
            if (!until(&noted, 1))
                tap_bail("block %zu did not begin", j);
            interrupt("a");
            until(&served, 1);
            if (look(&noted) != 2 || look(&cancelled) != 1)
                printf("# block %zu: left %d times\n", j, look(&noted) - 1);
            left = left && look(&noted) == 2 && look(&cancelled) == 1;
            begin();
        }
    ok(left, "a block that a loop is interrupted in is left as by any exception");
}

/* What has a frame of this file below it imports. */
static void test_import(void) {
    begin();
    push("a", NULL,
         "text = 'note()\\nfor i in range(3000000): pass\\nnote()\\n'\n"
         "exec(compile(text, '<frozen importlib._bootstrap>', 'exec'))\n"
         "while x: x = 1\n");
    ok(until(&noted, 1), "an import");
    interrupt("a");
    ok(until(&served, 1), "is interrupted");
    is_int(look(&noted), 2, "when it has been done");
    is_int(look(&cancelled), 1, "and not before");
}

/* In C, with the GIL given back: it does not listen, and another thread takes its place. */
static void test_stuck(void) {
    int before;

    begin();
    push("a", NULL, "note()\ngate.acquire()\nnote()\n");
    push("b", NULL, "note()\ngate.acquire()\nnote()\n");
    ok(until(&noted, 2), "all threads of the pool wait in C");
    before = look(&looks);
    is_int(interrupt("a"), EXEC_INTERRUPTED, "both are interrupted");
    ok(until(&looks, before + 1), "the first");
    is_int(interrupt("b"), EXEC_INTERRUPTED, "and the second");
    ok(until(&looks, before + 2), "and do not hear it");
    push("c", NULL, "note()\n");
    ok(until(&noted, 3), "another serves");
    push("d", NULL, "gate.release()\n");
    ok(until(&served, 3), "when the first returns from C");
    push("e", NULL, "gate.release()\n");
    ok(until(&served, 5), "and the second");
    is_int(look(&noted), 3, "they do nothing more");
    is_int(look(&cancelled), 2, "but end in the exception");
    push("f", NULL, "gate.release()\ngate.acquire()\n");
    ok(until(&served, 6), "the pool is as before");
    is_int(look(&failed), 0, "in every respect");
}

enum { SHORT = 2000 };

/* Interrupted at any moment, before the first bytecode and after the last. */
static void test_short(void) {
    static const char *const calls[] = {"nap", "for i in range(3000): pass\n",
                                        "for i in range(30000): pass\n"};
    static char refs[SHORT][8];
    int found[3] = {0}, pushed = 0;
    unsigned seed = 7;

    begin();
    memset(begun, 0, sizeof begun);
    for (int at = 0; at < SHORT; at++) {
        int64_t from;

        for (; pushed < SHORT && pushed < at + 3; pushed++) {
            snprintf(refs[pushed], sizeof refs[pushed], "%d", pushed);
            push(refs[pushed], pushed % 4 ? NULL : "q", calls[pushed % 3]);
        }
        while (!atomic_load(&begun[at]))
            pool_supervise(clock_now());
        seed = seed * 1103515245 + 12345;
        for (from = clock_now(); clock_now() - from < (seed >> 16 & 255) * 500;)
            sched_yield();
        if (seed >> 30 & 1)
            found[interrupt(refs[at])]++;
    }
    ok(until(&served, SHORT - found[EXEC_WITHDRAWN]), "%d short calls", SHORT);
    diag("found none %d, withdrawn %d, running %d, raised %d", found[EXEC_NOT_FOUND],
         found[EXEC_WITHDRAWN], found[EXEC_INTERRUPTED], look(&cancelled));
    ok(look(&cancelled) > 0, "some are hit");
    ok(look(&cancelled) < found[EXEC_INTERRUPTED] || found[EXEC_INTERRUPTED] == 0,
       "some are interrupted too late");
    is_int(look(&wrong), 0, "none is hit by what was for another");
    is_int(look(&failed), 0, "none is hurt otherwise");
    begin();
    for (int i = 0; i < 20; i++)
        push("after", i % 3 ? NULL : "q", "for i in range(3000): pass\n");
    ok(until(&served, 20), "the threads serve on");
    is_int(look(&cancelled) + look(&failed), 0, "with nothing left behind");
}

int main(void) {
    PyObject *module;

    Py_InitializeEx(0);
    module = PyImport_AddModule("_erlang");
    if (py_interrupt_add(module) < 0 || !PyObject_HasAttrString(module, "Cancelled"))
        tap_bail("no exception");
    names = PyDict_New();
    PyDict_SetItemString(names, "note", PyCFunction_New(&note_def, NULL));
    if (!PyRun_String(
            "import _thread, sys\nfrom time import sleep\nsys.setswitchinterval(0.00002)\nx = "
            "1\ngate = _thread.allocate_lock()\ngate.acquire()\n",
            Py_file_input, names, names))
        tap_bail("no lock");
    py_leave();
    exec_init(TARGET, MAX, LIMIT, &hooks);
    if (pool_start() < 0 || !until(&started, TARGET))
        tap_bail("no pool");
    test_loop();
    test_caught();
    test_block();
    test_import();
    test_stuck();
    test_short();
    pool_stop_begin();
    ok(pool_stop_wait(SECONDS), "all threads end");
    return tap_end();
}
