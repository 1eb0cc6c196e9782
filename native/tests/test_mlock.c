/* A host that locks its memory, now and in future: holes stay holes, and zapping works on locked pages. */
#include "harness.h"

#include <sys/mman.h>

static const char *memory, *trap;

static void locked(void *argument)
{
    if (mlockall(*(int *)argument) != 0) {
        _exit(HARNESS_SKIP);
    }
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 64 * GRANULE;
    config.memory = memory;
    config.trap = trap;
    bufpool_pool *pool;
    int code = bufpool_open(&config, &pool);
    if (code == BUFPOOL_EUNSUPPORTED || code == -EAGAIN || code == -ENOMEM) { /* guards; RLIMIT_MEMLOCK */
        CHECK(last_error()[0] != 0);
        _exit(HARNESS_SKIP);
    }
    CHECK_OK(code);
    for (uint64_t page = 0; page < 64; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL)); /* opening filled nothing */
    }
    uint64_t pages[20];
    CHECK_OK(bufpool_allocate_many(pool, 20, pages));
    for (int i = 0; i < 20; i++) {
        memset(bufpool_address(pool, pages[i]), i + 1, GRANULE);
    }
    CHECK_OK(bufpool_evict_many(pool, 5, pages));
    CHECK_OK(bufpool_free(pool, pages[7]));
    uint64_t some[] = {pages[9], pages[11], pages[15]};
    CHECK_OK(bufpool_free_many(pool, 3, some));
    CHECK_OK(bufpool_populate(pool, pages[1], "back", 5));
    for (int i = 0; i < 20; i++) {
        bool there = state_of(pool, pages[i]) == BUFPOOL_STATE_ALLOCATED;
        CHECK_IS(traps_at(bufpool_address(pool, pages[i]), NULL), ==, !there);
        CHECK(!there || i == 1 || *(char *)bufpool_address(pool, pages[i]) == i + 1);
    }
    char *at = bufpool_address(pool, pages[12]);
    CHECK_OK(bufpool_close(pool));
    CHECK(traps_at(at, NULL));
}

/* The host locks a part of the pool itself: its mapping is split there. */
static void split(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_pool(memory, trap, "abort", 64 * GRANULE, 4 * GRANULE);
    uint64_t pages[16];
    CHECK_OK(bufpool_allocate_many(pool, 16, pages));
    if (mlock((char *)bufpool_address(pool, 6) + GRANULE, GRANULE) != 0) {
        _exit(HARNESS_SKIP);
    }
    char data[4 * GRANULE];
    memset(data, 7, sizeof data);
    CHECK_OK(bufpool_evict(pool, 6));
    CHECK(traps_at((char *)bufpool_address(pool, 6) + GRANULE, NULL));
    CHECK_OK(bufpool_populate(pool, 6, data, sizeof data));
    CHECK(memcmp(bufpool_address(pool, 6), data, sizeof data) == 0);
    CHECK_OK(bufpool_evict_many(pool, 16, pages));
    CHECK_OK(bufpool_populate_many(pool, 16, pages, NULL));
    CHECK_OK(bufpool_free_many(pool, 16, pages));
    for (uint64_t page = 0; page < 16; page++) {
        CHECK(traps_at((char *)bufpool_address(pool, page) + GRANULE, NULL));
    }
    CHECK_OK(bufpool_close(pool));
}

static void run(void (*function)(void *), void *argument, const char *what)
{
    struct child child = run_child(function, argument);
    if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == HARNESS_SKIP) {
        printf("skipped %s on %s/%s: locking is not allowed, or this trap does not bear it\n", what, memory, trap);
        return;
    }
    CHECK_PASSED(child);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static int modes[] = {MCL_FUTURE, MCL_CURRENT | MCL_FUTURE};
    if (!SANITIZED) { /* their shadow cannot be locked */
        run(locked, &modes[0], "mlockall(MCL_FUTURE)");
        run(locked, &modes[1], "mlockall(MCL_CURRENT | MCL_FUTURE)");
    }
    if (strcmp(trap, "guard") != 0) { /* no guard on locked memory */
        run(split, NULL, "mlock");
    }
}

int main(void)
{
    harness_begin();
    (void)locked;
    return for_each_cell(cell, false);
}
