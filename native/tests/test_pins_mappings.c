/* test_pins_mappings.c: a process that has no mapping left (vm.max_map_count): pins that take one fail with an error that
 * says so, and what was pinned stays so; the other traps take none; and all is as ever when there are some again. */
#include "pins.h"

#include <sys/mman.h>

#define PAGES 8
#define LIMIT "/proc/sys/vm/max_map_count"

struct cell {
    const char *memory;
    const char *trap;
    const char *pins;
};

static size_t room;

/* Uses up the mappings of this process. */
static char *exhaust(void)
{
    char *ballast = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(ballast != MAP_FAILED);
    size_t at = GRANULE;
    while (at < room && mprotect(ballast + at, GRANULE, PROT_READ) == 0) {
        at += 2 * GRANULE;
    }
    CHECK(at < room);
    (void)!mprotect(ballast + at, room - at, PROT_READ); /* that took two; this takes one, if there is one */
    return ballast;
}

static void check_refused(int code)
{
    CHECK_IS(code, ==, -ENOMEM);
    CHECK_HAS(last_error(), "page 3 of pool \"full\"");
    CHECK_HAS(last_error(), "vm.max_map_count");
}

static bufpool_pool *open_full(const struct cell *cell)
{
    bufpool_config config = pins_config(cell->memory, cell->trap, cell->pins);
    config.capacity = 3 * PAGES * config.page_size; /* the pages lie in the middle, of one mapping */
    config.name = "full";
    bufpool_pool *pool = open_config(&config);
    for (uint64_t page = 0; page < 3 * PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "x", 1));
    }
    return pool;
}

static void no_mapping_to_pin(void *argument)
{
    const struct cell *cell = argument;
    bool splits = strcmp(cell->trap, "uffd") != 0;
    bool all = strcmp(cell->pins, "all") == 0;
    bufpool_pool *pool = open_full(cell);
    char *ballast = exhaust();
    int code = bufpool_pin(pool, 3, true);
    if (splits) {
        check_refused(code);
        CHECK_OPEN(pool, 3, !all, false, 'x');
        CHECK_IS(bufpool_unpin(pool, 3), ==, BUFPOOL_ESTATE);
        uint64_t pages[] = {3, 5, 3};
        check_refused(bufpool_pin_many(pool, 3, pages, true));
    } else {
        CHECK_OK(code);
        CHECK_OPEN(pool, 3, true, true, 'x');
        CHECK_OK(bufpool_unpin(pool, 3));
    }
    CHECK_IS(stats_of(pool).pins, ==, 0);
    CHECK_OK(munmap(ballast, room));
    CHECK_OK(bufpool_pin(pool, 3, true));
    CHECK_OPEN(pool, 3, true, true, 'x');
    CHECK_OK(bufpool_unpin(pool, 3));
    CHECK_OPEN(pool, 3, !all, false, 'x');
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_close(pool));
}

static void no_mapping_to_unpin(void *argument)
{
    const struct cell *cell = argument;
    bool splits = strcmp(cell->trap, "uffd") != 0;
    bool all = strcmp(cell->pins, "all") == 0;
    bufpool_pool *pool = open_full(cell);
    uint64_t pages[PAGES] = {0, 1, 2, 3, 4, 5, 6, 7};
    CHECK_OK(bufpool_pin_many(pool, PAGES, pages, true));
    char *ballast = exhaust();
    int code = bufpool_unpin(pool, 3);
    if (splits) { /* it stays pinned, and is no hole for who uses it */
        check_refused(code);
        CHECK_OPEN(pool, 3, true, true, 'x');
        CHECK_IS(stats_of(pool).pins, ==, PAGES);
        CHECK_IS(bufpool_free(pool, 3), ==, BUFPOOL_ESTATE);
    } else {
        CHECK_OK(code);
        CHECK_OPEN(pool, 3, !all, false, 'x');
        CHECK_OK(bufpool_pin(pool, 3, true));
    }
    CHECK_OK(munmap(ballast, room));
    CHECK_OK(bufpool_unpin_many(pool, PAGES, pages, true));
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OPEN(pool, page, !all, false, 'x');
    }
    CHECK_OK(bufpool_close(pool));
}

/* A sampled page that cannot be closed is let go (the first may be): the program hears nothing. */
static void no_mapping_to_sample(void *argument)
{
    const struct cell *cell = argument;
    bufpool_config config = pins_config(cell->memory, cell->trap, "off");
    config.sample = 1;
    bufpool_pool *pool = open_config(&config);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_allocate_at(pool, page, "x", 1));
    }
    char *ballast = exhaust();
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_pin(pool, page, true));
        write_byte((char *)bufpool_address(pool, page) + 1, 1);
        CHECK_OK(bufpool_unpin(pool, page));
    }
    CHECK_OK(munmap(ballast, room));
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK_OK(bufpool_pin(pool, page, true));
        CHECK_IS(read_byte(bufpool_address(pool, page)), ==, 'x');
        CHECK_IS(read_byte((char *)bufpool_address(pool, page) + 1), ==, 1);
        CHECK_OK(bufpool_unpin(pool, page));
    }
    CHECK_OK(bufpool_free(pool, 3));
    CHECK_OK(bufpool_close(pool));
}

static void test_cell(const char *memory, const char *trap)
{
    struct cell cell = {memory, trap, "write"};
    if (can_close(memory, trap)) {
        passes(no_mapping_to_pin, &cell);
        passes(no_mapping_to_unpin, &cell);
        cell.pins = "all";
        passes(no_mapping_to_pin, &cell);
        passes(no_mapping_to_unpin, &cell);
    }
    passes(no_mapping_to_sample, &cell);
}

int main(void)
{
    harness_begin();
    if (!NESTED_FAULTS) {
        printf("the thread sanitizer ends a process that has no mapping left\n");
        return HARNESS_SKIP;
    }
    FILE *file = fopen(LIMIT, "r");
    long limit = -1;
    CHECK(file != NULL && fscanf(file, "%ld", &limit) == 1);
    fclose(file);
    if (limit > 2 * 1048576) {
        printf("%s is %ld: too many mappings to use up\n", LIMIT, limit);
        return HARNESS_SKIP;
    }
    room = (2 * (size_t)limit + 2) * GRANULE;
    int code = for_each_cell(test_cell, false);
    for_each_trap("thp", test_cell, false);
    return code;
}
