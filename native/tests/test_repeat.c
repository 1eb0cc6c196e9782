/* One access is told once, even if another thread's call re-arms its page before it is over; but an instruction that
 * strays at the same place again, later, makes another access. */
#include "harness.h"

#include <semaphore.h>

static bufpool_pool *pool;
static sem_t turns[2];

static void wait_for(sem_t *turn)
{
    while (sem_wait(turn) != 0) {
    }
}

/* Never calls the library between its two accesses. */
static void *strayer(void *argument)
{
    for (int i = 0; i < 2; i++) {
        wait_for(&turns[0]);
        read_byte(argument);
        sem_post(&turns[1]);
    }
    return NULL;
}

static void rearm(void)
{
    uint64_t page;
    while (stats_of(pool).scratched > 0) {
        sleep_ms(11);
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
        CHECK_OK(bufpool_free(pool, page));
    }
}

static void cell(const char *memory, const char *trap)
{
    pool = open_pool(memory, trap, "resume", 64 * GRANULE, GRANULE);
    CHECK_OK(sem_init(&turns[0], 0, 0));
    CHECK_OK(sem_init(&turns[1], 0, 0));
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, strayer, (char *)bufpool_address(pool, 63) + 7));
    for (uint64_t i = 1; i <= 2; i++) {
        sem_post(&turns[0]);
        wait_for(&turns[1]);
        CHECK_IS(stats_of(pool).faults, ==, i);
        CHECK_IS(stats_of(pool).repeats, ==, 0);
        rearm();
        sleep_ms(1100);
    }
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
