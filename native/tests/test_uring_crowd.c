/* Many threads read past the page cache at the same time, each its own pages, and are interrupted by signals: no thread gets
 * what another has asked for. */
#include "direct.h"

#include <stdatomic.h>

#define THREADS 12
#define EACH (DIRECT_PAGES / THREADS)

static bufpool_pool *pool;
static int fd;

static atomic_bool over;
static atomic_int ended;

static void interrupt(int signo)
{
    (void)signo;
}

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
    atomic_fetch_add(&ended, 1);
    return NULL;
}

static void *disturb(void *argument)
{
    const pthread_t *threads = argument;
    for (size_t i = 0; !atomic_load(&over); i = (i + 1) % THREADS) {
        pthread_kill(threads[i], SIGUSR1); /* none is joined yet */
        usleep(20);
    }
    return NULL;
}

int main(void)
{
    harness_begin();
    skip_without_uring();
    fd = open_direct();
    struct sigaction action = {.sa_handler = interrupt}; /* without SA_RESTART */
    CHECK_OK(sigaction(SIGUSR1, &action, NULL));
    int descriptors = count_fds();
    pool = open_pool("anon", NULL, "abort", DIRECT_PAGES * GRANULE, GRANULE);
    size_t from[THREADS];
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        from[i] = i * EACH;
        CHECK_OK(pthread_create(&threads[i], NULL, read_and_evict, &from[i]));
    }
    pthread_t signals;
    CHECK_OK(pthread_create(&signals, NULL, disturb, threads));
    WAIT_FOR(atomic_load(&ended) == THREADS);
    atomic_store(&over, true);
    CHECK_OK(pthread_join(signals, NULL));
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_OK(pthread_join(threads[i], NULL));
    }
    CHECK_IS(stats_of(pool).io_queued, ==, 100 * EACH * THREADS);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(count_fds(), ==, descriptors);
    return 0;
}
