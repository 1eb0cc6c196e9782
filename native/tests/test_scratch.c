/* The scratch pattern of on_fault "resume": what it shows, how long, how it is counted, and that it never meets a live
 * page. */
#include "harness.h"

#include <stdatomic.h>

static bufpool_verdict quietly(const bufpool_fault *fault, void *context)
{
    (void)fault;
    (void)context;
    return BUFPOOL_VERDICT_RESUME;
}

static bufpool_pool *open_quiet(const char *memory, const char *trap, uint64_t capacity, uint64_t page_size)
{
    bufpool_pool *pool = open_pool(memory, trap, "resume", capacity, page_size);
    CHECK_OK(bufpool_set_fault_callback(pool, quietly, NULL));
    return pool;
}

/* One thread: the access completes, the next call arms the page again, nothing of it is in the next life of the page.
 */
static void one_thread(const char *memory, const char *trap, uint64_t page_size)
{
    bufpool_pool *pool = open_quiet(memory, trap, 8 * page_size, page_size);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    CHECK_OK(bufpool_free(pool, pages[1]));
    CHECK_OK(bufpool_evict(pool, pages[2]));
    uint64_t holes[] = {pages[1], pages[2], 5};
    static const bufpool_state states[] = {BUFPOOL_STATE_FREED, BUFPOOL_STATE_EVICTED, BUFPOOL_STATE_UNALLOCATED};
    for (int i = 0; i < 3; i++) {
        char *at = bufpool_address(pool, holes[i]);
        bufpool_statistics before = stats_of(pool);
        CHECK_IS((unsigned char)read_byte(at + page_size - 1), ==, BUFPOOL_POISON);
        CHECK_IS((unsigned char)read_byte(at + page_size - 2), ==, BUFPOOL_POISON);
        write_byte(at + page_size - 3, 1);
        CHECK_IS(read_byte(at + page_size - 3), ==, 1);
        CHECK_IS(state_of(pool, holes[i]), ==, states[i]);
        bufpool_statistics now = stats_of(pool);
        CHECK_IS(now.faults, ==, before.faults + 1); /* the granule is open, so only the first access is seen */
        CHECK_IS(now.scratch_maps, ==, before.scratch_maps + 1);
        CHECK_IS(now.scratched, ==, 1);
        if (page_size > GRANULE) { /* the page's other granules still trap */
            CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON);
            CHECK_IS(stats_of(pool).faults, ==, before.faults + 2);
        }
        CHECK_OK(bufpool_check(NULL)); /* any call arms */
        now = stats_of(pool);
        CHECK_IS(now.scratched, ==, 0);
        CHECK_IS(now.scratch_ns, >, before.scratch_ns);
        for (uint64_t offset = 0; offset < page_size; offset += GRANULE) {
            CHECK(traps_at(at + offset, NULL));
        }
        CHECK_IS(state_of(pool, holes[i]), ==, states[i]);
        write_byte(at, 1);
        CHECK_OK(i == 1 ? bufpool_populate(pool, holes[i], "new", 3) : bufpool_allocate_at(pool, holes[i], "new", 3));
        CHECK_STRING(at, "new");
        for (uint64_t offset = 3; offset < page_size; offset++) {
            CHECK_IS(at[offset], ==, 0);
        }
    }
    write_byte(bufpool_address(pool, 6),
               1); /* a freed or evicted page that shows the pattern can be freed, or not, as ever */
    CHECK_IS(bufpool_free(pool, 6), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_evict(pool, pages[0]));
    write_byte(bufpool_address(pool, pages[0]), 1);
    CHECK_OK(bufpool_free(pool, pages[0]));
    CHECK(traps_at(bufpool_address(pool, pages[0]), NULL));
    CHECK_OK(bufpool_close(pool));
    char *at = bufpool_address(pool, 2); /* a closed pool diverts, too */
    CHECK_IS((unsigned char)read_byte(at + 9), ==, BUFPOOL_POISON);
    CHECK_OK(bufpool_check(NULL));
    CHECK(traps_at(at + 9, NULL));
}

/* ---- A thread that strayed and makes no further call ---- */

static bufpool_pool *shared;
static pthread_barrier_t barrier;
static int strays;

static void *stray_and_wait(void *argument)
{
    uint64_t first = *(uint64_t *)argument;
    for (int i = 0; i < strays; i++) {
        write_byte((char *)bufpool_address(shared, first + (uint64_t)i) + 100 + i, 7);
    }
    pthread_barrier_wait(&barrier); /* strayed */
    pthread_barrier_wait(&barrier); /* may end */
    return NULL;
}

