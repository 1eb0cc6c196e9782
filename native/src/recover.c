/* recover.c: repairing what killed processes have left, see recover.h. */
#include "recover.h"

#include "interned.h"
#include "rest.h"
#include "roster.h"

#include <errno.h>
#include <string.h>

#define PATIENCE 100 /* times 100 us that a call waits at most, for pages that others are changing */

/* What a page becomes that somebody has left amid a change. */
static uint16_t settled(uint16_t word)
{
    return word & BP_FREEING ? BUFPOOL_STATE_FREED : word & BP_EVICTING ? BUFPOOL_STATE_EVICTED : word & BP_STATE_MASK;
}

/* The page is BUSY with us: mends its place in the index and settles it. */
static void put_back(bufpool_pool *pool, uint32_t member, uint64_t page, uint16_t state, bool scratch)
{
    bool shown = scratch && bp_roster_shown_by_others(&pool->pages, member, page);
    bp_pages_mend(&pool->pages, page, shown || bp_rest_is_taken(&pool->pages, page, state));
    bp_pages_settle(&pool->pages, page, shown ? state | BP_SCRATCH : state);
    bp_rest_end(&pool->pages, page);
}

/* The page is BUSY with us, and was with `member`. false: it could not be emptied, and is BUSY with `member` again. */
static bool repair(bufpool_pool *pool, uint32_t member, uint64_t page, uint16_t word)
{
    uint16_t state = settled(word);
    struct bp_range range = {bp_page_address(pool, page), pool->page_size};
    size_t done;
    if (state != BUFPOOL_STATE_ALLOCATED && bp_space_zap(&pool->space, &range, 1, &done) < 0) {
        bp_pages_settle(&pool->pages, page, word);
        return false;
    }
    put_back(pool, member, page, state, word & BP_SCRATCH);
    return true;
}

/* Calls function for each page whose state may not be 0; what was never touched is a hole of the file. false: it has
 * returned that, which ends it; or the file cannot be looked at. */
static bool for_each_page(bufpool_pool *pool, bool (*function)(bufpool_pool *, uint64_t, void *), void *context)
{
    struct bp_pages *pages = &pool->pages;
    uint64_t first = (uint64_t)((char *)pages->states - (char *)pages->place);
    uint64_t end = first + pages->count * sizeof *pages->states;
    uint64_t from;
    uint64_t to;
    int code = 0;
    for (uint64_t at = first; at < end && (code = bp_kernel_next_data(pages->fd, at, &from, &to)) == 0; at = to) {
        from = from < first ? first : from;
        to = to > end ? end : to;
        for (; from < to; from += sizeof *pages->states) {
            if (!function(pool, (from - first) / sizeof *pages->states, context)) {
                return false;
            }
        }
    }
    return code == 0 || code == -ENXIO;
}

struct legacy {
    uint32_t member;
    bool all;        /* repaired */
    uint16_t thread; /* what provenance calls the member's first one, once it has been asked for */
};

/* What the member was amid taking away is, as others see it, taken by it. Before the frame goes, as in free.c. */
static void record(bufpool_pool *pool, struct legacy *legacy, uint64_t page, uint16_t word)
{
    const struct bp_member *entry = &pool->pages.members[legacy->member];
    struct bp_interned_who who = {.thread = atomic_load(&entry->pid), .pid = atomic_load(&entry->pid)};
    for (int i = 0; i < 2; i++) {
        uint64_t name = atomic_load(&entry->name[i]);
        memcpy(who.name + 8 * i, &name, 8);
        memcpy(who.process_name + 8 * i, &name, 8);
    }
    if (word & (BP_FREEING | BP_EVICTING)) {
        bp_provenance_complete(&pool->provenance, page, word & BP_EVICTING, &who, &legacy->thread);
    }
}

