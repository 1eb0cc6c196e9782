/*
 * pages.h: the state of each page, and the index that finds a free one.
 *
 * The state word is the truth; every change of it is a compare-and-swap, so it is also the page's lock: who sets BUSY
 * owns the page until it clears it. The index (one bit a page, with summary levels of one bit per 64-bit word below, a
 * set bit meaning "taken" or "full") only says where to look, and a page's bit is changed only by who has set BUSY.
 * Tables of memory that several processes have are in a file that they all map (tables.h): then all this goes for their
 * threads, too, and BUSY says whose it is, so that what a process has left that was killed can be repaired (recover.h).
 * Memory: 2.13 bytes a page (with a quarantine up to 12 more), only where touched, and apart from the pool's own memory, so that a stray write cannot
 * damage it.
 *
 * All functions are thread-safe and lock-free; reading a state and the functions of the handler (bp_pages_try, _settle)
 * are async-signal-safe.
 */
#ifndef BP_PAGES_H
#define BP_PAGES_H

#include "point.h"
#include "stripe.h"

#include <bufpool/bufpool.h>
#include <stdatomic.h>

/* A state word: a bufpool_state in the low bits, flags, and who is changing it. */
#define BP_STATE_MASK 0x0007u
#define BP_EVICTING 0x0008u /* with BUSY: allocated, being evicted */
#define BP_FREEING 0x0010u  /* with BUSY: being freed */
#define BP_SCRATCH 0x0020u  /* a hole of which a granule shows the scratch pattern */
#define BP_BUSY 0xffc0u     /* the number of the process that is changing it, see pages->busy; 0: nobody is */
#define BP_BUSY_OF(member) ((uint16_t)((member) << 6))
#define BP_MEMBER_OF(word) ((word) >> 6)
#define BP_MAX_MEMBERS 1023

#define BP_NO_PAGE UINT64_MAX
#define BP_LEVELS 6 /* 64^6 pages */

/* What calls count, of the threads of one stripe (stripe.h); the pool's counts are the sums. Each wraps for itself: a page may
 * be evicted by one thread and populated by another. */
struct bp_stripe {
    _Alignas(BP_CACHE_LINE) _Atomic uint64_t cursor; /* the number after the last one given out, see bp_pages_take() */
    _Atomic uint64_t set, cleared;                   /* bits of the index: their difference is what is taken */
    /* Kept by the pool's calls, while they have the pages BUSY. */
    _Atomic uint64_t evicted, allocations, frees, evictions, populates;
};

struct bp_counts {
    _Atomic uint64_t cursor; /* where the next block of numbers is looked for */
    _Atomic uint64_t high_water;
    _Atomic uint32_t last_member; /* in shared tables: the highest number that a process ever had, see roster.h */
    atomic_bool gone;             /* in shared tables: the process that opened the pool has closed it */
    atomic_bool stale;            /* in shared tables: the calls of a killed process may be missing, see recover.h */
    _Atomic uint64_t faults;      /* in shared tables: of all processes, of those too that have left */
    /* Of the quarantine, see rest.h: rests begun, where the oldest is to be looked for, and pages that rest. */
    _Atomic uint64_t rests, cut, resting;
    struct bp_stripe stripes[BP_STRIPES];
};

/* The quarantine, see rest.h: an entry a page, and a ring. Both take memory only where used. */
struct bp_rest {
    uint64_t length; /* slots of the ring; 0: there is no quarantine */
    _Atomic uint32_t *tickets;
    _Atomic uint64_t *slots; /* page + 1, or 0 */
};
#define BP_MAX_REST (UINT64_C(1) << 31)

struct bp_pages {
    uint64_t count;
    _Atomic uint16_t *states;
    uint16_t busy;                       /* BP_BUSY of this process */
    uint64_t block;                      /* numbers that a stripe gives out before it asks for more */
    _Atomic uint64_t *levels[BP_LEVELS]; /* levels[0]: a bit per page */
    uint64_t words[BP_LEVELS];
    int depth;
    struct bp_rest rest;
    void *place; /* the one mapping that holds it all */
    size_t mapped;
    int fd;                    /* the file of shared tables, a description of this process's own; else -1 */
    void *held;                /* mapping that holds the lock of this process's number, see roster.h; else NULL */
    struct bp_header *header;  /* of shared tables, see tables.h; else NULL */
    struct bp_member *members; /* BP_MAX_MEMBERS + 1 of them, by number; else NULL */
    atomic_bool repairing;     /* a thread of this process has taken over a number, see roster.h, or counts */
    struct bp_counts *counts;  /* in the header, else: */
    struct bp_counts own;
};

/* Reserves tables of this process's own, all pages "unallocated", with a quarantine of so many. Errors: -ENOMEM. */
int bp_pages_open(struct bp_pages *pages, uint64_t count, uint64_t rest);

/* In a forked child that has not got the pool, whose thread is amid a call on it: what is written to shared tables from
 * here on is its own, so that the end of the call changes nothing of the parent's; without memory for it, they become
 * read-only. Async-signal-safe. */
void bp_pages_part(struct bp_pages *pages);

/* From here on the counts are this process's own, as they are now: bufpool_stats() goes on reading them. */
void bp_pages_keep_counts(struct bp_pages *pages);

/* Gives them back, of whatever kind; the counts stay. */
void bp_pages_close(struct bp_pages *pages);

