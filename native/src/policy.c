/* policy.c: what happens after a report, see policy.h. */
#include "policy.h"

#include "chain.h"
#include "freeze.h"
#include "keys.h"
#include "owed.h"
#include "postmortem.h"
#include "record.h"
#include "scratch.h"
#include "thread.h"

#define REPEAT_MS 1000

static uint32_t now_ms(void)
{
    return (uint32_t)(bp_kernel_monotonic_ns() / 1000000);
}

/* The instruction that strayed a moment ago has strayed again, with no call into the library since: another thread's
 * call re-armed the page before it was over. One access, one report. But an access is over in a second, even where the
 * thread has lost the processor meanwhile: what strays for longer is told again. */
bool bp_event_is_repeat(const struct bp_event *event)
{
    return !bp_event_is_call(event) && bp_thread.last_epoch == bp_thread.epoch &&
           bp_thread.last_pc == event->machine.pc && bp_thread.last_address == event->fault->address &&
           bp_thread.last_pc != 0 && now_ms() - bp_thread.last_ms < REPEAT_MS;
}

void bp_event_remember(const struct bp_event *event)
{
    bp_thread.last_epoch = bp_thread.epoch;
    bp_thread.last_pc = event->machine.pc;
    bp_thread.last_address = (uint64_t)(uintptr_t)event->info->si_addr;
    bp_thread.last_ms = now_ms();
}

static bool divert(const struct bp_event *event, uint64_t page, uintptr_t address)
{
    bool done = bp_scratch_divert(event->pool, page, event->machine.access, address);
    if (done && event->machine.access == BUFPOOL_WRITE) {
        bp_keys_let_through(event->pool, event->context);
    }
    return done;
}

bool bp_event_divert(struct bp_event *event)
{
    if (bp_event_is_call(event)) {
        return true; /* nothing will touch the page again */
    }
    return event->fault->access != BUFPOOL_EXECUTE && !(event->fault->flags & BUFPOOL_FAULT_LOST) &&
           divert(event, event->fault->page, (uintptr_t)event->fault->address);
}

/* Where the program does not go on, the report is whole, however many there were. */
static void lift_limit(struct bp_event *event)
{
    if (event->fault->flags & BUFPOOL_FAULT_LIMITED) {
        event->fault->flags &= ~BUFPOOL_FAULT_LIMITED;
        bp_report_log(event->pool, event->fault);
    }
}

static void report_and_die(struct bp_event *event)
{
    bp_postmortem_dump(event->pool, event->fault->page);
    lift_limit(event);
    bp_pool_leave(event->pool);
    bp_report_stderr(event->fault);
    bp_report_wait();
    bp_signal_default(event->signo, event->info);
}

static void resume(struct bp_event *event)
{
    bool diverted = bp_event_divert(event);
    if (!diverted) {
        report_and_die(event);
        return;
    }
    bp_event_remember(event);
    bp_thread.restarts = 0;
    bool raise = event->pool->policy == BP_RAISE;
    event->fault->flags |= raise ? 0 : BUFPOOL_FAULT_TOLD;
    bool owed = (raise || event->pool->tell) && bp_owed_push(event->fault);
    if (!owed && (raise || event->pool->tell)) {
        atomic_fetch_add(&event->pool->reports_lost, 1);
    }
    bp_pool_leave(event->pool);
    if (owed && raise) {
        return;
    }
    bp_event_stderr(event); /* outside the pool: bufpool_close() need not wait for a slow reader of stderr */
}

void bp_policy_thaw(struct bp_event *event, enum bp_frozen_wish wish)
{
    uintptr_t address = (uintptr_t)event->info->si_addr;
    bufpool_pool *pool = event->pool = bp_pool_visit_at(address);
    if (pool == NULL) {
        return; /* gone meanwhile: the access is tried again, as somebody else's */
    }
    uint64_t page = bp_page_at(pool, address);
    if (wish == BP_WISH_RESUME &&
        (bp_event_is_call(event) || (event->machine.access != BUFPOOL_EXECUTE && divert(event, page, address)))) {
        bp_event_remember(event);
        bp_pool_leave(event->pool);
        return;
    }
    bp_postmortem_dump(pool, page);
    bp_pool_leave(event->pool);
    bp_report_wait();
    bp_signal_default(event->signo, event->info);
}

static void freeze(struct bp_event *event)
{
    bufpool_pool *pool = event->pool;
    bool sleeps = event->order.thread != 0 && !bp_event_is_call(event) && bp_pool_has_frames(pool) &&
                  (event->fault->state == BUFPOOL_STATE_RED_ZONE || !bp_pool_has_page(pool, event->fault->page));
    lift_limit(event);
    atomic_fetch_add(&pool->kept, 1); /* so that there is something to go on with, when the pool is closed */
    bp_pool_leave(event->pool);
    bp_report_stderr(event->fault);
    enum bp_frozen_wish wish = bp_freeze(event->fault, event->machine.sp, sleeps);
    if (wish != BP_WISH_NONE) {
        bp_policy_thaw(event, event->fault->flags & BUFPOOL_FAULT_LOST ? BP_WISH_ABORT : wish);
    }
    atomic_fetch_sub(&pool->kept, 1);
}

void bp_policy_apply(struct bp_event *event)
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
