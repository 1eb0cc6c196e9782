/* pages.c: page states and the index of free pages, see pages.h. */
#include "pages.h"

#include "kernel.h"
#include "lazy.h"
#include "rest.h"

#include <string.h>
#include <sys/mman.h>

#define FULL UINT64_MAX
#define MAX_PASSES 100
#define MAX_BLOCK 512 /* a cache line of the index */
#define MIN_BLOCK 64
#define MAX_LOSSES 8

/* Of each level the words, from a bit per page upwards; returns how many levels. */
static int measure(uint64_t count, uint64_t words[BP_LEVELS])
{
    int depth = 0;
    do {
        count = words[depth++] = (count + 63) / 64;
    } while (count > 1);
    return depth;
}

static size_t states_size(uint64_t count)
{
    /* The index begins with a cache line: that of a block is no other's. */
    return (count * sizeof(uint16_t) + BP_CACHE_LINE - 1) / BP_CACHE_LINE * BP_CACHE_LINE;
}

static size_t tickets_size(uint64_t count)
{
    return (count * sizeof(uint32_t) + 7) / 8 * 8;
}

size_t bp_pages_size(uint64_t count, uint64_t rest)
{
    uint64_t words[BP_LEVELS];
    int depth = measure(count, words);
    size_t total = states_size(count);
    for (int level = 0; level < depth; level++) {
        total += words[level] * 8;
    }
    if (rest > 0) {
        total += tickets_size(count) + rest * sizeof(uint64_t);
    }
    return total;
}

void bp_pages_lay(struct bp_pages *pages, uint64_t count, uint64_t rest, void *place, bool fresh)
{
    pages->count = count;
    pages->block = MAX_BLOCK;
    while (pages->block > MIN_BLOCK && pages->block * 16 > count) {
        pages->block /= 2; /* that more threads than a few find one */
    }
    if (pages->block * 16 > count) {
        pages->block = 1; /* else what one thread frees would soon be another's: the cursor went round at once */
    }
    pages->depth = measure(count, pages->words);
    pages->states = place;
    char *next = (char *)place + states_size(count);
    uint64_t bits = count;
    for (int level = 0; level < pages->depth; level++) {
        pages->levels[level] = (_Atomic uint64_t *)next;
        next += pages->words[level] * 8;
        if (fresh && bits % 64 != 0) {
            atomic_store(&pages->levels[level][bits / 64], FULL << (bits % 64)); /* no pages there */
        }
        bits = pages->words[level];
    }
    pages->rest = (struct bp_rest){rest, (_Atomic uint32_t *)next, (_Atomic uint64_t *)(next + tickets_size(count))};
}

int bp_pages_open(struct bp_pages *pages, uint64_t count, uint64_t rest)
{
    *pages = (struct bp_pages){.fd = -1, .busy = BP_BUSY_OF(1), .counts = &pages->own};
    size_t size = bp_pages_size(count, rest);
    int code = bp_lazy_map(size, &pages->place);
    if (code == 0) {
        pages->mapped = size;
        bp_pages_lay(pages, count, rest, pages->place, true);
    }
    return code;
}

void bp_pages_take_all(struct bp_pages *pages)
{
    for (uint64_t page = 0; page < pages->count; page++) {
        atomic_store_explicit(&pages->states[page], BUFPOOL_STATE_ALLOCATED, memory_order_relaxed);
    }
    for (int level = 0; level < pages->depth; level++) {
        for (uint64_t word = 0; word < pages->words[level]; word++) {
            atomic_store_explicit(&pages->levels[level][word], FULL, memory_order_relaxed);
        }
    }
    atomic_store(&pages->counts->high_water, pages->count);
    atomic_store(&pages->counts->stripes[0].set, pages->count);
    atomic_store(&pages->counts->stripes[0].allocations, pages->count);
}

void bp_pages_keep_counts(struct bp_pages *pages)
{
    if (pages->counts != &pages->own) {
        memcpy((void *)&pages->own, (const void *)pages->counts, sizeof pages->own);
        pages->counts = &pages->own;
    }
}

void bp_pages_close(struct bp_pages *pages)
{
    if (pages->mapped > 0) {
        bp_pages_keep_counts(pages);
        bp_kernel_munmap(pages->place, pages->mapped);
        pages->mapped = 0;
    }
    if (pages->fd >= 0) {
        bp_kernel_close_kept(pages->fd);
        pages->fd = -1;
    }
}

