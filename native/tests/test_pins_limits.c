/* test_pins_limits.c: what pins are asked that cannot be, in each cell that enforces them: page numbers of another pool, pins
 * past the most that are counted, upgrades by threads at the same time, free and close of what is pinned. */
#include "pins.h"

#include <stdatomic.h>

#define MOST 32767

static bufpool_pool *open_named(const char *memory, const char *trap, const char *name)
{
    bufpool_config config = pins_config(memory, trap, "all");
    config.provenance = strcmp(name, "most") == 0 ? "off" : "stacks";
    config.name = name;
    return open_config(&config);
}

/* A pin is one of its pool. */
static void test_two_pools(const char *memory, const char *trap)
{
    bufpool_pool *one = open_named(memory, trap, "one");
    bufpool_pool *two = open_named(memory, trap, "two");
    CHECK_OK(bufpool_allocate_at(one, 1, "1", 1));
    CHECK_OK(bufpool_allocate_at(two, 2, "2", 1));
    CHECK_OK(bufpool_pin(one, 1, true));
    CHECK_IS(bufpool_unpin(two, 1), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot unpin page 1 of pool \"two\": it has no pin");
    CHECK_IS(bufpool_pin(two, 1, false), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it is unallocated");
    CHECK_IS(bufpool_free(two, 1), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_pin(one, 8, false), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "page 8 is not in pool \"one\": its pages are 0 to 7");
    CHECK_IS(bufpool_pin(one, UINT64_MAX, true), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_unpin(one, UINT64_MAX), ==, BUFPOOL_EARGUMENT);
    CHECK_OPEN(one, 1, true, true, '1');
    CHECK_OPEN(two, 2, false, false, '2');
    CHECK_OK(bufpool_close(two));
    CHECK_OPEN(one, 1, true, true, '1');
    CHECK_OK(bufpool_unpin(one, 1));
    CHECK_OK(bufpool_close(one));
}

static void test_most(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_named(memory, trap, "most");
    CHECK_OK(bufpool_allocate_at(pool, 0, "x", 1));
    for (int write = 1; write >= 0; write--) {
        for (int i = 0; i < MOST; i++) {
            CHECK_OK(bufpool_pin(pool, 0, write));
        }
        CHECK_IS(bufpool_pin(pool, 0, write), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), write ? "has 32767 write pins" : "has 32767 read pins");
        CHECK_IS(bufpool_pin_many(pool, 1, (uint64_t[]){0}, write), ==, BUFPOOL_ESTATE);
        CHECK_OPEN(pool, 0, true, true, 'x');
    }
    CHECK_IS(stats_of(pool).pins, ==, 2 * MOST);
    for (int i = 0; i < MOST; i++) {
        CHECK_OK(bufpool_unpin_for(pool, 0, true));
    }
    CHECK_OPEN(pool, 0, true, false, 'x');
    for (int i = 0; i < MOST; i++) {
        CHECK_OK(bufpool_unpin(pool, 0));
    }
    CHECK_OPEN(pool, 0, false, false, 'x');
    CHECK_OK(bufpool_close(pool));
}

#define THREADS 2
#define ROUNDS 500

struct upgrader {
    bufpool_pool *pool;
    pthread_barrier_t *barrier;
    uint64_t number;
};

/* Each has a read pin, and at the same time takes a write pin on top: both get it, and nobody waits for the other's. */
static void *upgrade(void *argument)
{
    struct upgrader *self = argument;
    volatile uint64_t *word = (uint64_t *)bufpool_address(self->pool, 0) + self->number;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        CHECK_OK(bufpool_pin(self->pool, 0, false));
        CHECK_IS(*word, ==, i);
        pthread_barrier_wait(self->barrier); /* both have it */
        CHECK_OK(bufpool_pin(self->pool, 0, true));
        *word = i + 1;
        if (i % 2 == 0) {
            pthread_barrier_wait(self->barrier); /* both have both */
        }
        CHECK_OK(bufpool_unpin_for(self->pool, 0, true));
        CHECK_IS(*word, ==, i + 1);
        CHECK_OK(bufpool_unpin_for(self->pool, 0, false));
        pthread_barrier_wait(self->barrier); /* nobody has any */
    }
    return NULL;
}

