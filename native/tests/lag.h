/* lag.h: what the tests of free_lag share: pools of a few pages on every cell that goes with it, and looks at them. */
#ifndef LAG_H
#define LAG_H

#include "zone.h"

MAYBE_UNUSED static bufpool_config lag_config(const char *memory, const char *trap, uint64_t pages, uint64_t lag)
{
    bufpool_config config = zone_config(memory, trap, pages);
    config.free_lag = lag;
    return config;
}

MAYBE_UNUSED static bufpool_pool *open_lagging(const char *memory, const char *trap, uint64_t pages, uint64_t lag)
{
    bufpool_config config = lag_config(memory, trap, pages, lag);
    return zone_open(&config);
}

/* Calls function for every cell of private memory. Returns the exit code. */
MAYBE_UNUSED static int for_lagging_cells(cell_function function, bool untrapped_too)
{
    int run = for_each_trap("anon", function, untrapped_too) + for_each_trap("thp", function, untrapped_too);
    if (run == 0) {
        printf("no trap for private memory can be had here (reasons above)\n");
    }
    return run == 0 ? HARNESS_SKIP : 0;
}

MAYBE_UNUSED static uint64_t allocate(bufpool_pool *pool, const char *text)
{
    uint64_t page = UINT64_MAX;
    CHECK_OK(bufpool_allocate(pool, text, text == NULL ? 0 : strlen(text), &page));
    return page;
}

/* The page begins with the text, and every other byte is `rest`. */
MAYBE_UNUSED static void check_page(const bufpool_pool *pool, uint64_t page, const char *text, unsigned char rest)
{
    const unsigned char *at = bufpool_address(pool, page);
    size_t size = stats_of(pool).page_size;
    size_t length = strlen(text);
    CHECK(memcmp(at, text, length) == 0);
    for (size_t i = length; i < size; i++) {
        if (at[i] != rest) {
            CHECK_IS(at[i], ==, rest);
        }
    }
}

/* A look at the whole pool finds nothing wrong, and so many pages that lag. */
MAYBE_UNUSED static void check_clean(bufpool_pool *pool, uint64_t lagging)
{
    bufpool_findings found = BUFPOOL_FINDINGS_INIT;
    CHECK_IS(stats_of(pool).lagging, ==, lagging);
    int code = bufpool_inspect(pool, 0, &found);
    if (code == BUFPOOL_EUNSUPPORTED) {
        return;
    }
    CHECK_OK(code);
    CHECK_IS(found.lagging, ==, lagging);
    CHECK_IS(found.exact, ==, 1);
    CHECK_IS(found.counts_wrong, ==, 0);
    CHECK_IS(found.wrong_count, ==, 0);
}

#endif
