/* preload.c: libbufpool_sqlite3.so, the page cache for any program with a dynamic SQLite, by LD_PRELOAD.
 *
 * The library stands before those SQLite functions by which programs begin to use it. The first such call reads
 * BUFPOOL_OPTIONS and installs the page cache; nothing happens before it, nor in a program that does not use SQLite. If
 * that fails, the reason goes to stderr, once, and every sqlite3_initialize() and sqlite3_open() answers SQLITE_MISUSE:
 * a program that was asked to run trapped never runs untrapped without saying so.
 *
 * A page cache that the program sets itself (sqlite3_config(SQLITE_CONFIG_PCACHE2)) gives way to ours, also after
 * sqlite3_shutdown(). In a set-user-id program BUFPOOL_OPTIONS is ignored, and the defaults hold.
 *
 * Which file goes where: preload*.c are in libbufpool_sqlite3.so only, all others in this directory also in the Python
 * extension. preload.map shows the sqlite3_ functions and hides the rest. */
#include "cache.h"
#include "config_options.h"
#include "library.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Options ---- */

static struct options {
    bufpool_config pool;
    uint64_t capacity; /* of all pages together */
    const char *evict;
    uint32_t stats;
} options = {.pool = BUFPOOL_CONFIG_INIT};

/* Not on_fault=raise: that needs a program which asks for its faults. */
static const struct bp_option table[] = {
    {"capacity", BP_OPTION_SIZE, offsetof(struct options, capacity), 0, "half of the memory", NULL,
     "limit of all page buffers, as 64 MiB"},
    {"on_fault", BP_OPTION_TEXT, offsetof(struct options, pool.on_fault), 0, NULL, "abort resume freeze",
     "what a stray access does beyond its report"},
    {"evict", BP_OPTION_TEXT, offsetof(struct options, evict), 0, "auto", "auto batch replace",
     "how pages leave a full cache: several at once, or each replaced by the new page; auto: the cheaper one, "
     "measured"},
    {"stats", BP_OPTION_FLAG, offsetof(struct options, stats), 1, NULL, NULL,
     "1: at the program's end, a line of counters to stderr"},
    {"red_zones", BP_OPTION_REFUSED, 0, 0, NULL, NULL,
     "SQLite reads a little past its pages, on purpose, where a file is damaged; an overrun that writes is trapped by "
     "pins=write or pins=all"},
};

/* Of a pool's keys those that have a field in bufpool_sqlite_config. */
#define TAKEN \
    "memory trap name log report_limit provenance provenance_depth monitor pins quarantine fill scrub sample seed"

static bool read_options(void)
{
    options.pool.name = "sqlite";
    const struct bp_option_set sets[] = {
        {table, COUNT(table), &options, NULL, NULL},
        {bp_config_options, bp_config_options_count, &options.pool, TAKEN, bp_config_options_fit},
    };
    if (bp_options_read("BUFPOOL_OPTIONS", bp_options_environment(), sets, COUNT(sets), bp_config_presets) == 0)
        return true;
    char sentence[1024];
    bufpool_last_error(sentence, sizeof sentence);
    fprintf(stderr, "bufpool: %s\n", sentence);
    return false;
}

/* ---- Installing ---- */

static struct {
    pthread_mutex_t lock;
    enum { NOT_YET, INSTALLED, FAILED } how;
    sq_library library; /* for the functions behind ours */
    _Atomic(void *) handle;
} preload = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* SQLite calls its own functions through us too, while we install. */
static _Thread_local bool inside;

static void *library_handle(void)
{
    void *handle = atomic_load(&preload.handle);
    if (handle != NULL)
        return handle;
    pthread_mutex_lock(&preload.lock);
    handle = atomic_load(&preload.handle);
    if (handle == NULL) {
        /* A program linked to SQLite has it behind us; a plugin's (as Python's _sqlite3) is only to be found by its
         * file. */
        void *next = dlsym(RTLD_NEXT, "sqlite3_config") != NULL ? RTLD_NEXT : NULL;
        if (sq_library_find(&preload.library, NULL, next) == 0)
            handle = preload.library.handle;
        atomic_store(&preload.handle, handle);
    }
    pthread_mutex_unlock(&preload.lock);
    return handle;
}

static void *behind(_Atomic(void *) *known, const char *name)
{
    void *symbol = atomic_load_explicit(known, memory_order_relaxed);
    if (symbol != NULL)
        return symbol;
    void *handle = library_handle();
    symbol = handle != NULL ? dlsym(handle, name) : NULL;
    if (symbol == NULL)
        fprintf(stderr, "bufpool: %s() was called, but no SQLite with it is to be found\n", name);
    atomic_store_explicit(known, symbol, memory_order_relaxed);
    return symbol;
}

static void complain(void)
{
    char sentence[1024];
    preload.how = FAILED;
    bufpool_sqlite_last_error(sentence, sizeof sentence);
    fprintf(stderr, "bufpool: the page cache of SQLite is not installed, so SQLite refuses to start: %s\n", sentence);
}

