/* The suite of conformance.h on every memory of small granules, and pages of many of them. */
#include "conformance.h"

/* A page of 1 GiB, of which a little is written: what is not written costs nothing only with BUFPOOL_LAZY_ZERO, so this
 * one is lazy. */
static void page_of_a_gib(void)
{
    bufpool_pool *pool = open_cell(GIB / GRANULE, 2, BUFPOOL_LAZY_ZERO);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "a page of one GiB", 17, &page));
    char *at = bufpool_address(pool, page);
    CHECK(memcmp(at, "a page of one GiB", 18) == 0);
    CHECK_IS(at[GIB - 1], ==, 0);
    at[GIB / 2] = 5;
    CHECK_IS(at[GIB / 2], ==, 5);
    if (cell.trapped) {
        check_trap(pool, 1 - page, GIB - 3, false, BUFPOOL_STATE_UNALLOCATED);
    }
    CHECK_OK(bufpool_free(pool, page));
    if (cell.trapped) {
        CHECK(traps_at(at + GIB / 2, NULL));
        CHECK(traps_at(at + GIB - 1, NULL));
    }
    CHECK_OK(bufpool_close(pool));
}

static void small_cell(const char *memory, const char *trap)
{
    conformance(memory, trap, "private anonymous memfd", false);
    CHECK_IS(cell.granule, ==, GRANULE);
    static const uint64_t granules[] = {4, 64, 512};
    for (size_t i = 0; i < COUNT(granules); i++) {
        fill_lengths(granules[i], 0);
        fill_lengths(granules[i], BUFPOOL_LAZY_ZERO);
    }
    page_of_a_gib();
    conformance_end();
}

int main(void)
{
    harness_begin();
    return for_each_cell(small_cell, true);
}
