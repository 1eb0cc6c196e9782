/* fill.c: giving claimed pages their frames and content, see fill.h. */
#include "fill.h"

#include "claim.h"
#include "error.h"
#include "guard.h"
#include "numbers.h"
#include "probe.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* data was not readable. If that is because it lies in a hole of a pool, touch it: under "abort" that is a fault like
 * any other, with this frame in its stack; else the call ends with the fault. */
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
    return bp_error(-EFAULT, "data at %p, %zu bytes, is not readable memory (filling a page of pool \"%s\")", data,
                    size, pool->name);
}

/* The last, short part of data in a whole huge granule, in a mapping of its own. */
static int map_tail(size_t granule, const char *data, size_t size, void **tail)
{
    *tail = NULL;
    int code =
        bp_kernel_mmap(NULL, granule, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, tail);
    if (code < 0) {
        return code;
    }
    bp_kernel_madvise(*tail, granule, MADV_HUGEPAGE);
    return bp_probe_copy(*tail, data, size) ? 0 : -EFAULT;
}

static int fill_fresh(bufpool_pool *pool, uintptr_t address, size_t length, size_t *done)
{
    int code = 0;
    for (*done = 0; code == 0 && *done < length;) {
        size_t step = length - *done < pool->fresh_size ? length - *done : pool->fresh_size;
        size_t filled;
        code = bp_space_populate(&pool->space, address + *done, step, pool->fresh, &filled);
        *done += filled;
    }
    return code;
}

/* Does the page, which is claimed, have the frame with which it lagged? */
static bool has_kept(const bufpool_pool *pool, uint64_t page)
{
    return bp_lag_has(&pool->lag, bp_pages_load(&pool->pages, page));
}

/* Overwrites a page that has lagged, in its frame. false: data, or part of the frame (taken past us), is not there. */
static bool overwrite(bufpool_pool *pool, uint64_t page, const struct bp_source *source, size_t at)
{
    char *to = (char *)bp_page_address(pool, page);
    size_t size = source->data == NULL ? 0 : source->size - at;
    size = size < pool->page_size ? size : pool->page_size;
    int rest = source->data == NULL && pool->fresh != NULL ? BUFPOOL_FRESH : 0;
    return (size == 0 || bp_probe_copy(to, source->data + at, size)) &&
           (size == pool->page_size || bp_probe_set(to + size, rest, pool->page_size - size));
}

/* Fills one run of neighbouring pages, which hold source bytes from at on. *done: bytes, from the front. */
static int fill(bufpool_pool *pool, uint64_t page, size_t count, const struct bp_source *source, size_t at,
                size_t *done)
{
    uintptr_t address = bp_page_address(pool, page);
    size_t length = count * pool->page_size;
    *done = 0;
    if (has_kept(pool, page)) { /* and count is 1 */
        if (overwrite(pool, page, source, at)) {
            atomic_fetch_add_explicit(&pool->lag.reused, 1, memory_order_relaxed);
            *done = length;
            return 0;
        }
        int code = bp_lag_zap(pool, page); /* then as any other, which tells what is wrong */
        if (code < 0) {
            return code;
        }
    }
    if (source->data == NULL && pool->fresh != NULL) {
        return fill_fresh(pool, address, length, done);
    }
    if (source->data == NULL || source->size >= at + length) {
        const char *data = source->data == NULL ? NULL : source->data + at;
        return bp_space_populate(&pool->space, address, length, data, done);
    }
    /* One short page: whole granules of data, the tail, zeros. */
    size_t granule = pool->space.granule;
    size_t whole = source->size / granule * granule;
    size_t part = source->size - whole;
    void *tail = (void *)source->tail;
    int code = part > 0 && granule > BP_GRANULE ? map_tail(granule, source->data + whole, part, &tail) : 0;
    const struct {
        const char *data;
        size_t length;
    } parts[] = {
        {source->data, whole}, {tail, part > 0 ? granule : 0}, {NULL, length - whole - (part > 0 ? granule : 0)}};
    *done = 0;
    for (int i = 0; i < 3 && code >= 0; i++) {
        size_t filled = 0;
        code = parts[i].length == 0
                   ? 0
                   : bp_space_populate(&pool->space, address + *done, parts[i].length, parts[i].data, &filled);
        *done += filled;
    }
    if (tail != NULL && tail != source->tail) {
        bp_kernel_munmap(tail, granule);
    }
    return code < 0 ? code : 0;
}

/* A short page's last granule has to be a whole one for the kernel. */
int bp_fill_source(const bufpool_pool *pool, struct bp_source *source, const void *data, size_t size)
{
    source->data = size == 0 ? NULL : data;
    source->size = size;
    size_t part = size % BP_GRANULE;
    if (size < pool->page_size && part > 0 && pool->space.granule == BP_GRANULE) {
        if (!bp_probe_copy(source->tail, (const char *)data + size - part, part)) {
            return unreadable(pool, data, size);
        }
        memset(source->tail + part, 0, BP_GRANULE - part);
    }
    return 0;
}

static bool is_evicted(const bufpool_pool *pool, uint64_t page)
{
    return (bp_pages_load(&pool->pages, page) & BP_STATE_MASK) == BUFPOOL_STATE_EVICTED;
}

