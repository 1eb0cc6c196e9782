/*
 * ways.h: which ways a space has to fill its granules and to take their frames away, and how often each was taken.
 *
 * What the kernel offers is tried when the space is armed, so that what this kernel or a seccomp filter refuses is not
 * asked for with every page. What it refuses later all the same (a frame that a device holds, no memory) is done another
 * way, and counted. All functions are thread-safe and async-signal-safe.
 */
#ifndef BP_WAYS_H
#define BP_WAYS_H

#include <bufpool/bufpool.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

struct bp_ways {
    bool batches; /* process_madvise takes frames away from scattered pages */
    _Atomic uint64_t granules[BUFPOOL_WAYS];
    _Atomic uint64_t busy, memory, refused;
};

static inline void bp_way_took(struct bp_ways *ways, bufpool_way way, uint64_t granules)
{
    atomic_fetch_add_explicit(&ways->granules[way], granules, memory_order_relaxed);
}

/* The kernel has refused the way that was tried, with this code: another takes its place. */
static inline void bp_way_lost(struct bp_ways *ways, int code)
{
    _Atomic uint64_t *why = code == -EBUSY || code == -EAGAIN || code == -EEXIST ? &ways->busy
                            : code == -ENOMEM                                    ? &ways->memory
                                                                                 : &ways->refused;
    atomic_fetch_add_explicit(why, 1, memory_order_relaxed);
}

#define BP_WAY(way) (1u << (way))

/* Writes the names of a set of ways, in their order, as "move, copy". */
void bp_ways_text(uint32_t set, char *text, size_t size);

#endif
