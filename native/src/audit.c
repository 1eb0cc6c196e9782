/* audit.c: watching clean pages, and finding those that have changed, see audit.h. */
#include "audit.h"

#include "error.h"
#include "lazy.h"
#include "numbers.h"
#include "pool.h"
#include "probe.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define CLEAN UINT64_C(1)
#define VERSION UINT64_C(0xfffffffe)
#define VERSION_STEP UINT64_C(2)
#define SUM_SHIFT 32
#define PIECE 4096 /* bytes that are summed up at a time */

const char *bp_audit_name(enum bp_audit_mode mode)
{
    static const char *const names[] = {"off", "track", "checksum"};
    return (size_t)mode < sizeof names / sizeof *names ? names[mode] : NULL;
}

int bp_audit_open(struct bp_audit *audit, enum bp_audit_mode mode, uint64_t pages)
{
    void *place = NULL;
    size_t size = mode == BP_AUDIT_OFF ? 0 : pages * sizeof *audit->words;
    int code = size == 0 ? 0 : bp_lazy_map(size, &place);
    if (code == 0) {
        audit->words = place;
        audit->mapped = size;
        audit->mode = mode;
    }
    return code;
}

void bp_audit_close(struct bp_audit *audit)
{
    if (audit->mapped > 0) {
        bp_kernel_munmap((void *)audit->words, audit->mapped);
        audit->mapped = 0;
    }
}

void bp_audit_inherit(bufpool_pool *pool)
{
    /* The protection did not come along: nothing is watched. */
    if (pool->audit.mode == BP_AUDIT_TRACK) {
        bp_kernel_madvise((void *)pool->audit.words, pool->audit.mapped, MADV_DONTNEED);
        atomic_store(&pool->audit.clean, 0);
    }
}

/* ---- A page's word ---- */

static uint64_t next_version(uint64_t word)
{
    return (word + VERSION_STEP) & VERSION;
}

void bp_audit_set_dirty(bufpool_pool *pool, uint64_t page)
{
    _Atomic uint64_t *word = &pool->audit.words[page];
    uint64_t before = atomic_load(word);
    if (before == 0) {
        return; /* never clean: its part of the table takes no memory */
    }
    while (!atomic_compare_exchange_weak(word, &before, next_version(before))) {
    }
    if (before & CLEAN) {
        atomic_fetch_sub_explicit(&pool->audit.clean, 1, memory_order_relaxed);
    }
}

/* Four sums side by side, each of every fourth word. */
static uint32_t sum_up(const char *page, uint64_t size, bool *readable)
{
    uint64_t sums[4] = {1, 2, 3, 4};
    uint64_t piece[PIECE / 8];
    for (uint64_t at = 0; at < size; at += PIECE) {
        *readable = bp_probe_copy(piece, page + at, PIECE);
        if (!*readable) {
            return 0;
        }
        for (size_t i = 0; i < PIECE / 8; i += 4) {
            for (size_t lane = 0; lane < 4; lane++) {
                sums[lane] = (sums[lane] ^ piece[i + lane]) * UINT64_C(0x9E3779B97F4A7C15);
                sums[lane] ^= sums[lane] >> 29;
            }
        }
    }
    uint64_t all = 0;
    for (size_t lane = 0; lane < 4; lane++) {
        all = (all ^ sums[lane]) * UINT64_C(0xD6E8FEB86659FD93);
        all ^= all >> 32;
    }
    return (uint32_t)all;
}

static uint32_t checksum(const bufpool_pool *pool, uint64_t page, bool *readable)
{
    return sum_up((const char *)bp_page_address(pool, page), pool->page_size, readable);
}

int bp_audit_set_clean(bufpool_pool *pool, uint64_t page)
{
    _Atomic uint64_t *word = &pool->audit.words[page];
    uint64_t before = atomic_load(word);
    uint32_t sum = 0;
    int code = 0;
    if (pool->audit.mode == BP_AUDIT_TRACK) {
        code = bp_kernel_uffd_protect(pool->space.uffd, bp_page_address(pool, page), pool->page_size, 1);
    } else {
        bool readable;
        sum = checksum(pool, page, &readable);
        code = readable ? 0 : -EFAULT;
    }
    if (code < 0) {
        return code;
    }
    /* Unless somebody has said meanwhile that it is to change. */
    uint64_t after = next_version(before) | CLEAN | (uint64_t)sum << SUM_SHIFT;
    if (atomic_compare_exchange_strong(word, &before, after) && !(before & CLEAN)) {
        atomic_fetch_add_explicit(&pool->audit.clean, 1, memory_order_relaxed);
    }
    return 0;
}

