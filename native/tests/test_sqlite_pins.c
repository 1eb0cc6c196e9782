/* test_sqlite_pins.c: with enforced pins SQLite's pages are open while it has them fetched, and not for longer: a client
 * that keeps an address across an unpin, or across a rekey, is trapped, with who unpinned the page. */
#include "cache.h"
#include "test_sqlite.h"

#define EXTRA 100

static sqlite3_pcache_methods2 m;

static bool copies(void *to, const void *from, bufpool_fault *fault)
{
    int code = bufpool_guarded_copy(to, from, 1, fault);
    CHECK(code == 0 || code == BUFPOOL_ESTRAY);
    return code == 0;
}

/* What an access to this very byte comes to: ALLOCATED if it is open, else the state of the report. */
static bufpool_state reading(const unsigned char *address, bufpool_fault *fault)
{
    unsigned char byte = 0;
    if (copies(&byte, address, fault))
        return BUFPOOL_STATE_ALLOCATED;
    CHECK(fault->address == (uint64_t)(uintptr_t)address && fault->access == BUFPOOL_READ);
    return fault->state;
}

static bufpool_state writing(unsigned char *address, bufpool_fault *fault)
{
    unsigned char byte = 0x55;
    if (copies(address, &byte, fault))
        return BUFPOOL_STATE_ALLOCATED;
    CHECK(fault->address == (uint64_t)(uintptr_t)address && fault->access == BUFPOOL_WRITE);
    return fault->state;
}

/* xFetch of a page that is there, or is made. */
static unsigned char *fetch(sqlite3_pcache *cache, unsigned key, sqlite3_pcache_page **page)
{
    *page = m.xFetch(cache, key, 2);
    CHECK(*page != NULL);
    return (*page)->pBuf;
}

static sqlite3_pcache *create(int size)
{
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 1);
    CHECK(cache != NULL);
    m.xCachesize(cache, 1000);
    return cache;
}

/* The bug: a client that goes on with a page after it has unpinned it. */
static void use_after_unpin(int size, bufpool_state unpinned)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *page = NULL;
    sqlite3_pcache_page *again = NULL;
    sqlite3_pcache *cache = create(size);
    unsigned char *kept = fetch(cache, 1, &page);
    memset(kept, 0x11, (size_t)size);
    CHECK(writing(kept + 1, &fault) == BUFPOOL_STATE_ALLOCATED);
    m.xUnpin(cache, page, 0);

    for (int at = 0; at < size; at += size / 2 - 1) {
        bool open = unpinned == BUFPOOL_STATE_READ_ONLY;
        CHECK(reading(kept + at, &fault) == (open ? BUFPOOL_STATE_ALLOCATED : unpinned));
        CHECK(writing(kept + at, &fault) == unpinned);
    }
    CHECK(fault.freed.event == BUFPOOL_EVENT_UNPIN && fault.freed.thread_id == getpid());
    CHECK(fault.freed.stack_depth > 0);
    char text[8192];
    bufpool_format_text(&fault, text, sizeof text);
    CHECK(strstr(text, unpinned == BUFPOOL_STATE_READ_ONLY ? "read-only" : "unpinned") != NULL);
    CHECK(strstr(text, "unpinned by thread") != NULL);

    CHECK(fetch(cache, 1, &again) == kept && again == page); /* as it was left: the stray writes did not get there */
    CHECK(kept[0] == 0x11 && kept[1] == 0x55 && kept[size - 1] == 0x11);
    CHECK(writing(kept, &fault) == BUFPOOL_STATE_ALLOCATED);
    m.xUnpin(cache, page, 1);
    CHECK(reading(kept, &fault) == BUFPOOL_STATE_EVICTED);
    m.xDestroy(cache);
}

/* SQLite may read a little past a page; nobody may write there, nor before the first. */
static void cushion(int size)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *first = NULL;
    sqlite3_pcache_page *second = NULL;
    sqlite3_pcache *cache = create(size);
    unsigned char *one = fetch(cache, 1, &first);
    unsigned char *two = fetch(cache, 2, &second);
    CHECK(two == one + 2 * size);
    CHECK(reading(one + size, &fault) == BUFPOOL_STATE_ALLOCATED);
    CHECK(writing(one + size, &fault) == BUFPOOL_STATE_READ_ONLY);
    CHECK(writing(two - 1, &fault) == BUFPOOL_STATE_READ_ONLY);
    m.xDestroy(cache); /* with both pinned */
    CHECK(reading(one, &fault) == BUFPOOL_STATE_EVICTED && reading(two, &fault) == BUFPOOL_STATE_EVICTED);
}

/* An address kept while the page gets another key traps from the unpin on, also while the page under its new key is
 * pinned again; and so does that of the page whose key it was. */
