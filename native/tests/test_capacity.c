/* 16 TiB open at once with bookkeeping only where touched; capacities that are no power of two; numbers that rest. */
#include "harness.h"

/* kB of a line of /proc/self/status. */
static long status_kib(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    char line[256];
    long value = -1;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            value = atol(line + strlen(key));
        }
    }
    fclose(file);
    CHECK(value >= 0);
    return value;
}

/* Frames and page tables of this process. */
static long memory_kib(void)
{
    return status_kib("VmRSS:") + status_kib("VmPTE:");
}

static void huge(const char *memory, const char *trap)
{
    bufpool_close(open_pool(memory, trap, "abort", GRANULE, GRANULE)); /* what the first open maps is not meant */
    long before = memory_kib();
    bufpool_pool *pool = open_pool(memory, trap, "abort", 16 * TIB, GRANULE);
    CHECK_IS(memory_kib() - before, <, 2048);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate(pool, "first", 5, &pages[0]));
    CHECK_OK(bufpool_allocate_at(pool, 16 * TIB / GRANULE - 1, "last", 4));
    CHECK_OK(bufpool_allocate_at(pool, 5 * TIB / GRANULE, "some", 4));
    CHECK_IS(pages[0], ==, 0);
    CHECK_STRING((char *)bufpool_address(pool, 0), "first");
    CHECK_STRING((char *)bufpool_address(pool, 16 * TIB / GRANULE - 1), "last");
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    char *address = (char *)bufpool_address(pool, 0) + 9 * TIB + 77;
    CHECK(traps_at(address, &fault));
    CHECK_IS(fault.page, ==, 9 * TIB / GRANULE);
    CHECK_IS(fault.offset, ==, 77);
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_UNALLOCATED);
    CHECK_IS(memory_kib() - before, <, 4096); /* a few pages, their tables, and their chunks' guards */
    CHECK_IS(bufpool_allocate_at(pool, 16 * TIB / GRANULE, NULL, 0), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(address, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    CHECK_IS(memory_kib() - before, <, 2048);
}

/* Every page of a pool of an odd size can be had, and nothing behind it. */
static void odd(const char *memory, const char *trap, uint64_t count)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", count * GRANULE, GRANULE);
    char *seen = calloc(count, 1);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, &i, sizeof i, &page));
        CHECK_IS(page, <, count);
        CHECK_IS(seen[page], ==, 0);
        seen[page] = 1;
    }
    uint64_t page = 99;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(page, ==, 99);
    CHECK(bufpool_address(pool, count) == NULL);
    bufpool_state state;
    CHECK_IS(bufpool_page_state(pool, count, &state), ==, BUFPOOL_EARGUMENT);
    CHECK_OK(bufpool_free(pool, count / 2));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(page, ==, count / 2);
    CHECK_OK(bufpool_close(pool));
    free(seen);
}

/* A freed number is used again as late as possible, but a large pool does not wander for ever. */
static void rotation(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", 100 * GRANULE, GRANULE);
    uint64_t first;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &first));
    CHECK_OK(bufpool_free(pool, first));
    for (int i = 1; i < 100; i++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
        CHECK_IS(page, ==, i);
        CHECK_OK(bufpool_free(pool, page));
    }
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &first));
    CHECK_IS(first, ==, 0);
    CHECK_OK(bufpool_close(pool));

    pool = open_pool(memory, trap, "abort", TIB, GRANULE);
    for (int i = 0; i < 20000; i++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
        CHECK_OK(bufpool_free(pool, page));
    }
    CHECK_IS(stats_of(pool).high_water, <=, 2048);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
#if !SANITIZED /* their shadow memory has no room for 16 TiB, nor is what they use ours */
    huge(memory, trap);
#endif
    static const uint64_t counts[] = {1, 2, 63, 64, 65, 127, 1000, 4097};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        odd(memory, trap, counts[i]);
    }
    rotation(memory, trap);
}

int main(void)
{
    harness_begin();
    (void)huge;
    return for_each_cell(cell, false);
}
