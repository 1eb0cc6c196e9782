/* test_sqlite_methods.c: each page cache method does what SQLite's documentation says, for every page size. */
#include "cache.h"
#include "test_sqlite.h"

#define EXTRA 136

static sqlite3_pcache_methods2 m;

static unsigned char *buffer(sqlite3_pcache_page *page)
{
    return page->pBuf;
}

static sqlite3_pcache_page *make(sqlite3_pcache *cache, unsigned key)
{
    sqlite3_pcache_page *page = m.xFetch(cache, key, 2);
    CHECK(page != NULL);
    return page;
}

static void fetch_and_unpin(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, 100);
    CHECK(m.xPagecount(cache) == 0);
    CHECK(m.xFetch(cache, 1, 0) == NULL);
    CHECK(m.xPagecount(cache) == 0);
    sqlite3_pcache_page *first = m.xFetch(cache, 1, 1);
    CHECK(first != NULL && first->pBuf != NULL && first->pExtra != NULL);
    CHECK((uintptr_t)first->pBuf % 8 == 0 && (uintptr_t)first->pExtra % 8 == 0);
    static const unsigned char zeros[EXTRA];
    CHECK(memcmp(first->pExtra, zeros, EXTRA) == 0);
    memset(first->pBuf, 0x11, (size_t)size);
    memset(first->pExtra, 0x22, EXTRA);
    sqlite3_pcache_page *second = make(cache, 2);
    memset(second->pBuf, 0x33, (size_t)size);
    CHECK(m.xFetch(cache, 1, 0) == first); /* pinned, and found */
    m.xUnpin(cache, first, 0);
    CHECK(m.xPagecount(cache) == 2);
    CHECK(m.xFetch(cache, 1, 2) == first);
    for (int i = 0; i < size; i++)
        CHECK(buffer(first)[i] == 0x11 && buffer(second)[i] == 0x33);
    for (int i = 0; i < EXTRA; i++)
        CHECK(((unsigned char *)first->pExtra)[i] == 0x22);
    m.xUnpin(cache, first, 1);
    CHECK(m.xPagecount(cache) == 1);
    CHECK(m.xFetch(cache, 1, 0) == NULL);
    sqlite3_pcache_page *again = make(cache, 1);
    CHECK(memcmp(again->pExtra, zeros, EXTRA) == 0); /* a page that SQLite has not seen */
    m.xDestroy(cache);
}

/* SQLite reads a little past the end of a page when the database file is damaged. */
static void cushion(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    m.xCachesize(cache, 100);
    for (unsigned key = 1; key <= 20; key++) {
        sqlite3_pcache_page *page = make(cache, key);
        unsigned char beyond[256];
        CHECK(bufpool_guarded_copy(beyond, buffer(page) + size, sizeof beyond, NULL) == 0);
    }
    m.xDestroy(cache);
}

static void limit(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    m.xCachesize(cache, 10);
    sqlite3_pcache_page *pages[9];
    for (unsigned key = 1; key <= 9; key++)
        pages[key - 1] = m.xFetch(cache, key, 1);
    for (unsigned i = 0; i < 9; i++)
        CHECK(pages[i] != NULL);
    CHECK(m.xFetch(cache, 10, 1) == NULL); /* nine tenths are pinned: SQLite should spill */
    CHECK(m.xFetch(cache, 10, 2) != NULL); /* it could not */
    CHECK(m.xFetch(cache, 11, 2) != NULL); /* beyond the limit, since all are pinned */
    CHECK(m.xPagecount(cache) == 11);
    m.xUnpin(cache, pages[0], 0); /* above the limit: it leaves */
    CHECK(m.xPagecount(cache) == 10);
    CHECK(m.xFetch(cache, 1, 0) == NULL);
    m.xUnpin(cache, pages[1], 0);
    m.xUnpin(cache, pages[2], 0);
    CHECK(m.xFetch(cache, 12, 1) != NULL); /* the page unpinned longest ago gives way */
    CHECK(m.xPagecount(cache) == 10);
    CHECK(m.xFetch(cache, 2, 0) == NULL);
    CHECK(m.xFetch(cache, 3, 0) == pages[2]);
    m.xUnpin(cache, pages[2], 0);
    m.xUnpin(cache, pages[3], 0);
    m.xCachesize(cache, 9);
    CHECK(m.xPagecount(cache) == 9);
    m.xShrink(cache);
    CHECK(m.xPagecount(cache) == 8);
    CHECK(m.xFetch(cache, 5, 0) == pages[4]);
    m.xDestroy(cache);
}

