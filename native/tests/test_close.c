/* Closing: while others are inside, while they stray; what rests afterwards, for how long, and what is given back. */
#include "harness.h"

#include <stdatomic.h>

static const char *memory, *trap;
static bufpool_pool *pool;
static atomic_int ready;

static bufpool_verdict quietly(const bufpool_fault *fault, void *context)
{
    (void)fault;
    (void)context;
    return BUFPOOL_VERDICT_RESUME;
}

/* Works until it is told that the pool is closed. */
static void *worker(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    atomic_fetch_add(&ready, 1);
    for (;;) {
        uint64_t page;
        int code = bufpool_allocate(pool, &seed, sizeof seed, &page);
        if (code == 0 && next_random(&seed) % 3 == 0) {
            code = bufpool_evict(pool, page);
        }
        if (code == 0) {
            code = bufpool_free(pool, page);
        }
        if (code == BUFPOOL_ECLOSED) {
            return NULL;
        }
        CHECK_OK(code);
    }
}

/* Strays on pages that nobody allocates, before, while and after the pool is closed. */
static void *strayer(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    char *base = bufpool_address(pool, 512);
    atomic_fetch_add(&ready, 1);
    for (int after = 0; after < 200;) {
        uint64_t offset = next_random(&seed) % (256 * GRANULE);
        write_byte(base + offset, 1);
        if (next_random(&seed) % 4 == 0) {
            bufpool_check(NULL);
        }
        after += state_of(pool, 0) == BUFPOOL_STATE_CLOSED;
    }
    bufpool_check(NULL);
    return NULL;
}

static void *closer(void *argument)
{
    (void)argument;
    while (atomic_load(&ready) < 4) {
        sched_yield();
    }
    sleep_ms(1);
    int code = bufpool_close(pool);
    CHECK(code == 0 || code == BUFPOOL_ECLOSED);
    return code == 0 ? pool : NULL;
}

static void amid(int round)
{
    pool = open_pool(memory, trap, round % 2 ? "resume" : "raise", 1024 * GRANULE, GRANULE);
    CHECK_OK(bufpool_set_fault_callback(pool, quietly, NULL));
    CHECK_OK(bufpool_keep(pool));
    atomic_store(&ready, 0);
    static void *(*const roles[])(void *) = {worker, worker, strayer, strayer, closer, closer};
    pthread_t threads[6];
    uint64_t seeds[6];
    int closed = 0;
    for (int i = 0; i < 6; i++) {
        seeds[i] = (uint64_t)(round * 6 + i);
        CHECK_OK(pthread_create(&threads[i], NULL, roles[i], &seeds[i]));
    }
    for (int i = 0; i < 6; i++) {
        void *result;
        CHECK_OK(pthread_join(threads[i], &result));
        closed += result != NULL;
    }
    CHECK_IS(closed, ==, 1); /* by one of the two */
    /* Nothing stayed open. */
    sleep_ms(11);
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ECLOSED);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    for (uint64_t page = 0; page < 1024; page += page < 512 ? 64 : 1) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at((char *)bufpool_address(pool, page) + page, &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
    }
    CHECK_OK(bufpool_release(pool));
}

/* The oldest go first, and those that are kept do not. */
static void resting(void)
{
    bufpool_pool *kept = open_pool(memory, trap, "abort", MIB, GRANULE);
    char *kept_at = bufpool_address(kept, 9);
    CHECK_OK(bufpool_keep(kept));
    CHECK_OK(bufpool_keep(kept));
    CHECK_OK(bufpool_close(kept));
    bufpool_pool *pools[70];
    char *places[70];
    for (int i = 0; i < 70; i++) { /* open together, so that no range is used twice */
        pools[i] = open_pool(memory, trap, "abort", MIB, GRANULE);
        places[i] = bufpool_address(pools[i], 9);
    }
    bufpool_location where = BUFPOOL_LOCATION_INIT;
    for (int i = 0; i < 70; i++) {
        CHECK_OK(bufpool_close(pools[i]));
        CHECK_OK(bufpool_locate(places[i], &where));
    }
    int resting = 0;
    for (int i = 0; i < 70; i++) {
        bool there = bufpool_locate(places[i], &where) == 0;
        CHECK_IS(there, ==, i >= 70 - 64); /* the one that is kept does not count */
        resting += there;
        bufpool_statistics s = BUFPOOL_STATISTICS_INIT;
        CHECK_IS(bufpool_stats(pools[i], &s), ==, there ? 0 : BUFPOOL_ECLOSED);
        CHECK_IS(bufpool_free(pools[i], 0), ==, BUFPOOL_ECLOSED);
        if (there) {
            CHECK(traps_at(places[i], NULL));
        }
    }
    CHECK_IS(resting, ==, 64);
    CHECK(traps_at(kept_at, NULL));
    CHECK_OK(bufpool_release(kept));
    CHECK(traps_at(kept_at, NULL)); /* once more kept than released */
    CHECK_OK(bufpool_release(kept));
    CHECK_IS(bufpool_release(kept), ==, BUFPOOL_EARGUMENT);
    for (int i = 0; i < 70; i++) {
        CHECK_OK(bufpool_close(open_pool(memory, trap, "abort", MIB, GRANULE)));
    }
}

/* More than 32 TiB do not rest. */
static void vast(void)
{
    for (int i = 0; i < 12; i++) {
        CHECK_OK(bufpool_close(open_pool(memory, trap, "abort", 16 * TIB, 64 * KIB)));
    }
    FILE *file = fopen("/proc/self/statm", "r");
    long pages = -1;
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    CHECK_IS(pages, <, 34 * TIB / 4096);
}

/* Probing leaves nothing behind, and reads no signal handler. */
static void probing(void)
{
    struct sigaction before, after;
    for (int i = 0; i < 50; i++) {
        char found[16] = "";
        CHECK_OK(sigaction(SIGBUS, NULL, &before));
        CHECK_OK(bufpool_probe(memory, trap, found, sizeof found));
        CHECK_STRING(found, trap);
        CHECK_OK(sigaction(SIGBUS, NULL, &after));
        CHECK(before.sa_sigaction == after.sa_sigaction);
    }
    CHECK_IS(bufpool_probe("nothing", trap, NULL, 0), ==, BUFPOOL_EARGUMENT);
    char cut[4] = "###";
    CHECK_OK(bufpool_probe(memory, trap, cut, 3));
    CHECK(strncmp(cut, trap, 2) == 0 && cut[2] == 0);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    for (int round = 0; round < (SANITIZED ? 4 : 10); round++) {
        amid(round);
    }
    resting();
    if (!SANITIZED) { /* their shadow has no room for this */
        vast();
    }
    probing();
}

int main(void)
{
    harness_begin();
    (void)vast;
    return for_each_cell(cell, false);
}
