/*
 * fault.c: from a signal to its answer.
 *
 * What may run here: the interrupted code may hold any lock, so nothing below takes one, allocates, or uses stdio; it
 * reads the pool's tables, makes system calls, and builds text in fixed buffers. Three steps, in files of their own:
 * diagnose (pure), record and report, and what happens next:
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
#include "fault.h"
#include "chain.h"
#include "diagnose.h"
#include "error.h"
#include "fork.h"
#include "freeze.h"
#include "orders.h"
#include "owed.h"
#include "poison.h"
#include "postmortem.h"
#include "report.h"
#include "scratch.h"
#include "section.h"
#include "stack.h"
#include "syscalls.h"
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define MAX_RESTARTS 1000
#define REPEAT_MS 1000

struct event {
    int signo;
    siginfo_t *info;
    void *context;
    struct bp_machine machine;
    bufpool_pool *pool;    /* visited until leave() */
    struct bp_order order; /* thread 0: the signal is the kernel's own */
    uint64_t known;        /* provenance's last sequence number when the handler began */
    int before;            /* errno of the interrupted code */
    bool guarded;          /* it ends a guarded call: nothing goes to stderr */
    struct bp_more more;
    uint32_t depth; /* of stack; walked before the fault's own two KiB are on the handler's stack, which may be small */
    uint64_t stack[BUFPOOL_STACK_DEPTH];
    bufpool_fault *fault;
};

static _Atomic uint64_t sequence;

/* What is numbered later than the handler's beginning came after the access, and is not what led to it. */
static void forget_later(bufpool_origin *origin, uint64_t known)
{
    if (bp_provenance_is_later(origin->sequence, known)) {
        memset(origin, 0, sizeof *origin);
    }
}

/* Who gave and took the page, and what lies beside it. */
static void fill_history(struct event *event, const struct bp_finding *finding)
{
    const bufpool_pool *pool = event->pool;
    bufpool_fault *fault = event->fault;
    fault->below = fault->above = BUFPOOL_NO_PAGE;
    if (finding->state != BUFPOOL_STATE_CLOSED) {
        bp_neighbours(pool, finding->page, &fault->below, &fault->above);
    }
    bp_provenance_read(&pool->provenance, finding->page, &fault->allocated, &fault->freed);
    forget_later(&fault->allocated, event->known);
    forget_later(&fault->freed, event->known);
}

static void fill_fault(struct event *event, const struct bp_finding *finding)
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
    memcpy(fault->pool_name, pool->name, sizeof fault->pool_name);
    memcpy(fault->memory, pool->memory, sizeof fault->memory);
    strncpy(fault->trap, pool->space.trap->name, sizeof fault->trap - 1);
    fill_history(event, finding);
    bp_fork_note(pool, fault->fork_note, sizeof fault->fork_note);
}

/* Gives the fault its number among those of the process and returns that among those of the pool: together, so that both
 * rise alike and whoever asks for the faults after the last he knows misses none. Bounded, in case the holder has been
 * interrupted by a handler that strays. */
static uint64_t take_numbers(struct event *event)
{
    static atomic_flag held;
    bool mine = false;
    for (int patience = 0; patience < 100 && !mine; patience++) {
        mine = !atomic_flag_test_and_set(&held);
        if (!mine) {
            bp_kernel_sleep_ns(10000);
        }
    }
    event->fault->sequence = atomic_fetch_add(&sequence, 1) + 1;
    uint64_t number = atomic_fetch_add(&event->pool->faults, 1);
    if (mine) {
        atomic_flag_clear(&held);
    }
    return number;
}

/* Counts the fault and keeps it for bufpool_faults(). */
static void keep(struct event *event)
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
    for (size_t i = 0; i < BP_FAULT_WORDS; i++) {
        uint64_t word;
        memcpy(&word, (const char *)event->fault + i * 8, 8);
        atomic_store_explicit(&entry->fault[i], word, memory_order_relaxed);
    }
    atomic_store(&entry->serial, serial + 2);
}

static void write_log(struct event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        bp_report_more_log(event->pool, &event->more);
    } else {
        bp_report_log(event->pool, event->fault);
    }
}

static void write_stderr(struct event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        bp_report_more_stderr(&event->more);
    } else {
        bp_report_stderr(event->fault);
    }
}

/* Keeps it, and writes it to the log. */
static void record(struct event *event)
{
    keep(event);
    write_log(event);
}

static bool has_frames(const bufpool_pool *pool)
{
    return !bp_pool_is_closed(pool) && pool->process == bp_process();
}