static void test_upgrade(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_named(memory, trap, "upgraded");
    CHECK_OK(bufpool_allocate_at(pool, 0, NULL, 0));
    pthread_barrier_t barrier;
    CHECK_OK(pthread_barrier_init(&barrier, NULL, THREADS));
    struct upgrader upgraders[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        upgraders[i] = (struct upgrader){pool, &barrier, i};
    }
    run_threads(THREADS, upgrade, upgraders, sizeof *upgraders);
    pthread_barrier_destroy(&barrier);
    CHECK_OPEN(pool, 0, false, false, 0);
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void *pin_as_holder(void *argument)
{
    CHECK_OK(pthread_setname_np(pthread_self(), "the-holder"));
    CHECK_OK(bufpool_set_caller("engine.c:7 in latch_page"));
    CHECK_OK(bufpool_pin(argument, 3, false));
    CHECK_OK(bufpool_pin(argument, 2, true));
    CHECK_OK(bufpool_set_caller(NULL));
    CHECK_OK(bufpool_pin(argument, 2, false));
    return NULL;
}

/* Who has it pinned, and from where, is in the error: as the program has said, or else the native stack. */
static void test_taken_away(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_named(memory, trap, "kept");
    for (uint64_t page = 2; page < 5; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "k", 1));
    }
    run_threads(1, pin_as_holder, pool, 0);
    CHECK_IS(bufpool_free(pool, 2), ==, BUFPOOL_ESTATE);
    if (!SANITIZED) {
        CHECK_HAS(last_error(), "\"the-holder\": test_pins_limits+0x");
    }
    CHECK_OK(bufpool_unpin(pool, 2));
    CHECK_OK(bufpool_unpin(pool, 2));
    uint64_t pages[] = {2, 3, 4};
    for (int evict = 0; evict < 2; evict++) {
        CHECK_IS(evict ? bufpool_evict(pool, 3) : bufpool_free(pool, 3), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), evict ? "cannot evict page 3" : "cannot free page 3");
        CHECK_HAS(last_error(), "it is pinned (1 read, 0 write), last pinned by thread");
        CHECK_HAS(last_error(), "\"the-holder\": engine.c:7 in latch_page");
        CHECK_IS(evict ? bufpool_evict_many(pool, 3, pages) : bufpool_free_many(pool, 3, pages), ==, BUFPOOL_ESTATE);
        CHECK_IS(stats_of(pool).allocated, ==, 3);
    }
    CHECK_IS(bufpool_populate(pool, 3, "p", 1), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_allocate_at(pool, 3, "p", 1), ==, BUFPOOL_ESTATE);
    CHECK_OPEN(pool, 3, true, false, 'k');
    CHECK_OPEN(pool, 2, false, false, 'k');
    bufpool_origin pinned;
    CHECK_OK(bufpool_pin_history(pool, 3, &pinned, NULL));
    CHECK(pinned.stack_depth > 0 || SANITIZED);
    CHECK_OK(bufpool_close(pool)); /* with the pin */
    CHECK(!reads_at(bufpool_address(pool, 3), NULL));
    CHECK_IS(bufpool_unpin(pool, 3), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_pin_many(pool, 3, pages, true), ==, BUFPOOL_ECLOSED);
}

static void test_cell(const char *memory, const char *trap)
{
    if (can_close(memory, trap)) {
        test_two_pools(memory, trap);
        test_most(memory, trap);
        test_upgrade(memory, trap);
        test_taken_away(memory, trap);
    }
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(test_cell, false);
    for_each_trap("thp", test_cell, false);
    return code;
}
