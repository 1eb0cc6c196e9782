/*
 * trap_none.c: no trap at all, a plain mapping: the baseline that the benches compare with, and what an engine without
 * bufpool has. A touch of a hole quietly gives zeros. Has to be asked for by name.
 */
#include "guard.h"
#include "trap_file.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <sys/mman.h>

static int arm(struct bp_space *space)
{
    (void)space;
    return 0;
}

static int open_chunk(struct bp_space *space, uintptr_t address, size_t length)
{
    (void)space;
    return bp_kernel_mprotect((void *)address, length, PROT_READ | PROT_WRITE);
}

static uint32_t ways(const struct bp_space *space)
{
    return BP_WAY(space->memory->hugetlb ? BUFPOOL_WAY_WRITE : BUFPOOL_WAY_TOUCH) |
           BP_WAY(space->fd >= 0 ? BUFPOOL_WAY_PUNCH : BUFPOOL_WAY_DROP);
}

static int zap_one(struct bp_space *space, uintptr_t address, size_t length)
{
    return space->fd >= 0 ? bp_kernel_punch(space->fd, address - space->base, length)
                          : bp_kernel_discard((void *)address, length);
}

static int populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    if (space->memory->hugetlb) { /* never by a touch: without a free huge page that would be a bus error */
        int code = bp_file_write(space, address, length, NULL);
        if (code < 0) {
            return code;
        }
    }
    if (data != NULL) {
        /* A plain copy, as an engine does it. The data may lie in a hole of another, trapped pool. */
        if (bp_guarded_copy((void *)address, data, length, NULL) < 0) {
            zap_one(space, address, length);
            return -EFAULT;
        }
    } else if (!space->memory->hugetlb && !(space->flags & BUFPOOL_LAZY_ZERO)) {
        /* A stray write may have filled the hole: what is promised is zeros. */
        int code = zap_one(space, address, length);
        if (code < 0) {
            return code;
        }
    }
    *done = length;
    if (!space->memory->hugetlb) { /* else it was written, and counted */
        bp_way_took(&space->ways, BUFPOOL_WAY_TOUCH, length / space->granule);
    }
    return 0;
}

static int zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        int code = zap_one(space, ranges[*done].address, ranges[*done].length);
        if (code < 0) {
            return code;
        }
        bp_way_took(&space->ways, space->fd >= 0 ? BUFPOOL_WAY_PUNCH : BUFPOOL_WAY_DROP,
                    ranges[*done].length / space->granule);
    }
    return 0;
}

const struct bp_trap bp_trap_none = {.name = "none",
                                     .traps = false,
                                     .arm = arm,
                                     .open_chunk = open_chunk,
                                     .ways = ways,
                                     .populate = populate,
                                     .zap = zap};
