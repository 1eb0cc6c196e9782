/*
 * transfer.c: pages from a file and to it: read_from, write_to.
 *
 * A read goes into a buffer first, which is used again and again and so stays in the processor's caches; from there the pages
 * that are whole are filled as by any other call (fill.h), so that each appears whole, on every memory and trap. A frame that
 * is staged for each would be zeroed by the kernel first, which should cost more than the copy (reasoned). A write goes
 * straight from the pages. Neighbours of the batch whose offsets follow each other are one request of the kernel; what it
 * does not do of one is tried page by page, so that only the pages fail that have to.
 *
 * Several requests need not wait for the device one after the other. Past the page cache (O_DIRECT) they are in flight
 * together by io_uring (uring.h). By way of the page cache what is there is read at once, and what is not there the
 * kernel is made to read ahead, before anything is waited for: for that io_uring gains nothing (tried), and buffered
 * writes lose by it. Whatever is not moved by then, for whatever reason, is asked for again with preadv or pwritev, which
 * alone say what is wrong.
 *
 * The pool is not closed, and a process whose children inherit it does not fork, while a batch is under way. No page is claimed during a request.
 */
#include "claim.h"
#include "error.h"
#include "fill.h"
#include "numbers.h"
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define CHUNK BP_URING_BATCH         /* pages that are in flight together, at most */
#define BUFFER ((uint64_t)512 << 10) /* bytes of a buffer that is kept: CHUNK small pages */
#define LARGEST ((uint64_t)2 << 20)  /* bytes of a buffer, or one page */
#define BUFFERS 4                    /* that are kept for the next call */

struct transfer {
    bufpool_pool *pool;
    int fd;
    bool write;
    bool direct; /* past the page cache, to a device */
    const void *caller;
    size_t count;
    struct bp_numbers offsets;
    struct bp_numbers pages;
    struct bp_numbers results; /* 0 or a negative code */
    size_t from;               /* where the chunk begins that is in flight */
    char *buffer;              /* with its content, of a read */
    size_t failures;
    size_t first; /* failure, of the batch */
    char why[900];
};

/* ---- What went wrong ---- */

__attribute__((format(printf, 4, 5))) static void fail(struct transfer *transfer, size_t i, int code,
                                                       const char *format, ...)
{
    transfer->results.at[i] = (uint64_t)(int64_t)code;
    if (transfer->failures++ == 0 || i < transfer->first) {
        transfer->first = i;
        va_list values;
        va_start(values, format);
        vsnprintf(transfer->why, sizeof transfer->why, format, values);
        va_end(values);
    }
}

static int result(const struct transfer *transfer, size_t i)
{
    return (int)(int64_t)transfer->results.at[i];
}

static const char *hint(const struct transfer *transfer, int code)
{
    int flags = fcntl(transfer->fd, F_GETFL);
    return code == -EINVAL && flags >= 0 && flags & O_DIRECT
               ? ": with O_DIRECT every offset has to be a multiple of the device's block, 512 or 4096 bytes as a rule"
           : code == -ESPIPE                    ? ": pass a file or a block device, no pipe or socket"
           : code == -EFAULT && transfer->write ? ": the page was freed or evicted meanwhile"
                                                : "";
}

/* Page i was not moved whole. */
static void fail_request(struct transfer *transfer, size_t i, int64_t code, uint64_t got)
{
    unsigned long long page = transfer->pages.at[i], offset = transfer->offsets.at[i];
    unsigned long long size = transfer->pool->page_size;
    bool ended = code == 0 || (code == -EINVAL && got > 0); /* O_DIRECT cannot go on from an odd end */
    if (ended && !transfer->write) {
        fail(transfer, i, -ENODATA,
             "page %llu of pool \"%s\": the file ends %llu bytes after offset %llu, a page has %llu", page,
             transfer->pool->name, (unsigned long long)got, offset, size);
        return;
    }
    int reason = code == 0 ? -EIO : (int)code;
    fail(transfer, i, reason, "page %llu of pool \"%s\" cannot be %s offset %llu: %s, after %llu of %llu bytes%s", page,
         transfer->pool->name, transfer->write ? "written to" : "read from", offset, strerror(-reason),
         (unsigned long long)got, size, hint(transfer, reason));
}

/* ---- Requests of the kernel ---- */

static char *memory_of(const struct transfer *transfer, size_t i)
{
    return transfer->write ? (char *)bp_page_address(transfer->pool, transfer->pages.at[i])
                           : transfer->buffer + (i - transfer->from) * transfer->pool->page_size;
}

