/* thread.c - a short-lived thread of our own: detached, with a small stack, deaf to signals. */
#include "config.h"

#include "thread.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { THREAD_STACK = 256 << 10 };

int thread_start(void *(*fn)(void *), void *arg) {
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    int error;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

void thread_pause(int ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&t, NULL);
}
