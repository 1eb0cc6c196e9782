/* query.c: looking at a pool: addresses, states, statistics, past faults, callback. */
#include "config.h"
#include "diagnose.h"
#include "error.h"
#include "guard.h"
#include "pool.h"
#include "recover.h"
#include "roster.h"
#include "thread.h"

#include <stdio.h>
#include <string.h>

#define NO_POOL "pool is NULL: pass the pool that bufpool_open() gave"
#define GIVEN_BACK "this pool is closed and its range was given back"

void *bufpool_address(const bufpool_pool *pool, uint64_t page)
{
    if (pool == NULL || atomic_load(&pool->first) == 0 || page >= pool->capacity / pool->page_size) {
        return NULL;
    }
    return (void *)bp_page_address(pool, page);
}

int bufpool_page_state(const bufpool_pool *pool, uint64_t page, bufpool_state *state)
{
    if (pool == NULL || state == NULL || pool->page_size == 0 || page >= pool->capacity / pool->page_size) {
        return BUFPOOL_EARGUMENT; /* without a sentence: this function is async-signal-safe */
    }
    bufpool_pool *visited = (bufpool_pool *)pool; /* counting visitors changes nothing that a caller sees */
    bufpool_state seen = BUFPOOL_STATE_CLOSED;
    if (bp_pool_visit(visited)) {
        if (!bp_pool_is_closed(pool)) {
            seen = bp_state_seen(bp_pages_load(&pool->pages, page));
        }
        bp_pool_leave(visited);
    }
    *state = seen;
    return 0;
}

#define BATCH 64

int bufpool_list(bufpool_pool *pool, bufpool_state state, uint64_t from, size_t count, uint64_t *pages, size_t *found)
{
    if (found == NULL || (count > 0 && pages == NULL)) {
        return bp_error(BUFPOOL_EARGUMENT, "found or pages is NULL: pass room for %zu numbers and for their count",
                        count);
    }
    size_t listed = 0;
    size_t used;
    do {
        uint64_t batch[BATCH];
        int code = bp_pool_enter(pool);
        if (code < 0) {
            return code;
        }
        uint64_t high = atomic_load(&pool->pages.counts->high_water);
        high = high < pool->pages.count ? high : pool->pages.count; /* a peer may have ruined it */
        for (used = 0; from < high && used < BATCH && listed + used < count; from++) {
            if (bp_state_seen(bp_pages_load(&pool->pages, from)) == state) {
                batch[used++] = from;
            }
        }
        bp_pool_leave(pool);
        /* Not inside the pool: a stray access to the caller's memory may leave by longjmp. */
        for (size_t i = 0; i < used; i++) {
            pages[listed++] = batch[i];
        }
    } while (used == BATCH);
    *found = listed;
    return 0;
}

int bufpool_locate(const void *address, bufpool_location *location)
{
    bufpool_pool *pool = bp_pool_at((uintptr_t)address);
    if (pool == NULL || location == NULL) {
        return BUFPOOL_EARGUMENT; /* without a sentence: this function is async-signal-safe */
    }
    uint64_t page = bp_page_at(pool, (uintptr_t)address);
    bufpool_location full = {sizeof full, pool, page, (uintptr_t)address - bp_page_address(pool, page)};
    size_t size = location->size == 0 || location->size > sizeof full ? sizeof full : location->size;
    memcpy(location, &full, size);
    location->size = size;
    return 0;
}

static void fill_in_ways(bufpool_statistics *statistics, const struct bp_space *space, bool closed)
{
    uint32_t set = closed ? 0 : space->trap->ways(space);
    uint32_t fills = BP_WAY(BUFPOOL_WAY_MOVE_OUT) - 1;
    bp_ways_text(set & fills, statistics->fill_ways, sizeof statistics->fill_ways);
    bp_ways_text(set & ~fills, statistics->zap_ways, sizeof statistics->zap_ways);
    for (int way = 0; way < BUFPOOL_WAYS; way++) {
        statistics->ways[way] = atomic_load(&space->ways.granules[way]);
    }
    statistics->ways_busy = atomic_load(&space->ways.busy);
    statistics->ways_memory = atomic_load(&space->ways.memory);
    statistics->ways_refused = atomic_load(&space->ways.refused);
}

