/* test_mailbox.c - messages that have been sent and not received: order, the bound, waiting, signals,
 * interruptions, many threads. Runs under TSan as well.
 */
#include "config.h"

#include "mailbox.h"
#include "clock.h"
#include "stats.h"
#include "tap.h"
#include "term.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { LIMIT = 4, SECONDS = 60, ME = 11, OTHER = 12 };

static int64_t in_seconds(int seconds) {
    return clock_now() + (int64_t)seconds * 1000000000;
}

static enum mailbox_result put(struct mailbox *m, int64_t number, bool sure) {
    struct buf b = {0};
    enum mailbox_result result;

    etf_put_integer(&b, number);
    result = mailbox_put(m, (struct slice){b.data, b.len}, sure);
    memset(b.data, 0xee, b.len);
    buf_done(&b);
    return result;
}

/* The number that is the first message, or -1. */
static int64_t take(struct mailbox *m) {
    struct mailbox_message *message = mailbox_take(m);
    struct etf at;
    int64_t number;

    if (!message)
        return -1;
    at = (struct etf){message->term, message->term + message->len};
    if (etf_get_integer(&at, &number) < 0 || at.p != at.end)
        tap_bail("not the message that was put");
    free(message);
    return number;
}

static void test_order(void) {
    struct mailbox *m = mailbox_new();

    is_int(take(m), -1, "at first there is none");
    is_int(mailbox_len(m), 0, "and none is counted");
    is_int(put(m, 1, false), MAILBOX_TAKEN, "a message");
    put(m, 2, false);
    put(m, 3, true);
    is_int(mailbox_len(m), 3, "three wait");
    is_int(take(m), 1, "the first");
    put(m, 4, false);
    is_int(take(m), 2, "the second");
    is_int(take(m), 3, "the third");
    is_int(take(m), 4, "one that came meanwhile");
    is_int(take(m), -1, "and none any more");
    put(m, 5, false);
    is_int(take(m), 5, "one that comes then");
    put(m, 6, false);
    put(m, 7, false);
    mailbox_free(m); /* with what waits */
}

static void test_full(void) {
    struct mailbox *m = mailbox_new();
    uint64_t dropped = stats_get(STATS_MAILBOX_DROPPED);

    for (int i = 0; i < LIMIT; i++)
        put(m, i, false);
    is_int(put(m, 10, false), MAILBOX_FULL, "one more than a mailbox holds is dropped");
    is_int(put(m, 11, false), MAILBOX_STILL_FULL, "the next one, too, which is not new");
    is_int(put(m, 12, true), MAILBOX_TAKEN, "what was asked for is taken");
    is_int(put(m, 13, false), MAILBOX_STILL_FULL, "nothing else");
    is_int(stats_get(STATS_MAILBOX_DROPPED) - dropped, 3, "what is dropped is counted");
    is_int(mailbox_len(m), LIMIT + 1, "the rest is there");
    is_int(take(m), 0, "from the first on");
    is_int(put(m, 14, false), MAILBOX_STILL_FULL, "there are as many as may be still");
    is_int(take(m), 1, "one less");
    is_int(put(m, 15, false), MAILBOX_TAKEN, "then there is room");
    is_int(put(m, 16, false), MAILBOX_STILL_FULL, "for one: it has not been empty yet");
    for (int i = 2; i < LIMIT; i++)
        take(m);
    is_int(take(m), 12, "what was asked for is in its place");
    is_int(take(m), 15, "and the last at the end");
    is_int(take(m), -1, "now it is empty");
    for (int i = 0; i < LIMIT; i++)
        put(m, i, false);
    is_int(put(m, 20, false), MAILBOX_FULL, "that it is full is new again");
    mailbox_free(m);
}

static void test_wait(void) {
    struct mailbox *m = mailbox_new();
    int64_t deadline = clock_now() + 5000000;

    mailbox_begin(m, ME);
    ok(!mailbox_wait(m, 1), "a deadline that has passed already");
    ok(!mailbox_wait(m, deadline), "one that passes");
    ok(clock_now() >= deadline, "not before its time");
    put(m, 1, false);
    ok(mailbox_wait(m, 1), "a message that is there is seen all the same");
    ok(mailbox_wait(m, 0), "again, as long as it is not taken");
    ok(!mailbox_end(m), "nobody has interrupted");
    is_int(take(m), 1, "it is taken");
    mailbox_begin(m, ME);
    ok(!mailbox_wait(m, 1), "then there is none");
    mailbox_end(m);
    mailbox_free(m);
}

static void test_interrupt(void) {
    struct mailbox *m = mailbox_new(), *other = mailbox_new(), *more = mailbox_new();

    mailbox_interrupt(ME);
    mailbox_begin(m, ME);
    mailbox_begin(other, OTHER);
    mailbox_begin(more, ME);
    ok(!mailbox_wait(m, 1), "before it waits a thread cannot be interrupted");
    mailbox_interrupt(ME);
    ok(!mailbox_wait(m, 0), "who is interrupted does not wait");
    put(m, 1, false);
    ok(mailbox_wait(m, 0), "a message is there all the same");
    ok(mailbox_end(m), "at the end it is told");
    ok(!mailbox_end(other), "another thread was not");
    ok(mailbox_end(more), "all of the thread's were");
    take(m);
    mailbox_begin(m, ME);
    ok(!mailbox_wait(m, clock_now() + 1000000), "the next wait knows nothing of it");
    ok(!mailbox_end(m), "and ends without an interruption");
    mailbox_free(m);
    mailbox_free(other);
    mailbox_free(more);
}

