/* The page index against a simple model: every level's boundaries, random use, many threads. */
#include "harness.h"
#include "pages.h"

#include <stdatomic.h>

static void put_back(struct bp_pages *pages, uint64_t page)
{
    CHECK_IS(bp_pages_load(pages, page) & BP_BUSY, ==, pages->busy);
    bp_pages_mark_free(pages, page);
    bp_pages_settle(pages, page, BUFPOOL_STATE_FREED);
}

static void claim(struct bp_pages *pages, uint64_t page)
{
    uint16_t state = bp_pages_load(pages, page);
    CHECK(bp_state_is_free(state));
    CHECK(bp_pages_try(pages, page, state, state | pages->busy));
    bp_pages_mark_taken(pages, page);
}

/* Fills a table to the last page, then opens single pages at the edges of every level's words: each has to be found,
 * and nothing else. */
static void boundaries(uint64_t count)
{
    struct bp_pages pages;
    CHECK_OK(bp_pages_open(&pages, count, 0));
    for (uint64_t i = 0; i < count; i++) {
        CHECK_IS(bp_pages_take(&pages), ==, i);
    }
    CHECK_IS(bp_pages_take(&pages), ==, BP_NO_PAGE);
    CHECK_IS(bp_counts_taken(pages.counts), ==, count);
    CHECK_IS(atomic_load(&pages.counts->high_water), ==, count);
    static const uint64_t edges[] = {0, 1, 62, 63, 64, 65, 4094, 4095, 4096, 4097, 262142, 262143, 262144, 262145};
    for (size_t i = 0; i <= sizeof edges / sizeof *edges; i++) {
        uint64_t page = i == sizeof edges / sizeof *edges ? count - 1 : edges[i];
        if (page >= count) {
            continue;
        }
        put_back(&pages, page);
        CHECK_IS(bp_pages_take(&pages), ==, page);
        CHECK_IS(bp_pages_take(&pages), ==, BP_NO_PAGE);
    }
    /* All of one upper word, emptied and filled again from its end. */
    uint64_t low = count > 4096 ? 4096 : 0;
    uint64_t high = low + 4096 < count ? low + 4096 : count;
    for (uint64_t page = low; page < high; page++) {
        put_back(&pages, page);
    }
    for (uint64_t page = high; page-- > low + 1;) {
        claim(&pages, page);
    }
    CHECK_IS(bp_pages_take(&pages), ==, low);
    CHECK_IS(bp_pages_take(&pages), ==, BP_NO_PAGE);
    bp_pages_close(&pages);
}

/* Random takes, claims and returns; the model is one flag a page. */
static void against_model(uint64_t count, uint64_t seed, int steps)
{
    struct bp_pages pages;
    CHECK_OK(bp_pages_open(&pages, count, 0));
    char *taken = calloc(count, 1);
    uint64_t used = 0;
    uint64_t highest = 0;
    for (int i = 0; i < steps; i++) {
        uint64_t dice = next_random(&seed);
        uint64_t page = next_random(&seed) % count;
        bool filling = i / 500 % 3 != 2;
        if (dice % 8 < (filling ? 5u : 2u)) {
            page = bp_pages_take(&pages);
            CHECK_IS(page == BP_NO_PAGE, ==, used == count);
            if (page != BP_NO_PAGE) {
                CHECK_IS(page, <, count);
                CHECK_IS(taken[page], ==, 0);
                taken[page] = 1;
                used++;
            }
        } else if (taken[page]) {
            put_back(&pages, page);
            taken[page] = 0;
            used--;
        } else if (dice % 16 == 15) {
            claim(&pages, page);
            taken[page] = 1;
            used++;
        }
        if (page != BP_NO_PAGE && taken[page] && page >= highest) {
            highest = page + 1;
        }
        CHECK_IS(bp_counts_taken(pages.counts), ==, used);
        CHECK_IS(atomic_load(&pages.counts->high_water), ==, highest);
    }
    free(taken);
    bp_pages_close(&pages);
}

