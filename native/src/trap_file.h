/*
 * trap_file.h: frames that belong to a file: written behind the mapping, and punched.
 *
 * What the traps that close a mapping (guard, mprotect, noautofill without userfaultfd) share: the file is filled behind
 * the closed mapping, then the range is opened; it is closed first, then the file is punched. Preconditions as in
 * space.h.
 */
#ifndef BP_TRAP_FILE_H
#define BP_TRAP_FILE_H

#include "space.h"

/* The functions of the table, for traps with shut_range and open_range. */
int bp_file_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);
uint32_t bp_file_ways(const struct bp_space *space);
int bp_file_zap(struct bp_space *space, const struct bp_range *ranges, size_t count, size_t *done);

/* Gives a range of the file frames with data, or of zeros (NULL). -ENOMEM: no frame; -EFAULT. On an error it holds none.
 */
int bp_file_write(struct bp_space *space, uintptr_t address, size_t length, const void *data);

#endif
