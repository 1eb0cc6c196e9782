/* test_adopt_fork.c: adopted memory in forked children: what they have together, and what is each process's own. */
#include "adopt.h"

static struct mapping map_anon(void)
{
    return map_memory(GRANULE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "adopted anon", "private anonymous");
}

static struct mapping map_shared(void)
{
    return map_memory(GRANULE, MAP_SHARED | MAP_ANONYMOUS, -1, "adopted shared", "shared anonymous");
}

struct family {
    struct mapping mapping;
    bufpool_pool *pool;
    bool shared;
    const char *pins;
};

static void check_closed(const struct family *family, uint64_t page)
{
    bool all = strcmp(family->pins, "all") == 0;
    check_state(family->pool, page, true, all ? BUFPOOL_STATE_UNPINNED : BUFPOOL_STATE_READ_ONLY);
}

/* In the child: the parent had page 2 pinned for writing. */
static void inherit(void *argument)
{
    const struct family *family = argument;
    const struct mapping *mapping = &family->mapping;
    CHECK_IS(stats_of(family->pool).pins, ==, 1);
    for (uint64_t page = 0; page < PAGES; page++) {
        if (page != 2) {
            check_closed(family, page);
        }
    }
    CHECK(has_content(mapping, 2));
    CHECK(writes_at(mapping->base + 2 * GRANULE, content(2, 0), NULL));
    CHECK_OK(bufpool_unpin(family->pool, 2));
    check_closed(family, 2);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_pin(family->pool, page, false));
        CHECK(has_content(mapping, page));
        CHECK_OK(bufpool_unpin(family->pool, page));
    }
    CHECK_OK(bufpool_pin(family->pool, 1, true));
    write_byte(mapping->base + GRANULE + 1, 77);
    CHECK_OK(bufpool_unpin(family->pool, 1));
    CHECK_OK(bufpool_free(family->pool, 5));
    check_state(family->pool, 5, false, BUFPOOL_STATE_FREED);
    CHECK_OK(bufpool_close(family->pool));
    CHECK(has_content(mapping, 0));
    write_byte(mapping->base + 7 * GRANULE, 78);
}

