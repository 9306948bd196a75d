/* peer.h - what tests share that play a peer: reading its socket, waiting for a line of the log. */
#ifndef PYNODE_PEER_H
#define PYNODE_PEER_H

#include "clock.h"
#include "tap.h"

#include <poll.h>
#include <sys/socket.h>

enum { PEER_SECONDS = 30 };

/* A moment between two looks at what tells nobody of its change. */
TAP_UNUSED static void moment(void) {
    nanosleep(&(struct timespec){0, 1000000}, NULL);
}

/* Reads n bytes: whether they came before the connection ended. */
TAP_UNUSED static bool read_all(int fd, void *data, size_t n) {
    struct pollfd p = {fd, POLLIN, 0};
    size_t len = 0;
    ssize_t more;

    for (; len < n; len += (size_t)more) {
        if (poll(&p, 1, PEER_SECONDS * 1000) != 1)
            tap_bail("a peer waits in vain");
        more = recv(fd, (char *)data + len, n - len, 0);
        if (more <= 0)
            return false;
    }
    return true;
}

/* Waits until the log has the text. */
TAP_UNUSED static bool peer_logged(const char *log, const char *text) {
    int64_t end = clock_now() + (int64_t)PEER_SECONDS * 1000000000;
    bool found = false;

    while (!found && clock_now() < end) {
        char *lines = tap_slurp(log);

        found = strstr(lines, text);
        free(lines);
        if (!found)
            moment();
    }
    return found;
}

#endif
