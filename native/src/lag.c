/* lag.c: freed pages that keep their frames for a while, see lag.h. */
#include "lag.h"

#include "lazy.h"
#include "pool.h"

#define PATIENCE 1000 /* times 10 us, for a page that another thread is zapping */

int bp_lag_open(struct bp_lag *lag, uint64_t length)
{
    void *place;
    size_t size = length * sizeof *lag->slots;
    int code = length == 0 ? 0 : bp_lazy_map(size, &place);
    if (length > 0 && code == 0) {
        lag->slots = place;
        lag->mapped = size;
        lag->length = length;
    }
    return code;
}

void bp_lag_close(struct bp_lag *lag)
{
    if (lag->mapped > 0) {
        bp_kernel_munmap((void *)lag->slots, lag->mapped);
        lag->mapped = 0;
        lag->length = 0;
    }
    atomic_store(&lag->lagging, 0);
}

bool bp_lag_claim(bufpool_pool *pool, uint64_t page)
{
    if (page >= pool->pages.count || !bp_pages_claim(&pool->pages, page, BP_LAGGING, 0)) {
        return false;
    }
    atomic_fetch_sub_explicit(&pool->lag.lagging, 1, memory_order_relaxed);
    return true;
}

/* ---- Ending it ---- */

/* The frame of a page is gone, which is BUSY with us, and free from here on. */
static void settle_free(bufpool_pool *pool, uint64_t page)
{
    bp_pages_mark_free(&pool->pages, page);
    bp_pages_settle(&pool->pages, page, BUFPOOL_STATE_FREED);
    atomic_fetch_sub_explicit(&pool->lag.lagging, 1, memory_order_relaxed); /* last: see take() in allocate.c */
}

/* Pages that lag, claimed to be zapped: of these the count is right still. */
struct batch {
    uint64_t pages[BP_LAG_BATCH];
    size_t count;
};

static void add(bufpool_pool *pool, struct batch *batch, uint64_t page)
{
    if (page < pool->pages.count && bp_pages_claim(&pool->pages, page, BP_LAGGING, 0)) {
        batch->pages[batch->count++] = page;
    }
}

/* Zaps them with one request for each run of neighbours, or for all, as the trap has it. */
static int zap(bufpool_pool *pool, struct batch *batch, uint64_t *left)
{
    struct bp_range ranges[BP_LAG_BATCH];
    size_t ends[BP_LAG_BATCH];
    size_t used = 0;
    for (size_t i = 0; i < batch->count; used++) {
        size_t end = pool->lead > 0 ? i + 1 : bp_numbers_run(batch->pages, batch->count, i);
        ranges[used] = (struct bp_range){bp_page_address(pool, batch->pages[i]), (end - i) * pool->page_size};
        ends[used] = i = end;
    }
    size_t zapped = 0;
    int code = used == 0 ? 0 : bp_space_zap(&pool->space, ranges, used, &zapped);
    size_t done = code == 0 ? batch->count : zapped > 0 ? ends[zapped - 1] : 0;
    for (size_t i = 0; i < done; i++) {
        settle_free(pool, batch->pages[i]);
    }
    for (size_t i = done; i < batch->count; i++) {
        bp_pages_settle(&pool->pages, batch->pages[i], BP_LAGGING);
    }
    if (done < batch->count) {
        *left = batch->pages[done];
        atomic_store(&pool->lag.missed, true);
    }
    batch->count = 0;
    return code;
}

int bp_lag_zap(bufpool_pool *pool, uint64_t page)
{
    struct bp_range range = {bp_page_address(pool, page), pool->page_size};
    size_t done;
    int code = bp_space_zap(&pool->space, &range, 1, &done);
    if (code == 0) {
        atomic_store(&pool->pages.states[page], BUFPOOL_STATE_FREED | pool->pages.busy);
    }
    return code;
}

bool bp_lag_end(bufpool_pool *pool, uint64_t page)
{
    if (!bp_lag_claim(pool, page)) { /* one page, without the tables of a batch: this may be a signal's stack */
        return false;
    }
    if (bp_lag_zap(pool, page) < 0) {
        atomic_fetch_add_explicit(&pool->lag.lagging, 1, memory_order_relaxed);
        bp_pages_settle(&pool->pages, page, BP_LAGGING);
        atomic_store(&pool->lag.missed, true);
        return false;
    }
    bp_pages_mark_free(&pool->pages, page);
    bp_pages_settle(&pool->pages, page, BUFPOOL_STATE_FREED);
    return true;
}

/* What the slots name, those that were ever used. */
static int settle_ring(bufpool_pool *pool, struct batch *batch, uint64_t *left)
{
    struct bp_lag *lag = &pool->lag;
    uint64_t head = atomic_load(&lag->head);
    int code = 0;
    for (uint64_t at = head > lag->length ? head - lag->length : 0; at < head && code == 0; at++) {
        uint64_t page = atomic_exchange(&lag->slots[at % lag->length], 0);
        if (page != 0) {
            add(pool, batch, page - 1);
        }
        if (batch->count == BP_LAG_BATCH) {
            code = zap(pool, batch, left);
        }
    }
    return code < 0 ? code : zap(pool, batch, left);
}