static bool repair_if_of(bufpool_pool *pool, uint64_t page, void *context)
{
    struct legacy *legacy = context;
    uint16_t word = bp_pages_load(&pool->pages, page);
    if (BP_MEMBER_OF(word) == legacy->member) {
        bool ours = bp_pages_try(&pool->pages, page, word, (word & ~BP_BUSY) | pool->pages.busy);
        if (ours) {
            record(pool, legacy, page, word);
        }
        legacy->all = ours && repair(pool, legacy->member, page, word) && legacy->all;
    } else {
        bp_rest_end(&pool->pages, page); /* it may have been about to */
    }
    return true;
}

/* The member shows the pattern on this page no more. false: somebody has it BUSY, and for too long. */
static bool hide_page(bufpool_pool *pool, uint32_t member, uint64_t page, _Atomic uint64_t *noted, int *patience)
{
    for (;;) {
        uint16_t word = bp_pages_load(&pool->pages, page);
        bool busy = word & BP_BUSY;
        if (!(word & BP_SCRATCH) || (!busy && bp_pages_claim(&pool->pages, page, word, 0))) {
            /* Before the page is settled: whoever has it BUSY next looks at the roster. */
            atomic_store(noted, 0);
            BP_STORED("recovery: scratch not noted");
            if (word & BP_SCRATCH) {
                put_back(pool, member, page, settled(word), true);
            }
            return true;
        }
        if (busy && ((*patience)-- <= 0 || bp_roster_is_dead(&pool->pages, BP_MEMBER_OF(word)))) {
            return false; /* the dead are repaired one after the other */
        }
        bp_kernel_sleep_ns(busy ? 100000 : 0);
    }
}

/* The pages on which the member has shown the scratch pattern. */
static bool hide(bufpool_pool *pool, uint32_t member, int *patience)
{
    bool all = true;
    for (int i = 0; i < BP_MEMBER_SCRATCH; i++) {
        _Atomic uint64_t *noted = &pool->pages.members[member].scratch[i];
        uint64_t page = atomic_load(noted) - 1;
        all = (page >= pool->pages.count || hide_page(pool, member, page, noted, patience)) && all;
    }
    return all;
}

enum found { NOBODY, REPAIRED, NOT_ALL };

static enum found recover(bufpool_pool *pool, uint32_t member, int *patience)
{
    if (!bp_roster_take_over(&pool->pages, member)) {
        return NOBODY;
    }
    atomic_store(&pool->pages.counts->stale, true);
    BP_STORED("recovery: counts are stale");
    struct legacy legacy = {member, true, 0};
    bool all = for_each_page(pool, repair_if_of, &legacy) && legacy.all;
    all = hide(pool, member, patience) && all;
    bp_provenance_release(&pool->provenance, member);
    if (all) {
        bp_roster_bury(&pool->pages, member);
    } else {
        bp_roster_put_down(&pool->pages, member); /* the next one tries again */
    }
    return all ? REPAIRED : NOT_ALL;
}

int bp_recover(bufpool_pool *pool)
{
    int repaired = 0;
    int patience = PATIENCE;
    int left = pool->pages.members == NULL ? 0 : 1;
    /* Again, as one that was killed while it repaired may have left BUSY what an earlier one shows the pattern on. Not for
     * ever, as a peer may be mad. */
    for (int before = -1, pass = 0; left > 0 && repaired > before && pass < 4; pass++) {
        before = repaired;
        left = 0;
        for (uint32_t member = 1; member <= bp_roster_last(&pool->pages); member++) {
            enum found found = recover(pool, member, &patience);
            repaired += found == REPAIRED;
            left += found == NOT_ALL;
        }
    }
    bp_recover_counts(pool);
    return repaired;
}

bool bp_recover_page(bufpool_pool *pool, uint64_t page)
{
    uint16_t word = bp_pages_load(&pool->pages, page);
    uint32_t member = BP_MEMBER_OF(word);
    int patience = PATIENCE;
    if (pool->pages.members == NULL) {
        return false;
    }
    if (member == 0) {
        return word & BP_SCRATCH && bp_recover(pool) > 0;
    }
    if (recover(pool, member, &patience) == REPAIRED) {
        bp_recover_counts(pool);
        return true;
    }
    if (bp_roster_is_dead(&pool->pages, member)) { /* and another process is repairing what it has left */
        bp_kernel_sleep_ns(100000);
        return true;
    }
    return bp_pages_load(&pool->pages, page) != word;
}

