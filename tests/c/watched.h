/* watched.h - numbers that the threads of a test change and its main thread waits for.
 *
 * The test initialises the condition, with the clock that it waits by.
 */
#ifndef PYNODE_WATCHED_H
#define PYNODE_WATCHED_H

#include "tap.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed; /* a watched number has */

TAP_UNUSED static void change(int *what, int by) {
    pthread_mutex_lock(&lock);
    *what += by;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

TAP_UNUSED static int look(const int *what) {
    int value;

    pthread_mutex_lock(&lock);
    value = *what;
    pthread_mutex_unlock(&lock);
    return value;
}

#endif