/* ---- Finding ---- */

/* Has the page, which was clean at one look, changed, and was it clean all the time? */
static bool has_changed(const bufpool_pool *pool, uint64_t page, int pagemap)
{
    uint64_t word = atomic_load(&pool->audit.words[page]);
    if (!(word & CLEAN) || bp_pages_load(&pool->pages, page) != BUFPOOL_STATE_ALLOCATED) {
        return false;
    }
    bool changed;
    uintptr_t address = bp_page_address(pool, page);
    if (pool->audit.mode == BP_AUDIT_TRACK) {
        uintptr_t written;
        changed = bp_kernel_next_written(pagemap, address, address + pool->page_size, &written) == 0;
    } else {
        bool readable;
        uint32_t sum = checksum(pool, page, &readable);
        changed = readable && sum != word >> SUM_SHIFT;
    }
    return changed && bp_pages_load(&pool->pages, page) == BUFPOOL_STATE_ALLOCATED &&
           atomic_load(&pool->audit.words[page]) == word;
}

static bool is_clean(const bufpool_pool *pool, uint64_t page)
{
    return atomic_load_explicit(&pool->audit.words[page], memory_order_relaxed) & CLEAN;
}

/* The first page of a run of clean ones that may have changed; end: none. */
static int first_suspect(const bufpool_pool *pool, uint64_t page, uint64_t end, int pagemap, uint64_t *suspect)
{
    *suspect = page;
    if (pool->audit.mode != BP_AUDIT_TRACK) {
        return 0;
    }
    uintptr_t written;
    int code = bp_kernel_next_written(pagemap, bp_page_address(pool, page),
                                      bp_page_address(pool, end - 1) + pool->page_size, &written);
    *suspect = code == 0 ? bp_page_at(pool, written) : end;
    return code == -ENXIO ? 0 : code;
}

/* The first changed page >= *page into *page; 1: there is one, 0: there is none. */
static int find(const bufpool_pool *pool, int pagemap, uint64_t *page)
{
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    high = high < pool->pages.count ? high : pool->pages.count; /* a peer may have ruined it */
    while (*page < high) {
        uint64_t end = *page;
        while (end < high && is_clean(pool, end)) {
            end++;
        }
        if (end == *page) {
            ++*page;
            continue;
        }
        uint64_t suspect;
        int code = first_suspect(pool, *page, end, pagemap, &suspect);
        if (code < 0) {
            return code;
        }
        *page = suspect;
        if (suspect < end && has_changed(pool, suspect, pagemap)) {
            return 1;
        }
        *page += suspect < end;
    }
    return 0;
}

static void describe(const bufpool_pool *pool, uint64_t page, bufpool_changed *changed)
{
    *changed = (bufpool_changed){.size = sizeof *changed, .page = page};
    const char *pattern = bufpool_pattern((const void *)bp_page_address(pool, page), pool->page_size);
    strncpy(changed->pattern, pattern, sizeof changed->pattern - 1);
    bufpool_origin freed;
    bp_provenance_read(&pool->provenance, page, &changed->allocated, &freed);
    bp_provenance_read_pins(&pool->provenance, page, &changed->pinned, &changed->unpinned);
}

static int no_scan(const bufpool_pool *pool, int code)
{
    return bp_error(BUFPOOL_EUNSUPPORTED,
                    "pool \"%s\": audit \"track\" takes PAGEMAP_SCAN on /proc/self/pagemap, which is refused (%s): it "
                    "takes Linux 6.7 or newer, with CONFIG_PROC_PAGE_MONITOR=y, and /proc; or take audit \"checksum\"",
                    pool->name, strerror(-code));
}

int bp_audit_probe(const bufpool_pool *pool)
{
    int pagemap = bp_kernel_open_pagemap();
    uintptr_t written;
    uintptr_t base = pool->space.base;
    int code = pagemap < 0 ? pagemap : bp_kernel_next_written(pagemap, base, base + pool->space.granule, &written);
    if (pagemap >= 0) {
        bp_kernel_close_kept(pagemap);
    }
    return code == 0 || code == -ENXIO ? 0 : no_scan(pool, code);
}

/* ---- The calls ---- */

static bool is_off(const bufpool_pool *pool)
{
    return pool != NULL && !bp_audit_is_on(&pool->audit);
}