bool bp_recover_stranded(bufpool_pool *pool, uint64_t page)
{
    struct bp_pages *pages = &pool->pages;
    uint32_t member = BP_MEMBER_OF(bp_pages_load(pages, page));
    if (member == 0 || pages->members == NULL || !bp_roster_hold_vacant(pages, member)) {
        return false;
    }
    uint16_t word = bp_pages_load(pages, page);
    bool done = BP_MEMBER_OF(word) == member &&
                bp_pages_try(pages, page, word, (uint16_t)(word & ~BP_BUSY) | pages->busy) &&
                repair(pool, member, page, word);
    bp_roster_put_down(pages, member);
    return done;
}

/* ---- Counting anew ---- */

struct census {
    uint64_t allocated;
    uint64_t evicted;
    uint64_t taken;
    uint64_t resting;
};

static bool count_page(bufpool_pool *pool, uint64_t page, void *context)
{
    struct census *census = context;
    uint16_t word = bp_pages_load(&pool->pages, page);
    census->allocated += (word & BP_STATE_MASK) == BUFPOOL_STATE_ALLOCATED;
    census->evicted += (word & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED;
    census->taken += bp_rest_is_taken(&pool->pages, page, word);
    census->resting += bp_rests(&pool->pages, page);
    /* The same afterwards: its bit may have been set in between by who has not counted that yet. */
    return !(word & BP_BUSY) && bp_pages_load(&pool->pages, page) == word;
}

bool bp_recover_alone(struct bp_pages *pages)
{
    /* Number 0 is nobody's: its lock is free for this. */
    return pages->members != NULL ? bp_roster_hold_vacant(pages, 0) : !atomic_exchange(&pages->repairing, true);
}

void bp_recover_done(struct bp_pages *pages)
{
    if (pages->members != NULL) {
        bp_roster_put_down(pages, 0);
    } else {
        atomic_store(&pages->repairing, false);
    }
}

/* false: somebody is amid a call. */
static bool count_anew(bufpool_pool *pool)
{
    struct bp_counts *counts = pool->pages.counts;
    uint64_t before = bp_pages_changes(&pool->pages);
    uint64_t allocations = BP_COUNT(counts, allocations);
    uint64_t frees = BP_COUNT(counts, frees);
    uint64_t evicted = BP_COUNT(counts, evicted);
    uint64_t taken = BP_COUNT(counts, set) - BP_COUNT(counts, cleared);
    uint64_t resting = atomic_load(&counts->resting);
    struct census census = {0};
    if (!for_each_page(pool, count_page, &census) || bp_pages_changes(&pool->pages) != before) {
        return false;
    }
    atomic_fetch_add(&counts->stripes[0].frees, allocations - frees - census.allocated - census.evicted);
    BP_STORED("recovery: frees");
    atomic_fetch_add(&counts->stripes[0].evicted, census.evicted - evicted);
    BP_STORED("recovery: evicted");
    bp_counts_correct_taken(counts, census.taken - taken);
    BP_STORED("recovery: taken");
    atomic_fetch_add(&counts->resting, census.resting - resting);
    BP_STORED("recovery: resting");
    return true;
}

void bp_recover_counts(bufpool_pool *pool)
{
    struct bp_counts *counts = pool->pages.counts;
    if (pool->pages.members == NULL || !atomic_load(&counts->stale) || !bp_recover_alone(&pool->pages)) {
        return;
    }
    /* First, so that what a process leaves that is killed meanwhile is counted the next time. */
    atomic_store(&counts->stale, false);
    BP_STORED("recovery: counts are counted");
    if (!count_anew(pool)) {
        atomic_store(&counts->stale, true); /* another time */
        BP_STORED("recovery: counts stay stale");
    }
    bp_recover_done(&pool->pages);
}
