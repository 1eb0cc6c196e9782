/* test_pins_cells.c: pins "write" and "all", in every cell of small pages: what is open when, and what is in it. */
#include "pins_life.h"

static void test_refused(void)
{
    bufpool_config config = pins_config("anon", "auto", "all");
    config.flags = BUFPOOL_MONITOR;
    bufpool_pool *pool;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "bufpool_explain()");
}

int main(void)
{
    harness_begin();
    test_refused();
    return for_each_cell(check_pins_cell, true);
}
