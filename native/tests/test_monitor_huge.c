/* Monitor and freeze on huge granules: the memories thp, hugetlb and path, whose poison and re-arming go other ways. */
#include "cells.h"
#include "monitor.h"
#include "stopped.h"

#include <stdatomic.h>

static void calls(const char *memory, const char *trap)
{
    bufpool_pool *pool;
    uint64_t after = 0;
    uint64_t page;
    bufpool_fault faults[4];
    int ends[2];
    if (strcmp(trap, "uffd") != 0) {
        return;
    }
    CHECK_OK(try_monitored(memory, trap, "resume", 4 * HUGE_PAGE, HUGE_PAGE, &pool));
    CHECK_OK(pipe(ends));
    CHECK_OK(bufpool_allocate(pool, "content", 8, &page));
    char *hole = bufpool_address(pool, page);
    uint64_t small = stats_of(pool).small_fills;
    for (int i = 0; i < 5; i++) {
        CHECK_OK(bufpool_evict(pool, page));
        for (int n = 0; n < 3; n++) {
            char *at = hole + MIB + 77 * n;
            CHECK_IS(write(ends[1], at, 10), ==, -1);
            CHECK_IS(errno, ==, EFAULT);
            CHECK_IS(new_faults(pool, &after, faults, 4), ==, 1);
            CHECK_STRING(faults[0].in_syscall, "write");
            CHECK_IS(faults[0].address, ==, (uintptr_t)at);
            CHECK_IS(faults[0].state, ==, BUFPOOL_STATE_EVICTED);
        }
        bufpool_fault guarded = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(hole + 5, &guarded));
        after = guarded.sequence;
        CHECK_OK(bufpool_populate(pool, page, "again", 6));
        CHECK_IS(write(ends[1], hole, 6), ==, 6);
        CHECK_IS(read(ends[0], hole + MIB, 6), ==, 6);
        CHECK_OK(memcmp(hole + MIB, "again", 6));
    }
    CHECK_IS(stats_of(pool).small_fills, ==, small); /* what was poisoned comes back as one huge page */
    CHECK_OK(bufpool_close(pool));
    close(ends[0]);
    close(ends[1]);
}

static char *stray_at;
static atomic_bool went_on;
static char seen;

static void *stray(void *argument)
{
    (void)argument;
    seen = read_byte(stray_at);
    atomic_store(&went_on, true);
    return NULL;
}

static void freeze(const char *memory, const char *trap)
{
    pthread_t thread;
    bufpool_pool *pool = open_pool(memory, trap, "freeze", 4 * HUGE_PAGE, HUGE_PAGE);
    stray_at = (char *)bufpool_address(pool, 1) + MIB;
    atomic_store(&went_on, false);
    CHECK_OK(pthread_create(&thread, NULL, stray, NULL));
    WAIT_FOR(count_stopped() > 0);
    sleep_ms(50);
    CHECK(!atomic_load(&went_on));
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(bufpool_thaw(pool, NULL), ==, 1);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_IS((unsigned char)seen, ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_close(pool));
}

static int body(void)
{
    int code = for_each_huge_cell(freeze, false);
    if (code == 0 && can_monitor()) {
        code = for_each_huge_cell(calls, false);
    }
    return code;
}

int main(void)
{
    return with_huge_pages(8, body);
}
