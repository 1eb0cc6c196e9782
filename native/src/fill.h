/*
 * fill.h: giving claimed pages their frames and content, all or none.
 *
 * The caller owns the pages: their states are BUSY over what they were, and the pages are in the index as taken.
 * No memory of the caller's caller is touched from user mode meanwhile, but by careful reads (probe.h): a stray access
 * there could end in a longjmp over us.
 */
#ifndef BP_FILL_H
#define BP_FILL_H

#include "pool.h"

/* Where the content of pages comes from. */
struct bp_source {
    const char *data;      /* NULL: zeros */
    size_t size;           /* bytes at data; less than the pages for a short single page only */
    const void *caller;    /* who called the library, for provenance */
    char tail[BP_GRANULE]; /* the last granule of a short page, where granules are small */
};

/* Readies one page's content, before anything is claimed. Errors: as bp_fill_error() for data that is not readable. */
int bp_fill_source(const bufpool_pool *pool, struct bp_source *source, const void *data, size_t size);

/* Fills the pages with as few requests as there are runs of neighbours and settles their states: allocated, or what
 * they were. A code of the kernel, for bp_fill_error() to name outside the pool. */
int bp_fill(bufpool_pool *pool, const uint64_t *pages, size_t count, const struct bp_source *source);

/* For who fills by other means. Pages that are filled now, free or evicted ones: counts and records them, and settles
 * their states. */
void bp_fill_settle(bufpool_pool *pool, const uint64_t *pages, size_t count, const void *caller);

/* Takes back what was filled of one run of neighbours, so many bytes, and leaves the pages claimed; where even that fails
 * they are claimed over "allocated", which they are once they are dropped. */
void bp_fill_undo(bufpool_pool *pool, const uint64_t *pages, size_t count, size_t length, const void *caller);

/* Names a code of bp_fill(): EEXHAUSTED (no frames), ESTRAY (data lies in a hole of a pool; under that pool's policy
 * "abort" the process ends here, with this frame in the report), -EFAULT, or the code itself. */
int bp_fill_error(const bufpool_pool *pool, int code, const struct bp_source *source, size_t count);

#endif
