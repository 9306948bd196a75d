/* ties.h - the monitors that processes of ours have made, until they end.
 *
 * A tie says whose it is, what it watches, by which reference, and over which connection if that is
 * another node's. Any thread; one leaf lock; no GIL.
 */
#ifndef PYNODE_TIES_H
#define PYNODE_TIES_H

#include "conn.h"

struct tie {
    struct tie *next;
    uint32_t id, serial;  /* of the process that watches */
    struct conn *conn;    /* whose reference the caller of ties_add() has given; NULL: none */
    struct slice to, ref; /* into bytes: a pid or an atom, and the monitor's reference */
    uint8_t bytes[];
};

void ties_add(uint32_t id, uint32_t serial, struct conn *conn, struct slice to, struct slice ref);

/* Takes one out, the caller's to free(3), or NULL; or all of a process that has ended or of a
 * connection that is gone, as a list. */
struct tie *ties_take(uint32_t id, uint32_t serial, struct slice ref);
struct tie *ties_take_all(uint32_t id, uint32_t serial);
struct tie *ties_take_conn(const struct conn *conn);

#endif
