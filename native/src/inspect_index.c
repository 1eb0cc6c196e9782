/* inspect_index.c: are the levels of the index as those below say? See inspect.h and pages.h. */
#include "inspect.h"

#include "rest.h"

#define FULL UINT64_MAX
#define WORDS 4096 /* looked at before the pool is left for a moment */

static uint64_t load(const struct bp_pages *pages, int level, uint64_t word)
{
    return atomic_load(&pages->levels[level][word]);
}

/* Does a level's bit say of the word below what it is? */
static bool is_right(const struct bp_pages *pages, int level, uint64_t below)
{
    bool bit = load(pages, level, below / 64) >> (below % 64) & 1;
    return bit == (load(pages, level - 1, below) == FULL);
}

/* Is anybody changing a page under a word of a level? Whoever does may have the levels above still to do. */
static bool is_busy_below(const struct bp_look *look, int level, uint64_t word)
{
    const struct bp_pages *pages = &look->pool->pages;
    int shift = 6 * (level + 1);
    uint64_t end = (word + 1) << shift;
    end = end > pages->count ? pages->count : end;
    struct bp_run run;
    for (uint64_t page = word << shift; page < end; page = run.end) {
        if (!bp_look_next(look, (const void *)pages->states, end, sizeof *pages->states, page, &run)) {
            return false;
        }
        for (page = run.start; page < run.end; page++) {
            if (bp_pages_load(pages, page) & BP_BUSY) {
                return true;
            }
        }
    }
    return false;
}

static bool is_wrong(struct bp_look *look, int level, uint64_t below)
{
    const struct bp_pages *pages = &look->pool->pages;
    int votes = 0;
    for (int patience = 0; patience < 64; patience++) {
        uint64_t before = bp_pages_changes(pages);
        if (is_right(pages, level, below)) {
            return false;
        }
        if (is_busy_below(look, level - 1, below)) {
            bp_kernel_sleep_ns(20000);
        } else if (!is_right(pages, level, below) && bp_look_vote(look, &votes, before)) {
            return true;
        }
    }
    look->disturbed = true;
    return false;
}

/* A page below the word: one that keeps it from being full, if there is one. */
static uint64_t lead(const struct bp_pages *pages, int level, uint64_t word)
{
    for (; level >= 0; level--) {
        uint64_t open = ~load(pages, level, word);
        word = word * 64 + (open == 0 ? 0 : (uint64_t)__builtin_ctzll(open));
        if (level > 0 && word >= pages->words[level - 1]) {
            return BP_NO_PAGE;
        }
    }
    return word < pages->count ? word : BP_NO_PAGE;
}

static void mend(struct bp_look *look, int level, uint64_t below)
{
    struct bp_pages *pages = &look->pool->pages;
    uint64_t page = lead(pages, level - 1, below);
    uint16_t word = page == BP_NO_PAGE ? BP_BUSY : bp_pages_load(pages, page);
    if (!(word & BP_BUSY) && bp_pages_claim(pages, page, word, 0)) {
        bp_pages_mend(pages, page, bp_rest_is_taken(pages, page, word));
        bp_pages_settle(pages, page, word);
        if (bp_lag_is(&look->pool->lag, word)) { /* an allocation may have found it claimed, and passed it over */
            atomic_store(&look->pool->lag.missed, true);
        }
        bp_rest_end(pages, page);
    }
}

static void check(struct bp_look *look, int level, uint64_t below)
{
    if (!is_right(&look->pool->pages, level, below) && is_wrong(look, level, below)) {
        bp_look_note(look, below << (6 * level), BUFPOOL_WRONG_INDEX);
        if (look->mend) {
            mend(look, level, below);
        }
    }
}

/* Bits past the last page, or the last word below, are set for ever. */
static void check_tail(struct bp_look *look, int level, uint64_t word)
{
    struct bp_pages *pages = &look->pool->pages;
    uint64_t bits = level == 0 ? pages->count : pages->words[level - 1];
    uint64_t tail = word == bits / 64 ? FULL << (bits % 64) : 0;
    if ((load(pages, level, word) & tail) != tail) {
        bp_look_note(look, pages->count - 1, BUFPOOL_WRONG_INDEX);
        if (look->mend) {
            atomic_fetch_or(&pages->levels[level][word], tail);
            BP_STORED("inspection: ends of the index");
        }
    }
}

void bp_look_word(struct bp_look *look, int level, uint64_t word)
{
    const struct bp_pages *pages = &look->pool->pages;
    check_tail(look, level, word);
    if (level > 0) {
        for (uint64_t bits = load(pages, level, word); bits != 0; bits &= bits - 1) {
            uint64_t below = word * 64 + (uint64_t)__builtin_ctzll(bits);
            if (below < pages->words[level - 1]) {
                check(look, level, below);
            }
        }
    }
    /* That a bit is set which is not is seen above; now the other way around, of which a word of zeros says nothing. */
    if (level + 1 < pages->depth && load(pages, level, word) == FULL) {
        check(look, level + 1, word);
    }
}

int bp_look_levels(struct bp_look *look)
{
    const struct bp_pages *pages = &look->pool->pages;
    for (int level = 1; level < pages->depth; level++) {
        struct bp_run run = {0, 0};
        for (uint64_t word = 0; word < pages->words[level];) {
            int code = bp_pool_enter(look->pool);
            if (code < 0) {
                return code;
            }
            bool any = word < run.end || bp_look_next(look, (const void *)pages->levels[level], pages->words[level],
                                                      sizeof(uint64_t), word, &run);
            word = !any ? pages->words[level] : word < run.start ? run.start : word;
            for (int i = 0; any && i < WORDS && word < run.end; i++, word++) {
                bp_look_word(look, level, word);
            }
            bp_pool_leave(look->pool);
        }
    }
    return 0;
}
