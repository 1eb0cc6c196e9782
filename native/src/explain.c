/* explain.c: which page of a buffer is not accessible, for those who have only the EFAULT of a system call. */
#include "diagnose.h"
#include "error.h"
#include "guard.h"
#include "keys.h"
#include "probe.h"
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

static bool is_accessible(const bufpool_pool *pool, uintptr_t at, bufpool_access access)
{
    uint64_t page = bp_page_at(pool, at);
    return !bp_in_zone(pool, at) && !atomic_load(&pool->closed) && pool->process == bp_process() &&
           bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED &&
           bp_pins_judge(pool, page, access) == BUFPOOL_STATE_ALLOCATED && !bp_keys_forbid(pool, access);
}

/* The first byte of [at, end) in a page of this pool that is not accessible; end of the pool's part if there is none. */
static uintptr_t first_stray(const bufpool_pool *pool, uintptr_t at, uintptr_t end, bufpool_access access)
{
    uintptr_t last = pool->space.base + pool->space.capacity;
    while (at < end && at < last) {
        if (!is_accessible(pool, at, access)) {
            return at;
        }
        at = bp_page_address(pool, bp_page_at(pool, at)) + pool->page_size;
    }
    return last;
}

/* Looks at one pool, which may go meanwhile. true: *fault is filled in. */
static bool explain_in(bufpool_pool *pool, uintptr_t *at, uintptr_t end, bufpool_access access, bufpool_fault *fault)
{
    if (!bp_pool_visit(pool)) {
        return false; /* given back: the addresses are nobody's, and are looked at again */
    }
    bool stray = false;
    if (bp_pool_at(*at) == pool) {
        uintptr_t last = pool->space.base + pool->space.capacity;
        *at = first_stray(pool, *at, end, access);
        stray = *at < end && *at < last;
        if (stray) {
            bp_record_describe(pool, *at, access, fault);
        }
    }
    bp_pool_leave(pool);
    return stray;
}

int bufpool_explain_for(const void *address, size_t length, bool write, bufpool_fault *fault)
{
    bufpool_access access = write ? BUFPOOL_WRITE : BUFPOOL_READ;
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
        } else if (explain_in(pool, &at, end, access, &found)) {
            if (fault != NULL) {
                bp_fault_copy(fault, &found);
            }
            return bp_guard_error(&found);
        }
    }
    return 0;
}

int bufpool_explain(const void *address, size_t length, bufpool_fault *fault)
{
    return bufpool_explain_for(address, length, false, fault);
}

const char *bufpool_pattern(const void *address, size_t length)
{
    static const struct {
        unsigned char byte;
        const char *name;
    } known[] = {{BUFPOOL_POISON, "poison"}, {BUFPOOL_FRESH, "fresh"}, {BUFPOOL_SCRUBBED, "scrubbed"}};
    unsigned char piece[1024];
    unsigned char first = 0;
    for (size_t at = 0; at < length; at += sizeof piece) {
        size_t step = length - at < sizeof piece ? length - at : sizeof piece;
        if (!bp_probe_copy(piece, (const char *)address + at, step)) {
            return "";
        }
        first = at == 0 ? piece[0] : first;
        for (size_t i = 0; i < step; i++) {
            if (piece[i] != first) {
                return "";
            }
        }
    }
    for (size_t i = 0; length > 0 && i < sizeof known / sizeof *known; i++) {
        if (known[i].byte == first) {
            return known[i].name;
        }
    }
    return "";
}
