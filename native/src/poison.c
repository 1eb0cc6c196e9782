/* poison.c: holes that make system calls fail, see poison.h. */
#include "poison.h"

#include "rest.h"

/* What is poisoned at a time: of hugetlbfs a huge page, else an OS page, also where granules are larger. */
size_t bp_poison_size(const bufpool_pool *pool)
{
    return pool->space.memory->hugetlb ? pool->space.granule : BP_GRANULE;
}

uintptr_t bp_poison_granule(const bufpool_pool *pool, uint64_t address)
{
    return (uintptr_t)address & ~(uintptr_t)(bp_poison_size(pool) - 1);
}

int bp_poison(bufpool_pool *pool, uint64_t address)
{
    /* Counted first, so that who fills the granule from here on looks. */
    atomic_fetch_add(&pool->space.poisoned, 1);
    int code = bp_kernel_uffd_poison(pool->space.uffd, bp_poison_granule(pool, address), bp_poison_size(pool));
    if (code < 0) {
        atomic_fetch_sub(&pool->space.poisoned, 1);
    }
    return code;
}

/* Whoever has the page BUSY, has filled it, or shows the pattern there, takes the poison away with what he does. */
void bp_unpoison(bufpool_pool *pool, const struct bp_order *order)
{
    uint64_t page = bp_page_at(pool, order->address);
    uint16_t state = bp_pages_load(&pool->pages, page);
    uintptr_t granule = bp_poison_granule(pool, order->address);
    if (bp_in_zone(pool, order->address)) { /* nobody's, and never filled */
        bp_kernel_discard((void *)granule, bp_poison_size(pool));
    } else if (!(state & (BP_BUSY | BP_SCRATCH)) && state != BUFPOOL_STATE_ALLOCATED && !bp_lag_is(&pool->lag, state) &&
               bp_pages_claim(&pool->pages, page, state, BP_SCRATCH)) {
        if (pool->space.memory->thp) { /* its page table would keep the next frame small */
            bp_space_restore(&pool->space, granule & ~(uintptr_t)(pool->space.granule - 1), pool->space.granule);
        } else {
            bp_kernel_discard((void *)granule, bp_poison_size(pool));
        }
        bp_pages_settle(&pool->pages, page, state);
        bp_rest_end(&pool->pages, page);
    }
    if (order->poisoned) {
        atomic_fetch_sub(&pool->space.poisoned, 1);
    }
}
