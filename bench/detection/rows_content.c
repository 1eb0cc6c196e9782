/* rows_content.c: bugs that no access shows, but the content of a page. */
#include "rows.h"

/* What is read decides something: a detector that follows values has its say there. */
static void before_it_was_written(bool bug)
{
    struct layer *pool = begin();
    uint64_t page = layer_allocate(pool);
    char *at = layer_at(pool, page);
    pin(pool, page, true);
    if (!bug) {
        memset(at, 'c', PAGE);
    }
    bug_here(page, at);
    if (look(at + 5) == 0) {
        say("note", "an empty page");
    }
    layer_pattern(at, 64);
    bug_over();
}

/* No pins are enforced: who has a pointer can write. Afterwards the program asks. */
static void changed_behind_the_back(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    for (uint64_t page = 0; page < USED; page++) {
        layer_mark(pool, page, true);
    }
    if (!bug) {
        layer_mark(pool, VICTIM, false);
    }
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    if (!bug) {
        layer_mark(pool, VICTIM, true);
    }
    layer_audit(pool);
    bug_over();
}

const struct row content_rows[] = {
    {27, changed_behind_the_back},
    {32, before_it_was_written},
    ROWS_END,
};
