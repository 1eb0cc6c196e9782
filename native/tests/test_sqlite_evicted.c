/* test_sqlite_evicted.c: the address of a page that left the cache traps, to the byte, and is not soon given out again.
 */
#include "cache.h"
#include "test_sqlite.h"

#define LIVE 100
#define GONE (LIVE - 1)              /* a page is recycled when so many newer ones are there */
#define AGAIN (GONE + SQ_QUARANTINE) /* the earliest round, counted from its own, in which its address comes again */
#define ROUNDS 2000

static sqlite3_pcache_methods2 m;

/* Whether one byte of the address traps, named exactly and as evicted. */
static bool traps(const unsigned char *address)
{
    unsigned char byte = 0;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (bufpool_guarded_copy(&byte, address, 1, &fault) != BUFPOOL_ESTRAY)
        return false;
    CHECK(fault.address == (uint64_t)(uintptr_t)address);
    CHECK(fault.state == BUFPOOL_STATE_EVICTED && fault.access == BUFPOOL_READ);
    return true;
}

static void leave_and_rest(int size)
{
    static unsigned char *left[ROUNDS];
    uint64_t random = 7;
    sqlite3_pcache *cache = m.xCreate(size, 100, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, LIVE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        sqlite3_pcache_page *page = m.xFetch(cache, round + 1, 1);
        CHECK(page != NULL);
        left[round] = page->pBuf;
        memset(page->pBuf, 1, (size_t)size);
        /* Not among those that left lately, and all of those trap. */
        for (unsigned back = GONE; back < AGAIN && back <= round; back++)
            CHECK(left[round - back] != left[round]);
        m.xUnpin(cache, page, 0);
    }
    for (unsigned i = 0; i < 100; i++) {
        unsigned back = GONE + (unsigned)(next_random(&random) % SQ_QUARANTINE);
        CHECK(traps(left[ROUNDS - 1 - back] + next_random(&random) % (unsigned)size));
    }
    m.xDestroy(cache);
    for (unsigned back = 0; back < AGAIN; back++)
        CHECK(traps(left[ROUNDS - 1 - back]));
}

/* Pages that share a granule: poison while a neighbour is in use, then the trap. */
static void shared_granule(void)
{
    sqlite3_pcache *cache = m.xCreate(512, 100, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, 1000);
    unsigned slots = cache->group->slots;
    CHECK(slots > 1);
    sqlite3_pcache_page *pages[256];
    unsigned char *addresses[256];
    CHECK(slots <= 256);
    for (unsigned i = 0; i < slots; i++) {
        pages[i] = m.xFetch(cache, i + 1, 2);
        CHECK(pages[i] != NULL);
        addresses[i] = pages[i]->pBuf;
    }
    CHECK(addresses[slots - 1] == addresses[0] + (slots - 1) * 512);
    for (unsigned i = 0; i + 1 < slots; i++) {
        m.xUnpin(cache, pages[i], 1);
        CHECK(!traps(addresses[i]) && addresses[i][0] == BUFPOOL_POISON && addresses[i][511] == BUFPOOL_POISON);
    }
    m.xUnpin(cache, pages[slots - 1], 1);
    for (unsigned i = 0; i < slots; i++)
        CHECK(traps(addresses[i]));
    m.xDestroy(cache);
}

static void by(const char *evict)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = UINT64_C(64) << 20;
    config.evict = evict;
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    leave_and_rest(4096);
    leave_and_rest(65536);
    shared_granule();
    for (size_t n = 0; n < 2; n++) /* of 4096 and of 65536 bytes */
        CHECK((sq_group_at(n)->replaced > 0) == (strcmp(evict, "replace") == 0));
    sq_frames_close();
}

int main(void)
{
    by("batch");
    by("replace");
    return 0;
}
