/* fuzz_route.c - any bytes as what a peer sends, through to what goes back to it and to nobody else.
 *
 * There is an object, and a process with a mailbox, which watches the peer and is linked to it.
 * The input is routed twice, as a stream of frames and as the inside of one, each over a connection
 * of its own. Some of what is queued then is answered, some as tasks of the event loop, some goes there
 * or back into the queue first; the rest is there when the connection ends.
 * All that was written must be whole frames, and nothing may hold the connection afterwards. One
 * thread, for what would be a queue of its own is refused.
 */
#define _GNU_SOURCE /* memmem */
#include "config.h"

#include "answer.h"
#include "control.h"
#include "home.h"
#include "ids.h"
#include "io.h"
#include "log.h"
#include "mailbox.h"
#include "pool.h"
#include "process.h"
#include "route.h"
#include "tasks.h"
#include "ties.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FUZZ_FRAME_MAX = 1 << 20,
    FUZZ_QUEUED = 8,
    FUZZ_TASKS = 4,
    FUZZ_MAIL = 3,
    FUZZ_IDS = 2,
    FUZZ_ID = 5
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct exec_hooks fuzz_hooks;
static struct exec_worker fuzz_worker;

/* The peer's end. */
static int fuzz_peer;
static struct buf fuzz_in;

static struct proc *fuzz_process; /* <py@h,5,5,77>, with the name thread and a mailbox */

static void fuzz_hold(bool held) {
    if (!held)
        abort();
}

static void fuzz_nothing(void) {
}

static bool fuzz_start(void) {
    return true;
}

static void fuzz_release(void *object) {
    (void)object;
}

static void fuzz_init(void) {
    static const struct control_facts facts = {.node = "py@h",
                                               .version = "1",
                                               .python = "3",
                                               .erlang = "5",
                                               .may_drain = true,
                                               .drain = fuzz_nothing};
    struct io_settings settings = {.listener = socket(AF_INET, SOCK_STREAM, 0), .net_ticktime = 60};
    struct err e;

    log_open(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, "/dev/null");
    request_init("py@h", 77);
    fuzz_hold(tasks_init(FUZZ_TASKS, fuzz_start) == 0);
    route_init("py@h");
    ids_init(FUZZ_IDS);
    process_init("py@h");
    mailbox_init(FUZZ_MAIL);
    procs_init(fuzz_release);
    procs_register("counter", &fuzz_peer); /* <py@h,1,1,77> */
    fuzz_process = procs_spawn(FUZZ_ID, FUZZ_ID);
    fuzz_hold(procs_set_name(fuzz_process, "thread"));
    control_init(&facts);
    home_init(fuzz_nothing);
    fuzz_hold(io_init(&settings, &e) == 0);
}

/* Writes all that waits for the peer, which keeps it. */
static void fuzz_write(struct conn *c) {
    enum outbox_result result;

    do {
        ssize_t n;

        result = outbox_flush(&c->out);
        fuzz_hold(result != OUTBOX_BROKEN && buf_reserve(&fuzz_in, 1 << 16) == 0);
        n = recv(fuzz_peer, fuzz_in.data + fuzz_in.len, fuzz_in.cap - fuzz_in.len, MSG_DONTWAIT);
        if (n > 0)
            fuzz_in.len += (size_t)n;
        if (n > 0 && fuzz_in.len == fuzz_in.cap)
            result = OUTBOX_FULL; /* there may be more to read */
    } while (result == OUTBOX_FULL);
    fuzz_hold(atomic_load(&c->out.bytes) == 0);
}

/* What the peer has got is whole frames that this node would take, too. */
static void fuzz_read(void) {
    size_t at = 0, total;

    while (at < fuzz_in.len) {
        struct dist_msg msg;
        const char *why;

        fuzz_hold(dist_next(fuzz_in.data + at, fuzz_in.len - at, INT32_MAX, &total) == 1);
        fuzz_hold(dist_parse(fuzz_in.data + at, total, &msg, &why) == 0);
        at += total;
    }
    fuzz_in.len = 0;
}

/* One item of a stream. */
static void fuzz_item(struct request *r, struct buf *out) {
    size_t begin = answer_items_begin(r, out, 1);

    r->credit--;
    etf_put_nil(out);
    etf_put_nil(out);
    fuzz_hold(answer_end(r, out, begin) == 0);
    outbox_put_buf(&r->conn->out, out);
}

static void fuzz_touch(void *arg, struct conn *c) {
    (void)arg;
    (void)c;
}

/* Ends a request as a worker does, or the loop if w is NULL, in one of three ways. */
static void fuzz_answer(struct exec_worker *w, struct request *r, int way) {
    static const struct slice term = {(const uint8_t *)"\x6a", 1}; /* [] */
    struct buf out = {0};
    size_t begin;
    bool wanted;

    if (r->kind == REQUEST_APP_CALL && way == 1)
        home_put_started(r->conn, r->ref);
    if (r->pid_id && way == 0)
        process_send_request(r->pid_id, r->pid_serial, term);
    if (r->options.stream > 0 && r->credit > 0)
        fuzz_item(r, &out);
    wanted = exec_claim(r);
    if (!wanted && r->kind == REQUEST_APP_CALL) {
        home_put_ended(r->conn, r->ref);
    } else if (wanted && way == 2) {
        route_told(r);
        answer_error(r, &out, r->args.data ? r->args : term, term);
    } else if (wanted && answer_begin(r, &out, &begin)) {
        etf_put_slice(&out, term);
        fuzz_hold(answer_end(r, &out, begin) == 0);
    } else if (wanted) {
        answer_done(r, &out);
    }
    if (r->id && !route_repeats(r, &out, wanted, fuzz_touch, NULL))
        out.len = 0;
    route_put(r, &out);
    exec_finish(w, r);
    route_ended(r, term);
    buf_done(&out);
}

