/*
 * thp.h: filling granules of 2 MiB with one transparent huge page each.
 *
 * A range that is armed by userfaultfd gets no huge page by fault. So a frame is made in a slot of a nursery, a plain
 * mapping that asks for huge pages, is filled there, and UFFDIO_MOVE takes it whole to the pool (Linux 6.8). A freed one
 * goes to the stash (stash.h), whole, and serves again without being cleared. Whether a frame is one huge page is never
 * assumed: the kernel is asked (PAGEMAP_SCAN, Linux 6.7) when it is made and when it is freed, and once a small one has
 * been met, after each fill, too: a page table in the way splits a frame without a word. What came out small is counted. A granule that had small frames is mapped anew when it is zapped, since its page table would keep it small
 * for ever.
 *
 * Thread-safe and async-signal-safe but for open.
 */
#ifndef BP_THP_H
#define BP_THP_H

#include "stash.h"

#define BP_NURSERY_SLOTS 8

struct bp_thp {
    uintptr_t nursery; /* 0: there is none, and granules are filled with small pages */
    void *place;
    size_t mapped;
    int pagemap;
    atomic_bool doubtful; /* a page table may lie in the way of a move somewhere */
    _Atomic uint64_t empty[1];
};

/* Prepares the nursery and the stash, and tries them; where huge pages cannot be had, the space's note says why. The
 * space is armed and accessible. */
void bp_thp_open(struct bp_space *space);
void bp_thp_close(struct bp_space *space);

/* In a forked child: forgets the parent's nursery, and makes one without trying it. */
void bp_thp_forget(struct bp_thp *thp);
void bp_thp_open_again(struct bp_space *space);

/* Fills one granule, a hole. data NULL: zeros. 0; -ENOENT: not by a huge page, and it is a hole as before; -EFAULT: data
 * is not readable. */
int bp_thp_populate(struct bp_space *space, uintptr_t granule, const void *data);

/* A granule was filled with small pages by other means. */
void bp_thp_count_small(struct bp_space *space);

/* Takes the frames of a granule away. With a vault (vault.h), this and the others are given granules of that. */
int bp_thp_zap(struct bp_space *space, uintptr_t granule);

#endif