static bool is_allocated(const bufpool_pool *pool, uint64_t page)
{
    return has_frames(pool) && bp_state_seen(bp_pages_load(&pool->pages, page)) == BUFPOOL_STATE_ALLOCATED;
}

static void leave(struct event *event)
{
    bp_pool_leave(event->pool);
}

/* Before a jump: sigsetjmp kept no mask, and a host's own handler may have one blocked. */
static void restore_mask(const void *context)
{
    pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
}

_Noreturn static void jump(struct event *event, bufpool_section *section)
{
    section->address = event->info->si_addr;
    leave(event);
    restore_mask(event->context);
    errno = event->before;
    bp_section_jump(section);
}

_Noreturn static void end_guarded_call(struct event *event, bufpool_section *section)
{
    event->guarded = true;
    record(event);
    *section->fault = *event->fault;
    jump(event, section);
}

_Noreturn static void restart(struct event *event, bufpool_section *section)
{
    atomic_fetch_add_explicit(&event->pool->restarts, 1, memory_order_relaxed);
    jump(event, section);
}

/* Was it a system call? Then it is over by now. */
static bool is_call(const struct event *event)
{
    return event->order.in_syscall[0] != 0;
}

static uint32_t now_ms(void)
{
    return (uint32_t)(bp_kernel_monotonic_ns() / 1000000);
}

/* The instruction that strayed a moment ago has strayed again, with no call into the library since: another thread's
 * call re-armed the page before it was over. One access, one report. But an access is over in a second, even where the
 * thread has lost the processor meanwhile: what strays for longer is told again. */
static bool is_repeat(const struct event *event)
{
    return !is_call(event) && bp_thread.last_epoch == bp_thread.epoch && bp_thread.last_pc == event->machine.pc &&
           bp_thread.last_address == event->fault->address && bp_thread.last_pc != 0 &&
           now_ms() - bp_thread.last_ms < REPEAT_MS;
}

static void remember_access(const struct event *event)
{
    bp_thread.last_epoch = bp_thread.epoch;
    bp_thread.last_pc = event->machine.pc;
    bp_thread.last_address = (uint64_t)(uintptr_t)event->info->si_addr;
    bp_thread.last_ms = now_ms();
}

static bool divert(struct event *event)
{
    if (is_call(event)) {
        return true; /* nothing will touch the page again */
    }
    return event->fault->access != BUFPOOL_EXECUTE && !(event->fault->flags & BUFPOOL_FAULT_LOST) &&
           bp_scratch_divert(event->pool, event->fault->page, (uintptr_t)event->fault->address);
}

/* Where the program does not go on, the report is whole, however many there were. */
static void lift_limit(struct event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        event->fault->flags &= ~BUFPOOL_FAULT_LIMITED;
        bp_report_log(event->pool, event->fault);
    }
}

static void report_and_die(struct event *event)
{
    bp_postmortem_dump(event->pool, event->fault->page);
    lift_limit(event);
    leave(event);
    bp_report_stderr(event->fault);
    bp_report_wait();
    bp_signal_default(event->signo, event->info);
}

static void resume(struct event *event)
{
    bool diverted = divert(event);
    if (!diverted) {
        report_and_die(event);
        return;
    }
    remember_access(event);
    bp_thread.restarts = 0;
    bool raise = event->pool->policy == BP_RAISE;
    event->fault->flags |= raise ? 0 : BUFPOOL_FAULT_TOLD;
    bool owed = (raise || event->pool->tell) && bp_owed_push(event->fault);
    if (!owed && (raise || event->pool->tell)) {
        atomic_fetch_add(&event->pool->reports_lost, 1);
    }
    leave(event);
    if (owed && raise) {
        return;
    }
    write_stderr(event); /* outside the pool: bufpool_close() need not wait for a slow reader of stderr */
}

/* The pool at an address, visited, and still there. NULL: none. */
static bufpool_pool *visit_at(uintptr_t address)
{
    bufpool_pool *pool = bp_pool_at(address);
    if (pool == NULL || !bp_pool_visit(pool)) {
        return NULL;
    }
    if (bp_pool_at(address) != pool) { /* given back, and its descriptor in use again */
        bp_pool_leave(pool);
        return NULL;
    }
    return pool;
}