static void across_a_rekey(int size, bufpool_state unpinned)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *page = NULL;
    sqlite3_pcache_page *other = NULL;
    sqlite3_pcache *cache = create(size);
    unsigned char *displaced = fetch(cache, 9, &other);
    m.xUnpin(cache, other, 0);
    CHECK(writing(displaced, &fault) == unpinned);
    unsigned char *kept = fetch(cache, 3, &page);
    *kept = 0x33;
    m.xRekey(cache, page, 3, 9);
    CHECK(reading(displaced, &fault) == BUFPOOL_STATE_EVICTED);
    CHECK(m.xFetch(cache, 9, 0) == page && *kept == 0x33); /* SQLite has it pinned still, and it does not move */
    m.xUnpin(cache, page, 0);
    CHECK(reading(kept, &fault) == BUFPOOL_STATE_EVICTED && writing(kept, &fault) == BUFPOOL_STATE_EVICTED);
    CHECK(m.xFetch(cache, 3, 0) == NULL && m.xFetch(cache, 9, 0) == NULL);
    unsigned char *nine = fetch(cache, 9, &page);
    unsigned char *three = fetch(cache, 3, &other);
    CHECK(nine != kept && three != kept && nine != displaced && three != displaced);
    CHECK(reading(kept, &fault) == BUFPOOL_STATE_EVICTED);
    m.xDestroy(cache);
}

static void truncated_while_pinned(int size)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *page = NULL;
    sqlite3_pcache *cache = create(size);
    unsigned char *pinned = fetch(cache, 5, &page);
    unsigned char *unpinned = fetch(cache, 6, &page);
    m.xUnpin(cache, page, 0);
    m.xTruncate(cache, 5);
    CHECK(m.xPagecount(cache) == 0);
    CHECK(reading(pinned, &fault) == BUFPOOL_STATE_EVICTED && reading(unpinned, &fault) == BUFPOOL_STATE_EVICTED);
    m.xDestroy(cache);
}

/* Pages of one granule: open while one of them is pinned. */
static void shared_granule(bufpool_state unpinned)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *pages[2];
    sqlite3_pcache *cache = create(1024);
    unsigned char *one = fetch(cache, 1, &pages[0]);
    unsigned char *two = fetch(cache, 2, &pages[1]);
    CHECK(two == one + 1024 && cache->group->slots > 2);
    m.xUnpin(cache, pages[0], 0);
    CHECK(writing(one, &fault) == BUFPOOL_STATE_ALLOCATED);
    m.xUnpin(cache, pages[1], 0);
    CHECK(writing(one, &fault) == unpinned && writing(two, &fault) == unpinned);
    CHECK(fetch(cache, 2, &pages[1]) == two);
    m.xUnpin(cache, pages[1], 1); /* leaves: poison, and closed with the other */
    CHECK(writing(two, &fault) == unpinned);
    CHECK(fetch(cache, 1, &pages[0]) == one && *two == BUFPOOL_POISON);
    m.xDestroy(cache);
}

/* An in-memory database is never unpinned. */
static void not_purgeable(int size)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    sqlite3_pcache_page *page = NULL;
    sqlite3_pcache *cache = m.xCreate(size, EXTRA, 0);
    CHECK(cache != NULL);
    unsigned char *one = fetch(cache, 1, &page);
    m.xUnpin(cache, page, 0);
    CHECK(writing(one, &fault) == BUFPOOL_STATE_ALLOCATED);
    m.xRekey(cache, page, 1, 2);
    m.xUnpin(cache, page, 0);
    CHECK(m.xFetch(cache, 2, 0) == page && page->pBuf == one && *one == 0x55);
    m.xDestroy(cache);
}

static void enforced(const char *memory, const char *trap, const char *pins)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    bufpool_state unpinned = strcmp(pins, "all") == 0 ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY;
    config.capacity = UINT64_C(64) << 20;
    config.memory = memory;
    config.trap = trap;
    config.pins = pins;
    config.provenance = "stacks";
    config.report_limit = 1; /* the strays are told by the guarded copy */
    CHECK_RESULT(0, sq_frames_open(&config));
    for (int size = 4096; size <= 65536; size *= 4) {
        use_after_unpin(size, unpinned);
        cushion(size);
        across_a_rekey(size, unpinned);
        truncated_while_pinned(size);
        not_purgeable(size);
    }
    shared_granule(unpinned);
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(totals.counters[SQ_PINS] > 0 && totals.counters[SQ_LEFT_OPEN] == 0);
    sq_frames_close();
}

static void refused(const char *memory, const char *trap)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    char sentence[1024];
    config.memory = memory;
    config.trap = trap;
    config.pins = "all";
    CHECK(sq_frames_open(&config) == BUFPOOL_EUNSUPPORTED);
    bufpool_sqlite_last_error(sentence, sizeof sentence);
    CHECK(strstr(sentence, "pins") != NULL);
}

static bool available(const char *memory, const char *trap)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool = NULL;
    config.capacity = 1 << 16;
    config.memory = memory;
    config.trap = trap;
    config.pins = "all";
    if (bufpool_open(&config, &pool) < 0)
        return false;
    bufpool_close(pool);
    return true;
}

int main(void)
{
    static const char *const memories[] = {"anon", "shared"};
    static const char *const traps[] = {"auto", "uffd", "guard", "mprotect"};
    sq_cache_methods(&m);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
            if (j > 0 && !available(memories[i], traps[j]))
                continue; /* auto is always there */
            enforced(memories[i], traps[j], "write");
            enforced(memories[i], traps[j], "all");
        }
    }
    refused("anon", "none");
    return 0;
}
