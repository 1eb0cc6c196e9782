/* check.h: is the tree right, and are its pages the allocated ones? */
#ifndef KV_CHECK_H
#define KV_CHECK_H

#include "tree.h"

struct kv_census {
    uint64_t version;
    uint64_t keys;
    uint64_t pages;  /* that the walk came to, page 0 included */
    uint64_t leaked; /* allocated, but not of the tree */
    unsigned depth;
    char wrong[200]; /* the first thing that is not right; "": all is */
};

/* Waits for the latch, finishes or undoes what a killed writer has left, and walks the tree: order of the keys, levels,
 * versions, no page twice. With the latch held nobody allocates, so what is allocated must be what the tree has. */
int kv_check(struct kv_store *store, struct kv_census *census);

#endif
