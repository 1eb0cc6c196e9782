/* named.h: attaching to a pool by the path of its memory: who has that file open has its tables among its descriptors. */
#ifndef BP_NAMED_H
#define BP_NAMED_H

#include "config.h"

/* Opens memory and tables of the pool that somebody has open on this path, and reads its constants. The caller closes both
 * descriptors. Not async-signal-safe. Errors with a sentence: EARGUMENT (not a file on hugetlbfs), -ESRCH (nobody has it
 * open), -EACCES (somebody has, whose descriptors may not be looked at), -errno. */
int bp_named_open(const char *path, struct bp_guest *guest);

#endif
