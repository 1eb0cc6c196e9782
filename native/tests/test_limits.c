/* Resource limits: address space, descriptors, file size. The error says so, nothing leaks, and with room it works
 * again. */
#include "harness.h"

#include <sys/resource.h>

static const char *memory, *trap;

static void set_limit(int resource, rlim_t value)
{
    struct rlimit limit;
    CHECK_OK(getrlimit(resource, &limit));
    limit.rlim_cur = value;
    CHECK_OK(setrlimit(resource, &limit));
}

static int try_open(uint64_t capacity, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = capacity;
    config.memory = memory;
    config.trap = trap;
    return bufpool_open(&config, pool);
}

static rlim_t address_space(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long pages = -1;
    CHECK(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return (rlim_t)pages * 4096;
}

static void use(bufpool_pool *pool)
{
    uint64_t pages[20];
    CHECK_OK(bufpool_allocate_many(pool, 20, pages));
    memset(bufpool_address(pool, pages[7]), 7, GRANULE);
    CHECK_OK(bufpool_evict_many(pool, 10, pages));
    CHECK_OK(bufpool_free_many(pool, 20, pages));
    CHECK(traps_at(bufpool_address(pool, pages[7]), NULL));
}

static void little_address_space(void *argument)
{
    (void)argument;
    bufpool_pool *first, *second;
    CHECK_OK(try_open(64 * MIB, &first));
    rlim_t used = address_space();
    set_limit(RLIMIT_AS, used + 32 * MIB);
    CHECK_IS(try_open(64 * MIB, &second), ==, -ENOMEM);
    CHECK_HAS(last_error(), "RLIMIT_AS");
    CHECK_IS(try_open(16 * TIB, &second), ==, -ENOMEM);
    CHECK_IS(address_space(), <=, used + GIB / 1024);
    use(first);
    CHECK_OK(bufpool_close(first)); /* its addresses are given back as soon as they are wanted */
    CHECK_OK(try_open(64 * MIB, &second));
    CHECK_IS(bufpool_free(first, 0), ==, BUFPOOL_ECLOSED);
    use(second);
    char *at = bufpool_address(second, 3);
    set_limit(RLIMIT_AS, 4096 * 1024); /* nothing can be mapped any more: closing still closes */
    CHECK_OK(bufpool_close(second));
    set_limit(RLIMIT_AS, RLIM_INFINITY);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(traps_at(at, &fault));
    CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
}

static void few_descriptors(void *argument)
{
    (void)argument;
    bufpool_pool *pools[64];
    int opened = 0;
    set_limit(RLIMIT_NOFILE, 40);
    int code;
    while ((code = try_open(MIB, &pools[opened])) == 0) {
        CHECK_IS(++opened, <, 40);
    }
    CHECK_IS(code, ==, -EMFILE);
    CHECK(last_error()[0] != 0);
    CHECK_IS(opened, >, 5);
    use(pools[0]); /* what is open needs no further descriptor */
    CHECK_OK(bufpool_close(pools[0]));
    CHECK_OK(try_open(MIB, &pools[0])); /* a closed pool has given its own back */
    for (int i = 0; i < opened; i++) {
        CHECK_OK(bufpool_close(pools[i]));
    }
    int before = count_fds();
    for (int i = 0; i < 100; i++) {
        CHECK_OK(try_open(MIB, &pools[0]));
        CHECK_OK(bufpool_close(pools[0]));
    }
    CHECK_IS(count_fds(), ==, before);

    /* A report with no descriptor left: without the names of modules, but a report. */
    CHECK_OK(try_open(MIB, &pools[0]));
    while (dup(STDERR_FILENO) >= 0) {
    }
    CHECK(traps_at(bufpool_address(pools[0], 3), NULL));
}

static void small_files(void *argument)
{
    (void)argument;
    bufpool_pool *pool;
    set_limit(RLIMIT_FSIZE, MIB); /* tables that are shared take half of that */
    int code = try_open(2 * MIB, &pool);
    if (code != 0) {
        CHECK_IS(code, ==, -EFBIG);
        CHECK_HAS(last_error(), "RLIMIT_FSIZE");
        CHECK_OK(try_open(65536, &pool));
        CHECK_IS(stats_of(pool).pages, ==, 16);
        set_limit(RLIMIT_FSIZE, RLIM_INFINITY);
        CHECK_OK(bufpool_close(pool));
        CHECK_OK(try_open(2 * MIB, &pool));
    }
    use(pool);
}

/* The trap by page protection needs a mapping for each boundary, and the system has a limit (vm.max_map_count). */
static void few_mappings(void *argument)
{
    uint64_t limit = *(uint64_t *)argument;
    uint64_t count = 2 * limit;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = count * GRANULE;
    config.memory = memory;
    config.trap = trap;
    config.flags = BUFPOOL_LAZY_ZERO;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t *pages = malloc(count * sizeof *pages);
    uint64_t *odd = malloc(limit * sizeof *odd);
    CHECK_OK(bufpool_allocate_many(pool, count, pages));
    for (uint64_t i = 0; i < limit; i++) {
        odd[i] = 2 * i + 1;
    }
    int code = bufpool_free_many(pool, limit, odd);
    size_t done = bufpool_last_done();
    CHECK_IS(code, ==, -ENOMEM);
    CHECK_IS(done, >, limit / 4);
    CHECK_IS(done, <, limit);
    CHECK_IS(stats_of(pool).allocated, ==, count - done);
    for (uint64_t i = done > 5 ? done - 5 : 0; i < done + 5; i++) { /* what is not done is as it was */
        CHECK_IS(state_of(pool, odd[i]), ==, i < done ? BUFPOOL_STATE_FREED : BUFPOOL_STATE_ALLOCATED);
        CHECK_IS(traps_at(bufpool_address(pool, odd[i]), NULL), ==, i < done);
        CHECK(!traps_at(bufpool_address(pool, odd[i] + 1), NULL));
    }
    CHECK_IS(bufpool_evict(pool, odd[done + 2]), ==, -ENOMEM);
    CHECK_IS(state_of(pool, odd[done + 2]), ==, BUFPOOL_STATE_ALLOCATED);
    for (uint64_t i = 0; i < 100; i++) { /* neighbours of holes need no mapping more */
        CHECK_OK(bufpool_free(pool, 2 * i));
    }
    CHECK_OK(bufpool_free(pool, odd[done]));
    CHECK(traps_at(bufpool_address(pool, odd[done]), NULL));
    CHECK_OK(bufpool_close(pool));
}

static void mappings(void)
{
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    unsigned long long limit = 0;
    if (file == NULL || fscanf(file, "%llu", &limit) != 1 || limit > 300000) {
        printf("skipped the limit of mappings: vm.max_map_count is %llu, too many to use up here\n", limit);
    } else {
        uint64_t count = limit;
        struct child child = run_child(few_mappings, &count);
        CHECK_PASSED(child);
    }
    if (file != NULL) {
        fclose(file);
    }
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    if (!SANITIZED) { /* their shadow does not fit */
        passes(little_address_space, NULL);
        if (strcmp(trap, "mprotect") == 0 && strcmp(memory, "anon") == 0) {
            mappings();
        }
    }
    passes(few_descriptors, NULL);
    passes(small_files, NULL);
}

int main(void)
{
    harness_begin();
    (void)little_address_space;
    (void)mappings;
    return for_each_cell(cell, false);
}
