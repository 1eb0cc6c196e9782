/* scratch.c: diverting stray accesses and re-arming, see scratch.h. */
#include "scratch.h"

#include "chain.h"
#include "fillers.h"
#include "recover.h"
#include "rest.h"
#include "roster.h"
#include "thread.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define CHANGING 1
#define RETRIES 16 /* of an access to a page that is allocated */
#define SLOT(page) ((page) + 2)

static bool is_ours(const bufpool_pool *pool)
{
    return pool->process == bp_process();
}

/* Takes back what paste() put over a granule: a closed pool's range is inaccessible, in a forked child there is none.
 */
static bool unpaste(const bufpool_pool *pool, uint64_t granule)
{
    void *address = (void *)(pool->space.base + granule * BP_GRANULE);
    if (!is_ours(pool) && !pool->heritage.sealed) {
        return bp_kernel_munmap(address, BP_GRANULE) == 0;
    }
    void *same;
    size_t size = pool->space.granule; /* whole, as divert_pasted() may have had to take it whole */
    address = (void *)((uintptr_t)address & ~(uintptr_t)(size - 1));
    return bp_kernel_mmap(address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                          &same) == 0;
}

/* The pool was closed by the process that it was inherited from: what is diverted here becomes inaccessible. */
static bool seal_page(const bufpool_pool *pool, uint64_t page)
{
    void *same;
    if (pool->space.adopted) { /* the program has it back */
        return true;
    }
    return bp_kernel_mmap((void *)bp_page_address(pool, page), pool->page_size, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, &same) == 0;
}

/* The slot is CHANGING, and what it stood for is gone. */
static void clear_slot(bufpool_pool *pool, struct bp_scratch_slot *slot)
{
    int64_t shown = bp_kernel_monotonic_ns() - atomic_load(&slot->since_ns);
    atomic_fetch_add_explicit(&pool->scratch_ns, (uint64_t)shown, memory_order_relaxed);
    atomic_fetch_sub(&pool->scratched, 1);
    atomic_store(&slot->page, 0);
}

/* Takes the pattern away and clears the slot, which the caller has set to CHANGING. */
static bool rearm_changing(bufpool_pool *pool, struct bp_scratch_slot *slot, uint64_t page)
{
    bool done = false;
    if (atomic_load(&slot->pasted)) {
        done = unpaste(pool, page);
    } else if (!bp_pool_has_frames(pool)) {
        done = !is_ours(pool) || seal_page(pool, page); /* of a fork's parent nothing is mapped here */
    } else if (atomic_load(&slot->pinned)) {
        done = bp_pins_rearm(pool, page);
    } else {
        uint16_t state = bp_pages_load(&pool->pages, page);
        if (state & BP_SCRATCH && !(state & BP_BUSY) && bp_pages_claim(&pool->pages, page, state, 0)) {
            done = bp_space_restore(&pool->space, bp_page_address(pool, page), pool->page_size) == 0;
            state &= (uint16_t)~(done && bp_roster_hide(&pool->pages, (size_t)(slot - pool->scratch), page) ? BP_SCRATCH
                                                                                                            : 0u);
            if (!bp_rest_is_taken(&pool->pages, page, state)) {
                bp_pages_mark_free(&pool->pages, page);
            }
            bp_pages_settle(&pool->pages, page, state);
            bp_rest_end(&pool->pages, page);
        } else if (!(state & BP_SCRATCH)) {
            done = true; /* re-armed through another slot */
        }
    }
    if (!done) {
        atomic_store(&slot->page, SLOT(page));
        return false;
    }
    clear_slot(pool, slot);
    return true;
}

static bool rearm_slot(bufpool_pool *pool, struct bp_scratch_slot *slot, uint64_t seen)
{
    sigset_t before;
    bp_signal_block(&before);
    bool done = seen > CHANGING && atomic_compare_exchange_strong(&slot->page, &seen, CHANGING) &&
                rearm_changing(pool, slot, seen - SLOT(0));
    bp_signal_restore(&before);
    return done;
}

void bp_scratch_rearm_pool(bufpool_pool *pool, bool all)
{
    int64_t now = bp_kernel_monotonic_ns();
    for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
        struct bp_scratch_slot *slot = &pool->scratch[i];
        uint64_t seen = atomic_load(&slot->page);
        if (seen > CHANGING && (all || now - atomic_load(&slot->since_ns) >= BP_SCRATCH_NS)) {
            rearm_slot(pool, slot, seen);
        }
    }
}

