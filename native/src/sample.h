/*
 * sample.h: one allocation in N is guarded as under pins "all"; the others cost what they cost with pins "off".
 *
 * Which ones a hash says, of the page's number, the pool's seed and how many pages were allocated before: the same program
 * with the same seed guards the same pages. A bit a page says so, and a count of 4 bytes how often it was pinned since; both
 * in tables of this process only, which take memory only where used. A bit for each 16 pages comes first: that table is small
 * enough to stay in the processor's cache, and all that most pins look at. A guarded page is open until it is first pinned: who
 * never pins never meets it. Then it is closed when nobody has it pinned, by mprotect, which goes with every memory and trap
 * and leaves the other pages alone.
 *
 * A page that is pinned for ever would cost more than all the others, so that one that was pinned often is guarded at some
 * of its pins only: at each of the first 64, then at 64 more whenever the number has doubled.
 */
#ifndef BP_SAMPLE_H
#define BP_SAMPLE_H

#include "space.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BP_SAMPLE_ALWAYS 64
#define BP_SAMPLE_GROUP 16

struct bp_sample {
    uint32_t one_in; /* 0: no sampling */
    uint64_t seed;
    uint64_t pages;
    _Atomic uint64_t *groups; /* is any page of the group guarded? May be set for nothing */
    uint64_t group_mask;      /* words of groups, a power of two, less one */
    _Atomic uint64_t *bits;   /* stay while the descriptor is in use */
    _Atomic uint32_t *uses;
    size_t mapped;
    _Atomic uint64_t chosen; /* pages, since open */
};

/* seed 0: one of its own making. Errors: -ENOMEM. */
int bp_sample_open(struct bp_sample *sample, uint32_t one_in, uint64_t seed, uint64_t pages);
void bp_sample_close(struct bp_sample *sample);

/* Is the page one that is guarded? Async-signal-safe. */
static inline bool bp_sample_has(const struct bp_sample *sample, uint64_t page)
{
    uint64_t group = page / BP_SAMPLE_GROUP;
    return sample->one_in != 0 && page < sample->pages &&
           (atomic_load_explicit(&sample->groups[group / 64], memory_order_relaxed) >> (group % 64) & 1) != 0 &&
           (atomic_load_explicit(&sample->bits[page / 64], memory_order_relaxed) >> (page % 64) & 1) != 0;
}

/* Is it, at the use (a pin while nobody else had one) that is its `uses`-th? */
static inline bool bp_sample_is_due(uint32_t uses)
{
    uint32_t many = uses / BP_SAMPLE_ALWAYS;
    uint32_t step = many == 0 ? 1 : UINT32_C(1) << (31 - __builtin_clz(many));
    return uses != 0 && uses % step == 0;
}

static inline uint32_t bp_sample_uses(const struct bp_sample *sample, uint64_t page)
{
    return atomic_load_explicit(&sample->uses[page], memory_order_relaxed);
}

/* The page, which the caller has BUSY, was given a frame, as the n-th; it is open. */
void bp_sample_choose(struct bp_sample *sample, uint64_t page, uint64_t n);

/* It is not guarded any more, until it is chosen again. */
void bp_sample_drop(struct bp_sample *sample, uint64_t page);

/* Opens or closes the addresses of a page. Async-signal-safe. */
int bp_sample_protect(uintptr_t address, size_t length, enum bp_open to);

#endif