void bp_pages_part(struct bp_pages *pages)
{
    void *same;
    if (pages->header == NULL || pages->mapped == 0) {
        return;
    }
    int fd = bp_kernel_reopen(pages->fd); /* a mapping of this one would hold the parent's lock */
    if (fd < 0 || bp_kernel_mmap(pages->place, pages->mapped, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, &same) < 0) {
        bp_kernel_mprotect(pages->place, pages->mapped, PROT_READ);
    }
    if (fd >= 0) {
        bp_kernel_close(fd);
    }
}

static bool is_full(const struct bp_pages *pages, int level, uint64_t word)
{
    return atomic_load(&pages->levels[level][word]) == FULL;
}

/* The page's word has become full, or is so no longer: says so above, as far as that makes a difference there; or on every
 * level. Whoever says so looks again, so that the last one to say it is right. Bounded, as a peer may be mad. */
static void summarise(struct bp_pages *pages, uint64_t page, bool every)
{
    uint64_t word = page / 64;
    bool turned = true; /* the word of this level */
    for (int level = 0; level + 1 < pages->depth && (turned || every); level++) {
        _Atomic uint64_t *above = &pages->levels[level + 1][word / 64];
        uint64_t bit = UINT64_C(1) << (word % 64);
        bool full;
        int tries = 0;
        turned = false;
        do {
            full = is_full(pages, level, word);
            uint64_t before = full ? atomic_fetch_or(above, bit) : atomic_fetch_and(above, ~bit);
            BP_STORED("summary");
            turned |= full ? before != FULL && (before | bit) == FULL : before == FULL;
        } while (full != is_full(pages, level, word) && ++tries < 100);
        word /= 64;
    }
}

/* Sets the page's bit; false if it was set. */
static bool set_bit(struct bp_pages *pages, uint64_t page)
{
    uint64_t bit = UINT64_C(1) << (page % 64);
    uint64_t before = atomic_fetch_or(&pages->levels[0][page / 64], bit);
    BP_STORED("index bit set");
    if (before != FULL && (before | bit) == FULL) {
        summarise(pages, page, false);
    }
    return (before & bit) == 0;
}

static bool clear_bit(struct bp_pages *pages, uint64_t page)
{
    uint64_t bit = UINT64_C(1) << (page % 64);
    uint64_t before = atomic_fetch_and(&pages->levels[0][page / 64], ~bit);
    BP_STORED("index bit cleared");
    if (before == FULL) {
        summarise(pages, page, false);
    }
    return (before & bit) != 0;
}

void bp_pages_mark_withheld(struct bp_pages *pages, uint64_t page)
{
    if (set_bit(pages, page)) {
        atomic_fetch_add(&bp_pages_stripe(pages)->set, 1);
        BP_STORED("taken counted");
    }
}

void bp_pages_mark_taken(struct bp_pages *pages, uint64_t page)
{
    bp_pages_mark_withheld(pages, page);
    uint64_t high = atomic_load_explicit(&pages->counts->high_water, memory_order_relaxed);
    while (page >= high && !atomic_compare_exchange_weak(&pages->counts->high_water, &high, page + 1)) {
    }
    BP_STORED("high water");
}

void bp_pages_mark_free(struct bp_pages *pages, uint64_t page)
{
    if (clear_bit(pages, page)) {
        atomic_fetch_add(&bp_pages_stripe(pages)->cleared, 1);
        BP_STORED("taken uncounted");
    }
}

void bp_pages_mend(struct bp_pages *pages, uint64_t page, bool taken)
{
    bool changed = taken ? set_bit(pages, page) : clear_bit(pages, page);
    if (changed) {
        bp_counts_correct_taken(pages->counts, taken ? 1 : UINT64_MAX);
        BP_STORED("mended: taken");
    }
    summarise(pages, page, true); /* also where what is below was right: it may have been set, and no more */
}

uint64_t bp_pages_find(struct bp_pages *pages, uint64_t from)
{
    int level = 0;
    uint64_t at = from; /* a bit of `level` */
    while (level < pages->depth) {
        uint64_t word = at / 64;
        if (word >= pages->words[level]) {
            return BP_NO_PAGE;
        }
        uint64_t open = ~atomic_load(&pages->levels[level][word]) & (FULL << (at % 64));
        if (open == 0) {
            level++;
            at = word + 1;
            continue;
        }
        at = word * 64 + (uint64_t)__builtin_ctzll(open);
        if (level == 0) {
            return at;
        }
        level--;
        at *= 64; /* go on in the word below; if it has filled meanwhile, the search climbs again */
    }
    return BP_NO_PAGE;
}

