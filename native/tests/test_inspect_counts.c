/* Of a pool of few pages, of which a look takes about as long as a call, no count is found wrong while threads use it: what
 * they change between the last page looked at and the counts is not taken for damage. */
#include "damage.h"

#include <pthread.h>

#define PAGES 64
#define EXACT 10000
#define LIMIT_S 10

static atomic_bool stop;

static void *work(void *pool)
{
    uint64_t seed = (uint64_t)(uintptr_t)&pool;
    while (!atomic_load(&stop)) {
        uint64_t pages[2];
        CHECK_OK(bufpool_allocate_many(pool, 2, pages));
        CHECK_OK(bufpool_evict(pool, pages[0]));
        CHECK_OK(bufpool_free_many(pool, 2, pages));
        for (uint64_t wait = next_random(&seed) % (1 << 18); wait > 0; wait--) {
            atomic_load(&stop); /* time for a whole look, so that the next call begins at the end of some */
        }
    }
    return NULL;
}

static void look_on(bufpool_pool *pool, uint32_t flags)
{
    time_t end = time(NULL) + LIMIT_S;
    int exact = 0;
    for (int looks = 0; exact < EXACT && time(NULL) < end; looks++) {
        bufpool_findings findings = look(pool, flags);
        if (sum_of_wrong(&findings) != 0) {
            print_findings(&findings);
        }
        CHECK_IS(sum_of_wrong(&findings), ==, 0);
        CHECK_IS(findings.repaired, ==, 0);
        exact += findings.exact;
    }
    CHECK_IS(exact, >, 0);
}

int main(void)
{
    harness_begin();
#ifdef __SANITIZE_THREAD__
    printf("the thread sanitizer takes a descriptor's number that serves again for a race\n");
    return HARNESS_SKIP;
#endif
    bufpool_pool *pool = open_pool("anon", "auto", "abort", PAGES * GRANULE, GRANULE);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_create(&threads[i], NULL, work, pool));
    }
    look_on(pool, 0);
    look_on(pool, BUFPOOL_REPAIR);
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    expect_clean(pool);
    CHECK_OK(bufpool_close(pool));
    return 0;
}
