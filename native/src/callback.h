/* callback.h: the host's say in a fault, see bufpool_set_fault_callback(). */
#ifndef BP_CALLBACK_H
#define BP_CALLBACK_H

#include "event.h"

/* How often the same access is tried again because the callback says so. */
#define BP_MAX_RESTARTS 1000

/* The callback and the context that were set together. NULL: none. */
bufpool_fault_callback bp_callback_of(bufpool_pool *pool, void **context);

/* Does a callback of this thread still run? One that left by longjmp does not; where its frame was, deeper calls of the
 * host may be by now, so the stack itself has to tell. */
bool bp_callback_runs(void);

/* Asks it, and does what it says. Leaves the pool. false: pass the signal on. */
bool bp_callback_ask(struct bp_event *event, bufpool_fault_callback callback, void *context);

#endif