static void rekey_and_truncate(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    m.xCachesize(cache, 2000);
    for (unsigned key = 1; key <= 1000; key++) {
        sqlite3_pcache_page *page = make(cache, key);
        memcpy(page->pBuf, &key, sizeof key);
        if (key != 7)
            m.xUnpin(cache, page, 0);
    }
    sqlite3_pcache_page *seven = m.xFetch(cache, 7, 0);
    m.xRekey(cache, seven, 7, 900); /* 900 is there, unpinned: it goes */
    CHECK(m.xPagecount(cache) == 999);
    CHECK(m.xFetch(cache, 7, 0) == NULL);
    CHECK(m.xFetch(cache, 900, 0) == seven && *(unsigned *)seven->pBuf == 7);
    m.xRekey(cache, seven, 900, 5000); /* free */
    CHECK(m.xFetch(cache, 5000, 0) == seven);
    CHECK(m.xPagecount(cache) == 999);
    m.xTruncate(cache, 5001);
    CHECK(m.xPagecount(cache) == 999);
    m.xTruncate(cache, 5000); /* pinned pages go too */
    CHECK(m.xPagecount(cache) == 998);
    m.xTruncate(cache, 990);
    CHECK(m.xPagecount(cache) == 987);
    for (unsigned key = 1; key <= 1000; key++) {
        sqlite3_pcache_page *page = m.xFetch(cache, key, 0);
        CHECK((page != NULL) == (key < 990 && key != 7 && key != 900));
        CHECK(page == NULL || *(unsigned *)page->pBuf == key);
    }
    m.xTruncate(cache, 1);
    CHECK(m.xPagecount(cache) == 0);
    CHECK(make(cache, 3) != NULL);
    m.xTruncate(cache, 0);
    CHECK(m.xPagecount(cache) == 0);
    m.xDestroy(cache);
}

/* An in-memory database: its pages are nowhere else, so none may go unless SQLite says so. */
static void not_purgeable(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 0);
    m.xCachesize(cache, 10);
    for (unsigned key = 1; key <= 300; key++) {
        sqlite3_pcache_page *page = m.xFetch(cache, key, key % 2 == 0 ? 1 : 2);
        CHECK(page != NULL);
        memcpy(page->pBuf, &key, sizeof key);
    }
    m.xShrink(cache);
    m.xCachesize(cache, 5);
    CHECK(m.xPagecount(cache) == 300);
    for (unsigned key = 1; key <= 300; key++)
        CHECK(*(unsigned *)m.xFetch(cache, key, 0)->pBuf == key);
    m.xUnpin(cache, m.xFetch(cache, 300, 0), 1);
    CHECK(m.xPagecount(cache) == 299);
    m.xDestroy(cache);
}

/* Nothing is left behind: no frame, no page, no cache. */
static void all_given_back(void)
{
    uint64_t peak = 0;
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(sq_resident(&peak) == 0 && peak > 0);
    CHECK(totals.caches == 0 && totals.pages == 0 && totals.unpinned == 0);
    for (size_t n = 0; sq_group_at(n) != NULL; n++) {
        bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
        CHECK(bufpool_stats(sq_group_at(n)->pool, &pool) == 0);
        CHECK(pool.allocated == sq_group_at(n)->used); /* the cushions */
        CHECK(pool.pins == (sq_group_at(n)->hidden ? sq_group_at(n)->used : 0));
        CHECK(pool.evicted == sq_group_at(n)->resting.count);
        CHECK(pool.faults == 0);
    }
}

static void each_method(const char *pins)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(256) << 20;
    config.pins = pins;
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    CHECK(m.xInit(m.pArg) == 0);
    for (int size = 512; size <= 65536; size *= 2) {
        fetch_and_unpin(size);
        cushion(size);
        limit(size);
        rekey_and_truncate(size);
        not_purgeable(size);
    }
    all_given_back();
    m.xShutdown(m.pArg);
    sq_frames_close();
}

int main(void)
{
    each_method("off");
    each_method("write");
    each_method("all");
    return 0;
}
