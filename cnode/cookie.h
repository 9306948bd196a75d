/* cookie.h - the node's cookie: from the environment, a file, or where erl keeps it.
 *
 * The main thread's, before there is any other. No GIL. Nothing here logs or shows a cookie.
 */
#ifndef PYNODE_COOKIE_H
#define PYNODE_COOKIE_H

#include "err.h"

#include <stddef.h>

/* PYNODE_COOKIE, which is then nowhere in the environment any more: the caller's, or NULL. */
char *cookie_take(void);

/* Makes *cookie good: if it is NULL, reads it from file, which only its owner may use; if that is
 * NULL, too, from ~/.erlang.cookie: 0, or -1 with e. */
int cookie_settle(char **cookie, const char *file, struct err *e);

/* Overwrites a secret in a way that a compiler may not leave out. */
void cookie_wipe(char *p, size_t n);

#endif
