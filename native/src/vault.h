/*
 * vault.h: where the frames of closed pages lie, of memory thp under pins "all".
 *
 * Private memory has no file that keeps what a mapping does not show. So the frames of pages that nobody may touch lie in a
 * second mapping as large as the pool, at the same offset, which is armed as the pool is, and of which nobody has the
 * address. To open a page is to move its huge frames out of the vault, to close it is to move them back (UFFDIO_MOVE), which
 * takes half of what mprotect takes, splits no huge page, and no mapping.
 *
 * The kernel shows a frame that it has moved as writable. A page that is opened for reading is write-protected right after:
 * for that microsecond the process may write to it, as if the thread that pins it had it pinned for writing.
 *
 * Preconditions: those of space.h. Async-signal-safe but for open and close.
 */
#ifndef BP_VAULT_H
#define BP_VAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bp_space;

struct bp_vault {
    uintptr_t base; /* 0: there is none */
    void *place;    /* what is mapped, */
    size_t mapped;  /* and how much, for the alignment */
};

/* Maps and arms it, inaccessible as the pool is by then. 0, or -errno. */
int bp_vault_open(struct bp_space *space);

/* Does a frame come from there to the pool's first granule, which is a hole, and back? 0, or -errno. */
int bp_vault_try(struct bp_space *space);
void bp_vault_close(struct bp_vault *vault);

/* Where the frames of what is at this address of the pool lie while it is closed: there, without a vault. */
uintptr_t bp_vault_home(const struct bp_space *space, uintptr_t address);

/* And the other way round. */
uintptr_t bp_vault_shown(const struct bp_space *space, uintptr_t home);

/* Opens a closed range of the pool, for reading, or for writing too; and closes one that is so open. All or nothing. -EBUSY: a
 * device has one of the frames. */
int bp_vault_show(struct bp_space *space, uintptr_t address, size_t length, bool writable);
int bp_vault_hide(struct bp_space *space, uintptr_t address, size_t length, bool writable);

#endif
