/* freeze.c: stopping threads and letting them go on, see freeze.h. */
#include "freeze.h"

#include "error.h"
#include "thread.h"

#include <string.h>

#define LOOK_NS 20000000 /* how often a stopped thread looks for a wish, which may come from another process */
#define THAW_NS 2000000000

atomic_int bp_freeze_unlisted;

/* Stopped all the same; listed when another one goes on. */
static struct bp_frozen_slot *wait_for_slot(const bufpool_fault *fault, uint64_t sp)
{
    struct bp_frozen_slot *slot;
    atomic_fetch_add(&bp_freeze_unlisted, 1);
    do {
        bp_kernel_sleep_ns(LOOK_NS);
        slot = bp_frozen_add(fault, sp, BP_FROZEN_IN_HANDLER);
    } while (slot == NULL);
    atomic_fetch_sub(&bp_freeze_unlisted, 1);
    return slot;
}

enum bp_frozen_wish bp_freeze(const bufpool_fault *fault, uint64_t sp, bool may_sleep)
{
    struct bp_frozen_slot *slot = bp_frozen_add(fault, sp, may_sleep ? BP_FROZEN_IN_KERNEL : BP_FROZEN_IN_HANDLER);
    if (slot != NULL && may_sleep) {
        return BP_WISH_NONE;
    }
    if (slot == NULL) {
        slot = wait_for_slot(fault, sp);
    }
    enum bp_frozen_wish wish;
    while ((wish = (enum bp_frozen_wish)atomic_load(&slot->wish)) == BP_WISH_NONE) {
        bp_kernel_sleep_ns(LOOK_NS);
    }
    bp_frozen_remove(slot);
    return wish;
}

static bool is_of(const struct bp_frozen_slot *slot, const bufpool_pool *pool)
{
    return atomic_load(&slot->state) == BP_FROZEN_STOPPED &&
           (pool == NULL || slot->pool_address == atomic_load(&pool->first));
}

bool bp_freeze_wished(const bufpool_pool *pool, int *n, struct bp_frozen_slot **slot)
{
    while ((*slot = bp_frozen_at((*n)++)) != NULL) {
        if (is_of(*slot, pool) && (*slot)->where == BP_FROZEN_IN_KERNEL &&
            atomic_load(&(*slot)->wish) != BP_WISH_NONE) {
            return true;
        }
    }
    return false;
}

bool bp_freeze_any(const bufpool_pool *pool)
{
    struct bp_frozen_slot *slot;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        if (is_of(slot, pool) && slot->where == BP_FROZEN_IN_KERNEL) {
            return true;
        }
    }
    return false;
}

static int wish_of(const char *policy, enum bp_frozen_wish *wish)
{
    bool abort = policy != NULL && strcmp(policy, "abort") == 0;
    *wish = abort ? BP_WISH_ABORT : BP_WISH_RESUME;
    if (policy != NULL && !abort && strcmp(policy, "resume") != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "unknown policy \"%s\": valid are \"resume\", \"abort\"", policy);
    }
    return 0;
}

/* Those that are written down, and were stopped no later than that. Waits for them, and returns how many there were. */
static int thaw_listed(const bufpool_pool *pool, enum bp_frozen_wish wish, int64_t latest_ns)
{
    int32_t threads[BP_FROZEN_SLOTS] = {0};
    int count = 0;
    struct bp_frozen_slot *slot;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        uint32_t none = BP_WISH_NONE;
        if (is_of(slot, pool) && slot->since_ns <= latest_ns &&
            atomic_compare_exchange_strong(&slot->wish, &none, (uint32_t)wish)) {
            threads[n] = atomic_load(&slot->thread);
            count++;
        }
    }
    int64_t deadline = bp_kernel_monotonic_ns() + THAW_NS;
    for (int n = 0; (slot = bp_frozen_at(n)) != NULL; n++) {
        while (threads[n] != 0 && atomic_load(&slot->thread) == threads[n] &&
               atomic_load(&slot->wish) != BP_WISH_NONE && bp_kernel_monotonic_ns() < deadline) {
            bp_kernel_sleep_ns(LOOK_NS / 10);
        }
    }
    return count;
}

int bufpool_thaw(bufpool_pool *pool, const char *policy)
{
    enum bp_frozen_wish wish;
    int code = wish_of(policy, &wish);
    if (code < 0) {
        return code;
    }
    int64_t start = bp_kernel_realtime_ns();
    bool rest = atomic_load(&bp_freeze_unlisted) > 0;
    int count = thaw_listed(pool, wish, INT64_MAX);
    int64_t deadline = bp_kernel_monotonic_ns() + THAW_NS;
    /* Those without a slot take the ones of those that have gone on. */
    while (count > 0 && rest && bp_kernel_monotonic_ns() < deadline) {
        bp_kernel_sleep_ns(LOOK_NS);
        rest = atomic_load(&bp_freeze_unlisted) > 0;
        int more = thaw_listed(pool, wish, start);
        if (more > 0) {
            count += more;
            deadline = bp_kernel_monotonic_ns() + THAW_NS;
        }
    }
    return count;
}