static void others_calls(const char *memory, const char *trap)
{
    enum { PAGES = 100 };
    shared = open_quiet(memory, trap, PAGES * GRANULE, GRANULE);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t thread;

    /* Its numbers are not handed out while others are free; when wanted, they are armed first. */
    strays = 40;
    uint64_t first = 10;
    CHECK_OK(pthread_create(&thread, NULL, stray_and_wait, &first));
    pthread_barrier_wait(&barrier);
    CHECK_IS(stats_of(shared).scratched, ==, 40);
    static uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_at(shared, 12, "wanted", 6));
    CHECK_STRING((char *)bufpool_address(shared, 12), "wanted");
    CHECK_IS(*((char *)bufpool_address(shared, 12) + 102), ==, 0);
    CHECK_OK(bufpool_allocate_many(shared, PAGES - 1, pages));
    for (int i = 0; i < PAGES - 1; i++) {
        const char *at = bufpool_address(shared, pages[i]);
        CHECK_IS(at[0], ==, 0);
        CHECK_IS(at[GRANULE - 1], ==, 0);
        CHECK_IS(at[100 + (pages[i] >= 10 && pages[i] < 50 ? pages[i] - 10 : 0)], ==, 0);
    }
    CHECK_IS(stats_of(shared).scratched, ==, 0);
    pthread_barrier_wait(&barrier);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_free_many(shared, PAGES - 1, pages));
    CHECK_OK(bufpool_free(shared, 12));

    /* Ten milliseconds later anybody's call on the pool arms. */
    CHECK_OK(pthread_create(&thread, NULL, stray_and_wait, &first));
    pthread_barrier_wait(&barrier);
    sleep_ms(15);
    size_t found;
    CHECK_OK(bufpool_list(shared, BUFPOOL_STATE_ALLOCATED, 0, 0, NULL, &found));
    CHECK_IS(stats_of(shared).scratched, ==, 0);
    CHECK(traps_at(bufpool_address(shared, 20), NULL));
    pthread_barrier_wait(&barrier);
    CHECK_OK(pthread_join(thread, NULL));

    /* More pages than there are slots: the oldest is armed for the newest. */
    strays = 80;
    uint64_t faults = stats_of(shared).faults;
    uint64_t maps = stats_of(shared).scratch_maps;
    CHECK_OK(pthread_create(&thread, NULL, stray_and_wait, &first));
    pthread_barrier_wait(&barrier);
    CHECK_IS(stats_of(shared).faults, ==, faults + 80);
    CHECK_IS(stats_of(shared).scratch_maps, ==, maps + 80);
    CHECK_IS(stats_of(shared).scratched, ==, 64);
    pthread_barrier_wait(&barrier);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(bufpool_close(shared));
}

/* ---- Strays on pages that others allocate and free: no live page is ever replaced by the pattern ---- */

#define PAGES 64
#define STEPS (SANITIZED ? 400 : 2500)

static atomic_bool stop;

static void *allocator(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t size = stats_of(shared).page_size;
    char *data = malloc(size);
    for (int i = 0; i < STEPS || stats_of(shared).faults == 0; i++) {
        uint64_t stamp = next_random(&seed) | 1;
        for (uint64_t at = 0; at < size; at += 8) {
            memcpy(data + at, &stamp, 8);
        }
        uint64_t page;
        CHECK_OK(bufpool_allocate(shared, data, size, &page));
        CHECK(memcmp(bufpool_address(shared, page), data, size) == 0);
        if (i % 3 == 0) {
            CHECK_OK(bufpool_evict(shared, page));
            CHECK_OK(bufpool_populate(shared, page, data, size));
        }
        CHECK(memcmp(bufpool_address(shared, page), data, size) == 0);
        CHECK_OK(bufpool_free(shared, page));
    }
    free(data);
    return NULL;
}

/* Reads only: a stray write may hit a live page, as in life. */
static void *strayer(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t size = stats_of(shared).page_size;
    const char *base = bufpool_address(shared, 0);
    while (!atomic_load(&stop)) {
        for (int i = 0; i < 5; i++) {
            read_byte(base + next_random(&seed) % (PAGES * size));
        }
        bufpool_check(NULL);
    }
    return NULL;
}

static void *either(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    if (self >= 2) {
        return strayer(argument);
    }
    allocator(argument);
    atomic_store(&stop, true);
    return NULL;
}

static void live_pages(const char *memory, const char *trap, uint64_t page_size)
{
    shared = open_quiet(memory, trap, PAGES * page_size, page_size);
    atomic_store(&stop, false);
    uint64_t numbers[] = {0, 1, 2, 3, 4};
    run_threads(5, either, numbers, sizeof *numbers);
    bufpool_statistics s = stats_of(shared);
    CHECK_IS(s.allocated, ==, 0);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(shared, PAGES, pages)); /* no number got lost */
    CHECK_OK(bufpool_free_many(shared, PAGES, pages));
    CHECK_IS(stats_of(shared).scratched, ==, 0);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK(traps_at(bufpool_address(shared, page), NULL)); /* nothing stayed open */
    }
    CHECK_OK(bufpool_close(shared));
}

static void cell(const char *memory, const char *trap)
{
    one_thread(memory, trap, GRANULE);
    one_thread(memory, trap, 3 * GRANULE);
    others_calls(memory, trap);
    live_pages(memory, trap, GRANULE);
    live_pages(memory, trap, 2 * GRANULE);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
