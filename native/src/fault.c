/*
 * fault.c: from a signal to its answer.
 *
 * What may run here: the interrupted code may hold any lock, so nothing below takes one, allocates, or uses stdio; it
 * reads the pool's tables, makes system calls, and builds text in fixed buffers. Three steps, in files of their own:
 * diagnose (pure), record and report (record.c), and what happens next (here, callback.c, policy.c):
 *
 *   a read in an optimistic section         -> the section starts again (a jump), and nothing is said
 *   a guarded call is open in this thread   -> the fault is its result (a jump)
 *   the pool has a callback                 -> its verdict
 *   on_fault                                -> abort, resume, raise
 *
 * A fault inside one of our own careful reads (the unwinder on a broken stack) goes back there. A stray access made by
 * the host's callback is a stray access like any other, but is not given to the callback again. A signal that a later
 * handler (faulthandler) raises again after a fault of ours, without an address, is let go: the instruction is run
 * again and faults into us.
 */
#include "callback.h"
#include "chain.h"
#include "keys.h"
#include "orders.h"
#include "poison.h"
#include "policy.h"
#include "record.h"
#include "scratch.h"
#include "section.h"
#include "stack.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

/* Before a jump: sigsetjmp kept no mask, and a host's own handler may have one blocked. */
static void restore_mask(const void *context)
{
    pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
}

_Noreturn static void jump(struct bp_event *event, bufpool_section *section)
{
    section->address = event->info->si_addr;
    bp_pool_leave(event->pool);
    restore_mask(event->context);
    errno = event->before;
    bp_section_jump(section);
}

_Noreturn static void end_guarded_call(struct bp_event *event, bufpool_section *section)
{
    bp_event_keep(event);
    bp_event_log(event);
    *section->fault = *event->fault;
    jump(event, section);
}

_Noreturn static void restart(struct bp_event *event, bufpool_section *section)
{
    atomic_fetch_add_explicit(&event->pool->restarts, 1, memory_order_relaxed);
    jump(event, section);
}

static bool answer(struct bp_event *event)
{
    if (bp_event_is_repeat(event)) {
        /* An allocated page that faults on and on is no hole: the host protects it. */
        if (event->fault->state == BUFPOOL_STATE_ALLOCATED && ++bp_thread.restarts > BP_MAX_RESTARTS) {
            bp_pool_leave(event->pool);
            return false;
        }
        if (bp_event_divert(event)) {
            atomic_fetch_add(&event->pool->repeats, 1);
            bp_pool_leave(event->pool);
            return true;
        }
    }
    void *context;
    bufpool_fault_callback callback = bp_callback_of(event->pool, &context);
    if (callback != NULL && !bp_callback_runs()) {
        return bp_callback_ask(event, callback, context);
    }
    bp_event_keep(event);
    bp_event_log(event);
    bp_policy_apply(event);
    return true;
}

/* A signal sent by this very thread (raise) after a fault that another handler saw first: the processor state still
 * names that fault's address. */
static bool is_raised_again(const struct bp_event *event)
{
    if (event->info->si_code > 0 || event->info->si_code == SI_QUEUE || event->info->si_pid != getpid()) {
        return false;
    }
    uintptr_t address = (uintptr_t)event->machine.last_fault;
    bufpool_pool *pool = bp_pool_visit_at(address);
    if (pool == NULL) {
        return false;
    }
    uint64_t page = bp_page_at(pool, address);
    bool hole = bp_in_zone(pool, address) || !bp_pool_has_page(pool, page) ||
                bp_pins_judge(pool, page, event->machine.access) != BUFPOOL_STATE_ALLOCATED ||
                bp_keys_forbid(pool, event->machine.access);
    bp_pool_leave(pool);
    /* Only from inside another handler, and once: else the raise is meant. Where the stack may not be walked, not for a
     * fault that we have answered ourselves. */
    int handlers = bp_stack_handlers();
    if (!hole || bp_thread.let_go || (handlers < 0 ? bp_thread.answered_address == address : handlers < 2)) {
        return false;
    }
    bp_thread.let_go = true;
    return true;
}

