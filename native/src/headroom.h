/*
 * headroom.h: what the memory cgroups of this process still have room for.
 *
 * At a cgroup's limit no request fails: the kernel reclaims what it can, then kills. With BUFPOOL_CHECK_HEADROOM a fill asks
 * here first. Watched are the process's cgroup and those above it that had a limit when the pool was opened, version 2
 * (memory.max, memory.high) or 1 (memory.limit_in_bytes), by descriptors that are kept. They are not read for every page:
 * each look grants an eighth of the room for what follows. Page cache counts as used there; as much of it as is clean is
 * taken for room, since the kernel reclaims that first. Others who allocate between the look and the fill are not seen, and
 * swap is not counted as room.
 *
 * Thread-safe; all but open and explain async-signal-safe.
 */
#ifndef BP_HEADROOM_H
#define BP_HEADROOM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BP_CGROUPS 4 /* with limits, from the process's own upwards; those above the fourth are not watched */

struct bp_cgroup {
    int limit, high, usage, stat; /* high: -1 in version 1 */
    bool v2;
    char name[128]; /* its directory, the end of it where that is longer */
};

struct bp_headroom {
    int count;
    struct bp_cgroup cgroups[BP_CGROUPS];
    _Atomic int64_t granted; /* bytes that may still be filled before the next look */
};

/* Finds the cgroups. Returns how many have a limit, or -errno where /proc does not say. */
int bp_headroom_open(struct bp_headroom *headroom);
void bp_headroom_close(struct bp_headroom *headroom);

/* Watches the cgroup of a directory, if it has a limit. For open and for tests. */
void bp_headroom_watch(struct bp_headroom *headroom, const char *directory, bool v2);

/* 0, or -EDQUOT if so many bytes more come too near a limit. What cannot be read does not count. */
int bp_headroom_lacks(struct bp_headroom *headroom, uint64_t length);

/* Which limit it is, as "memory cgroup /a/b uses 60 MiB of its memory.max of 64 MiB, ...". */
void bp_headroom_explain(const struct bp_headroom *headroom, char *text, size_t size);

#endif
