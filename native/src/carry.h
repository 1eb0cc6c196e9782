/*
 * carry.h: moves the content of claimed pages between them and staged frames (staging.h), or from page to page.
 *
 * Where both are private memory of one userfaultfd the frames themselves are moved (UFFDIO_MOVE), and nothing is copied:
 * a page traps and its content is elsewhere in one step. Else, or where the kernel refuses (EBUSY: after a fork, of frames
 * that a device has; no UFFDIO_MOVE), the content is copied. To copy out of a page it is first made read-only for this
 * process, so that what a stray access writes is in the copy or traps; then it is copied, then its frame goes. Another
 * process that has the page, too, can write to it until the frame goes: what it writes between copy and end is lost, as the
 * frame that it writes to is.
 *
 * Runs are neighbours, in the pool and in the staging area. On an error everything is as it was. Not async-signal-safe.
 */
#ifndef BP_CARRY_H
#define BP_CARRY_H

#include "pool.h"

/* From the frame to a hole, which appears whole, open as the space's pages are. *done: bytes that are filled all the same after
 * an error, for the caller to take back. moved: the frame has no memory any more. */
int bp_carry_in(bufpool_pool *pool, uintptr_t page, uintptr_t frame, size_t length, size_t *done, bool *moved);

/* From a page to a frame without memory, or (staging without moves) with. */
int bp_carry_out(bufpool_pool *pool, uintptr_t page, uintptr_t frame, size_t length, bool *moved);

/* From a page to a hole, one page. *done as above. */
int bp_carry_across(bufpool_pool *pool, uintptr_t victim, uintptr_t page, size_t *done, bool *moved);

#endif
