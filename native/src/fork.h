/*
 * fork.h: what becomes of the pools when the process forks: one trio of handlers (pthread_atfork) for the library.
 *
 * Before the fork other threads are kept out of every pool and those inside are waited for, so that a child's copy is
 * whole: no page is amid a change, no granule shows the scratch pattern. In the child each pool that is inherited is
 * armed (inherit.h) before fork() returns, with every signal blocked but those that a fault raises; one that cannot be is
 * made inaccessible and says why. What a fork() does not come through, a child made by _Fork, clone or vfork, is noticed
 * by bp_process(): there nothing is mapped.
 *
 * Others that have something to do at a fork add a call in fork.c. What is called in the child makes system calls only:
 * locks of the parent's other threads are held there for ever.
 */
#ifndef BP_FORK_H
#define BP_FORK_H

#include "pool.h"

/* Installs the handlers, once. */
void bp_fork_watch(void);

/* Is a fork of this process under way, in another thread? Then nobody may enter a pool until it is over.
 * Async-signal-safe. */
extern _Atomic int32_t bp_fork_gate;
bool bp_fork_shuts(void);

/* Is this a fork handler of the host, between ours before and after the fork? Then this thread has the registry.
 * Async-signal-safe. */
bool bp_fork_holds(void);

static inline bool bp_fork_is_near(void)
{
    return atomic_load(&bp_fork_gate) != 0 && bp_fork_shuts();
}

/* How this process came by the pool, or why it has not got it, as half a sentence; "" where it opened it.
 * Async-signal-safe. */
void bp_fork_note(const bufpool_pool *pool, char *buffer, size_t size);

/* In a child that was made past the handlers and is noticed now: puts the locks of the library right. */
void bp_fork_renew(void);

#endif