/* For tables.c: how many bytes states, index and quarantine take, and setting the pointers into a mapping; fresh: it is all
 * zeros. */
size_t bp_pages_size(uint64_t count, uint64_t rest);
void bp_pages_lay(struct bp_pages *pages, uint64_t count, uint64_t rest, void *place, bool fresh);

static inline uint16_t bp_pages_load(const struct bp_pages *pages, uint64_t page)
{
    return atomic_load(&pages->states[page]);
}

static inline bool bp_pages_try(struct bp_pages *pages, uint64_t page, uint16_t from, uint16_t to)
{
    bool done = atomic_compare_exchange_strong(&pages->states[page], &from, to);
    if (done) {
        BP_STORED("page claimed");
    }
    return done;
}

/* Claims the page: sets BUSY, and flags, over what it is. false: it is something else by now. */
static inline bool bp_pages_claim(struct bp_pages *pages, uint64_t page, uint16_t from, uint16_t flags)
{
    return bp_pages_try(pages, page, from, from | flags | pages->busy);
}

/* Ends a claim: the owner of BUSY writes the new state. */
static inline void bp_pages_settle(struct bp_pages *pages, uint64_t page, uint16_t state)
{
    atomic_store_explicit(&pages->states[page], state, memory_order_release);
    BP_STORED("page settled");
}

/* The running thread's stripe. */
static inline struct bp_stripe *bp_pages_stripe(const struct bp_pages *pages)
{
    return &pages->counts->stripes[bp_stripe(BP_MEMBER_OF(pages->busy))];
}

/* A count: the sum of one field over all stripes. Exact while nobody changes it. */
#define BP_COUNT(counts, field) bp_counts_sum(counts, offsetof(struct bp_stripe, field))

static inline uint64_t bp_counts_sum(const struct bp_counts *counts, size_t field)
{
    uint64_t sum = 0;
    for (int i = 0; i < BP_STRIPES; i++) {
        sum += atomic_load((const _Atomic uint64_t *)((const char *)&counts->stripes[i] + field));
    }
    return sum;
}

/* Pages whose index bit is set. At some moment of the call there were at least so many, whatever others do meanwhile: what
 * was cleared is read last. */
static inline uint64_t bp_counts_taken(const struct bp_counts *counts)
{
    uint64_t set = BP_COUNT(counts, set);
    uint64_t cleared = BP_COUNT(counts, cleared);
    return set > cleared ? set - cleared : 0;
}

/* Pages that are evicted. Calls under way in two stripes may make the sum less than none. */
static inline uint64_t bp_counts_evicted(const struct bp_counts *counts)
{
    uint64_t evicted = BP_COUNT(counts, evicted);
    return evicted >> 63 ? 0 : evicted;
}

/* Makes a count right, of pages that nobody uses, or after a process was killed: adds the difference, which may wrap. */
static inline void bp_counts_correct_taken(struct bp_counts *counts, uint64_t difference)
{
    bool more = difference >> 63 == 0;
    atomic_fetch_add(more ? &counts->stripes[0].set : &counts->stripes[0].cleared, more ? difference : 0 - difference);
}

/* Calls that are counted, and changes of the index: none of them changes while nobody changes a page. */
static inline uint64_t bp_pages_changes(const struct bp_pages *pages)
{
    const struct bp_counts *counts = pages->counts;
    return BP_COUNT(counts, allocations) + BP_COUNT(counts, frees) + BP_COUNT(counts, evictions) +
           BP_COUNT(counts, populates) + BP_COUNT(counts, set) + BP_COUNT(counts, cleared);
}

/* May the page be allocated as it stands? */
static inline bool bp_state_is_free(uint16_t state)
{
    return state == BUFPOOL_STATE_UNALLOCATED || state == BUFPOOL_STATE_FREED;
}

/* Finds a free page and claims it: its state becomes BUSY over what it was. BP_NO_PAGE if there is none, in any thread's
 * block: a block says where a stripe looks first, and the index alone what is free. Each stripe gives out the numbers of a
 * block (64 to 512 numbers, so that large pools have one word line of the index, and of small pages one page table, for each
 * thread; in pools of less than 1024 pages one number, so that all threads go round together), then asks for the next. Numbers rise from call to call within a block, and blocks rise and wrap, so that a freed
 * number rests as long as possible; the wrap comes early when a quarter of the numbers in use so far (and at least 1024, and
 * four blocks for each further stripe) is free again, so that a huge pool does not wander through all its addresses. */
uint64_t bp_pages_take(struct bp_pages *pages);

/* The first page >= from that the index has as free, or BP_NO_PAGE; it may be another's by now. */
uint64_t bp_pages_find(struct bp_pages *pages, uint64_t from);

/* All pages are allocated, of tables that nobody uses yet. */
void bp_pages_take_all(struct bp_pages *pages);

/* Put a page into the index as taken (a page claimed by other means than bp_pages_take()) or free. The caller has the
 * page BUSY. */
void bp_pages_mark_taken(struct bp_pages *pages, uint64_t page);
void bp_pages_mark_withheld(struct bp_pages *pages, uint64_t page); /* taken, but for no allocation: high_water stays */
void bp_pages_mark_free(struct bp_pages *pages, uint64_t page);

/* The same, whatever a process that was killed amid it has left of the page's place in the index. */
void bp_pages_mend(struct bp_pages *pages, uint64_t page, bool taken);

#endif
