/* probe.h: careful reads and writes: a fault in one, of whatever kind, ends it and nothing else. */
#ifndef BP_PROBE_H
#define BP_PROBE_H

#include "thread.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

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
    if (sigsetjmp(place, 0) != 0) {
        bp_thread.probe = outer;
        bp_thread.probe_from = outer_from;
        bp_thread.probe_to = outer_to;
        bp_thread.probe_size = outer_size;
        return false;
    }
    bp_thread.probe_from = (uintptr_t)from;
    bp_thread.probe_to = (uintptr_t)to;
    bp_thread.probe_size = size;
    bp_thread.probe = &place;
    __asm__ volatile("" : : : "memory"); /* the copy stays between the two stores */
    if (from == NULL) {
        memset(to, byte, size);
    } else {
        memcpy(to, from, size);
    }
    __asm__ volatile("" : : : "memory");
    bp_thread.probe = outer;
    bp_thread.probe_from = outer_from;
    bp_thread.probe_to = outer_to;
    bp_thread.probe_size = outer_size;
    return true;
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
