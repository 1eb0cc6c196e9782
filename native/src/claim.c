/* claim.c: claiming pages for a call, see claim.h. */
#include "claim.h"

#include "error.h"
#include "recover.h"
#include "rest.h"
#include "scratch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- Holes ---- */

/* The page, which lagged, is claimed with its frame. */
static int claim_lagging(bufpool_pool *pool, uint64_t page, unsigned kinds, const char *what)
{
    int code = kinds & BP_HOLE_LAGGING ? 0 : bp_lag_zap(pool, page);
    if (code < 0) {
        bp_lag_put_back(pool, page);
        code = bp_error(code, "cannot %s page %llu of pool \"%s\": its frame, of free_lag, cannot be taken away: %s%s",
                        what, (unsigned long long)page, pool->name, strerror(-code), bp_space_hint(&pool->space, code));
    }
    return code;
}

int bp_claim_hole(bufpool_pool *pool, uint64_t page, unsigned kinds, const char *what)
{
    int code = bp_pool_check_page(pool, page);
    if (code < 0) {
        return code;
    }
    for (int patience = 0; patience < 1000; patience++) {
        uint16_t state = bp_pages_load(&pool->pages, page);
        bool evicted = (state & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED;
        bool fits = evicted ? kinds & BP_HOLE_EVICTED : kinds & BP_HOLE_FREE && bp_state_is_free(state & BP_STATE_MASK);
        if (fits && state & BP_SCRATCH) {
            bp_scratch_await(pool, page, state, patience);
            continue;
        }
        if (state & BP_BUSY && (!fits || patience % 50 == 0) && bp_recover_page(pool, page)) {
            continue;
        }
        if (fits && state & BP_BUSY && patience < 500) {
            bp_kernel_sleep_ns(10000);
            continue;
        }
        if (!fits || state & BP_BUSY) {
            const char *busy = state & BP_BUSY ? ", and another thread is changing it" : "";
            return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": it is %s%s", what,
                            (unsigned long long)page, pool->name,
                            bufpool_state_name((bufpool_state)(state & BP_STATE_MASK)), busy);
        }
        if (bp_lag_is(&pool->lag, state)) {
            if (bp_lag_claim(pool, page)) {
                return claim_lagging(pool, page, kinds, what);
            }
            continue;
        }
        if (bp_pages_claim(&pool->pages, page, state, 0)) {
            if (!evicted) {
                bp_pages_mark_taken(&pool->pages, page);
                bp_rest_leave(&pool->pages, page);
            }
            return 0;
        }
    }
    return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": its scratch granule cannot be re-armed", what,
                    (unsigned long long)page, pool->name);
}

void bp_claim_drop_holes(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t word = bp_pages_load(&pool->pages, pages[i]);
        /* It lags no more: who settles meanwhile has not seen it. */
        if (bp_lag_has(&pool->lag, word) && bp_lag_zap(pool, pages[i]) < 0) {
            bp_lag_put_back(pool, pages[i]);
            continue;
        }
        uint16_t before = word & BP_STATE_MASK;
        if (bp_state_is_free(before)) {
            bp_pages_mark_free(&pool->pages, pages[i]);
        }
        bp_pages_settle(&pool->pages, pages[i], before);
    }
}

/* ---- Frames ---- */

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

static int refuse(const bufpool_pool *pool, uint64_t page, uint16_t state, uint16_t flag, const char *what)
{
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
    if ((state & BP_STATE_MASK) == BUFPOOL_STATE_FREED && flag == BP_FREEING) {
        char by_whom[640];
        return bp_error(BUFPOOL_ESTATE, "double free of page %llu of pool \"%s\"%s", number, pool->name,
                        first_free(pool, page, by_whom, sizeof by_whom));
    }
    return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": it is %s, and only allocated%s pages can be",
                    what, number, pool->name, is, flag == BP_FREEING ? " and evicted" : "");
}

int bp_claim_frame(bufpool_pool *pool, uint64_t page, uint16_t flag, const char *what)
{
    bool evict = flag == BP_EVICTING;
    int code = bp_pool_check_page(pool, page);
    if (code < 0) {
        return code;
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
            return refuse(pool, page, state, flag, what);
        }
        code = bp_pins_hold(pool, &pool->pins, page, what);
        if (code == -EBUSY) {
            continue;
        }
        if (code < 0 || bp_pages_claim(&pool->pages, page, state, flag)) {
            return code;
        }
        bp_pins_release(pool, &pool->pins, page);
    }
    return refuse(pool, page, bp_pages_load(&pool->pages, page), flag, what);
}

void bp_claim_drop_frames(bufpool_pool *pool, const uint64_t *pages, size_t count)
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
void bp_claim_settle_taken(bufpool_pool *pool, const uint64_t *pages, size_t count, bool evict)
{
    struct bp_stripe *counts = bp_pages_stripe(&pool->pages);
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
