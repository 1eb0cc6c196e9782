/*
 * allocate.c: giving pages a frame: allocate, allocate_at, populate, and their batches.
 *
 * The same three steps everywhere: claim the pages (their states become BUSY over what they were), fill them with as few
 * requests as there are runs of neighbours, settle their states. If filling fails, what was filled is zapped and every page
 * becomes what it was. No lock is held meanwhile, and no memory of the caller is touched from user mode while pages are
 * claimed: a stray access there could end in a longjmp over us.
 */
#include "error.h"
#include "guard.h"
#include "numbers.h"
#include "pool.h"
#include "probe.h"
#include "scratch.h"

#include <errno.h>
#include <string.h>

/* Where the content of pages comes from. */
struct source {
    const char *data; /* NULL: zeros */
    size_t size;      /* bytes at data; less than the pages for a short single page only */
    char tail[BP_GRANULE]; /* the last granule of a short page, copied before anything is claimed */
};

static int check_data(const bufpool_pool *pool, const void *data, size_t size)
{
    if (size > pool->page_size) {
        return bp_error(BUFPOOL_EARGUMENT, "size is %zu bytes: a page of pool \"%s\" holds %llu", size, pool->name,
                        (unsigned long long)pool->page_size);
    }
    if (data == NULL && size > 0) {
        return bp_error(BUFPOOL_EARGUMENT, "data is NULL and size is %zu bytes: pass data, or size 0 for zeros", size);
    }
    return 0;
}

static int check_number(const bufpool_pool *pool, uint64_t page)
{
    if (page >= pool->pages.count) {
        return bp_error(BUFPOOL_EARGUMENT, "page %llu is not in pool \"%s\": its pages are 0 to %llu",
                        (unsigned long long)page, pool->name, (unsigned long long)(pool->pages.count - 1));
    }
    return 0;
}

static int exhausted(const bufpool_pool *pool, size_t count)
{
    uint64_t taken = atomic_load(&pool->pages.taken);
    uint64_t evicted = atomic_load(&pool->evicted);
    return bp_error(BUFPOOL_EEXHAUSTED,
                    "pool \"%s\" has too few free pages for %zu more: %llu of %llu are taken (%llu of them evicted)",
                    pool->name, count, (unsigned long long)taken, (unsigned long long)pool->pages.count,
                    (unsigned long long)evicted);
}

/* data was not readable. If that is because it lies in a hole of a pool, touch it: under "abort" that is a fault like any
 * other, with this frame in its stack; else the call ends with the fault. */
static int unreadable(const bufpool_pool *pool, const void *data, size_t size)
{
    const char *from = data;
    for (size_t at = 0; at < size; at += BP_GRANULE - ((uintptr_t)(from + at) & (BP_GRANULE - 1))) {
        bufpool_pool *other = bp_pool_at((uintptr_t)(from + at));
        if (other == NULL) {
            continue;
        }
        if (other->policy == BP_ABORT) {
            (void)*(const volatile char *)(from + at);
            continue;
        }
        char byte;
        bufpool_fault fault;
        if (bp_guarded_copy(&byte, from + at, 1, &fault) == BUFPOOL_ESTRAY) {
            return bp_guard_error(&fault);
        }
    }
    return bp_error(-EFAULT, "data at %p, %zu bytes, is not readable memory (filling a page of pool \"%s\")", data, size,
                    pool->name);
}

