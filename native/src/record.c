/* record.c: from an event to its report, see record.h. */
#include "record.h"

#include "fork.h"
#include "keys.h"
#include "postmortem.h"
#include "roster.h"
#include "syscalls.h"
#include "thread.h"

#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static _Atomic uint64_t sequence;

/* What is numbered later than the handler's beginning came after the access, and is not what led to it. */
static void forget_later(bufpool_origin *origin, uint64_t known)
{
    if (bp_provenance_is_later(origin->sequence, known)) {
        memset(origin, 0, sizeof *origin);
    }
}

/* Of an address in a red zone the page at its edge is the first of its neighbours. */
static void find_neighbours(const bufpool_pool *pool, const struct bp_finding *finding, uint64_t *below,
                            uint64_t *above)
{
    uint64_t page = finding->page;
    bp_neighbours(pool, page, below, above);
    if (finding->state == BUFPOOL_STATE_RED_ZONE &&
        bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED) {
        *(finding->offset < BUFPOOL_NO_PAGE / 2 ? below : above) = page;
    }
}

/* Who has the page pinned, and who has unpinned it. */
static void fill_pins(const bufpool_pool *pool, uint64_t page, bufpool_fault *fault)
{
    bufpool_origin *unpinned = &fault->pinned; /* for now: a handler's stack is small */
    bp_provenance_read_pins(&pool->provenance, page, NULL, unpinned);
    if (bp_provenance_is_later(unpinned->sequence, fault->allocated.sequence)) { /* not by an earlier owner */
        fault->freed = *unpinned;
    }
    memset(&fault->pinned, 0, sizeof fault->pinned);
    bp_pins_read(pool, page, &fault->read_pins, &fault->write_pins);
    if (fault->read_pins + fault->write_pins > 0) {
        bp_provenance_read_pins(&pool->provenance, page, &fault->pinned, NULL);
    }
}

/* Who gave and took the page, and what lies beside it. */
static void fill_history(struct bp_event *event, const struct bp_finding *finding)
{
    const bufpool_pool *pool = event->pool;
    bufpool_fault *fault = event->fault;
    fault->below = fault->above = BUFPOOL_NO_PAGE;
    if (finding->state != BUFPOOL_STATE_CLOSED) {
        find_neighbours(pool, finding, &fault->below, &fault->above);
    }
    bp_provenance_read(&pool->provenance, finding->page, &fault->allocated, &fault->freed);
    if (finding->state == BUFPOOL_STATE_UNPINNED || finding->state == BUFPOOL_STATE_READ_ONLY) {
        fill_pins(pool, finding->page, fault);
        bool shown = finding->state == BUFPOOL_STATE_READ_ONLY || pool->space.adopted ||
                     bp_sample_has(&pool->pins.sample, finding->page);
        bool through = !event->guarded && pool->policy != BP_ABORT && shown;
        fault->flags |= through ? BUFPOOL_FAULT_WENT_THROUGH : 0;
    }
    forget_later(&fault->allocated, event->known);
    forget_later(&fault->freed, event->known);
    forget_later(&fault->pinned, event->known);
}

void bp_event_fill(struct bp_event *event, const struct bp_finding *finding)
{
    const bufpool_pool *pool = event->pool;
    bufpool_fault *fault = event->fault;
    memset(fault, 0, sizeof *fault);
    fault->size = sizeof *fault;
    fault->stack_depth = event->depth;
    memcpy(fault->stack, event->stack, event->depth * sizeof *event->stack);
    fault->address = (uintptr_t)event->info->si_addr;
    fault->pc = event->machine.pc;
    fault->page = finding->page;
    fault->offset = finding->offset;
    fault->pool_address = pool->space.base;
    fault->pool_capacity = pool->capacity;
    fault->page_size = pool->page_size;
    fault->red_zone = pool->lead;
    fault->sample = pool->pins.sample.one_in;
    fault->seed = pool->pins.sample.seed;
    fault->time_ns = bp_kernel_realtime_ns();
    fault->pid = (int32_t)getpid();
    fault->thread_id = event->order.thread != 0 ? event->order.thread : bp_thread_id();
    fault->signal = event->signo;
    fault->flags = finding->flags | (event->order.foreign ? BUFPOOL_FAULT_FOREIGN : 0);
    fault->access = event->machine.access;
    fault->state = finding->state;
    memcpy(fault->in_syscall, event->order.in_syscall, sizeof fault->in_syscall);
    if (fault->thread_id == bp_thread_id()) {
        prctl(PR_GET_NAME, fault->thread_name);
    } else {
        bp_thread_name(fault->thread_id, fault->thread_name);
    }
    bp_process_name(fault->pid, fault->process_name);
    memcpy(fault->pool_name, pool->name, sizeof fault->pool_name);
    memcpy(fault->memory, pool->memory, sizeof fault->memory);
    strncpy(fault->trap, pool->space.trap->name, sizeof fault->trap - 1);
    fill_history(event, finding);
    bp_fork_note(pool, fault->fork_note, sizeof fault->fork_note);
}