static int set_clean(bufpool_pool *pool, uint64_t page, uint32_t pins)
{
    uint16_t state = bp_pages_load(&pool->pages, page);
    if (state != BUFPOOL_STATE_ALLOCATED) {
        return bp_error(BUFPOOL_ESTATE,
                        "cannot mark page %llu of pool \"%s\" as clean: it is %s%s, and only allocated "
                        "pages can be",
                        (unsigned long long)page, pool->name,
                        bufpool_state_name((bufpool_state)(state & BP_STATE_MASK)),
                        state & BP_BUSY ? ", and another thread is changing it" : "");
    }
    if (BP_WRITES(pins) > 0) {
        return bp_error(BUFPOOL_ESTATE,
                        "cannot mark page %llu of pool \"%s\" as clean: it is pinned for writing, and is clean when "
                        "the last such pin goes",
                        (unsigned long long)page, pool->name);
    }
    int code = bp_audit_set_clean(pool, page);
    return code == 0 ? 0
                     : bp_error(code, "cannot watch page %llu of pool \"%s\": %s", (unsigned long long)page, pool->name,
                                strerror(-code));
}

static int mark_clean(bufpool_pool *pool, uint64_t page)
{
    int code = bp_pool_check_page(pool, page);
    if (code < 0 || !bp_pins_counts(&pool->pins, page)) {
        return code < 0 ? code : set_clean(pool, page, 0);
    }
    /* Whoever pins it for writing just now would say that it is to change before it is said to be clean. */
    uint32_t pins;
    if (!bp_pins_take(pool, page, 10000, &pins)) {
        return bp_pins_late(pool, page, "watch");
    }
    code = set_clean(pool, page, pins);
    bp_pins_put(pool, page, pins);
    return code;
}

static int mark_dirty(bufpool_pool *pool, uint64_t page)
{
    int code = bp_pool_check_page(pool, page);
    if (code == 0) {
        bp_audit_set_dirty(pool, page);
    }
    return code;
}

static int mark(bufpool_pool *pool, size_t count, const uint64_t *pages, int (*one)(bufpool_pool *, uint64_t))
{
    if (is_off(pool)) {
        return 0;
    }
    struct bp_numbers numbers;
    int code = bp_pool_enter_batch(pool, &numbers, count, pages);
    if (code < 0) {
        return code;
    }
    size_t done = 0;
    while (done < count && code == 0) {
        code = one(pool, numbers.at[done]);
        done += code == 0;
    }
    if (code < 0) {
        bp_error_set_done(done);
    }
    bp_pool_leave_batch(pool, &numbers);
    return code;
}

int bufpool_mark_clean(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return mark(pool, count, pages, mark_clean);
}

int bufpool_mark_dirty(bufpool_pool *pool, size_t count, const uint64_t *pages)
{
    return mark(pool, count, pages, mark_dirty);
}

static int check_audit(const bufpool_pool *pool)
{
    if (!bp_audit_is_on(&pool->audit)) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "pool \"%s\" is not audited: open it with audit \"track\" or \"checksum\"", pool->name);
    }
    if (pool->pages.header != NULL && atomic_load(&pool->pages.counts->last_member) > 1) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "pool \"%s\" cannot be audited: other processes have, or had, it, and of what they may write "
                        "nothing is known here; it takes fork \"exclude\", and that nobody attaches",
                        pool->name);
    }
    return 0;
}

/* One step: 1 and *found, or 0. */
static int audit_from(bufpool_pool *pool, int pagemap, uint64_t *from, bufpool_changed *found)
{
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    code = check_audit(pool);
    if (code == 0) {
        code = find(pool, pagemap, from);
        if (code < 0) {
            no_scan(pool, code);
        } else if (code > 0) {
            describe(pool, *from, found);
        }
    }
    bp_pool_leave(pool);
    return code;
}

int bufpool_audit(bufpool_pool *pool, uint64_t from, size_t count, bufpool_changed *changed, size_t *found)
{
    if (found == NULL || (count > 0 && changed == NULL)) {
        return bp_error(BUFPOOL_EARGUMENT, "found or changed is NULL: pass room for %zu pages and for their count",
                        count);
    }
    int pagemap = pool != NULL && pool->audit.mode == BP_AUDIT_TRACK ? bp_kernel_open_pagemap() : -1;
    size_t listed = 0;
    int code;
    do {
        bufpool_changed page;
        code = audit_from(pool, pagemap, &from, &page);
        if (code > 0 && listed < count) { /* not inside the pool: the caller's memory may stray */
            size_t size = changed[listed].size;
            size = size == 0 || size > sizeof page ? sizeof page : size;
            memcpy(&changed[listed], &page, size);
            changed[listed].size = size;
            listed++;
            from++;
        }
    } while (code > 0 && listed < count);
    if (pagemap >= 0) {
        bp_kernel_close_kept(pagemap);
    }
    if (code >= 0) {
        *found = listed;
    }
    return code < 0 ? code : 0;
}
