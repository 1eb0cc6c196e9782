/* cache.c: the page cache methods that SQLite calls: a hash table and a list of unpinned pages for each cache. */
#include "cache.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUCKETS_FIRST 256

/* xFetch's createFlag. */
enum { CREATE_NO = 0, CREATE_IF_EASY = 1, CREATE_IF_POSSIBLE = 2 };

static _Atomic bool active;

bool sq_cache_active(void)
{
    return atomic_load(&active);
}

static int cache_init(void *argument)
{
    (void)argument;
    atomic_store(&active, true);
    return SQLITE_OK;
}

static void cache_shutdown(void *argument)
{
    (void)argument;
    atomic_store(&active, false);
}

/* ---- The hash table: keys are page numbers, mostly neighbours, so their low bits spread well ---- */

static sq_page **bucket(const sqlite3_pcache *cache, unsigned key)
{
    return &cache->table[key & (cache->buckets - 1)];
}

static sq_page *find(const sqlite3_pcache *cache, unsigned key)
{
    sq_page *page = *bucket(cache, key);
    while (page != NULL && page->key != key)
        page = page->chain;
    return page;
}

static void table_insert(sqlite3_pcache *cache, sq_page *page, unsigned key)
{
    sq_page **head = bucket(cache, key);
    page->key = key;
    page->chain = *head;
    *head = page;
    if (key > cache->highest)
        cache->highest = key;
}

static void table_unlink(sqlite3_pcache *cache, sq_page *page)
{
    sq_page **link = bucket(cache, page->key);
    while (*link != page)
        link = &(*link)->chain;
    *link = page->chain;
}

/* Doubles the table; without memory it stays as it is, only slower. */
static void table_grow(sqlite3_pcache *cache)
{
    uint32_t buckets = cache->buckets * 2;
    sq_page **table = buckets > cache->buckets ? calloc(buckets, sizeof *table) : NULL;
    if (table == NULL)
        return;
    for (uint32_t i = 0; i < cache->buckets; i++) {
        for (sq_page *page = cache->table[i], *next = NULL; page != NULL; page = next) {
            next = page->chain;
            page->chain = table[page->key & (buckets - 1)];
            table[page->key & (buckets - 1)] = page;
        }
    }
    free(cache->table);
    cache->table = table;
    cache->buckets = buckets;
}

/* ---- The list of unpinned pages ---- */

static void pin(sqlite3_pcache *cache, sq_page *page)
{
    page->newer->older = page->older;
    page->older->newer = page->newer;
    page->newer = page->older = NULL;
    sq_count(&cache->unpinned, (uint64_t)-1);
}

static void unpin(sqlite3_pcache *cache, sq_page *page)
{
    sq_page *end = &cache->unpinned_list;
    page->newer = end;
    page->older = end->older;
    page->older->newer = page;
    end->older = page;
    sq_count(&cache->unpinned, 1);
}

sq_page *sq_cache_oldest(sqlite3_pcache *cache)
{
    sq_page *end = &cache->unpinned_list;
    return end->newer != end ? end->newer : NULL;
}

/* ---- Pages that leave ---- */

void sq_cache_remove(sqlite3_pcache *cache, sq_page *page, sq_drops *drops)
{
    table_unlink(cache, page);
    if (page->newer != NULL)
        pin(cache, page);
    sq_slot_give(cache, page, drops);
    sq_count(&cache->pages, (uint64_t)-1);
    page->chain = cache->spare;
    cache->spare = page;
}

static void free_spare(sqlite3_pcache *cache)
{
    for (sq_page *page = cache->spare, *next = NULL; page != NULL; page = next) {
        next = page->chain;
        free(page);
    }
    cache->spare = NULL;
}

/* To zap pages in a batch costs a third of zapping them one by one. So a full cache may grow by a thirty-second part of
 * its limit, or 32 pages, before what is too much goes at once. */
static uint64_t slack(const sqlite3_pcache *cache)
{
    return cache->limit / 32 < SQ_BATCH / 2 ? cache->limit / 32 : SQ_BATCH / 2;
}

static void remove_one(sqlite3_pcache *cache, sq_page *page)
{
    sq_drops drops = {.count = 0};
    sq_cache_remove(cache, page, &drops);
    sq_drops_flush(cache, &drops);
}

/* Lets the oldest unpinned pages go while there are more than limit pages in all. */
static uint64_t trim(sqlite3_pcache *cache, uint64_t limit)
{
    sq_drops drops = {.count = 0};
    sq_page *page = NULL;
    uint64_t removed = 0;
    while (sq_read(&cache->pages) > limit && (page = sq_cache_oldest(cache)) != NULL) {
        sq_cache_remove(cache, page, &drops);
        removed++;
    }
    sq_drops_flush(cache, &drops);
    return removed;
}

