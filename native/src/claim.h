/*
 * claim.h: claiming pages for a call: their states become BUSY over what they were, and nobody else changes them until
 * they are settled.
 *
 * Every page of a batch is checked and claimed first, and the whole batch is refused if one does not fit; a number that
 * comes twice is found BUSY the second time. Errors have their sentence: EARGUMENT (no such page), ESTATE. what: "free",
 * "evict", ..., for that. Not async-signal-safe.
 */
#ifndef BP_CLAIM_H
#define BP_CLAIM_H

#include "pool.h"

#define BP_HOLE_FREE 1u
#define BP_HOLE_EVICTED 2u
#define BP_HOLE_LAGGING \
    4u /* with FREE: a page that lags may keep its frame, which bp_fill() overwrites; else it is zapped */

/* Claims a page that has no frame, to be given one: of the kinds given, marked as taken in the index. Waits a moment for a
 * re-arming, and for somebody who has it BUSY, who may only look at it; refuses anything else. Errors: and -errno of zapping a page
 * that lags. */
int bp_claim_hole(bufpool_pool *pool, uint64_t page, unsigned kinds, const char *what);

/* They are what they were. */
void bp_claim_drop_holes(bufpool_pool *pool, const uint64_t *pages, size_t count);

/* Claims a page whose frame is to be taken, and keeps pins away. flag: BP_EVICTING; or BP_FREEING, which accepts evicted
 * pages, too. */
int bp_claim_frame(bufpool_pool *pool, uint64_t page, uint16_t flag, const char *what);
void bp_claim_drop_frames(bufpool_pool *pool, const uint64_t *pages, size_t count);

/* The frames of claimed pages are gone: counts them, and settles their states. */
void bp_claim_settle_taken(bufpool_pool *pool, const uint64_t *pages, size_t count, bool evict);

#endif
