/*
 * trap_guard.c: holes trapped by guard regions (MADV_GUARD_INSTALL, Linux 6.13; on files 6.15), without privilege.
 *
 * A guard is a mark in the page tables, so it costs no mapping; a touch raises SIGSEGV. It is a mark per granule,
 * though, which is why the space is opened chunk by chunk: guarding 16 TiB at once would build page tables for all of
 * it. A guarded page cannot be filled, and opening it first would let another thread see it empty or half filled. So
 * frames come from a memfd: the file is written behind the guard, then the guard goes, and the page is there whole.
 */
#include "error.h"
#include "space.h"
#include "trap_file.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static int shut_range(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space;
    return bp_kernel_madvise((void *)address, length, BP_MADV_GUARD_INSTALL);
}

static int open_range(struct bp_space *space, uintptr_t address, size_t length)
{
    return space->unpinned == BP_OPEN_NONE ? 0 : bp_kernel_madvise((void *)address, length, BP_MADV_GUARD_REMOVE);
}

static int protect_mapping(struct bp_space *space, uintptr_t address, size_t length, enum bp_open open)
{
    (void)space;
    return bp_kernel_mprotect((void *)address, length, open == BP_OPEN_WRITE ? PROT_READ | PROT_WRITE : PROT_READ);
}

static int arm(struct bp_space *space)
{
    if (space->flags & BUFPOOL_LOCK) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "the kernel takes no guard regions on locked memory: leave lock out, or take "
                        "another trap");
    }
    int code = shut_range(space, space->base, space->granule);
    if (code == 0) {
        code = open_range(space, space->base, space->granule);
    }
    if (code == -ENOMEM) {
        return bp_error(code, "cannot install a guard region: %s", strerror(-code));
    }
    if (code == -EINVAL) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "guard regions on files are refused (EINVAL): they take Linux 6.15 or newer, "
                        "and memory that is not locked (mlockall)");
    }
    if (code < 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "guard regions are refused: %s", strerror(-code));
    }
    space->stepwise = true;
    return 0;
}

static int open_chunk(struct bp_space *space, uintptr_t address, size_t length)
{
    int code = shut_range(space, address, length);
    return code < 0 ? code : protect_mapping(space, address, length, space->unpinned);
}

/* Where pages are closed, the mapping is read-only but for those that are open for writing: so there are few mappings. */
static int protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    int code = to == BP_OPEN_NONE ? shut_range(space, address, length) : 0;
    if (code == 0 && (to == BP_OPEN_WRITE || from == BP_OPEN_WRITE)) {
        code = protect_mapping(space, address, length, to);
    }
    if (code == 0 && from == BP_OPEN_NONE) {
        code = bp_kernel_madvise((void *)address, length, BP_MADV_GUARD_REMOVE);
    }
    return code;
}

const struct bp_trap bp_trap_guard = {.name = "guard",
                                      .needs_file = true,
                                      .traps = true,
                                      .arm = arm,
                                      .open_chunk = open_chunk,
                                      .shut_range = shut_range,
                                      .open_range = open_range,
                                      .rearm = open_chunk,
                                      .protect = protect,
                                      .ways = bp_file_ways,
                                      .populate = bp_file_populate,
                                      .zap = bp_file_zap};
