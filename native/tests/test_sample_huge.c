/* test_sample_huge.c: sampling on huge pages, transparent ones too. */
#include "pins.h"

static void test_cell(const char *memory, const char *trap)
{
    bufpool_config config = pins_config(memory, trap, NULL);
    config.capacity = 4 * config.page_size;
    config.sample = 1;
    bufpool_pool *pool = open_config(&config);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    for (int round = 0; round < 2; round++) {
        CHECK_OK(bufpool_allocate_at(pool, 1, "x", 1));
        CHECK_OPEN(pool, 1, true, true, 'x');
        for (int i = 0; i < 3; i++) {
            CHECK_OK(bufpool_pin(pool, 1, false));
            CHECK_OPEN(pool, 1, true, false, 'x');
            CHECK_OK(bufpool_pin(pool, 1, true));
            CHECK_OPEN(pool, 1, true, true, 'x');
            CHECK_OK(bufpool_unpin_for(pool, 1, true));
            CHECK_OK(bufpool_unpin(pool, 1));
            CHECK(!reads_at((char *)bufpool_address(pool, 1) + HUGE_PAGE - 1, &fault));
            CHECK_IS(fault.state, ==, BUFPOOL_STATE_UNPINNED);
        }
        CHECK_OK(bufpool_evict(pool, 1));
        CHECK_OK(bufpool_populate(pool, 1, "x", 1));
        CHECK_OPEN(pool, 1, true, true, 'x');
        CHECK_OK(bufpool_pin(pool, 1, true));
        CHECK_OK(bufpool_unpin(pool, 1));
        CHECK_OK(bufpool_free(pool, 1));
        CHECK(!reads_at(bufpool_address(pool, 1), &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_close(pool));
}

static int run(void)
{
    return for_each_huge_cell(test_cell, false);
}

int main(void)
{
    return with_huge_pages(8, run);
}