/* The same, whatever the levels above say: of a word that is full no more, that may follow only when a process goes on that
 * has been stopped. */
static uint64_t find_below(struct bp_pages *pages, uint64_t from)
{
    for (uint64_t word = from / 64; word < pages->words[0]; word++) {
        uint64_t open = ~atomic_load(&pages->levels[0][word]) & (word == from / 64 ? FULL << (from % 64) : FULL);
        if (open != 0) {
            return word * 64 + (uint64_t)__builtin_ctzll(open);
        }
    }
    return BP_NO_PAGE;
}

/* Stripes with a block, but for one: what is left of theirs is free, too, but not for others to come back to. */
static uint64_t others(const struct bp_pages *pages)
{
    uint64_t stripes = 0;
    for (int i = 0; i < BP_STRIPES; i++) {
        stripes += atomic_load_explicit(&pages->counts->stripes[i].cursor, memory_order_relaxed) != 0;
    }
    return stripes > 0 ? stripes - 1 : 0;
}

/* Where the next block is looked for. */
static uint64_t start(struct bp_pages *pages, uint64_t cursor)
{
    uint64_t high = atomic_load_explicit(&pages->counts->high_water, memory_order_relaxed);
    if (cursor >= high) {
        uint64_t taken = bp_counts_taken(pages->counts);
        uint64_t rest = high > taken ? high - taken : 0;
        if (rest >= 1024 && rest >= high / 4 && rest >= 1024 + others(pages) * 4 * pages->block) {
            return 0;
        }
    }
    return cursor;
}

static bool try_page(struct bp_pages *pages, uint64_t page)
{
    uint16_t state = page < pages->count ? bp_pages_load(pages, page) : BP_BUSY; /* a peer may have ruined the index */
    if (!bp_state_is_free(state) || !bp_pages_claim(pages, page, state, 0)) {
        return false; /* BUSY with somebody, whose bit or state follows in a moment */
    }
    bp_pages_mark_taken(pages, page);
    return true;
}

static uint64_t taken_at(struct bp_pages *pages, struct bp_stripe *stripe, uint64_t page)
{
    bp_rest_leave(pages, page); /* if a process that was killed has left it there */
    atomic_store_explicit(&stripe->cursor, page + 1, memory_order_relaxed);
    BP_STORED("cursor");
    return page;
}

/* What follows the block of a number. */
static uint64_t block_end(const struct bp_pages *pages, uint64_t number)
{
    return (number | (pages->block - 1)) + 1;
}

/* A free page of the first block from the shared cursor on that has one; the block is the stripe's. */
static uint64_t take_from_next(struct bp_pages *pages, struct bp_stripe *stripe)
{
    uint64_t seen = atomic_load_explicit(&pages->counts->cursor, memory_order_relaxed);
    uint64_t from = start(pages, seen);
    int passes = from == 0 ? 1 : 0;
    int losses = 0;
    for (;;) {
        bool last = passes == MAX_PASSES;
        uint64_t page = last ? find_below(pages, from) : bp_pages_find(pages, from);
        if (page == BP_NO_PAGE) {
            /* One pass from the start says "none", unless pages came back behind it. */
            if (last || (passes > 0 && bp_counts_taken(pages->counts) >= pages->count)) {
                return BP_NO_PAGE;
            }
            passes++;
            from = 0;
            continue;
        }
        uint64_t end = block_end(pages, page);
        if (seen != end && losses < MAX_LOSSES) {
            if (!atomic_compare_exchange_strong(&pages->counts->cursor, &seen, end)) {
                losses++; /* another thread has that block, or another one: a block is for one, if there are enough */
                from = seen;
                continue;
            }
            BP_STORED("block");
            seen = end;
        }
        if (try_page(pages, page)) {
            if (last) {
                summarise(pages, page, true);
            }
            return taken_at(pages, stripe, page);
        }
        from = page + 1;
    }
}

uint64_t bp_pages_take(struct bp_pages *pages)
{
    struct bp_stripe *stripe = bp_pages_stripe(pages);
    uint64_t from = atomic_load_explicit(&stripe->cursor, memory_order_relaxed);
    uint64_t end = from % pages->block == 0 ? from : block_end(pages, from);
    while (from < end) {
        uint64_t page = bp_pages_find(pages, from);
        if (page >= end) {
            break;
        }
        if (try_page(pages, page)) {
            return taken_at(pages, stripe, page);
        }
        from = page + 1;
    }
    return take_from_next(pages, stripe);
}
