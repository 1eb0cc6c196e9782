/* trap_file.c: filling and punching a memfd behind its closed mapping, see trap_file.h. */
#include "trap_file.h"

#include <errno.h>

int bp_file_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done)
{
    uint64_t offset = address - space->base;
    int code = 0;
    if (data != NULL) {
        code = bp_kernel_pwrite(space->fd, data, length, offset);
    } else if (!space->lazy_zero) { /* a hole of the file reads as zeros; writing them now commits the frame */
        for (size_t at = 0; at < length && code == 0; at += BP_FILL_SIZE) {
            size_t step = length - at < BP_FILL_SIZE ? length - at : BP_FILL_SIZE;
            code = bp_kernel_pwrite(space->fd, bp_fill_zeros, step, offset + at);
        }
    }
    if (code < 0) {
        bp_kernel_punch(space->fd, offset, length);
        return code == -ENOSPC ? -ENOMEM : code;
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
    }
    return 0;
}
