/* bufpool_explain() names the first byte of a buffer that is not accessible, across pages and pools, without a touch. */
#include "harness.h"

static void check_stray(const void *from, size_t length, const void *address, bufpool_state state)
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_explain(from, length, &fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.address, ==, (uintptr_t)address);
    CHECK_IS(fault.state, ==, state);
    CHECK_IS(fault.pc, ==, 0);
    CHECK_IS(fault.signal, ==, 0);
    CHECK_IS(bufpool_explain(from, length, NULL), ==, BUFPOOL_ESTRAY);
    CHECK_HAS(last_error(), bufpool_state_name(state));
}

static void cell(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pool(memory, trap, "abort", 16 * GRANULE, 2 * GRANULE);
    uint64_t pages[8];
    CHECK_OK(bufpool_allocate_many(pool, 7, pages));
    char *base = bufpool_address(pool, 0);
    size_t size = 2 * GRANULE;
    CHECK_OK(bufpool_explain(base, 7 * size, NULL));
    CHECK_OK(bufpool_explain(base + 3, 7 * size - 3, NULL));
    check_stray(base, 8 * size, base + 7 * size, BUFPOOL_STATE_UNALLOCATED);
    check_stray(base + 7 * size - 1, 2, base + 7 * size, BUFPOOL_STATE_UNALLOCATED);
    check_stray(base + 7 * size + 99, 5, base + 7 * size + 99, BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_evict(pool, 4));
    check_stray(base, 8 * size, base + 4 * size, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_free(pool, 2));
    check_stray(base, 8 * size, base + 2 * size, BUFPOOL_STATE_FREED);
    check_stray(base + 3 * size, 8 * size, base + 4 * size, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_explain(base + 2 * size, 0, NULL));
    CHECK_IS(stats_of(pool).faults, ==, 0); /* nothing was touched */

    /* From before the lower pool to behind the upper one: the lower one's hole comes first. */
    bufpool_pool *other = open_pool(memory, trap, "abort", 16 * GRANULE, GRANULE);
    char *low = bufpool_address(other, 0) < (void *)base ? bufpool_address(other, 0) : base;
    char *stray = low == base ? base + 2 * size : low;
    check_stray(low - 16, TIB, stray, low == base ? BUFPOOL_STATE_FREED : BUFPOOL_STATE_UNALLOCATED);
    CHECK_OK(bufpool_close(other));
    CHECK_OK(bufpool_close(pool));
    check_stray(base + 5, 1, base + 5, BUFPOOL_STATE_CLOSED);
}

int main(void)
{
    harness_begin();
    char local[64];
    CHECK_OK(bufpool_explain(local, sizeof local, NULL));
    CHECK_OK(bufpool_explain(NULL, 0, NULL));
    CHECK_IS(bufpool_explain((void *)(UINTPTR_MAX - 5), 9, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "length is 9");
    int code = for_each_cell(cell, false);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_last_fault(&fault), ==, code == 0 ? 0 : BUFPOOL_EARGUMENT);
    return code;
}