/* What no slot names; and waits for what others are zapping. */
static int settle_words(bufpool_pool *pool, struct batch *batch, uint64_t *left)
{
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    int code = 0;
    for (uint64_t page = 0; page < high && code == 0 && atomic_load(&pool->lag.lagging) > 0; page++) {
        for (int patience = 0; patience < PATIENCE; patience++) {
            uint16_t word = bp_pages_load(&pool->pages, page);
            if (word == BP_LAGGING) {
                add(pool, batch, page);
            }
            if (!bp_state_lags(word) || word == BP_LAGGING) {
                break;
            }
            code = code < 0 ? code : zap(pool, batch, left); /* who waits holds nothing */
            bp_kernel_sleep_ns(10000);
        }
        if (batch->count == BP_LAG_BATCH) {
            code = zap(pool, batch, left);
        }
    }
    return code < 0 ? code : zap(pool, batch, left);
}

int bp_lag_settle(bufpool_pool *pool, uint64_t *left)
{
    struct batch batch = {.count = 0};
    uint64_t first = BP_NO_PAGE;
    int code = 0;
    if (pool->lag.length > 0 && atomic_load(&pool->lag.lagging) > 0) {
        atomic_store(&pool->lag.missed, false);
        code = settle_ring(pool, &batch, &first);
        code = code < 0 ? code : settle_words(pool, &batch, &first);
    }
    if (left != NULL) {
        *left = first;
    }
    return code;
}

/* ---- The ring ---- */

/* A slot from `from` on was found in use: its page, and those of the quarter behind it, are the oldest. */
static void drain(bufpool_pool *pool, uint64_t page, uint64_t from)
{
    struct bp_lag *lag = &pool->lag;
    struct batch batch = {.count = 0};
    uint64_t quarter = lag->length / 4 < BP_LAG_BATCH ? lag->length / 4 : BP_LAG_BATCH;
    uint64_t left;
    add(pool, &batch, page);
    for (uint64_t at = from + 1; at < from + quarter; at++) {
        uint64_t next = atomic_exchange(&lag->slots[at % lag->length], 0);
        if (next != 0) {
            add(pool, &batch, next - 1);
        }
    }
    bool retry = atomic_load(&lag->missed);
    if (zap(pool, &batch, &left) == 0 && retry) {
        bp_lag_settle(pool, NULL); /* the kernel does it again: now what it has refused before */
    }
}

static void push(bufpool_pool *pool, uint64_t page)
{
    struct bp_lag *lag = &pool->lag;
    uint64_t at = atomic_fetch_add(&lag->head, 1);
    uint64_t before = atomic_exchange(&lag->slots[at % lag->length], page + 1);
    if (before != 0) {
        drain(pool, before - 1, at);
    }
}

void bp_lag_put_back(bufpool_pool *pool, uint64_t page)
{
    atomic_fetch_add_explicit(&pool->lag.lagging, 1, memory_order_relaxed);
    bp_pages_settle(&pool->pages, page, BP_LAGGING);
    push(pool, page);
}

void bp_lag_begin(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    atomic_fetch_add_explicit(&bp_pages_stripe(&pool->pages)->frees, count, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        bp_lag_put_back(pool, pages[i]);
    }
}

uint64_t bp_lag_take(bufpool_pool *pool)
{
    struct bp_lag *lag = &pool->lag;
    if (atomic_load_explicit(&lag->lagging, memory_order_relaxed) == 0) {
        return BP_NO_PAGE;
    }
    uint64_t head = atomic_load(&lag->head);
    uint64_t from =
        atomic_load_explicit(&lag->tail, memory_order_relaxed); /* a hint, that another thread may set back */
    if (from > head || head - from > lag->length) {
        from = head > lag->length ? head - lag->length : 0;
    }
    for (uint64_t at = from; at < head; at++) {
        _Atomic uint64_t *slot = &lag->slots[at % lag->length];
        uint64_t page = atomic_load_explicit(slot, memory_order_relaxed) == 0 ? 0 : atomic_exchange(slot, 0);
        if (page != 0 && bp_lag_claim(pool, page - 1)) {
            atomic_store_explicit(&lag->tail, at + 1, memory_order_relaxed);
            return page - 1;
        }
    }
    atomic_store_explicit(&lag->tail, head, memory_order_relaxed);
    return BP_NO_PAGE;
}

uint64_t bp_lag_find(bufpool_pool *pool)
{
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    for (uint64_t page = 0; page < high && atomic_load(&pool->lag.lagging) > 0; page++) {
        if (bp_pages_load(&pool->pages, page) == BP_LAGGING && bp_lag_claim(pool, page)) {
            return page;
        }
    }
    return BP_NO_PAGE;
}
