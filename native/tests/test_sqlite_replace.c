/* test_sqlite_replace.c: a page that cannot be replaced leaves as it would without that, and nothing is lost; and when it is
 * replaced, its address traps while the new page has its buffer. */
#include "cache.h"
#include "test_sqlite.h"

#define LIVE 40
#define KEYS 200
#define STEPS 20000

static sqlite3_pcache_methods2 m;
static uint64_t calls;
static uint64_t fail_each; /* of the calls one in so many fails; 0: none */

int __real_bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page);
int __wrap_bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page);

int __wrap_bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page)
{
    calls++;
    if (fail_each != 0 && calls % fail_each == 0)
        return calls % 2 == 0 ? -16 : BUFPOOL_EEXHAUSTED; /* EBUSY */
    return __real_bufpool_replace(pool, victim, page);
}

static bool traps(const void *address)
{
    unsigned char byte;
    return bufpool_guarded_copy(&byte, address, 1, NULL) == BUFPOOL_ESTRAY;
}

/* Every page that is found has its content, and a new one extra bytes of zeros. */
static void use(sqlite3_pcache *cache)
{
    static const char zeros[100];
    uint64_t random = 11;
    for (unsigned i = 0; i < STEPS; i++) {
        unsigned key = 1 + (unsigned)(next_random(&random) % KEYS);
        sqlite3_pcache_page *page = m.xFetch(cache, key, 2);
        CHECK(page != NULL);
        unsigned *content = page->pBuf;
        if (memcmp(page->pExtra, zeros, sizeof zeros) != 0) {
            CHECK(content[0] == key && content[1023] == key);
        }
        memset(page->pExtra, 1, sizeof zeros);
        content[0] = content[1023] = key;
        m.xUnpin(cache, page, next_random(&random) % 16 == 0);
        CHECK(m.xPagecount(cache) <= LIVE + 1);
    }
}

static void play(uint64_t failing)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(4) << 20;
    config.evict = "replace";
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    sq_registry_reset();
    calls = 0;
    fail_each = failing;
    sqlite3_pcache *cache = m.xCreate(4096, 100, 1);
    CHECK(cache != NULL);
    sq_group *group = cache->group;
    m.xCachesize(cache, LIVE);
    use(cache);

    uint64_t failed = failing != 0 ? calls / failing : 0;
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(calls > STEPS / 2 && group->replaced == calls - failed);
    CHECK(group->populates - group->evictions == group->resident && group->resident == totals.pages);
    CHECK(totals.counters[SQ_RECYCLES] >= group->replaced && group->evict_failures == 0);
    uint64_t peak = 0;
    CHECK(sq_resident(&peak) == group->resident * group->page && peak <= (LIVE + 2) * UINT64_C(4096));
    m.xDestroy(cache);
    CHECK(group->resident == 0 && sq_resident(&peak) == 0);
    CHECK(group->stuck.count == 0 && group->resting.count + group->unborn.count == group->used);

    bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
    CHECK(bufpool_stats(group->pool, &pool) == 0 && pool.faults == 0);
    sq_frames_close();
}

/* The very page whose frame the new one has. */
static void old_address_traps(void)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(4) << 20;
    config.evict = "replace";
    config.fill = "pattern";
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    fail_each = 0;
    sqlite3_pcache *cache = m.xCreate(4096, 100, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, 2);
    unsigned char *before = NULL;
    for (unsigned key = 1; key < 2000; key++) {
        sqlite3_pcache_page *page = m.xFetch(cache, key, 2);
        CHECK(page != NULL && page->pBuf != before);
        unsigned char *content = page->pBuf;
        CHECK(content[0] == BUFPOOL_FRESH && content[4095] == BUFPOOL_FRESH);
        CHECK(before == NULL || traps(before));
        memset(content, 7, 4096);
        before = content;
        m.xUnpin(cache, page, 0);
    }
    CHECK(cache->group->replaced > 1000);
    m.xDestroy(cache);
    CHECK(traps(before));
    sq_frames_close();
}

int main(void)
{
    play(0);
    play(7);
    play(1);
    old_address_traps();
    return 0;
}
