/*
 * memory.h: where frames come from, which traps go with each memory, and how large its granules are.
 *
 * One table of memories, one of traps, and one function that says of a pair whether it goes together: the doctor, the
 * README's table and the tests are made from it. Not async-signal-safe.
 */
#ifndef BP_MEMORY_H
#define BP_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BP_GRANULE 4096             /* bytes; the OS page, checked at open */
#define BP_HUGE ((uint64_t)2 << 20) /* bytes of a transparent huge page */

struct bp_trap;

struct bp_memory {
    const char *name; /* "path" stands for every path */
    bool file;        /* frames come from a file: a memfd, or one on hugetlbfs */
    bool hugetlb;     /* huge pages from the system's reserve */
    bool thp;         /* transparent huge pages */
    bool path;        /* the user named the file */
    bool hidden_file; /* the file is the trap's affair: a forked child has pages of its own */
};

/* By name; any text with a slash is a path. NULL if unknown. */
const struct bp_memory *bp_memory_find(const char *name);
const struct bp_trap *bp_trap_find(const char *name);

/* Of a mapping of the program's own, see bufpool_adopt(). */
const struct bp_memory *bp_memory_adopted(bool hugetlb, bool shared);

/* The memory as the trap takes it: filling behind a closed mapping needs a file, and so does hiding pages that keep their
 * content; so "anon" gets a memfd then, and thp a vault (vault.h). */
const struct bp_memory *bp_memory_for(const struct bp_memory *memory, const struct bp_trap *trap, bool hides);

/* The n-th mechanism that "auto" tries, in order; NULL past the last. */
const struct bp_trap *bp_trap_candidate(size_t n);

/* Do they go together? NULL, or why they never do. users, if not NULL, receives BUFPOOL_USERS_... */
const char *bp_cell(const struct bp_memory *memory, const struct bp_trap *trap, uint32_t *users);

/* The granule of a memory: the asked-for size (0: its own), checked. path: of memory "path". Errors: EARGUMENT,
 * EUNSUPPORTED (no hugetlbfs, no such huge pages), -errno of reading the path; with a sentence. */
int bp_memory_granule(const struct bp_memory *memory, const char *path, uint64_t asked, uint64_t *granule);

#endif
