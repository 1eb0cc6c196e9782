/* test_sqlite_patterns.c: what a page of the cache holds before SQLite fills it and after it left, for how long its address
 * rests, and which pages sampling closes. */
#include "cache.h"
#include "test_sqlite.h"

#include <fcntl.h>
#include <sys/uio.h>

#define EXTRA 100
#define RESTING 1000

static sqlite3_pcache_methods2 m;

static bool is_all(const void *address, int byte, size_t size)
{
    const unsigned char *bytes = address;
    return bytes[0] == byte && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static bufpool_sqlite_config config_of(uint64_t capacity)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = capacity;
    config.report_limit = 1;
    return config;
}

static sqlite3_pcache *create(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, 10000);
    return cache;
}

static sqlite3_pcache_page *fetch(sqlite3_pcache *cache, unsigned key)
{
    sqlite3_pcache_page *page = m.xFetch(cache, key, 2);
    CHECK(page != NULL);
    return page;
}

/* Every page that the cache gives out new, also in place of one that left. */
static void fresh(void)
{
    bufpool_sqlite_config config = config_of(64 << 20);
    config.fill = "pattern";
    CHECK_RESULT(0, sq_frames_open(&config));
    for (int size = 512; size <= 65536; size *= 2) {
        sqlite3_pcache *cache = create(size);
        for (unsigned key = 1; key <= 3000; key++) {
            sqlite3_pcache_page *page = fetch(cache, key);
            CHECK(is_all(page->pBuf, BUFPOOL_FRESH, (size_t)size));
            memset(page->pBuf, (int)key, (size_t)size);
            m.xUnpin(cache, page, key % 3 != 0);
            if (key % 3 == 0 && key < 30)
                CHECK(is_all(fetch(cache, key)->pBuf, (int)key, (size_t)size)); /* it is there still, as it was */
        }
        m.xDestroy(cache);
    }
    sq_frames_close();
}

/* What somebody else holds of a frame whose page leaves the cache: a pipe, which is given pages themselves. */
static void scrubbed(uint32_t sample, const char *pins)
{
    bufpool_sqlite_config config = config_of(64 << 20);
    config.scrub = true;
    config.sample = sample;
    config.pins = pins;
    CHECK_RESULT(0, sq_frames_open(&config));
    sqlite3_pcache *cache = create(4096);
    sqlite3_pcache_page *page = fetch(cache, 1);
    int ends[2];
    char held[16];
    memset(page->pBuf, 'x', 4096);
    CHECK(pipe(ends) == 0);
    struct iovec part = {page->pBuf, sizeof held};
    CHECK(vmsplice(ends[1], &part, 1, 0) == sizeof held);
    m.xUnpin(cache, page, 0);
    m.xShrink(cache);
    CHECK(read(ends[0], held, sizeof held) == sizeof held);
    CHECK(is_all(held, BUFPOOL_SCRUBBED, sizeof held));
    close(ends[0]);
    close(ends[1]);
    m.xDestroy(cache);
    sq_frames_close();
}

/* Returns after how many others an address comes back. */
static unsigned reuse(uint64_t quarantine)
{
    bufpool_sqlite_config config = config_of(1 << 20);
    config.quarantine = quarantine;
    CHECK_RESULT(0, sq_frames_open(&config));
    sqlite3_pcache *cache = create(4096);
    sqlite3_pcache_page *page = fetch(cache, 1);
    const void *first = page->pBuf;
    unsigned others = 0;
    do {
        m.xUnpin(cache, page, 1);
        page = fetch(cache, ++others + 1);
    } while (page->pBuf != first);
    m.xDestroy(cache);
    sq_frames_close();
    return others - 1;
}

static bool strays(void *address, bool write, bufpool_fault *fault)
{
    unsigned char byte = 0;
    int code = write ? bufpool_guarded_copy(address, &byte, 1, fault) : bufpool_guarded_copy(&byte, address, 1, fault);
    CHECK(code == 0 || code == BUFPOOL_ESTRAY);
    return code != 0;
}

/* A page that was chosen is closed from SQLite's unpin to its next fetch; a cushion never is. */
static void sampled(void)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    bufpool_sqlite_config config = config_of(64 << 20);
    config.provenance = "last";
    config.sample = 3;
    config.seed = 17;
    CHECK_RESULT(0, sq_frames_open(&config));
    sqlite3_pcache *cache = create(4096);
    unsigned closed = 0;
    for (unsigned key = 1; key <= 300; key++) {
        sqlite3_pcache_page *page = fetch(cache, key);
        memset(page->pBuf, 'x', 4096);
        m.xUnpin(cache, page, 0);
        bool trapped = strays(page->pBuf, false, &fault);
        CHECK(!trapped || (fault.state == BUFPOOL_STATE_UNPINNED && fault.freed.event == BUFPOOL_EVENT_UNPIN));
        closed += trapped;
        CHECK(!strays((char *)page->pBuf + 4096, false, &fault));
        CHECK(fetch(cache, key) == page && is_all(page->pBuf, 'x', 4096));
        CHECK(!strays(page->pBuf, true, &fault));
        m.xUnpin(cache, page, key % 2 != 0);
    }
    CHECK(closed > 30 && closed < 200);
    bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
    CHECK(bufpool_stats(sq_group_at(0)->pool, &pool) == 0 && pool.sample == 3 && pool.seed == 17);
    m.xDestroy(cache);
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(totals.counters[SQ_PINS] >= 600 && totals.counters[SQ_LEFT_OPEN] == 0);
    sq_frames_close();
}

static void refused(bufpool_sqlite_config config, int code, const char *part)
{
    char sentence[1024];
    CHECK(bufpool_sqlite_install(&config) == code);
    bufpool_sqlite_last_error(sentence, sizeof sentence);
    if (strstr(sentence, part) == NULL) {
        fprintf(stderr, "not \"%s\": %s\n", part, sentence);
        exit(1);
    }
}

int main(void)
{
    sq_cache_methods(&m);
    fresh();
    scrubbed(0, "off");
    scrubbed(1, "off");
    scrubbed(0, "all");
    sampled();
    unsigned usual = reuse(0);
    CHECK(usual >= SQ_QUARANTINE && usual < RESTING);
    CHECK(reuse(RESTING * 4096) >= RESTING);
    load_sqlite();
    bufpool_sqlite_config config = config_of(64 << 20);
    config.fill = "ones";
    refused(config, BUFPOOL_EARGUMENT, "unknown fill \"ones\": valid are \"zeros\", \"pattern\"");
    config.fill = NULL;
    config.seed = 5;
    refused(config, BUFPOOL_EARGUMENT, "seed is 5, which goes with sample");
    config.sample = 5;
    config.pins = "all";
    refused(config, BUFPOOL_EARGUMENT, "every page is guarded");
    return 0;
}
