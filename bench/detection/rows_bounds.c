/* rows_bounds.c: accesses that leave their page, or their record. */
#include "rows.h"

/* The neighbours are allocated, and in use. */
static struct layer *with_neighbours(void)
{
    struct layer *pool = begin();
    for (uint64_t page = VICTIM - 1; page <= VICTIM + 1; page++) {
        pin(pool, page, true);
    }
    return pool;
}

static void overrun(bool bug)
{
    char *at = layer_at(with_neighbours(), VICTIM) + PAGE - (bug ? 0 : 1);
    bug_here(VICTIM, at);
    put(at, 'x');
    bug_over();
}

static void underrun(bool bug)
{
    char *at = layer_at(with_neighbours(), VICTIM) - (bug ? 1 : 0);
    bug_here(VICTIM, at);
    look(at);
    bug_over();
}

static void wild(bool bug)
{
    struct layer *pool = begin();
    uint64_t page = bug ? USED + 7 : VICTIM;
    pin(pool, VICTIM, false);
    char *at = layer_at(pool, page) + 100;
    bug_here(page, at);
    look(at);
    bug_over();
}

/* Eight bytes at a time, forwards, as memcpy does where the compiler puts it in place; which byte the C library's own meets
 * first is the library's affair. */
static void copy(char *to, const char *from, size_t size)
{
    for (size_t i = 0; i < size; i += 8) {
        uint64_t eight;
        memcpy(&eight, from + i, 8);
        *(volatile uint64_t *)(void *)(to + i) = eight;
    }
}

/* The third load begins four bytes before the end of the live page. */
static void runs_into_a_freed_page(bool bug)
{
    struct layer *pool = begin();
    pin(pool, VICTIM, true);
    char *end = layer_at(pool, VICTIM) + PAGE;
    memset(end - 64, 'r', 64);
    layer_free(pool, VICTIM + 1);
    uint64_t buffer[5];
    /* Where there is room between the pages, that comes first. */
    bug_here(layer_at(pool, VICTIM + 1) == end ? VICTIM + 1 : VICTIM, end);
    copy((char *)buffer, end - 20, bug ? 40 : 16);
    bug_over();
}

struct record {
    char key[32];
    char value[32];
};

static void record_into_record(bool bug)
{
    struct layer *pool = begin();
    pin(pool, VICTIM, true);
    struct record *records = (struct record *)(void *)layer_at(pool, VICTIM);
    char *at = (char *)records + sizeof *records - (bug ? 0 : 1);
    bug_here(VICTIM, at);
    put(at, 'x');
    bug_over();
}

const struct row bound_rows[] = {
    {9, overrun}, {10, underrun}, {11, wild}, {12, runs_into_a_freed_page}, {33, record_into_record}, ROWS_END,
};
