/*
 * stash.h: frames of freed pages, kept for the next allocation, each in a slot that nobody else addresses.
 *
 * UFFDIO_MOVE (Linux 6.8) takes a frame from one address to another without copying it. A page is freed by moving its
 * frame into a slot, and allocated by filling a slot and moving its frame to the page: the page traps at once, appears
 * whole, and neither step asks the kernel to free, find and clear a frame. Whether that is quicker is measured, of each
 * step: where a copy to a fresh frame is, frames may still be moved out, to be given back many at a time. The steady-state rows of
 * bench/test_fill_free.py measure both against plain mmap, the growing and shrinking rows what it costs without. The
 * range has to lie where the pool's userfaultfd can move to and from, so it is registered with it.
 *
 * Small frames are moved by one thread at a time. The kernel (6.18: move_pages_ptes() of mm/userfaultfd.c) holds a lock of the
 * whole mapping (anon_vma, for writing) while it waits for the other cores to flush their TLB, so that two threads that
 * moved would each wait for the other's flush as well as for their own: measured, twice the time of plain mmap. Who finds
 * another one moving does without, and so do the next few thousand: MADV_DONTNEED excludes nobody, and UFFDIO_COPY flushes
 * nothing.
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
#define BP_STASH_SMALL (BP_STASH_WORDS * 64) /* slots of 4 KiB: 1 MiB of frames at most */
#define BP_STASH_HUGE 16                     /* slots of 2 MiB: 32 MiB at most */

struct bp_space;

struct bp_stash {
    uintptr_t base;         /* 0: there is none */
    void *place;            /* what is mapped, */
    size_t mapped;          /* and how much, for the alignment of huge slots */
    size_t slot;            /* bytes of one: the space's granule */
    atomic_bool moving;     /* somebody moves a small frame; only a hint */
    _Atomic unsigned crowd; /* so many moves are not to be tried, as two threads have met */
    _Atomic uint64_t empty[BP_STASH_WORDS];
    _Atomic uint64_t full[BP_STASH_WORDS];
};

/* Maps and registers so many slots of a granule each, and, of small ones, tries whether a frame moves, and whether that is
 * quicker than to do without (ways.h); leaves base 0 where that cannot be had, or is not. */
void bp_stash_open(struct bp_space *space, unsigned slots);
void bp_stash_close(struct bp_stash *stash);

/* In a forked child: forgets the parent's, of which nothing is mapped. */
void bp_stash_forget(struct bp_stash *stash);

/* Moves the frame of one granule into the stash; when that is full, gives a quarter of the slots, or all huge ones, back
 * to the system first. false: the granule keeps it, or part of it, also where
 * threads meet. */
bool bp_stash_put(struct bp_space *space, uintptr_t granule);

/* Fills a kept frame with one granule of data and moves it to a hole. 0; -ENOENT: nothing kept, or it could not be
 * moved, or threads meet, unless it is needed; -EFAULT: data is not readable; -EAGAIN: part of it was moved, which has to be taken away again. */
int bp_stash_take(struct bp_space *space, uintptr_t granule, const void *data, bool needed);

/* How many frames are kept. */
unsigned bp_stash_count(const struct bp_stash *stash);

/* A private mapping, aligned to its alignment and outside core dumps and forked children. 0, or -errno. */
int bp_stash_map(struct bp_space *space, size_t length, size_t alignment, void **place, size_t *mapped,
                 uintptr_t *base);

/* Claims any slot of a set, or -1; and gives it to a set. */
int bp_slot_claim(_Atomic uint64_t *set, int words);
void bp_slot_release(_Atomic uint64_t *set, int slot);

#endif
