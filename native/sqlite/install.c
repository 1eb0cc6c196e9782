/* install.c: the functions of bufpool_sqlite.h: install, uninstall, statistics. */
#include "cache.h"
#include "library.h"
#include "say.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CAPACITY_LEAST (UINT64_C(1) << 20)
#define CAPACITY_MOST (UINT64_C(4) << 40)
#define NAME_MOST 57

static struct {
    pthread_mutex_t lock;
    bool installed;
    bool fork_watched;
    sq_library library;
    sqlite3_pcache_methods2 stock; /* what SQLite had before */
    char *strings[9];              /* copies: memory, trap, on_fault, name, log, provenance, pins, fill, evict */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- Fork: the child has none of its parent's pools, and opens its own ---- */

static void in_child(void)
{
    pthread_mutex_init(&state.lock, NULL);
    sq_registry_forget();
    sq_frames_forget();
}

/* ---- Configuration ---- */

static void free_strings(void)
{
    for (size_t i = 0; i < sizeof state.strings / sizeof state.strings[0]; i++) {
        free(state.strings[i]);
        state.strings[i] = NULL;
    }
}

/* Replaces the caller's strings by copies. */
static int copy_strings(bufpool_sqlite_config *config)
{
    const char **fields[] = {&config->memory,     &config->trap, &config->on_fault, &config->name, &config->log,
                             &config->provenance, &config->pins, &config->fill,     &config->evict};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (*fields[i] == NULL)
            continue;
        state.strings[i] = strdup(*fields[i]);
        if (state.strings[i] == NULL)
            return sq_say(-12, "no memory for the configuration");
        *fields[i] = state.strings[i];
    }
    return 0;
}

static uint64_t half_of_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page = sysconf(_SC_PAGESIZE);
    uint64_t half = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : 0;
    return half > CAPACITY_LEAST ? half < CAPACITY_MOST ? half : CAPACITY_MOST : CAPACITY_LEAST;
}

static int check(const bufpool_sqlite_config *given, bufpool_sqlite_config *config)
{
    static const bufpool_sqlite_config defaults = BUFPOOL_SQLITE_CONFIG_INIT;
    if (given == NULL)
        return sq_say(BUFPOOL_EARGUMENT, "config is NULL: a bufpool_sqlite_config is needed");
    if (given->size != sizeof *given)
        return sq_say(BUFPOOL_EARGUMENT, "config.size is %zu: %zu (BUFPOOL_SQLITE_CONFIG_INIT) is right", given->size,
                      sizeof *given);
    *config = *given;
    config->memory = given->memory != NULL ? given->memory : defaults.memory;
    config->trap = given->trap != NULL ? given->trap : defaults.trap;
    config->on_fault = given->on_fault != NULL ? given->on_fault : defaults.on_fault;
    config->name = given->name != NULL ? given->name : defaults.name;
    if (config->capacity == 0)
        config->capacity = half_of_memory();
    if (config->capacity < CAPACITY_LEAST || config->capacity > CAPACITY_MOST)
        return sq_say(BUFPOOL_EARGUMENT, "capacity is %llu bytes: from %llu (1 MiB) to %llu (4 TiB) is right",
                      (unsigned long long)config->capacity, (unsigned long long)CAPACITY_LEAST,
                      (unsigned long long)CAPACITY_MOST);
    if (config->fill != NULL && strcmp(config->fill, "zeros") != 0 && strcmp(config->fill, "pattern") != 0)
        return sq_say(BUFPOOL_EARGUMENT, "unknown fill \"%.64s\": valid are \"zeros\", \"pattern\"", config->fill);
    static const char *const ways[] = {"auto", "batch", "replace"};
    size_t way = 0;
    while (way < 3 && config->evict != NULL && strcmp(config->evict, ways[way]) != 0)
        way++;
    if (way == 3)
        return sq_say(BUFPOOL_EARGUMENT, "unknown evict \"%.64s\": valid are \"auto\", \"batch\", \"replace\"",
                      config->evict);
    if (config->name[0] == '\0')
        return sq_say(BUFPOOL_EARGUMENT, "name is \"\": 1 to %d bytes are right", NAME_MOST);
    if (strlen(config->name) > NAME_MOST)
        return sq_say(BUFPOOL_EARGUMENT, "name is %zu bytes long: at most %d are right", strlen(config->name),
                      NAME_MOST);
    return 0;
}

