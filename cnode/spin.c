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

static int64_t spin_limit(const struct spin *s) {
    return s->limit < SPIN_MIN_NS ? SPIN_MIN_NS : s->limit;
}

void spin_begin(struct spin *s) {
    s->asked = false;
}

bool spin_goes_on(struct spin *s, int64_t since) {
    if (since >= SPIN_MIN_NS && since < spin_limit(s) && !s->asked) {
        s->asked = true;
        if (s->crowded())
            s->limit = SPIN_MIN_NS;
    }
    return since < spin_limit(s);
}

void spin_slept(struct spin *s, int64_t gap) {
    s->limit = 2 * spin_limit(s);
    if (gap >= SPIN_MAX_NS)
        s->limit = SPIN_MIN_NS;
    else if (s->limit > SPIN_MAX_NS)
        s->limit = SPIN_MAX_NS;
}
