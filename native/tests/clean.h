/* clean.h: is a shared pool that nobody is amid a call on in order? Looks at its tables and its file, not through its own
 * calls: what they say of themselves is what is to be proved. */
#ifndef CLEAN_H
#define CLEAN_H

#include "harness.h"

#include "kernel.h"
#include "pool.h"
#include "recover.h"
#include "rest.h"
#include "roster.h"

/* Which pages have a frame, by the file. NULL: of huge pages it does not say, but bufpool_inspect() does. */
static bool *frames_of(const bufpool_pool *pool)
{
    bool *has = calloc(pool->pages.count, sizeof *has);
    uint64_t from;
    uint64_t to;
    CHECK(has != NULL);
    if (pool->space.memory->hugetlb) {
        free(has);
        return NULL;
    }
    for (uint64_t at = 0; bp_kernel_next_data(pool->space.fd, at, &from, &to) == 0; at = to) {
        for (uint64_t page = from / pool->page_size; page < pool->pages.count && page * pool->page_size < to; page++) {
            has[page] = true;
        }
    }
    return has;
}

/* Every word of every level says of those below whether they are full. */
static void check_index(const bufpool_pool *pool)
{
    const struct bp_pages *pages = &pool->pages;
    uint64_t below = pages->count;
    for (int level = 0; level < pages->depth; level++) {
        for (uint64_t at = 0; at < below; at++) {
            bool set = pages->levels[level][at / 64] >> at % 64 & 1;
            bool full = level == 0 ? bp_rest_is_taken(pages, at, bp_pages_load(pages, at))
                                   : pages->levels[level - 1][at] == UINT64_MAX;
            if (set != full) {
                fprintf(stderr, "level %d, bit %llu is %d, page or word below is %d\n", level, (unsigned long long)at,
                        set, full);
                harness_fail();
            }
        }
        below = pages->words[level];
    }
}

/* `processes` have the pool. */
static void check_clean(bufpool_pool *pool, uint64_t processes)
{
    const struct bp_pages *pages = &pool->pages;
    const struct bp_counts *counts = pages->counts;
    bool *has = frames_of(pool);
    uint64_t allocated = 0;
    uint64_t evicted = 0;
    uint64_t scratched = 0;
    uint64_t members = 0;
    uint64_t resting = 0;
    for (uint64_t page = 0; page < pages->count; page++) {
        uint16_t word = bp_pages_load(pages, page);
        if (word & BP_SCRATCH && bp_roster_shown_by_others(pages, 0, page) && word != BUFPOOL_STATE_ALLOCATED) {
            word &= (uint16_t)~BP_SCRATCH; /* somebody's who lives */
            scratched += bp_state_is_free(word);
        }
        bool known = word == BUFPOOL_STATE_UNALLOCATED || word == BUFPOOL_STATE_FREED ||
                     word == BUFPOOL_STATE_ALLOCATED || word == BUFPOOL_STATE_EVICTED;
        if (!known || (has != NULL && has[page] != (word == BUFPOOL_STATE_ALLOCATED))) {
            fprintf(stderr, "page %llu: state word %#x, %s frame\n", (unsigned long long)page, word,
                    has == NULL ? "perhaps a"
                    : has[page] ? "a"
                                : "no");
            harness_fail();
        }
        allocated += word == BUFPOOL_STATE_ALLOCATED;
        evicted += word == BUFPOOL_STATE_EVICTED;
        resting += bp_state_is_free(word) && bp_rests(pages, page);
    }
    free(has);
    check_index(pool);
    bufpool_findings found = BUFPOOL_FINDINGS_INIT;
    CHECK_OK(bufpool_inspect(pool, 0, &found));
    CHECK_IS(found.exact, ==, 1);
    CHECK_IS(found.allocated, ==, allocated);
    CHECK_IS(found.evicted, ==, evicted);
    CHECK_IS(found.busy + found.abandoned + found.lost_frames + found.stray_frames + found.index_wrong +
                 found.scratch_wrong + found.states_wrong + found.counts_wrong,
             ==, 0);
    for (uint32_t member = 1; member <= BP_MAX_MEMBERS; member++) {
        members += bp_roster_has(pages, member);
    }
    CHECK_IS(members, ==, processes);
    CHECK_IS(counts->stale, ==, 0);
    CHECK_IS(counts->resting, ==, resting);
    CHECK_IS(bp_counts_taken(counts), ==, allocated + evicted + scratched + resting);
    CHECK_IS(BP_COUNT(counts, evicted), ==, evicted);
    CHECK_IS(BP_COUNT(counts, allocations) - BP_COUNT(counts, frees), ==, allocated + evicted);
}

/* Makes a call that repairs, one for more pages than there are, and one that counts anew what it can. */
MAYBE_UNUSED static void ask_for_too_much(bufpool_pool *pool)
{
    uint64_t count = pool->pages.count;
    uint64_t *numbers = malloc(count * sizeof *numbers);
    CHECK(numbers != NULL);
    int code = bufpool_allocate_many(pool, count, numbers);
    CHECK(code == 0 || code == BUFPOOL_EEXHAUSTED);
    if (code == 0) { /* nobody had any */
        CHECK_OK(bufpool_free_many(pool, count, numbers));
        bp_pool_enter(pool);
        bp_recover(pool);
        bp_pool_leave(pool);
    }
    free(numbers);
    stats_of(pool);
}

/* For a while the system may have no huge page, as other programs take some. */
#define CHECK_HAD(call) \
    do { \
        int had = call; \
        for (int patience = 0; had == BUFPOOL_EEXHAUSTED && patience < 10000; patience++) { \
            sleep_ms(5); \
            had = call; \
        } \
        CHECK_IS(had, ==, 0); \
    } while (0)

/* Every page that is not taken can be had, and none twice. */
MAYBE_UNUSED static void check_all_to_be_had(bufpool_pool *pool)
{
    uint64_t count = pool->pages.count - bp_counts_taken(pool->pages.counts);
    uint64_t *numbers = malloc((count + 1) * sizeof *numbers);
    bool *seen = calloc(pool->pages.count, sizeof *seen);
    CHECK(numbers != NULL && seen != NULL);
    for (uint64_t page = 0; page < pool->pages.count; page++) {
        seen[page] = !bp_state_is_free(bp_pages_load(&pool->pages, page));
    }
    CHECK_HAD(bufpool_allocate_many(pool, count, numbers));
    for (uint64_t i = 0; i < count; i++) {
        CHECK_IS(numbers[i], <, pool->pages.count);
        CHECK(!seen[numbers[i]]);
        seen[numbers[i]] = true;
    }
    CHECK_OK(bufpool_free_many(pool, count, numbers));
    free(seen);
    free(numbers);
}

#endif
