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
#include "library.h"
#include "options.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Options ---- */

static struct {
    uint64_t capacity;
    char memory[64], trap[64], on_fault[64], name[64], log[4096], provenance[64];
    uint32_t provenance_depth, report_limit;
    bool monitor, stats, help;
} options = {.memory = "anon", .trap = "auto", .on_fault = "abort", .name = "sqlite", .provenance = "off"};

static const option table[] = {
    {"capacity", OPTION_SIZE, &options.capacity, 0,
     "limit of all page buffers, as 64 MiB (default: half of the memory)"},
    {"memory", OPTION_TEXT, options.memory, sizeof options.memory, "anon (default) or shared"},
    {"trap", OPTION_TEXT, options.trap, sizeof options.trap, "auto (default), uffd, guard, mprotect or none"},
    {"on_fault", OPTION_TEXT, options.on_fault, sizeof options.on_fault, "abort (default), resume or freeze"},
    {"name", OPTION_TEXT, options.name, sizeof options.name, "of the pools, shown in reports (default: sqlite)"},
    {"log", OPTION_TEXT, options.log, sizeof options.log, "file that receives each report as a line of JSON"},
    {"report_limit", OPTION_NUMBER, &options.report_limit, 0,
     "reports of one place that are written in full (default: 16)"},
    {"provenance", OPTION_TEXT, options.provenance, sizeof options.provenance,
     "off (default), last or stacks: reports say who evicted the page"},
    {"provenance_depth", OPTION_NUMBER, &options.provenance_depth, 0, "native frames kept with stacks (default: 8)"},
    {"monitor", OPTION_FLAG, &options.monitor, 0, "1: report what system calls touch, too"},
    {"stats", OPTION_FLAG, &options.stats, 0, "1: at the program's end, a line of counters to stderr"},
    {"help", OPTION_FLAG, &options.help, 0, "1: this list, to stderr"},
};

static bool read_options(void)
{
    char error[1024];
    const char *text = getauxval(AT_SECURE) != 0 ? NULL : getenv("BUFPOOL_OPTIONS");
    int result = options_parse(text, table, COUNT(table), error, sizeof error);
    if (options.help) {
        char help[2048];
        options_help(table, COUNT(table), help, sizeof help);
        fprintf(stderr, "bufpool: keys of BUFPOOL_OPTIONS (key=value:key='another value'):\n%s", help);
    }
    if (result < 0) {
        fprintf(stderr, "bufpool: BUFPOOL_OPTIONS: %s\n", error);
        return false;
    }
    /* Not raise: that needs a program which asks for its faults. */
    if (strcmp(options.on_fault, "abort") != 0 && strcmp(options.on_fault, "resume") != 0 &&
        strcmp(options.on_fault, "freeze") != 0) {
        fprintf(stderr, "bufpool: BUFPOOL_OPTIONS: on_fault=%s is unknown here: valid are abort, resume, freeze\n",
                options.on_fault);
        return false;
    }
    return true;
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
    config.memory = options.memory;
    config.trap = options.trap;
    config.on_fault = options.on_fault;
    config.name = options.name;
    config.log = options.log[0] != '\0' ? options.log : NULL;
    config.handle = preload.handle;
    config.provenance = options.provenance;
    config.provenance_depth = options.provenance_depth;
    config.report_limit = options.report_limit;
    config.monitor = options.monitor;
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
}
