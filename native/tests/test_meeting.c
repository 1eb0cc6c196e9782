/* Where two threads would move small frames at the same time one goes another way, and so do those that follow; what is kept is
 * taken all the same where it is needed. */
#include "fillers.h"
#include "harness.h"
#include "pool.h"

static bufpool_pool *pool;

static uint64_t took(bufpool_way way)
{
    static uint64_t before[BUFPOOL_WAYS];
    bufpool_statistics s = stats_of(pool);
    uint64_t more = s.ways[way] - before[way];
    memcpy(before, s.ways, sizeof before);
    return more;
}

static void free_by(uint64_t page, bufpool_way way)
{
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(took(way), ==, 1);
    CHECK(traps_at(bufpool_address(pool, page), NULL));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("anon", "uffd", NULL, 0) < 0) {
        printf("anon/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    atomic_store(&bp_ways_choice, BP_CHOSEN | BP_FILL_KEPT | BP_ZAP_OUT);
    pool = open_pool("anon", "uffd", "raise", 16 * GRANULE, GRANULE);
    struct bp_stash *stash = &pool->space.stash;
    if (stash->base == 0) {
        printf("this kernel moves no frames\n");
        return HARNESS_SKIP;
    }
    uint64_t pages[8], page;
    CHECK_OK(bufpool_allocate_many(pool, 8, pages));
    took(BUFPOOL_WAY_COPY);
    free_by(0, BUFPOOL_WAY_MOVE_OUT);
    atomic_store(&stash->moving, true); /* by another thread */
    free_by(1, BUFPOOL_WAY_DROP);
    atomic_store(&stash->moving, false);
    free_by(2, BUFPOOL_WAY_DROP);
    CHECK_OK(bufpool_allocate(pool, "x", 1, &page));
    CHECK_IS(took(BUFPOOL_WAY_COPY), ==, 1); /* though a frame is kept */
    CHECK_IS(read_byte(bufpool_address(pool, page)), ==, 'x');

    CHECK_IS(bp_stash_count(stash), ==, 1);
    uintptr_t hole = bp_page_address(pool, 15);
    CHECK_IS(bp_stash_take(&pool->space, hole, bp_fill_zeros, false), ==, -ENOENT);
    CHECK_OK(bp_stash_take(&pool->space, hole, bp_fill_zeros, true));
    CHECK_IS(bp_stash_count(stash), ==, 0);
    CHECK_OK(bp_kernel_discard((void *)hole, GRANULE));

    unsigned left = atomic_load(&stash->crowd);
    CHECK_IS(left, >, 0);
    CHECK_IS(left, <, 100000);
    for (; left > 0; left--) { /* it passes by itself */
        CHECK_IS(bp_stash_take(&pool->space, hole, bp_fill_zeros, false), ==, -ENOENT);
    }
    took(BUFPOOL_WAY_COPY);
    free_by(3, BUFPOOL_WAY_MOVE_OUT);
    CHECK_OK(bufpool_allocate(pool, "y", 1, &page));
    CHECK_IS(took(BUFPOOL_WAY_MOVE), ==, 1);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
