/* Freed pages that lag: used again first, in order and whole; zapped when the ring is full, by settle, or by who asks for their
 * number; freed in all that is told of them; in every cell of private memory. */
#include "lag.h"

#include <fcntl.h>

static bool trapped(const char *trap)
{
    return strcmp(trap, "none") != 0;
}

/* What was freed first is used again first, overwritten whole; until then it is freed, and does not trap. */
static void in_order(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 8, 3);
    uint64_t page;
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_IS(allocate(pool, "something that is long"), ==, i);
    }
    CHECK_OK(bufpool_free(pool, 2));
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_IS(state_of(pool, 2), ==, BUFPOOL_STATE_FREED);
    CHECK(!traps_at(bufpool_address(pool, 2), NULL));
    CHECK_IS(bufpool_explain(bufpool_address(pool, 2), 1, NULL), ==, BUFPOOL_ESTRAY);
    CHECK_IS(bufpool_free(pool, 2), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "double free of page 2");
    CHECK_IS(bufpool_evict(pool, 2), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_populate(pool, 2, NULL, 0), ==, BUFPOOL_ESTATE);
    uint64_t listed[8];
    size_t found;
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_FREED, 0, 8, listed, &found));
    CHECK(found == 2 && listed[0] == 0 && listed[1] == 2);
    CHECK_IS(stats_of(pool).allocated, ==, 2);
    CHECK_IS(stats_of(pool).frees, ==, 2);
    check_clean(pool, 2);
    CHECK_IS(allocate(pool, "short"), ==, 2);
    check_page(pool, 2, "short", 0);
    CHECK_IS(allocate(pool, NULL), ==, 0);
    check_page(pool, 0, "", 0);
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, 4);
    CHECK_IS(stats_of(pool).lag_reused, ==, 2);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

/* The oldest go when there is no room, a quarter at once. Evicted pages never lag. */
static void zapped_by_age(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 12, 8);
    for (uint64_t i = 0; i < 12; i++) {
        CHECK_IS(allocate(pool, "x"), ==, i);
    }
    CHECK_OK(bufpool_evict(pool, 11));
    CHECK_OK(bufpool_free(pool, 11));
    CHECK_IS(stats_of(pool).lagging, ==, 0);
    for (uint64_t i = 0; i < 8; i++) {
        CHECK_OK(bufpool_free(pool, i));
    }
    check_clean(pool, 8);
    CHECK_OK(bufpool_free(pool, 8));
    check_clean(pool, 7);
    if (trapped(trap)) {
        CHECK(traps_at(bufpool_address(pool, 0), NULL));
        CHECK(traps_at(bufpool_address(pool, 1), NULL));
    }
    CHECK(!traps_at(bufpool_address(pool, 2), NULL));
    CHECK_OK(bufpool_settle(pool));
    check_clean(pool, 0);
    for (uint64_t i = 0; i < 9 && trapped(trap); i++) {
        CHECK(traps_at(bufpool_address(pool, i), NULL));
    }
    CHECK_OK(bufpool_settle(pool));
    for (int i = 0; i < 10; i++) {
        allocate(pool, NULL);
    }
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

/* Of a batch that is longer than the ring the first are zapped; a batch takes what lags and what does not, each with its own
 * content. */
static void batches(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 8, 4);
    size_t size = granule_of(memory);
    uint64_t pages[8];
    CHECK_OK(bufpool_allocate_many(pool, 6, pages));
    CHECK_OK(bufpool_free_many(pool, 6, pages));
    check_clean(pool, 4);
    CHECK(!trapped(trap) || (traps_at(bufpool_address(pool, 0), NULL) && traps_at(bufpool_address(pool, 1), NULL)));
    char *data = malloc(7 * size);
    CHECK(data != NULL);
    for (size_t i = 0; i < 7; i++) {
        memset(data + i * size, 'a' + (int)i, size);
    }
    CHECK_OK(bufpool_allocate_filled(pool, 7, data, pages));
    for (uint64_t i = 0; i < 7; i++) {
        check_page(pool, pages[i], "", (unsigned char)('a' + i));
    }
    CHECK_IS(stats_of(pool).lag_reused, ==, 4);
    /* None, for want of one: what was claimed lags no more. */
    CHECK_OK(bufpool_free(pool, pages[3]));
    CHECK_IS(bufpool_allocate_many(pool, 3, pages), ==, BUFPOOL_EEXHAUSTED);
    check_clean(pool, 0);
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    check_clean(pool, 0);
    CHECK_IS(bufpool_free_many(pool, 2, (uint64_t[]){5, 5}), ==, BUFPOOL_ESTATE);
    check_clean(pool, 0);
    free(data);
    CHECK_OK(bufpool_close(pool));
}

