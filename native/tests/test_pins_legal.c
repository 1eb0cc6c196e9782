/* test_pins_legal.c: an access that its pins allow is never reported: with many threads that pin the same pages, and where
 * the kernel unmaps an open page, as it does to reclaim memory. Under "abort" any report ends the test. */
#include "pins.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define THREADS 4
#define ROUNDS 4000
#define PAGES 4

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct worker {
    bufpool_pool *pool;
    uint64_t number;
    atomic_bool *over;
};

/* Each has a word of its own in every page. */
static void *use_pages(void *argument)
{
    struct worker *self = argument;
    uint64_t seed = self->number;
    uint64_t words[PAGES] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t page = next_random(&seed) % PAGES;
        bool write = next_random(&seed) % 2;
        volatile uint64_t *word = (uint64_t *)bufpool_address(self->pool, page) + 8 + self->number;
        CHECK_OK(bufpool_pin(self->pool, page, write));
        CHECK_IS(*word, ==, words[page]);
        if (write) {
            *word = ++words[page];
        }
        CHECK_IS(*word, ==, words[page]);
        CHECK_OK(bufpool_unpin_for(self->pool, page, write));
    }
    return NULL;
}

static void test_threads(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = pins_config(memory, trap, pins);
    bufpool_pool *pool = open_config(&config);
    struct worker workers[THREADS];
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    }
    for (uint64_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){pool, i, NULL};
    }
    run_threads(THREADS, use_pages, workers, sizeof *workers);
    bufpool_statistics statistics = stats_of(pool);
    CHECK_IS(statistics.faults, ==, 0);
    CHECK_IS(statistics.pins, ==, 0);
    CHECK_IS(statistics.pin_operations, ==, 2 * THREADS * ROUNDS);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OPEN(pool, page, strcmp(pins, "write") == 0, false, 0);
    }
    CHECK_OK(bufpool_close(pool));
}

/* One unmaps, the others use what they have pinned. */
static void *unmap(void *argument)
{
    struct worker *self = argument;
    while (!atomic_load(self->over)) {
        for (uint64_t page = 0; page < PAGES; page++) {
            CHECK_OK(madvise(bufpool_address(self->pool, page), stats_of(self->pool).page_size, MADV_DONTNEED));
        }
    }
    return NULL;
}

static void test_unmapped(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = pins_config(memory, trap, pins);
    bufpool_pool *pool = open_config(&config);
    char *at = bufpool_address(pool, 0);
    CHECK_OK(bufpool_allocate_at(pool, 0, "x", 1));
    CHECK_OK(bufpool_pin(pool, 0, true));
    for (int write = 1; write >= 0; write--) {
        uint64_t before = stats_of(pool).faults;
        for (int i = 0; i < 50; i++) {
            madvise(at, config.page_size, MADV_PAGEOUT); /* the first two where the system can */
            madvise(at, config.page_size, MADV_COLLAPSE);
            CHECK_IS(read_byte(at), ==, 'x');
            if (write) {
                write_byte(at + i + 1, 'y');
            }
            CHECK_OK(madvise(at, config.page_size, MADV_DONTNEED));
            if (i % 2 == 0 && write) {
                write_byte(at + i + 1, 'z');
            }
            CHECK_IS(read_byte(at), ==, 'x');
            CHECK_IS(read_byte(at + i + 1), ==, i % 2 == 0 ? 'z' : 'y');
        }
        CHECK_IS(stats_of(pool).faults, ==, before);
        if (write) {
            CHECK_OK(bufpool_pin(pool, 0, false));
            CHECK_OK(bufpool_unpin_for(pool, 0, true));
        }
        CHECK_OPEN(pool, 0, true, false, (char)'x');
    }
    CHECK_OK(madvise(at, config.page_size, MADV_DONTNEED)); /* and unmapped when it is closed, or opened */
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK_OPEN(pool, 0, true, true, 'x');
    CHECK_OK(madvise(at, config.page_size, MADV_DONTNEED));
    CHECK_OK(bufpool_unpin_for(pool, 0, true));
    CHECK_OPEN(pool, 0, true, false, 'x');
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_OPEN(pool, 0, strcmp(pins, "write") == 0, false, 'x');
    CHECK_OK(bufpool_close(pool));
}

static void test_unmapped_threads(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = pins_config(memory, trap, pins);
    bufpool_pool *pool = open_config(&config);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    }
    atomic_bool over = false;
    struct worker other = {pool, 0, &over};
    struct worker workers[2] = {{pool, 1, NULL}, {pool, 2, NULL}};
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, unmap, &other));
    run_threads(2, use_pages, workers, sizeof *workers);
    atomic_store(&over, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(stats_of(pool).faults, ==, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OPEN(pool, page, strcmp(pins, "write") == 0, false, 0);
    }
    CHECK_OK(bufpool_close(pool));
}

/* One tries to take the pages away, in a batch with one that is pinned, which is refused each time: nobody else notices. */
static void *evict(void *argument)
{
    struct worker *self = argument;
    const uint64_t pages[] = {0, 1, 2, 3, PAGES};
    while (!atomic_load(self->over)) {
        CHECK_IS(bufpool_evict_many(self->pool, PAGES + 1, pages), ==, BUFPOOL_ESTATE);
    }
    return NULL;
}

static void test_refused_batches(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = pins_config(memory, trap, pins);
    bufpool_pool *pool = open_config(&config);
    for (uint64_t page = 0; page <= PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
    }
    CHECK_OK(bufpool_pin(pool, PAGES, false));
    atomic_bool over = false;
    struct worker other = {pool, 0, &over};
    struct worker workers[2] = {{pool, 1, NULL}, {pool, 2, NULL}};
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, evict, &other));
    run_threads(2, use_pages, workers, sizeof *workers);
    atomic_store(&over, true);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS(stats_of(pool).evictions, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    static const char *const modes[] = {"write", "all"};
    for (int i = 0; i < 2 && can_close(memory, trap); i++) {
        test_threads(memory, trap, modes[i]);
        test_refused_batches(memory, trap, modes[i]);
        bool file = strcmp(memory, "shared") == 0 || strcmp(trap, "uffd") != 0 || i == 1;
        if (file && strcmp(memory, "thp") != 0) { /* else it would lose its frame */
            test_unmapped(memory, trap, modes[i]);
            test_unmapped_threads(memory, trap, modes[i]);
        }
    }
}

int main(void)
{
    harness_begin();
    for_each_trap("thp", test_cell, false);
    return for_each_cell(test_cell, false);
}