/* Can the kernel read the eight bytes around the address? Should they be a hole that a monitor watches, the call is not
 * reported. */
static bool is_readable(uintptr_t address)
{
    bp_thread.fills++;
    bool readable = bp_kernel_readable((const void *)(address & ~(uintptr_t)7));
    bp_thread.fills--;
    return readable;
}

static bool is_accessible(const struct bp_event *event)
{
    uintptr_t address = (uintptr_t)event->info->si_addr;
    return event->machine.access == BUFPOOL_WRITE && event->signo == SIGSEGV
               ? bp_kernel_writable((void *)(address & ~(uintptr_t)3))
               : is_readable(address);
}

/* Is a page that is allocated not accessible to the kernel either? Once could be a moment in which others free the page and
 * allocate it again, and to them nothing of this shows; as many moments as this, with sleep between them, could not. */
static bool stays_shut(const struct bp_event *event, uint64_t page)
{
    for (int moment = 0; moment < 16; moment++) {
        if (is_accessible(event) || !bp_pool_has_page(event->pool, page)) {
            return false;
        }
        bp_kernel_sleep_ns(20000);
    }
    return true;
}

/* Has an allocated page lost its frame past us, by somebody who truncated or punched the file? Where the kernel would sleep on
 * the hole it is poisoned first, so that it can be asked. */
static bool is_lost(const struct bp_event *event, uint64_t page)
{
    uint64_t address = (uintptr_t)event->info->si_addr;
    struct bp_order order = {.address = address};
    order.poisoned = event->pool->space.sleep == BP_SLEEP_ALL && bp_poison(event->pool, address) == 0;
    bool lost = stays_shut(event, page) && bp_pool_has_page(event->pool, page);
    if (order.poisoned && !lost) {
        bp_unpoison(event->pool, &order);
    }
    return lost;
}

/* An allocated page has raised SIGBUS. Was it not accessible before, or is its frame gone? */
static void tell_lost(const struct bp_event *event, struct bp_finding *finding)
{
    if (finding->flags & BUFPOOL_FAULT_RACED && event->signo == SIGBUS && finding->state == BUFPOOL_STATE_ALLOCATED &&
        is_lost(event, finding->page)) {
        finding->flags ^= BUFPOOL_FAULT_RACED | BUFPOOL_FAULT_LOST;
    }
}

/* A page that is open has raised SIGBUS. Has the kernel unmapped it? Then it is shown again, and the access is no stray;
 * but what faults on and on is. */
static bool is_forgotten(const struct bp_event *event, const struct bp_finding *finding)
{
    uint64_t address = (uint64_t)(uintptr_t)event->info->si_addr;
    if (!(finding->flags & BUFPOOL_FAULT_RACED) || event->signo != SIGBUS || bp_event_is_call(event) ||
        !bp_space_forgets(&event->pool->space)) {
        return false;
    }
    bool again = bp_thread.retried_pc == event->machine.pc && bp_thread.retried_address == address;
    bp_thread.retried_pc = event->machine.pc;
    bp_thread.retried_address = address;
    bp_thread.restarts = again ? bp_thread.restarts + 1 : 0;
    return bp_thread.restarts < BP_MAX_RESTARTS && bp_pins_show_again(event->pool, finding->page, (uintptr_t)address);
}

/* Has a careful read met such a page? Then it goes on. */
static bool is_probe_forgotten(struct bp_event *event)
{
    uintptr_t address = (uintptr_t)event->info->si_addr;
    const bufpool_pool *pool = bp_pool_at(address);
    /* Most pools forget none, and need not be visited, for which a fork would be waited for. */
    if (event->signo != SIGBUS || event->info->si_code != BUS_ADRERR || pool == NULL ||
        pool->space.unpinned == BP_OPEN_WRITE) {
        return false;
    }
    event->pool = bp_pool_visit_at(address);
    if (event->pool == NULL) {
        return false;
    }
    struct bp_finding finding = {.ours = false};
    if (bp_space_forgets(&event->pool->space)) {
        bp_diagnose(event->pool, address, event->machine.access, event->signo, event->info->si_code, &finding);
    }
    bool forgotten = finding.ours && is_forgotten(event, &finding);
    bp_pool_leave(event->pool);
    return forgotten;
}

