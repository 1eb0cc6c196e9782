/* test_sample.c: one allocation in so many is guarded on every cell: from its first pin on it is closed while nobody has it
 * pinned. The others are as with pins "off". The same seed chooses the same pages. */
#include "pins.h"

#define PAGES 4096
#define ONE_IN 16

static bufpool_config sample_config(const char *memory, const char *trap, uint32_t one_in, uint64_t seed)
{
    bufpool_config config = pins_config(memory, trap, NULL);
    config.capacity = PAGES * config.page_size;
    config.provenance = "last";
    config.sample = one_in;
    config.seed = seed;
    return config;
}

/* Is the page guarded? Only such pages count pins. */
static bool is_guarded(bufpool_pool *pool, uint64_t page)
{
    return bufpool_unpin(pool, page) == BUFPOOL_ESTATE;
}

static uint64_t find_guarded(bufpool_pool *pool)
{
    uint64_t page = 0;
    while (page < PAGES && !is_guarded(pool, page)) {
        page++;
    }
    CHECK_IS(page, <, PAGES);
    return page;
}

static void choose(const char *memory, const char *trap, uint64_t seed, bool guarded[PAGES])
{
    bufpool_config config = sample_config(memory, trap, ONE_IN, seed);
    bufpool_pool *pool = open_config(&config);
    static uint64_t pages[PAGES];
    uint64_t count = 0;
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    for (uint64_t page = 0; page < PAGES; page++) {
        guarded[page] = is_guarded(pool, page);
        count += guarded[page];
    }
    CHECK_IS(count, >, PAGES / ONE_IN / 2);
    CHECK_IS(count, <, PAGES / ONE_IN * 2);
    CHECK_IS(stats_of(pool).sampled, ==, count);
    CHECK_IS(stats_of(pool).sample, ==, ONE_IN);
    CHECK_IS(stats_of(pool).seed, ==, seed);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_pin(pool, 0, true), ==, guarded[0] ? BUFPOOL_ECLOSED : 0);
}

static void test_seed(const char *memory, const char *trap)
{
    static bool first[PAGES];
    static bool again[PAGES];
    static bool other[PAGES];
    choose(memory, trap, 4711, first);
    choose(memory, trap, 4711, again);
    choose(memory, trap, 4712, other);
    CHECK(memcmp(first, again, sizeof first) == 0);
    CHECK(memcmp(first, other, sizeof first) != 0);
}

/* Every report says how the run can be repeated. */
static void check_seed(bufpool_pool *pool, bufpool_fault *fault)
{
    char text[8192];
    char part[64];
    CHECK_IS(fault->sample, ==, 1);
    CHECK_IS(fault->seed, ==, stats_of(pool).seed);
    fault->seed = UINT64_MAX - 1;
    bufpool_format_text(fault, text, sizeof text);
    CHECK_HAS(text, "  the pool guards one allocation in 1: the same ones again with seed 18446744073709551614\n");
    bufpool_format_json(fault, text, sizeof text);
    snprintf(part, sizeof part, "\"sample\":1,\"seed\":\"%llu\",", (unsigned long long)fault->seed);
    CHECK_HAS(text, part);
}

