/*
 * roster.h: which processes have a pool whose tables are shared (tables.h), each by a number from 1 on.
 *
 * A member holds a lock on the byte of its number in the file of the tables, by a description to which it has no
 * descriptor, but a mapping that no forked child gets, also none made past the fork handlers. So the lock is there as long
 * as the process's memory, whatever descriptors it or its children close or keep, and ends with it: with the process, or
 * as it becomes another program. The kernel says who is there, and whoever has the lock of a number has the right to
 * change its entry: its process, or one that repairs what it has left (recover.h), which takes the lock by a descriptor of
 * its own. The pid in an entry is for people, and to tell a number that is being repaired from one of somebody who lives.
 *
 * All functions make system calls only, and are thread-safe.
 */
#ifndef BP_ROSTER_H
#define BP_ROSTER_H

#include "tables.h"

/* Takes a number for this process: pages->busy. Errors: -EUSERS (all are taken), -errno. */
int bp_roster_join(struct bp_pages *pages);

/* Gives it back. This process has no page BUSY and shows the scratch pattern nowhere. */
void bp_roster_leave(struct bp_pages *pages);

/* Takes over the number of a member whose process is gone, to repair what it has left. false: it lives, or others are at
 * it, or there is no such member. Ends with bp_roster_bury(), which makes the number free, or, if something could not be
 * repaired, bp_roster_put_down(). */
bool bp_roster_take_over(struct bp_pages *pages, uint32_t member);

/* The same for a number that no entry has, so that nobody takes it meanwhile; ends with bp_roster_put_down(). */
bool bp_roster_hold_vacant(struct bp_pages *pages, uint32_t member);

void bp_roster_bury(struct bp_pages *pages, uint32_t member);
void bp_roster_put_down(struct bp_pages *pages, uint32_t member);

/* Is the process of this member known to be gone, though perhaps another one is repairing what it has left? */
bool bp_roster_is_dead(const struct bp_pages *pages, uint32_t member);

/* How many processes have the pool, those included who were killed and have not been repaired yet. 1 for tables that are
 * not shared. */
uint32_t bp_roster_count(const struct bp_pages *pages);

/* No entry above this number was ever in use: those are not even looked at, as they would take memory. */
static inline uint32_t bp_roster_last(const struct bp_pages *pages)
{
    uint32_t last = atomic_load(&pages->counts->last_member);
    return last < BP_MAX_MEMBERS ? last : BP_MAX_MEMBERS;
}

/* Is the entry in use, by a process that lives or by what one has left? */
static inline bool bp_roster_has(const struct bp_pages *pages, uint32_t member)
{
    return atomic_load(&pages->members[member].present) != 0;
}

/* This process's own entry; NULL: the tables are its own, too. */
static inline struct bp_member *bp_roster_self(const struct bp_pages *pages)
{
    return pages->members == NULL ? NULL : &pages->members[BP_MEMBER_OF(pages->busy)];
}

/* The caller, who has the page BUSY, shows the scratch pattern there (slot: 0 to BP_MEMBER_SCRATCH - 1), or does so no
 * more: then false if others still do. Tables that nobody shares: nothing, and true. */
void bp_roster_show(struct bp_pages *pages, size_t slot, uint64_t page);
bool bp_roster_hide(struct bp_pages *pages, size_t slot, uint64_t page);

/* The first member from this number on that shows the pattern there, or 0. */
uint32_t bp_roster_next_shower(const struct bp_pages *pages, uint32_t from, uint64_t page);

/* Does anybody but this member show the pattern there? */
bool bp_roster_shown_by_others(const struct bp_pages *pages, uint32_t member, uint64_t page);

#endif
