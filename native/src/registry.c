/* registry.c: the list of descriptors, its lock, and closed ranges, see registry.h. */
#include "registry.h"

#include "error.h"
#include "fork.h"
#include "postmortem.h"
#include "thread.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define KEEP_CLOSED 64
#define KEEP_CLOSED_BYTES (UINT64_C(32) << 40)

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static sigset_t mask_before; /* of who holds it */
static uint64_t closings;

static void block_signals(sigset_t *before)
{
    static const int of_faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof of_faults / sizeof *of_faults; i++) {
        sigdelset(&all, of_faults[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, before);
}

void bp_registry_lock(void)
{
    sigset_t before;
    if (bp_fork_holds()) {
        return;
    }
    block_signals(&before);
    if (bp_process_is_new()) { /* whoever held it is not in this process */
        pthread_mutex_init(&registry, NULL);
        bp_fork_renew();
        bp_process_prepare();
    }
    pthread_mutex_lock(&registry);
    mask_before = before;
}

void bp_registry_unlock(void)
{
    if (bp_fork_holds()) {
        return;
    }
    sigset_t before = mask_before;
    pthread_mutex_unlock(&registry);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void bp_registry_renew(void)
{
    /* The child's only thread is a copy of the one that has it; free if a fork handler of the host has made it anew. */
    (void)pthread_mutex_trylock(&registry);
    pthread_mutex_unlock(&registry);
}

int bp_registry_take(bufpool_pool **taken)
{
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (atomic_load(&pool->first) == 0 && pool->closed_at == 0 && !bp_pool_is_used(pool)) {
            memset((char *)pool + offsetof(bufpool_pool, end), 0, sizeof *pool - offsetof(bufpool_pool, end));
            *taken = pool;
            return 0;
        }
    }
    void *place;
    int code = bp_kernel_mmap(NULL, sizeof **taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, &place);
    if (code < 0) {
        return bp_error(code, "cannot map %zu bytes for a pool: %s", sizeof **taken, strerror(-code));
    }
    *taken = place;
    (*taken)->next = bp_pool_first();
    atomic_store_explicit(&bp_postmortem.pools, *taken, memory_order_release);
    return 0;
}

int bp_registry_check_vacant(uintptr_t base, uint64_t length)
{
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        uintptr_t first = atomic_load(&pool->first);
        uintptr_t end = atomic_load(&pool->end); /* of what was given back: first, and lies in no range */
        bool there = first != 0 && first < end && pool->process == bp_process();
        if (there && first < base + length && base < end) {
            return bp_error(BUFPOOL_EARGUMENT, "the range at %#llx is, at least in part, that of pool \"%s\"%s",
                            (unsigned long long)base, pool->name,
                            atomic_load(&pool->closed) ? ", which is closed" : "");
        }
    }
    return 0;
}

/* ---- Closed ranges ---- */

void bp_registry_retire(bufpool_pool *pool)
{
    uintptr_t first = atomic_load(&pool->first);
    atomic_store(&pool->first, 0);
    while (bp_pool_is_used(pool)) {
        bp_kernel_sleep_ns(10000);
    }
    if (!pool->space.adopted) {
        bp_kernel_munmap((void *)first, pool->space.capacity);
    }
    bp_staging_close(&pool->space.staging);
    bp_kernel_munmap(pool->ring, BP_FAULT_RING * sizeof *pool->ring);
    bp_provenance_close(&pool->provenance);
    bp_pins_forget(&pool->pins);
    if (pool->log >= 0) {
        bp_kernel_close_kept(pool->log);
    }
    pool->closed_at = 0;
}

/* Closed, by this process, kept by nobody, and not amid a fork. */
static bool may_retire(const bufpool_pool *pool)
{
    return pool->closed_at != 0 && atomic_load(&pool->kept) == 0 && pool->process == bp_process() &&
           pool->heritage.step == BP_HERITAGE_NONE;
}

bool bp_registry_retire_oldest(void)
{
    bufpool_pool *oldest = NULL;
    for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
        if (may_retire(pool) && (oldest == NULL || pool->closed_at < oldest->closed_at)) {
            oldest = pool;
        }
    }
    if (oldest != NULL) {
        bp_registry_retire(oldest);
    }
    return oldest != NULL;
}

void bp_registry_limit_closed(void)
{
    for (;;) {
        uint64_t bytes = 0;
        int count = 0;
        for (bufpool_pool *pool = bp_pool_first(); pool != NULL; pool = pool->next) {
            if (may_retire(pool)) {
                bytes += pool->space.capacity;
                count++;
            }
        }
        if ((count <= KEEP_CLOSED && bytes <= KEEP_CLOSED_BYTES) || !bp_registry_retire_oldest()) {
            return;
        }
    }
}

void bp_registry_rest(bufpool_pool *pool)
{
    pool->closed_at = ++closings;
    bp_registry_limit_closed();
}
