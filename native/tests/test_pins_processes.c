/* test_pins_processes.c: a pool of two processes, each with pins of its own: what one has pinned the other may free, and then
 * it is freed for both; the pins that are left hurt nobody, and are given back all the same. */
#include "pins.h"

static bufpool_pool *attach(void *handle)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.pins = "all";
    bufpool_pool *pool;
    CHECK_OK(bufpool_attach(&config, handle, &pool));
    CHECK_IS(stats_of(pool).pins, ==, 0);
    return pool;
}

static void free_first(void *handle)
{
    bufpool_pool *pool = attach(handle);
    CHECK_IS(bufpool_unpin(pool, 0), ==, BUFPOOL_ESTATE); /* it is the other one's pin */
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_OK(bufpool_close(pool));
}

static void free_and_allocate_first(void *handle)
{
    bufpool_pool *pool = attach(handle);
    CHECK_OK(bufpool_free(pool, 0));
    CHECK_OK(bufpool_allocate_at(pool, 0, "n", 1));
    CHECK_OPEN(pool, 0, false, false, 'n');
    CHECK_OK(bufpool_close(pool));
}

static void evict_first(void *handle)
{
    bufpool_pool *pool = attach(handle);
    CHECK_OK(bufpool_evict(pool, 0));
    CHECK_OK(bufpool_close(pool));
}

static void pin_and_lose(void *handle)
{
    bufpool_pool *pool = attach(handle);
    CHECK_OK(bufpool_pin(pool, 0, true));
    pid_t other = fork(); /* a third process, which has not got this one's pool */
    CHECK(other >= 0);
    if (other == 0) {
        free_first(handle);
        _exit(0);
    }
    int status;
    CHECK_IS(waitpid(other, &status, 0), ==, other);
    CHECK_IS(status, ==, 0);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(!reads_at(bufpool_address(pool, 0), &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_close(pool)); /* with a pin of what is no more */
}

static void test_mode(const char *pins)
{
    bool all = strcmp(pins, "all") == 0;
    bufpool_config config = pins_config("shared", "uffd", pins);
    config.fork = "exclude";
    bufpool_pool *pool = open_config(&config);
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_OK(bufpool_share(pool, &handle));
    for (int write = 0; write < 2; write++) {
        CHECK_OK(bufpool_allocate_at(pool, 0, "o", 1));
        CHECK_OK(bufpool_pin(pool, 0, write));
        passes(free_first, &handle);
        CHECK(!reads_at(bufpool_address(pool, 0), &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_FREED);
        CHECK(!writes_at(bufpool_address(pool, 0), 1, NULL));
        CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ESTATE);
        CHECK_IS(bufpool_pin(pool, 0, false), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), "it is freed");
        CHECK_OK(bufpool_unpin(pool, 0));
        CHECK_IS(bufpool_unpin(pool, 0), ==, BUFPOOL_ESTATE);
        CHECK(!reads_at(bufpool_address(pool, 0), NULL));

        CHECK_OK(bufpool_allocate_at(pool, 0, "o", 1));
        CHECK_OPEN(pool, 0, !all, false, 'o');
        CHECK_OK(bufpool_pin(pool, 0, write));
        passes(free_and_allocate_first, &handle); /* the pin is one of the number, and holds for its next page */
        CHECK_OPEN(pool, 0, true, write, 'n');
        CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_ESTATE);
        CHECK_HAS(last_error(), "it is pinned");
        CHECK_OK(bufpool_unpin(pool, 0));
        CHECK_OPEN(pool, 0, !all, false, 'n');

        CHECK_OK(bufpool_pin(pool, 0, write));
        passes(evict_first, &handle);
        CHECK(!reads_at(bufpool_address(pool, 0), &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_EVICTED);
        CHECK_OK(bufpool_populate(pool, 0, "p", 1)); /* under the pin of before */
        CHECK_OPEN(pool, 0, true, write, 'p');
        CHECK_OK(bufpool_unpin(pool, 0));
        CHECK_OPEN(pool, 0, !all, false, 'p');
        passes(pin_and_lose, &handle);
    }
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("shared", "uffd", NULL, 0) < 0) {
        printf("shared/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    test_mode("write");
    test_mode("all");
    return 0;
}