/* Pages [i, end), whose offsets follow each other; of page i so many bytes are done. */
struct run {
    size_t i, end;
    uint64_t got;
};

static size_t gather(const struct transfer *transfer, const struct run *run, struct iovec *parts)
{
    size_t count = 0;
    uint64_t at = run->got;
    for (size_t i = run->i; i < run->end; i++, at = 0) {
        char *from = memory_of(transfer, i) + at;
        size_t length = transfer->pool->page_size - at;
        if (count > 0 && (char *)parts[count - 1].iov_base + parts[count - 1].iov_len == from) {
            parts[count - 1].iov_len += length;
        } else {
            parts[count++] = (struct iovec){from, length};
        }
    }
    return count;
}

static uint64_t offset_of(const struct transfer *transfer, const struct run *run)
{
    return transfer->offsets.at[run->i] + run->got;
}

static void advance(const struct transfer *transfer, struct run *run, int64_t moved)
{
    uint64_t bytes = run->got + (uint64_t)moved;
    run->i += bytes / transfer->pool->page_size;
    run->got = bytes % transfer->pool->page_size;
}

/* The run's pages up to stop: bytes moved, 0 or -errno. */
static int64_t request(const struct transfer *transfer, const struct run *run, size_t stop)
{
    struct iovec parts[CHUNK];
    struct run now = {run->i, stop, run->got};
    size_t count = gather(transfer, &now, parts);
    uint64_t offset = offset_of(transfer, &now);
    atomic_fetch_add_explicit(&transfer->pool->io_requests, 1, memory_order_relaxed);
    return transfer->write ? bp_kernel_pwritev(transfer->fd, parts, count, offset)
                           : bp_kernel_preadv(transfer->fd, parts, count, offset);
}

static void move_run(struct transfer *transfer, struct run *run)
{
    size_t stop = run->end;
    while (run->i < run->end) {
        int64_t moved = request(transfer, run, stop);
        if (moved > 0) {
            advance(transfer, run, moved);
            stop = run->i < stop ? stop : run->end;
        } else if (moved < 0 && stop > run->i + 1) {
            stop = run->i + 1; /* is it this page that fails? */
        } else {
            fail_request(transfer, run->i, moved, run->got);
            run->i++;
            run->got = 0;
            stop = run->end;
        }
    }
}

/* Overlay file systems, for example, do not know how to read without waiting. What is said to them for nothing costs a tenth of
 * reading a page. */
static void announce(const struct transfer *transfer, const struct run *runs, size_t count)
{
    bool device = !bp_kernel_is_memory_file(transfer->fd);
    for (size_t i = 0; i < count && device; i++) {
        bp_kernel_will_need(transfer->fd, offset_of(transfer, &runs[i]),
                            (runs[i].end - runs[i].i) * transfer->pool->page_size);
    }
}

/* Moves what is in the page cache, and has the rest of it read ahead. Where the file ends is for move_run() to say. */
static void move_ready(struct transfer *transfer, struct run *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct iovec parts[CHUNK];
        size_t used = gather(transfer, &runs[i], parts);
        int64_t moved = bp_kernel_preadv_ahead(transfer->fd, parts, used, offset_of(transfer, &runs[i]));
        if (moved > 0) {
            atomic_fetch_add_explicit(&transfer->pool->io_requests, 1, memory_order_relaxed);
            advance(transfer, &runs[i], moved);
        } else if (moved == -EOPNOTSUPP) {
            announce(transfer, runs + i, count - i);
            return;
        } else if (moved < 0 && moved != -EAGAIN) {
            return;
        }
    }
}

/* All in flight together, where there is a ring. */
static void move_queued(struct transfer *transfer, struct run *runs, size_t count)
{
    struct bp_uring *ring = bp_uring_take();
    if (ring == NULL) {
        return;
    }
    struct iovec parts[CHUNK];
    struct bp_request requests[CHUNK];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        requests[i].parts = parts + used;
        requests[i].count = gather(transfer, &runs[i], requests[i].parts);
        requests[i].offset = offset_of(transfer, &runs[i]);
        used += requests[i].count;
    }
    bp_uring_run(ring, transfer->fd, transfer->write, requests, count);
    bp_uring_give(ring);
    uint64_t queued = 0;
    for (size_t i = 0; i < count; i++) {
        if (requests[i].result > 0) {
            queued++;
            advance(transfer, &runs[i], requests[i].result);
        }
    }
    atomic_fetch_add_explicit(&transfer->pool->io_requests, queued, memory_order_relaxed);
    atomic_fetch_add_explicit(&transfer->pool->io_queued, queued, memory_order_relaxed);
}

