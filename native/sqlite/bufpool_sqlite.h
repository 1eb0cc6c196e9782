/*
 * bufpool_sqlite: SQLite's page cache in pools of bufpool, so that an evicted database page traps.
 *
 * bufpool_sqlite_install() gives the SQLite library of this process a page cache (SQLITE_CONFIG_PCACHE2) whose page
 * buffers lie in pools, one pool for each SQLite page size in use (a "group"). A page that leaves the cache is evicted:
 * whoever still holds its address traps, and the fault report says "evicted". Its number rests before it is given out
 * again, behind at least 256 others, as many as there are live ones, and what config.quarantine says.
 *
 * Layout     Pool page 2k holds data. Pool page 2k+1 is a cushion: readable, never evicted, nobody's. SQLite reads a
 *            few bytes past a page on damaged database files, on purpose; those reads end in the cushion. So an
 *            overrun out of a page is not trapped, and BUFPOOL_RED_ZONES is not to be had. A cushion costs no frame,
 *            except with memory "shared" and trap "uffd".
 * Small      SQLite pages smaller than a granule share one ("slots_per_granule"), each granule belongs to one
 *            connection's cache. The granule is evicted when the last of its pages leaves; until then the slot of a
 *            page that left is filled with BUFPOOL_POISON and used again as late as memory allows, but does not trap.
 * Size       A connection's cache keeps to PRAGMA cache_size, as SQLite's own does, or to a thirty-second part more:
 *            pages leave in batches, or the oldest is replaced by the new one: see config.evict.
 * Pins       With config.pins "write" or "all" a page is open only between SQLite's fetch and unpin of it. What SQLite
 *            never unpins stays open: in-memory databases, and pages that wait to be written to the file.
 *            Small pages are open while any one of their granule is pinned. A cushion is read-only, so that an overrun
 *            out of a page is trapped if it writes; with "all" it takes a frame. A page that SQLite gives another number
 *            (rekey) leaves the cache with its unpin, so that its address means nothing else soon. Memory that the
 *            kernel may reclaim from under an open page (bufpool_config.pins) is not locked.
 * Not here   Pages that SQLite maps from the file (PRAGMA mmap_size) never enter a page cache. Page headers and
 *            SQLite's extra bytes are on the heap. sqlite3_soft_heap_limit64() does not reach page buffers: capacity
 *            does.
 *
 * Results    Functions that return int return 0 or a negative code, as those of bufpool.h;
 *            bufpool_sqlite_last_error() has the sentence with the values in it.
 * Signals    No function here is async-signal-safe.
 * Fork       A child made by fork() starts with pools of its own, opened when it opens its first connection. As SQLite
 *            itself asks, it must not use its parent's connections.
 */
#ifndef BUFPOOL_SQLITE_H
#define BUFPOOL_SQLITE_H