void bp_scratch_rearm_thread(void)
{
    int32_t self = bp_thread_id();
    bp_thread.scratches = 0;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->scratched) == 0 || !bp_pool_visit(pool)) {
            continue;
        }
        for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
            struct bp_scratch_slot *slot = &pool->scratch[i];
            uint64_t seen = atomic_load(&slot->page);
            if (seen > CHANGING && atomic_load(&slot->thread) == self && !rearm_slot(pool, slot, seen)) {
                bp_thread.scratches++;
            }
        }
        bp_pool_leave(pool);
    }
}

void bp_scratch_forget(bufpool_pool *pool)
{
    for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
        struct bp_scratch_slot *slot = &pool->scratch[i];
        uint64_t seen = atomic_load(&slot->page);
        /* What was pasted since the pool is closed has to be taken back as ever. */
        if (seen > CHANGING && !atomic_load(&slot->pasted) &&
            atomic_compare_exchange_strong(&slot->page, &seen, CHANGING)) {
            clear_slot(pool, slot);
        }
    }
}

static bool rearm_page(bufpool_pool *pool, uint64_t page)
{
    for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
        if (atomic_load(&pool->scratch[i].page) == SLOT(page)) {
            return rearm_slot(pool, &pool->scratch[i], SLOT(page));
        }
    }
    return false;
}

void bp_scratch_await(bufpool_pool *pool, uint64_t page, uint16_t state, int turn)
{
    bool done = !(state & BP_BUSY) && rearm_page(pool, page);
    if (!done && (turn % 100 != 1 || !bp_recover_page(pool, page))) {
        bp_kernel_sleep_ns(10000);
    }
}

void bp_scratch_await_pin(bufpool_pool *pool, uint64_t page)
{
    if (!rearm_page(pool, page)) {
        bp_kernel_sleep_ns(100000);
    }
}

/* An empty slot, set to CHANGING; if all are in use, the oldest one's page is re-armed. NULL: no luck, and try again.
 */
static struct bp_scratch_slot *claim_slot(bufpool_pool *pool)
{
    struct bp_scratch_slot *oldest = NULL;
    for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
        struct bp_scratch_slot *slot = &pool->scratch[i];
        uint64_t seen = 0;
        if (atomic_compare_exchange_strong(&slot->page, &seen, CHANGING)) {
            return slot;
        }
        if (seen > CHANGING && (oldest == NULL || atomic_load(&slot->since_ns) < atomic_load(&oldest->since_ns))) {
            oldest = slot;
        }
    }
    if (oldest != NULL) {
        rearm_slot(pool, oldest, atomic_load(&oldest->page));
    }
    return NULL;
}

static void fill_slot(bufpool_pool *pool, struct bp_scratch_slot *slot, uint64_t page, bool pasted, bool pinned)
{
    atomic_store(&slot->pinned, pinned);
    atomic_store(&slot->pasted, pasted);
    atomic_store(&slot->thread, bp_thread_id());
    atomic_store(&slot->since_ns, bp_kernel_monotonic_ns());
    atomic_fetch_add(&pool->scratched, 1);
    atomic_fetch_add_explicit(&pool->scratch_maps, 1, memory_order_relaxed);
    atomic_store(&slot->page, SLOT(page));
    bp_thread.scratches++;
}

static bool divert_pasted(bufpool_pool *pool, uintptr_t granule)
{
    if (pool->space.adopted) { /* nothing may take the place of the program's mapping */
        return false;
    }
    for (int patience = 0; patience < 1000; patience++) {
        struct bp_scratch_slot *slot = claim_slot(pool);
        if (slot != NULL) {
            /* Until close has replaced it, a mapping of hugetlbfs cannot be cut within a huge page. */
            if (bp_space_paste(granule) < 0 &&
                (!is_ours(pool) || pool->space.granule == BP_GRANULE ||
                 bp_space_divert(&pool->space, granule & ~(uintptr_t)(pool->space.granule - 1)) < 0)) {
                atomic_store(&slot->page, 0);
                return false;
            }
            fill_slot(pool, slot, (granule - pool->space.base) / BP_GRANULE, true, false);
            return true;
        }
        bp_kernel_sleep_ns(10000);
    }
    return false;
}

/* The page is BUSY with us, over `state`: fills one granule and settles the page. */
static bool show(bufpool_pool *pool, struct bp_scratch_slot *slot, uint64_t page, uint16_t state, uintptr_t granule)
{
    bool shown = bp_space_divert(&pool->space, granule) == 0;
    if (shown && slot != NULL) {
        bp_pages_mark_withheld(&pool->pages, page);
        bp_roster_show(&pool->pages, (size_t)(slot - pool->scratch), page);
        fill_slot(pool, slot, page, false, false);
    } else if (slot != NULL) {
        atomic_store(&slot->page, 0);
    }
    bp_pages_settle(&pool->pages, page, shown ? state | BP_SCRATCH : state);
    bp_rest_end(&pool->pages, page);
    return shown;
}

