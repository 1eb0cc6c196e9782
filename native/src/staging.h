/*
 * staging.h: private frames that the program fills, or gets, before and after they are pages of the pool.
 *
 * The staging area is a mapping of the pool's own process (not in forked children, not in core dumps), cut into slots of
 * one page, and grown chunk by chunk. A slot's state says whose it is: nobody's (and then perhaps it still has memory), the
 * program's, or a call's that has claimed it; so a pointer that is no staged frame, or comes twice, is found. Slots are
 * given out in ascending order, so that neighbours in a batch are neighbours in memory and take one request.
 *
 * Where frames can be moved to and from the pool (moves), the area is registered with the pool's userfaultfd: a slot whose
 * frame has become a page is a hole, and a touch of it traps. Else frames are copied, and the memory of some slots is kept
 * for the next.
 *
 * Thread-safe; a slot is claimed by compare-and-swap. Not async-signal-safe.
 */
#ifndef BP_STAGING_H
#define BP_STAGING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BP_STAGING_CHUNKS 32

struct bp_space;

struct bp_staging_chunk {
    uintptr_t base;
    uint64_t slots;
    void *place; /* what is mapped, */
    size_t mapped;
    _Atomic uint64_t *vacant; /* a bit a slot: nobody's */
    _Atomic uint8_t *states;
    size_t tables; /* bytes of the two */
};

struct bp_staging {
    size_t slot;            /* bytes of one: the pool's page size */
    bool moves;             /* registered, for UFFDIO_MOVE */
    _Atomic uint32_t count; /* of chunks; each is complete when it is counted */
    atomic_bool growing;
    struct bp_staging_chunk chunks[BP_STAGING_CHUNKS];
    _Atomic uint64_t staged;        /* frames that the program has */
    _Atomic uint64_t idle;          /* vacant slots with memory */
    _Atomic uint64_t moved, copied; /* pages that came or went by either way */
};

/* Are frames moved to and from pages of this space? */
bool bp_staging_can_move(const struct bp_space *space);

/* Claims so many vacant slots. 0; or none, and -ENOMEM, or -EAGAIN: another thread has begun to make more, and does not end. */
int bp_staging_take(struct bp_space *space, size_t page_size, size_t count, uint64_t *frames);

/* Gives claimed slots memory, where it does not come by itself. 0, -ENOMEM, -errno. */
int bp_staging_fill(struct bp_space *space, const uint64_t *frames, size_t count);

/* Claims a frame that the program has. 0; -ENOENT: it is none; -EBUSY: another call, or this one, has it. */
int bp_staging_claim(struct bp_space *space, uint64_t frame);

/* Claimed frames are the program's, (again or for the first time); or nobody's. emptied: they have no memory any more. */
void bp_staging_hand_out(struct bp_space *space, const uint64_t *frames, size_t count, bool again);
void bp_staging_drop(struct bp_space *space, const uint64_t *frames, size_t count, bool staged, bool emptied);

/* From here on they trap; and the addresses are given back. */
void bp_staging_seal(struct bp_staging *staging);
void bp_staging_close(struct bp_staging *staging);

/* In a forked child, where nothing of it is mapped. */
void bp_staging_forget(struct bp_staging *staging);

#endif
