/* test_audit_cells.c: an audit finds each clean page that was written behind the pool's back, and no other, on every cell. */
#include "harness.h"

#define PAGES 64

static const char *mode; /* of the audit that is tested */

static bufpool_config audit_config(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.pins = pins;
    config.audit = mode;
    config.fill = "pattern";
    config.provenance = "stacks";
    return config;
}

/* The numbers that an audit finds. */
static size_t audit(bufpool_pool *pool, uint64_t pages[PAGES])
{
    static bufpool_changed changed[PAGES];
    size_t found = 0;
    memset(changed, 0, sizeof changed);
    CHECK_OK(bufpool_audit(pool, 0, PAGES, changed, &found));
    for (size_t i = 0; i < found; i++) {
        pages[i] = changed[i].page;
        CHECK_IS(changed[i].size, ==, sizeof *changed);
    }
    return found;
}

static bufpool_pool *open_audited(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = audit_config(memory, trap, pins);
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static char *at(bufpool_pool *pool, uint64_t page)
{
    return bufpool_address(pool, page);
}

/* pins "off": the engine says what is clean. */
static void test_marks(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_audited(memory, trap, NULL);
    uint64_t pages[16];
    uint64_t found[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, 16, pages));
    write_byte(at(pool, 0), 1); /* nobody has said that it is clean */
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_OK(bufpool_mark_clean(pool, 16, pages));
    CHECK_IS(stats_of(pool).clean, ==, 16);
    CHECK_IS(audit(pool, found), ==, 0);
    for (int i = 0; i < 16; i++) {
        CHECK_IS(read_byte(at(pool, pages[i]) + 5), ==, (char)BUFPOOL_FRESH); /* a read changes nothing */
    }
    CHECK_IS(audit(pool, found), ==, 0);
    write_byte(at(pool, 3) + GRANULE - 1, 7);
    write_byte(at(pool, 9), 7);
    CHECK_IS(audit(pool, found), ==, 2);
    CHECK_IS(found[0], ==, 3);
    CHECK_IS(found[1], ==, 9);
    CHECK_IS(audit(pool, found), ==, 2); /* until something is done about it */

    uint64_t page = 3;
    CHECK_OK(bufpool_mark_clean(pool, 1, &page)); /* right as it stands */
    page = 9;
    CHECK_OK(bufpool_mark_dirty(pool, 1, &page));
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_IS(stats_of(pool).clean, ==, 15);
    write_byte(at(pool, 9), 8);
    CHECK_IS(audit(pool, found), ==, 0);
    write_byte(at(pool, 3), 8);
    CHECK_IS(audit(pool, found), ==, 1);
    CHECK_IS(found[0], ==, 3);

    /* What loses its frame is not clean any more, whatever comes there. */
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_evict(pool, 4));
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_OK(bufpool_populate(pool, 4, "x", 1));
    CHECK_OK(bufpool_allocate_at(pool, 3, "y", 1));
    write_byte(at(pool, 3), 9);
    write_byte(at(pool, 4), 9);
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_IS(stats_of(pool).clean, ==, 13);
    CHECK_OK(bufpool_close(pool));
}

/* pins "count": a page is clean when its last write pin has gone. */
static void test_counted(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_audited(memory, trap, "count");
    uint64_t page;
    uint64_t found[PAGES];
    CHECK_OK(bufpool_allocate(pool, "data", 4, &page));
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_OK(bufpool_pin(pool, page, false));
    write_byte(at(pool, page), 1);
    CHECK_IS(bufpool_mark_clean(pool, 1, &page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "pinned for writing");
    CHECK_OK(bufpool_unpin_for(pool, page, true));
    write_byte(at(pool, page), 2);
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_IS(stats_of(pool).clean, ==, 0);
    CHECK_OK(bufpool_unpin_for(pool, page, true)); /* a read pin is left: clean all the same */
    CHECK_IS(stats_of(pool).clean, ==, 1);
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_OK(bufpool_pin(pool, page, true)); /* not the first pin, but the first for writing */
    write_byte(at(pool, page), 3);
    CHECK_OK(bufpool_unpin_for(pool, page, true));
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_IS(audit(pool, found), ==, 0);

    memset(at(pool, page), 0, GRANULE);
    memset(at(pool, page), BUFPOOL_SCRUBBED, GRANULE);
    bufpool_changed changed = {0};
    size_t count = 0;
    CHECK_OK(bufpool_audit(pool, 0, 1, &changed, &count));
    CHECK_IS(count, ==, 1);
    CHECK_IS(changed.page, ==, page);
    CHECK_STRING(changed.pattern, "scrubbed");
    CHECK_IS(changed.unpinned.event, ==, BUFPOOL_EVENT_UNPIN);
    CHECK_IS(changed.unpinned.thread_id, ==, gettid());
    CHECK_IS(changed.pinned.event, ==, BUFPOOL_EVENT_PIN);
    CHECK_IS(changed.allocated.event, ==, BUFPOOL_EVENT_ALLOCATE);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_audit(pool, 0, 1, &changed, &count), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_mark_clean(pool, 1, &page), ==, BUFPOOL_ECLOSED);
}

/* A system call writes, too. */
static void test_system_call(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_audited(memory, trap, NULL);
    uint64_t page;
    uint64_t found[PAGES];
    int ends[2];
    CHECK_OK(pipe(ends));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_mark_clean(pool, 1, &page));
    CHECK_IS(write(ends[1], at(pool, page), 4), ==, 4); /* only reads the page */
    CHECK_IS(audit(pool, found), ==, 0);
    CHECK_IS(write(ends[1], "gone", 4), ==, 4);
    CHECK_IS(read(ends[0], at(pool, page) + 100, 8), ==, 8);
    CHECK_IS(audit(pool, found), ==, 1);
    close(ends[0]);
    close(ends[1]);
    CHECK_OK(bufpool_close(pool));
}

