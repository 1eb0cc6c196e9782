/* test_sqlite_model.c: random calls against a simple model: pinned pages stay where they are, no two pages share a
 * byte, a page that is found again has its content, and what was discarded is not found. */
#include "cache.h"
#include "test_sqlite.h"

#define CACHES 6
#define KEYS 400
#define STEPS 300000
#define EXTRA 48
#define CAPACITY (UINT64_C(2) << 20)

/* What is known of a page: pinned ones are there; unpinned ones may have been recycled or stolen. */
struct known {
    enum { ABSENT, MAYBE, PINNED } state;
    sqlite3_pcache_page *page;
    uint64_t stamp;
};

struct model {
    sqlite3_pcache *cache;
    size_t size;
    bool purgeable;
    struct known keys[KEYS + 1];
};

static sqlite3_pcache_methods2 m;
static struct model models[CACHES];
static uint64_t random_state = UINT64_C(88172645463325252);
static uint64_t stamps;

static unsigned pick(unsigned count)
{
    return (unsigned)(next_random(&random_state) % count);
}

static void write_stamp(struct model *model, struct known *known)
{
    known->stamp = ++stamps;
    for (size_t at = 0; at < model->size; at += 256)
        memcpy((char *)known->page->pBuf + at, &known->stamp, 8);
    memcpy((char *)known->page->pBuf + model->size - 8, &known->stamp, 8);
    memcpy(known->page->pExtra, &known->stamp, 8);
}

static void check_stamp(struct model *model, struct known *known)
{
    for (size_t at = 0; at < model->size; at += 256)
        CHECK(memcmp((char *)known->page->pBuf + at, &known->stamp, 8) == 0);
    CHECK(memcmp((char *)known->page->pBuf + model->size - 8, &known->stamp, 8) == 0);
    CHECK(memcmp(known->page->pExtra, &known->stamp, 8) == 0);
}

static void open_cache(struct model *model)
{
    memset(model->keys, 0, sizeof model->keys);
    model->size = (size_t)512 << pick(5);
    model->purgeable = pick(4) != 0;
    model->cache = m.xCreate((int)model->size, EXTRA, model->purgeable);
    CHECK(model->cache != NULL);
    m.xCachesize(model->cache, 20 + (int)pick(200));
}

static void fetch(struct model *model, unsigned key, int flag)
{
    static const uint64_t zero;
    struct known *known = &model->keys[key];
    sqlite3_pcache_page *page = m.xFetch(model->cache, key, flag);
    if (known->state == PINNED)
        CHECK(page == known->page);
    if (known->state == ABSENT)
        CHECK(page == NULL || flag != 0);
    if (page == NULL) {
        known->state = ABSENT;
        return;
    }
    known->page = page;
    bool fresh = memcmp(page->pExtra, &zero, 8) == 0;
    CHECK(fresh || known->state != ABSENT);
    CHECK(!fresh || known->state != PINNED);
    if (!fresh)
        check_stamp(model, known);
    write_stamp(model, known);
    known->state = PINNED;
}

static void unpin(struct model *model, unsigned key)
{
    struct known *known = &model->keys[key];
    if (known->state != PINNED)
        return;
    bool discard = !model->purgeable || pick(5) == 0;
    check_stamp(model, known);
    m.xUnpin(model->cache, known->page, discard);
    known->state = discard ? ABSENT : MAYBE;
}

static void rekey(struct model *model, unsigned from, unsigned to)
{
    if (from == to || model->keys[from].state != PINNED || model->keys[to].state == PINNED)
        return;
    m.xRekey(model->cache, model->keys[from].page, from, to);
    model->keys[to] = model->keys[from];
    model->keys[from].state = ABSENT;
}

static void truncate_at(struct model *model, unsigned from)
{
    m.xTruncate(model->cache, from);
    for (unsigned key = from; key <= KEYS; key++)
        model->keys[key].state = ABSENT;
}

static void check_all(struct model *model)
{
    int pinned = 0;
    for (unsigned key = 1; key <= KEYS; key++) {
        if (model->keys[key].state == PINNED) {
            check_stamp(model, &model->keys[key]);
            pinned++;
        }
    }
    CHECK(m.xPagecount(model->cache) >= pinned);
}

/* But for those of the cushions. */
static void check_pins_given_back(void)
{
    sq_group *group = NULL;
    for (size_t n = 0; (group = sq_group_at(n)) != NULL; n++) {
        bufpool_statistics pool = BUFPOOL_STATISTICS_INIT;
        CHECK(bufpool_stats(group->pool, &pool) == 0);
        CHECK(pool.pins == (group->hidden ? group->used - group->unborn.count : 0));
        CHECK(pool.faults == 0);
    }
}

static void step(struct model *model)
{
    unsigned key = 1 + pick(KEYS);
    unsigned dice = pick(1000);
    if (dice < 500)
        fetch(model, key, (int)pick(3));
    else if (dice < 900)
        unpin(model, key);
    else if (dice < 960)
        rekey(model, key, 1 + pick(KEYS));
    else if (dice < 970)
        m.xCachesize(model->cache, (int)pick(300));
    else if (dice < 975)
        truncate_at(model, 1 + pick(KEYS));
    else if (dice < 985)
        m.xShrink(model->cache);
    else if (dice < 998)
        check_all(model);
    else {
        check_all(model);
        m.xDestroy(model->cache);
        open_cache(model);
    }
}

static void play(const char *pins, const char *evict)
{
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.capacity = CAPACITY;
    config.pins = pins;
    config.evict = evict;
    CHECK_RESULT(0, sq_frames_open(&config));
    sq_cache_methods(&m);
    sq_registry_reset();
    for (unsigned i = 0; i < CACHES; i++)
        open_cache(&models[i]);
    for (unsigned i = 0; i < STEPS; i++)
        step(&models[pick(CACHES)]);
    for (unsigned i = 0; i < CACHES; i++) {
        check_all(&models[i]);
        m.xDestroy(models[i].cache);
    }
    uint64_t peak = 0;
    sq_totals totals;
    sq_registry_totals(&totals);
    CHECK(sq_resident(&peak) == 0 && peak <= CAPACITY);
    CHECK(totals.counters[SQ_HITS] > 0 && totals.counters[SQ_RECYCLES] > 0 && totals.counters[SQ_STEALS] > 0);
    CHECK(totals.counters[SQ_REFUSED] > 0);
    CHECK((totals.counters[SQ_PINS] > 0) == (strcmp(pins, "off") != 0) && totals.counters[SQ_LEFT_OPEN] == 0);
    check_pins_given_back();
    uint64_t replaced = 0;
    for (size_t n = 0; sq_group_at(n) != NULL; n++)
        replaced += sq_group_at(n)->replaced;
    CHECK((replaced > 0) == (strcmp(evict, "replace") == 0 && strcmp(pins, "off") == 0));
    sq_frames_close();
}

int main(void)
{
    play("off", "batch");
    play("off", "replace");
    play("count", "auto");
    play("write", "auto");
    play("all", "replace"); /* which gives way to the pins */
    return 0;
}
