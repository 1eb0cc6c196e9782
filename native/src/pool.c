/* pool.c: finding pools, and getting in and out of them, see pool.h. */
#include "pool.h"

#include "diagnose.h"
#include "error.h"
#include "fork.h"
#include "keys.h"
#include "postmortem.h"
#include "scratch.h"
#include "thread.h"

#include <unistd.h>

#define TRIES 1000 /* of the handler, while other threads open and close pools */

bufpool_pool *bp_pool_first(void)
{
    return atomic_load_explicit(&bp_postmortem.pools, memory_order_acquire);
}

bufpool_pool *bp_pool_at(uintptr_t address)
{
    bufpool_pool *inherited = NULL;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        uintptr_t first = atomic_load(&pool->first);
        /* The end may be that of another pool by now, whose descriptor this is: then it does not begin where the first did. */
        if (first != 0 && first <= address && address < atomic_load(&pool->end) && first == atomic_load(&pool->first)) {
            if (pool->process == bp_process()) {
                return pool;
            }
            inherited = pool; /* a forked child may have a pool of its own at the same place */
        }
    }
    return inherited;
}

/* Is a fork under way in another thread? Of a closed pool nothing is copied; and who closes it in a fork handler waits for
 * its monitor. */
static bool is_shut(const bufpool_pool *pool)
{
    return bp_fork_is_near() && !atomic_load(&pool->closed);
}

bool bp_pool_visit(bufpool_pool *pool)
{
    for (;;) {
        bp_thread.inside++;
        atomic_fetch_add(bp_pool_users(pool), 1);
        if (!is_shut(pool)) {
            break;
        }
        bp_pool_leave(pool);
        while (is_shut(pool)) {
            bp_kernel_sleep_ns(50000);
        }
    }
    if (atomic_load(&pool->first) == 0) {
        bp_pool_leave(pool);
        return false;
    }
    return true;
}

bool bp_pool_has_frames(const bufpool_pool *pool)
{
    return !bp_pool_is_closed(pool) && pool->process == bp_process();
}

bool bp_pool_has_page(const bufpool_pool *pool, uint64_t page)
{
    return bp_pool_has_frames(pool) && bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED;
}

bufpool_pool *bp_pool_visit_at(uintptr_t address)
{
    for (int tries = 0; tries < TRIES; tries++) {
        bufpool_pool *pool = bp_pool_at(address);
        if (pool == NULL) {
            break;
        }
        if (bp_pool_visit(pool)) {
            if (bp_pool_at(address) == pool) {
                return pool;
            }
            bp_pool_leave(pool);
        } /* given back, and its descriptor, or the range, in use again: by another one? */
    }
    return NULL;
}

int bp_pool_check_page(const bufpool_pool *pool, uint64_t page)
{
    if (page >= pool->pages.count) {
        return bp_error(BUFPOOL_EARGUMENT, "page %llu is not in pool \"%s\": its pages are 0 to %llu",
                        (unsigned long long)page, pool->name, (unsigned long long)(pool->pages.count - 1));
    }
    return 0;
}

void bp_pool_leave(bufpool_pool *pool)
{
    atomic_fetch_sub(bp_pool_users(pool), 1);
    bp_thread.inside--;
}

int bp_pool_closed_error(const bufpool_pool *pool)
{
    if (atomic_load(&pool->space.orphaned)) {
        return bp_error(
            BUFPOOL_ECLOSED,
            "pool \"%s\" is closed: the program has closed the pool's descriptors; a daemon or a child that "
            "closes what it did not open (closefrom) opens its pools after that",
            pool->name);
    }
    return bp_error(BUFPOOL_ECLOSED, "pool \"%s\" is closed%s", pool->name,
                    atomic_load(&pool->closed) ? "" : ", by the process that opened it");
}

/* gone_too: also if the process that opened it has closed it. */
static int enter(bufpool_pool *pool, bool gone_too)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass the pool that bufpool_open() gave");
    }
    bp_thread.epoch++;
    if (bp_thread.scratches > 0) {
        bp_scratch_rearm_thread();
    }
    if (!bp_pool_visit(pool)) {
        return bp_error(BUFPOOL_ECLOSED, "this pool is closed");
    }
    /* Also where the call is about to be refused: a late access to a closed pool is diverted, too. */
    if (atomic_load_explicit(&pool->scratched, memory_order_relaxed) > 0) {
        bp_scratch_rearm_pool(pool, false);
    }
    if (atomic_load(&pool->closed)) {
        bp_pool_leave(pool);
        return bp_pool_closed_error(pool);
    }
    if (pool->process != bp_process()) {
        char note[256];
        bp_fork_note(pool, note, sizeof note);
        bp_pool_leave(pool);
        return bp_error(BUFPOOL_EUNSUPPORTED, "pool \"%s\" is not process %d's: %s; open a pool here", pool->name,
                        (int)getpid(), note);
    }
    if (!gone_too && bp_pool_is_closed(pool)) {
        if (!pool->space.ours &&
            !atomic_exchange(&pool->emptied, true)) { /* who closed it may have been killed amid that */
            bp_kernel_punch(pool->space.fd, 0, pool->space.capacity);
        }
        bp_pool_leave(pool);
        return bp_pool_closed_error(pool);
    }
    if (pool->space.key > 0) {
        bp_keys_follow(pool);
    }
    return 0;
}

int bp_pool_enter(bufpool_pool *pool)
{
    return enter(pool, false);
}

int bp_pool_enter_to_close(bufpool_pool *pool)
{
    return enter(pool, true);
}

int bp_pool_enter_batch(bufpool_pool *pool, struct bp_numbers *numbers, size_t count, const uint64_t *pages)
{
    int code = bp_numbers_copy(numbers, count, pages);
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code < 0) {
        bp_numbers_close(numbers);
    }
    return code;
}

void bp_pool_leave_batch(bufpool_pool *pool, struct bp_numbers *numbers)
{
    bp_pool_leave(pool);
    bp_numbers_close(numbers);
}