/* A page shows the pattern. Here, or only in another process that has the pool, too? */
static bool is_shown(const bufpool_pool *pool, uint64_t page)
{
    bool here = pool->pages.members == NULL;
    for (int i = 0; i < BP_SCRATCH_SLOTS && !here; i++) {
        const struct bp_scratch_slot *slot = &pool->scratch[i];
        here = atomic_load(&slot->page) == SLOT(page) && !atomic_load(&slot->pasted);
    }
    return here;
}

/* A page that is allocated, with its data. true: run the instruction again. */
static bool divert_pinned(bufpool_pool *pool, uint64_t page, bufpool_access access, uintptr_t granule)
{
    struct bp_scratch_slot *slot = NULL;
    for (int patience = 0; patience < 1000 && slot == NULL; patience++) {
        slot = claim_slot(pool);
        if (slot == NULL) {
            bp_kernel_sleep_ns(10000);
        }
    }
    bool loose = false;
    bool done = slot != NULL && bp_pins_divert(pool, page, access, granule, &loose);
    if (loose) {
        fill_slot(pool, slot, page, false, true);
    } else if (slot != NULL) {
        atomic_store(&slot->page, 0);
    }
    return done;
}

bool bp_scratch_divert(bufpool_pool *pool, uint64_t page, bufpool_access access, uintptr_t address)
{
    if (!bp_pool_has_frames(pool) || bp_in_zone(pool, address)) {
        return divert_pasted(pool, address & ~(uintptr_t)(BP_GRANULE - 1));
    }
    uintptr_t granule = address & ~(uintptr_t)(pool->space.granule - 1);
    /* Waits for whoever has the page BUSY, about a second at most: it may be the very call that was interrupted. */
    for (int patience = 0; patience < 10000; patience++) {
        uint16_t state = bp_pages_load(&pool->pages, page);
        if (state == BUFPOOL_STATE_ALLOCATED) {
            bool closes = pool->space.unpinned != BP_OPEN_WRITE || bp_sample_has(&pool->pins.sample, page);
            return !closes || divert_pinned(pool, page, access, granule);
        }
        if (state & BP_BUSY) {
            /* Not at once: who is dead takes reading a file of /proc. */
            if (patience % 100 != 9 || !bp_recover_page(pool, page)) {
                bp_kernel_sleep_ns(100000);
            }
            continue;
        }
        if (bp_lag_is(&pool->lag, state)) { /* since the access, or its frame was taken past us: now it is a hole */
            if (!bp_lag_end(pool, page)) {
                bp_kernel_sleep_ns(100000);
            }
            continue;
        }
        bool shown = state & BP_SCRATCH && is_shown(pool, page);
        if (shown && pool->page_size == pool->space.granule) {
            return true; /* another thread's stray access, a moment ago */
        }
        struct bp_scratch_slot *slot = NULL;
        if (!shown) {
            slot = claim_slot(pool);
            if (slot == NULL) {
                bp_kernel_sleep_ns(10000); /* all are being changed, by threads that may have lost the processor */
                continue;
            }
        }
        /* With SCRATCH from the start: who wants the page waits, and who meets the slot leaves it alone. */
        if (bp_pages_claim(&pool->pages, page, state, BP_SCRATCH)) {
            return show(pool, slot, page, state, granule);
        }
        if (slot != NULL) {
            atomic_store(&slot->page, 0);
        }
    }
    return false;
}

bool bp_scratch_was_shut(const bufpool_pool *pool, int signo, const siginfo_t *info, uint64_t pc)
{
    bool shuts = pool->space.granule != BP_GRANULE || pool->space.family; /* see bp_space_restore() */
    if (!shuts || !is_ours(pool) || signo != SIGSEGV || info->si_code != SEGV_ACCERR) {
        return false;
    }
    uint64_t address = (uint64_t)(uintptr_t)info->si_addr;
    bool again = bp_thread.retried_pc == pc && bp_thread.retried_address == address;
    bp_thread.retried = again ? bp_thread.retried + 1 : 0;
    bp_thread.retried_address = address;
    bool retry = bp_thread.retried < RETRIES;
    bp_thread.retried_pc = retry ? pc : 0;
    if (again && retry) {
        bp_kernel_sleep_ns(100000); /* others stray there, and re-arm, again and again */
    }
    return retry;
}