/* ---- Many threads: an owner per page, never two; at the end nothing is lost ---- */

#define THREADS 6
#define HELD 40

static struct bp_pages shared;
static atomic_int owners[8192];

static void *worker(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t held[HELD];
    int count = 0;
    for (int i = 0; i < (SANITIZED ? 3000 : 30000); i++) {
        if (count < HELD && next_random(&seed) % 5 < 3) {
            uint64_t page = bp_pages_take(&shared);
            if (page == BP_NO_PAGE) {
                continue;
            }
            CHECK_IS(atomic_fetch_add(&owners[page], 1), ==, 0);
            held[count++] = page;
        } else if (count > 0) {
            int at = (int)(next_random(&seed) % (uint64_t)count);
            CHECK_IS(atomic_fetch_sub(&owners[held[at]], 1), ==, 1);
            put_back(&shared, held[at]);
            held[at] = held[--count];
        }
    }
    while (count > 0) {
        count--;
        CHECK_IS(atomic_fetch_sub(&owners[held[count]], 1), ==, 1);
        put_back(&shared, held[count]);
    }
    return NULL;
}

/* With every page free no summary says "full": a word that did would hide its pages. */
static void check_open(void)
{
    uint64_t bits = shared.count;
    for (int level = 0; level < shared.depth; level++) {
        for (uint64_t bit = 0; bit < bits; bit++) {
            CHECK_IS(atomic_load(&shared.levels[level][bit / 64]) >> bit % 64 & 1, ==, 0);
        }
        bits = shared.words[level];
    }
}

/* Small tables are full most of the time, so that every level flips between full and open. */
static void threads(uint64_t count)
{
    CHECK_OK(bp_pages_open(&shared, count, 0));
    uint64_t seeds[THREADS];
    for (int round = 0; round < (SANITIZED ? 5 : 40); round++) {
        for (int i = 0; i < THREADS; i++) {
            seeds[i] = (uint64_t)(round * THREADS + i);
        }
        run_threads(THREADS, worker, seeds, sizeof *seeds);
        CHECK_IS(bp_counts_taken(shared.counts), ==, 0);
        check_open();
        for (uint64_t i = 0; i < count; i++) { /* every page can be found again */
            CHECK(bp_pages_take(&shared) != BP_NO_PAGE);
        }
        CHECK_IS(bp_pages_take(&shared), ==, BP_NO_PAGE);
        for (uint64_t i = 0; i < count; i++) {
            put_back(&shared, i);
        }
    }
    bp_pages_close(&shared);
}

/* As many threads as pages, each holding one at most: there is always a free one, and nobody may be told otherwise. */
static void *one_each(void *argument)
{
    (void)argument;
    for (int i = 0; i < (SANITIZED ? 20000 : 200000); i++) {
        uint64_t page = bp_pages_take(&shared);
        CHECK(page != BP_NO_PAGE);
        put_back(&shared, page);
    }
    return NULL;
}

static void no_false_exhaustion(int count)
{
    CHECK_OK(bp_pages_open(&shared, (uint64_t)count, 0));
    run_threads(count, one_each, NULL, 0);
    CHECK_IS(bp_counts_taken(shared.counts), ==, 0);
    bp_pages_close(&shared);
}

int main(void)
{
    harness_begin();
    static const uint64_t counts[] = {1, 2, 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 262145, 300001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        boundaries(counts[i]);
    }
    for (uint64_t seed = 0; seed < 20; seed++) {
        against_model(1 + seed * seed * 13, seed, 20000);
    }
    against_model(70000, 99, 300000);
    threads(THREADS);
    threads(64);
    threads(130);
    threads(4200);
    no_false_exhaustion(2);
    no_false_exhaustion(3);
    no_false_exhaustion(7);
    return 0;
}
