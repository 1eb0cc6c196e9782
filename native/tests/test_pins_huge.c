/* test_pins_huge.c: pins "write" and "all" in every cell of huge granules. */
#include "pins_life.h"

static int run(void)
{
    return for_each_huge_cell(check_pins_cell, true);
}

int main(void)
{
    return with_huge_pages(8, run);
}
