/* cache.h: one page cache of SQLite (one open database file, or one temporary database), as its files share it. */
#ifndef BUFPOOL_SQLITE_CACHE_H
#define BUFPOOL_SQLITE_CACHE_H

#include "frames.h"
#include "sqlite_abi.h"

struct sq_granule;

/* A SQLite page in a cache. SQLite's own extra bytes follow it in memory. */
typedef struct sq_page {
    sqlite3_pcache_page base;      /* first: what SQLite holds is a pointer to this */
    struct sq_page *chain;         /* the next page of its hash bucket; of the spare list */
    struct sq_page *newer, *older; /* neighbours among the unpinned pages; NULL while pinned */
    struct sq_granule *granule;    /* where several pages share a frame; else NULL */
    uint32_t frame;
    uint32_t slot; /* in the frame */
    unsigned key;  /* SQLite's page number */
    bool pinned;   /* its pool page has a pin for it */
    bool rekeyed;  /* it had another key, by which somebody may remember its address */
} sq_page;

/* What only its own lock's holder writes, and anybody may read. */
typedef _Atomic uint64_t sq_counter;

static inline void sq_count(sq_counter *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

static inline uint64_t sq_read(sq_counter *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The counters of a cache, in one array so that they can be added up. */
enum {
    SQ_HITS,
    SQ_MISSES,
    SQ_ABSENT,
    SQ_REFUSED,
    SQ_EXHAUSTED,
    SQ_RECYCLES,
    SQ_STEALS,
    SQ_PINS,
    SQ_LEFT_OPEN,
    SQ_COUNTERS
};

/* Frames that leave a cache, gathered to be evicted in few calls. */
typedef struct sq_drops {
    size_t count;
    uint32_t frames[SQ_BATCH];
} sq_drops;

struct sqlite3_pcache {
    pthread_mutex_t lock; /* SQLite calls a cache from one thread at a time; this is for those that steal pages */
    sq_group *group;
    uint32_t extra;   /* bytes */
    bool purgeable;   /* false: an in-memory database, whose pages exist nowhere else and are never unpinned */
    unsigned limit;   /* pages: PRAGMA cache_size */
    unsigned highest; /* key so far */
    uint32_t buckets; /* a power of two */
    sq_page **table;
    sq_page unpinned_list; /* the ends of the list: .older is the newest page, .newer the oldest */
    sq_page *spare;        /* page headers for reuse */
    sq_choice choice;      /* how pages leave, when it is full */
    sq_counter pages, unpinned;
    sq_counter counters[SQ_COUNTERS];

    /* Frames shared by several pages, see slots.c. */
    struct sq_granule *filling;                      /* has slots that were never used */
    struct sq_granule *partial_first, *partial_last; /* have slots that a page left, longest ago first */
    size_t left_slots;                               /* of those, all together */

    struct sqlite3_pcache *next, *previous; /* in registry.c, under its lock */
    unsigned generation;                    /* of the process: changes in a forked child */
};

/* cache.c: takes the page out of the cache, with its slot. Under the cache's lock. */
void sq_cache_remove(sqlite3_pcache *cache, sq_page *page, sq_drops *drops);

/* cache.c: the page unpinned longest ago, or NULL. Under the cache's lock. */
sq_page *sq_cache_oldest(sqlite3_pcache *cache);

/* cache.c: fills in the eleven methods. */
void sq_cache_methods(sqlite3_pcache_methods2 *methods);

/* slots.c: gives the page a buffer (base.pBuf), pinned, or false: no capacity left (*exhausted false), or no memory
 * (true). */
bool sq_slot_take(sqlite3_pcache *cache, sq_page *page, bool *exhausted);

/* slots.c: gives an unpinned page, with a frame of its own, another buffer with the same frame. false: nothing has
 * changed. */
bool sq_slot_replace(sqlite3_pcache *cache, sq_page *page);

/* slots.c: takes the buffer back; a frame that nobody uses any more joins drops, which is flushed when it is full. */
void sq_slot_give(sqlite3_pcache *cache, sq_page *page, sq_drops *drops);

/* slots.c: pins the pool page for a page that is not pinned, for writing since SQLite does not say what for. false: the
 * system did not open it. */
bool sq_slot_pin(sqlite3_pcache *cache, sq_page *page);

/* slots.c: gives that pin back. What the system does not close keeps its pin, and is counted. */
void sq_slot_unpin(sqlite3_pcache *cache, sq_page *page);

/* slots.c: evicts what has gathered. */
void sq_drops_flush(sqlite3_pcache *cache, sq_drops *drops);

/* registry.c: every open cache is on one list. Lock order: a cache's lock, then the registry's, then a group's. */
void sq_registry_add(sqlite3_pcache *cache);
void sq_registry_remove(sqlite3_pcache *cache);

/* registry.c: the capacity is used up: takes unpinned pages, first from the cache that has most of them, until there is
 * room for bytes, or the thief has a slot left in a granule of its own. SQ_NOTHING: all are pinned. SQ_BUSY:
 * caches whose locks others hold for the moment were left out. thief's lock is held. */
typedef enum sq_stolen { SQ_ROOM, SQ_NOTHING, SQ_BUSY } sq_stolen;
sq_stolen sq_registry_steal(sqlite3_pcache *thief, uint64_t bytes);

/* registry.c: sums over all caches, those closed included. */
typedef struct sq_totals {
    uint64_t caches, opened, pages, unpinned;
    uint64_t counters[SQ_COUNTERS];
} sq_totals;

void sq_registry_totals(sq_totals *totals);
uint64_t sq_registry_caches(void);
void sq_registry_reset(void); /* sets the totals to zero; no cache may be open */

/* registry.c: in a forked child: forgets the parent's caches. SQLite may still close them, but their frames are not
 * there. */
void sq_registry_forget(void);
bool sq_inherited(const sqlite3_pcache *cache);

/* cache.c: between SQLite's xInit and xShutdown. */
bool sq_cache_active(void);

/* install.c: the program has shut SQLite down, and may have given it another page cache: ours again. Errors: ESTATE
 * (not installed; connections are open), EUNSUPPORTED. */
int sq_install_again(void);

#endif