/* ---- Install and uninstall ---- */

static int install(const bufpool_sqlite_config *given)
{
    bufpool_sqlite_config config;
    int result = check(given, &config);
    if (result < 0)
        return result;
    result = copy_strings(&config);
    if (result == 0)
        result = sq_library_find(&state.library, config.library, config.handle);
    if (result < 0)
        return result;
    result = sq_frames_open(&config);
    if (result == 0) {
        sqlite3_pcache_methods2 ours;
        sq_cache_methods(&ours);
        sq_registry_reset();
        result = sq_library_set_cache(&state.library, &ours, &state.stock);
        if (result < 0)
            sq_frames_close();
    }
    if (result < 0)
        sq_library_release(&state.library);
    return result;
}

int bufpool_sqlite_install(const bufpool_sqlite_config *config)
{
    int result = 0;
    pthread_mutex_lock(&state.lock);
    if (!state.fork_watched)
        state.fork_watched = pthread_atfork(NULL, NULL, in_child) == 0;
    if (state.installed) {
        result = sq_say(BUFPOOL_ESTATE, "the page cache is installed already, in %s: uninstall it first",
                        state.library.path);
    } else if (!state.fork_watched) {
        result = sq_say(-12, "no memory to watch for forks");
    } else {
        result = install(config);
        state.installed = result == 0;
        if (result < 0)
            free_strings();
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

int sq_install_again(void)
{
    int result = 0;
    pthread_mutex_lock(&state.lock);
    sqlite3_pcache_methods2 ours;
    sqlite3_pcache_methods2 other;
    sq_cache_methods(&ours);
    if (!state.installed)
        result = sq_say(BUFPOOL_ESTATE, "the page cache is not installed");
    else if (!sq_library_has_cache(&state.library, &ours))
        result = sq_library_set_cache(&state.library, &ours, &other);
    pthread_mutex_unlock(&state.lock);
    return result;
}

static int uninstall(void)
{
    if (!state.installed)
        return sq_say(BUFPOOL_ESTATE, "the page cache is not installed");
    uint64_t caches = sq_registry_caches();
    if (caches > 0)
        return sq_say(BUFPOOL_ESTATE, "%llu page caches are in use: close all SQLite connections first",
                      (unsigned long long)caches);
    sqlite3_pcache_methods2 ours;
    int result = sq_library_set_cache(&state.library, &state.stock, &ours);
    if (result < 0)
        return result;
    sq_frames_close();
    sq_library_release(&state.library);
    free_strings();
    state.installed = false;
    return 0;
}

int bufpool_sqlite_uninstall(void)
{
    pthread_mutex_lock(&state.lock);
    int result = uninstall();
    pthread_mutex_unlock(&state.lock);
    return result;
}

bool bufpool_sqlite_installed(void)
{
    pthread_mutex_lock(&state.lock);
    bool installed = state.installed;
    pthread_mutex_unlock(&state.lock);
    return installed;
}

/* ---- Statistics ---- */

/* Hands out as much of a structure as the caller has room for; both begin with their size. */
static void hand_out(void *to, const void *from, size_t size)
{
    size_t room = *(size_t *)to;
    memcpy((char *)to + sizeof(size_t), (const char *)from + sizeof(size_t),
           (room < size ? room : size) - sizeof(size_t));
}

static int check_output(const void *output, const char *what)
{
    if (output == NULL || *(const size_t *)output < sizeof(size_t))
        return sq_say(BUFPOOL_EARGUMENT, "%s is NULL or has no size: initialise it with its _INIT macro", what);
    if (!state.installed)
        return sq_say(BUFPOOL_ESTATE, "the page cache is not installed");
    return 0;
}

static void collect(bufpool_sqlite_statistics *all)
{
    sq_totals totals;
    sq_registry_totals(&totals);
    all->capacity = sq_capacity();
    all->resident = sq_resident(&all->resident_peak);
    all->pages = totals.pages;
    all->unpinned = totals.unpinned;
    all->caches = totals.caches;
    all->caches_opened = totals.opened;
    all->hits = totals.counters[SQ_HITS];
    all->misses = totals.counters[SQ_MISSES];
    all->absent = totals.counters[SQ_ABSENT];
    all->refused = totals.counters[SQ_REFUSED];
    all->exhausted = totals.counters[SQ_EXHAUSTED];
    all->recycles = totals.counters[SQ_RECYCLES];
    all->steals = totals.counters[SQ_STEALS];
    all->pins = totals.counters[SQ_PINS];
    all->left_open = totals.counters[SQ_LEFT_OPEN];
    sq_group *group = NULL;
    for (size_t n = 0; (group = sq_group_at(n)) != NULL; n++) {
        all->groups++;
        all->evictions += atomic_load(&group->evictions);
        all->populates += atomic_load(&group->populates);
        all->evict_failures += atomic_load(&group->evict_failures);
        all->replaced += atomic_load(&group->replaced);
    }
    all->sqlite_version = state.library.version();
    memcpy(all->library, state.library.path, sizeof all->library);
}

int bufpool_sqlite_stats(bufpool_sqlite_statistics *statistics)
{
    pthread_mutex_lock(&state.lock);
    int result = check_output(statistics, "statistics");
    if (result == 0) {
        bufpool_sqlite_statistics all = BUFPOOL_SQLITE_STATISTICS_INIT;
        collect(&all);
        hand_out(statistics, &all, sizeof all);
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

static void describe(sq_group *group, bufpool_sqlite_group *out)
{
    bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
    bufpool_stats(group->pool, &pool);
    out->pool = group->pool;
    out->sqlite_page_size = group->sqlite_page;
    out->page_size = group->page;
    out->slots_per_granule = group->slots;
    out->caches = atomic_load(&group->caches);
    out->resident = atomic_load(&group->resident);
    out->evictions = atomic_load(&group->evictions);
    out->populates = atomic_load(&group->populates);
    out->evict_failures = atomic_load(&group->evict_failures);
    out->replaced = atomic_load(&group->replaced);
    sq_evict evict = group->evict != SQ_AUTO ? group->evict : atomic_load(&group->cheaper);
    snprintf(out->evict, sizeof out->evict, "%s", evict == SQ_BY_REPLACE ? "replace" : "batch");
    out->address_limit = group->limit;
    pthread_mutex_lock(&group->lock);
    out->resting = group->resting.count;
    out->cushions = group->used - group->unborn.count;
    pthread_mutex_unlock(&group->lock);
    memcpy(out->memory, pool.memory, sizeof out->memory);
    memcpy(out->trap, pool.trap, sizeof out->trap);
}

int bufpool_sqlite_group_stats(size_t n, bufpool_sqlite_group *group)
{
    pthread_mutex_lock(&state.lock);
    int result = check_output(group, "group");
    sq_group *found = result == 0 ? sq_group_at(n) : NULL;
    if (result == 0 && found == NULL)
        result = sq_say(BUFPOOL_EARGUMENT, "there is no group %zu", n);
    if (result == 0) {
        bufpool_sqlite_group all = BUFPOOL_SQLITE_GROUP_INIT;
        describe(found, &all);
        hand_out(group, &all, sizeof all);
    }
    pthread_mutex_unlock(&state.lock);
    return result;
}

size_t bufpool_sqlite_pools(bufpool_pool **pools, size_t count)
{
    size_t n = 0;
    pthread_mutex_lock(&state.lock);
    sq_group *group = NULL;
    for (; state.installed && (group = sq_group_at(n)) != NULL; n++)
        if (n < count)
            pools[n] = group->pool;
    pthread_mutex_unlock(&state.lock);
    return n;
}
