/* close.c: closing a pool, and keeping the addresses of a closed one. */
#include "error.h"
#include "monitor.h"
#include "owed.h"
#include "recover.h"
#include "registry.h"
#include "roster.h"
#include "scratch.h"
#include "uring.h"

#include <pthread.h>

/* Has left a pool on a path that nobody else has, and nobody is about to attach to: that takes a lock on the file. */
static bool is_last(const bufpool_pool *pool)
{
    return pool->guest && pool->space.memory->path && bp_roster_count(&pool->pages) == 0 &&
           bp_kernel_is_kept(pool->space.fd) && bp_kernel_flock(pool->space.fd) == 0;
}

static bool is_none_open(void)
{
    for (const bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->first) != 0 && !atomic_load(&pool->closed) && pool->process == bp_process()) {
            return false;
        }
    }
    return true;
}

int bufpool_close(bufpool_pool *pool)
{
    int code = bp_pool_enter_to_close(pool);
    if (code < 0) {
        return code;
    }
    bool open = false;
    bool first = atomic_compare_exchange_strong(&pool->closed, &open, true);
    if (first && !pool->guest && !pool->space.adopted) { /* others have adopted theirs for themselves */
        atomic_store(&pool->pages.counts->gone, true);
        BP_STORED("closed for all");
    }
    if (first && pool->guest && pool->space.memory->path && !atomic_load(&pool->space.orphaned)) {
        bp_recover(pool); /* so that those who were killed do not count as ones who have it */
    }
    if (first) {
        bp_record_close(&pool->provenance, !pool->guest, BP_CALLER());
    }
    bp_pool_leave(pool);
    if (!first) {
        return bp_error(BUFPOOL_ECLOSED, "pool \"%s\" is closed", pool->name);
    }
    int cancelling;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelling); /* nobody else would close the rest */
    /* A call never waits for another one, so this ends. */
    while (bp_pool_is_used(pool)) {
        bp_kernel_sleep_ns(10000);
    }
    bp_monitor_stop(pool);
    bp_owed_flush_ended(pool);
    bp_roster_leave(&pool->pages);
    /* Who opened it was killed: the last one leaves no frames, and whoever comes now finds it closed. */
    if (is_last(pool)) {
        atomic_store(&pool->pages.counts->gone, true);
        BP_STORED("closed for all by the last");
        pool->space.ours = true;
    }
    bp_space_close(&pool->space);
    if (pool->space.adopted) { /* what happens there is the program's affair again */
        atomic_store(&pool->end, atomic_load(&pool->first));
    }
    bp_scratch_forget(pool);
    bp_pages_keep_counts(&pool->pages);
    while (bp_pool_is_used(pool)) { /* bufpool_stats() may be reading those that go */
        bp_kernel_sleep_ns(10000);
    }
    bp_lag_close(&pool->lag);
    bp_pins_close(&pool->pins);
    bp_audit_close(&pool->audit);
    bp_pages_close(&pool->pages);
    bp_registry_lock();
    bp_registry_rest(pool);
    bool last = is_none_open();
    bp_registry_unlock();
    if (last) {
        bp_uring_rest();
    }
    pthread_setcancelstate(cancelling, NULL);
    return 0;
}

int bufpool_keep(bufpool_pool *pool)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass the pool that bufpool_open() gave");
    }
    atomic_fetch_add(&pool->kept, 1);
    return 0;
}

int bufpool_release(bufpool_pool *pool)
{
    bp_registry_lock();
    bool kept = pool != NULL && atomic_load(&pool->kept) > 0;
    if (kept) {
        atomic_fetch_sub(&pool->kept, 1);
        bp_registry_limit_closed();
    }
    bp_registry_unlock();
    return kept ? 0 : bp_error(BUFPOOL_EARGUMENT, "nobody keeps this pool: a release has to follow a keep");
}
