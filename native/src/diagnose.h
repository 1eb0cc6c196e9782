/*
 * diagnose.h: what a fault address means. Pure: reads the pool's tables, changes nothing, needs no signal, so that it
 * can be tested with any address.
 */
#ifndef BP_DIAGNOSE_H
#define BP_DIAGNOSE_H

#include "machine.h"
#include "pool.h"

/* What was seen of the page; the caller is inside the pool (bp_pool_visit). */
struct bp_finding {
    uint64_t page;
    uint64_t offset;
    bufpool_state state;
    uint32_t flags; /* BUFPOOL_FAULT_... */
    bool ours;      /* a stray access, and not a fault that some other part of the process has to answer */
};

/* signo and code are those of the siginfo. Async-signal-safe. */
void bp_diagnose(const bufpool_pool *pool, uintptr_t address, bufpool_access access, int signo, int code,
                 struct bp_finding *finding);

/* The nearest allocated pages below and above, BP_NO_PAGE where there is none within BP_NEAR pages; what is seen while
 * others allocate and free. The pool is open. Async-signal-safe. */
#define BP_NEAR 4096
void bp_neighbours(const bufpool_pool *pool, uint64_t page, uint64_t *below, uint64_t *above);

/* The state that a report names, for a state byte: a page on its way to a state counts as what it was while it is being
 * filled, and as what it becomes while it is being taken away. */
bufpool_state bp_state_seen(uint16_t state);

#endif