static void test_life(const char *memory, const char *trap)
{
    bufpool_config config = sample_config(memory, trap, 1, 0);
    config.capacity = 8 * config.page_size;
    bufpool_pool *pool = open_config(&config);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    uint64_t page;
    CHECK_IS(stats_of(pool).seed, !=, 0);
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    CHECK_OPEN(pool, page, true, true, 'x'); /* nobody has pinned it yet */
    for (int i = 0; i < 3; i++) {
        CHECK_OK(bufpool_pin(pool, page, false));
        CHECK_OPEN(pool, page, true, false, 'x');
        CHECK_OK(bufpool_pin(pool, page, true));
        CHECK_OPEN(pool, page, true, true, 'x');
        CHECK_IS(bufpool_free(pool, page), ==, BUFPOOL_ESTATE);
        CHECK_OK(bufpool_unpin_for(pool, page, true));
        CHECK_OPEN(pool, page, true, false, 'x');
        CHECK_OK(bufpool_unpin(pool, page));
        CHECK_OPEN(pool, page, false, false, 'x');
    }
    CHECK(!reads_at(bufpool_address(pool, page), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_UNPINNED);
    CHECK_IS(fault.page, ==, page);
    CHECK_IS(fault.freed.event, ==, BUFPOOL_EVENT_UNPIN);
    check_seed(pool, &fault);
    CHECK_IS(bufpool_unpin(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_explain(bufpool_address(pool, page), 1, &fault), ==, BUFPOOL_ESTRAY);

    /* Evicted and freed while it is closed. */
    CHECK_OK(bufpool_evict(pool, page));
    CHECK(!reads_at(bufpool_address(pool, page), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_populate(pool, page, "y", 1));
    CHECK_OPEN(pool, page, true, true, 'y');
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_OPEN(pool, page, false, false, 'y');
    CHECK_OK(bufpool_free(pool, page));
    CHECK(!reads_at(bufpool_address(pool, page), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_allocate_at(pool, page, "z", 1));
    CHECK_OPEN(pool, page, true, true, 'z');
    CHECK_OK(bufpool_close(pool));
}

/* What is not chosen is never counted nor closed, in batches either. */
static void test_others(const char *memory, const char *trap)
{
    bufpool_config config = sample_config(memory, trap, ONE_IN, 99);
    bufpool_pool *pool = open_config(&config);
    static uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
    uint64_t chosen = stats_of(pool).sampled;
    CHECK_OK(bufpool_pin_many(pool, PAGES, pages, true));
    CHECK_IS(stats_of(pool).pins, ==, chosen);
    memset(bufpool_address(pool, 0), 1, PAGES * config.page_size);
    CHECK_OK(bufpool_unpin_many(pool, PAGES, pages, true));
    CHECK_IS(stats_of(pool).pins, ==, 0);
    uint64_t closed = 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        bool open = reads_at(bufpool_address(pool, page), NULL);
        CHECK_IS(open, ==, !is_guarded(pool, page));
        closed += !open;
    }
    CHECK_IS(closed, ==, chosen);
    CHECK_OK(bufpool_free_many(pool, PAGES, pages));
    CHECK_OK(bufpool_allocate_many(pool, PAGES, pages)); /* chosen anew */
    CHECK_IS(stats_of(pool).sampled, >, chosen);
    CHECK_IS(reads_at(bufpool_address(pool, find_guarded(pool)), NULL), ==, true);
    CHECK_OK(bufpool_close(pool));
}

/* A page that is pinned without end is closed less and less often, but never for good. */
static void test_often(const char *memory, const char *trap)
{
    bufpool_config config = sample_config(memory, trap, 1, 1);
    bufpool_pool *pool = open_config(&config);
    uint64_t page;
    uint64_t closed = 0;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    for (int use = 1; use <= 4096; use++) {
        CHECK_OK(bufpool_pin(pool, page, true));
        write_byte(bufpool_address(pool, page), 1);
        CHECK_OK(bufpool_unpin(pool, page));
        bool open = bufpool_explain(bufpool_address(pool, page), 1, NULL) == 0;
        closed += !open;
        CHECK(!open || use >= 128);
    }
    CHECK_IS(closed, >, 256);
    CHECK_IS(closed, <, 1024);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void touch_closed(void *argument)
{
    bufpool_pool *pool = argument;
    CHECK(!reads_at(bufpool_address(pool, 0), NULL));
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OPEN(pool, 0, true, true, 'x');
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK(!reads_at(bufpool_address(pool, 0), NULL));
    CHECK(reads_at(bufpool_address(pool, 1), NULL));
}

static void test_fork(const char *memory, const char *trap)
{
    if (strcmp(memory, "shared") == 0 && strcmp(trap, "uffd") != 0) {
        return; /* not inherited */
    }
    bufpool_config config = sample_config(memory, trap, 1, 1);
    bufpool_pool *pool = open_config(&config);
    CHECK_OK(bufpool_allocate_at(pool, 0, "x", 1));
    CHECK_OK(bufpool_allocate_at(pool, 1, "y", 1));
    CHECK_OK(bufpool_pin(pool, 0, false));
    CHECK_OK(bufpool_unpin(pool, 0));
    passes(touch_closed, pool);
    CHECK(!reads_at(bufpool_address(pool, 0), NULL));
    CHECK_OK(bufpool_close(pool));
}

/* Answered in place, a stray access goes through, once, and nothing of the page is lost. */
static void test_resume(const char *memory, const char *trap)
{
    bufpool_config config = sample_config(memory, trap, 1, 1);
    config.on_fault = "raise";
    bufpool_pool *pool = open_config(&config);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_allocate_at(pool, 0, "x", 1));
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(bufpool_unpin(pool, 0));
    for (int i = 0; i < 3; i++) {
        CHECK_IS(read_byte(bufpool_address(pool, 0)), ==, 'x');
        write_byte((char *)bufpool_address(pool, 0) + 1, 'y');
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_UNPINNED);
        CHECK(fault.flags & BUFPOOL_FAULT_WENT_THROUGH);
        CHECK_OK(bufpool_check(&fault));
    }
    CHECK_IS(stats_of(pool).faults, ==, 3);
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_IS(read_byte((char *)bufpool_address(pool, 0) + 1), ==, 'y');
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OK(bufpool_close(pool));
}

static void stray(void *argument)
{
    write_byte(argument, 1);
}

static void test_abort(const char *memory, const char *trap)
{
    bufpool_config config = sample_config(memory, trap, 1, 1);
    bufpool_pool *pool = open_config(&config);
    CHECK_OK(bufpool_allocate_at(pool, 0, "x", 1));
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OK(bufpool_unpin(pool, 0));
    struct child child = run_child(stray, bufpool_address(pool, 0));
    bool inherited = strcmp(memory, "shared") != 0 || strcmp(trap, "uffd") == 0;
    CHECK_CHILD(WIFSIGNALED(child.status), child);
    CHECK_CHILD(!inherited || strstr(child.text, "unpinned") != NULL, child);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    test_seed(memory, trap);
    test_life(memory, trap);
    test_others(memory, trap);
    test_often(memory, trap);
    test_fork(memory, trap);
    test_resume(memory, trap);
    test_abort(memory, trap);
}

static void refuses(const char *pins, const char *audit, const char *trap, uint32_t one_in, const char *why)
{
    bufpool_config config = sample_config("anon", trap, one_in, 5);
    config.pins = pins;
    config.audit = audit;
    bufpool_pool *pool;
    CHECK(bufpool_open(&config, &pool) < 0);
    CHECK_HAS(last_error(), why);
}

int main(void)
{
    harness_begin();
    refuses("all", NULL, "auto", 10, "every page is guarded");
    refuses(NULL, "checksum", "auto", 10, "cannot read the pages that sampling closes");
    refuses(NULL, NULL, "none", 10, "traps nothing");
    refuses(NULL, NULL, "auto", 0, "seed is 5, which goes with sample");
    return for_each_cell(test_cell, false);
}
