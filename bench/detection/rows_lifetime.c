/* rows_lifetime.c: pages that are gone: freed, evicted, of a closed pool, of another one. */
#include "rows.h"

static void read_after_free(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    pin(pool, VICTIM, false);
    if (bug) {
        unpin(pool, VICTIM);
        layer_free(pool, VICTIM);
    }
    bug_here(VICTIM, at + 5);
    look(at + 5);
    bug_over();
}

static void write_after_free(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    pin(pool, VICTIM, true);
    if (bug) {
        unpin(pool, VICTIM);
        layer_free(pool, VICTIM);
    }
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    bug_over();
}

/* Allocates and frees others until the number comes again, for at most so many times; the new owner has it pinned. */
static bool use_again(struct layer *pool, uint64_t page, int most)
{
    for (int i = 0; i < most; i++) {
        uint64_t next = add(pool);
        if (next == page) {
            pin(pool, page, true);
            return true;
        }
        layer_free(pool, next);
    }
    return false;
}

/* A pool that is nearly empty, so that without a quarantine the number comes soon. */
static void reused_within_the_quarantine(bool bug)
{
    struct layer *pool = begin_with("buffers", 4096, USED, false);
    char *at = layer_at(pool, VICTIM);
    layer_free(pool, VICTIM);
    bool again = use_again(pool, VICTIM, 1500);
    if (!bug) {
        uint64_t other = add(pool);
        at = layer_at(pool, other);
        pin(pool, other, true);
    }
    say("reused", "%d", again);
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    bug_over();
}

/* However long its number rests, it comes. */
static void reused_beyond_the_quarantine(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    layer_free(pool, VICTIM);
    MUST(use_again(pool, VICTIM, 1000));
    if (!bug) {
        at = layer_at(pool, VICTIM); /* as the new owner does, who has asked for it */
    }
    bug_here(VICTIM, at + 5);
    put(at + 5, 'x');
    bug_over();
}

static void read_after_evict(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    MUST(layer_evict(pool, VICTIM) == 0);
    if (!bug) {
        MUST(layer_populate(pool, VICTIM, "from the file", 14) == 0);
        pin(pool, VICTIM, false);
    }
    bug_here(VICTIM, at + 5);
    look(at + 5);
    bug_over();
}

/* The victim's frame goes to another page: here, that page is allocated as soon as the victim is free. */
static void replaced(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    layer_free(pool, VICTIM);
    uint64_t other = add(pool);
    pin(pool, other, true);
    at = bug ? at : layer_at(pool, other);
    bug_here(VICTIM, at + 5);
    look(at + 5);
    bug_over();
}

static void after_close(bool bug)
{
    struct layer *pool = begin();
    char *at = layer_at(pool, VICTIM);
    pin(pool, VICTIM, false);
    if (bug) {
        layer_close(pool);
    }
    bug_here(VICTIM, at + 5);
    look(at + 5);
    bug_over();
}

static void nothing(void)
{
}

static void jump(bool bug)
{
    struct layer *pool = begin();
    layer_free(pool, VICTIM);
    char *at = layer_at(pool, VICTIM);
    void (*volatile function)(void) = bug ? (void (*)(void))(uintptr_t)at : nothing;
    bug_here(VICTIM, at);
    function();
    bug_over();
}

static void double_free(bool bug)
{
    struct layer *pool = begin();
    MUST(layer_free(pool, VICTIM) == 0);
    bug_here(VICTIM, layer_at(pool, VICTIM));
    layer_free(pool, bug ? VICTIM : VICTIM + 1);
    bug_over();
}

static void free_of_another_pool(bool bug)
{
    struct layer *pool = begin();
    struct layer *other = begin_with("others", PAGES, USED + 8, false);
    uint64_t page = USED + 3;
    bug_here(page, layer_at(pool, page));
    layer_free(bug ? pool : other, page);
    bug_over();
}

const struct row lifetime_rows[] = {
    {1, read_after_free},
    {2, write_after_free},
    {3, reused_within_the_quarantine},
    {4, read_after_evict},
    {13, double_free},
    {16, free_of_another_pool},
    {24, replaced},
    {25, after_close},
    {26, jump},
    {34, reused_beyond_the_quarantine},
    ROWS_END,
};
