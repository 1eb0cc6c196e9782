/*
 * allocate.c: giving pages a frame: allocate, allocate_at, populate, and their batches.
 *
 * The same two steps everywhere: claim the pages (their states become BUSY over what they were); fill them, count them
 * and settle their states (fill.h). If filling fails, every page becomes what it was. No lock is held meanwhile.
 */
#include "claim.h"
#include "error.h"
#include "fill.h"
#include "numbers.h"
#include "recover.h"
#include "rest.h"
#include "scratch.h"

#include <errno.h>
#include <string.h>

#define PATIENCE_NS 20000000

static int check_data(const bufpool_pool *pool, const void *data, size_t size)
{
    if (size > pool->page_size) {
        return bp_error(BUFPOOL_EARGUMENT, "size is %zu bytes: a page of pool \"%s\" holds %llu", size, pool->name,
                        (unsigned long long)pool->page_size);
    }
    if (data == NULL && size > 0) {
        return bp_error(BUFPOOL_EARGUMENT, "data is NULL and size is %zu bytes: pass data, or size 0 for zeros", size);
    }
    return 0;
}

static int exhausted(const bufpool_pool *pool, size_t count)
{
    uint64_t taken = bp_counts_taken(pool->pages.counts);
    uint64_t evicted = bp_counts_evicted(pool->pages.counts);
    return bp_error(BUFPOOL_EEXHAUSTED,
                    "pool \"%s\" has too few free pages for %zu more: %llu of %llu are taken (%llu of them evicted)",
                    pool->name, count, (unsigned long long)taken, (unsigned long long)pool->pages.count,
                    (unsigned long long)evicted);
}

/* Is there a number that is free, or that another thread, which zaps what has lagged, is about to give back? Such a page is
 * in the index before it is uncounted. */
static bool some_come(const bufpool_pool *pool)
{
    return atomic_load(&pool->lag.lagging) > 0 || bp_counts_taken(pool->pages.counts) < pool->pages.count;
}

/* A free number, of a page that lags with its frame, if there is one; those that strays have diverted are re-armed for it, as others may be diverted meanwhile; then those that
 * rest come, the oldest first. One that somebody has BUSY to look at it, or amid giving it back, is waited for, but not
 * for ever: he may have been stopped. */
static uint64_t take(bufpool_pool *pool)
{
    uint64_t page = bp_lag_take(pool);
    page = page != BP_NO_PAGE ? page : bp_pages_take(&pool->pages);
    for (int patience = 0; page == BP_NO_PAGE && patience < 16 && atomic_load(&pool->scratched) > 0; patience++) {
        bp_scratch_rearm_pool(pool, true);
        page = bp_pages_take(&pool->pages);
    }
    while (page == BP_NO_PAGE && bp_rest_cut(&pool->pages)) {
        page = bp_pages_take(&pool->pages);
    }
    if (page == BP_NO_PAGE && bp_recover(pool) > 0) {
        page = bp_pages_take(&pool->pages);
    }
    page = page != BP_NO_PAGE ? page : bp_lag_find(pool);
    int64_t end = page == BP_NO_PAGE ? bp_kernel_monotonic_ns() + PATIENCE_NS : 0;
    while (page == BP_NO_PAGE && some_come(pool) && bp_kernel_monotonic_ns() <= end) {
        bp_kernel_sleep_ns(20000);
        page = bp_pages_take(&pool->pages);
        page = page != BP_NO_PAGE ? page : bp_lag_find(pool);
    }
    return page;
}

/* Begins a call that fills one page with data. */
static int enter(bufpool_pool *pool, struct bp_source *source, const void *data, size_t size, const void *caller)
{
    source->caller = caller;
    int code = pool == NULL ? 0 : check_data(pool, data, size);
    if (code == 0 && pool != NULL) {
        code = bp_fill_source(pool, source, data, size); /* may stray, so it comes before anything is held */
    }
    return code < 0 ? code : bp_pool_enter(pool);
}

