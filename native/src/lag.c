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
    int code;      /* the first that the kernel has refused, */
    uint64_t left; /* and a page of it */
};

#define BATCH_INIT {.count = 0, .code = 0, .left = BP_NO_PAGE}

static void add(bufpool_pool *pool, struct batch *batch, uint64_t page)
{
    if (page < pool->pages.count && bp_pages_claim(&pool->pages, page, BP_LAGGING, 0)) {
        batch->pages[batch->count++] = page;
    }
}

/* Zaps them with one request for each run of neighbours, or for all, as the trap has it. */
static void zap(bufpool_pool *pool, struct batch *batch)
{
    struct bp_range ranges[BP_LAG_BATCH];
    size_t ends[BP_LAG_BATCH];
    size_t used = 0;
    for (size_t i = 0; i < batch->count; used++) {
        size_t end = pool->lead > 0 ? i + 1 : bp_numbers_run(batch->pages, batch->count, i);
        ranges[used] = (struct bp_range){bp_page_address(pool, batch->pages[i]), (end - i) * pool->page_size};
        ends[used] = i = end;
    }
    for (size_t from = 0; from < used;) {
        size_t zapped = 0;
        int code = bp_space_zap(&pool->space, ranges + from, used - from, &zapped);
        size_t end = code == 0 ? used : from + zapped;
        size_t page = from == 0 ? 0 : ends[from - 1];
        for (; end > 0 && page < ends[end - 1]; page++) {
            settle_free(pool, batch->pages[page]);
        }
        if (code < 0 && batch->code == 0) {
            batch->code = code;
            batch->left = batch->pages[page < batch->count ? page : batch->count - 1];
        }
        if (end < used) { /* what is refused lags on; what is behind it need not */
            for (; page < ends[end]; page++) {
                bp_pages_settle(&pool->pages, batch->pages[page], BP_LAGGING);
            }
            atomic_store(&pool->lag.missed, true);
            end++;
        }
        from = end;
    }
    batch->count = 0;
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

#define LONG 65536 /* slots or pages: nobody waits longer for a page of the batch */

/* What the slots name, those that were ever used. */
static void settle_ring(bufpool_pool *pool, struct batch *batch)
{
    struct bp_lag *lag = &pool->lag;
    uint64_t head = atomic_load(&lag->head);
    for (uint64_t at = head > lag->length ? head - lag->length : 0; at < head; at++) {
        uint64_t page = atomic_exchange(&lag->slots[at % lag->length], 0);
        if (page != 0) {
            add(pool, batch, page - 1);
        }
        if (batch->count == BP_LAG_BATCH || at % LONG == 0) {
            zap(pool, batch);
        }
    }
    zap(pool, batch);
}

/* What no slot names; and waits for what others are zapping. */
static void settle_words(bufpool_pool *pool, struct batch *batch)
{
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    for (uint64_t page = 0; page < high && atomic_load(&pool->lag.lagging) > 0; page++) {
        for (int patience = 0; patience < PATIENCE; patience++) {
            uint16_t word = bp_pages_load(&pool->pages, page);
            if (word == BP_LAGGING) {
                add(pool, batch, page);
            }
            if (!bp_state_lags(word) || word == BP_LAGGING) {
                break;
            }
            zap(pool, batch); /* who waits holds nothing */
            bp_kernel_sleep_ns(10000);
        }
        if (batch->count == BP_LAG_BATCH || page % LONG == 0) {
            zap(pool, batch);
        }
    }
    zap(pool, batch);
}

int bp_lag_settle(bufpool_pool *pool, uint64_t *left)
{
    struct batch batch = BATCH_INIT;
    if (pool->lag.length > 0 && atomic_load(&pool->lag.lagging) > 0) {
        atomic_store(&pool->lag.missed, false);
        settle_ring(pool, &batch);
        batch.code = 0; /* what was refused lags on: it is tried once more */
        settle_words(pool, &batch);
    }
    if (left != NULL) {
        *left = batch.left;
    }
    return batch.code;
}

/* ---- The ring ---- */

/* A slot from `from` on was found in use: its page, and those of the quarter behind it, are the oldest. */
static void drain(bufpool_pool *pool, uint64_t page, uint64_t from)
{
    struct bp_lag *lag = &pool->lag;
    struct batch batch = BATCH_INIT;
    uint64_t quarter = lag->length / 4 < BP_LAG_BATCH ? lag->length / 4 : BP_LAG_BATCH;
    add(pool, &batch, page);
    for (uint64_t at = from + 1; at < from + quarter; at++) {
        uint64_t next = atomic_exchange(&lag->slots[at % lag->length], 0);
        if (next != 0) {
            add(pool, &batch, next - 1);
        }
    }
    zap(pool, &batch);
    uint64_t last = atomic_load_explicit(&lag->retried, memory_order_relaxed);
    if (batch.code == 0 && atomic_load(&lag->missed) && from - last >= lag->length &&
        atomic_compare_exchange_strong(&lag->retried, &last, from)) {
        bp_lag_settle(pool, NULL); /* the kernel does it again: now what it has refused before, once a round */
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
