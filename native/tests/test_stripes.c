/* Numbers come in blocks, one for each thread: threads do not meet, no number is stranded with one, and the sums are right. */
#include "harness.h"
#include "pages.h"

#define COUNT 20000 /* blocks of 512 */

static struct bp_pages pages;
static uint64_t given[64];
static bufpool_pool *pool;

static void *take_one(void *argument)
{
    *(uint64_t *)argument = bp_pages_take(&pages);
    return NULL;
}

static void put_back(uint64_t page)
{
    bp_pages_mark_free(&pages, page);
    bp_pages_settle(&pages, page, BUFPOOL_STATE_FREED);
}

/* Threads that come one after the other have other stripes: each has a cache line of the index for itself. */
static void apart(void)
{
    CHECK_OK(bp_pages_open(&pages, COUNT, 0));
    for (uint64_t i = 0; i < 600; i++) { /* one thread alone: numbers rise, past the end of its block */
        CHECK_IS(bp_pages_take(&pages), ==, i);
    }
    for (int i = 0; i < 8; i++) {
        run_threads(1, take_one, &given[i], sizeof *given);
        CHECK_IS(given[i], ==, (2 + (uint64_t)i) * pages.block);
        CHECK_IS((uintptr_t)&pages.levels[0][given[i] / 64] % BP_CACHE_LINE, ==, 0);
    }
    CHECK_IS(bp_pages_take(&pages), ==, 600);
    CHECK_IS(bp_counts_taken(pages.counts), ==, 609);
    CHECK_IS(atomic_load(&pages.counts->high_water), ==, 9 * pages.block + 1);
    bp_pages_close(&pages);
}

/* What threads have left of their blocks when they ended is had by another one, to the last number; and the last one that
 * becomes free, wherever, by whoever asks. */
static void nothing_stranded(void)
{
    CHECK_OK(bp_pages_open(&pages, COUNT, 0));
    for (int i = 0; i < 64; i++) { /* more than there are stripes, and blocks */
        run_threads(1, take_one, &given[i], sizeof *given);
        CHECK(given[i] < COUNT);
    }
    for (int i = 64; i < COUNT; i++) {
        CHECK(bp_pages_take(&pages) < COUNT);
    }
    CHECK_IS(bp_pages_take(&pages), ==, BP_NO_PAGE);
    static const uint64_t freed[] = {0, 511, 512, 5000, 10239, COUNT - 1};
    for (size_t i = 0; i < sizeof freed / sizeof *freed; i++) {
        put_back(freed[i]);
        run_threads(1, take_one, &given[0], sizeof *given);
        CHECK_IS(given[0], ==, freed[i]);
        run_threads(1, take_one, &given[0], sizeof *given);
        CHECK_IS(given[0], ==, BP_NO_PAGE);
    }
    CHECK_IS(bp_counts_taken(pages.counts), ==, COUNT);
    bp_pages_close(&pages);
}

static void *free_one(void *argument)
{
    CHECK_OK(bufpool_free(pool, *(uint64_t *)argument));
    return NULL;
}

static void *evict_one(void *argument)
{
    CHECK_OK(bufpool_evict(pool, *(uint64_t *)argument));
    return NULL;
}

static void *populate_one(void *argument)
{
    CHECK_OK(bufpool_populate(pool, *(uint64_t *)argument, "again", 6));
    return NULL;
}

/* One thread allocates, others evict, populate and free: each counts in a stripe of its own, and the sums are the pool's. */
static void sums(const char *memory, const char *trap)
{
    pool = open_pool(memory, trap, "abort", 64 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_many(pool, 64, given));
    run_threads(20, evict_one, given, sizeof *given);
    CHECK_IS(stats_of(pool).evicted, ==, 20);
    run_threads(10, populate_one, given, sizeof *given);
    run_threads(40, free_one, given, sizeof *given);
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.evicted, ==, 0);
    CHECK_IS(s.evictions, ==, 20);
    CHECK_IS(s.populates, ==, 10);
    CHECK_IS(s.allocations, ==, 64);
    CHECK_IS(s.frees, ==, 40);
    CHECK_IS(s.allocated, ==, 24);
    CHECK_IS(bufpool_allocate_many(pool, 41, given), ==, BUFPOOL_EEXHAUSTED);
    CHECK_OK(bufpool_allocate_many(pool, 40, given));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    apart();
    nothing_stranded();
    return for_each_cell(sums, false);
}
