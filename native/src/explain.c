/* explain.c: which page of a buffer is not accessible, for those who have only the EFAULT of a system call. */
#include "diagnose.h"
#include "error.h"
#include "guard.h"
#include "record.h"
#include "thread.h"

/* The lowest address >= from at which a pool begins; UINTPTR_MAX if there is none. */
static uintptr_t next_pool(uintptr_t from)
{
    uintptr_t next = UINTPTR_MAX;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        uintptr_t first = atomic_load(&pool->first);
        next = first != 0 && first >= from && first < next ? first : next;
    }
    return next;
}

static bool is_accessible(const bufpool_pool *pool, uint64_t page)
{
    return !atomic_load(&pool->closed) && pool->process == bp_process() &&
           bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED;
}

/* The first byte of [at, end) in a page of this pool that is not accessible; end of the pool's part if there is none. */
static uintptr_t first_stray(const bufpool_pool *pool, uintptr_t at, uintptr_t end)
{
    uintptr_t last = pool->space.base + pool->capacity;
    while (at < end && at < last) {
        uint64_t page = (at - pool->space.base) / pool->page_size;
        if (!is_accessible(pool, page)) {
            return at;
        }
        at = bp_page_address(pool, page) + pool->page_size;
    }
    return last;
}

/* Looks at one pool, which may go meanwhile. true: *fault is filled in. */
static bool explain_in(bufpool_pool *pool, uintptr_t *at, uintptr_t end, bufpool_fault *fault)
{
    if (!bp_pool_visit(pool)) {
        return false; /* given back: the addresses are nobody's, and are looked at again */
    }
    bool stray = false;
    if (bp_pool_at(*at) == pool) {
        uintptr_t last = pool->space.base + pool->capacity;
        *at = first_stray(pool, *at, end);
        stray = *at < end && *at < last;
        if (stray) {
            bp_record_describe(pool, *at, fault);
        }
    }
    bp_pool_leave(pool);
    return stray;
}

int bufpool_explain(const void *address, size_t length, bufpool_fault *fault)
{
    uintptr_t at = (uintptr_t)address;
    uintptr_t end = at + length;
    if (end < at) {
        return bp_error(BUFPOOL_EARGUMENT, "length is %zu: %p and so many bytes are more than there are addresses",
                        length, address);
    }
    bufpool_fault found;
    while (at < end) {
        bufpool_pool *pool = bp_pool_at(at);
        if (pool == NULL) {
            at = next_pool(at);
        } else if (explain_in(pool, &at, end, &found)) {
            if (fault != NULL) {
                bp_fault_copy(fault, &found);
            }
            return bp_guard_error(&found);
        }
    }
    return 0;
}