/* An allocated page has raised the signal of a trap that works by protection. Was it not accessible before, or has the
 * host protected it for purposes of its own? */
static bool is_protected_by_host(const struct bp_event *event, const struct bp_finding *finding)
{
    return finding->flags & BUFPOOL_FAULT_RACED && event->signo == SIGSEGV && stays_shut(event, finding->page);
}

/* Is it the fault of a careful read, not of a host's handler that has interrupted one? */
static bool is_probe(const siginfo_t *info)
{
    uintptr_t address = (uintptr_t)info->si_addr;
    return bp_thread.probe_size == 0 || info->si_code == SI_KERNEL ||
           address - bp_thread.probe_from < bp_thread.probe_size || address - bp_thread.probe_to < bp_thread.probe_size;
}

/* Is it what an optimistic section is for: a read of a hole, by the program itself? */
static bool is_optimistic(const struct bp_event *event, const struct bp_finding *finding)
{
    return event->machine.access == BUFPOOL_READ && !bp_event_is_call(event) &&
           finding->state != BUFPOOL_STATE_CLOSED && finding->state != BUFPOOL_STATE_UNPINNED &&
           !(finding->flags & (BUFPOOL_FAULT_FORKED | BUFPOOL_FAULT_LOST));
}

/* This thread sleeps in an access, and the monitor has woken it for the answer: from here on the signal is what the kernel
 * would have sent. false: there is nothing to do here, or not now. */
static bool obey(struct bp_event *event)
{
    const struct bp_order *order = &event->order;
    siginfo_t *info = event->info;
    memset(info, 0, sizeof *info);
    info->si_signo = event->signo;
    info->si_code = BUS_ADRERR;
    info->si_addr = (void *)(uintptr_t)order->address;
    event->machine.access = order->access;
    if (order->pc == 0 && order->access == BUFPOOL_READ &&
        order->address - event->machine.pc < BP_LONGEST_INSTRUCTION) {
        event->machine.access = BUFPOOL_EXECUTE; /* the monitor could not tell */
    }
    /* If another signal's handler has come in between, the instruction has yet to be run, and sleeps again. */
    if (!bp_event_is_call(event) && order->pc != 0 &&
        (order->pc != event->machine.pc || order->sp != event->machine.sp)) {
        return false;
    }
    struct bp_frozen_slot *slot = order->thaw == BP_WISH_NONE ? NULL : bp_frozen_asleep(order->thread);
    if (slot != NULL) {
        bp_frozen_remove(slot);
        bp_policy_thaw(event, order->thaw);
    }
    return order->thaw == BP_WISH_NONE;
}

/* The monitor's signal, whose order was replaced by another one, or taken back because the signal came too late. */
static bool is_marker(const siginfo_t *info)
{
    return info->si_code == SI_QUEUE && info->si_pid == getpid() && info->si_value.sival_ptr == bp_order_marker();
}

/* SIGBUS with the code of broken hardware: is it only a granule that was poisoned for somebody's system call? */
static bool is_poison(const bufpool_pool *pool, uintptr_t address)
{
    uint64_t page = bp_page_at(pool, address);
    return pool->space.flags & BUFPOOL_MONITOR && bp_pool_has_frames(pool) &&
           (bp_in_zone(pool, address) || !bp_pool_has_page(pool, page) || is_readable(address));
}

/* A fault by the key of a pool, to which this thread has the right? It may be that of a careful read, too. */
static bool is_admitted(const struct bp_event *event)
{
    if (event->signo != SIGSEGV || event->info->si_code != SEGV_PKUERR) {
        return false;
    }
    bufpool_pool *pool = bp_pool_visit_at((uintptr_t)event->info->si_addr);
    bool admitted = pool != NULL && bp_keys_is_fault(pool, event->signo, event->info) &&
                    bp_keys_admit(pool, event->context, event->machine.access);
    if (pool != NULL) {
        bp_pool_leave(pool);
    }
    return admitted;
}

