/*
 * pins_trap.c: what pins mean to an access that has trapped, and in a forked child. Async-signal-safe. See pins.h.
 */
#include "pins.h"
#include "pool.h"

static bool allows(enum bp_open open, bufpool_access access)
{
    return open == BP_OPEN_WRITE || (open == BP_OPEN_READ && access != BUFPOOL_WRITE);
}

bufpool_state bp_pins_judge(const bufpool_pool *pool, uint64_t page, bufpool_access access)
{
    if (pool->space.unpinned == BP_OPEN_WRITE && !bp_sample_has(&pool->pins.sample, page)) {
        return BUFPOOL_STATE_ALLOCATED;
    }
    uint32_t word = atomic_load(&pool->pins.words[page]);
    enum bp_open open = bp_pins_open_as(pool, page, word);
    return allows(open, access) || word & BP_PIN_LOOSE ? BUFPOOL_STATE_ALLOCATED
           : open == BP_OPEN_NONE                      ? BUFPOOL_STATE_UNPINNED
                                                       : BUFPOOL_STATE_READ_ONLY;
}

void bp_pins_read(const bufpool_pool *pool, uint64_t page, uint32_t *reads, uint32_t *writes)
{
    uint32_t word = bp_pins_counts(&pool->pins, page) ? atomic_load(&pool->pins.words[page]) : 0;
    *reads = BP_READS(word);
    *writes = BP_WRITES(word);
}

bool bp_pins_writing(const bufpool_pool *pool, uint64_t page)
{
    uint32_t reads;
    uint32_t writes;
    bp_pins_read(pool, page, &reads, &writes);
    return writes > 0;
}

/* Does a page with data stay in its place while a stray access is at it? Of a sample, and of the program's own mapping. */
static bool stays(const bufpool_pool *pool, uint64_t page)
{
    return pool->space.adopted || bp_sample_has(&pool->pins.sample, page);
}

/* How a page is open just now. */
static enum bp_open open_now(const bufpool_pool *pool, uint64_t page, uint32_t word)
{
    enum bp_open open = bp_pins_open_as(pool, page, word);
    return word & BP_PIN_LOOSE && (open == BP_OPEN_READ || stays(pool, page)) ? BP_OPEN_WRITE : open;
}

bool bp_pins_show_again(bufpool_pool *pool, uint64_t page, uintptr_t address)
{
    uint32_t word;
    if (!bp_space_forgets(&pool->space) || !bp_pins_take(pool, page, 10000, &word)) {
        return false;
    }
    uintptr_t granule = address & ~(uintptr_t)(pool->space.granule - 1);
    enum bp_open open = open_now(pool, page, word);
    /* By now it may be another's, who frees it, or be closed: then there is nothing to show. */
    bool shown = bp_pages_load(&pool->pages, page) == BUFPOOL_STATE_ALLOCATED && open != BP_OPEN_NONE &&
                 bp_space_protect(&pool->space, granule, pool->space.granule, BP_OPEN_NONE, open) == 0;
    bp_pins_put(pool, page, word);
    return shown || open == BP_OPEN_NONE;
}

bool bp_pins_divert(bufpool_pool *pool, uint64_t page, bufpool_access access, uintptr_t granule, bool *loose)
{
    uint32_t word;
    *loose = false;
    if (!bp_pins_take(pool, page, 10000, &word)) {
        return false;
    }
    enum bp_open open = bp_pins_open_as(pool, page, word);
    bool done = true;
    /* Allocated still, and not allowed still? */
    if (bp_pages_load(&pool->pages, page) == BUFPOOL_STATE_ALLOCATED && !allows(open, access)) {
        if (open == BP_OPEN_NONE && !stays(pool, page)) {
            done = bp_space_divert(&pool->space, granule) == 0;
        } else if (!(word & BP_PIN_LOOSE)) {
            done = bp_pins_protect(pool, page, open, BP_OPEN_WRITE) == 0;
        }
        *loose = done && !(word & BP_PIN_LOOSE);
    }
    bp_pins_put(pool, page, *loose ? word | BP_PIN_LOOSE : word);
    return done;
}

bool bp_pins_rearm(bufpool_pool *pool, uint64_t page)
{
    uint32_t word;
    if (!bp_pins_take(pool, page, 100, &word)) {
        return false;
    }
    int code = 0;
    uintptr_t address = bp_page_address(pool, page);
    enum bp_open open = bp_pins_open_as(pool, page, word);
    if (word & BP_PIN_LOOSE) {
        bool pasted = open == BP_OPEN_NONE && !stays(pool, page);
        code = pasted ? bp_space_restore(&pool->space, address, pool->page_size)
                      : bp_pins_protect(pool, page, BP_OPEN_WRITE, open);
    }
    bp_pins_put(pool, page, code == 0 ? word & ~BP_PIN_LOOSE : word);
    return code == 0;
}

/* ---- In a forked child ---- */

int bp_pins_inherit(bufpool_pool *pool)
{
    int code = 0;
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    high = high < pool->pages.count ? high : pool->pages.count;
    bool sampled = pool->pins.sample.one_in != 0;
    if (pool->space.unpinned == BP_OPEN_WRITE && !sampled) {
        return 0;
    }
    for (uint64_t page = 0; page < high && code == 0; page++) {
        if (sampled && !bp_sample_has(&pool->pins.sample, page)) {
            continue;
        }
        uint32_t word = atomic_load_explicit(&pool->pins.words[page], memory_order_relaxed);
        enum bp_open open = bp_pins_open_as(pool, page, word);
        if (open != pool->space.unpinned && bp_pages_load(&pool->pages, page) == BUFPOOL_STATE_ALLOCATED) {
            code = bp_pins_protect(pool, page, pool->space.unpinned, open);
        }
    }
    return code;
}
