/* requests.h - requests that are no more than a reference, for the tests of exec and pool. */
#ifndef PYNODE_REQUESTS_H
#define PYNODE_REQUESTS_H

#include "exec.h"
#include "tap.h"

/* What stands for connections: exec compares their addresses only. */
static char conns[4];
#define CONN(n) ((struct conn *)&conns[n])

TAP_UNUSED static struct slice ref_of(const char *ref) {
    return (struct slice){(const uint8_t *)ref, strlen(ref)};
}

/* A request with a text for its reference: exec wants no more of it than its bytes. */
TAP_UNUSED static struct request *request(int conn, const char *ref, struct exec_lane *lane) {
    struct request *r = xcalloc(1, sizeof *r);

    r->kind = REQUEST_SERVER_CALL;
    r->conn = CONN(conn);
    r->ref = ref_of(ref);
    r->lane = lane;
    return r;
}

TAP_UNUSED static void push(int conn, const char *ref, struct exec_lane *lane) {
    if (!exec_push(request(conn, ref, lane)))
        tap_bail("%s was not taken", ref);
}

/* Frees a list of cancelled requests: how many there were. */
TAP_UNUSED static int drop(struct request *r) {
    int n = 0;

    for (; r; n++) {
        struct request *next = r->next;

        request_free(r);
        r = next;
    }
    return n;
}

/* Stands for a connection that takes no answers, the conn'th. */
static _Atomic int full = -1;

TAP_UNUSED static bool hold_cb(const struct request *r) {
    int conn = atomic_load(&full);

    return conn >= 0 && r->conn == CONN(conn);
}

#endif
