/* callback.c: the host's say in a fault, see callback.h. */
#include "callback.h"

#include "chain.h"
#include "policy.h"
#include "record.h"
#include "stack.h"
#include "thread.h"

#include <signal.h>

/* A function of its own, called through a pointer, so that bp_callback_runs() can find it on the stack. */
static bufpool_verdict call_host(bufpool_fault_callback callback, const bufpool_fault *fault, void *context)
{
    bufpool_verdict verdict = callback(fault, context);
    __asm__ volatile("" ::: "memory"); /* no tail call */
    return verdict;
}

static bufpool_verdict (*const volatile host_caller)(bufpool_fault_callback, const bufpool_fault *, void *) = call_host;

bool bp_callback_runs(void)
{
    if (bp_thread.callback_frame == 0 || (uintptr_t)__builtin_frame_address(0) > bp_thread.callback_frame) {
        return false;
    }
    return bp_stack_count((uintptr_t)host_caller) != 0;
}

bufpool_fault_callback bp_callback_of(bufpool_pool *pool, void **context)
{
    bufpool_fault_callback callback;
    do {
        callback = atomic_load(&pool->callback);
        *context = atomic_load(&pool->callback_context);
    } while (atomic_load(&pool->callback) != callback);
    return callback;
}

bool bp_callback_ask(struct bp_event *event, bufpool_fault_callback callback, void *context)
{
    bufpool_pool *pool = event->pool;
    bp_pool_leave(event->pool); /* the callback may close the pool, or never come back */
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
        bp_pool_leave(event->pool); /* gone too, and its descriptor in use again */
        return true;
    }
    bool again = bp_thread.last_pc == event->machine.pc && bp_thread.last_address == event->fault->address &&
                 (event->fault->state == BUFPOOL_STATE_RED_ZONE || !bp_pool_has_page(pool, event->fault->page));
    bp_thread.restarts = verdict == BUFPOOL_VERDICT_RESTART && again ? bp_thread.restarts + 1 : 0;
    if (verdict == BUFPOOL_VERDICT_RESTART && bp_thread.restarts < BP_MAX_RESTARTS) {
        bp_event_remember(event);
        bp_thread.last_epoch--; /* not a repeat: the callback is asked again */
        bp_pool_leave(event->pool);
        return true;
    }
    if (verdict == BUFPOOL_VERDICT_PASS) {
        bp_pool_leave(event->pool);
        return bp_event_is_call(event); /* nobody else has an answer to it */
    }
    bp_event_keep(event);
    if (verdict == BUFPOOL_VERDICT_RESUME && bp_event_divert(event)) {
        bp_event_remember(event);
        bp_pool_leave(event->pool);
        return true;
    }
    bp_event_log(event);
    bp_policy_apply(event);
    return true;
}
