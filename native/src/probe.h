/* probe.h: careful reads and writes: a fault in one, of whatever kind, ends it and nothing else. */
#ifndef BP_PROBE_H
#define BP_PROBE_H

#include "thread.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* The thread's stores before it are seen before those after it, by its own signal handlers. */
#define BP_IN_ORDER() __asm__ volatile("" : : : "memory")

/* memcpy from, or to, memory that may not be there; from NULL: memset to byte. false if it is not there (part of it may be
 * done). The handler jumps here before it looks at anything else. Needs our handler to be installed. Async-signal-safe,
 * nests. */
static inline bool bp_probe(void *to, const void *from, int byte, size_t size)
{
    sigjmp_buf place;
    sigjmp_buf *outer = bp_thread.probe;
    const uintptr_t outer_from = bp_thread.probe_from;
    const uintptr_t outer_to = bp_thread.probe_to;
    const size_t outer_size = bp_thread.probe_size;
    bool done = sigsetjmp(place, 0) == 0;
    if (done) {
        bp_thread.probe_from = (uintptr_t)from;
        bp_thread.probe_to = (uintptr_t)to;
        bp_thread.probe_size = size;
        BP_IN_ORDER(); /* with a size of 0 the fault of a host's handler that comes in between would be ours */
        bp_thread.probe = &place;
        BP_IN_ORDER();
        if (from == NULL) {
            memset(to, byte, size);
        } else {
            memcpy(to, from, size);
        }
        BP_IN_ORDER();
    }
    bp_thread.probe = outer;
    BP_IN_ORDER();
    bp_thread.probe_from = outer_from;
    bp_thread.probe_to = outer_to;
    bp_thread.probe_size = outer_size;
    return done;
}

static inline bool bp_probe_copy(void *to, const void *from, size_t size)
{
    return bp_probe(to, from, 0, size);
}

static inline bool bp_probe_set(void *to, int byte, size_t size)
{
    return bp_probe(to, NULL, byte, size);
}

#endif
