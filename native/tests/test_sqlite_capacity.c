/* test_sqlite_capacity.c: when the capacity is used up, unpinned pages of other caches give way, of any page size; when
 * all is pinned, the fetch fails and the cache stays usable. */
#include "cache.h"
#include "test_sqlite.h"

#define CAPACITY (UINT64_C(4) << 20)
#define PAGES ((unsigned)(CAPACITY / 4096))

static sqlite3_pcache_methods2 m;

static sqlite3_pcache *cache_of(int size, int purgeable)
{
    sqlite3_pcache *cache = m.xCreate(size, 100, purgeable);
    CHECK(cache != NULL);
    m.xCachesize(cache, 1000000);
    return cache;
}

static uint64_t resident(void)
{
    uint64_t peak = 0;
    uint64_t now = sq_resident(&peak);
    CHECK(peak <= CAPACITY);
    return now;
}

static void fill(sqlite3_pcache *cache, unsigned count, bool unpin)
{
    for (unsigned key = 1; key <= count; key++) {
        sqlite3_pcache_page *page = m.xFetch(cache, key, 1);
        CHECK(page != NULL);
        if (unpin)
            m.xUnpin(cache, page, 0);
    }
}

static void all_pinned(void)
{
    sqlite3_pcache *cache = cache_of(4096, 0);
    fill(cache, PAGES, false);
    CHECK(resident() == CAPACITY);
    CHECK(m.xFetch(cache, PAGES + 1, 1) == NULL);
    CHECK(m.xFetch(cache, PAGES + 1, 2) == NULL);
    sqlite3_pcache *other = cache_of(1024, 1);
    CHECK(m.xFetch(other, 1, 2) == NULL);
    m.xUnpin(cache, m.xFetch(cache, 5, 0), 1);
    CHECK(m.xFetch(other, 1, 2) != NULL);
    CHECK(resident() == CAPACITY);
    m.xDestroy(other);
    CHECK(m.xFetch(cache, PAGES + 1, 2) != NULL);
    m.xDestroy(cache);
    CHECK(resident() == 0);
}

static void stolen(int rich_size, int poor_size)
{
    sqlite3_pcache *rich = cache_of(rich_size, 1);
    sqlite3_pcache *poor = cache_of(poor_size, 1);
    fill(rich, (unsigned)(CAPACITY / (unsigned)rich_size), true);
    CHECK(resident() == CAPACITY);
    int before = m.xPagecount(rich);
    fill(poor, 50, false);
    CHECK(m.xPagecount(poor) == 50);
    CHECK(m.xPagecount(rich) < before);
    CHECK(resident() <= CAPACITY);
    /* What is left is what was used last. */
    CHECK(m.xFetch(rich, CAPACITY / (unsigned)rich_size, 0) != NULL);
    CHECK(m.xFetch(rich, 1, 0) == NULL);
    m.xDestroy(poor);
    m.xDestroy(rich);
    CHECK(resident() == 0);
}

/* A cache that has pages to spare steals from itself. */
static void own(int size)
{
    sqlite3_pcache *cache = cache_of(size, 1);
    unsigned fits = (unsigned)(CAPACITY / (unsigned)size);
    fill(cache, fits * 3, true);
    CHECK((unsigned)m.xPagecount(cache) <= fits && (unsigned)m.xPagecount(cache) > fits / 2);
    CHECK(m.xFetch(cache, fits * 3, 0) != NULL);
    m.xDestroy(cache);
    CHECK(resident() == 0);
}

int main(void)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = CAPACITY;
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    all_pinned();
    stolen(4096, 4096);
    stolen(4096, 65536);
    stolen(65536, 4096);
    stolen(4096, 512);
    stolen(512, 4096);
    stolen(512, 512);
    own(4096);
    own(512);
    own(16384);
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(totals.counters[SQ_STEALS] > 0 && totals.counters[SQ_EXHAUSTED] == 2 && totals.counters[SQ_REFUSED] == 1);
    sq_frames_close();
    return 0;
}