static void check_inherited(map_function map, const char *trap, const char *pins)
{
    struct mapping mapping = map();
    fill_mapping(&mapping);
    bool shared = strcmp(mapping.memory, "adopted shared") == 0;
    struct family family = {mapping, adopt(&mapping, trap, pins), shared, pins};
    printf("inherited: %s, trap %s, pins %s\n", mapping.memory, trap, pins);
    CHECK_OK(bufpool_pin(family.pool, 2, true));
    passes(inherit, &family);
    /* The child's pins, and its close, were its own. */
    check_closed(&family, 0);
    CHECK(writes_at(mapping.base + 2 * GRANULE, content(2, 0), NULL));
    CHECK_OK(bufpool_unpin(family.pool, 2));
    check_closed(&family, 2);
    CHECK_IS(state_of(family.pool, 5), ==, shared ? BUFPOOL_STATE_FREED : BUFPOOL_STATE_ALLOCATED);
    if (shared) {
        check_state(family.pool, 5, false, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_close(family.pool));
    CHECK_IS(read_byte(mapping.base + GRANULE + 1), ==, shared ? 77 : content(1, 1));
    CHECK_IS(read_byte(mapping.base + 7 * GRANULE), ==, shared ? 78 : content(7, 0));
    CHECK(read_byte(mapping.base + 5 * GRANULE) == (shared ? 0 : content(5, 0)));
    CHECK_OK(munmap(mapping.base, PAGES * GRANULE));
}

/* The parent has closed it, and the child goes on. */
static void outlive(void *argument)
{
    const struct family *family = argument;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        int *stage = (int *)(void *)family->mapping.base + 1; /* of page 0, which is pinned */
        WAIT_FOR(__atomic_load_n(stage, __ATOMIC_SEQ_CST) == 1);
        check_closed(family, 3);
        CHECK_OK(bufpool_pin(family->pool, 3, false));
        byte = read_byte(family->mapping.base + 3 * GRANULE);
        CHECK_OK(bufpool_unpin(family->pool, 3));
        CHECK_OK(bufpool_close(family->pool));
        _exit(byte == content(3, 0) ? 0 : 1);
    }
    CHECK_OK(bufpool_close(family->pool));
    __atomic_store_n((int *)(void *)family->mapping.base + 1, 1, __ATOMIC_SEQ_CST);
    int status;
    CHECK_IS(waitpid(child, &status, 0), ==, child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void check_outlived(const char *trap)
{
    struct mapping mapping = map_shared();
    struct family family = {mapping, NULL, true, "all"};
    fill_mapping(&mapping);
    memset(mapping.base, 0, GRANULE);
    family.pool = adopt(&mapping, trap, "all");
    CHECK_OK(bufpool_pin(family.pool, 0, true));
    outlive(&family);
    CHECK_OK(munmap(mapping.base, PAGES * GRANULE));
}

/* A child that is not to have the pool has the mapping. */
static void use_plainly(void *argument)
{
    const struct family *family = argument;
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK(has_content(&family->mapping, page));
        write_byte(family->mapping.base + page * GRANULE, content(page, 0));
    }
    CHECK_IS(bufpool_pin(family->pool, 0, false), ==, BUFPOOL_EUNSUPPORTED);
    struct family own = {family->mapping, adopt(&family->mapping, "auto", "all"), family->shared, "all"};
    check_closed(&own, 0);
    CHECK_OK(bufpool_close(own.pool));
    CHECK(has_content(&family->mapping, 0));
}

static void check_excluded(map_function map, const char *trap)
{
    struct mapping mapping = map();
    fill_mapping(&mapping);
    bufpool_config config = adopt_config(&mapping, trap, "all");
    config.fork = "exclude";
    struct family family = {mapping, adopt_with(&mapping, &config), false, "all"};
    passes(use_plainly, &family);
    check_closed(&family, 0);
    CHECK_OK(bufpool_close(family.pool));
    CHECK(has_content(&mapping, 0));
    CHECK_OK(munmap(mapping.base, PAGES * GRANULE));
}

/* Shared memory under mprotect: the child cannot have the pool, and is not let at the memory. */
static void find_it_closed(void *argument)
{
    const struct family *family = argument;
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK(!reads_at(family->mapping.base + 2 * GRANULE, &fault));
    CHECK(fault.flags & BUFPOOL_FAULT_FORKED);
    CHECK_HAS(fault.fork_note, "its trap closes pages in one process only");
    CHECK_IS(bufpool_pin(family->pool, 0, false), ==, BUFPOOL_EUNSUPPORTED);
}

static void check_alone(void)
{
    struct mapping mapping = map_shared();
    fill_mapping(&mapping);
    struct family family = {mapping, adopt(&mapping, "mprotect", "count"), true, "count"};
    passes(find_it_closed, &family);
    CHECK(has_content(&mapping, 2));
    CHECK_OK(bufpool_close(family.pool));
    CHECK_OK(munmap(mapping.base, PAGES * GRANULE));
}

int main(void)
{
    harness_begin();
    bool uffd = bufpool_probe("shared", "uffd", NULL, 0) == 0;
    if (!uffd) {
        printf("skipped trap uffd: %s\n", last_error());
    }
    for (int all = 0; all < 2; all++) {
        const char *pins = all ? "all" : "write";
        check_inherited(map_anon, "mprotect", pins);
        if (uffd) {
            check_inherited(map_anon, "uffd", pins);
            check_inherited(map_shared, "uffd", pins);
        }
    }
    if (uffd) {
        check_outlived("uffd");
        check_excluded(map_anon, "uffd");
        check_excluded(map_shared, "uffd");
    }
    check_excluded(map_anon, "mprotect");
    check_excluded(map_shared, "mprotect");
    check_alone();
    return 0;
}