/* The thread was frozen at this access, and is to go on. */
static void thaw(struct event *event, enum bp_frozen_wish wish)
{
    uintptr_t address = (uintptr_t)event->info->si_addr;
    bufpool_pool *pool = event->pool = visit_at(address);
    if (pool == NULL) {
        return; /* gone meanwhile: the access is tried again, as somebody else's */
    }
    uint64_t page = bp_page_at(pool, address);
    if (wish == BP_WISH_RESUME &&
        (is_call(event) || (event->machine.access != BUFPOOL_EXECUTE && bp_scratch_divert(pool, page, address)))) {
        remember_access(event);
        leave(event);
        return;
    }
    bp_postmortem_dump(pool, page);
    leave(event);
    bp_report_wait();
    bp_signal_default(event->signo, event->info);
}

static void freeze(struct event *event)
{
    bufpool_pool *pool = event->pool;
    bool sleeps =
        event->order.thread != 0 && !is_call(event) && has_frames(pool) && !is_allocated(pool, event->fault->page);
    lift_limit(event);
    atomic_fetch_add(&pool->kept, 1); /* so that there is something to go on with, when the pool is closed */
    leave(event);
    bp_report_stderr(event->fault);
    enum bp_frozen_wish wish = bp_freeze(event->fault, event->machine.sp, sleeps);
    if (wish != BP_WISH_NONE) {
        thaw(event, event->fault->flags & BUFPOOL_FAULT_LOST ? BP_WISH_ABORT : wish);
    }
    atomic_fetch_sub(&pool->kept, 1);
}

static void apply_policy(struct event *event)
{
    switch (event->pool->policy) {
    case BP_ABORT:
        report_and_die(event);
        break;
    case BP_FREEZE:
        freeze(event);
        break;
    case BP_RAISE:
    case BP_RESUME:
        resume(event);
        break;
    }
}

/* What on_fault says. */
static void report(struct event *event)
{
    record(event);
    apply_policy(event);
}

/* A function of its own, called through a pointer, so that in_callback() can find it on the stack. */
static bufpool_verdict call_host(bufpool_fault_callback callback, const bufpool_fault *fault, void *context)
{
    bufpool_verdict verdict = callback(fault, context);
    __asm__ volatile("" ::: "memory"); /* no tail call */
    return verdict;
}

static bufpool_verdict (*const volatile host_caller)(bufpool_fault_callback, const bufpool_fault *, void *) = call_host;

