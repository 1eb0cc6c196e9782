/* owed.c: queues of faults owed to threads, see owed.h. */
#include "owed.h"

#include "chain.h"
#include "error.h"
#include "guard.h"
#include "report.h"
#include "scratch.h"
#include "thread.h"

#include <string.h>
#include <sys/mman.h>

#define CHUNK_FAULTS 64

struct chunk {
    struct chunk *next;
    uint32_t used;                      /* entries written */
    uint32_t gone;                      /* entries handed over, from the front */
    bufpool_fault faults[CHUNK_FAULTS]; /* size 0: handed over out of turn */
};

struct bp_owed {
    struct bp_owed *next; /* all queues; set once */
    _Atomic int32_t thread;
    _Atomic int32_t process;
    atomic_bool orphaned; /* its thread has ended: another one has the same id */
    atomic_flag held;
    struct chunk *first;
    struct chunk *last;
    _Atomic uint32_t count;
    _Atomic uint32_t told; /* of them, those that their thread is only to be told of */
};

static _Atomic(struct bp_owed *) queues;

static bool hold(struct bp_owed *queue)
{
    for (int patience = 0; patience < 10000; patience++) {
        if (!atomic_flag_test_and_set(&queue->held)) {
            return true;
        }
        bp_kernel_sleep_ns(100000);
    }
    return false;
}

static void drop(struct bp_owed *queue)
{
    atomic_flag_clear(&queue->held);
}

static bool map(size_t size, void **place)
{
    return bp_kernel_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, place) == 0;
}

static bool has_ended(struct bp_owed *queue)
{
    return atomic_load(&queue->process) != bp_process() || atomic_load(&queue->orphaned) ||
           !bp_kernel_thread_alive(atomic_load(&queue->thread));
}

/* This thread's queue, found or made. */
static struct bp_owed *own_queue(void)
{
    int32_t self = bp_thread_id();
    struct bp_owed *mine = bp_thread.owed;
    if (mine != NULL && atomic_load(&mine->process) == bp_process()) {
        return mine;
    }
    for (struct bp_owed *queue = atomic_load(&queues); queue != NULL; queue = queue->next) {
        if (atomic_load(&queue->thread) == self) {
            atomic_store(&queue->orphaned, true); /* of an earlier thread, or this one would have found it */
        }
        /* Decided while it is held, so that two threads do not both take it over. */
        if (atomic_load(&queue->count) == 0 && has_ended(queue) && !atomic_flag_test_and_set(&queue->held)) {
            bool free = atomic_load(&queue->count) == 0 && has_ended(queue);
            if (free) {
                atomic_store(&queue->thread, self);
                atomic_store(&queue->process, bp_process());
                atomic_store(&queue->orphaned, false);
                bp_thread.owed = queue;
            }
            drop(queue);
            if (free) {
                return queue;
            }
        }
    }
    void *place;
    if (!map(sizeof(struct bp_owed), &place)) {
        return NULL;
    }
    struct bp_owed *queue = place;
    atomic_store(&queue->thread, self);
    atomic_store(&queue->process, bp_process());
    queue->next = atomic_load(&queues);
    while (!atomic_compare_exchange_weak(&queues, &queue->next, queue)) {
    }
    return bp_thread.owed = queue;
}

static bool append(struct bp_owed *queue, const bufpool_fault *fault)
{
    struct chunk *chunk = queue->last;
    if (chunk == NULL || chunk->used == CHUNK_FAULTS) {
        void *place;
        if (!map(sizeof(struct chunk), &place)) {
            return false;
        }
        *(chunk == NULL ? &queue->first : &chunk->next) = place;
        queue->last = chunk = place;
    }
    chunk->faults[chunk->used++] = *fault;
    atomic_fetch_add(&queue->count, 1);
    if (fault->flags & BUFPOOL_FAULT_TOLD) {
        atomic_fetch_add(&queue->told, 1);
    }
    return true;
}

/* How many faults the queue's thread is owed, or (told) to be told of. */
static uint32_t waiting(struct bp_owed *queue, bool told)
{
    uint32_t count = atomic_load(&queue->told);
    uint32_t all = atomic_load(&queue->count);
    return told ? count : all > count ? all - count : 0;
}

bool bp_owed_push(const bufpool_fault *fault)
{
    struct bp_owed *queue = own_queue();
    bool told = fault->flags & BUFPOOL_FAULT_TOLD;
    if (queue == NULL || waiting(queue, told) >= (told ? BP_TOLD_MAX : BP_OWED_MAX) || !hold(queue)) {
        return false;
    }
    bool kept = append(queue, fault);
    drop(queue);
    return kept;
}

/* The oldest fault of a queue that is held, of one pool if base is not 0, that its thread is owed, or (told) to be told
 * of. */
