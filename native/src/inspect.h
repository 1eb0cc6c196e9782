/*
 * inspect.h: a look at all of a pool, in the course of bufpool_inspect(): inspect.c goes through all of it and has the
 * counts, inspect_page.c has a page, inspect_index.c the index of free numbers.
 *
 * The pool is entered and left again every few pages, so that forks and a close need not wait for the end of it. Nobody
 * else is held up. So what looks wrong is looked at again, several times, before it is believed: what somebody is just
 * changing has a page BUSY, or looks right at the next look.
 */
#ifndef BP_INSPECT_H
#define BP_INSPECT_H

#include "frames.h"
#include "pool.h"

struct bp_run {
    uint64_t start;
    uint64_t end;
};

struct bp_look {
    bufpool_pool *pool;
    bool mend; /* what is found wrong is put right, as far as it can be */
    bool set;  /* so are the counts; false afterwards if that could not be */
    bufpool_findings found;
    struct bp_frames frames;
    int pagemap;          /* tells which parts of private tables were ever touched; or -1 */
    bool disturbed;       /* somebody was changing something */
    uint64_t bits;        /* of pages, that the index has set */
    uint64_t high;        /* 1 + the highest page that was ever allocated */
    struct bp_run memory; /* the next frames, in bytes of the space; then the tables' parts, in pages */
    struct bp_run states;
    struct bp_run index;
};

/* The next part of a table of `count` items of `size` bytes, from item `from` on, that was ever written to. false: none. */
bool bp_look_next(const struct bp_look *look, const void *table, uint64_t count, size_t size, uint64_t from,
                  struct bp_run *run);

/* One of several looks at something that seems wrong, when the counts were `before`. true: it may be believed. */
bool bp_look_vote(const struct bp_look *look, int *votes, uint64_t before);

/* Keeps a finding. */
void bp_look_note(struct bp_look *look, uint64_t page, bufpool_wrong what);

/* inspect_page.c: one page against its frames (look->memory: those at or after it), who has it, and its bit of the index. */
void bp_look_page(struct bp_look *look, uint64_t page);

/* inspect_index.c: a word of the index against those above and below it; and all words of the levels above pages. */
void bp_look_word(struct bp_look *look, int level, uint64_t word);
int bp_look_levels(struct bp_look *look);

#endif