/* Calls that name a page: each finds a free one. */
static void by_number(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 8, 4);
    size_t size = granule_of(memory);
    uint64_t pages[5];
    void *frame;
    CHECK_OK(bufpool_allocate_many(pool, 5, pages));
    CHECK_OK(bufpool_free_many(pool, 4, pages));
    check_clean(pool, 4);
    CHECK_OK(bufpool_allocate_at(pool, 1, "taken over", 10));
    check_page(pool, 1, "taken over", 0);
    CHECK_OK(bufpool_stage(pool, 1, &frame));
    memset(frame, 'f', size);
    CHECK_OK(bufpool_publish(pool, 1, &frame, (uint64_t[]){0}));
    check_page(pool, 0, "", 'f');
    CHECK_OK(bufpool_replace(pool, 1, 2));
    check_page(pool, 2, "taken over", 0);
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_EVICTED);
    CHECK_IS(bufpool_withdraw(pool, 1, (uint64_t[]){3}, &frame), ==, BUFPOOL_ESTATE);
    check_clean(pool, 1);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    CHECK(zero >= 0);
    CHECK_OK(bufpool_read_from(pool, zero, 1, (uint64_t[]){0}, (uint64_t[]){3}, NULL));
    close(zero);
    check_page(pool, 3, "", 0);
    check_clean(pool, 0);
    CHECK_OK(bufpool_free(pool, 3)); /* slots of the ring name pages that lag no longer */
    CHECK_OK(bufpool_allocate_at(pool, 3, NULL, 0));
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_IS(allocate(pool, NULL), ==, 3);
    CHECK_IS(allocate(pool, NULL), ==, 5);
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

/* Somebody has taken the frame past us, or data is not there: the page is filled all the same, or free. */
static void lost_frames(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 4, 4);
    uint64_t page = allocate(pool, "x");
    CHECK_OK(bufpool_free(pool, page));
    if (trapped(trap) && NESTED_FAULTS) {
        bool file = strcmp(stats_of(pool).backing, "memfd") == 0 || strcmp(trap, "uffd") != 0;
        if (!file) {
            CHECK_OK(madvise(bufpool_address(pool, page), granule_of(memory), MADV_DONTNEED));
        }
        CHECK_IS(allocate(pool, "again"), ==, page);
        check_page(pool, page, "again", 0);
        CHECK_OK(bufpool_free(pool, page));
        CHECK_IS(bufpool_allocate(pool, bufpool_address(pool, 3), granule_of(memory), &page), ==, BUFPOOL_ESTRAY);
        check_clean(pool, 0);
    }
    allocate(pool, NULL);
    CHECK_OK(bufpool_close(pool));
}

/* A stray access goes unreported until the page is settled. And one that is on its way when the page begins to lag ends. */
static void strays(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 4, 4);
    uint64_t page = allocate(pool, "x");
    char *at = bufpool_address(pool, page);
    CHECK_OK(bufpool_free(pool, page));
    *(volatile char *)at = 'y';
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_settle(pool));
    *(volatile char *)at = 'z';
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(allocate(pool, NULL), !=, UINT64_MAX);
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(at, NULL));
}

static bufpool_verdict give_and_free(const bufpool_fault *fault, void *argument)
{
    CHECK_OK(bufpool_allocate_at(argument, fault->page, "in between", 10));
    CHECK_OK(bufpool_free(argument, fault->page));
    return BUFPOOL_VERDICT_REPORT;
}