/* Fills one run of neighbouring pages, which hold source bytes from at on. *done: bytes, from the front. */
static int fill(bufpool_pool *pool, uint64_t page, size_t count, const struct source *source, size_t at, size_t *done)
{
    uintptr_t address = bp_page_address(pool, page);
    size_t length = count * pool->page_size;
    if (source->data == NULL || source->size >= at + length) {
        const char *data = source->data == NULL ? NULL : source->data + at;
        return bp_space_populate(&pool->space, address, length, data, done);
    }
    /* One short page: whole granules of data, the tail, zeros. */
    size_t whole = source->size / BP_GRANULE * BP_GRANULE;
    const struct {
        const char *data;
        size_t length;
    } parts[] = {{source->data, whole},
                 {source->tail, source->size > whole ? BP_GRANULE : 0},
                 {NULL, length - whole - (source->size > whole ? BP_GRANULE : 0)}};
    *done = 0;
    for (int i = 0; i < 3; i++) {
        size_t filled = 0;
        int code = parts[i].length == 0
                       ? 0
                       : bp_space_populate(&pool->space, address + *done, parts[i].length, parts[i].data, &filled);
        *done += filled;
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

/* Fills claimed pages; on an error zaps what was filled and keeps the sentence. */
static int fill_all(bufpool_pool *pool, const uint64_t *pages, size_t count, const struct source *source)
{
    size_t next;
    size_t done = 0;
    int code = 0;
    size_t i = 0;
    for (; i < count && code == 0; i = code == 0 ? next : i) {
        next = bp_numbers_run(pages, count, i);
        code = fill(pool, pages[i], next - i, source, i * pool->page_size, &done);
    }
    if (code == 0) {
        return 0;
    }
    for (size_t undo = 0; undo < i;) {
        size_t end = bp_numbers_run(pages, i, undo);
        struct bp_range range = {bp_page_address(pool, pages[undo]), (end - undo) * pool->page_size};
        size_t zapped;
        bp_space_zap(&pool->space, &range, 1, &zapped);
        undo = end;
    }
    if (done > 0) {
        struct bp_range range = {bp_page_address(pool, pages[i]), done};
        size_t zapped;
        bp_space_zap(&pool->space, &range, 1, &zapped);
    }
    return code;
}

static int fill_error(const bufpool_pool *pool, int code, const struct source *source, size_t count)
{
    if (code == -EFAULT && source->data != NULL) {
        return unreadable(pool, source->data, source->size);
    }
    if (code == -ENOMEM) {
        return bp_error(BUFPOOL_EEXHAUSTED, "the system has no memory for %zu page(s) of %llu bytes of pool \"%s\"%s", count,
                        (unsigned long long)pool->page_size, pool->name,
                        pool->space.trap == &bp_trap_mprotect ? ", or no mapping left (vm.max_map_count)" : "");
    }
    return bp_error(code, "cannot fill %zu page(s) of pool \"%s\" by trap %s: %s", count, pool->name,
                    pool->space.trap->name, strerror(-code));
}

/* The whole life of an allocation after its pages are claimed. */
static int finish(bufpool_pool *pool, const uint64_t *pages, size_t count, const struct source *source)
{
    int code = fill_all(pool, pages, count, source);
    for (size_t i = 0; i < count; i++) {
        if (code == 0) {
            bp_pages_settle(&pool->pages, pages[i], BUFPOOL_STATE_ALLOCATED);
            continue;
        }
        uint8_t before = bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK;
        if (bp_state_is_free(before)) {
            bp_pages_mark_free(&pool->pages, pages[i]);
        }
        bp_pages_settle(&pool->pages, pages[i], before);
    }
    return code;
}

static uint64_t take(bufpool_pool *pool)
{
    uint64_t page = bp_pages_take(&pool->pages);
    if (page == BP_NO_PAGE && atomic_load(&pool->scratched) > 0) {
        bp_scratch_rearm_pool(pool, true);
        page = bp_pages_take(&pool->pages);
    }
    return page;
}

static void give_back(bufpool_pool *pool, const uint64_t *pages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t before = bp_pages_load(&pool->pages, pages[i]) & BP_STATE_MASK;
        bp_pages_mark_free(&pool->pages, pages[i]);
        bp_pages_settle(&pool->pages, pages[i], before);
    }
}

/* A short page's last granule has to be a whole one for the kernel. The copy may itself be a stray access, so it comes before
 * anything is claimed. */
static int prepare(const bufpool_pool *pool, struct source *source, const void *data, size_t size)
{
    source->data = size == 0 ? NULL : data;
    source->size = size;
    size_t part = size % BP_GRANULE;
    if (size < pool->page_size && part > 0) {
        if (!bp_probe_copy(source->tail, (const char *)data + size - part, part)) {
            return unreadable(pool, data, size);
        }
        memset(source->tail + part, 0, BP_GRANULE - part);
    }
    return 0;
}

/* Claims a page that is in one of the given states; waits a moment for a re-arming, refuses anything else. */
static int claim(bufpool_pool *pool, uint64_t page, bool evicted, const char *what)
{
    for (int patience = 0; patience < 1000; patience++) {
        uint8_t state = bp_pages_load(&pool->pages, page);
        bool fits = evicted ? (state & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED : bp_state_is_free(state & BP_STATE_MASK);
        if (fits && state & BP_SCRATCH) {
            if (state & BP_BUSY || !bp_scratch_rearm_page(pool, page)) {
                bp_kernel_sleep_ns(10000);
            }
            continue;
        }
        if (!fits || state & BP_BUSY) {
            const char *busy = state & BP_BUSY ? ", and another thread is changing it" : "";
            return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": it is %s%s", what,
                            (unsigned long long)page, pool->name,
                            bufpool_state_name((bufpool_state)(state & BP_STATE_MASK)), busy);
        }
        if (bp_pages_try(&pool->pages, page, state, state | BP_BUSY)) {
            if (!evicted) {
                bp_pages_mark_taken(&pool->pages, page);
            }
            return 0;
        }
    }
    return bp_error(BUFPOOL_ESTATE, "cannot %s page %llu of pool \"%s\": its scratch granule cannot be re-armed", what,
                    (unsigned long long)page, pool->name);
}

int bufpool_allocate(bufpool_pool *pool, const void *data, size_t size, uint64_t *page)
{
    if (page == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "page is NULL: pass where the number is to be stored");
    }
    struct source source;
    int code = pool == NULL ? 0 : check_data(pool, data, size);
    if (code == 0 && pool != NULL) {
        code = prepare(pool, &source, data, size);
    }
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    uint64_t number = take(pool);
    if (number == BP_NO_PAGE) {
        code = exhausted(pool, 1);
        bp_pool_leave(pool);
        return code;
    }
    code = finish(pool, &number, 1, &source);
    if (code == 0) {
        atomic_fetch_add_explicit(&pool->allocations, 1, memory_order_relaxed);
    }
    bp_pool_leave(pool);
    if (code < 0) {
        return fill_error(pool, code, &source, 1);
    }
    *page = number;
    return 0;
}

