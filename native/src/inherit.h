/*
 * inherit.h: how one pool gets into a forked child. The handlers themselves are in fork.c.
 *
 * There are four ways, by memory and trap:
 *
 *   private memory, uffd or none      The frames come with fork, copied on write. MADV_DONTFORK is lifted for the time of
 *                                     the fork; the child opens a userfaultfd of its own and registers the range.
 *   private memory, guard, mprotect   Its memfd would be one with the parent's, so the parent copies the allocated pages
 *                                     to a new one before the fork, and the child maps that.
 *   shared memory, uffd, noautofill   The frames are the parent's, too. The child maps the file and arms that mapping.
 *   shared memory, guard, mprotect    What is closed in one process stays open in another: not inherited.
 *
 * Not inherited means inaccessible: a mapping of nothing takes the range, where it is free. All functions make system
 * calls only, and may be called in a signal handler that forks.
 */
#ifndef BP_INHERIT_H
#define BP_INHERIT_H

#include "pool.h"

/* In the parent, before the fork; the pool is open and quiet. Sets pool->heritage. */
void bp_inherit_prepare(bufpool_pool *pool);

/* In the parent, after it. */
void bp_inherit_parent(bufpool_pool *pool);

/* In the child, of each pool before the first is inherited: takes its range, inaccessible, if nobody else has taken it. What
 * the others map would else find the gap. */
void bp_inherit_place(bufpool_pool *pool);

/* In the child, of a pool that is ready for it: maps and arms. false: not to be had, and pool->heritage says why. */
bool bp_inherit_child(bufpool_pool *pool);

/* In the child, of a pool that it has not got: gives up the parent's descriptors; a touch raises SIGSEGV. */
void bp_inherit_refuse(bufpool_pool *pool);

/* Why this process has not got the pool. */
const char *bp_heritage_reason(const bufpool_pool *pool);

#endif
