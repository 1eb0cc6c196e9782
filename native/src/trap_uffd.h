/* trap_uffd.h: the functions of trap uffd that others use where a userfaultfd can be had, see space.h. */
#ifndef BP_TRAP_UFFD_H
#define BP_TRAP_UFFD_H

#include "space.h"

uint32_t bp_uffd_ways(const struct bp_space *space);
int bp_uffd_arm(struct bp_space *space);
int bp_uffd_inherit(struct bp_space *space);
int bp_uffd_rearm(struct bp_space *space, uintptr_t address, size_t length);
int bp_uffd_protect(struct bp_space *space, uintptr_t address, size_t length, enum bp_open from, enum bp_open to);
int bp_uffd_copy_in(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);
int bp_uffd_populate(struct bp_space *space, uintptr_t address, size_t length, const void *data, size_t *done);

#endif
