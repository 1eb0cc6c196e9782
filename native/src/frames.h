/*
 * frames.h: which granules of a space have a frame, as the kernel knows it, whatever the page states say.
 *
 * No way of asking tells the truth on every memory. SEEK_DATA does on shmem, but for pages that were reserved by
 * fallocate and never written, which do not trap; on hugetlbfs it shows no hole at all, as little as mincore. There
 * UFFDIO_CONTINUE is asked, through a mapping of our own that nobody touches; and on shmem, if its count of blocks says
 * that there is more than SEEK_DATA shows. Private memory is in /proc/self/pagemap. None of these ever fills a hole.
 *
 * One thread at a time. The caller is inside the pool.
 */
#ifndef BP_FRAMES_H
#define BP_FRAMES_H

#include "space.h"

struct bp_frames {
    const struct bp_space *space;
    enum bp_frames_way { BP_BY_SEEK, BP_BY_SHOWING, BP_BY_READING, BP_BY_PAGEMAP } way;
    int fd; /* the userfaultfd, or the pagemap */
    uintptr_t alias;
};

/* Errors: EUNSUPPORTED (it cannot be told here; the sentence says why), -errno. */
int bp_frames_open(struct bp_frames *frames, const struct bp_space *space);
void bp_frames_close(struct bp_frames *frames);

/* The next part of [from, end), bytes from the space's start, that has frames. -ENXIO: there is none; -errno. */
int bp_frames_next(struct bp_frames *frames, uint64_t from, uint64_t end, uint64_t *start, uint64_t *stop);

/* Is a granule's scratch pattern seen as a frame? */
bool bp_frames_see_scratch(const struct bp_frames *frames);

#endif