/* Removes every page with a key >= from, pinned or not. */
static void remove_from(sqlite3_pcache *cache, unsigned from)
{
    sq_drops drops = {.count = 0};
    if (from > cache->highest)
        return;
    /* Few keys: look only into their buckets. */
    unsigned span = cache->highest - from;
    uint32_t first = span < cache->buckets ? from & (cache->buckets - 1) : 0;
    uint32_t count = span < cache->buckets ? span + 1 : cache->buckets;
    for (uint32_t i = 0; i < count && sq_read(&cache->pages) > 0; i++) {
        sq_page *page = cache->table[(first + i) & (cache->buckets - 1)];
        for (sq_page *next = NULL; page != NULL; page = next) {
            next = page->chain;
            if (page->key >= from)
                sq_cache_remove(cache, page, &drops);
        }
    }
    sq_drops_flush(cache, &drops);
    cache->highest = from > 0 ? from - 1 : 0;
}

/* ---- Fetch ---- */

/* With many pages pinned SQLite does better to write some dirty ones to the file and unpin them: it asks again then,
 * with CREATE_IF_POSSIBLE. The nine tenths are those of SQLite's own cache. */
static bool too_many_pinned(sqlite3_pcache *cache)
{
    uint64_t pinned = sq_read(&cache->pages) - sq_read(&cache->unpinned);
    return cache->purgeable && pinned >= (uint64_t)cache->limit * 9 / 10;
}

/* SQLite knows a new page by its extra bytes, which are zeros. The buffer may hold anything. */
static void clean_header(const sqlite3_pcache *cache, sq_page *page)
{
    memset(page->base.pExtra, 0, cache->extra);
    page->newer = page->older = NULL;
    page->pinned = page->rekeyed = false;
}

static sq_page *new_header(sqlite3_pcache *cache)
{
    sq_page *page = cache->spare;
    if (page != NULL) {
        cache->spare = page->chain;
    } else {
        page = malloc(sizeof *page + cache->extra);
        if (page == NULL)
            return NULL;
        page->base.pExtra = page + 1;
    }
    clean_header(cache, page);
    return page;
}

static bool take_slot(sqlite3_pcache *cache, sq_page *page)
{
    static const struct timespec moment = {.tv_nsec = 50000};
    bool exhausted = false;
    /* Other threads may be faster to what has been stolen, or hold what could be, so it is tried again, but not for
     * ever. */
    for (int tries = 0; tries < 1000; tries++) {
        if (sq_slot_take(cache, page, &exhausted))
            return true;
        sq_stolen stolen = exhausted ? SQ_NOTHING : sq_registry_steal(cache, cache->group->page);
        if (stolen == SQ_NOTHING) /* another thread may have given something back since */
            return sq_slot_take(cache, page, &exhausted);
        if (stolen == SQ_BUSY)
            nanosleep(&moment, NULL);
    }
    return false;
}

/* Is the oldest page to be replaced, once the cache is full? */
static bool replaces(sqlite3_pcache *cache, uint64_t pages)
{
    sq_group *group = cache->group;
    if (group->evict != SQ_AUTO || !cache->purgeable)
        return group->evict == SQ_BY_REPLACE;
    /* As full as it stays by either way. */
    return pages + 1 + 2 * slack(cache) >= cache->limit && sq_choice_replaces(&cache->choice, &group->cheaper);
}

/* The oldest unpinned page, as if it had left, under its new key; NULL: none, or it could not be replaced. */
static sq_page *replace_oldest(sqlite3_pcache *cache, unsigned key)
{
    sq_page *page = sq_cache_oldest(cache);
    if (page == NULL || !sq_slot_replace(cache, page))
        return NULL;
    table_unlink(cache, page);
    pin(cache, page);
    clean_header(cache, page);
    table_insert(cache, page, key);
    sq_count(&cache->counters[SQ_RECYCLES], 1);
    sq_count(&cache->counters[SQ_MISSES], 1);
    return page;
}

static sq_page *create(sqlite3_pcache *cache, unsigned key, int flag)
{
    if (sq_inherited(cache))
        return NULL;
    if (flag == CREATE_IF_EASY && too_many_pinned(cache)) {
        sq_count(&cache->counters[SQ_REFUSED], 1);
        return NULL;
    }
    if (sq_read(&cache->pages) >= cache->buckets)
        table_grow(cache);
    uint64_t pages = sq_read(&cache->pages);
    bool full = cache->purgeable && pages + 1 >= cache->limit;
    sq_page *page = replaces(cache, pages) && full ? replace_oldest(cache, key) : NULL;
    if (page != NULL)
        return page;
    if (full && pages > slack(cache) && pages + 1 >= cache->limit + slack(cache))
        sq_count(&cache->counters[SQ_RECYCLES], trim(cache, pages - 1 - slack(cache)));
    page = new_header(cache);
    if (page == NULL || !take_slot(cache, page)) {
        sq_count(&cache->counters[flag == CREATE_IF_EASY ? SQ_REFUSED : SQ_EXHAUSTED], 1);
        if (page != NULL) {
            page->chain = cache->spare;
            cache->spare = page;
        }
        return NULL;
    }
    table_insert(cache, page, key);
    sq_count(&cache->pages, 1);
    sq_count(&cache->counters[SQ_MISSES], 1);
    return page;
}

