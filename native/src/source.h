/*
 * source.h: the file behind a space: a memfd, of small or huge pages, or a file on a hugetlbfs mount.
 *
 * A memfd is sealed against changes of its size; a file on hugetlbfs is locked (flock) while the pool is open, since two
 * pools over one file would fill each other's holes. Not async-signal-safe but for bp_source_reserve_range().
 */
#ifndef BP_SOURCE_H
#define BP_SOURCE_H

#include "space.h"

/* Opens it into space->fd. Errors with a sentence: EUNSUPPORTED, EARGUMENT (a file that does not fit), -errno. */
int bp_source_open(struct bp_space *space, const struct bp_wish *wish);

/* Is it sure that so many bytes of frames cannot be had? Looked at before the kernel is asked where the mount has a limit:
 * there each huge page that is refused for want of one in the system is counted against the limit until the mount goes
 * (seen on Linux 6.18). Async-signal-safe. */
bool bp_source_lacks(const struct bp_space *space, uint64_t length);

/* With BUFPOOL_RESERVE: promises every granule a huge page. Errors: EEXHAUSTED, with a sentence. */
int bp_source_reserve(struct bp_space *space);
int bp_source_reserve_range(struct bp_space *space, uint64_t offset, uint64_t length);

/* Drops every frame and reservation of the file, if they are this pool's, and its lock: a child made by clone may hold it
 * open. The lock stays as long as a forked child has the pool. */
void bp_source_empty(struct bp_space *space);

/* After a failure to open: removes the file if this open created it. Before the space is destroyed. */
void bp_source_discard(struct bp_space *space, const struct bp_wish *wish);

#endif