/* Its process has ended: who waits is interrupted, now and later. */
static void test_close(void) {
    struct mailbox *m = mailbox_new(), *waits = mailbox_new();

    mailbox_begin(waits, ME);
    mailbox_close(m);
    mailbox_close(waits);
    ok(!mailbox_wait(waits, 0), "who waits does not any more");
    ok(mailbox_end(waits), "and is told");
    for (int i = 0; i < 2; i++) {
        mailbox_begin(m, ME);
        ok(!mailbox_wait(m, 0), "who waits later does not, either");
        ok(mailbox_end(m), "each time");
    }
    put(m, 1, false);
    mailbox_begin(m, ME);
    ok(mailbox_wait(m, 0), "a message that is there is seen all the same");
    mailbox_end(m);
    is_int(take(m), 1, "and taken");
    mailbox_free(m);
    mailbox_free(waits);
}

static struct {
    struct mailbox *m;
    int64_t deadline;
    _Atomic int there;
} waiter;

static void *waiter_main(void *arg) {
    mailbox_begin(waiter.m, ME);
    atomic_store(&waiter.there, mailbox_wait(waiter.m, waiter.deadline));
    mailbox_end(waiter.m);
    return arg;
}

static void signalled_cb(int signo) {
    (void)signo;
}

/* Signals until the thread returns: one may come before it has begun to wait. */
static void test_signal(int64_t deadline) {
    struct sigaction action = {.sa_handler = signalled_cb}; /* without SA_RESTART */
    int64_t end = in_seconds(SECONDS);
    pthread_t thread;

    sigaction(SIGUSR1, &action, NULL);
    waiter.m = mailbox_new();
    waiter.deadline = deadline;
    atomic_store(&waiter.there, -1);
    if (pthread_create(&thread, NULL, waiter_main, NULL) != 0)
        tap_bail("no thread");
    while (atomic_load(&waiter.there) < 0 && clock_now() < end) {
        pthread_kill(thread, SIGUSR1);
        sched_yield();
    }
    is_int(atomic_load(&waiter.there), 0, "a signal ends the wait %s a deadline",
           deadline ? "with" : "without");
    pthread_join(thread, NULL);
    mailbox_free(waiter.m);
}

/* One that waits, or is about to, is woken by a message and by its process's end. */
static void test_woken(void) {
    for (int i = 0; i < 200; i++) {
        bool message = i % 3 > 0;
        pthread_t thread;

        waiter.m = mailbox_new();
        waiter.deadline = i % 2 ? in_seconds(SECONDS) : 0;
        atomic_store(&waiter.there, -1);
        if (pthread_create(&thread, NULL, waiter_main, NULL) != 0)
            tap_bail("no thread");
        for (int n = 0; n < i % 8; n++)
            sched_yield();
        if (message)
            put(waiter.m, 1, false);
        else
            mailbox_close(waiter.m);
        pthread_join(thread, NULL);
        if (atomic_load(&waiter.there) != message)
            break;
        mailbox_free(waiter.m);
        waiter.m = NULL;
    }
    ok(!waiter.m, "200 threads are woken by a message or an end");
}

/* Many threads send, one receives, one interrupts. */

enum { SENDERS = 4, MESSAGES = 3000, LAST = SENDERS * MESSAGES /* of a sender's */ };

static struct mailbox *shared;
static _Atomic int senders, accepted;

static void *sender_main(void *arg) {
    int me = *(int *)arg;

    for (int i = 0; i < MESSAGES; i++)
        if (put(shared, me * MESSAGES + i, i % 3 == 0) == MAILBOX_TAKEN)
            atomic_fetch_add(&accepted, 1);
        else
            sched_yield();
    put(shared, LAST, true);
    atomic_fetch_sub(&senders, 1);
    return NULL;
}

static void *interrupter_main(void *arg) {
    while (atomic_load(&senders) > 0) {
        mailbox_interrupt(ME);
        sched_yield();
    }
    return arg;
}

static void test_threads(void) {
    pthread_t threads[SENDERS], interrupter;
    int64_t last[SENDERS], number;
    int ids[SENDERS], got = 0, disorder = 0, ended = 0;

    shared = mailbox_new();
    atomic_store(&senders, SENDERS);
    for (int i = 0; i < SENDERS; i++) {
        ids[i] = i;
        last[i] = -1;
        if (pthread_create(&threads[i], NULL, sender_main, &ids[i]) != 0)
            tap_bail("no thread");
    }
    if (pthread_create(&interrupter, NULL, interrupter_main, NULL) != 0)
        tap_bail("no thread");
    while (ended < SENDERS) {
        mailbox_begin(shared, ME);
        mailbox_wait(shared, got % 2 ? 0 : clock_now() + 100000);
        mailbox_end(shared);
        while ((number = take(shared)) >= 0) {
            int from = (int)(number / MESSAGES);

            if (number == LAST) {
                ended++;
                continue;
            }
            disorder += number % MESSAGES <= last[from];
            last[from] = number % MESSAGES;
            got++;
        }
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(interrupter, NULL);
    is_int(got, atomic_load(&accepted), "%d threads send: what was taken is received, once",
           SENDERS);
    is_int(disorder, 0, "each one's messages in their order");
    ok(got >= SENDERS * MESSAGES / 3, "what was sure is among it");
    is_int(mailbox_len(shared), 0, "none is left");
    mailbox_free(shared);
}

int main(void) {
    mailbox_init(LIMIT);
    test_order();
    test_full();
    test_wait();
    test_interrupt();
    test_close();
    test_signal(0);
    test_signal(in_seconds(SECONDS));
    test_woken();
    test_threads();
    return tap_end();
}
