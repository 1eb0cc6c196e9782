/* frames.h: the pools behind the page cache: a group for each SQLite page size, and one limit on all their frames. */
#ifndef BUFPOOL_SQLITE_FRAMES_H
#define BUFPOOL_SQLITE_FRAMES_H

#include "bufpool_sqlite.h"
#include "choice.h"

#include <pthread.h>
#include <stdatomic.h>

#define SQ_GROUPS 8        /* SQLite's page sizes: 512, 1024, ... 65536 */
#define SQ_QUARANTINE 256  /* at least so many numbers rest before the oldest is given out again */
#define SQ_BATCH 64        /* frames dropped in one call, at most */
#define SQ_NONE UINT32_MAX /* no frame number */

/* Frame numbers linked through sq_group.next. */
typedef struct sq_list {
    uint32_t first, last;
    uint32_t count;
} sq_list;

/* One pool. Frame k is pool page 2k (data) and pool page 2k+1 (its cushion, allocated once and never evicted). */
typedef struct sq_group {
    bufpool_pool *pool;
    unsigned char *base;      /* of pool page 0 */
    uint32_t sqlite_page;     /* bytes */
    uint32_t page;            /* bytes, of the pool */
    uint32_t slots;           /* SQLite pages in a pool page */
    uint32_t limit;           /* frame numbers there are */
    uint32_t rest;            /* numbers that rest at least */
    bool fresh;               /* pages that are given out are filled with BUFPOOL_FRESH bytes */
    bool counted;             /* the pool is told of pins; */
    bool enforced;            /* unpinned pages are at least read-only, all of them, */
    bool hidden;              /* not accessible at all */
    sq_evict evict;           /* how pages leave a full cache; SQ_AUTO: */
    _Atomic sq_evict cheaper; /* as was measured; SQ_AUTO: not yet */
    _Atomic uint32_t caches;
    _Atomic uint64_t resident, evictions, populates, evict_failures, replaced;

    pthread_mutex_t lock; /* of what follows; never held across a system call */
    uint32_t *next;       /* limit entries in memory of their own, touched where used */
    size_t next_bytes;
    uint32_t used;   /* numbers below were given out at least once */
    sq_list resting; /* evicted, oldest first */
    sq_list unborn;  /* below used, but the pool had no memory for them: not allocated */
    sq_list stuck;   /* left their cache but could not be zapped: accessible, and counted as resident */
} sq_group;

/* Sets the limit and what the pools are opened with. The strings must stay until sq_frames_close(). Opens the first
 * group (4096), so that wrong options show at once. Errors: those of bufpool_open(), with sq_say()'s sentence. */
int sq_frames_open(const bufpool_sqlite_config *config);

/* Closes every pool. No cache may be left. */
void sq_frames_close(void);

/* In a forked child: forgets the parent's groups, without touching them. */
void sq_frames_forget(void);

/* The group of a SQLite page size, opened on first use; NULL with a sentence when that fails. */
sq_group *sq_group_get(uint32_t sqlite_page);

/* The n-th group in order of first use, or NULL. */
sq_group *sq_group_at(size_t n);

/* Counts bytes as resident if the limit allows it. */
bool sq_reserve(uint64_t bytes);
void sq_unreserve(uint64_t bytes);
bool sq_has_room(uint64_t bytes); /* whether sq_reserve() would succeed now */
uint64_t sq_resident(uint64_t *peak);
uint64_t sq_capacity(void);

/* Gives out a number with the frame of another, which is evicted and rests. The content is that one's. SQ_NONE: nothing
 * has changed. */
uint32_t sq_frame_replace(sq_group *group, uint32_t victim);

/* Gives out a frame, accessible, its content undefined. The caller has reserved group->page bytes, which are given back
 * on failure: SQ_NONE, when the system has no memory. */
uint32_t sq_frame_take(sq_group *group);

/* Evicts at most SQ_BATCH frames, gives back their bytes, and lets the numbers rest. */
void sq_frame_drop(sq_group *group, const uint32_t *frames, size_t count);

static inline unsigned char *sq_frame_address(const sq_group *group, uint32_t frame)
{
    return group->base + (uint64_t)frame * 2 * group->page;
}

#endif