static sqlite3_pcache_page *cache_fetch(sqlite3_pcache *cache, unsigned key, int flag)
{
    pthread_mutex_lock(&cache->lock);
    sq_page *page = find(cache, key);
    if (page != NULL && page->newer != NULL && !sq_slot_pin(cache, page)) {
        remove_one(cache, page); /* as if it had left before */
        page = NULL;
    }
    if (page != NULL) {
        if (page->newer != NULL)
            pin(cache, page);
        sq_count(&cache->counters[SQ_HITS], 1);
    } else if (flag == CREATE_NO) {
        sq_count(&cache->counters[SQ_ABSENT], 1);
    } else {
        page = create(cache, key, flag);
    }
    pthread_mutex_unlock(&cache->lock);
    return (sqlite3_pcache_page *)page;
}

static void cache_unpin(sqlite3_pcache *cache, sqlite3_pcache_page *handle, int discard)
{
    sq_page *page = (sq_page *)handle;
    pthread_mutex_lock(&cache->lock);
    if (discard || page->rekeyed) {
        remove_one(cache, page);
    } else if (cache->purgeable && page->newer == NULL) {
        sq_slot_unpin(cache, page);
        unpin(cache, page);
    }
    if (cache->purgeable && sq_read(&cache->pages) > cache->limit + slack(cache))
        sq_count(&cache->counters[SQ_RECYCLES], trim(cache, cache->limit));
    pthread_mutex_unlock(&cache->lock);
}

/* ---- The other methods ---- */

static sqlite3_pcache *cache_create(int page_size, int extra_size, int purgeable)
{
    sq_group *group = sq_group_get((uint32_t)page_size);
    sqlite3_pcache *cache = group != NULL ? calloc(1, sizeof *cache) : NULL;
    if (cache == NULL)
        return NULL;
    cache->table = calloc(BUCKETS_FIRST, sizeof(sq_page *));
    if (cache->table == NULL) {
        free(cache);
        return NULL;
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->buckets = BUCKETS_FIRST;
    cache->group = group;
    cache->extra = (uint32_t)extra_size;
    cache->purgeable = purgeable != 0;
    cache->unpinned_list.newer = cache->unpinned_list.older = &cache->unpinned_list;
    sq_registry_add(cache);
    return cache;
}

static void cache_size(sqlite3_pcache *cache, int pages)
{
    pthread_mutex_lock(&cache->lock);
    cache->limit = pages > 0 ? (unsigned)pages : 0;
    if (cache->purgeable)
        sq_count(&cache->counters[SQ_RECYCLES], trim(cache, cache->limit));
    pthread_mutex_unlock(&cache->lock);
}

static int cache_count(sqlite3_pcache *cache)
{
    return (int)sq_read(&cache->pages);
}

static void cache_rekey(sqlite3_pcache *cache, sqlite3_pcache_page *handle, unsigned old_key, unsigned new_key)
{
    sq_page *page = (sq_page *)handle;
    (void)old_key; /* the page knows it */
    pthread_mutex_lock(&cache->lock);
    sq_page *occupant = find(cache, new_key);
    if (occupant != NULL && occupant != page)
        remove_one(cache, occupant);
    table_unlink(cache, page);
    table_insert(cache, page, new_key);
    /* The buffer has to stay, so that who kept the address under the old key would meet the new one's page whenever that
     * is pinned. Where pins are enforced it leaves with the unpin, and comes back at another address. */
    page->rekeyed = cache->purgeable && cache->group->enforced;
    pthread_mutex_unlock(&cache->lock);
}

static void cache_truncate(sqlite3_pcache *cache, unsigned from)
{
    pthread_mutex_lock(&cache->lock);
    remove_from(cache, from);
    pthread_mutex_unlock(&cache->lock);
}

static void cache_shrink(sqlite3_pcache *cache)
{
    pthread_mutex_lock(&cache->lock);
    trim(cache, 0);
    free_spare(cache);
    pthread_mutex_unlock(&cache->lock);
}

static void cache_destroy(sqlite3_pcache *cache)
{
    /* Without the lock: nobody else can reach the cache any more. */
    if (!sq_inherited(cache)) {
        sq_registry_remove(cache);
        pthread_mutex_destroy(&cache->lock);
    }
    remove_from(cache, 0);
    free_spare(cache);
    free(cache->table);
    free(cache);
}

void sq_cache_methods(sqlite3_pcache_methods2 *methods)
{
    *methods = (sqlite3_pcache_methods2){
        .iVersion = 1,
        .xInit = cache_init,
        .xShutdown = cache_shutdown,
        .xCreate = cache_create,
        .xCachesize = cache_size,
        .xPagecount = cache_count,
        .xFetch = cache_fetch,
        .xUnpin = cache_unpin,
        .xRekey = cache_rekey,
        .xTruncate = cache_truncate,
        .xDestroy = cache_destroy,
        .xShrink = cache_shrink,
    };
}
