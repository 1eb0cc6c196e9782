/*
 * trap_mprotect.c: holes trapped by page protection, on every kernel. A touch raises SIGSEGV.
 *
 * The last resort: each boundary between allocated and free pages costs a mapping of the process (vm.max_map_count),
 * and protecting is the slowest of the mechanisms. Frames come from a memfd, filled behind the closed mapping, as in
 * trap_guard.c.
 */
#include "error.h"
#include "space.h"
#include "trap_file.h"

#include <bufpool/bufpool.h>
#include <string.h>
#include <sys/mman.h>

static int shut_range(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space;
    return bp_kernel_mprotect((void *)address, length, PROT_NONE);
}

static int protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to)
{
    (void)space;
    (void)from;
    return bp_space_mprotect(address, length, to);
}

static int open_range(struct bp_space *space, uintptr_t address, size_t length)
{
    return protect(space, address, length, BP_OPEN_NONE, space->unpinned);
}

static int arm(struct bp_space *space)
{
    space->stepwise = true; /* stays inaccessible; pages are opened one by one */
    return 0;
}

static int open_chunk(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space;
    (void)address;
    (void)length;
    return 0;
}

const struct bp_trap bp_trap_mprotect = {.name = "mprotect",
                                         .needs_file = true,
                                         .traps = true,
                                         .arm = arm,
                                         .open_chunk = open_chunk,
                                         .shut_range = shut_range,
                                         .open_range = open_range,
                                         .protect = protect,
                                         .ways = bp_file_ways,
                                         .populate = bp_file_populate,
                                         .zap = bp_file_zap};
