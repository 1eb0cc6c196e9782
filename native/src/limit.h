/*
 * limit.h: the first reports of one place are written in full, the others are counted, so that a loop cannot flood.
 *
 * A place is the instruction (pc) and its three innermost callers: what strays in memcpy() is many places. So
 * is what strays in an interpreter: what bufpool_set_place() and bufpool_set_caller() said, and who freed the page, where
 * that is recorded, tell such places apart. One table for
 * each pool, of a fixed size and without a lock, so that the handler may use it. Places that find no room are counted
 * together. A forked child begins anew.
 */
#ifndef BP_LIMIT_H
#define BP_LIMIT_H

#include <bufpool/bufpool.h>
#include <stdatomic.h>

#define BP_LIMIT_DEFAULT 16
#define BP_LIMIT_ENTRIES 256

struct bp_limit_entry {
    _Atomic uint64_t key; /* of the place; 0: free; set once */
    _Atomic uint64_t pc;
    _Atomic uint64_t faults;
    _Atomic uint64_t first; /* sequence */
    _Atomic uint64_t told;  /* of those over the limit: how many the last line said */
    atomic_bool on_stderr;
};

struct bp_limits { /* zeroed at first */
    _Atomic int32_t process;
    struct bp_limit_entry entries[BP_LIMIT_ENTRIES];
    struct bp_limit_entry others; /* the places that found no room */
};

/* What a line about the reports that were only counted says. */
struct bp_more {
    uint64_t count; /* of this place so far; 0: nothing is to be written */
    uint64_t first; /* sequence of the first report of this place */
    uint64_t pc;    /* 0: of all those that found no room */
    int64_t time_ns;
    int32_t pid;
    uint32_t limit;
    bool on_stderr; /* these reports would have gone to stderr */
    char pool[64];
};

/* Counts a fault. false: it is over the limit, and *more says whether a line is due (with the first such fault, and
 * whenever their number has doubled). Async-signal-safe. */
bool bp_limits_pass(struct bp_limits *limits, uint32_t limit, const bufpool_fault *fault, bool on_stderr,
                    struct bp_more *more);

/* The n-th entry: true, and what it has counted since a line was last due, or (all set) since the beginning; *more as
 * above, but for time, process and pool. false: there is no n-th entry. Async-signal-safe. */
bool bp_limits_entry(struct bp_limits *limits, size_t n, uint32_t limit, bool all, struct bp_more *more);

#endif
