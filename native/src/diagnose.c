/* diagnose.c: what a fault address means, see diagnose.h. */
#include "diagnose.h"

#include "thread.h"
#include "trap_adopted.h"

#include <signal.h>

bufpool_state bp_state_seen(uint16_t state)
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
    if (pool->space.adopted) {
        return signo == SIGBUS ? pool->space.uffd >= 0 : bp_adopted_protects(&pool->space);
    }
    if (signo == SIGBUS) { /* of a file also for any trap: it was truncated past us */
        return trap == &bp_trap_uffd || trap == &bp_trap_noautofill || pool->space.memory->path;
    }
    /* Without a userfaultfd noautofill closes a page by mprotect while it is filled. */
    return trap == &bp_trap_guard || trap == &bp_trap_mprotect || (trap == &bp_trap_noautofill && pool->space.uffd < 0);
}

/* Might one of the four pages from this one on, a multiple of 4, be allocated? Of a state word only the low bits are
 * looked at: one that equals ALLOCATED there becomes 0, and 0 is what the subtraction finds. */
static bool has_allocated(const bufpool_pool *pool, uint64_t first)
{
    const uint64_t ones = UINT64_C(0x0001000100010001);
    uint64_t words = __atomic_load_n((const uint64_t *)(const void *)&pool->pages.states[first], __ATOMIC_RELAXED);
    words = (words & ones * BP_STATE_MASK) ^ ones * BUFPOOL_STATE_ALLOCATED;
    return ((words - ones) & ~words & ones << 15) != 0;
}

static bool is_allocated(const bufpool_pool *pool, uint64_t page)
{
    return bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED;
}

void bp_neighbours(const bufpool_pool *pool, uint64_t page, uint64_t *below, uint64_t *above)
{
    uint64_t end = pool->pages.count - page > BP_NEAR ? page + BP_NEAR + 1 : pool->pages.count;
    uint64_t start = page > BP_NEAR ? page - BP_NEAR : 0;
    *below = *above = BP_NO_PAGE;
    for (uint64_t at = page + 1; at < end; at++) {
        if (at % 4 == 0 && !has_allocated(pool, at)) {
            at += 3;
        } else if (is_allocated(pool, at)) {
            *above = at;
            break;
        }
    }
    for (uint64_t at = page; at > start; at--) { /* looks at at - 1 */
        if (at % 4 == 0 && !has_allocated(pool, at - 4)) {
            at -= 3;
        } else if (is_allocated(pool, at - 1)) {
            *below = at - 1;
            break;
        }
    }
}

void bp_diagnose(const bufpool_pool *pool, uintptr_t address, bufpool_access access, int signo, int code,
                 struct bp_finding *finding)
{
    bool closed = bp_pool_is_closed(pool);
    uint64_t page = bp_page_at(pool, address);
    *finding = (struct bp_finding){
        .page = page, .offset = address - bp_page_address(pool, page), .state = BUFPOOL_STATE_CLOSED, .ours = true};
    if (!closed) {
        finding->state = bp_in_zone(pool, address) ? BUFPOOL_STATE_RED_ZONE
                                                   : bp_state_seen(bp_pages_load(&pool->pages, finding->page));
    }
    if (pool->process != bp_process()) {
        /* Not mapped here, or sealed. Another mapping that took the addresses since the fork is none of ours. */
        finding->flags |= BUFPOOL_FAULT_FORKED;
        finding->ours = signo == SIGSEGV && (code == SEGV_MAPERR || pool->heritage.sealed);
        return;
    }
    finding->flags |= pool->opener != 0 ? BUFPOOL_FAULT_INHERITED : 0;
    if (closed || finding->state != BUFPOOL_STATE_ALLOCATED || access == BUFPOOL_EXECUTE) {
        return;
    }
    /* By the key of the pool: this thread has no right to write to any page. */
    bool keyed = pool->space.key > 0 && access == BUFPOOL_WRITE && signo == SIGSEGV && code == SEGV_PKUERR;
    finding->ours = keyed || fault_of_trap(pool, signo) || (signo == SIGSEGV && pool->pins.sample.one_in != 0);
    finding->state = bp_pins_judge(pool, finding->page, access);
    if (keyed && finding->state == BUFPOOL_STATE_ALLOCATED) {
        finding->state = BUFPOOL_STATE_READ_ONLY;
        finding->flags |= bp_pins_writing(pool, finding->page) ? BUFPOOL_FAULT_OTHERS_PIN : 0;
    }
    finding->flags |= finding->state == BUFPOOL_STATE_ALLOCATED ? BUFPOOL_FAULT_RACED : 0;
}