/* The runs among the pages [from, end) that have not failed yet. */
static size_t split(const struct transfer *transfer, size_t from, size_t end, struct run *runs)
{
    const uint64_t *offsets = transfer->offsets.at;
    size_t count = 0;
    while (from < end) {
        size_t stop = from + 1;
        if (result(transfer, from) == 0) {
            while (stop < end && result(transfer, stop) == 0 &&
                   offsets[stop] == offsets[stop - 1] + transfer->pool->page_size) {
                stop++;
            }
            runs[count++] = (struct run){from, stop, 0};
        }
        from = stop;
    }
    return count;
}

static void move(struct transfer *transfer, size_t from, size_t end)
{
    struct run runs[CHUNK];
    size_t count = split(transfer, from, end, runs);
    if (count > 1 && transfer->direct) {
        move_queued(transfer, runs, count);
    } else if (count > 1 && !transfer->write) {
        move_ready(transfer, runs, count);
    }
    for (size_t i = 0; i < count; i++) {
        move_run(transfer, &runs[i]);
    }
}

/* ---- Reading ---- */

static bool claim(struct transfer *transfer, size_t i)
{
    int code = result(transfer, i);
    if (code == 0) {
        code = bp_claim_hole(transfer->pool, transfer->pages.at[i], BP_HOLE_FREE | BP_HOLE_EVICTED, "read into");
        if (code < 0) {
            fail(transfer, i, code, "%s", bp_error_text());
        }
    }
    return code == 0;
}

/* Fills pages [from, end), all or none; claimed, and no longer so where it fails. */
static int fill(struct transfer *transfer, size_t from, size_t end, struct bp_source *source)
{
    source->data = memory_of(transfer, from);
    source->size = (end - from) * transfer->pool->page_size;
    source->caller = transfer->caller;
    return bp_fill(transfer->pool, transfer->pages.at + from, end - from, source);
}

static void fill_one(struct transfer *transfer, size_t i, struct bp_source *source)
{
    int code = fill(transfer, i, i + 1, source);
    if (code < 0) {
        code = bp_fill_error(transfer->pool, code, source, 1);
        fail(transfer, i, code, "page %llu: %s", (unsigned long long)transfer->pages.at[i], bp_error_text());
    }
}

/* Pages that are claimed. What fails together is tried one by one: frames may do for some. */
static void fill_claimed(struct transfer *transfer, size_t from, size_t end)
{
    struct bp_source source;
    if (end == from + 1) {
        fill_one(transfer, from, &source);
    } else if (end > from && fill(transfer, from, end, &source) < 0) {
        for (size_t i = from; i < end; i++) {
            if (claim(transfer, i)) {
                fill_one(transfer, i, &source);
            }
        }
    }
}

/* The pages of the chunk that are whole appear. */
static void show(struct transfer *transfer, size_t from, size_t end)
{
    size_t first = from; /* of those that are claimed and not yet filled */
    for (size_t i = from; i < end; i++) {
        if (!claim(transfer, i)) {
            fill_claimed(transfer, first, i);
            first = i + 1;
        }
    }
    fill_claimed(transfer, first, end);
}

static _Atomic(void *) kept[BUFFERS];

static int take_buffer(uint64_t size, void **buffer)
{
    for (size_t i = 0; size == BUFFER && i < BUFFERS; i++) {
        *buffer = atomic_exchange(&kept[i], NULL);
        if (*buffer != NULL) {
            return 0;
        }
    }
    int code =
        bp_kernel_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, buffer);
    if (code == 0) {
        bp_kernel_madvise(*buffer, size, MADV_DONTDUMP);
        if (size > BUFFER) {
            bp_kernel_madvise(*buffer, size, MADV_HUGEPAGE);
        }
    }
    return code;
}

static void give_buffer(void *buffer, uint64_t size)
{
    for (size_t i = 0; size == BUFFER && i < BUFFERS; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&kept[i], &none, buffer)) {
            return;
        }
    }
    bp_kernel_munmap(buffer, size);
}

