/*
 * btree.h: a small B+tree on a pool, as an engine with optimistic readers has it; for tests and the bench.
 *
 * Optimistic lock coupling: each page has a word outside of the pool, with a version that counts up whenever the page is
 * changed, evicted or brought back, and flags. Readers latch nothing. They go down from the root in an optimistic section
 * and look at each word before and after they read the page; writers do the same, and latch the pages that they change
 * if the words still stand as they were read. Pages are evicted to a temporary file at any moment when nobody has them
 * latched. Who meets a hole leaves the section by its restart, brings the page back, and begins again.
 *
 * The root stays where it is. A node that is full is split on the way down, so that its parent has room; a leaf that
 * becomes empty is freed, others are not merged. All functions may be called by any thread; a failure ends the program.
 */
#ifndef BTREE_H
#define BTREE_H

#include <bufpool/bufpool.h>
#include <stdatomic.h>

#define BTREE_VALUE 7           /* words of a value */
#define BTREE_LAST (UINT64_MAX) /* keys are below */
#define BTREE_LEAF_ROOM (8192 / 8 / (1 + BTREE_VALUE))

struct btree {
    bufpool_pool *pool;
    _Atomic uint64_t *words; /* one a page */
    uint64_t base;
    uint64_t page_size;
    uint64_t pages;
    uint64_t root;
    uint64_t leaf_most;  /* entries of a leaf */
    uint64_t inner_most; /* keys of an inner node */
    int store;
    bool look;      /* readers look for the flag "evicted" first: only a page that is evicted under them traps */
    uint64_t pause; /* one in so many readers lets others run between reading and looking again, for tests; 0: none */
    _Atomic uint64_t resident;
};

/* What one thread did. */
struct btree_user {
    uint64_t reads;       /* sections entered */
    uint64_t restarts;    /* by a hole */
    uint64_t invalidated; /* begun again since a word had changed, or a page was latched */
    uint64_t fixed;       /* pages brought back */
    uint64_t evicted;
    uint64_t freed;
    uint64_t splits;
};

struct btree_entry {
    uint64_t key;
    uint64_t value[BTREE_VALUE];
};

/* pages of 4 or 8 KiB. inner_most 0: as many keys as there is room for. */
void btree_open(struct btree *tree, bufpool_pool *pool, uint64_t inner_most, bool look);
void btree_close(struct btree *tree);

bool btree_lookup(struct btree *tree, struct btree_user *user, uint64_t key, uint64_t value[BTREE_VALUE]);

/* The same without a section, for a pool that has trap "none" or evicts nothing. */
bool btree_lookup_plain(struct btree *tree, struct btree_user *user, uint64_t key, uint64_t value[BTREE_VALUE]);

/* Inserts, or replaces the value. Was the key new? */
bool btree_put(struct btree *tree, struct btree_user *user, uint64_t key, const uint64_t value[BTREE_VALUE]);

bool btree_delete(struct btree *tree, struct btree_user *user, uint64_t key);

/* The entries with keys >= from of one leaf, in order, all as of one moment; returns how many, and in next the key from
 * which to go on, or BTREE_LAST. entries has BTREE_LEAF_ROOM places. */
uint64_t btree_scan(struct btree *tree, struct btree_user *user, uint64_t from, struct btree_entry *entries,
                    uint64_t *next);

/* Evicts up to 8 pages, going round from *hand; returns how many. */
uint64_t btree_evict(struct btree *tree, struct btree_user *user, uint64_t *hand);

#endif