/* A task, or a request that a worker may have given up: goes on, comes back, or ends. */
static void fuzz_task(int way) {
    struct request *r;
    bool cancelled;

    while ((r = tasks_take_told(&cancelled)))
        fuzz_hold(cancelled ? r->interrupted : r->credit > 0);
    if (tasks_take(&r, 1) == 0)
        return;
    if (way != 1 || !tasks_requeue(r))
        fuzz_answer(NULL, r, way);
}

/* What a worker does with a request. */
static void fuzz_work(struct request *r, int way) {
    if (way % 4 == 3 && (way % 8 == 3 ? exec_adopt : exec_requeue)(&fuzz_worker, r))
        return;
    fuzz_answer(&fuzz_worker, r, way % 3);
}

/* The process watches <a@h,1,2,3> and the name name, by #<py@h,77,7,7,N>, and is linked to
 * <a@h,9,9,9>. */
static void fuzz_watch(struct conn *c) {
    struct buf pid = {0}, name = {0}, refs[2] = {{0}, {0}}, other = {0};

    etf_put_pid(&pid, "a@h", 1, 2, 3);
    etf_put_atom(&name, "name");
    etf_put_pid(&other, "a@h", 9, 9, 9);
    for (uint32_t i = 0; i < 2; i++)
        etf_put_ref(&refs[i], "py@h", 77, (const uint32_t[]){7, 7, 7 + i}, 3);
    ties_add(FUZZ_ID, FUZZ_ID, conn_ref(c), (struct slice){pid.data, pid.len},
             (struct slice){refs[0].data, refs[0].len});
    ties_add(FUZZ_ID, FUZZ_ID, conn_ref(c), (struct slice){name.data, name.len},
             (struct slice){refs[1].data, refs[1].len});
    process_link(FUZZ_ID, FUZZ_ID, false, c, (struct slice){other.data, other.len});
    buf_done(&pid);
    buf_done(&name);
    buf_done(&other);
    buf_done(&refs[0]);
    buf_done(&refs[1]);
}

/* All that is in the mailbox is terms. */
static void fuzz_receive(void) {
    struct mailbox_message *m;

    while ((m = mailbox_take(fuzz_process->mailbox))) {
        struct etf at = {m->term, m->term + m->len};
        struct slice term;

        fuzz_hold(etf_get_term(&at, &term) == 0 && at.p == at.end);
        free(m);
    }
}

/* Routes one frame in memory that ends where it ends: whether the connection goes on. */
static bool fuzz_frame(struct conn *c, const uint8_t *header, const uint8_t *body, size_t len,
                       bool whole) {
    struct frame frame = {xmalloc(DIST_HEADER + len), DIST_HEADER + len, whole};
    uint8_t *data = frame.data;
    const char *why;
    int result;

    memcpy(data, header, DIST_HEADER);
    if (len > 0)
        memcpy(data + DIST_HEADER, body, len);
    result = route_frame(c, &frame, &why);
    if (!whole)
        free(data);
    return result == 0;
}

static void fuzz_connection(const uint8_t *data, size_t size, bool stream) {
    static const uint8_t no_header[DIST_HEADER];
    struct request *r, *task = NULL;
    struct conn *c;
    size_t at = 0, total;
    int fds[2], turn = 0;

    fuzz_hold(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    c = conn_new(fds[0], "a@h");
    fuzz_peer = fds[1];
    fuzz_watch(c);
    if (!stream)
        fuzz_frame(c, no_header, data, size, size % 2);
    while (stream && dist_next(data + at, size - at, FUZZ_FRAME_MAX, &total) == 1) {
        if (!fuzz_frame(c, data + at, data + at + DIST_HEADER, total - DIST_HEADER, turn % 2))
            break;
        at += total;
        if (turn++ % 3 == 2 && (r = exec_pop(&fuzz_worker)))
            fuzz_work(r, turn / 3);
        if (turn % 4 == 1)
            fuzz_task(turn / 4 % 3);
    }
    exec_announce(route_put);
    fuzz_write(c);
    for (int i = 0; i < FUZZ_QUEUED / 2 && (r = exec_pop(&fuzz_worker)); i++)
        fuzz_work(r, i);
    fuzz_task(0);
    fuzz_write(c);
    r = exec_pop(&fuzz_worker);
    fuzz_hold(tasks_take(&task, 1) <= 1);
    outbox_close(&c->out);
    route_closed(c);
    if (r)
        fuzz_answer(&fuzz_worker, r, 0);
    if (task)
        fuzz_answer(NULL, task, 2);
    while (tasks_due())
        fuzz_task(0);
    fuzz_hold(tasks_count() == 0);
    fuzz_hold(exec_load() == 0 && exec_queued() == 0 && exec_ready() == 0);
    fuzz_hold(exec_unannounced() == 0 && exec_unreported() == 0);
    fuzz_hold(!procs_watched() && !home_conn(NULL) && atomic_load(&c->refs) == 1);
    fuzz_hold(!ties_take_all(FUZZ_ID, FUZZ_ID) && procs_processes() == 1);
    fuzz_receive();
    fuzz_read();
    ids_sweep(INT64_MAX);
    conn_unref(c);
    close(fuzz_peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool ready;
    bool threads = size > 0 && (memmem(data, size, "queue", 5) || memmem(data, size, "thread", 6));

    if (!ready)
        fuzz_init();
    ready = true;
    exec_init(1, 1, threads ? 0 : FUZZ_QUEUED, &fuzz_hooks);
    fuzz_connection(data, size, true);
    fuzz_connection(data, size, false);
    return 0;
}
