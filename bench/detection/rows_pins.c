/* rows_pins.c: pages that exist, and that nobody has pinned, or not for that. */
#include "rows.h"

static void after_unpin(bool bug, bool write)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    pin(pool, VICTIM, write);
    look(at + 5);
    if (bug) {
        unpin(pool, VICTIM);
    }
    bug_here(VICTIM, at + 5);
    if (write) {
        put(at + 5, 'x');
    } else {
        look(at + 5);
    }
    bug_over();
}

static void read_after_unpin(bool bug)
{
    after_unpin(bug, false);
}

static void write_after_unpin(bool bug)
{
    after_unpin(bug, true);
}

static void write_under_a_read_pin(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    pin(pool, VICTIM, !bug);
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    bug_over();
}

/* The runner has unpinned pages readable here. */
static void write_unlatched(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    look(at + 5);
    if (!bug) {
        pin(pool, VICTIM, true);
    }
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    bug_over();
}

static void free_of_a_pinned_page(bool bug)
{
    struct layer *pool = begin();
    pin(pool, VICTIM, false);
    if (!bug) {
        unpin(pool, VICTIM);
    }
    bug_here(VICTIM, layer_at(pool, VICTIM));
    layer_free(pool, VICTIM);
    bug_over();
}

static void unpin_without_pin(bool bug)
{
    struct layer *pool = begin();
    if (!bug) {
        pin(pool, VICTIM, false);
    }
    bug_here(VICTIM, layer_at(pool, VICTIM));
    layer_unpin(pool, VICTIM);
    bug_over();
}

static void wrong_number(bool bug)
{
    struct layer *pool = begin();
    uint64_t page = bug ? VICTIM : VICTIM - 1;
    pin(pool, VICTIM - 1, false);
    char *at = layer_at(pool, page);
    bug_here(VICTIM, at + 5);
    look(at + 5);
    bug_over();
}

const struct row pin_rows[] = {
    {5, read_after_unpin},       {6, write_after_unpin},  {7, write_under_a_read_pin}, {8, write_unlatched},
    {14, free_of_a_pinned_page}, {15, unpin_without_pin}, {28, wrong_number},          ROWS_END,
};
