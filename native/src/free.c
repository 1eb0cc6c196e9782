/*
 * free.c: taking frames away: free, evict, and their batches.
 *
 * Every page of a batch is checked and claimed first (BUSY over its state, with what is being done), and the whole
 * batch is refused if one does not fit; a number that comes twice is found BUSY the second time. Then the frames go,
 * with as few requests as the kernel allows.
 */
#include "error.h"
#include "fillers.h"
#include "keys.h"
#include "numbers.h"
#include "pool.h"
#include "probe.h"
#include "recover.h"
#include "rest.h"
#include "scratch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RANGES 512 /* on the stack: 8 KiB */

/* ": it was freed by thread 17 "worker" of process 16", where that is recorded; else "". */
static const char *first_free(const bufpool_pool *pool, uint64_t page, char *text, size_t size)
{
    bufpool_origin given;
    bufpool_origin taken;
    bp_provenance_read(&pool->provenance, page, &given, &taken);
    text[0] = 0;
    if (taken.sequence != 0 && taken.event == BUFPOOL_EVENT_FREE) {
        snprintf(text, size, ": it was freed by thread %d \"%s\" of process %d%s%s", (int)taken.thread_id,
                 taken.thread_name, (int)taken.pid, taken.caller[0] != 0 ? ": " : "", taken.caller);
    }
    return text;
}

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
        char by_whom[640];
        return bp_error(BUFPOOL_ESTATE, "double free of page %llu of pool \"%s\"%s", number, pool->name,
                        first_free(pool, page, by_whom, sizeof by_whom));
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
        int code = bp_pins_hold(pool, &pool->pins, page, evict ? "evict" : "free");
        if (code == -EBUSY) {
            continue;
        }
        if (code < 0 || bp_pages_claim(&pool->pages, page, state, evict ? BP_EVICTING : BP_FREEING)) {
            return code;
        }
        bp_pins_release(pool, &pool->pins, page);
    }
    return refuse(pool, page, bp_pages_load(&pool->pages, page), evict);
}

static void unclaim(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        /* The pins last: who pins a page that stays waits for them, and does not find it BUSY. */
        bool held = bp_pins_counts(&pool->pins, pages[i]);
        bp_pages_settle(&pool->pages, pages[i], bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK);
        if (held) {
            bp_pins_settle(pool, pages[i]);
        }
    }
}

/* Counts while the pages are BUSY, as fill.c does. */
static void settle(bufpool_pool *pool, const uint64_t *pages, size_t count, bool evict)
{
    struct bp_counts *counts = pool->pages.counts;
    uint64_t was_evicted = 0;
    for (size_t i = 0; i < count && !evict; i++) {
        was_evicted += (bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED;
        if (pool->pages.rest.length > 0) {
            bp_rest_begin(&pool->pages, pages[i]);
        } else {
            bp_pages_mark_free(&pool->pages, pages[i]);
        }
    }
    atomic_fetch_add_explicit(evict ? &counts->evictions : &counts->frees, count, memory_order_relaxed);
    BP_STORED("frees counted");
    if (evict || was_evicted > 0) {
        atomic_fetch_add_explicit(&counts->evicted, evict ? count : 0 - was_evicted, memory_order_relaxed);
        BP_STORED("evicted counted");
    }
    for (size_t i = 0; i < count; i++) {
        bp_audit_forget(pool, &pool->audit, pages[i]);
        bp_pins_release(pool, &pool->pins, pages[i]);
        bp_pages_settle(&pool->pages, pages[i], evict ? BUFPOOL_STATE_EVICTED : BUFPOOL_STATE_FREED);
        if (!evict) {
            bp_rest_end(&pool->pages, pages[i]); /* by a later one of this batch, or meanwhile by another thread's */
        }
    }
}

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
        int code = claim(pool, pages[i], evict);
        if (code < 0) {
            unclaim(pool, pages, i);
            return code;
        }
    }
    bp_record(&pool->provenance, pages, count, evict ? BUFPOOL_EVENT_EVICT : BUFPOOL_EVENT_FREE, caller);
    if (pool->scrubbed != NULL) {
        scrub(pool, pages, count);
    }
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
