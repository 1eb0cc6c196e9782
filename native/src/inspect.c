/* inspect.c: bufpool_inspect(): all pages, then the counts; see inspect.h. */
#include "inspect.h"

#include "error.h"
#include "recover.h"

#include <errno.h>
#include <string.h>

#define OS_PAGE 4096
#define SLOW_WINDOW 65536 /* pages: how far it is looked ahead for a frame while the pool is entered */
#define FAST_WINDOW (UINT64_C(1) << 22)

const char *bufpool_wrong_name(bufpool_wrong wrong)
{
    static const char *const names[] = {
        [BUFPOOL_WRONG_ABANDONED] = "abandoned",     [BUFPOOL_WRONG_LOST_FRAME] = "lost frame",
        [BUFPOOL_WRONG_STRAY_FRAME] = "stray frame", [BUFPOOL_WRONG_INDEX] = "index",
        [BUFPOOL_WRONG_SCRATCH] = "scratch",         [BUFPOOL_WRONG_STATE] = "state",
    };
    bool known = wrong >= BUFPOOL_WRONG_ABANDONED && wrong <= BUFPOOL_WRONG_STATE;
    return known ? names[wrong] : "unknown";
}

bool bp_look_next(const struct bp_look *look, const void *table, uint64_t count, size_t size, uint64_t from,
                  struct bp_run *run)
{
    const struct bp_pages *pages = &look->pool->pages;
    uint64_t base = pages->header != NULL ? 0 : (uintptr_t)pages->place;
    uint64_t begin = base + (uint64_t)((const char *)table - (const char *)pages->place);
    uint64_t end = begin + count * size;
    uint64_t at = begin + from * size;
    uintptr_t first = at;
    uintptr_t last = end;
    if (pages->header != NULL) {
        if (bp_kernel_next_data(pages->fd, at, &first, &last) < 0) {
            return false;
        }
    } else if (look->pagemap >= 0) {
        uintptr_t whole = (end + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
        int code = bp_kernel_next_frame(look->pagemap, at / OS_PAGE * OS_PAGE, whole, 0, &first, &last);
        if (code == -ENXIO) {
            return false;
        }
        first = code < 0 ? at : first;
        last = code < 0 ? end : last;
    }
    first = first < at ? at : first;
    last = last > end ? end : last;
    *run = (struct bp_run){(first - begin) / size, (last - begin + size - 1) / size};
    return first < end;
}

bool bp_look_vote(const struct bp_look *look, int *votes, uint64_t before)
{
    if (bp_pages_changes(&look->pool->pages) == before) {
        *votes += 4;
    } else {
        *votes += 1;
        bp_kernel_sleep_ns(10000);
    }
    return *votes >= 12;
}

void bp_look_note(struct bp_look *look, uint64_t page, bufpool_wrong what)
{
    bufpool_findings *found = &look->found;
    uint64_t *counts[] = {
        [BUFPOOL_WRONG_ABANDONED] = &found->abandoned,      [BUFPOOL_WRONG_LOST_FRAME] = &found->lost_frames,
        [BUFPOOL_WRONG_STRAY_FRAME] = &found->stray_frames, [BUFPOOL_WRONG_INDEX] = &found->index_wrong,
        [BUFPOOL_WRONG_SCRATCH] = &found->scratch_wrong,    [BUFPOOL_WRONG_STATE] = &found->states_wrong,
    };
    ++*counts[what];
    if (found->wrong_count < BUFPOOL_WRONG_PAGES) {
        uint16_t word = bp_pages_load(&look->pool->pages, page);
        found->wrong[found->wrong_count++] = (bufpool_wrong_page){page, what, (bufpool_state)(word & BP_STATE_MASK)};
    }
}

static uint64_t lower(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

/* Each run: the first that ends after the page; past the end of all if there is none. */
static int look_ahead(struct bp_look *look, uint64_t page)
{
    const struct bp_pages *pages = &look->pool->pages;
    bool fast = look->frames.way == BP_BY_SEEK || look->frames.way == BP_BY_PAGEMAP;
    uint64_t window = fast ? FAST_WINDOW : SLOW_WINDOW;
    if (look->states.end <= page &&
        !bp_look_next(look, (const void *)pages->states, pages->count, sizeof *pages->states, page, &look->states)) {
        look->states = (struct bp_run){pages->count, pages->count};
    }
    if (look->index.end <= page) {
        if (bp_look_next(look, (const void *)pages->levels[0], pages->words[0], 8, page / 64, &look->index)) {
            look->index.start *= 64;
            look->index.end *= 64;
        } else {
            look->index = (struct bp_run){pages->count, pages->count};
        }
    }
    uint64_t begin = bp_page_offset(look->pool, page);
    while (look->memory.end <= begin) {
        uint64_t end = bp_page_offset(look->pool, lower(page + window, pages->count));
        int code = bp_frames_next(&look->frames, begin, end, &look->memory.start, &look->memory.end);
        if (code < 0 && code != -ENXIO) {
            return bp_error(code, "which pages of pool \"%s\" have frames cannot be told: %s", look->pool->name,
                            strerror(-code));
        }
        if (code == -ENXIO) {
            look->memory = (struct bp_run){end, end};
        }
    }
    return 0;
}

/* Looks at the 64 pages of one word of the index, and returns the next page of which there may be something to say. */
static int look_at_word(struct bp_look *look, uint64_t *next)
{
    const struct bp_pages *pages = &look->pool->pages;
    uint64_t page = *next;
    int code = look_ahead(look, page);
    uint64_t first = lower(lower(look->states.start, look->index.start), bp_page_from(look->pool, look->memory.start));
    if (code == 0 && first <= page + 63) {
        uint64_t end = lower(page + 64, pages->count);
        for (; page < end && code == 0; page++) {
            code = look_ahead(look, page);
            if (code == 0) {
                bp_look_page(look, page);
            }
        }
        uint64_t word = (page - 1) / 64;
        uint64_t tail = page % 64 == 0 ? 0 : UINT64_MAX << (page % 64);
        look->bits += (uint64_t)__builtin_popcountll(atomic_load(&pages->levels[0][word]) & ~tail);
        bp_look_word(look, 0, word);
        *next = page;
    } else {
        *next = first / 64 * 64;
    }
    return code;
}

/* What is to be added to the pool's counts so that they are what was found; they may wrap. */
struct differences {
    uint64_t frees;
    uint64_t evicted;
    uint64_t taken;
    bool high;
    uint64_t wrong; /* how many of them are not 0 */
};

static struct differences differences(const struct bp_look *look)
{
    struct bp_counts *counts = look->pool->pages.counts;
    const bufpool_findings *found = &look->found;
    uint64_t high = atomic_load(&counts->high_water);
    struct differences of = {
        .frees = BP_COUNT(counts, allocations) - BP_COUNT(counts, frees) - found->evicted - found->allocated,
        .evicted = found->evicted - BP_COUNT(counts, evicted),
        .taken = look->bits - (BP_COUNT(counts, set) - BP_COUNT(counts, cleared)),
        .high = high < look->high || high > found->pages,
    };
    of.wrong = (of.frees != 0) + (of.evicted != 0) + (of.taken != 0) + of.high;
    return of;
}

static void correct(const struct bp_look *look, const struct differences *by)
{
    struct bp_counts *counts = look->pool->pages.counts;
    if (by->wrong > 0) {
        atomic_store(&counts->stale, true); /* this process may be killed before the last of them */
        BP_STORED("inspection: counts are stale");
    }
    atomic_fetch_add(&counts->stripes[0].frees, by->frees);
    BP_STORED("inspection: frees");
    atomic_fetch_add(&counts->stripes[0].evicted, by->evicted);
    BP_STORED("inspection: evicted");
    bp_counts_correct_taken(counts, by->taken);
    BP_STORED("inspection: taken");
    uint64_t high = atomic_load(&counts->high_water);
    if (by->high && (high < look->high || high > look->found.pages)) {
        atomic_compare_exchange_strong(&counts->high_water, &high, look->high);
        BP_STORED("inspection: high water");
    }
}

static bool any_busy(const struct bp_look *look)
{
    const struct bp_pages *pages = &look->pool->pages;
    struct bp_run run;
    for (uint64_t page = 0;
         bp_look_next(look, (const void *)pages->states, pages->count, sizeof *pages->states, page, &run);
         page = run.end) {
        for (page = run.start; page < run.end; page++) {
            if (bp_pages_load(pages, page) & BP_BUSY) {
                return true;
            }
        }
    }
    return false;
}

/* The pool was quiet until now, when the changes were `before`. A count that differs is believed if it was quiet until the
 * counts were read, too. Whoever changes a page or its bit of the index has it BUSY from before that until after it is
 * counted: if none is BUSY now, and nothing was counted since, then nobody had changed what the look saw later. */
static void check_counts(struct bp_look *look, uint64_t before)
{
    struct bp_pages *pages = &look->pool->pages;
    if (look->set && !bp_recover_alone(pages)) {
        look->set = false; /* another time */
        return;
    }
    struct differences found = differences(look);
    bool quiet = (found.wrong == 0 || !any_busy(look)) && bp_pages_changes(pages) == before;
    look->found.exact = quiet;
    look->found.counts_wrong = quiet ? found.wrong : 0;
    if (look->set) {
        if (quiet) {
            correct(look, &found);
        }
        bp_recover_done(pages);
        look->set = quiet;
    }
}

static int look_at_all(struct bp_look *look)
{
    bufpool_pool *pool = look->pool;
    uint64_t pages = pool->capacity / pool->page_size;
    bufpool_findings *found = &look->found;
    *found = (bufpool_findings)BUFPOOL_FINDINGS_INIT;
    found->pages = pages;
    look->memory = look->states = look->index = (struct bp_run){0, 0};
    look->disturbed = false;
    look->bits = look->high = 0;
    uint64_t before = 0;
    int code = 0;
    for (uint64_t page = 0; page < pages && code == 0;) {
        code = bp_pool_enter(pool);
        if (code == 0) {
            before = page == 0 ? bp_pages_changes(&pool->pages) : before;
            code = look_at_word(look, &page);
            bp_pool_leave(pool);
        }
    }
    if (code == 0) {
        code = bp_look_levels(look);
    }
    if (code == 0) {
        code = bp_pool_enter(pool);
    }
    if (code < 0) {
        return code;
    }
    found->free = pages - found->allocated - found->evicted - found->busy - found->abandoned;
    found->exact = !look->disturbed && found->busy == 0 && bp_pages_changes(&pool->pages) == before;
    /* What a process that is gone has left may be counted, or not: it is repaired first. */
    if (found->exact && found->abandoned == 0) {
        check_counts(look, before);
    } else {
        look->set = false;
    }
    bp_pool_leave(pool);
    return 0;
}

/* ---- Repair ---- */

static uint64_t less(uint64_t before, uint64_t after)
{
    return before > after ? before - after : 0;
}

static uint64_t repaired(const bufpool_findings *before, const bufpool_findings *after)
{
    return less(before->abandoned, after->abandoned) + less(before->stray_frames, after->stray_frames) +
           less(before->index_wrong, after->index_wrong) + less(before->scratch_wrong, after->scratch_wrong) +
           less(before->states_wrong, after->states_wrong) + less(before->counts_wrong, after->counts_wrong);
}

static int repair(struct bp_look *look)
{
    bufpool_findings first = look->found;
    int code = bp_pool_enter(look->pool);
    if (code < 0) {
        return code;
    }
    bp_recover(look->pool);
    bp_pool_leave(look->pool);
    look->mend = true;
    code = look_at_all(look);
    look->mend = false;
    look->set = true;
    code = code < 0 ? code : look_at_all(look);
    look->found.counts_wrong = look->set ? 0 : first.counts_wrong;
    first.repaired = repaired(&first, &look->found);
    look->found = first;
    return code;
}

static int inspect(struct bp_look *look, uint32_t flags)
{
    bufpool_pool *pool = look->pool;
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    code = bp_frames_open(&look->frames, &pool->space);
    look->pagemap = code == 0 && pool->pages.header == NULL ? bp_kernel_open_pagemap() : -1;
    bp_pool_leave(pool);
    if (code < 0) {
        return code;
    }
    code = look_at_all(look);
    if (code == 0 && flags & BUFPOOL_REPAIR) {
        code = repair(look);
    }
    if (look->pagemap >= 0) {
        bp_kernel_close(look->pagemap);
    }
    bp_frames_close(&look->frames);
    return code;
}

int bufpool_inspect(bufpool_pool *pool, uint32_t flags, bufpool_findings *findings)
{
    if (pool == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pool is NULL: pass the pool that bufpool_open() gave");
    }
    if (findings == NULL || findings->size == 0) {
        return bp_error(BUFPOOL_EARGUMENT, "findings is NULL or its size is 0: set it to BUFPOOL_FINDINGS_INIT");
    }
    if (flags & ~BUFPOOL_REPAIR) {
        return bp_error(BUFPOOL_EARGUMENT, "flags are %#x: 0, or BUFPOOL_REPAIR (%#x)", flags, BUFPOOL_REPAIR);
    }
    struct bp_look look = {.pool = pool};
    bufpool_keep(pool); /* so that the handle stays this pool's, also if it is closed meanwhile */
    int code = inspect(&look, flags);
    bufpool_release(pool);
    if (code == 0) {
        size_t size = findings->size < sizeof look.found ? findings->size : sizeof look.found;
        memcpy(findings, &look.found, size);
        findings->size = size;
    }
    return code;
}