/* false: pass the signal on. */
static bool ask_callback(struct event *event, bufpool_fault_callback callback, void *context)
{
    bufpool_pool *pool = event->pool;
    leave(event); /* the callback may close the pool, or never come back */
    uintptr_t outer = bp_thread.callback_frame;
    bp_thread.callback_frame = (uintptr_t)__builtin_frame_address(0);
    sigset_t before;
    bp_signal_open_mask(event->context, &before);
    bufpool_verdict verdict = host_caller(callback, event->fault, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    bp_thread.callback_frame = outer;
    if (!bp_pool_visit(pool)) {
        return true; /* gone: the instruction will fault again, as somebody else's */
    }
    if (pool->space.base != event->fault->pool_address || pool->page_size != event->fault->page_size) {
        leave(event); /* gone too, and its descriptor in use again */
        return true;
    }
    bool again = bp_thread.last_pc == event->machine.pc && bp_thread.last_address == event->fault->address &&
                 !is_allocated(pool, event->fault->page);
    bp_thread.restarts = verdict == BUFPOOL_VERDICT_RESTART && again ? bp_thread.restarts + 1 : 0;
    if (verdict == BUFPOOL_VERDICT_RESTART && bp_thread.restarts < MAX_RESTARTS) {
        remember_access(event);
        bp_thread.last_epoch--; /* not a repeat: the callback is asked again */
        leave(event);
        return true;
    }
    if (verdict == BUFPOOL_VERDICT_PASS) {
        leave(event);
        return is_call(event); /* nobody else has an answer to it */
    }
    keep(event);
    if (verdict == BUFPOOL_VERDICT_RESUME && divert(event)) {
        remember_access(event);
        leave(event);
        return true;
    }
    write_log(event);
    apply_policy(event);
    return true;
}

/* Does a callback of this thread still run? One that left by longjmp does not; where its frame was, deeper calls of the
 * host may be by now, so the stack itself has to tell. */
static bool in_callback(void)
{
    if (bp_thread.callback_frame == 0 || (uintptr_t)__builtin_frame_address(0) > bp_thread.callback_frame) {
        return false;
    }
    return bp_stack_count((uintptr_t)host_caller) != 0;
}

/* The callback and the context that were set together. */
static bufpool_fault_callback callback_of(bufpool_pool *pool, void **context)
{
    bufpool_fault_callback callback;
    do {
        callback = atomic_load(&pool->callback);
        *context = atomic_load(&pool->callback_context);
    } while (atomic_load(&pool->callback) != callback);
    return callback;
}

static bool answer(struct event *event)
{
    if (is_repeat(event)) {
        /* An allocated page that faults on and on is no hole: the host protects it. */
        if (event->fault->state == BUFPOOL_STATE_ALLOCATED && ++bp_thread.restarts > MAX_RESTARTS) {
            leave(event);
            return false;
        }
        if (divert(event)) {
            atomic_fetch_add(&event->pool->repeats, 1);
            leave(event);
            return true;
        }
    }
    void *context;
    bufpool_fault_callback callback = callback_of(event->pool, &context);
    if (callback != NULL && !in_callback()) {
        return ask_callback(event, callback, context);
    }
    report(event);
    return true;
}

/* A signal sent by this very thread (raise) after a fault that another handler saw first: the processor state still
 * names that fault's address. */
static bool is_raised_again(const struct event *event)
{
    if (event->info->si_code > 0 || event->info->si_code == SI_QUEUE || event->info->si_pid != getpid()) {
        return false;
    }
    uintptr_t address = (uintptr_t)event->machine.last_fault;
    bufpool_pool *pool = visit_at(address);
    if (pool == NULL) {
        return false;
    }
    bool hole = !is_allocated(pool, bp_page_at(pool, address));
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

/* An allocated page has raised SIGBUS. Was it not accessible before, or has it lost its frame past us, by somebody who
 * truncated or punched the file? */
static void tell_lost(const struct event *event, struct bp_finding *finding)
{
    if (finding->flags & BUFPOOL_FAULT_RACED && event->signo == SIGBUS && finding->state == BUFPOOL_STATE_ALLOCATED &&
        (bp_poison_finds_lost(event->pool, finding->page, (uintptr_t)event->info->si_addr) ||
         !is_readable((uintptr_t)event->info->si_addr)) &&
        is_allocated(event->pool, finding->page)) {
        finding->flags ^= BUFPOOL_FAULT_RACED | BUFPOOL_FAULT_LOST;
    }
}

/* An allocated page has raised the signal of a trap that works by protection. Was it not accessible before, or has the
 * host protected it for purposes of its own? The kernel itself tries. Once could be a moment in which others free the page
 * and allocate it again, and to them nothing of this shows; a millisecond of such moments could not. */
static bool is_protected_by_host(const struct event *event, const struct bp_finding *finding)
{
    if (!(finding->flags & BUFPOOL_FAULT_RACED) || event->signo != SIGSEGV) {
        return false;
    }
    uintptr_t address = (uintptr_t)event->info->si_addr;
    for (int moment = 0; moment < 16; moment++) {
        bool accessible = event->machine.access == BUFPOOL_WRITE
                              ? bp_kernel_writable((void *)(address & ~(uintptr_t)3))
                              : bp_kernel_readable((void *)(address & ~(uintptr_t)7));
        if (accessible || bp_pages_load(&event->pool->pages, finding->page) != BUFPOOL_STATE_ALLOCATED) {
            return false;
        }
        bp_kernel_sleep_ns(20000);
    }
    return true;
}

/* Is it the fault of a careful read, not of a host's handler that has interrupted one? */
static bool is_probe(const siginfo_t *info)
{
    uintptr_t address = (uintptr_t)info->si_addr;
    return bp_thread.probe_size == 0 || info->si_code == SI_KERNEL ||
           address - bp_thread.probe_from < bp_thread.probe_size || address - bp_thread.probe_to < bp_thread.probe_size;
}

/* Is it what an optimistic section is for: a read of a hole, by the program itself? */
static bool is_optimistic(const struct event *event, const struct bp_finding *finding)
{
    return event->machine.access == BUFPOOL_READ && !is_call(event) && finding->state != BUFPOOL_STATE_CLOSED &&
           !(finding->flags & (BUFPOOL_FAULT_FORKED | BUFPOOL_FAULT_LOST));
}

/* This thread sleeps in an access, and the monitor has woken it for the answer: from here on the signal is what the kernel
 * would have sent. false: there is nothing to do here, or not now. */
static bool obey(struct event *event)
{
    const struct bp_order *order = &event->order;
    siginfo_t *info = event->info;
    memset(info, 0, sizeof *info);
    info->si_signo = event->signo;
    info->si_code = BUS_ADRERR;
    info->si_addr = (void *)(uintptr_t)order->address;
    event->machine.access = order->access;
    /* If another signal's handler has come in between, the instruction has yet to be run, and sleeps again. */
    if (!is_call(event) && order->pc != 0 && (order->pc != event->machine.pc || order->sp != event->machine.sp)) {
        return false;
    }
    struct bp_frozen_slot *slot = order->thaw == BP_WISH_NONE ? NULL : bp_frozen_asleep(order->thread);
    if (slot != NULL) {
        bp_frozen_remove(slot);
        thaw(event, order->thaw);
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
    return pool->space.flags & BUFPOOL_MONITOR && has_frames(pool) &&
           (!is_allocated(pool, page) || is_readable(address));
}

/* A function of its own for the stack that the fault takes. */
__attribute__((noinline)) static bool take_up(struct event *event, const struct bp_finding *finding,
                                              bufpool_section *section)
{
    bufpool_fault fault;
    event->fault = &fault;
    fill_fault(event, finding);
    if (section != NULL) {
        end_guarded_call(event, section);
    }
    return answer(event);
}

bool bufpool_handle_signal(int signo, siginfo_t *info, void *context)
{
    if ((signo != SIGBUS && signo != SIGSEGV) || info == NULL || context == NULL) {
        return false;
    }
    struct event event = {.signo = signo, .info = info, .context = context};
    bp_machine_read(context, &event.machine);
    if (info->si_code <= 0) {
        if (signo != SIGBUS || !bp_order_take(bp_thread_id(), &event.order)) {
            return is_marker(info) || is_raised_again(&event);
        }
        if (!obey(&event)) {
            return true;
        }
    }
    bp_thread.let_go = false;
    if (bp_thread.probe != NULL && is_probe(info) && !is_call(&event)) {
        restore_mask(context);
        siglongjmp(*bp_thread.probe, 1);
    }
    bool hardware = signo == SIGBUS && info->si_code == BUS_MCEERR_AR;
    if (signo == SIGBUS && info->si_code != BUS_ADRERR && !hardware) {
        return false; /* a misaligned access */
    }
    event.pool = visit_at((uintptr_t)info->si_addr);
    if (event.pool == NULL) {
        return event.order.thread != 0; /* a pool that is gone: the access is tried again, or over */
    }
    if (hardware && !is_poison(event.pool, (uintptr_t)info->si_addr)) {
        leave(&event);
        return false;
    }
    event.known = atomic_load(&event.pool->provenance.sequence);
    if (is_call(&event) && has_frames(event.pool)) {
        bp_unpoison(event.pool, &event.order);
        if (bp_thread.fills > 0) { /* a call of the library's own, which says itself that the data is not readable */
            leave(&event);
            return true;
        }
    }
    struct bp_finding finding;
    bp_diagnose(event.pool, (uintptr_t)info->si_addr, event.machine.access, signo, info->si_code, &finding);
    if (!finding.ours) {
        bool shut = bp_scratch_was_shut(event.pool, signo, info, event.machine.pc);
        leave(&event);
        return shut;
    }
    event.before = errno;
    tell_lost(&event, &finding);
    if (is_protected_by_host(&event, &finding)) {
        leave(&event);
        errno = event.before;
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
    bool ours = take_up(&event, &finding, section);
    errno = event.before;
    return ours;
}

/* An event without a signal. */
static void prepare(struct event *event, siginfo_t *info, uint64_t address, bufpool_fault *fault)
{
    memset(info, 0, sizeof *info);
    info->si_signo = SIGBUS;
    info->si_addr = (void *)(uintptr_t)address;
    event->signo = SIGBUS;
    event->info = info;
    event->fault = fault;
    event->known = atomic_load(&event->pool->provenance.sequence);
    struct bp_finding finding;
    bp_diagnose(event->pool, (uintptr_t)address, event->machine.access, SIGBUS, BUS_ADRERR, &finding);
    fill_fault(event, &finding);
}

void bp_fault_report_for(bufpool_pool *pool, const struct bp_order *order, bufpool_fault *fault)
{
    siginfo_t info;
    struct event event = {.pool = pool, .order = *order};
    event.machine = (struct bp_machine){.pc = order->pc, .sp = order->sp, .access = order->access};
    event.stack[0] = order->pc;
    event.depth = order->pc != 0 ? 1 : 0;
    prepare(&event, &info, order->address, fault);
    if (pool->policy == BP_ABORT && !order->foreign) {
        bp_postmortem_dump(pool, fault->page);
    }
    record(&event);
    write_stderr(&event);
}

void bp_fault_describe(bufpool_pool *pool, uintptr_t address, bufpool_fault *fault)
{
    siginfo_t info;
    struct event event = {.pool = pool};
    prepare(&event, &info, address, fault);
    fault->signal = 0;
}
