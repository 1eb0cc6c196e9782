/* registry.c: the list of all open caches: stealing when the capacity is used up, and the sums of their counters. */
#include "cache.h"

static struct {
    pthread_mutex_t lock;
    sqlite3_pcache *first;
    sq_totals closed; /* counters of caches no longer open; opened; caches open now */
    unsigned generation;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

void sq_registry_add(sqlite3_pcache *cache)
{
    pthread_mutex_lock(&registry.lock);
    cache->generation = registry.generation;
    cache->previous = NULL;
    cache->next = registry.first;
    if (cache->next != NULL)
        cache->next->previous = cache;
    registry.first = cache;
    registry.closed.caches++;
    registry.closed.opened++;
    pthread_mutex_unlock(&registry.lock);
    atomic_fetch_add(&cache->group->caches, 1);
}

void sq_registry_remove(sqlite3_pcache *cache)
{
    atomic_fetch_sub(&cache->group->caches, 1);
    pthread_mutex_lock(&registry.lock);
    *(cache->previous != NULL ? &cache->previous->next : &registry.first) = cache->next;
    if (cache->next != NULL)
        cache->next->previous = cache->previous;
    registry.closed.caches--;
    for (size_t i = 0; i < SQ_COUNTERS; i++)
        registry.closed.counters[i] += sq_read(&cache->counters[i]);
    pthread_mutex_unlock(&registry.lock);
}

/* ---- Stealing ---- */

/* Whether the thief can go on: bytes are free, or the victim is itself, and a slot of a granule that it keeps is. */
static bool has_room(const sqlite3_pcache *victim, const sqlite3_pcache *thief, uint64_t bytes)
{
    return sq_has_room(bytes) || (victim == thief && victim->left_slots > 0);
}

/* Takes the victim's unpinned pages, oldest first, until there is room. */
static sq_stolen take_from(sqlite3_pcache *victim, const sqlite3_pcache *thief, uint64_t bytes)
{
    /* Two thieves may hold their own cache and want the other's: hence only a try. */
    if (victim != thief && pthread_mutex_trylock(&victim->lock) != 0)
        return SQ_BUSY;
    sq_drops drops = {.count = 0};
    bool room = has_room(victim, thief, bytes);
    while (!room && sq_cache_oldest(victim) != NULL) {
        /* A few at once, since that is cheaper; see slack() in cache.c. */
        uint64_t part = sq_read(&victim->unpinned) / 32;
        sq_page *page = NULL;
        for (uint64_t i = 0; i <= part && i < SQ_BATCH / 2 && (page = sq_cache_oldest(victim)) != NULL; i++) {
            sq_cache_remove(victim, page, &drops);
            sq_count(&victim->counters[SQ_STEALS], 1);
        }
        sq_drops_flush(victim, &drops);
        room = has_room(victim, thief, bytes);
    }
    if (victim != thief)
        pthread_mutex_unlock(&victim->lock);
    return room ? SQ_ROOM : SQ_NOTHING;
}

static sqlite3_pcache *richest(void)
{
    sqlite3_pcache *best = registry.first;
    for (sqlite3_pcache *cache = best; cache != NULL; cache = cache->next)
        if (sq_read(&cache->unpinned) > sq_read(&best->unpinned))
            best = cache;
    return best;
}

sq_stolen sq_registry_steal(sqlite3_pcache *thief, uint64_t bytes)
{
    pthread_mutex_lock(&registry.lock);
    bool busy = false;
    sq_stolen stolen = take_from(richest(), thief, bytes);
    for (sqlite3_pcache *cache = registry.first; cache != NULL && stolen != SQ_ROOM; cache = cache->next) {
        busy = busy || stolen == SQ_BUSY;
        if (sq_read(&cache->unpinned) > 0)
            stolen = take_from(cache, thief, bytes);
    }
    pthread_mutex_unlock(&registry.lock);
    return stolen == SQ_NOTHING && busy ? SQ_BUSY : stolen;
}

/* ---- Sums ---- */

void sq_registry_totals(sq_totals *totals)
{
    pthread_mutex_lock(&registry.lock);
    *totals = registry.closed;
    for (sqlite3_pcache *cache = registry.first; cache != NULL; cache = cache->next) {
        totals->pages += sq_read(&cache->pages);
        totals->unpinned += sq_read(&cache->unpinned);
        for (size_t i = 0; i < SQ_COUNTERS; i++)
            totals->counters[i] += sq_read(&cache->counters[i]);
    }
    pthread_mutex_unlock(&registry.lock);
}

uint64_t sq_registry_caches(void)
{
    sq_totals totals;
    sq_registry_totals(&totals);
    return totals.caches;
}

void sq_registry_reset(void)
{
    pthread_mutex_lock(&registry.lock);
    registry.closed = (sq_totals){0};
    pthread_mutex_unlock(&registry.lock);
}

/* ---- Fork ---- */

void sq_registry_forget(void)
{
    pthread_mutex_init(&registry.lock, NULL);
    registry.first = NULL;
    registry.closed = (sq_totals){0};
    registry.generation++;
}

bool sq_inherited(const sqlite3_pcache *cache)
{
    return cache->generation != registry.generation;
}
