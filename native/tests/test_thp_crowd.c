/* More threads fill huge granules than there are slots to make them in: every granule is huge all the same. */
#include "harness.h"

#define THREADS 16
#define EACH 4

static bufpool_pool *pool;

static void *fill(void *argument)
{
    const char *data = argument;
    for (int i = 0; i < EACH; i++) {
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, data, 2 * MIB, &page));
        CHECK(memcmp(bufpool_address(pool, page), data, 2 * MIB) == 0);
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("thp", "uffd", NULL, 0) != 0) {
        printf("thp/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    pool = open_pool("thp", "uffd", "abort", THREADS * EACH * 2 * MIB, 0);
    if (stats_of(pool).memory_note[0] != 0) {
        printf("huge pages cannot be had here: %s\n", stats_of(pool).memory_note);
        return HARNESS_SKIP;
    }
    char *data = malloc(2 * MIB);
    CHECK(data != NULL);
    memset(data, 9, 2 * MIB);
    run_threads(THREADS, fill, data, 0);
    CHECK_IS(stats_of(pool).huge_fills, ==, THREADS * EACH);
    CHECK_IS(stats_of(pool).small_fills, ==, 0);
    free(data);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
