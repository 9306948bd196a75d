/* test_wake.c - the wake-up: set, clear, set often, from other threads, from a signal handler. */
#include "config.h"

#include "wake.h"
#include "tap.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 20000 };

static struct wake w;

/* Whether it is set, seen by poll(2) as the io thread sees it. */
static bool is_set(void) {
    struct pollfd p = {.fd = w.fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

static void test_one_thread(void) {
    int i;

    ok(!is_set(), "a new one is not set");
    wake_clear(&w);
    ok(!is_set(), "clearing it does not block");
    wake_set(&w);
    ok(is_set(), "set");
    ok(is_set(), "looking does not clear it");
    wake_clear(&w);
    ok(!is_set(), "cleared");
    for (i = 0; i < 1000; i++)
        wake_set(&w);
    wake_clear(&w);
    ok(!is_set(), "set a thousand times, cleared at once");
    errno = ENOENT;
    wake_set(&w);
    is_int(errno, ENOENT, "setting it leaves errno alone, as a signal handler must");
    wake_clear(&w);
}

static void handler(int sig) {
    (void)sig;
    wake_set(&w);
}

static void test_signal(void) {
    struct sigaction action = {.sa_handler = handler}, old;
    struct pollfd p = {.fd = w.fd, .events = POLLIN};

    sigaction(SIGUSR1, &action, &old);
    raise(SIGUSR1);
    is_int(poll(&p, 1, 0), 1, "a signal handler may set it");
    sigaction(SIGUSR1, &old, NULL);
    wake_clear(&w);
}

static atomic_int given;

static void *setter_main(void *arg) {
    int i;

    (void)arg;
    for (i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&given, 1);
        wake_set(&w);
    }
    return NULL;
}

/* Clear first, then look for work: then nothing that was given before a set is ever overslept. */
static void test_threads(void) {
    pthread_t threads[THREADS];
    int i, seen = 0, late = 0;

    for (i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, setter_main, NULL) != 0)
            tap_bail("no thread");
    while (seen < THREADS * ROUNDS) {
        struct pollfd p = {.fd = w.fd, .events = POLLIN};

        if (poll(&p, 1, 10000) != 1) {
            late++;
            break;
        }
        wake_clear(&w);
        seen = atomic_load(&given);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    is_int(late, 0, "no wake-up of %d threads is lost", THREADS);
    is_int(seen, THREADS * ROUNDS, "all work is seen");
}

int main(void) {
    is_int(wake_init(&w), 0, "wake_init");
    test_one_thread();
    test_signal();
    test_threads();
    wake_done(&w);
    is_int(w.fd, -1, "wake_done closes it");
    wake_done(&w);
    is_int(w.fd, -1, "and does no harm twice");
    return tap_end();
}
