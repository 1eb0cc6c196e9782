/*
 * lag.h: freed pages that keep their frames for the next allocation, free_lag of them at most: they do not trap yet.
 *
 * A lagging page is FREED with the flag FREEING and nobody's BUSY: "freed, and its frame is still to go". Its bit in the index
 * stays set, so that nobody is given its number by the index. That word is the truth, and claimed as any other; the ring beside
 * it says where to look, no more: a slot may name a page that lags no longer, and a page that lags may have lost its slot.
 * What the ring has lost (the kernel refused to take a frame, or a claim came between) is found by the words, when the ring
 * comes round, when no other number is free, or by bp_lag_settle().
 *
 * First in, first out, for allocations and for zaps alike. The other order would find frames that are warmer by the few
 * frees between, but it would use one number again and again, and leave the rest of the ring to age: so a stale pointer would
 * meet a new owner at once, always. And a ring has one step for each end, with no lock, where a stack of several threads needs
 * two words changed together.
 *
 * Each free takes the next slot. Who finds a page there, from a lap before, takes that and those of the quarter that follows
 * (BP_LAG_BATCH at most) out of the ring and zaps them in one batch. So a page that is not used again traps when as many
 * others as the ring is long have been freed after it, at the latest.
 *
 * There is one ring, and threads that free and allocate at once meet at its ends and at its count: dearer than a ring for each,
 * and still some five times cheaper than the kernel. Rings for stripes would leave frames where nobody allocates.
 *
 * All functions are thread-safe and take no lock; bp_lag_end() is async-signal-safe. Pools with a lag are one process's
 * (config.c sees to that): nobody else's death leaves anything here.
 */
#ifndef BP_LAG_H
#define BP_LAG_H

#include "pages.h"

#include <bufpool/bufpool.h>

#define BP_LAGGING (BUFPOOL_STATE_FREED | BP_FREEING)
#define BP_LAG_BATCH 256

struct bp_lag {
    uint64_t length;         /* slots; 0: nothing lags */
    _Atomic uint64_t *slots; /* page + 1, or 0 */
    size_t mapped;
    atomic_bool missed;                               /* a page may lag that no slot names */
    _Alignas(BP_CACHE_LINE) _Atomic uint64_t head;    /* slots taken so far, and */
    _Alignas(BP_CACHE_LINE) _Atomic uint64_t tail;    /* where the oldest page is looked for */
    _Alignas(BP_CACHE_LINE) _Atomic uint64_t lagging; /* pages whose word says so, or that are being zapped */
    _Atomic uint64_t reused;
    _Atomic uint64_t retried; /* the slot at which what was refused was tried again last */
};

/* Does the page of this word lag, or has who has it BUSY claimed it from there, with its frame? */
static inline bool bp_state_lags(uint16_t state)
{
    return (state & (BP_STATE_MASK | BP_FREEING)) == BP_LAGGING;
}

/* The first of these, not claimed, of a pool where pages lag at all: in shared tables, where none do, a mad peer may write any
 * word. */
static inline bool bp_lag_is(const struct bp_lag *lag, uint16_t state)
{
    return lag->length > 0 && state == BP_LAGGING;
}

/* And the second. */
static inline bool bp_lag_has(const struct bp_lag *lag, uint16_t state)
{
    return lag->length > 0 && bp_state_lags(state);
}

/* The ring. Errors: -ENOMEM. */
int bp_lag_open(struct bp_lag *lag, uint64_t length);
void bp_lag_close(struct bp_lag *lag);

/* The pages, claimed to be freed, have frames: they begin to lag, and are settled. Zaps what is too old by then; what the
 * kernel refuses of that goes on lagging. */
void bp_lag_begin(bufpool_pool *pool, const uint64_t *pages, size_t count);

/* The oldest page that lags, claimed with its frame; or BP_NO_PAGE. */
uint64_t bp_lag_take(bufpool_pool *pool);

/* The same by looking at all words, when no other number is free. */
uint64_t bp_lag_find(bufpool_pool *pool);

/* Claims a page that lags, with its frame. false: it does not, or no longer. */
bool bp_lag_claim(bufpool_pool *pool, uint64_t page);

/* A page that is claimed with its frame lags on, as the youngest. */
void bp_lag_put_back(bufpool_pool *pool, uint64_t page);

/* Takes the frame of a page that is claimed with it: from here on it is a free one that is claimed. On an error it is as it
 * was. */
int bp_lag_zap(bufpool_pool *pool, uint64_t page);

/* A page that lags, and that nobody has claimed, lags no more, but traps. false: not so (by now), or the kernel refuses. */
bool bp_lag_end(bufpool_pool *pool, uint64_t page);

/* Zaps all pages that lag at the beginning of the call. 0, or the kernel's code: then those that are left lag on. *left, if not
 * NULL: the first of them. */
int bp_lag_settle(bufpool_pool *pool, uint64_t *left);

#endif