int bufpool_allocate(bufpool_pool *pool, const void *data, size_t size, uint64_t *page)
{
    if (page == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "page is NULL: pass where the number is to be stored");
    }
    struct bp_source source;
    int code = enter(pool, &source, data, size, BP_CALLER());
    if (code < 0) {
        return code;
    }
    uint64_t number = take(pool);
    if (number == BP_NO_PAGE) {
        code = exhausted(pool, 1);
        bp_pool_leave(pool);
        return code;
    }
    code = bp_fill(pool, &number, 1, &source);
    bp_pool_leave(pool);
    if (code < 0) {
        return bp_fill_error(pool, code, &source, 1);
    }
    *page = number;
    return 0;
}

/* allocate_at and populate: one given page. */
static int fill_given(bufpool_pool *pool, uint64_t page, const void *data, size_t size, bool evicted,
                      const void *caller)
{
    struct bp_source source;
    int code = enter(pool, &source, data, size, caller);
    if (code < 0) {
        return code;
    }
    code = bp_claim_hole(pool, page, evicted ? BP_HOLE_EVICTED : BP_HOLE_FREE | BP_HOLE_LAGGING,
                         evicted ? "populate" : "allocate");
    if (code < 0) {
        bp_pool_leave(pool);
        return code;
    }
    code = bp_fill(pool, &page, 1, &source);
    bp_pool_leave(pool);
    return code < 0 ? bp_fill_error(pool, code, &source, 1) : 0;
}

int bufpool_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return fill_given(pool, page, data, size, false, BP_CALLER());
}

int bufpool_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return fill_given(pool, page, data, size, true, BP_CALLER());
}

static int allocate_batch(bufpool_pool *pool, size_t count, const struct bp_source *source, uint64_t *numbers)
{
    for (size_t i = 0; i < count; i++) {
        numbers[i] = take(pool);
        if (numbers[i] == BP_NO_PAGE) {
            bp_claim_drop_holes(pool, numbers, i);
            return exhausted(pool, count);
        }
    }
    return bp_fill(pool, numbers, count, source);
}

static int allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages, const void *caller)
{
    if (count > 0 && pages == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pages is NULL: pass room for %zu numbers", count);
    }
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    struct bp_numbers numbers;
    code = count > pool->pages.count ? exhausted(pool, count) : bp_numbers_open(&numbers, count);
    if (code < 0) {
        bp_pool_leave(pool);
        return code;
    }
    struct bp_source source;
    source.data = data;
    source.size = count * pool->page_size;
    source.caller = caller;
    code = allocate_batch(pool, count, &source, numbers.at);
    bp_pool_leave(pool);
    if (code == 0 && count > 0) {
        memcpy(pages, numbers.at, count * sizeof *pages);
    }
    bp_numbers_close(&numbers);
    return code < 0 && code != BUFPOOL_EEXHAUSTED ? bp_fill_error(pool, code, &source, count) : code;
}

int bufpool_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages)
{
    return allocate_filled(pool, count, NULL, pages, BP_CALLER());
}

int bufpool_allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages)
{
    if (count > 0 && data == NULL) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "data is NULL: pass %zu whole pages, or use bufpool_allocate_many() for zeros", count);
    }
    return allocate_filled(pool, count, data, pages, BP_CALLER());
}

static int populate_batch(bufpool_pool *pool, size_t count, const struct bp_source *source, const uint64_t *numbers)
{
    size_t claimed = 0;
    int code = 0;
    for (; claimed < count; claimed++) {
        code = bp_claim_hole(pool, numbers[claimed], BP_HOLE_EVICTED, "populate");
        if (code < 0) {
            bp_claim_drop_holes(pool, numbers, claimed);
            return code;
        }
    }
    return bp_fill(pool, numbers, count, source);
}

int bufpool_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data)
{
    struct bp_numbers numbers;
    int code = bp_pool_enter_batch(pool, &numbers, count, pages);
    if (code < 0) {
        return code;
    }
    struct bp_source source;
    source.data = data;
    source.size = count * pool->page_size;
    source.caller = BP_CALLER();
    code = populate_batch(pool, count, &source, numbers.at);
    bp_pool_leave_batch(pool, &numbers); /* first: naming the error may end in a guarded call's jump */
    return code < 0 && code > -4096 ? bp_fill_error(pool, code, &source, count) : code;
}
