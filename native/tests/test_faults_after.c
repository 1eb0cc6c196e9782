/* Who asks again and again for the faults after the last he knows, while threads stray, misses none. */
#include "hosts.h"

#include <stdatomic.h>

#define THREADS 6
#define STRAYS 40 /* of each: fewer together than the pool keeps */
#define ROUNDS (SANITIZED ? 5 : 25)

static bufpool_pool *pool;
static atomic_int running;

static void *strayer(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    for (uint64_t i = 0; i < STRAYS; i++) {
        CHECK(traps_at((char *)bufpool_address(pool, self) + i, NULL));
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void cell(const char *of_memory, const char *by_trap)
{
    for (int round = 0; round < ROUNDS; round++) {
        pool = open_pool(of_memory, by_trap, "abort", 64 * GRANULE, GRANULE);
        pthread_t threads[THREADS];
        uint64_t numbers[THREADS];
        atomic_store(&running, THREADS);
        for (uint64_t i = 0; i < THREADS; i++) {
            numbers[i] = i;
            CHECK_OK(pthread_create(&threads[i], NULL, strayer, &numbers[i]));
        }
        static bufpool_fault faults[16];
        uint64_t next[THREADS] = {0}; /* the offset that each thread's next fault has to have */
        uint64_t last = 0;
        int seen = 0;
        size_t found;
        bool more;
        do {
            more = atomic_load(&running) > 0;
            for (int i = 0; i < 16; i++) {
                faults[i].size = sizeof faults[i];
            }
            CHECK_OK(bufpool_faults(pool, last, 16, faults, &found));
            for (size_t i = 0; i < found; i++) {
                CHECK_IS(faults[i].sequence, >, last);
                last = faults[i].sequence;
                CHECK_IS(faults[i].offset, ==, next[faults[i].page]++);
                seen++;
            }
        } while (more || found > 0);
        CHECK_IS(seen, ==, THREADS * STRAYS);
        for (int i = 0; i < THREADS; i++) {
            CHECK_OK(pthread_join(threads[i], NULL));
        }
        CHECK_OK(bufpool_close(pool));
    }
}

int main(void)
{
    harness_begin();
    return for_each_trap("anon", cell, false) == 0 ? HARNESS_SKIP : 0;
}
