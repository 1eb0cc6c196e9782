/*
 * poison.h: granules on which the kernel's own accesses fail (UFFDIO_POISON), so that a system call that sleeps on a hole
 * ends as it would have without a monitor.
 *
 * No page state says so: the mark lies where there is no frame, and whoever fills the granule, zaps its page or shows the
 * scratch pattern there takes it away with what he does. space.poisoned counts the marks that may be there.
 */
#ifndef BP_POISON_H
#define BP_POISON_H

#include "orders.h"
#include "pool.h"

/* What is poisoned at a time: of hugetlbfs a huge page, else an OS page, also where granules are larger. */
size_t bp_poison_size(const bufpool_pool *pool);
uintptr_t bp_poison_granule(const bufpool_pool *pool, uint64_t address);

/* Poisons what lies around the address; whoever sleeps there sleeps on. -EEXIST: there is a frame, or poison already. */
int bp_poison(bufpool_pool *pool, uint64_t address);

/* Takes the poison away that a system call was answered with, if the page is still a hole. Async-signal-safe. */
void bp_unpoison(bufpool_pool *pool, const struct bp_order *order);

#endif
