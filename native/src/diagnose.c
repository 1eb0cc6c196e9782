/* diagnose.c: what a fault address means, see diagnose.h. */
#include "diagnose.h"

#include "thread.h"

#include <signal.h>

bufpool_state bp_state_seen(uint8_t state)
{
    if (state & BP_FREEING) {
        return BUFPOOL_STATE_FREED;
    }
    if (state & BP_EVICTING) {
        return BUFPOOL_STATE_EVICTED;
    }
    return (bufpool_state)(state & BP_STATE_MASK);
}

/* Has the kernel itself answered "nothing is there", in the way that the pool's trap makes it? An allocated page can be
 * faulted upon for reasons that are not ours: the host protected it, or closed it to everybody (pkeys). */
static bool fault_of_trap(const bufpool_pool *pool, int signo)
{
    const struct bp_trap *trap = pool->space.trap;
    if (signo == SIGBUS) { /* of a file also for any trap: it was truncated past us */
        return trap == &bp_trap_uffd || trap == &bp_trap_noautofill || pool->space.memory->path;
    }
    /* Without a userfaultfd noautofill closes a page by mprotect while it is filled. */
    return trap == &bp_trap_guard || trap == &bp_trap_mprotect || (trap == &bp_trap_noautofill && pool->space.uffd < 0);
}

void bp_neighbours(const bufpool_pool *pool, uint64_t page, uint64_t *below, uint64_t *above)
{
    *below = *above = BP_NO_PAGE;
    for (uint64_t n = 1; n <= BP_NEAR && n <= page && *below == BP_NO_PAGE; n++) {
        if (bp_state_seen(bp_pages_load(&pool->pages, page - n)) == BUFPOOL_STATE_ALLOCATED) {
            *below = page - n;
        }
    }
    for (uint64_t n = 1; n <= BP_NEAR && page + n < pool->pages.count && *above == BP_NO_PAGE; n++) {
        if (bp_state_seen(bp_pages_load(&pool->pages, page + n)) == BUFPOOL_STATE_ALLOCATED) {
            *above = page + n;
        }
    }
}

void bp_diagnose(const bufpool_pool *pool, uintptr_t address, bufpool_access access, int signo, int code,
                 struct bp_finding *finding)
{
    uint64_t offset = address - pool->space.base; /* not first, which is 0 while the range is given back */
    bool closed = atomic_load(&pool->closed);
    *finding = (struct bp_finding){.page = offset / pool->page_size,
                                   .offset = offset % pool->page_size,
                                   .state = BUFPOOL_STATE_CLOSED,
                                   .ours = true};
    if (!closed) {
        finding->state = bp_state_seen(bp_pages_load(&pool->pages, finding->page));
    }
    if (pool->process != bp_process()) {
        /* Not mapped here. Another mapping that took the addresses since the fork is none of ours. */
        finding->flags |= BUFPOOL_FAULT_FORKED;
        finding->ours = signo == SIGSEGV && code == SEGV_MAPERR;
        return;
    }
    if (closed || finding->state != BUFPOOL_STATE_ALLOCATED || access == BUFPOOL_EXECUTE) {
        return;
    }
    finding->ours = fault_of_trap(pool, signo);
    finding->flags |= BUFPOOL_FAULT_RACED;
}
