/* trap_file.c: filling and punching a memfd behind its closed mapping, see trap_file.h. */
#include "trap_file.h"

#include "fillers.h"
#include "point.h"
#include "probe.h"

#include <bufpool/bufpool.h>
#include <errno.h>
#include <sys/mman.h>

/* Huge pages know no write(2): they are filled through a mapping of their own, for as long as that takes. */
static int copy_through_alias(struct bp_space *space, uint64_t offset, size_t length, const void *data)
{
    void *alias;
    int code = bp_kernel_mmap_file(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, space->fd, offset,
                                   &alias);
    if (code < 0) {
        return code;
    }
    bp_kernel_madvise(alias, length, MADV_DONTFORK);
    bool whole = bp_probe_copy(alias, data, length);
    BP_STORED("frame written");
    bp_kernel_munmap(alias, length);
    return whole ? 0 : -EFAULT;
}

static int write_huge(struct bp_space *space, uint64_t offset, size_t length, const void *data)
{
    /* A stray write past us may have left a frame there: what is promised is zeros. */
    int code = bp_kernel_punch(space->fd, offset, length);
    if (code == 0) {
        code = bp_kernel_fallocate(space->fd, offset, length);
    }
    return code == 0 && data != NULL ? copy_through_alias(space, offset, length, data) : code;
}

static int write_small(struct bp_space *space, uint64_t offset, size_t length, const void *data)
{
    if (data != NULL) {
        return bp_kernel_pwrite(space->fd, data, length, offset);
    }
    int code = 0;
    if (!(space->flags & BUFPOOL_LAZY_ZERO)) { /* a hole of the file reads as zeros; writing them commits the frame */
        for (size_t at = 0; at < length && code == 0; at += BP_FILL_SIZE) {
            size_t step = length - at < BP_FILL_SIZE ? length - at : BP_FILL_SIZE;
            code = bp_kernel_pwrite(space->fd, bp_fill_zeros, step, offset + at);
        }
    }
    return code;
}

int bp_file_write(struct bp_space *space, uintptr_t address, size_t length, const void *data)
{
    uint64_t offset = address - space->base;
    int code =
        space->memory->hugetlb ? write_huge(space, offset, length, data) : write_small(space, offset, length, data);
    if (code < 0) {
        bp_kernel_punch(space->fd, offset, length);
        return code == -ENOSPC ? -ENOMEM : code;
    }
    bp_way_took(&space->ways, BUFPOOL_WAY_WRITE, length / space->granule);
    if (space->memory->hugetlb) {
        atomic_fetch_add_explicit(&space->huge_fills, length / space->granule, memory_order_relaxed);
    }
    return 0;
}

int bp_file_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    int code = bp_file_write(space, address, length, data);
    if (code < 0) {
        return code;
    }
    *done = length; /* also if opening stops midway: then all of it has to be closed again */
    return space->trap->open_range(space, address, length);
}

int bp_file_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        const struct bp_range *range = &ranges[*done];
        int code = space->trap->shut_range(space, range->address, range->length);
        if (code < 0) {
            /* Stopped midway (mprotect: no mapping left to split): the range is to be as it was. */
            space->trap->open_range(space, range->address, range->length);
            return code;
        }
        code = bp_kernel_punch(space->fd, range->address - space->base, range->length);
        if (code < 0) {
            space->trap->open_range(space, range->address, range->length);
            return code;
        }
        bp_way_took(&space->ways, BUFPOOL_WAY_PUNCH, range->length / space->granule);
    }
    return 0;
}

uint32_t bp_file_ways(const struct bp_space *space)
{
    (void)space;
    return BP_WAY(BUFPOOL_WAY_WRITE) | BP_WAY(BUFPOOL_WAY_PUNCH);
}
