/*
 * space.h: where the pages of a pool live, and who traps their holes.
 *
 * A space is one mapping of `capacity` bytes over a source of frames (struct bp_memory) whose holes are trapped by one
 * mechanism (struct bp_trap). Each mechanism is one table of functions in a file of its own, trap_NAME.c; nothing
 * outside those files knows which one is at work. Preconditions of every function: the range is whole granules inside
 * the space, and the caller owns the pages in it (their states are BUSY), so no two calls meet on one page. All may be
 * called from any thread and, zap and populate, in a signal handler: they make system calls only.
 */
#ifndef BP_SPACE_H
#define BP_SPACE_H

#include "kernel.h"
#include "stash.h"

#include <stdatomic.h>
#include <stdbool.h>

#define BP_GRANULE 4096 /* bytes; the OS page, checked at open */

struct bp_trap;

struct bp_memory {
    const char *name;
    bool file;   /* frames come from a memfd */
    bool shared; /* the user asked for a file, not only the mechanism */
};

struct bp_space {
    uintptr_t base;
    uint64_t capacity;
    uint64_t granule;
    const struct bp_memory *memory;
    const struct bp_trap *trap;
    int fd;                  /* the memfd, or -1 */
    int uffd;                /* or -1 */
    struct bp_stash stash;   /* trap uffd on anonymous memory */
    bool lazy_zero;          /* BUFPOOL_LAZY_ZERO */
    bool stepwise;           /* still inaccessible but for the chunks opened so far */
    _Atomic uint8_t *chunks; /* with stepwise: 0 closed, 1 being opened, 2 open */
    uint64_t chunk_count;
};

struct bp_trap {
    const char *name;

    /* Populating writes behind a mapping that is still closed, which only a file allows: memory "anon" gets a memfd. */
    bool needs_file;

    /* Does a hole raise a signal at all? */
    bool traps;

    /* Arms a space that is mapped PROT_NONE and has no frames. Afterwards a touch of any hole raises SIGBUS or SIGSEGV.
     * Returns 0; BUFPOOL_EUNSUPPORTED with a reason (bp_error) if the kernel or these rights refuse; -errno for a lack
     * of resources. What it opened before failing is closed by bp_space_close(). */
    int (*arm)(struct bp_space *space);

    /* With needs_file: make a range of the mapping inaccessible, armed, or accessible; its frames stay. */
    int (*shut_range)(struct bp_space *space, uintptr_t address, size_t length);
    int (*open_range)(struct bp_space *space, uintptr_t address, size_t length);

    /* With stepwise: makes a chunk that never had a frame accessible, armed at every moment. */
    int (*open_chunk)(struct bp_space *space, uintptr_t address, size_t length);

    /* Fills holes with data (never touched from user mode where the kernel can copy, so that a stray data pointer is
     * -EFAULT, not a signal), or with zeros (NULL). Each granule appears whole. *done: bytes that are filled, from the
     * front; on an error the caller zaps them. -EFAULT: data is not readable. -ENOMEM: no frame. */
    int (*populate)(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);

    /* Takes the frames of count ranges away; from the return on every touch traps. *done: ranges that are zapped, from
     * the front; the others are as they were. */
    int (*zap)(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);
};

extern const struct bp_trap bp_trap_uffd;
extern const struct bp_trap bp_trap_guard;
extern const struct bp_trap bp_trap_mprotect;
extern const struct bp_trap bp_trap_none;

/* By name; NULL if unknown. */
const struct bp_memory *bp_memory_find(const char *name);
const struct bp_trap *bp_trap_find(const char *name);

/* The n-th mechanism that "auto" tries, in order; NULL past the last. */
const struct bp_trap *bp_trap_candidate(size_t n);

/* Reserves and arms. On an error (as trap->arm) nothing is left open. */
int bp_space_open(struct bp_space *space, const struct bp_memory *memory, const struct bp_trap *trap, uint64_t capacity,
                  bool lazy_zero, const char *name);

/* Gives every frame, descriptor and table back. The addresses stay reserved, inaccessible. */
void bp_space_close(struct bp_space *space);

/* bp_space_close() and gives the addresses back. */
void bp_space_destroy(struct bp_space *space);

/* The functions of the trap, with chunks opened first where the space is stepwise. */
int bp_space_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);
int bp_space_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);

/* What the frames really are, for bufpool_statistics. */
const char *bp_space_backing(const struct bp_space *space);

/* What else a code of populate or zap may mean with this trap, for an error's sentence; "" if nothing. */
const char *bp_space_hint(const struct bp_space *space, int code);

/* Sources for filling: BP_FILL_SIZE bytes of zeros, BP_GRANULE bytes of BUFPOOL_POISON. Made at the first open. */
#define BP_FILL_SIZE ((size_t)2 << 20)
int bp_fill_prepare(void);
extern const void *bp_fill_zeros;
extern const void *bp_fill_poison;

#endif
