/*
 * trap_file.h: what the traps that close a mapping (guard, mprotect) share: the file is filled behind the closed
 * mapping, then the range is opened; it is closed first, then the file is punched. Preconditions as in space.h.
 */
#ifndef BP_TRAP_FILE_H
#define BP_TRAP_FILE_H

#include "space.h"

typedef int (*bp_range_function)(struct bp_space *space, uintptr_t address, size_t length);

int bp_file_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, bp_range_function open,
                     size_t *done);

int bp_file_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, bp_range_function close,
                bp_range_function open, size_t *done);

#endif
