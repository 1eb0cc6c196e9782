/*
 * freeze.h: stopping a thread at its stray access (on_fault "freeze"), and letting it go on.
 *
 * Where the pool's threads sleep on faults (monitor.h) the handler writes the thread down (frozen.h) and returns: the
 * instruction is run again, and the kernel puts the thread to sleep on it, for good. A debugger sees the instruction, no
 * handler; a signal's handler may run meanwhile, and the thread sleeps again after it. With the other traps, after a
 * system call, and on a closed pool the thread waits in the handler.
 */
#ifndef BP_FREEZE_H
#define BP_FREEZE_H

#include "frozen.h"

/* Stops this thread, whose report is out, until somebody wishes it to go on; returns the wish. may_sleep: the instruction
 * is going to sleep in the kernel; then BP_WISH_NONE is returned at once. Async-signal-safe. */
enum bp_frozen_wish bp_freeze(const bufpool_fault *fault, uint64_t sp, bool may_sleep);

extern atomic_int bp_freeze_unlisted; /* threads that are stopped while the record has no slot for them */

/* What a sleeping thread of the pool is to do, if somebody has wished something; false: nothing. From n on; n is moved. */
bool bp_freeze_wished(const bufpool_pool *pool, int *n, struct bp_frozen_slot **slot);

/* Does any thread of the pool sleep? */
bool bp_freeze_any(const bufpool_pool *pool);

#endif
