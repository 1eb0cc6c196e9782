/* A page appears whole: who reads it while others free, allocate, evict and populate it finds a trap or the content. */
#include "harness.h"

#include <stdatomic.h>

#define PAGES 4
#define READERS 2
#define CYCLES (SANITIZED ? 200 : 600)

static bufpool_pool *pool;
static uint64_t page_size;
static unsigned char *pattern; /* the same in every life of the page: a copy that spans two lives is no mixture */
static atomic_bool stop;
static atomic_ulong seen, trapped;

static void *reader(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    unsigned char *copy = malloc(page_size);
    while (!atomic_load(&stop)) {
        uint64_t page = next_random(&seed) % PAGES;
        memset(copy, 0, page_size);
        int code = bufpool_guarded_copy(copy, bufpool_address(pool, page), page_size, NULL);
        if (code == BUFPOOL_ESTRAY) {
            atomic_fetch_add(&trapped, 1);
            continue;
        }
        CHECK_OK(code);
        for (size_t i = 0; i < page_size; i++) {
            if (copy[i] != pattern[i]) {
                CHECK_IS(copy[i], ==, pattern[i]);
            }
        }
        atomic_fetch_add(&seen, 1);
    }
    free(copy);
    return NULL;
}

static void *writer(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    /* Until the readers have had their share, too. */
    for (int i = 0; i < CYCLES || atomic_load(&seen) + atomic_load(&trapped) < 100; i++) {
        uint64_t page = next_random(&seed) % PAGES;
        CHECK_OK(bufpool_allocate_at(pool, page, pattern, page_size));
        if (i % 3 == 0) {
            CHECK_OK(bufpool_evict(pool, page));
            CHECK_OK(bufpool_populate(pool, page, pattern, page_size));
        }
        if (i % 5 == 0) {
            sched_yield();
        }
        if (i % 4 == 0) {
            CHECK_OK(bufpool_free_many(pool, 1, &page));
        } else {
            CHECK_OK(bufpool_free(pool, page));
        }
    }
    atomic_store(&stop, true);
    return NULL;
}

static void *either(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    return self == 0 ? writer(argument) : reader(argument);
}

static void cell_of(const char *memory, const char *trap, uint64_t size)
{
    page_size = size;
    pool = open_pool(memory, trap, "abort", PAGES * page_size, page_size);
    pattern = malloc(page_size);
    for (size_t i = 0; i < page_size; i++) {
        pattern[i] = (unsigned char)(1 + i * 7 % 200);
    }
    atomic_store(&stop, false);
    atomic_store(&seen, 0);
    atomic_store(&trapped, 0);
    uint64_t numbers[READERS + 1] = {0, 1, 2};
    run_threads(READERS + 1, either, numbers, sizeof *numbers);
    CHECK_IS(atomic_load(&trapped), ==, stats_of(pool).faults);
    CHECK_OK(bufpool_close(pool));
    free(pattern);
}

static void cell(const char *memory, const char *trap)
{
    cell_of(memory, trap, 4096);
    cell_of(memory, trap, 12 * KIB);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