/* Gives the fault its number among those of the process and returns that among those of the pool: together, so that both
 * rise alike and whoever asks for the faults after the last he knows misses none. Bounded; at once where this thread is the
 * holder, interrupted by a handler that strays, or another process was, of which this one is a child. */
static uint64_t take_numbers(struct bp_event *event)
{
    static _Atomic uint64_t holder; /* process << 32 | thread */
    const uint64_t self = (uint64_t)(uint32_t)bp_process() << 32 | (uint32_t)bp_thread_id();
    uint64_t seen = 0;
    bool mine = false;
    for (int patience = 0; patience < 10000 && !mine && seen != self; patience++) {
        seen = atomic_load(&holder);
        if (seen == 0 || seen >> 32 != self >> 32) {
            mine = atomic_compare_exchange_strong(&holder, &seen, self);
        } else if (seen != self) {
            bp_kernel_sleep_ns(patience < 10 ? 10000 : 100000);
        }
    }
    event->fault->sequence = atomic_fetch_add(&sequence, 1) + 1;
    uint64_t number = atomic_fetch_add(&event->pool->faults, 1);
    if (event->pool->pages.members != NULL && bp_pool_has_frames(event->pool)) {
        atomic_fetch_add(&bp_roster_self(&event->pool->pages)->faults, 1);
        BP_STORED("faults counted");
        atomic_fetch_add(&event->pool->pages.counts->faults, 1);
        BP_STORED("faults of all counted");
    }
    if (mine) {
        atomic_store(&holder, 0);
    }
    return number;
}

void bp_event_keep(struct bp_event *event)
{
    bufpool_pool *pool = event->pool;
    uint64_t number = take_numbers(event);
    bp_report_count(pool, event->fault, !event->guarded && pool->policy != BP_RAISE, &event->more);
    struct bp_ring_entry *entry = &pool->ring[number % BP_FAULT_RING];
    uint64_t serial = atomic_load(&entry->serial);
    /* A thread that lost the processor while it wrote may be lapped by 256 others: about a second's patience. */
    for (int patience = 0; serial % 2 != 0 || !atomic_compare_exchange_strong(&entry->serial, &serial, serial + 1);
         patience++) {
        if (patience == 10000) {
            atomic_fetch_add(&pool->reports_lost, 1);
            return;
        }
        bp_kernel_sleep_ns(100000);
        serial = atomic_load(&entry->serial);
    }
    bool lapped = atomic_load(&entry->number) > number + 1;
    for (size_t i = 0; i < BP_FAULT_WORDS && !lapped; i++) {
        uint64_t word;
        memcpy(&word, (const char *)event->fault + i * 8, 8);
        atomic_store_explicit(&entry->fault[i], word, memory_order_relaxed);
    }
    if (!lapped) {
        atomic_store(&entry->number, number + 1);
    }
    atomic_store(&entry->serial, serial + 2);
}

void bp_event_log(struct bp_event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        bp_report_more_log(event->pool, &event->more);
    } else {
        bp_report_log(event->pool, event->fault);
    }
}

void bp_event_stderr(struct bp_event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        bp_report_more_stderr(&event->more);
    } else {
        bp_report_stderr(event->fault);
    }
}

/* An event without a signal. */
static void prepare(struct bp_event *event, siginfo_t *info, uint64_t address, bufpool_fault *fault)
{
    memset(info, 0, sizeof *info);
    bool keyed = bp_keys_forbid(event->pool, event->machine.access);
    int signo = keyed ? SIGSEGV : SIGBUS;
    info->si_signo = signo;
    info->si_addr = (void *)(uintptr_t)address;
    event->signo = signo;
    event->info = info;
    event->fault = fault;
    event->known = bp_provenance_now(&event->pool->provenance);
    struct bp_finding finding;
    bp_diagnose(event->pool, (uintptr_t)address, event->machine.access, signo, keyed ? SEGV_PKUERR : BUS_ADRERR,
                &finding);
    bp_event_fill(event, &finding);
}

void bp_record_for(bufpool_pool *pool, const struct bp_order *order, bufpool_fault *fault, struct bp_more *more)
{
    siginfo_t info;
    struct bp_event event = {.pool = pool, .order = *order};
    event.machine = (struct bp_machine){.pc = order->pc, .sp = order->sp, .access = order->access};
    event.stack[0] = order->pc;
    event.depth = order->pc != 0 ? 1 : 0;
    prepare(&event, &info, order->address, fault);
    if (pool->policy == BP_ABORT && !order->foreign) {
        bp_postmortem_dump(pool, fault->page);
    }
    bp_event_keep(&event);
    bp_event_log(&event);
    *more = event.more;
}

void bp_record_describe(bufpool_pool *pool, uintptr_t address, bufpool_access access, bufpool_fault *fault)
{
    siginfo_t info;
    struct bp_event event = {.pool = pool};
    event.machine.access = access;
    prepare(&event, &info, address, fault);
    fault->signal = 0;
}
