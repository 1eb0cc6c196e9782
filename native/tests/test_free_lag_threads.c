/* Threads allocate, free, ask for numbers, settle and look, all at once: no page has two owners, none is lost, no content is
 * another's; and a process forks meanwhile. */
#include "lag.h"

#include <stdatomic.h>

#define PAGES 96
#define OWNERS 4
#define HELD 16
#define ROUNDS (SANITIZED ? 3000 : 20000)

static bufpool_pool *pool;
static atomic_int working;

static void own(uint64_t page, uint64_t mark)
{
    uint64_t *at = bufpool_address(pool, page);
    CHECK_IS(at[0], ==, mark);
    CHECK_IS(at[1], ==, 0);
    at[0] = at[1] = ~mark;
}

static void give_back(uint64_t page, uint64_t mark)
{
    uint64_t *at = bufpool_address(pool, page);
    CHECK_IS(at[0], ==, ~mark);
    CHECK_IS(at[1], ==, ~mark);
    CHECK_OK(bufpool_free(pool, page));
}

static void *owner(void *argument)
{
    uint64_t self = (uint64_t)(uintptr_t)argument;
    uint64_t held[HELD] = {0};
    size_t count = 0;
    unsigned random = (unsigned)self * 7919 + 1;
    for (int i = 0; i < ROUNDS; i++) {
        random = random * 1103515245 + 12345;
        uint64_t mark = self << 32 | 1;
        if (count < HELD && (random >> 16) % 2 == 0) {
            CHECK_OK(bufpool_allocate(pool, &mark, sizeof mark, &held[count]));
            own(held[count++], mark);
        } else if (count > 0) {
            give_back(held[--count], mark);
        }
    }
    while (count > 0) {
        give_back(held[--count], self << 32 | 1);
    }
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void *settler(void *unused)
{
    while (atomic_load(&working) > 0) {
        CHECK_OK(bufpool_settle(pool));
        usleep(200);
    }
    return unused;
}

/* Takes pages by their numbers, whoever else would. */
static void *asker(void *unused)
{
    uint64_t mark = UINT64_C(77) << 32;
    for (uint64_t i = 0; atomic_load(&working) > 0; i++) {
        uint64_t page = i * 31 % PAGES;
        int code = bufpool_allocate_at(pool, page, &mark, sizeof mark);
        CHECK(code == 0 || code == BUFPOOL_ESTATE);
        if (code == 0) {
            own(page, mark);
            give_back(page, mark);
        }
    }
    return unused;
}

static void *looker(void *unused)
{
    while (atomic_load(&working) > 0) {
        bufpool_findings found = BUFPOOL_FINDINGS_INIT;
        int code = bufpool_inspect(pool, 0, &found);
        CHECK(code == 0 || code == BUFPOOL_EUNSUPPORTED);
        CHECK(code < 0 || found.wrong_count == 0);
        usleep(1000);
    }
    return unused;
}

static void in_child(void *unused)
{
    (void)unused;
    CHECK_IS(stats_of(pool).lagging, ==, 0);
    uint64_t page = allocate(pool, "child");
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(allocate(pool, NULL), ==, page);
}

static void cell(const char *memory, const char *trap)
{
    if (strcmp(memory, "anon") != 0) {
        return;
    }
    for (uint64_t lag = 1; lag <= 32; lag = lag * 5 + 1) {
        bufpool_config config = lag_config(memory, trap, PAGES, lag);
        config.fork = "inherit";
        pool = zone_open(&config);
        atomic_store(&working, OWNERS);
        pthread_t threads[OWNERS + 2];
        for (uintptr_t i = 0; i < OWNERS; i++) {
            CHECK_OK(pthread_create(&threads[i], NULL, owner, (void *)(i + 1)));
        }
        CHECK_OK(pthread_create(&threads[OWNERS], NULL, lag % 2 == 0 ? settler : asker, NULL));
        CHECK_OK(pthread_create(&threads[OWNERS + 1], NULL, looker, NULL));
        for (int i = 0; i < OWNERS + 2; i++) {
            CHECK_OK(pthread_join(threads[i], NULL));
        }
        bufpool_statistics s = stats_of(pool);
        CHECK_IS(s.allocated, ==, 0);
        CHECK_IS(s.lagging, <=, lag);
        CHECK_IS(s.faults, ==, 0);
        check_clean(pool, s.lagging);
        struct child child = run_child(in_child, NULL);
        CHECK_PASSED(child);
        for (int i = 0; i < PAGES; i++) {
            allocate(pool, NULL);
        }
        CHECK_OK(bufpool_close(pool));
    }
}

int main(void)
{
    setbuf(stdout, NULL);
    return for_each_trap("anon", cell, false) > 0 ? 0 : HARNESS_SKIP;
}