/* allocate_at and populate: one given page. */
static int fill_given(bufpool_pool *pool, uint64_t page, const void *data, size_t size, bool evicted)
{
    struct source source;
    int code = pool == NULL ? 0 : check_data(pool, data, size);
    if (code == 0 && pool != NULL) {
        code = prepare(pool, &source, data, size);
    }
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    code = check_number(pool, page);
    if (code == 0) {
        code = claim(pool, page, evicted, evicted ? "populate" : "allocate");
    }
    if (code < 0) {
        bp_pool_leave(pool);
        return code;
    }
    code = finish(pool, &page, 1, &source);
    if (code == 0) {
        atomic_fetch_add_explicit(evicted ? &pool->populates : &pool->allocations, 1, memory_order_relaxed);
        if (evicted) {
            atomic_fetch_sub_explicit(&pool->evicted, 1, memory_order_relaxed);
        }
    }
    bp_pool_leave(pool);
    return code < 0 ? fill_error(pool, code, &source, 1) : 0;
}

int bufpool_allocate_at(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return fill_given(pool, page, data, size, false);
}

int bufpool_populate(bufpool_pool *pool, uint64_t page, const void *data, size_t size)
{
    return fill_given(pool, page, data, size, true);
}

static int allocate_batch(bufpool_pool *pool, size_t count, const struct source *source, uint64_t *numbers)
{
    for (size_t i = 0; i < count; i++) {
        numbers[i] = take(pool);
        if (numbers[i] == BP_NO_PAGE) {
            give_back(pool, numbers, i);
            return exhausted(pool, count);
        }
    }
    int code = finish(pool, numbers, count, source);
    if (code == 0) {
        atomic_fetch_add_explicit(&pool->allocations, count, memory_order_relaxed);
    }
    return code;
}

static int allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages)
{
    if (count > 0 && pages == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "pages is NULL: pass room for %zu numbers", count);
    }
    int code = bp_pool_enter(pool);
    if (code < 0) {
        return code;
    }
    struct bp_numbers numbers;
    code = count > pool->pages.count ? exhausted(pool, count) : bp_numbers_open(&numbers, count);
    if (code < 0) {
        bp_pool_leave(pool);
        return code;
    }
    struct source source;
    source.data = data;
    source.size = count * pool->page_size;
    code = allocate_batch(pool, count, &source, numbers.at);
    bp_pool_leave(pool);
    if (code == 0 && count > 0) {
        memcpy(pages, numbers.at, count * sizeof *pages);
    }
    bp_numbers_close(&numbers);
    return code < 0 && code != BUFPOOL_EEXHAUSTED ? fill_error(pool, code, &source, count) : code;
}

int bufpool_allocate_many(bufpool_pool *pool, size_t count, uint64_t *pages)
{
    return allocate_filled(pool, count, NULL, pages);
}

int bufpool_allocate_filled(bufpool_pool *pool, size_t count, const void *data, uint64_t *pages)
{
    if (count > 0 && data == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "data is NULL: pass %zu whole pages, or use bufpool_allocate_many() for zeros",
                        count);
    }
    return allocate_filled(pool, count, data, pages);
}

static int populate_batch(bufpool_pool *pool, size_t count, const struct source *source, const uint64_t *numbers)
{
    size_t claimed = 0;
    int code = 0;
    for (; claimed < count; claimed++) {
        code = check_number(pool, numbers[claimed]);
        if (code == 0) {
            code = claim(pool, numbers[claimed], true, "populate");
        }
        if (code < 0) {
            for (size_t i = 0; i < claimed; i++) {
                bp_pages_settle(&pool->pages, numbers[i], BUFPOOL_STATE_EVICTED);
            }
            return code;
        }
    }
    code = finish(pool, numbers, count, source);
    if (code == 0) {
        atomic_fetch_add_explicit(&pool->populates, count, memory_order_relaxed);
        atomic_fetch_sub_explicit(&pool->evicted, count, memory_order_relaxed);
        return 0;
    }
    return code;
}

int bufpool_populate_many(bufpool_pool *pool, size_t count, const uint64_t *pages, const void *data)
{
    struct bp_numbers numbers;
    int code = bp_numbers_copy(&numbers, count, pages);
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code == 0) {
        struct source source;
        source.data = data;
        source.size = count * pool->page_size;
        code = populate_batch(pool, count, &source, numbers.at);
        bp_pool_leave(pool);
        if (code < 0 && code > -4096) {
            code = fill_error(pool, code, &source, count);
        }
    }
    bp_numbers_close(&numbers);
    return code;
}
