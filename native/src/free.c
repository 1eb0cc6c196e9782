/*
 * free.c: taking frames away: free, evict, and their batches.
 *
 * Every page of a batch is checked and claimed first (BUSY over its state, with what is being done), and the whole
 * batch is refused if one does not fit; a number that comes twice is found BUSY the second time. Then the frames go,
 * with as few requests as the kernel allows; or stay, to lag (lag.h).
 */
#include "claim.h"
#include "error.h"
#include "fillers.h"
#include "keys.h"
#include "numbers.h"
#include "pool.h"
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RANGES 512 /* on the stack: 8 KiB */

static bool has_frame(const bufpool_pool *pool, uint64_t page)
{
    return (bp_pages_load(&pool->pages, page) & BP_STATE_MASK) == BUFPOOL_STATE_ALLOCATED;
}

#define SHOWN_AGAIN 100 /* times in a row, at one place: the kernel does not take a page away that fast */

/* Overwrites a page that is open, but perhaps unmapped by the kernel: then it is shown again. It is BUSY, so that no handler
 * does that. A page of which a frame was taken past us is left as it is. */
static void scrub_page(bufpool_pool *pool, uintptr_t address)
{
    struct bp_space *space = &pool->space;
    int shown = 0;
    for (size_t at = 0; at < pool->page_size;) {
        size_t step = pool->page_size - at < BP_FILL_SIZE ? pool->page_size - at : BP_FILL_SIZE;
        if (bp_probe_copy((char *)address + at, pool->scrubbed, step)) {
            at += step;
            shown = 0;
        } else if (!bp_space_forgets(space) || ++shown > SHOWN_AGAIN ||
                   bp_space_protect(space, address, pool->page_size, BP_OPEN_NONE, BP_OPEN_WRITE) < 0) {
            return;
        }
    }
}

static void scrub(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    struct bp_space *space = &pool->space;
    bool closed = space->unpinned != BP_OPEN_WRITE;
    if (space->key > 0) {
        bp_keys_lend(pool);
    }
    for (size_t i = 0; i < count; i++) {
        uintptr_t address = bp_page_address(pool, pages[i]);
        bool open = has_frame(pool, pages[i]) &&
                    (!closed || bp_space_protect(space, address, pool->page_size, space->unpinned, BP_OPEN_WRITE) == 0);
        if (open) {
            scrub_page(pool, address);
        }
        if (open && closed) {
            bp_space_protect(space, address, pool->page_size, BP_OPEN_WRITE, space->unpinned);
        }
    }
    if (space->key > 0) {
        bp_keys_follow(pool);
    }
}

/* Pages at the end of a batch that may lag: as many as the ring has room for, and what comes before them is zapped. */
static size_t lagging_from(const bufpool_pool *pool, size_t count, bool evict)
{
    uint64_t length = evict ? 0 : pool->lag.length;
    return count > length ? count - (size_t)length : 0;
}

/* Frees claimed pages: those that have frames begin to lag. */
static void let_lag(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count;) {
        size_t end = i + 1;
        bool framed = has_frame(pool, pages[i]);
        while (end < count && has_frame(pool, pages[end]) == framed) {
            end++;
        }
        if (framed) {
            bp_lag_begin(pool, pages + i, end - i);
        } else {
            bp_claim_settle_taken(pool, pages + i, end - i, false);
        }
        i = end;
    }
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
                while (pool->lead == 0 && next < count && pages[next] == pages[next - 1] + 1 &&
                       has_frame(pool, pages[next])) {
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
        int code = bp_claim_frame(pool, pages[i], evict ? BP_EVICTING : BP_FREEING, evict ? "evict" : "free");
        if (code < 0) {
            bp_claim_drop_frames(pool, pages, i);
            return code;
        }
    }
    bp_record(&pool->provenance, pages, count, evict ? BUFPOOL_EVENT_EVICT : BUFPOOL_EVENT_FREE, caller);
    if (pool->scrubbed != NULL) {
        scrub(pool, pages, count);
    }
    int code;
    size_t old = lagging_from(pool, count, evict);
    size_t done = zap(pool, pages, old, &code);
    bp_claim_settle_taken(pool, pages, done, evict);
    if (code == 0 && old < count) {
        let_lag(pool, pages + old, count - old);
        return 0;
    }
    bp_record_failed(&pool->provenance, pages + done, count - done);
    bp_claim_drop_frames(pool, pages + done, count - done);
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
    int code = bp_pool_enter_batch(pool, &numbers, count, pages);
    if (code == 0) {
        code = take_away(pool, count, numbers.at, evict, caller);
        bp_pool_leave_batch(pool, &numbers);
    }
    return code;
}

int bufpool_settle(bufpool_pool *pool)
{
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    uint64_t left;
    code = bp_lag_settle(pool, &left);
    bool closed = bp_pool_is_closed(pool); /* meanwhile */
    if (code < 0 && !closed) {
        code = bp_error(
            code, "cannot take the frame of page %llu of pool \"%s\", which lags, by trap %s: %s%s; %llu pages lag on",
            (unsigned long long)left, pool->name, pool->space.trap->name, strerror(-code),
            bp_space_hint(&pool->space, code), (unsigned long long)atomic_load(&pool->lag.lagging));
    }
    code = code < 0 && closed ? bp_pool_closed_error(pool) : code;
    bp_pool_leave(pool);
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
