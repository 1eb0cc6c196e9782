/* Many threads read past the page cache at the same time, each its own pages: no thread gets what another has asked for. */
#include "direct.h"

#define THREADS 12
#define EACH (DIRECT_PAGES / THREADS)

static bufpool_pool *pool;
static int fd;

static void *read_and_evict(void *argument)
{
    size_t from = *(const size_t *)argument;
    for (int round = 0; round < 100; round++) {
        CHECK_OK(bufpool_read_from(pool, fd, EACH, offsets + from, pages + from, NULL));
        for (size_t i = from; i < from + EACH; i++) {
            check_content(pool, i);
        }
        CHECK_OK(bufpool_evict_many(pool, EACH, pages + from));
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    skip_without_uring();
    fd = open_direct();
    int descriptors = count_fds();
    pool = open_pool("anon", NULL, "abort", DIRECT_PAGES * GRANULE, GRANULE);
    size_t from[THREADS];
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        from[i] = i * EACH;
        CHECK_OK(pthread_create(&threads[i], NULL, read_and_evict, &from[i]));
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_IS(stats_of(pool).io_queued, ==, 100 * EACH * THREADS);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(count_fds(), ==, descriptors);
    return 0;
}