static int read_chunks(struct transfer *transfer)
{
    uint64_t page_size = transfer->pool->page_size;
    bool many = page_size > BUFFER / CHUNK && transfer->count > BUFFER / page_size;
    uint64_t size = page_size > LARGEST ? page_size : many ? LARGEST : BUFFER;
    size_t pages = size / page_size > CHUNK ? CHUNK : size / page_size;
    void *buffer;
    int code = take_buffer(size, &buffer);
    if (code < 0) {
        return bp_error(code == -ENOMEM ? BUFPOOL_EEXHAUSTED : code,
                        "cannot read into pool \"%s\": no memory for a buffer of %llu bytes (or RLIMIT_AS, ulimit -v)",
                        transfer->pool->name, (unsigned long long)size);
    }
    transfer->buffer = buffer;
    for (size_t from = 0; from < transfer->count; from += pages) {
        size_t end = transfer->count - from < pages ? transfer->count : from + pages;
        transfer->from = from;
        move(transfer, from, end);
        show(transfer, from, end);
    }
    give_buffer(buffer, size);
    return 0;
}

/* ---- Writing ---- */

static bool is_allocated(const struct transfer *transfer, size_t i, uint16_t *state)
{
    *state = bp_pages_load(&transfer->pool->pages, transfer->pages.at[i]) & BP_STATE_MASK;
    return *state == BUFPOOL_STATE_ALLOCATED;
}

static void check_allocated(struct transfer *transfer, size_t i, const char *when)
{
    uint16_t state;
    if (result(transfer, i) == 0 && !is_allocated(transfer, i, &state)) {
        fail(transfer, i, BUFPOOL_ESTATE, "cannot write page %llu of pool \"%s\": it is %s%s",
             (unsigned long long)transfer->pages.at[i], transfer->pool->name, bufpool_state_name((bufpool_state)state),
             when);
    }
}

/* A page whose pins are counted may be closed: it is pinned for reading while it is written. */
static bool pin(struct transfer *transfer, size_t i)
{
    uint64_t page = transfer->pages.at[i];
    if (result(transfer, i) < 0 || !bp_pins_counts(&transfer->pool->pins, page)) {
        return false;
    }
    int code = bp_pins_add(transfer->pool, page, false, transfer->caller);
    if (code < 0) {
        fail(transfer, i, code, "%s", bp_error_text());
    }
    return code == 0;
}

static void write_chunk(struct transfer *transfer, size_t from, size_t end)
{
    bool pinned[CHUNK];
    for (size_t i = from; i < end; i++) {
        check_allocated(transfer, i, "");
        pinned[i - from] = pin(transfer, i);
    }
    move(transfer, from, end);
    for (size_t i = from; i < end; i++) {
        if (pinned[i - from]) {
            bp_pins_remove(transfer->pool, transfer->pages.at[i], BP_PIN_OF_READING, transfer->caller);
        }
        check_allocated(transfer, i,
                        " by now, freed or evicted while it was written: the file may hold anything there");
    }
}

static int write_chunks(struct transfer *transfer)
{
    for (size_t from = 0; from < transfer->count; from += CHUNK) {
        write_chunk(transfer, from, transfer->count - from < CHUNK ? transfer->count : from + CHUNK);
    }
    return 0;
}

/* ---- Checks ---- */

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int check_twice(const struct transfer *transfer)
{
    const uint64_t *pages = transfer->pages.at;
    size_t i = 1;
    while (i < transfer->count && pages[i - 1] < pages[i]) {
        i++;
    }
    if (i >= transfer->count) {
        return 0;
    }
    struct bp_numbers sorted;
    int code = bp_numbers_copy(&sorted, transfer->count, pages);
    if (code < 0) {
        return code;
    }
    qsort(sorted.at, transfer->count, sizeof *sorted.at, compare);
    for (i = 1; i < transfer->count && code == 0; i++) {
        if (sorted.at[i] == sorted.at[i - 1]) {
            code = bp_error(BUFPOOL_EARGUMENT, "page %llu comes twice in this batch: give each page once",
                            (unsigned long long)sorted.at[i]);
        }
    }
    bp_numbers_close(&sorted);
    return code;
}

