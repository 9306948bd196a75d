/* scene.h - a node's threads in a child process, with hooks that stand for Python.
 *
 * A request "runs" until let_go is posted. What goes wrong ends the child with a status.
 */
#ifndef PYNODE_SCENE_H
#define PYNODE_SCENE_H

#include "pool.h"
#include "io.h"
#include "lead.h"
#include "route.h"
#include "tap.h"

#include <netinet/in.h>
#include <semaphore.h>
#include <sys/socket.h>

enum { MIB = 1 << 20 };

static sem_t reported, entered, let_go;

static void nothing_cb(void) {
}

static void wait_for(sem_t *s) {
    while (sem_wait(s) < 0)
        ;
}

static void worker_cb(struct exec_worker *w) {
    (void)w;
}

/* What the test does with a request that has ended, before it is freed. */
static void scene_done(struct request *r);

/* Runs one request at a time, each until it is let go. */
static void serve_cb(struct exec_worker *w) {
    struct request *r;

    atomic_store(&w->state, EXEC_RUNNING);
    while ((r = exec_pop(w))) {
        sem_post(&entered);
        wait_for(&let_go);
        exec_finish(w, r);
        scene_done(r);
        request_free(r);
    }
}

static bool lead_cb(struct exec_worker *w) {
    return lead_as_worker(w->number);
}

static const struct exec_hooks hooks = {worker_cb, serve_cb, lead_cb, worker_cb, NULL, NULL};

/* Starts all threads after exec_init(); report is called by the leader on SIGUSR1. */
static void scene_start(void (*report)(void)) {
    struct io_settings settings = {
        .listener = socket(AF_INET, SOCK_STREAM, 0),
        .net_ticktime = 3600,
        .max_frame = MIB,
        .accept = nothing_cb,
        .epmd = nothing_cb,
        .report = report,
    };
    struct err e;

    sem_init(&reported, 0, 0);
    sem_init(&entered, 0, 0);
    sem_init(&let_go, 0, 0);
    request_init("py@h", 77);
    route_init("py@h");
    if (listen(settings.listener, 1) < 0 || io_init(&settings, &e) < 0 || lead_start(&e) < 0 ||
        pool_start() < 0)
        _exit(98);
}

#endif
