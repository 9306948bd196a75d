/* spin.c - how long the leader looks for the next traffic before it sleeps. */
#include "config.h"

#include "spin.h"

#include <sys/resource.h>

bool spin_is_crowded(void) {
    static _Thread_local long before;
    struct rusage usage;
    bool crowded;

    if (getrusage(RUSAGE_THREAD, &usage) < 0)
        return true;
    crowded = usage.ru_nivcsw != before;
    before = usage.ru_nivcsw;
    return crowded;
}

void spin_begin(struct spin *s, size_t requests) {
    s->single = requests <= 1;
    s->asked = false;
}

/* Whether this look may be a long one. */
static bool spin_is_long(struct spin *s) {
    if (!s->single || s->streak < SPIN_STREAK)
        return false;
    if (!s->asked && s->crowded())
        s->streak = 0;
    s->asked = true;
    return s->streak > 0;
}

bool spin_goes_on(struct spin *s, int64_t since) {
    return since < SPIN_SHORT_NS || (since < SPIN_LONG_NS && spin_is_long(s));
}

void spin_slept(struct spin *s, int64_t gap) {
    if (gap >= SPIN_LONG_NS || s->crowded())
        s->streak = 0;
    else if (s->single && s->streak < SPIN_STREAK)
        s->streak++;
}