#include <bufpool/bufpool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bufpool_sqlite_config {
    size_t size; /* sizeof(bufpool_sqlite_config) */

    /* Bytes of frames that all pages of all connections may have together, 1 MiB to 4 TiB. When they are used up,
     * unpinned pages of other connections give way, then SQLite spills, then it answers SQLITE_NOMEM. 0: half of the
     * machine's memory. The pools reserve several times as many addresses, which cost nothing. */
    uint64_t capacity;

    const char *memory;   /* as in bufpool_config; "shared" with trap "uffd" takes a frame for each cushion too */
    const char *trap;     /* as in bufpool_config */
    const char *on_fault; /* as in bufpool_config */
    const char *name;     /* the pools are called NAME-PAGESIZE, as "sqlite-4096"; 1 to 57 bytes */
    const char *log;      /* as in bufpool_config */

    /* A file whose SQLite it is: libsqlite3 itself or a library linked to it (such as Python's _sqlite3 module); loaded
     * if it is not yet. NULL: handle. */
    const char *library;

    /* The same, already opened by dlopen(), which stays the caller's and must stay open. NULL: the one SQLite that this
     * process has loaded. */
    void *handle;

    const char *provenance;    /* as in bufpool_config: who fetched the page, and who let it leave the cache */
    uint32_t provenance_depth; /* as in bufpool_config */
    uint32_t report_limit;     /* as in bufpool_config */
    bool monitor;              /* BUFPOOL_MONITOR of bufpool_config */

    /* As in bufpool_config; SQLite's fetch is the pin, for reading and writing, as it does not say which. "all": a page
     * that SQLite has unpinned is not accessible; "write": it is read-only. NULL: "off". */
    const char *pins;

    uint64_t quarantine; /* bytes of evicted pages whose addresses rest at least, beyond what rests anyway */

    /* "pattern": a page that the cache gives out new holds BUFPOOL_FRESH bytes until SQLite fills it. "zeros": it holds
     * anything, as SQLite has to expect. NULL: "zeros". */
    const char *fill;
    bool scrub; /* BUFPOOL_SCRUB of bufpool_config */

    /* As in bufpool_config: one page in so many that enter the cache is closed while SQLite has it unpinned. */
    uint32_t sample;
    uint64_t seed;

    /* How a page leaves a full cache (PRAGMA cache_size) for a new one. "batch": several at once, and each new page gets a
     * fresh frame. "replace": its frame becomes the new page's in one step (bufpool_replace()); what is there until SQLite
     * fills it is the old page's content, as in SQLite's own cache. The old address traps either way. "auto": the
     * processor time that 512 new pages take each way is compared, in turns, until "replace" was the cheaper 7 times or the
     * dearer 3 times; again after 200000 pages. It is "batch" where SQLite's
     * pages share a granule, where pins are counted (pins, sample), and with scrub; and for a page that cannot be replaced.
     * NULL: "auto". */
    const char *evict;
} bufpool_sqlite_config;

#define BUFPOOL_SQLITE_CONFIG_INIT \
    {sizeof(bufpool_sqlite_config), \
     0, \
     "anon", \
     "auto", \
     "abort", \
     "sqlite", \
     NULL, \
     NULL, \
     NULL, \
     NULL, \
     0, \
     0, \
     false, \
     NULL, \
     0, \
     NULL, \
     false, \
     0, \
     0, \
     "auto"}

/* Puts the page cache in place, for every connection opened from now on. The strings are copied.
 *
 * SQLite takes a page cache only before it is initialised. If it is (Python's `import sqlite3` does that), this calls
 * sqlite3_shutdown(), sets the page cache and calls sqlite3_initialize() again. What SQLite forgets then: automatic
 * extensions, sqlite3_temp_directory, which VFS was made the default. No connection may be open; SQLite does not count
 * them, so the test is that SQLite has no memory in use (sqlite3_memory_used() is 0). Another thread that opens a
 * connection during this call is not seen: install before threads start.
 *
 * Errors: EARGUMENT (a field is wrong, or there is more than one SQLite to choose from); ESTATE (installed already;
 * connections are open); EUNSUPPORTED (no SQLite found that is linked dynamically; older than 3.7.10; SQLite
 * initialised and built or configured to count no memory; memory, trap or monitor not to be had); -errno and the other codes of
 * bufpool_open(). On an error everything is as it was. Thread-safe against the functions of this header. */
int bufpool_sqlite_install(const bufpool_sqlite_config *config);

/* Gives SQLite back the page cache that it had, and closes the pools (late accesses trap as "closed"). SQLite is shut
 * down and initialised again, with the same consequences.
 * Errors: ESTATE (not installed; connections are open). Thread-safe against the functions of this header. */
int bufpool_sqlite_uninstall(void);

/* Whether the page cache is installed. Thread-safe. */
bool bufpool_sqlite_installed(void);

