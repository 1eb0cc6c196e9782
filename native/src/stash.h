/*
 * stash.h: frames of freed pages, kept for the next allocation, each in a slot that nobody else addresses.
 *
 * UFFDIO_MOVE (Linux 6.8) takes a frame from one address to another without copying it. A page is freed by moving its
 * frame into a slot, and allocated by filling a slot and moving its frame to the page: the page traps at once, appears
 * whole, and neither step asks the kernel to free, find and clear a frame. The steady-state rows of
 * bench/test_fill_free.py measure both against plain mmap, the growing and shrinking rows what it costs without. The
 * range has to lie where the pool's userfaultfd can move to and from, so it is registered with it.
 *
 * Lock-free: a slot is claimed by clearing its bit in one of two sets (empty, full) and released by setting it.
 * Thread-safe and async-signal-safe. Every function may fail for any reason (old kernel, a frame that is pinned or
 * locked); the caller then does without.
 */
#ifndef BP_STASH_H
#define BP_STASH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BP_STASH_WORDS 4
#define BP_STASH_SLOTS (BP_STASH_WORDS * 64) /* 1 MiB of frames at most */

struct bp_stash {
    uintptr_t base; /* 0: there is none */
    _Atomic uint64_t empty[BP_STASH_WORDS];
    _Atomic uint64_t full[BP_STASH_WORDS];
    _Atomic uint64_t recycled; /* frames that served again */
};

/* Maps and registers the slots; leaves base 0 where that cannot be had. */
void bp_stash_open(struct bp_stash *stash, int uffd);
void bp_stash_close(struct bp_stash *stash);

/* Moves the frame of one granule into the stash; when that is full, gives 64 frames back to the system first. */
bool bp_stash_put(struct bp_stash *stash, int uffd, uintptr_t granule);

/* Fills a kept frame with one granule of data and moves it to a hole. 0; -ENOENT: nothing kept, or it could not be
 * moved; -EFAULT: data is not readable. */
int bp_stash_take(struct bp_stash *stash, int uffd, uintptr_t granule, const void *data);

/* How many frames are kept. */
unsigned bp_stash_count(const struct bp_stash *stash);

#endif
