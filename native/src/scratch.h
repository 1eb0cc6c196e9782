/*
 * scratch.h: how a stray access of a pool with on_fault "resume" or "raise" gets to its end.
 *
 * The granule it fell on shows the pattern BUFPOOL_POISON and so becomes accessible; when the instruction is
 * run again it meets the pattern, never data of the pool. The page's state carries BP_SCRATCH meanwhile, set and
 * cleared by compare-and-swap, so no allocator hands the number out and nothing of a live page is ever replaced. To
 * re-arm is to zap the page and clear the flag. For pages that are allocated and closed pins.h has the same. On a closed pool, and in a forked child, where there is no frame source
 * any more, a small mapping of its own is put over the granule instead.
 *
 * bp_scratch_divert() is async-signal-safe; the others make system calls only and are called at the start of a library
 * call.
 */
#ifndef BP_SCRATCH_H
#define BP_SCRATCH_H

#include "pool.h"

/* A diverted granule that is older than this is re-armed by any thread's next call on the pool; younger ones only by
 * the thread whose access it was, so that the instruction gets the time to finish. */
#define BP_SCRATCH_NS 10000000

/* Makes the granule at address accessible, with the pattern; or finds the page allocated meanwhile. true: run the
 * instruction again. false: it cannot be had. */
bool bp_scratch_divert(bufpool_pool *pool, uint64_t page, bufpool_access access, uintptr_t address);

/* Re-arms this thread's granules in every pool. */
void bp_scratch_rearm_thread(void);

/* Re-arms the pool's granules: old ones (all false) or all. */
void bp_scratch_rearm_pool(bufpool_pool *pool, bool all);

/* Empties the slots; for close, after which nothing of them is mapped any more. */
void bp_scratch_forget(bufpool_pool *pool);

/* To re-arm a granule that is huge, or of a file that others have, too, shuts it for a moment. Did this fault of a page that
 * is allocated by now fall into one? true: run the instruction again; what faults 16 times is the host's own protection.
 * Async-signal-safe. */
bool bp_scratch_was_shut(const bufpool_pool *pool, int signo, const siginfo_t *info, uint64_t pc);

/* A page is wanted whose state says that it shows the pattern: re-arms it. Where it is not ours, or not to be had yet,
 * waits a moment, and every hundredth turn looks whether the process lives that shows it. */
void bp_scratch_await(bufpool_pool *pool, uint64_t page, uint16_t state, int turn);

/* The same for a page that is to be pinned, unpinned or freed, and is LOOSE (pins.h). */
void bp_scratch_await_pin(bufpool_pool *pool, uint64_t page);

#endif