/* Counters since install, over all connections, those closed included. */
typedef struct bufpool_sqlite_statistics {
    size_t size;            /* sizeof(bufpool_sqlite_statistics) */
    uint64_t capacity;      /* bytes: the limit */
    uint64_t resident;      /* bytes of frames now, cushions not counted */
    uint64_t resident_peak; /* bytes: the most there were at once */
    uint64_t pages;         /* SQLite pages in the caches, now */
    uint64_t unpinned;      /* of those, not in use by SQLite at this moment */
    uint64_t caches;        /* now; SQLite has one for each open database file, and one for each temporary database */
    uint64_t caches_opened;
    uint64_t groups;    /* SQLite page sizes in use so far: 0 to 8 */
    uint64_t hits;      /* fetches that found the page */
    uint64_t misses;    /* fetches that made a new page */
    uint64_t absent;    /* fetches that only asked, and found nothing */
    uint64_t refused;   /* fetches that SQLite has to answer by spilling: too many pages pinned, or no capacity left */
    uint64_t exhausted; /* fetches that became SQLITE_NOMEM: all of capacity pinned, or the system had no memory */
    uint64_t recycles;  /* pages that left because their own cache was full (PRAGMA cache_size) */
    uint64_t steals;    /* pages that left because capacity was used up */
    uint64_t evictions; /* pool pages zapped: their address traps */
    uint64_t populates; /* pool pages given a frame */
    uint64_t evict_failures; /* pool pages that left the cache but that the system could not zap: these do not trap */
    int32_t sqlite_version;  /* as sqlite3_libversion_number(): 3040001 */
    char library[256];       /* the file that SQLite came from, cut to size */
    uint64_t pins;           /* times a page was pinned, each with its unpin later; 0 with pins "off" and no sample */
    uint64_t left_open;      /* unpins after which the system did not close the page */
    uint64_t replaced;       /* of the evictions, those whose frame became the new page's in one step */
} bufpool_sqlite_statistics;

#ifdef __cplusplus
#define BUFPOOL_SQLITE_STATISTICS_INIT {sizeof(bufpool_sqlite_statistics)}
#else
#define BUFPOOL_SQLITE_STATISTICS_INIT {.size = sizeof(bufpool_sqlite_statistics)}
#endif

/* Counters are read one by one, not as one snapshot. Errors: EARGUMENT; ESTATE (not installed). Thread-safe. */
int bufpool_sqlite_stats(bufpool_sqlite_statistics *statistics);

/* One group: the pool of one SQLite page size. */
typedef struct bufpool_sqlite_group {
    size_t size;               /* sizeof(bufpool_sqlite_group) */
    bufpool_pool *pool;        /* for bufpool_stats() and reading; closed by bufpool_sqlite_uninstall() */
    uint64_t sqlite_page_size; /* bytes, 512 to 65536 */
    uint64_t page_size;        /* bytes, of the pool: at least a granule */

    /* SQLite pages that share one pool page; above 1, a page that left may stay accessible. */
    uint64_t slots_per_granule;

    uint64_t caches;        /* now */
    uint64_t resident;      /* pool pages with data, now */
    uint64_t resting;       /* pool pages evicted and not given out again, now: their addresses trap */
    uint64_t cushions;      /* pool pages that follow a data page for SQLite's overreads */
    uint64_t address_limit; /* data pages that the pool has addresses for */
    uint64_t evictions;
    uint64_t populates;
    uint64_t evict_failures;
    char memory[64];
    char trap[16];
    uint64_t replaced; /* of the evictions: see bufpool_sqlite_statistics */
    char evict[16];    /* how pages leave a full cache now: "batch" or "replace" */
} bufpool_sqlite_group;

#ifdef __cplusplus
#define BUFPOOL_SQLITE_GROUP_INIT {sizeof(bufpool_sqlite_group)}
#else
#define BUFPOOL_SQLITE_GROUP_INIT {.size = sizeof(bufpool_sqlite_group)}
#endif

/* The n-th group, in the order of their first use; the first is there from install on. A group stays until uninstall.
 * Errors: EARGUMENT (there is no n-th group); ESTATE (not installed). Thread-safe. */
int bufpool_sqlite_group_stats(size_t n, bufpool_sqlite_group *group);

/* Writes to pools at most count handles, in the order of the groups, and returns how many groups there are (0 when not
 * installed). pools may be NULL when count is 0. Thread-safe. */
size_t bufpool_sqlite_pools(bufpool_pool **pools, size_t count);

/* Copies this thread's last error of the functions above, a sentence with the values in it, to buffer (cut to size,
 * always terminated). Returns the sentence's whole length, 0 when there was no error yet. Thread-safe. */
int bufpool_sqlite_last_error(char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
