/* test_pins_fork.c: a forked child has the pins and the rights of its parent, for itself; so with a pool of several. */
#include "pins.h"

struct cell {
    bufpool_pool *pool;
    bool all;
};

/* Page 0 has a write pin, 1 a read pin, 2 none. */
static void check_rights(const struct cell *cell)
{
    CHECK_OPEN(cell->pool, 0, true, true, 'a');
    CHECK_OPEN(cell->pool, 1, true, false, 'b');
    CHECK_OPEN(cell->pool, 2, !cell->all, false, 'c');
    CHECK(!reads_at(bufpool_address(cell->pool, 3), NULL));
    CHECK_IS(stats_of(cell->pool).pins, ==, 2);
}

static void in_child(void *argument)
{
    struct cell *cell = argument;
    check_rights(cell);
    CHECK_OK(bufpool_unpin(cell->pool, 0));
    CHECK_OPEN(cell->pool, 0, !cell->all, false, 'a');
    CHECK_OK(bufpool_pin(cell->pool, 1, true));
    CHECK_OPEN(cell->pool, 1, true, true, 'b');
    CHECK_OK(bufpool_pin(cell->pool, 2, false));
    CHECK_OPEN(cell->pool, 2, true, false, 'c');
    uint64_t page;
    CHECK_OK(bufpool_allocate(cell->pool, "d", 1, &page));
    CHECK_OPEN(cell->pool, page, !cell->all, false, 'd');
    CHECK_OK(bufpool_free(cell->pool, page));
}

static void grandchild(void *argument)
{
    struct cell *cell = argument;
    CHECK_OPEN(cell->pool, 1, true, true, 'b');
    CHECK_OPEN(cell->pool, 0, !cell->all, false, 'a');
}

static void child_that_forks(void *argument)
{
    struct cell *cell = argument;
    CHECK_OK(bufpool_unpin(cell->pool, 0));
    CHECK_OK(bufpool_pin(cell->pool, 1, true));
    passes(grandchild, cell);
}

static void check_mode(const char *memory, const char *trap, const char *pins)
{
    bool thp = strcmp(memory, "thp") == 0;
    bool shared = strcmp(memory, "anon") != 0 && !thp;
    bool alone = shared && (strcmp(trap, "guard") == 0 || strcmp(trap, "mprotect") == 0);
    alone = alone || (thp && strcmp(pins, "all") == 0);
    if (!can_close(memory, trap) || alone) {
        return; /* a child has not got the pool */
    }
    bufpool_config config = pins_config(memory, trap, pins);
    struct cell cell = {open_config(&config), strcmp(pins, "all") == 0};
    static const char *const data[] = {"a", "b", "c"};
    for (uint64_t page = 0; page < 3; page++) {
        CHECK_OK(bufpool_allocate_at(cell.pool, page, data[page], 1));
    }
    CHECK_OK(bufpool_pin(cell.pool, 0, true));
    CHECK_OK(bufpool_pin(cell.pool, 1, false));
    passes(in_child, &cell);
    check_rights(&cell);
    passes(child_that_forks, &cell);
    check_rights(&cell);
    CHECK_OK(bufpool_unpin(cell.pool, 0));
    CHECK_OPEN(cell.pool, 0, !cell.all, false, 'a');
    CHECK_OK(bufpool_close(cell.pool));
}

static void test_cell(const char *memory, const char *trap)
{
    check_mode(memory, trap, "write");
    check_mode(memory, trap, "all");
}

/* Pins are each process's own: another one that attaches has none, and its pins open nothing here. */
static void attached(void *argument)
{
    bufpool_handle *handle = argument;
    for (int all = 0; all < 2; all++) {
        bufpool_config config = BUFPOOL_CONFIG_INIT;
        config.pins = all ? "all" : "write";
        bufpool_pool *pool;
        CHECK_OK(bufpool_attach(&config, handle, &pool));
        CHECK_OPEN(pool, 0, !all, false, 'a');
        CHECK_OK(bufpool_pin(pool, 0, false));
        CHECK_OPEN(pool, 0, true, false, 'a');
        CHECK_OK(bufpool_pin(pool, 0, true));
        CHECK_OPEN(pool, 0, true, true, 'a');
        CHECK_OK(bufpool_unpin_for(pool, 0, true));
        CHECK_OPEN(pool, 0, true, false, 'a');
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, "z", 1, &page));
        CHECK_OPEN(pool, page, !all, false, 'z');
        CHECK_OK(bufpool_close(pool));
    }
}

static void test_attached(void)
{
    if (bufpool_probe("shared", "uffd", NULL, 0) < 0) {
        printf("no trap for a pool of several processes here: %s\n", last_error());
        return;
    }
    bufpool_config config = pins_config("shared", "uffd", "all");
    config.fork = "exclude";
    bufpool_pool *pool = open_config(&config);
    CHECK_OK(bufpool_allocate_at(pool, 0, "a", 1));
    bufpool_handle handle = BUFPOOL_HANDLE_INIT;
    CHECK_OK(bufpool_share(pool, &handle));
    passes(attached, &handle);
    CHECK_OPEN(pool, 0, false, false, 'a');
    CHECK_IS(stats_of(pool).allocated, ==, 3); /* by the other one, and as closed here as any */
    CHECK_OPEN(pool, 1, false, false, 'z');
    CHECK_OK(bufpool_pin(pool, 1, true));
    CHECK_OPEN(pool, 1, true, true, 'z');
    CHECK_OK(bufpool_handle_close(&handle));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    test_attached();
    for_each_trap("thp", test_cell, false);
    return for_each_cell(test_cell, false);
}
