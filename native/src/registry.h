/*
 * registry.h: the registry of pools: guards the list of descriptors, opening, and what becomes of closed ranges.
 *
 * The range of a closed pool rests: its addresses stay reserved, so that a late access meets nobody else's memory, until
 * there are too many such ranges, or no address space is left for a new pool; then the oldest goes. Signals are blocked
 * while the registry is held, but for those that a fault raises: a handler that forks does not meet it held by its own
 * thread. A fork handler of the host does: there lock and unlock do nothing. All that is below them is called with it held.
 */
#ifndef BP_REGISTRY_H
#define BP_REGISTRY_H

#include "pool.h"

void bp_registry_lock(void);
void bp_registry_unlock(void);
void bp_registry_renew(void); /* in a forked child, whose parent's thread held it: unlocks; the signals stay blocked */

/* A descriptor that is not in use, cleared but for its place in the list. Errors: -ENOMEM, with a sentence. */
int bp_registry_take(bufpool_pool **taken);

/* The pool is closed, and its range rests from here on. */
void bp_registry_rest(bufpool_pool *pool);

/* Gives the range and the tables of a closed pool back; the descriptor may be used again. */
void bp_registry_retire(bufpool_pool *pool);

/* The same of the oldest one that nobody keeps; false if there is none. */
bool bp_registry_retire_oldest(void);

/* The same of as many as are too many; when a pool rests, or is kept no longer. */
void bp_registry_limit_closed(void);

/* No pool of this process may lie in the range, nor the addresses that are kept of a closed one: EARGUMENT, with a
 * sentence. */
int bp_registry_check_vacant(uintptr_t base, uint64_t length);

#endif