static void child_audits(void *argument)
{
    bufpool_pool *pool = argument;
    bufpool_changed changed = {0};
    size_t found = 0;
    bool own = strcmp(stats_of(pool).memory, "anon") == 0;
    int code = bufpool_audit(pool, 0, 1, &changed, &found);
#if defined(__SANITIZE_THREAD__) /* its runtime may map memory of its own where a child's pool is to be */
    if (code == BUFPOOL_EUNSUPPORTED && strstr(last_error(), "EEXIST") != NULL) {
        return;
    }
#endif
    CHECK_IS(code, ==, own ? 0 : BUFPOOL_EUNSUPPORTED);
    if (own) {
        uint64_t page = 1;
        CHECK_IS(found, ==, 0);
        CHECK_OK(bufpool_mark_clean(pool, 1, &page));
        write_byte(at(pool, page), 5);
        CHECK_OK(bufpool_audit(pool, 0, 1, &changed, &found));
        CHECK_IS(found, ==, 1);
        CHECK_IS(changed.page, ==, 1);
    } else {
        CHECK_HAS(last_error(), "other processes have");
    }
}

/* A child's copy is audited by the child, what it has together with its parent by nobody. */
static void test_fork(const char *memory, const char *trap)
{
    if (strcmp(memory, "shared") == 0 && (strcmp(trap, "guard") == 0 || strcmp(trap, "mprotect") == 0)) {
        return; /* not inherited */
    }
    bufpool_pool *pool = open_audited(memory, trap, NULL);
    uint64_t pages[2];
    uint64_t found[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    CHECK_OK(bufpool_mark_clean(pool, 1, pages));
    passes(child_audits, pool);
    if (strcmp(memory, "anon") == 0) {
        CHECK_IS(audit(pool, found), ==, 0);
        write_byte(at(pool, 0), 1);
        CHECK_IS(audit(pool, found), ==, 1);
        CHECK_IS(found[0], ==, 0);
    }
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    if (strcmp(mode, "track") == 0 && strcmp(trap, "uffd") != 0) {
        return;
    }
    bufpool_config config = audit_config(memory, trap, NULL);
    bufpool_pool *pool;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("skipped audit %s on %s/%s: %s\n", mode, memory, trap, last_error());
        return;
    }
    CHECK_OK(code);
    CHECK_STRING(stats_of(pool).audit, mode);
    CHECK_OK(bufpool_close(pool));
    test_marks(memory, trap);
    test_counted(memory, trap);
    test_system_call(memory, trap);
    test_fork(memory, trap);
}

static void refuses(const char *audit, const char *memory, const char *trap, const char *pins, uint32_t flags,
                    const char *why)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 2 * MIB;
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.pins = pins;
    config.flags = flags;
    config.audit = audit;
    bufpool_pool *pool;
    CHECK(bufpool_open(&config, &pool) < 0);
    CHECK_HAS(last_error(), why);
}

static void test_refused(void)
{
    refuses("some", "anon", "auto", NULL, 0, "unknown audit \"some\": valid are \"off\", \"track\", \"checksum\"");
    refuses("track", "anon", "auto", "write", 0, "take audit \"off\", or pins \"count\"");
    refuses("checksum", "anon", "auto", "all", 0, "pins is \"all\"");
    refuses("track", "anon", "guard", NULL, 0, "audit \"checksum\" goes with every trap");
    refuses("track", "anon", "none", NULL, 0, "only uffd");
    refuses("track", "thp", "auto", NULL, 0, "huge pages would be split");
    refuses("track", "anon", "auto", NULL, BUFPOOL_MONITOR, "BUFPOOL_MONITOR");
}

static void test_off(void)
{
    bufpool_pool *pool = open_pool("anon", "none", "abort", MIB, GRANULE);
    uint64_t page = 7;
    bufpool_changed changed = {0};
    size_t found;
    CHECK_OK(bufpool_mark_clean(pool, 1, &page)); /* nothing happens */
    CHECK_OK(bufpool_mark_dirty(pool, 1, &page));
    CHECK_IS(bufpool_audit(pool, 0, 1, &changed, &found), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "open it with audit");
    CHECK_STRING(stats_of(pool).audit, "off");
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_mark_clean(NULL, 1, &page), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_audit(NULL, 0, 1, &changed, &found), ==, BUFPOOL_EARGUMENT);
}

static void test_misuse(void)
{
    mode = "checksum";
    bufpool_pool *pool = open_audited("anon", "none", NULL);
    uint64_t pages[] = {0, 1, PAGES};
    bufpool_changed changed = {0};
    size_t found;
    CHECK_OK(bufpool_allocate_at(pool, 0, NULL, 0));
    CHECK_IS(bufpool_mark_clean(pool, 2, pages), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot mark page 1");
    CHECK_IS(bufpool_last_done(), ==, 1);
    CHECK_IS(bufpool_mark_clean(pool, 1, pages + 2), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_mark_dirty(pool, 3, pages), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_last_done(), ==, 2);
    CHECK_IS(bufpool_mark_dirty(pool, 1, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_audit(pool, 0, 1, NULL, &found), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_audit(pool, 0, 1, &changed, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_audit(pool, UINT64_MAX, 1, &changed, &found));
    CHECK_IS(found, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    test_refused();
    test_off();
    test_misuse();
    mode = "track";
    int code = for_each_cell(test_cell, true);
    mode = "checksum";
    return code == 0 ? for_each_cell(test_cell, true) : code;
}