static void install(void)
{
    preload.how = FAILED;
    if (!read_options())
        return; /* it has said why */
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = options.capacity;
    config.memory = options.pool.memory;
    config.trap = options.pool.trap;
    config.on_fault = options.pool.on_fault;
    config.name = options.pool.name;
    config.log = options.pool.log;
    config.handle = preload.handle;
    config.provenance = options.pool.provenance;
    config.provenance_depth = options.pool.provenance_depth;
    config.report_limit = options.pool.report_limit;
    config.monitor = options.pool.flags & BUFPOOL_MONITOR;
    config.pins = options.pool.pins;
    config.quarantine = options.pool.quarantine;
    config.fill = options.pool.fill;
    config.scrub = options.pool.flags & BUFPOOL_SCRUB;
    config.sample = options.pool.sample;
    config.seed = options.pool.seed;
    config.evict = options.evict;
    preload.how = INSTALLED;
    if (bufpool_sqlite_install(&config) < 0)
        complain();
}

/* Whether SQLite has our page cache, or gets it now. */
static bool ready(void)
{
    if (inside || sq_cache_active())
        return true;
    pthread_mutex_lock(&preload.lock);
    inside = true;
    if (preload.how == INSTALLED && sq_install_again() < 0)
        complain();
    else if (preload.how == NOT_YET)
        install();
    inside = false;
    bool ok = preload.how == INSTALLED;
    pthread_mutex_unlock(&preload.lock);
    return ok;
}

/* ---- The functions ---- */

#define SHOWN __attribute__((visibility("default")))

#define REAL(type, name, parameters) \
    static _Atomic(void *) known; \
    type(*real) parameters = (type(*) parameters)behind(&known, #name)

/* Without the page cache this refuses to begin. */
#define BEGIN(name, parameters, arguments, refusal) \
    SHOWN int name parameters; \
    SHOWN int name parameters \
    { \
        REAL(int, name, parameters); \
        return real != NULL && ready() ? real arguments : (refusal); \
    }

/* SQLite initialises itself in these as well, and some programs call them first; what they return is theirs. */
#define EARLY(type, name, parameters, arguments) \
    SHOWN type name parameters; \
    SHOWN type name parameters \
    { \
        REAL(type, name, parameters); \
        ready(); \
        return real != NULL ? real arguments : (type)0; \
    }

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_vfs sqlite3_vfs;
typedef struct sqlite3_mutex sqlite3_mutex;

BEGIN(sqlite3_initialize, (void), (), SQLITE_MISUSE)
BEGIN(sqlite3_open, (const char *file, sqlite3 **db), (file, db), (*db = NULL, SQLITE_MISUSE))
BEGIN(sqlite3_open16, (const void *file, sqlite3 **db), (file, db), (*db = NULL, SQLITE_MISUSE))
BEGIN(sqlite3_open_v2, (const char *file, sqlite3 **db, int flags, const char *vfs), (file, db, flags, vfs),
      (*db = NULL, SQLITE_MISUSE))

EARLY(void *, sqlite3_malloc, (int size), (size))
EARLY(void *, sqlite3_malloc64, (uint64_t size), (size))
EARLY(void *, sqlite3_realloc, (void *memory, int size), (memory, size))
EARLY(void *, sqlite3_realloc64, (void *memory, uint64_t size), (memory, size))
EARLY(char *, sqlite3_vmprintf, (const char *format, va_list arguments), (format, arguments))
EARLY(sqlite3_vfs *, sqlite3_vfs_find, (const char *name), (name))
EARLY(int, sqlite3_vfs_register, (sqlite3_vfs * vfs, int make_default), (vfs, make_default))
EARLY(int, sqlite3_auto_extension, (void (*entry)(void)), (entry))
EARLY(sqlite3_mutex *, sqlite3_mutex_alloc, (int kind), (kind))

SHOWN char *sqlite3_mprintf(const char *format, ...);
SHOWN char *sqlite3_mprintf(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    return text;
}

/* ---- The program's end ---- */

__attribute__((destructor)) static void at_exit(void)
{
    if (preload.how != INSTALLED || !options.stats)
        return;
    bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
    bufpool_sqlite_group group = BUFPOOL_SQLITE_GROUP_INIT;
    if (bufpool_sqlite_stats(&all) < 0)
        return;
    bufpool_sqlite_group_stats(0, &group);
    fprintf(stderr,
            "bufpool: SQLite page cache: trap %s, peak %.1f of %.1f MiB, %llu hits, %llu misses, %llu evictions, "
            "%llu recycles, %llu steals, %llu refused, %llu exhausted\n",
            group.trap, (double)all.resident_peak / (1 << 20), (double)all.capacity / (1 << 20),
            (unsigned long long)all.hits, (unsigned long long)all.misses, (unsigned long long)all.evictions,
            (unsigned long long)all.recycles, (unsigned long long)all.steals, (unsigned long long)all.refused,
            (unsigned long long)all.exhausted);
    char sample[32] = "";
    if (options.pool.sample != 0)
        snprintf(sample, sizeof sample, "sample %u, ", options.pool.sample);
    const char *pins = options.pool.pins != NULL ? options.pool.pins : "off";
    if (strcmp(pins, "off") != 0 || options.pool.sample != 0)
        fprintf(stderr, "bufpool: SQLite page cache: pins %s, %s%llu pin cycles, %llu pages left open\n", pins, sample,
                (unsigned long long)all.pins, (unsigned long long)all.left_open);
}
