/*
 * layer_own_sqlite.c: SQLite on a page cache by hand, whose pages are the layer's: unpinned ones are closed, those that
 * left are freed, one that got another number leaves with its unpin. Where nothing is hidden SQLite keeps its own.
 */
#include "layer_own.h"
#include "layer_sqlite.h"

#include <stdlib.h>

#define MOST_PAGES 8192
#define BUCKETS 4096

uint64_t layer_sqlite_page(const void *at, unsigned key)
{
    (void)at;
    return key;
}

#if HIDE == HIDE_NONE

void layer_sqlite_install(void *handle, int (*config)(int operation, ...))
{
    (void)handle, (void)config;
}

#else

struct page {
    sqlite3_pcache_page base; /* first: SQLite holds a pointer to it */
    struct page *next;        /* of its bucket */
    unsigned key;
    uint64_t number;
    bool pinned;
    bool rekeyed;
};

struct sqlite3_pcache {
    struct layer *pool;
    bool purgeable; /* false: pages are never unpinned */
    int extra;
    int count;
    struct page *buckets[BUCKETS];
};

/* Where the pointer to the page is, or would be put. */
static struct page **place(sqlite3_pcache *cache, unsigned key)
{
    struct page **place = &cache->buckets[key % BUCKETS];
    while (*place != NULL && (*place)->key != key) {
        place = &(*place)->next;
    }
    return place;
}

static void take_out(sqlite3_pcache *cache, struct page *page)
{
    *place(cache, page->key) = page->next;
    page->next = NULL;
}

static void leave(sqlite3_pcache *cache, struct page *page)
{
    if (page->pinned) {
        MUST(layer_unpin(cache->pool, page->number) == 0);
    }
    MUST(layer_free(cache->pool, page->number) == 0);
    take_out(cache, page);
    cache->count--;
    free(page);
}

static sqlite3_pcache *create(int page_size, int extra, int purgeable)
{
    MUST(page_size == PAGE);
    sqlite3_pcache *cache = calloc(1, sizeof *cache);
    MUST(cache != NULL);
    cache->pool = layer_open("sqlite", MOST_PAGES, false);
    cache->purgeable = purgeable != 0;
    cache->extra = extra;
    return cache;
}

static sqlite3_pcache_page *enter(sqlite3_pcache *cache, unsigned key)
{
    struct page *page = calloc(1, sizeof *page + (size_t)cache->extra);
    MUST(page != NULL);
    page->number = layer_allocate(cache->pool);
    page->base = (sqlite3_pcache_page){layer_at(cache->pool, page->number), page + 1};
    page->key = key;
    page->pinned = layer_pin(cache->pool, page->number, true) == 0;
    MUST(page->pinned);
    *place(cache, key) = page;
    cache->count++;
    return &page->base;
}

static sqlite3_pcache_page *fetch(sqlite3_pcache *cache, unsigned key, int create_flag)
{
    struct page *page = *place(cache, key);
    if (page == NULL) {
        return create_flag != 0 ? enter(cache, key) : NULL;
    }
    if (!page->pinned) {
        MUST(layer_pin(cache->pool, page->number, true) == 0);
        page->pinned = true;
    }
    return &page->base;
}

static void unpin(sqlite3_pcache *cache, sqlite3_pcache_page *handle, int discard)
{
    struct page *page = (struct page *)handle;
    if (discard || page->rekeyed) {
        leave(cache, page);
    } else if (cache->purgeable) {
        MUST(layer_unpin(cache->pool, page->number) == 0);
        page->pinned = false;
    }
}

static void rekey(sqlite3_pcache *cache, sqlite3_pcache_page *handle, unsigned old_key, unsigned new_key)
{
    (void)old_key;
    struct page *page = (struct page *)handle;
    struct page *occupant = *place(cache, new_key);
    if (occupant != NULL && occupant != page) {
        leave(cache, occupant);
    }
    take_out(cache, page);
    page->key = new_key;
    *place(cache, new_key) = page;
    page->rekeyed = cache->purgeable;
}

static void truncate_from(sqlite3_pcache *cache, unsigned from)
{
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        for (struct page *page = cache->buckets[bucket], *next; page != NULL; page = next) {
            next = page->next;
            if (page->key >= from) {
                leave(cache, page);
            }
        }
    }
}

static void destroy(sqlite3_pcache *cache)
{
    truncate_from(cache, 0);
    layer_close(cache->pool);
    free(cache);
}

static int count(sqlite3_pcache *cache)
{
    return cache->count;
}

static int init(void *argument)
{
    (void)argument;
    return SQLITE_OK;
}

static void nothing(void *argument)
{
    (void)argument;
}

/* There is room for all pages that the rows use. */
static void limit(sqlite3_pcache *cache, int pages)
{
    (void)cache, (void)pages;
}

static void shrink(sqlite3_pcache *cache)
{
    (void)cache;
}

void layer_sqlite_install(void *handle, int (*config)(int operation, ...))
{
    (void)handle;
    sqlite3_pcache_methods2 methods = {
        .iVersion = 1,
        .xInit = init,
        .xShutdown = nothing,
        .xCreate = create,
        .xCachesize = limit,
        .xPagecount = count,
        .xFetch = fetch,
        .xUnpin = unpin,
        .xRekey = rekey,
        .xTruncate = truncate_from,
        .xDestroy = destroy,
        .xShrink = shrink,
    };
    MUST(config(SQLITE_CONFIG_PCACHE2, &methods) == SQLITE_OK);
}

#endif
