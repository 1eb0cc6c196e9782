/*
 * trap_adopted.h: traps on a mapping that the program has made itself and that holds its data: see bufpool_adopt().
 *
 * What differs from a pool's own space: it begins full, and all its frames stay; the mapping is never replaced by another,
 * nor its file written to past it; and at the end it is as it was. The two tables go by the names of those whose
 * mechanism they use:
 *
 *   uffd      shared memory, of whatever kind: a page is closed by taking it out of the mapping (the file keeps it) and
 *             shown by UFFDIO_CONTINUE. Private memory would lose its content by that: it is write-protected for pins
 *             "write", and closed by mprotect for "all"; so is a private mapping of huge pages for both.
 *   mprotect  all of it by mprotect, where userfaultfd cannot be had. A page that is filled is open meanwhile.
 */
#ifndef BP_TRAP_ADOPTED_H
#define BP_TRAP_ADOPTED_H

#include "space.h"

extern const struct bp_trap bp_trap_adopted_uffd;
extern const struct bp_trap bp_trap_adopted_mprotect;

#define BP_BACKING_SYSV "System V"

/* Are closed pages closed by the mapping's protection? */
static inline bool bp_adopted_protects(const struct bp_space *space)
{
    return space->trap == &bp_trap_adopted_mprotect ||
           (space->trap == &bp_trap_adopted_uffd && !space->memory->file &&
            (space->unpinned == BP_OPEN_NONE || (space->memory->hugetlb && space->unpinned == BP_OPEN_READ)));
}

/* Takes the frames of a range away, whatever it is open for. */
int bp_adopted_drop(struct bp_space *space, uintptr_t address, size_t length);

/* A granule without a frame shows the scratch pattern, and does so no more (a range). */
int bp_adopted_divert(struct bp_space *space, uintptr_t granule);
int bp_adopted_restore(struct bp_space *space, uintptr_t address, size_t length);

/* All of it accessible and untrapped, with the frames that it has. */
void bp_adopted_give_back(struct bp_space *space);

/* In a forked child that has not got the pool: inaccessible where it was to have it, else the program's as ever. */
void bp_adopted_refuse(struct bp_space *space, bool wanted);

#endif