/* While the pages are BUSY: who repairs what a killed process has left can tell then what is not counted. */
static void count_given(bufpool_pool *pool, size_t count, bool evicted)
{
    struct bp_stripe *counts = bp_pages_stripe(&pool->pages);
    atomic_fetch_add_explicit(evicted ? &counts->populates : &counts->allocations, count, memory_order_relaxed);
    BP_STORED("allocations counted");
    if (evicted) {
        atomic_fetch_sub_explicit(&counts->evicted, count, memory_order_relaxed);
        BP_STORED("evicted uncounted");
    }
}

/* Takes back what was filled of one run, after an error. Where even that fails (mprotect without a mapping left to
 * split), the pages stay accessible, so they are allocated from here on, not free: the owner may list and free them. */
void bp_fill_undo(bufpool_pool *pool, const uint64_t *pages, size_t count, size_t length, const void *caller)
{
    struct bp_range range = {bp_page_address(pool, pages[0]), length};
    size_t zapped;
    if (length == 0) {
        return;
    }
    if (bp_space_zap(&pool->space, &range, 1, &zapped) == 0) {
        if (has_kept(pool, pages[0])) {
            atomic_store(&pool->pages.states[pages[0]], BUFPOOL_STATE_FREED | pool->pages.busy);
        }
        return;
    }
    bp_record(&pool->provenance, pages, count, BUFPOOL_EVENT_ALLOCATE, caller);
    for (size_t i = 0; i < count; i++) {
        count_given(pool, 1, is_evicted(pool, pages[i]));
        atomic_store(&pool->pages.states[pages[i]], BUFPOOL_STATE_ALLOCATED | pool->pages.busy);
    }
}

/* The end of the run of neighbours, of contiguous addresses, that begins at index i; a page with a frame is one for itself. */
static size_t run(const bufpool_pool *pool, const uint64_t *pages, size_t count, size_t i)
{
    if (pool->lead > 0 || has_kept(pool, pages[i])) {
        return i + 1;
    }
    size_t end = bp_numbers_run(pages, count, i);
    for (size_t at = i + 1; pool->lag.length > 0 && at < end; at++) {
        if (has_kept(pool, pages[at])) {
            return at;
        }
    }
    return end;
}

/* Fills every run; on an error undoes those before it and what is done of it. */
static int fill_runs(bufpool_pool *pool, const uint64_t *pages, size_t count, const struct bp_source *source)
{
    for (size_t i = 0; i < count;) {
        size_t end = run(pool, pages, count, i);
        size_t done;
        int code = fill(pool, pages[i], end - i, source, i * pool->page_size, &done);
        if (code < 0) {
            bp_fill_undo(pool, pages + i, end - i, done, source->caller);
            for (size_t from = 0; from < i; from = end) {
                end = run(pool, pages, i, from);
                bp_fill_undo(pool, pages + from, end - from, (end - from) * pool->page_size, source->caller);
            }
            return code;
        }
        i = end;
    }
    return 0;
}

/* Counts and records pages of one kind. */
static void note_given(bufpool_pool *pool, const uint64_t *pages, size_t count, const void *caller)
{
    bool evicted = is_evicted(pool, pages[0]);
    count_given(pool, count, evicted);
    bp_pins_sample(pool, &pool->pins, pages, count);
    bp_record(&pool->provenance, pages, count, evicted ? BUFPOOL_EVENT_POPULATE : BUFPOOL_EVENT_ALLOCATE, caller);
}

void bp_fill_settle(bufpool_pool *pool, const uint64_t *pages, size_t count, const void *caller)
{
    for (size_t i = 0; i < count;) {
        size_t end = i + 1;
        while (end < count && is_evicted(pool, pages[end]) == is_evicted(pool, pages[i])) {
            end++;
        }
        note_given(pool, pages + i, end - i, caller);
        i = end;
    }
    for (size_t i = 0; i < count; i++) {
        bp_pages_settle(&pool->pages, pages[i], BUFPOOL_STATE_ALLOCATED);
    }
}

int bp_fill(bufpool_pool *pool, const uint64_t *pages, size_t count, const struct bp_source *source)
{
    int code = fill_runs(pool, pages, count, source);
    if (code == 0) {
        bp_fill_settle(pool, pages, count, source->caller);
    }
    if (code < 0) {
        bp_claim_drop_holes(pool, pages, count);
    }
    return code;
}

int bp_fill_error(const bufpool_pool *pool, int code, const struct bp_source *source, size_t count)
{
    if (code == -EFAULT && source->data != NULL) {
        return unreadable(pool, source->data, source->size);
    }
    if (bp_pool_is_closed(pool)) { /* meanwhile: a stray access may have been diverted just there */
        return bp_pool_closed_error(pool);
    }
    if (code == -ESTALE) {
        return bp_error(code,
                        "the file of pool \"%s\" is shorter than the pool, %llu bytes: another process truncated it",
                        pool->name, (unsigned long long)pool->capacity);
    }
    if (code == -EDQUOT) {
        char why[400];
        bp_headroom_explain(&pool->space.headroom, why, sizeof why);
        return bp_error(BUFPOOL_EEXHAUSTED, "there is no room for %zu page(s) of %llu bytes of pool \"%s\": %s", count,
                        (unsigned long long)pool->page_size, pool->name, why);
    }
    if (code == -ENOMEM) {
        return bp_error(BUFPOOL_EEXHAUSTED, "the system has no memory for %zu page(s) of %llu bytes of pool \"%s\"%s",
                        count, (unsigned long long)pool->page_size, pool->name, bp_space_hint(&pool->space, code));
    }
    return bp_error(code, "cannot fill %zu page(s) of pool \"%s\" by trap %s: %s", count, pool->name,
                    pool->space.trap->name, strerror(-code));
}
