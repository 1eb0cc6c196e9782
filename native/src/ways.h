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

/* What is quicker here, of small frames. */
enum bp_choice {
    BP_CHOSEN = 1,
    BP_FILL_KEPT = 2, /* to fill a kept frame and move it, than to copy to a fresh one */
    BP_ZAP_OUT = 4,   /* to move a frame out, to be kept, or given back with 63 others, than to give it back alone */
};

/* Measured when the first pool with a stash is opened: the ranking differs between machines, and by a factor between a virtual
 * one and another, but not while one runs. Tests set it. */
extern _Atomic uint32_t bp_ways_choice;

struct bp_ways {
    bool batches;            /* process_madvise takes frames away from scattered pages */
    bool fill_kept, zap_out; /* of small frames with a stash, when that was */
    bool tried;
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