/* A function of its own for the stack that the fault takes. */
__attribute__((noinline)) static bool take_up(struct bp_event *event, const struct bp_finding *finding,
                                              bufpool_section *section)
{
    bufpool_fault fault;
    event->fault = &fault;
    event->guarded = section != NULL;
    bp_event_fill(event, finding);
    if (section != NULL) {
        end_guarded_call(event, section);
    }
    return answer(event);
}

static bool handle(int signo, siginfo_t *info, void *context, int before)
{
    if ((signo != SIGBUS && signo != SIGSEGV) || info == NULL || context == NULL) {
        return false;
    }
    struct bp_event event = {.signo = signo, .info = info, .context = context, .before = before};
    bp_machine_read(context, &event.machine);
    if (info->si_code <= 0) {
        if (signo != SIGBUS || !bp_order_take(bp_thread_id(), &event.order)) {
            return is_marker(info) || is_raised_again(&event);
        }
        if (!obey(&event)) {
            return true;
        }
    }
    if (is_admitted(&event)) {
        return true;
    }
    bp_thread.let_go = false;
    if (bp_thread.probe != NULL && is_probe(info) && !bp_event_is_call(&event)) {
        if (is_probe_forgotten(&event)) {
            return true;
        }
        restore_mask(context);
        siglongjmp(*bp_thread.probe, 1);
    }
    bool hardware = signo == SIGBUS && info->si_code == BUS_MCEERR_AR;
    if (signo == SIGBUS && info->si_code != BUS_ADRERR && !hardware) {
        return false; /* a misaligned access */
    }
    event.pool = bp_pool_visit_at((uintptr_t)info->si_addr);
    if (event.pool == NULL) {
        return event.order.thread != 0; /* a pool that is gone: the access is tried again, or over */
    }
    if (hardware && !is_poison(event.pool, (uintptr_t)info->si_addr)) {
        bp_pool_leave(event.pool);
        return false;
    }
    event.known = bp_provenance_now(&event.pool->provenance);
    if (bp_event_is_call(&event) && bp_pool_has_frames(event.pool)) {
        bp_unpoison(event.pool, &event.order);
        if (bp_thread.fills > 0) { /* a call of the library's own, which says itself that the data is not readable */
            bp_pool_leave(event.pool);
            return true;
        }
    }
    struct bp_finding finding;
    bp_diagnose(event.pool, (uintptr_t)info->si_addr, event.machine.access, signo,
                info->si_code != SEGV_PKUERR || bp_keys_is_fault(event.pool, signo, info) ? info->si_code : SEGV_ACCERR,
                &finding);
    if (!finding.ours) {
        bool shut = bp_scratch_was_shut(event.pool, signo, info, event.machine.pc);
        bp_pool_leave(event.pool);
        return shut;
    }
    if (is_forgotten(&event, &finding)) {
        bp_pool_leave(event.pool);
        return true;
    }
    tell_lost(&event, &finding);
    if (is_protected_by_host(&event, &finding)) {
        bp_pool_leave(event.pool);
        return false;
    }
    bp_thread.answered_address = (uint64_t)(uintptr_t)info->si_addr;
    bufpool_section *section = NULL;
    if (bp_thread.section != NULL) {
        section = bp_section_find(&event.machine, is_optimistic(&event, &finding));
    }
    if (section != NULL && section->fault == NULL) {
        restart(&event, section);
    }
    event.depth = bp_stack_walk(&event.machine, event.stack, BUFPOOL_STACK_DEPTH);
    return take_up(&event, &finding, section);
}

bool bufpool_handle_signal(int signo, siginfo_t *info, void *context)
{
    int before = errno;
    int64_t rights = context == NULL ? -1 : bp_keys_enter(context);
    bool ours = handle(signo, info, context, before);
    bp_keys_leave(rights);
    errno = before;
    return ours;
}
