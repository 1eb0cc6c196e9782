/* test_sqlite_capacity.c: when the capacity is used up, unpinned pages of other caches give way, of any page size; when
 * all is pinned, the fetch fails and the cache stays usable. SQLite spills a transaction larger than the capacity. */
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

/* The smallest spill: one page of a granule whose other pages stay pinned. Nobody else has to give way. */
static void spill_one(int size)
{
    sqlite3_pcache *cache = cache_of(size, 1);
    sqlite3_pcache *other = cache_of(4096, 1);
    unsigned fits = (unsigned)((CAPACITY - 4096) / (unsigned)size);
    fill(cache, fits, false);
    fill(other, 1, true);
    CHECK(m.xFetch(cache, fits + 1, 1) != NULL); /* the other's page */
    CHECK(m.xPagecount(other) == 0);
    unsigned last = fits + (unsigned)(4096 / size);
    for (unsigned key = fits + 2; key <= last; key++)
        CHECK(m.xFetch(cache, key, 1) != NULL);
    for (unsigned key = 1; key <= 100; key++) {
        m.xUnpin(cache, m.xFetch(cache, key, 0), 0);
        CHECK(m.xFetch(cache, last + key, 2) != NULL);
        CHECK(m.xFetch(cache, key, 0) == NULL);
    }
    CHECK((unsigned)m.xPagecount(cache) == last && resident() == CAPACITY);
    m.xDestroy(other);
    m.xDestroy(cache);
    CHECK(resident() == 0);
}

/* One transaction of 3 MiB, with 1 MiB for all pages; besides, the clean pages of another database. */
static void transaction(const sqlite *library, const char *directory, unsigned size)
{
    char path[320];
    char text[512];
    sqlite3 *clean = NULL;
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/clean-%u.db", directory, size);
    CHECK(library->open(path, &clean) == 0);
    run(library, clean,
        "pragma page_size = 1024; create table t(x);"
        "with n(i) as (select 1 union all select i + 1 from n where i < 300)"
        "insert into t select randomblob(900) from n");
    snprintf(path, sizeof path, "%s/spill-%u.db", directory, size);
    CHECK(library->open(path, &db) == 0);
    snprintf(text, sizeof text,
             "pragma page_size = %u; pragma cache_size = -65536; begin; create table t(a integer primary key, x);"
             "with n(i) as (select 1 union all select i + 1 from n where i < 9000)"
             "insert into t select i, zeroblob(300 + i %% 50) from n;"
             "update t set x = zeroblob(250) where a %% 3 = 0; commit",
             size);
    run(library, db, text);
    ask(library, db, "pragma page_size", text);
    CHECK((unsigned)atoi(text) == size);
    ask(library, db, "pragma integrity_check", text);
    CHECK(strcmp(text, "ok") == 0);
    ask(library, db, "select count(*) from t where length(x) = iif(a % 3, 300 + a % 50, 250)", text);
    CHECK(strcmp(text, "9000") == 0);
    ask(library, clean, "select count(*) from t where length(x) = 900", text);
    CHECK(strcmp(text, "300") == 0);
    CHECK(library->close(db) == 0 && library->close(clean) == 0);
}

static void larger_than_capacity(void)
{
    char directory[256];
    sqlite library = load_sqlite();
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(1) << 20;
    config.handle = library.handle;
    make_directory(directory);
    CHECK_RESULT(0, bufpool_sqlite_install(&config));
    for (unsigned size = 512; size <= 65536; size *= 2)
        transaction(&library, directory, size);
    bufpool_sqlite_statistics statistics = BUFPOOL_SQLITE_STATISTICS_INIT;
    CHECK_RESULT(0, bufpool_sqlite_stats(&statistics));
    CHECK(statistics.exhausted == 0 && statistics.steals > 0 && statistics.resident_peak <= config.capacity);
    CHECK_RESULT(0, bufpool_sqlite_uninstall());
    remove_directory(directory);
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
    for (int size = 512; size <= 4096; size *= 2)
        spill_one(size);
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(totals.counters[SQ_STEALS] > 0 && totals.counters[SQ_EXHAUSTED] == 2 && totals.counters[SQ_REFUSED] == 1);
    sq_frames_close();
    sq_registry_reset();
    larger_than_capacity();
    return 0;
}
