/*
 * owed.h: faults that a thread is owed (on_fault "raise"): kept by the handler, handed over at the thread's next
 * defined point.
 *
 * Each thread that ever strays gets a queue, mapped by the handler itself and never unmapped; a queue whose thread has
 * ended and that is empty serves another. A queue is guarded by a flag that is held for a few instructions only; the
 * handler waits for it a bounded time.
 */
#ifndef BP_OWED_H
#define BP_OWED_H

#include "pool.h"

/* Keeps a fault for this thread; with BUFPOOL_FAULT_TOLD, to be told of only. false: no memory, or more than BP_OWED_MAX
 * (BP_TOLD_MAX) are kept already. Async-signal-safe. */
#define BP_OWED_MAX 65536
#define BP_TOLD_MAX 4096
bool bp_owed_push(const bufpool_fault *fault);

/* Writes to stderr what of this pool is owed to threads that have ended: nobody else will ask. */
void bp_owed_flush_ended(bufpool_pool *pool);

/* In a new process: what is owed to the parent's threads is not owed here. */
void bp_owed_renew(void);

#endif