int bufpool_stats(const bufpool_pool *pool, bufpool_statistics *statistics)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, NO_POOL);
    }
    if (statistics == NULL || statistics->size == 0) {
        return bp_error(BUFPOOL_EARGUMENT, "statistics is NULL or its size is 0: set it to BUFPOOL_STATISTICS_INIT");
    }
    bufpool_pool *visited = (bufpool_pool *)pool;
    if (!bp_pool_visit(visited)) {
        return bp_error(BUFPOOL_ECLOSED, GIVEN_BACK);
    }
    bool closed = atomic_load(&pool->closed);
    if (bp_pool_has_frames(pool)) {
        bp_recover(visited); /* so that killed processes are not counted, and their calls are */
    }
    uint64_t frees =
        BP_COUNT(pool->pages.counts, frees); /* read before allocations, so that the difference is never negative */
    uint64_t evicted = closed ? 0 : bp_counts_evicted(pool->pages.counts);
    uint64_t allocations = BP_COUNT(pool->pages.counts, allocations);
    uint64_t unpins = atomic_load(&pool->pins.taken); /* first, for the same reason */
    uint64_t pins = atomic_load(&pool->pins.given);
    uint64_t resting = atomic_load(&pool->pages.counts->resting); /* a peer may have ruined it */
    bufpool_statistics full = {
        .size = sizeof full,
        .capacity = pool->capacity,
        .page_size = pool->page_size,
        .granule = pool->space.granule,
        .address = bp_page_address(pool, 0),
        .red_zone = pool->lead,
        .pages = pool->capacity / pool->page_size,
        .allocated = closed || allocations < frees + evicted ? 0 : allocations - frees - evicted,
        .evicted = evicted,
        .scratched = atomic_load(&pool->scratched),
        .high_water = atomic_load(&pool->pages.counts->high_water),
        .allocations = allocations,
        .frees = frees,
        .evictions = BP_COUNT(pool->pages.counts, evictions),
        .populates = BP_COUNT(pool->pages.counts, populates),
        .faults = atomic_load(&pool->faults),
        .repeats = atomic_load(&pool->repeats),
        .scratch_maps = atomic_load(&pool->scratch_maps),
        .scratch_ns = atomic_load(&pool->scratch_ns),
        .reports_lost = atomic_load(&pool->reports_lost),
        .frames_kept = closed ? 0 : bp_stash_count(&pool->space.stash),
        .recycled = atomic_load(&pool->space.ways.granules[BUFPOOL_WAY_MOVE]),
        .huge_fills = atomic_load(&pool->space.huge_fills),
        .staged = closed ? 0 : atomic_load(&pool->space.staging.staged),
        .frames_moved = atomic_load(&pool->space.staging.moved),
        .frames_copied = atomic_load(&pool->space.staging.copied),
        .pages_read = atomic_load(&pool->pages_read),
        .pages_written = atomic_load(&pool->pages_written),
        .io_requests = atomic_load(&pool->io_requests),
        .io_queued = atomic_load(&pool->io_queued),
        .small_fills = atomic_load(&pool->space.small_fills),
        .reserve_lost = atomic_load(&pool->space.reserve_lost),
        .provenance_lost = atomic_load(&pool->provenance.counts->lost),
        .restarts = atomic_load(&pool->restarts),
        .reports_limited = atomic_load(&pool->reports_limited),
        .sample = pool->pins.sample.one_in,
        .seed = pool->pins.sample.seed,
        .sampled = atomic_load(&pool->pins.sample.chosen),
        .clean = closed ? 0 : atomic_load(&pool->audit.clean),
        .pins = closed || unpins > pins ? 0 : pins - unpins,
        .pin_operations = pins + unpins,
        .members = closed ? 0 : bp_roster_count(&pool->pages),
        .lagging = closed ? 0 : atomic_load(&pool->lag.lagging),
        .lag_reused = atomic_load(&pool->lag.reused),
        .quarantined = closed                              ? 0
                       : resting < pool->pages.rest.length ? resting
                                                           : pool->pages.rest.length,
    };
    full.faults_all = atomic_load(&pool->pages.counts->faults);
    full.faults_all = full.faults_all > full.faults ? full.faults_all : full.faults; /* of private tables, or closed */
    memcpy(full.name, pool->name, sizeof full.name);
    memcpy(full.memory, pool->memory, sizeof full.memory);
    snprintf(full.trap, sizeof full.trap, "%s", pool->space.trap->name);
    snprintf(full.on_fault, sizeof full.on_fault, "%s", bp_policy_name(pool->policy));
    snprintf(full.backing, sizeof full.backing, "%s", bp_space_backing(&pool->space));
    memcpy(full.trap_note, pool->trap_note, sizeof full.trap_note);
    snprintf(full.provenance, sizeof full.provenance, "%s",
             bp_provenance_name((enum bp_provenance_mode)pool->provenance.mode));
    memcpy(full.memory_note, pool->space.note, sizeof full.memory_note);
    snprintf(full.pins_mode, sizeof full.pins_mode, "%s", bp_pins_name(pool->pins.mode));
    snprintf(full.audit, sizeof full.audit, "%s", bp_audit_name(pool->audit.mode));
    fill_in_ways(&full, &pool->space, closed);
    bp_pool_leave(visited);
    size_t size = statistics->size < sizeof full ? statistics->size : sizeof full;
    memcpy(statistics, &full, size);
    statistics->size = size;
    return 0;
}

