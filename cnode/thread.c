/* thread.c - a thread of our own: detached, deaf to signals. */
#include "config.h"

#include "thread.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREAD_STACK = 256 << 10 };

/* stack: in bytes; 0: the system's default */
static int thread_create(void *(*fn)(void *), void *arg, size_t stack) {
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    int error;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (stack > 0)
        pthread_attr_setstacksize(&attr, stack);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

int thread_start(void *(*fn)(void *), void *arg) {
    return thread_create(fn, arg, THREAD_STACK);
}

int thread_start_python(void *(*fn)(void *), void *arg) {
    return thread_create(fn, arg, 0);
}

pid_t thread_id(void) {
    return (pid_t)syscall(SYS_gettid);
}

/* The state is the letter behind the name, which is in brackets and may have any in it (proc(5)). */
bool thread_is_runnable(pid_t id) {
    char path[64], text[256] = "";
    const char *end;
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)id);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    end = n > 0 ? strrchr(text, ')') : NULL;
    return end && end[1] == ' ' && end[2] == 'R';
}

void thread_pause(int ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&t, NULL);
}