/* A stray access to a hole, whose page lags by the time that it is answered: it meets the pattern, not what is there. */
static void raced(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_lagging(memory, trap, 4, 4);
    CHECK_OK(bufpool_set_fault_callback(pool, give_and_free, pool));
    const unsigned char *at = bufpool_address(pool, 2);
    CHECK_IS(*(volatile const unsigned char *)at, ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_set_fault_callback(pool, NULL, NULL));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(stats_of(pool).lag_reused, ==, 0);
    check_clean(pool, 0);
    CHECK_IS(allocate(pool, NULL), ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* A system call on a page that lags goes through, as any touch of it; once it is settled the monitor tells. */
static void monitored(const char *memory, const char *trap)
{
    bufpool_config config = lag_config(memory, trap, 4, 4);
    config.flags = BUFPOOL_MONITOR;
    bufpool_pool *pool = NULL;
    if (strcmp(trap, "uffd") != 0 || bufpool_open(&config, &pool) < 0) {
        return;
    }
    uint64_t page = allocate(pool, "x");
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    CHECK(zero >= 0);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(bufpool_free(pool, page));
        CHECK_IS(read(zero, bufpool_address(pool, page), 10), ==, 10);
        CHECK_IS(stats_of(pool).faults, ==, (uint64_t)i);
        CHECK_OK(bufpool_settle(pool));
        CHECK_IS(read(zero, bufpool_address(pool, page), 10), ==, -1);
        WAIT_FOR(stats_of(pool).faults == (uint64_t)i + 1);
        CHECK_OK(bufpool_allocate_at(pool, page, "y", 1));
        check_page(pool, page, "y", 0);
    }
    close(zero);
    CHECK_OK(bufpool_close(pool));
}

/* fill, scrub, red zones, provenance: as of any page. */
static void other_options(const char *memory, const char *trap)
{
    bufpool_config config = lag_config(memory, trap, 4, 2);
    config.fill = "pattern";
    config.flags = BUFPOOL_SCRUB | BUFPOOL_RED_ZONES;
    config.provenance = "last";
    bufpool_pool *pool = zone_open(&config);
    uint64_t page = allocate(pool, "secret");
    CHECK_OK(bufpool_free(pool, page));
    check_page(pool, page, "", BUFPOOL_SCRUBBED);
    bufpool_origin freed;
    CHECK_OK(bufpool_page_history(pool, page, NULL, &freed));
    CHECK(freed.sequence != 0 && freed.event == BUFPOOL_EVENT_FREE);
    CHECK_IS(allocate(pool, NULL), ==, page);
    check_page(pool, page, "", BUFPOOL_FRESH);
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(allocate(pool, "a"), ==, page);
    check_page(pool, page, "a", 0);
    char *at = bufpool_address(pool, page);
    CHECK(!trapped(trap) || traps_at(at + granule_of(memory), NULL));
    check_clean(pool, 0);
    CHECK_OK(bufpool_close(pool));
}

static void in_child(void *argument)
{
    bufpool_pool *pool = argument;
    CHECK_IS(stats_of(pool).lagging, ==, 0);
    CHECK_IS(allocate(pool, "child"), !=, UINT64_MAX);
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS(allocate(pool, NULL), ==, 1);
    check_page(pool, 1, "", 0);
    check_page(pool, 2, "kept", 0);
    CHECK_OK(bufpool_close(pool));
}

/* A fork settles; parent and child go on for themselves. */
static void forks(const char *memory, const char *trap)
{
    bufpool_config config = lag_config(memory, trap, 8, 4);
    config.fork = "inherit";
    bufpool_pool *pool = zone_open(&config);
    for (int i = 0; i < 4; i++) {
        allocate(pool, "kept");
    }
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_OK(bufpool_free(pool, 3));
    struct child child = run_child(in_child, pool);
    CHECK_PASSED(child);
    check_clean(pool, 0);
    CHECK(!trapped(trap) || traps_at(bufpool_address(pool, 0), NULL));
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_IS(allocate(pool, "parent"), ==, 1);
    check_page(pool, 1, "parent", 0);
    CHECK_OK(bufpool_free(pool, 1));
    CHECK_OK(bufpool_close(pool)); /* with a page that lags */
    CHECK_IS(stats_of(pool).lagging, ==, 0);
}

static void cell(const char *memory, const char *trap)
{
    in_order(memory, trap);
    zapped_by_age(memory, trap);
    batches(memory, trap);
    by_number(memory, trap);
    lost_frames(memory, trap);
    other_options(memory, trap);
    if (trapped(trap)) {
        strays(memory, trap);
        raced(memory, trap);
        monitored(memory, trap);
        forks(memory, trap);
    }
}

int main(void)
{
    setbuf(stdout, NULL);
    return for_lagging_cells(cell, true);
}
