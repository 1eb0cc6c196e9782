/* test_pins_count.c: pins "count" and "off": what is counted, and every misuse that is an error. */
#include "harness.h"

#define PAGES 64

static bufpool_pool *open_pins(const char *memory, const char *trap, const char *pins, const char *provenance)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = PAGES * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "abort";
    config.pins = pins;
    config.provenance = provenance;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

static void test_off(void)
{
    bufpool_pool *pool = open_pins("anon", "auto", NULL, NULL);
    CHECK_OK(bufpool_pin(pool, 0, true)); /* not even that it is not allocated is looked at */
    CHECK_OK(bufpool_unpin(pool, 1));
    CHECK_OK(bufpool_unpin_for(pool, PAGES, true));
    CHECK_OK(bufpool_pin_many(pool, 5, NULL, false));
    CHECK_OK(bufpool_unpin_many(pool, 5, NULL, false));
    CHECK_IS(stats_of(pool).pin_operations, ==, 0);
    CHECK_STRING(stats_of(pool).pins_mode, "off");
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_pin(NULL, 0, false), ==, BUFPOOL_EARGUMENT);
}

static void test_misuse(const char *memory, const char *trap)
{
    bufpool_pool *pool = open_pins(memory, trap, "count", NULL);
    uint64_t page;
    CHECK_IS(bufpool_pin(pool, 0, false), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot pin page 0");
    CHECK_HAS(last_error(), "unallocated");
    CHECK_IS(bufpool_pin(pool, PAGES, false), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "0 to 63");
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_IS(bufpool_unpin(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it has no pin (0 read, 0 write)");
    CHECK_OK(bufpool_pin(pool, page, true));
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK_OK(bufpool_pin(pool, page, false));
    CHECK_IS(stats_of(pool).pins, ==, 3);
    CHECK_IS(bufpool_free(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot free page 0");
    CHECK_HAS(last_error(), "it is pinned (2 read, 1 write)");
    CHECK_IS(bufpool_evict(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "cannot evict");
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_ALLOCATED);
    CHECK_OK(bufpool_unpin(pool, page)); /* read pins first */
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_IS(bufpool_unpin_for(pool, page, false), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "it has no read pin (0 read, 1 write)");
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_IS(bufpool_unpin_for(pool, page, true), ==, BUFPOOL_ESTATE);
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_IS(stats_of(pool).pin_operations, ==, 6);
    CHECK_OK(bufpool_evict(pool, page));
    CHECK_IS(bufpool_pin(pool, page, false), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "evicted");
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(bufpool_pin(pool, page, true), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "freed");
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_pin(pool, page, false), ==, BUFPOOL_ECLOSED);
    CHECK_IS(bufpool_unpin(pool, page), ==, BUFPOOL_ECLOSED);
}

static void test_batches(void)
{
    bufpool_pool *pool = open_pins("anon", "auto", "count", NULL);
    uint64_t pages[4];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    pages[3] = PAGES - 1;
    CHECK_IS(bufpool_pin_many(pool, 4, pages, false), ==, BUFPOOL_ESTATE); /* all or none */
    CHECK_HAS(last_error(), "page 63");
    CHECK_IS(stats_of(pool).pins, ==, 0);
    pages[3] = pages[0]; /* twice */
    CHECK_OK(bufpool_pin_many(pool, 4, pages, true));
    CHECK_IS(bufpool_free_many(pool, 3, pages), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "(0 read, 2 write)");
    CHECK_IS(stats_of(pool).frees, ==, 0);
    CHECK_OK(bufpool_unpin_many(pool, 3, pages, true));
    CHECK_IS(bufpool_free_many(pool, 3, pages), ==, BUFPOOL_ESTATE);
    uint64_t wrong[] = {pages[0], pages[1]};
    CHECK_IS(bufpool_unpin_many(pool, 2, wrong, true), ==, BUFPOOL_ESTATE);
    CHECK_IS(bufpool_last_done(), ==, 1);
    CHECK_OK(bufpool_free_many(pool, 3, pages));
    CHECK_OK(bufpool_close(pool));
}

static void test_overflow(void)
{
    bufpool_pool *pool = open_pins("anon", "auto", "count", NULL);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    for (int write = 0; write < 2; write++) {
        for (int i = 0; i < 32767; i++) {
            CHECK_OK(bufpool_pin(pool, page, write));
        }
        CHECK_IS(bufpool_pin(pool, page, write), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), "has 32767");
    }
    for (int i = 0; i < 2 * 32767; i++) {
        CHECK_OK(bufpool_unpin(pool, page));
    }
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(bufpool_close(pool));
}

static void *pin_as_worker(void *argument)
{
    bufpool_pool *pool = argument;
    CHECK_OK(pthread_setname_np(pthread_self(), "a-worker"));
    CHECK_OK(bufpool_pin(pool, 0, true));
    return NULL;
}

/* What provenance knows is in the sentence, and can be asked for. */
static void test_who(void)
{
    bufpool_pool *pool = open_pins("anon", "auto", "count", "stacks");
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    bufpool_origin pinned;
    bufpool_origin unpinned;
    CHECK_OK(bufpool_pin_history(pool, page, &pinned, &unpinned));
    CHECK_IS(pinned.sequence, ==, 0);
    run_threads(1, pin_as_worker, pool, 0);
    CHECK_IS(bufpool_free(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "last pinned by thread");
    CHECK_HAS(last_error(), "\"a-worker\"");
    CHECK_OK(bufpool_unpin(pool, page));
    CHECK_IS(bufpool_unpin(pool, page), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "last unpinned by thread");
    CHECK_OK(bufpool_pin_history(pool, page, &pinned, &unpinned));
    CHECK_STRING(pinned.thread_name, "a-worker");
    CHECK_IS(pinned.event, ==, BUFPOOL_EVENT_PIN);
    CHECK_IS(unpinned.event, ==, BUFPOOL_EVENT_UNPIN);
    CHECK_IS(unpinned.thread_id, ==, gettid());
    CHECK_IS(unpinned.sequence, >, pinned.sequence);
    CHECK(unpinned.stack_depth > 0 || SANITIZED);
    CHECK_STRING(bufpool_event_name(BUFPOOL_EVENT_PIN), "pin");
    CHECK_STRING(bufpool_event_name(BUFPOOL_EVENT_UNPIN), "unpin");
    CHECK_OK(bufpool_close(pool));
}

#define THREADS 8
#define ROUNDS 20000

struct worker {
    bufpool_pool *pool;
    uint64_t seed;
    uint64_t refused;
};

/* Pins, unpins, and frees and allocates again, on few pages: who has a pin never loses the page. */
static void *work(void *argument)
{
    struct worker *self = argument;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t page = next_random(&self->seed) % 4;
        bool write = next_random(&self->seed) % 2;
        if (bufpool_pin(self->pool, page, write) == 0) {
            CHECK_IS(state_of(self->pool, page), ==, BUFPOOL_STATE_ALLOCATED);
            if (i % 8 == 0) {
                CHECK_IS(bufpool_free(self->pool, page), ==, BUFPOOL_ESTATE);
                self->refused++;
            }
            CHECK_IS(state_of(self->pool, page), ==, BUFPOOL_STATE_ALLOCATED);
            CHECK_OK(bufpool_unpin_for(self->pool, page, write));
        } else if (bufpool_allocate_at(self->pool, page, NULL, 0) < 0) {
            CHECK(bufpool_last_done() == 0); /* another thread was first */
        }
        if (i % 16 == 0) {
            bufpool_free(self->pool, page);
        }
    }
    return NULL;
}

static void test_threads(const char *provenance)
{
    bufpool_pool *pool = open_pins("anon", "auto", "count", provenance);
    struct worker workers[THREADS];
    uint64_t refused = 0;
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){pool, (uint64_t)i, 0};
    }
    run_threads(THREADS, work, workers, sizeof *workers);
    for (int i = 0; i < THREADS; i++) {
        refused += workers[i].refused;
    }
    CHECK_IS(refused, >, 0);
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_IS(stats_of(pool).pin_operations % 2, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void child_goes_on(void *argument)
{
    bufpool_pool *pool = argument;
    CHECK_IS(stats_of(pool).pins, ==, 1);
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ESTATE);
    CHECK_OK(bufpool_unpin(pool, 0));
    CHECK_IS(bufpool_unpin(pool, 0), ==, BUFPOOL_ESTATE);
}

/* A child has the pins of its parent, and they are its own. */
static void test_fork(void)
{
    bufpool_pool *pool = open_pins("anon", "auto", "count", NULL);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK_OK(bufpool_pin(pool, page, true));
    passes(child_goes_on, pool);
    CHECK_IS(stats_of(pool).pins, ==, 1);
    CHECK_OK(bufpool_unpin_for(pool, page, true));
    CHECK_OK(bufpool_close(pool));
}

static void test_refused(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = GRANULE;
    config.pins = "some";
    bufpool_pool *pool;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "unknown pins \"some\": valid are \"off\", \"count\"");
}

int main(void)
{
    harness_begin();
    test_off();
    test_refused();
    test_batches();
    test_overflow();
    test_who();
    test_threads("off");
    test_threads("last");
    test_fork();
    return for_each_cell(test_misuse, true);
}