static bool take_held(struct bp_owed *queue, uint64_t base, bool told, bufpool_fault *fault)
{
    bool found = false;
    for (struct chunk *chunk = queue->first; chunk != NULL && !found; chunk = chunk->next) {
        for (uint32_t i = chunk->gone; i < chunk->used && !found; i++) {
            bufpool_fault *entry = &chunk->faults[i];
            if (entry->size != 0 && (base == 0 || entry->pool_address == base) &&
                told == ((entry->flags & BUFPOOL_FAULT_TOLD) != 0)) {
                *fault = *entry;
                entry->size = 0;
                atomic_fetch_sub(&queue->told, told);
                atomic_fetch_sub(&queue->count, 1);
                found = true;
            }
        }
        while (chunk->gone < chunk->used && chunk->faults[chunk->gone].size == 0) {
            chunk->gone++;
        }
    }
    while (queue->first != NULL && queue->first->gone == CHUNK_FAULTS) {
        struct chunk *empty = queue->first;
        queue->first = empty->next;
        if (queue->first == NULL) {
            queue->last = NULL;
        }
        bp_kernel_munmap(empty, sizeof *empty);
    }
    return found;
}

/* With signals blocked: a handler of the host's that strays would wait in vain for the queue that it has interrupted. */
static bool take(struct bp_owed *queue, uint64_t base, bool told, bufpool_fault *fault)
{
    if (waiting(queue, told) == 0) {
        return false;
    }
    sigset_t before;
    bp_signal_block(&before);
    bool held = hold(queue);
    bool found = held && take_held(queue, base, told, fault);
    if (held) {
        drop(queue);
    }
    bp_signal_restore(&before);
    return found;
}

static int hand_over(const bufpool_fault *from, bufpool_fault *to)
{
    if (to != NULL) {
        bp_fault_copy(to, from);
    }
    return bp_guard_error(from);
}

static int take_own(bool told, bufpool_fault *fault)
{
    bufpool_fault taken;
    struct bp_owed *mine = bp_thread.owed;
    if (mine == NULL || atomic_load(&mine->process) != bp_process() || !take(mine, 0, told, &taken)) {
        return 0;
    }
    return hand_over(&taken, fault);
}

int bufpool_check(bufpool_fault *fault)
{
    bp_thread.epoch++;
    if (bp_thread.scratches > 0) {
        bp_scratch_rearm_thread();
    }
    return take_own(false, fault);
}

int bufpool_told(bufpool_fault *fault)
{
    return take_own(true, fault);
}

/* 0: of any pool. */
static uintptr_t base_of(const bufpool_pool *pool)
{
    return pool == NULL ? 0 : pool->space.base;
}

static bool take_ended(const bufpool_pool *pool, bool told, bufpool_fault *fault)
{
    for (struct bp_owed *queue = atomic_load(&queues); queue != NULL; queue = queue->next) {
        bool here = atomic_load(&queue->process) == bp_process();
        if (here && waiting(queue, told) > 0 && has_ended(queue) && take(queue, base_of(pool), told, fault)) {
            return true;
        }
    }
    return false;
}

int bufpool_check_ended(bufpool_pool *pool, bufpool_fault *fault)
{
    bufpool_fault taken;
    return take_ended(pool, false, &taken) ? hand_over(&taken, fault) : 0;
}

int bufpool_told_ended(bufpool_pool *pool, bufpool_fault *fault)
{
    bufpool_fault taken;
    return take_ended(pool, true, &taken) ? hand_over(&taken, fault) : 0;
}

/* Returns how many; *limited receives how many of them were not written, but counted. */
static int write_owed(bufpool_pool *pool, bool ended_only, int *limited)
{
    bufpool_fault owed;
    int written = 0;
    *limited = 0;
    for (struct bp_owed *queue = atomic_load(&queues); queue != NULL; queue = queue->next) {
        bool wanted = atomic_load(&queue->process) == bp_process() && waiting(queue, false) > 0;
        if (!wanted || (ended_only && !has_ended(queue))) {
            continue;
        }
        while (take(queue, base_of(pool), false, &owed)) {
            if (owed.flags & BUFPOOL_FAULT_LIMITED) {
                ++*limited;
            } else if (!ended_only) {
                bp_report_stderr(&owed);
            } else if (bp_report_stderr_soon(&owed) < 0) {
                atomic_fetch_add(&pool->reports_lost, 1);
            }
            written++;
        }
    }
    return written;
}

void bp_owed_flush_ended(bufpool_pool *pool)
{
    int limited;
    write_owed(pool, true, &limited);
    bp_report_rest(pool, limited > 0);
    bufpool_fault told;
    while (take_ended(pool, true, &told)) { /* written already */
    }
}

int bufpool_flush(bufpool_pool *pool)
{
    int limited;
    int written = write_owed(pool, false, &limited);
    for (bufpool_pool *each = bp_pool_first(); each != NULL; each = each->next) {
        if ((pool == NULL || each == pool) && bp_pool_visit(each)) {
            if (each->process == bp_process()) {
                bp_report_rest(each, limited > 0);
            }
            bp_pool_leave(each);
        }
    }
    return written;
}

void bp_owed_renew(void)
{
    for (struct bp_owed *queue = atomic_load(&queues); queue != NULL; queue = queue->next) {
        queue->first = NULL; /* not walked: a thread may have been changing the list */
        queue->last = NULL;
        atomic_store(&queue->count, 0);
        atomic_store(&queue->told, 0);
        atomic_flag_clear(&queue->held);
    }
}
