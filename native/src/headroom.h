/*
 * headroom.h: what the memory cgroups of this process still have room for.
 *
 * At a cgroup's limit no request fails: the kernel reclaims what it can, then kills. With BUFPOOL_CHECK_HEADROOM a fill asks
 * here first. Watched are the process's cgroup and those above it that had a limit when the pool was opened, version 2
 * (memory.max, memory.high) or 1 (memory.limit_in_bytes), by descriptors that are kept. They are not read for every page:
 * each look grants an eighth of the room for what follows. What fills of this process are under way is not used yet, and
 * counts as used; as such a fill goes on, part of it counts twice, so that near the limit fills at the same time may be
 * refused where one after the other would not. Page cache counts as used there; as much of it as is clean is
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

#define BP_CGROUPS 16 /* with limits, from the process's own upwards; those above the 16th are not watched */

struct bp_cgroup {
    int limit, high, usage, stat; /* high: -1 in version 1 */
    bool v2;
    char name[128]; /* its directory, the end of it where that is longer */
};

struct bp_headroom {
    int count;
    struct bp_cgroup cgroups[BP_CGROUPS];
    _Atomic uint64_t word; /* what is promised and granted, see headroom.c */
};

/* Finds the cgroups. Returns how many have a limit, or -errno where /proc does not say. */
int bp_headroom_open(struct bp_headroom *headroom);
void bp_headroom_close(struct bp_headroom *headroom);

/* Watches the cgroup of a directory, if it has a limit. For open and for tests. */
void bp_headroom_watch(struct bp_headroom *headroom, const char *directory, bool v2);

/* Before a fill: 0, and so many bytes are promised to it, or -EDQUOT if they come too near a limit. What cannot be read does
 * not count. */
int bp_headroom_take(struct bp_headroom *headroom, uint64_t length);

/* After a fill that was promised so many bytes, whatever came of it: they are in the usage now, or not needed. */
void bp_headroom_settle(struct bp_headroom *headroom, uint64_t length);

/* In a forked child: nothing is under way here, and what is granted was granted to the parent. */
void bp_headroom_inherit(struct bp_headroom *headroom);

/* Which limit it is, as "memory cgroup /a/b uses 60 MiB of its memory.max of 64 MiB, ...". */
void bp_headroom_explain(const struct bp_headroom *headroom, char *text, size_t size);

#endif
