/*
 * free.c: taking frames away: free, evict, and their batches.
 *
 * Every page of a batch is checked and claimed first (BUSY over its state, with what is being done), and the whole
 * batch is refused if one does not fit; a number that comes twice is found BUSY the second time. Then the frames go,
 * with as few requests as the kernel allows.
 */
#include "error.h"
#include "numbers.h"
#include "pool.h"
#include "recover.h"
#include "scratch.h"

#include <string.h>

#define RANGES 512 /* on the stack: 8 KiB */

static int refuse(const bufpool_pool *pool, uint64_t page, uint16_t state, bool evict)
{
    const char *what = evict ? "evict" : "free";
    const char *is = bufpool_state_name((bufpool_state)(state & BP_STATE_MASK));
    unsigned long long number = page;
    if (state & BP_BUSY && state & (BP_FREEING | BP_EVICTING)) {
        return bp_error(BUFPOOL_ESTATE,
                        "cannot %s page %llu of pool \"%s\": it is being %s already (twice in this batch, or by "
                        "another thread)",
                        what, number, pool->name, state & BP_FREEING ? "freed" : "evicted");
    }
    if (state & BP_BUSY) {
        return bp_error(BUFPOOL_ESTATE,
                        "cannot %s page %llu of pool \"%s\": it is %s, and another thread is changing it", what, number,
                        pool->name, is);
    }
    if ((state & BP_STATE_MASK) == BUFPOOL_STATE_FREED && !evict) {
        return bp_error(BUFPOOL_ESTATE, "double free of page %llu of pool \"%s\"", number, pool->name);
    }
    return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": it is %s, and only allocated%s pages can be",
                    what, number, pool->name, is, evict ? "" : " and evicted");
}

static int claim(bufpool_pool *pool, uint64_t page, bool evict)
{
    if (page >= pool->pages.count) {
        return bp_error(BUFPOOL_EARGUMENT, "page %llu is not in pool \"%s\": its pages are 0 to %llu",
                        (unsigned long long)page, pool->name, (unsigned long long)(pool->pages.count - 1));
    }
    for (int patience = 0; patience < 1000; patience++) {
        uint16_t state = bp_pages_load(&pool->pages, page);
        if (state & BP_SCRATCH && (state & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED && !evict) {
            bp_scratch_await(pool, page, state, patience);
            continue;
        }
        if (state & BP_BUSY && bp_recover_page(pool, page)) {
            continue;
        }
        if (state != BUFPOOL_STATE_ALLOCATED && (evict || state != BUFPOOL_STATE_EVICTED)) {
            return refuse(pool, page, state, evict);
        }
        if (bp_pages_claim(&pool->pages, page, state, evict ? BP_EVICTING : BP_FREEING)) {
            return 0;
        }
    }
    return refuse(pool, page, bp_pages_load(&pool->pages, page), evict);
}

static void unclaim(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bp_pages_settle(&pool->pages, pages[i], bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK);
    }
}

/* Counts while the pages are BUSY, as fill.c does. */
static void settle(bufpool_pool *pool, const uint64_t *pages, size_t count, bool evict)
{
    struct bp_counts *counts = pool->pages.counts;
    uint64_t was_evicted = 0;
    for (size_t i = 0; i < count && !evict; i++) {
        was_evicted += (bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED;
        bp_pages_mark_free(&pool->pages, pages[i]);
    }
    atomic_fetch_add_explicit(evict ? &counts->evictions : &counts->frees, count, memory_order_relaxed);
    BP_STORED("frees counted");
    if (evict || was_evicted > 0) {
        atomic_fetch_add_explicit(&counts->evicted, evict ? count : 0 - was_evicted, memory_order_relaxed);
        BP_STORED("evicted counted");
    }
    for (size_t i = 0; i < count; i++) {
        bp_pages_settle(&pool->pages, pages[i], evict ? BUFPOOL_STATE_EVICTED : BUFPOOL_STATE_FREED);
    }
}

static bool has_frame(const bufpool_pool *pool, uint64_t page)
{
    return (bp_pages_load(&pool->pages, page) & BP_STATE_MASK) == BUFPOOL_STATE_ALLOCATED;
}

/* Zaps claimed pages in order. Returns how many from the front are done; *code tells why it stopped. */
static size_t zap(bufpool_pool *pool, const uint64_t *pages, size_t count, int *code)
{
    struct bp_range ranges[RANGES];
    size_t ends[RANGES]; /* index of the page after each range */
    size_t i = 0;
    *code = 0;
    while (i < count && *code == 0) {
        size_t used = 0;
        size_t begin = i;
        while (i < count && used < RANGES) {
            size_t next = i + 1;
            if (has_frame(pool, pages[i])) {
                while (next < count && pages[next] == pages[next - 1] + 1 && has_frame(pool, pages[next])) {
                    next++;
                }
                ranges[used] = (struct bp_range){bp_page_address(pool, pages[i]), (next - i) * pool->page_size};
                ends[used++] = next;
            }
            i = next;
        }
        size_t done = 0;
        if (used > 0) {
            *code = bp_space_zap(&pool->space, ranges, used, &done);
        }
        if (*code < 0) {
            return done > 0 ? ends[done - 1] : begin;
        }
    }
    return count;
}

static int take_away(bufpool_pool *pool, size_t count, const uint64_t *pages, bool evict, const void *caller)
{
    for (size_t i = 0; i < count; i++) {
        int code = claim(pool, pages[i], evict);
        if (code < 0) {
            unclaim(pool, pages, i);
            return code;
        }
    }
    bp_record(&pool->provenance, pages, count, evict ? BUFPOOL_EVENT_EVICT : BUFPOOL_EVENT_FREE, caller);
    int code;
    size_t done = zap(pool, pages, count, &code);
    settle(pool, pages, done, evict);
    bp_record_failed(&pool->provenance, pages + done, count - done);
    unclaim(pool, pages + done, count - done);
    if (code < 0 && bp_pool_is_closed(pool)) { /* meanwhile */
        return bp_pool_closed_error(pool);
    }
    if (code < 0) {
        bp_error(code, "cannot %s page %llu of pool \"%s\" by trap %s: %s%s; %zu of %zu pages of this call are done",
                 evict ? "evict" : "free", (unsigned long long)pages[done], pool->name, pool->space.trap->name,
                 strerror(-code), bp_space_hint(&pool->space, code), done, count);
        bp_error_set_done(done);
    }
    return code;
}

static int take_one(bufpool_pool *pool, uint64_t page, bool evict, const void *caller)
{
    int code = bp_pool_enter(pool);
    if (code == 0) {
        code = take_away(pool, 1, &page, evict, caller);
        bp_pool_leave(pool);
    }
    return code;
}

static int take_many(bufpool_pool *pool, size_t count, const uint64_t *pages, bool evict, const void *caller)
{
    struct bp_numbers numbers;
    int code = bp_numbers_copy(&numbers, count, pages);
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code == 0) {
        code = take_away(pool, count, numbers.at, evict, caller);
        bp_pool_leave(pool);
    }
    bp_numbers_close(&numbers);
    return code;
}

int bufpool_free(bufpool_pool *pool, uint64_t page)
{
    return take_one(pool, page, false, BP_CALLER());
}

int bufpool_evict(bufpool_pool *pool, uint64_t page)
{
    return take_one(pool, page, true, BP_CALLER());
}

int bufpool_free_many(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return take_many(pool, count, pages, false, BP_CALLER());
}

int bufpool_evict_many(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return take_many(pool, count, pages, true, BP_CALLER());
}
