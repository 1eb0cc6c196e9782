/* stopped.h: how many threads on_fault "freeze" has stopped by now, for the tests that wait for them. */
#ifndef STOPPED_H
#define STOPPED_H

#include "freeze.h"
#include "harness.h"

MAYBE_UNUSED static int count_stopped(void)
{
    int count = atomic_load(&bp_freeze_unlisted);
    struct bp_frozen_slot *slot;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        count += atomic_load(&slot->state) == BP_FROZEN_STOPPED;
    }
    return count;
}

#endif