static int check(struct transfer *transfer)
{
    const bufpool_pool *pool = transfer->pool;
    for (size_t i = 0; i < transfer->count; i++) {
        uint64_t page = transfer->pages.at[i], offset = transfer->offsets.at[i];
        if (page >= pool->pages.count) {
            return bp_error(BUFPOOL_EARGUMENT, "pages[%zu], %llu, is not in pool \"%s\": its pages are 0 to %llu", i,
                            (unsigned long long)page, pool->name, (unsigned long long)(pool->pages.count - 1));
        }
        if (offset > (uint64_t)INT64_MAX - pool->page_size) {
            return bp_error(BUFPOOL_EARGUMENT, "offsets[%zu], %llu, is too large: a page has to end before 2^63 bytes",
                            i, (unsigned long long)offset);
        }
    }
    int flags = fcntl(transfer->fd, F_GETFL);
    if (flags < 0) {
        return bp_error(-EBADF, "fd %d is not open", transfer->fd);
    }
    if ((flags & O_ACCMODE) == (transfer->write ? O_RDONLY : O_WRONLY)) {
        return bp_error(-EBADF, "fd %d is not open for %s", transfer->fd, transfer->write ? "writing" : "reading");
    }
    if (transfer->write && flags & O_APPEND) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "fd %d is open with O_APPEND, so that the kernel writes at the end of the file, whatever the offset: "
            "open it without",
            transfer->fd);
    }
    /* What has no device behind it would be made by a worker of the kernel. */
    transfer->direct = flags & O_DIRECT && !bp_kernel_is_memory_file(transfer->fd);
    return check_twice(transfer);
}

/* ---- The calls ---- */

static int run(struct transfer *transfer)
{
    int code = bp_pool_enter(transfer->pool);
    if (code < 0) {
        return code;
    }
    code = check(transfer);
    if (code == 0 && transfer->count > 0) {
        code = transfer->write ? write_chunks(transfer) : read_chunks(transfer);
        uint64_t whole = code == 0 ? transfer->count - transfer->failures : 0;
        atomic_fetch_add_explicit(transfer->write ? &transfer->pool->pages_written : &transfer->pool->pages_read, whole,
                                  memory_order_relaxed);
    }
    bp_pool_leave(transfer->pool);
    return code;
}

/* Outside the pool: a stray access to the caller's memory may leave by longjmp. */
static int tell(const struct transfer *transfer, int *results)
{
    for (size_t i = 0; results != NULL && i < transfer->count; i++) {
        results[i] = result(transfer, i);
    }
    if (transfer->failures == 0) {
        return 0;
    }
    size_t whole = transfer->count - transfer->failures;
    int code = bp_error(result(transfer, transfer->first), "%s; %zu of %zu pages of this call are done", transfer->why,
                        whole, transfer->count);
    bp_error_set_done(whole);
    return code;
}

/* Field by field: most of it is room for a batch, which is not to be cleared for nothing. */
static void begin(struct transfer *transfer, bufpool_pool *pool, int fd, bool write, const void *caller)
{
    transfer->pool = pool;
    transfer->fd = fd;
    transfer->write = write;
    transfer->caller = caller;
}

static int call(struct transfer *transfer, size_t count, const uint64_t *offsets, const uint64_t *pages, int *results)
{
    transfer->count = count;
    transfer->failures = 0;
    if (transfer->count > 0 && (offsets == NULL || pages == NULL)) {
        return bp_error(BUFPOOL_EARGUMENT, "%s is NULL: pass %zu of them", offsets == NULL ? "offsets" : "pages",
                        transfer->count);
    }
    if (transfer->pool != NULL && transfer->count > transfer->pool->pages.count) {
        return bp_error(BUFPOOL_EARGUMENT, "count is %zu: pool \"%s\" has %llu pages, and each can come once",
                        transfer->count, transfer->pool->name, (unsigned long long)transfer->pool->pages.count);
    }
    int code = bp_numbers_copy(&transfer->offsets, transfer->count, offsets);
    if (code < 0) {
        return code;
    }
    code = bp_numbers_copy(&transfer->pages, transfer->count, pages);
    if (code == 0) {
        code = bp_numbers_open(&transfer->results, transfer->count);
        if (code == 0) {
            memset(transfer->results.at, 0, transfer->count * sizeof *transfer->results.at);
            code = run(transfer);
            code = code == 0 ? tell(transfer, results) : code;
            bp_numbers_close(&transfer->results);
        }
        bp_numbers_close(&transfer->pages);
    }
    bp_numbers_close(&transfer->offsets);
    return code;
}

int bufpool_read_from(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages,
                      int *results)
{
    struct transfer transfer;
    begin(&transfer, pool, fd, false, BP_CALLER());
    return call(&transfer, count, offsets, pages, results);
}

int bufpool_write_to(bufpool_pool *pool, int fd, size_t count, const uint64_t *offsets, const uint64_t *pages,
                     int *results)
{
    struct transfer transfer;
    begin(&transfer, pool, fd, true, BP_CALLER());
    return call(&transfer, count, offsets, pages, results);
}
