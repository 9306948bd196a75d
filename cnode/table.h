/* table.h - every request that has not ended, by the reference that cancels it.
 *
 * There is one table. It has no lock: exec's is held around all here. No GIL.
 */
#ifndef PYNODE_TABLE_H
#define PYNODE_TABLE_H

#include "request.h"

void table_add(struct request *r);
void table_remove(struct request *r);

/* What conn sent with ref, or NULL. */
struct request *table_find(const struct conn *conn, struct slice ref);

/* The request that is the process (id, serial), or NULL. */
struct request *table_find_pid(uint32_t id, uint32_t serial);

/* A walk through all: begins zeroed, and NULL is its end. The request that it has just given may
 * be removed. */
struct table_walk {
    bool begun;
    struct request *next;
};
struct request *table_step(struct table_walk *walk);

#endif
