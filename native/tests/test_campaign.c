/* A thousand random stray accesses: a thousand faults with the exact byte, page, offset, kind and state. And no false
 * alarm in ten million legal accesses while other threads allocate, evict and free. */
#define PAGES 256
#define STRAYS 1000
#include "campaign.h"

#include <stdatomic.h>

static void make_states(const char *memory, const char *trap, uint64_t size)
{
    page_size = size;
    pool = open_pool(memory, trap, "raise", PAGES * page_size, page_size);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, 3 * PAGES / 4, pages));
    for (uint64_t page = 0; page < PAGES; page++) {
        states[page] = BUFPOOL_STATE_UNALLOCATED;
        if (page < 3 * PAGES / 4) {
            states[page] = page % 3 == 0   ? BUFPOOL_STATE_FREED
                           : page % 3 == 1 ? BUFPOOL_STATE_EVICTED
                                           : BUFPOOL_STATE_ALLOCATED;
        }
        if (states[page] == BUFPOOL_STATE_FREED) {
            CHECK_OK(bufpool_free(pool, page));
        } else if (states[page] == BUFPOOL_STATE_EVICTED) {
            CHECK_OK(bufpool_evict(pool, page));
        }
    }
}

/* ---- No false alarm ---- */

#define LEGAL (SANITIZED ? 100000 : 1700000) /* per thread and cell: ten million over two threads and three traps */
#define HELD 64

static atomic_int readers;

static void *legal(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t held[HELD];
    char *at[HELD];
    for (int i = 0; i < HELD; i++) {
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &held[i]));
        at[i] = bufpool_address(pool, held[i]);
    }
    for (uint64_t i = 0; i < LEGAL; i++) {
        uint64_t random = next_random(&seed);
        char *byte = at[random % HELD] + (random >> 8) % page_size;
        if (random & 64) {
            *(volatile char *)byte = (char)i;
        } else {
            (void)*(volatile char *)byte;
        }
    }
    CHECK_OK(bufpool_free_many(pool, HELD, held));
    atomic_fetch_sub(&readers, 1);
    return NULL;
}

static void *busy(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    while (atomic_load(&readers) > 0) {
        uint64_t pages[8];
        CHECK_OK(bufpool_allocate_many(pool, 8, pages));
        uint64_t some = next_random(&seed) % 8;
        CHECK_OK(bufpool_evict_many(pool, some, pages));
        CHECK_OK(bufpool_populate_many(pool, some / 2, pages, NULL));
        CHECK_OK(bufpool_free_many(pool, 8, pages));
    }
    return NULL;
}

static void *either(void *argument)
{
    return *(uint64_t *)argument < 2 ? legal(argument) : busy(argument);
}

static void no_false_alarm(const char *memory, const char *trap)
{
    page_size = GRANULE;
    pool = open_pool(memory, trap, "abort", PAGES * page_size, page_size);
    atomic_store(&readers, 2);
    uint64_t numbers[4] = {0, 1, 2, 3};
    run_threads(4, either, numbers, sizeof *numbers);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    make_states(memory, trap, GRANULE);
    one_access_one_fault();
    make_states(memory, trap, 12 * KIB);
    one_access_one_fault();
    no_false_alarm(memory, trap);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