/* Reads one of a page's two histories, both ends of it. */
static int read_history(const bufpool_pool *pool, uint64_t page,
                        void (*read)(const struct bp_provenance *, uint64_t, bufpool_origin *, bufpool_origin *),
                        bufpool_origin *begun, bufpool_origin *ended)
{
    if (pool == NULL || pool->page_size == 0 || page >= pool->capacity / pool->page_size) {
        return BUFPOOL_EARGUMENT; /* without a sentence: this function is async-signal-safe */
    }
    bufpool_origin first;
    bufpool_origin last;
    bufpool_pool *visited = (bufpool_pool *)pool;
    if (!bp_pool_visit(visited)) {
        return BUFPOOL_ECLOSED;
    }
    read(&pool->provenance, page, &first, &last);
    bp_pool_leave(visited);
    /* Not inside the pool: a stray access to the caller's memory may leave by longjmp. */
    if (begun != NULL) {
        *begun = first;
    }
    if (ended != NULL) {
        *ended = last;
    }
    return 0;
}

int bufpool_page_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *allocated, bufpool_origin *freed)
{
    return read_history(pool, page, bp_provenance_read, allocated, freed);
}

int bufpool_pin_history(const bufpool_pool *pool, uint64_t page, bufpool_origin *pinned, bufpool_origin *unpinned)
{
    return read_history(pool, page, bp_provenance_read_pins, pinned, unpinned);
}

int bufpool_set_fault_callback(bufpool_pool *pool, bufpool_fault_callback callback, void *context)
{
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    /* In this order a handler never sees the new function with the old context. */
    atomic_store(&pool->callback, (bufpool_fault_callback)NULL);
    atomic_store(&pool->callback_context, context);
    atomic_store(&pool->callback, callback);
    bp_pool_leave(pool);
    return 0;
}

/* The number of the fault that is there; 0: never written, or being written. */
static uint64_t read_ring(struct bp_ring_entry *entry, bufpool_fault *fault)
{
    uint64_t serial = atomic_load(&entry->serial);
    for (size_t i = 0; i < BP_FAULT_WORDS; i++) {
        uint64_t word = atomic_load_explicit(&entry->fault[i], memory_order_acquire); /* so that serial is read last */
        memcpy((char *)fault + i * 8, &word, 8);
    }
    uint64_t number = atomic_load(&entry->number);
    return serial % 2 == 0 && atomic_load(&entry->serial) == serial ? number : 0;
}

/* The n-th fault of the pool. One that is still being written, or whose place still has the fault of a lap before, is waited
 * for: those behind it would make the caller pass it over. But not for ever: it may have been lost. 1; 0, also where its place
 * has one of a later lap; or an error. */
static int read_fault(bufpool_pool *pool, uint64_t n, bufpool_fault *fault)
{
    for (int patience = 0; patience < 10000; patience++) { /* a second: the writer may have lost the processor */
        if (!bp_pool_visit(pool)) {
            return bp_error(BUFPOOL_ECLOSED, GIVEN_BACK);
        }
        uint64_t number = read_ring(&pool->ring[n % BP_FAULT_RING], fault);
        bp_pool_leave(pool);
        if (number > n) {
            return number == n + 1;
        }
        bp_kernel_sleep_ns(100000);
    }
    return 0;
}

int bufpool_faults(const bufpool_pool *pool, uint64_t after, size_t count, bufpool_fault *faults, size_t *found)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, NO_POOL);
    }
    if (found == NULL || (count > 0 && faults == NULL)) {
        return bp_error(BUFPOOL_EARGUMENT, "found or faults is NULL: pass room for %zu faults and for their count",
                        count);
    }
    if (atomic_load(&pool->first) == 0) {
        return bp_error(BUFPOOL_ECLOSED, GIVEN_BACK);
    }
    size_t copied = 0;
    uint64_t total = atomic_load(&pool->faults);
    for (uint64_t n = total > BP_FAULT_RING ? total - BP_FAULT_RING : 0; n < total && copied < count; n++) {
        bufpool_fault fault;
        int code = read_fault((bufpool_pool *)pool, n, &fault); /* counting visitors changes nothing to see */
        if (code < 0) {
            return code;
        }
        /* Not inside the pool: a stray access to the caller's memory may leave by longjmp. */
        if (code > 0 && fault.sequence > after) {
            bp_fault_copy(&faults[copied++], &fault);
        }
    }
    *found = copied;
    return 0;
}
