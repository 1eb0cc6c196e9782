/* test_sample_legal.c: an access that its pins allow is never reported where some pages are guarded, with many threads that
 * pin the same pages, free them and allocate them again. Under "abort" any report ends the test. */
#include "pins.h"

#include <sys/mman.h>

#define THREADS 4
#define ROUNDS 6000
#define PAGES 8

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct worker {
    bufpool_pool *pool;
    uint64_t number;
};

/* Two pages of each thread's own, that it frees and allocates again, and the others, of which each has a word of its own. */
static void *use_pages(void *argument)
{
    struct worker *self = argument;
    uint64_t seed = self->number;
    uint64_t words[PAGES] = {0};
    uint64_t own = PAGES + self->number;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t page = next_random(&seed) % PAGES;
        bool write = next_random(&seed) % 2;
        volatile uint64_t *word = (uint64_t *)bufpool_address(self->pool, page) + 8 + self->number;
        CHECK_OK(bufpool_pin(self->pool, page, write));
        CHECK_IS(*word, ==, words[page]);
        if (write) {
            *word = ++words[page];
        }
        CHECK_OK(bufpool_unpin_for(self->pool, page, write));
        if (i % 64 == 0) {
            madvise(bufpool_address(self->pool, page), GRANULE, MADV_PAGEOUT);
        }
        char *at = bufpool_address(self->pool, own);
        CHECK_OK(bufpool_allocate_at(self->pool, own, "x", 1));
        CHECK_IS(read_byte(at), ==, 'x');
        CHECK_OK(bufpool_pin(self->pool, own, true));
        write_byte(at, 'y');
        CHECK_OK(bufpool_unpin(self->pool, own));
        CHECK_OK(i % 2 == 0 ? bufpool_free(self->pool, own) : bufpool_evict(self->pool, own));
        if (i % 2 == 1) {
            CHECK_OK(bufpool_free(self->pool, own));
        }
    }
    return NULL;
}

static void test_threads(const char *memory, const char *trap, const char *pins, uint32_t one_in)
{
    bufpool_config config = pins_config(memory, trap, pins);
    config.capacity = (PAGES + THREADS) * config.page_size;
    config.sample = one_in;
    config.seed = 7;
    bufpool_pool *pool = open_config(&config);
    struct worker workers[THREADS];
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    }
    for (uint64_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){pool, i};
    }
    run_threads(THREADS, use_pages, workers, sizeof *workers);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_IS(stats_of(pool).sampled, >, ROUNDS / one_in);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    test_threads(memory, trap, NULL, 1);
    test_threads(memory, trap, "count", 3);
}

int main(void)
{
    harness_begin();
    return for_each_cell(test_cell, false);
}
