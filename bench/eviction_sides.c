/*
 * eviction_sides.c: how a page gets its frame and loses it. A side is a table of functions: `evict` takes the frames of
 * some pages, `load` fills a page that has none, or `exchange` makes a victim's frame the new page's. Pages have the
 * addresses that their numbers give, one for each page of the file; only "recycled" has one for each slot, which the
 * engine has to look up. Each side reads with one pread() a page, into the page where that can be, and else into a
 * buffer of its own that stays in the cache.
 */
#include "must.h"

#include "eviction.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096
#define MOST_BATCH 512
#define BUFFERED 64 /* pages: the most that a scan reads at once */

static void read_pages(const struct eviction *run, void *to, uint64_t page, uint64_t count)
{
    ssize_t size = pread(run->fd, to, count * PAGE, (off_t)(page * PAGE));
    if (size != (ssize_t)(count * PAGE)) {
        fprintf(stderr, "bench: pread of page %llu: %zd, %m\n", (unsigned long long)page, size);
        abort();
    }
}

static char *at(const struct eviction *run, uint64_t page)
{
    return (char *)run->base + page * PAGE;
}

/* ---- Plain anonymous mmap ---- */

static void open_anonymous(struct eviction *run, uint64_t pages)
{
    run->base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (run->base == MAP_FAILED) {
        abort();
    }
    must_call(madvise(run->base, pages * PAGE, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
}

static void plain_open_side(struct eviction *run)
{
    open_anonymous(run, run->pages);
}

static void plain_close_side(struct eviction *run)
{
    munmap(run->base, run->pages * PAGE);
}

static void plain_evict(struct eviction *run, const uint64_t *pages, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        must_call(madvise(at(run, pages[i]), PAGE, MADV_DONTNEED), "MADV_DONTNEED");
    }
}

static void plain_load(struct eviction *run, uint64_t page, uint64_t slot)
{
    (void)slot;
    read_pages(run, at(run, page), page, 1);
}

static void plain_scan(struct eviction *run, uint64_t first, uint64_t before, uint64_t count)
{
    must_call(madvise(at(run, before), count * PAGE, MADV_DONTNEED), "MADV_DONTNEED");
    read_pages(run, at(run, first), first, count);
}

/* ---- The same, with one call for all victims: Linux 6.13 or so, and one's own process as a file descriptor ---- */

static int self = -1;

static void batched_open_side(struct eviction *run)
{
    if (self < 0) {
        self = must_call((int)syscall(SYS_pidfd_open, getpid(), 0), "pidfd_open");
    }
    open_anonymous(run, run->pages);
}

static void batched_evict(struct eviction *run, const uint64_t *pages, uint64_t count)
{
    struct iovec ranges[MOST_BATCH];
    for (uint64_t i = 0; i < count; i++) {
        ranges[i] = (struct iovec){at(run, pages[i]), PAGE};
    }
    if (syscall(SYS_process_madvise, self, ranges, count, MADV_DONTNEED, 0) != (long)(count * PAGE)) {
        plain_evict(run, pages, count);
    }
}

/* ---- Frames that are kept for ever, and not trapped ---- */

static void recycled_open_side(struct eviction *run)
{
    open_anonymous(run, run->frames);
}

static void recycled_close_side(struct eviction *run)
{
    munmap(run->base, run->frames * PAGE);
}

static void recycled_evict(struct eviction *run, const uint64_t *pages, uint64_t count)
{
    (void)run;
    (void)pages;
    (void)count;
}

static void recycled_load(struct eviction *run, uint64_t page, uint64_t slot)
{
    read_pages(run, at(run, slot), page, 1);
}

static void recycled_scan(struct eviction *run, uint64_t first, uint64_t before, uint64_t count)
{
    (void)before;
    read_pages(run, at(run, first % run->frames), first, count);
}

/* ---- The file itself ---- */

static void file_open_side(struct eviction *run)
{
    run->base = mmap(NULL, run->pages * PAGE, PROT_READ, MAP_SHARED, run->fd, 0);
    if (run->base == MAP_FAILED) {
        abort();
    }
}

static void file_random_open_side(struct eviction *run)
{
    file_open_side(run);
    must_call(madvise(run->base, run->pages * PAGE, MADV_RANDOM), "MADV_RANDOM");
}

static void file_sequential_open_side(struct eviction *run)
{
    file_open_side(run);
    must_call(madvise(run->base, run->pages * PAGE, MADV_SEQUENTIAL), "MADV_SEQUENTIAL");
}

/* ---- bufpool: a page that is not resident is evicted, and traps ---- */

static void pool_open_side(struct eviction *run)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = run->pages * PAGE;
    config.page_size = PAGE;
    config.trap = "uffd";
    must(bufpool_open(&config, &run->pool));
    run->base = bufpool_address(run->pool, 0);
    run->buffer = aligned_alloc(PAGE, BUFFERED * PAGE);
    if (run->buffer == NULL) {
        abort();
    }
    memset(run->buffer, 0, BUFFERED * PAGE);
    for (uint64_t page = 0; page < run->pages; page++) {
        must(bufpool_allocate_at(run->pool, page, NULL, 0)); /* its number is taken from here on */
        must(bufpool_evict(run->pool, page));
    }
}

static void pool_close_side(struct eviction *run)
{
    must(bufpool_close(run->pool));
    free(run->buffer);
}

static void pool_evict(struct eviction *run, const uint64_t *pages, uint64_t count)
{
    must(bufpool_evict_many(run->pool, count, pages));
}

static void pool_load(struct eviction *run, uint64_t page, uint64_t slot)
{
    (void)slot;
    read_pages(run, run->buffer, page, 1);
    must(bufpool_populate(run->pool, page, run->buffer, PAGE));
}

static void pool_scan(struct eviction *run, uint64_t first, uint64_t before, uint64_t count)
{
    uint64_t pages[MOST_BATCH];
    for (uint64_t i = 0; i < count; i++) {
        pages[i] = before + i;
    }
    must(bufpool_evict_many(run->pool, count, pages));
    read_pages(run, run->buffer, first, count);
    for (uint64_t i = 0; i < count; i++) {
        pages[i] = first + i;
    }
    must(bufpool_populate_many(run->pool, count, pages, run->buffer));
}

/* ---- bufpool, victims leave with their frames, and the new pages' content is read into those ---- */

static void staged_open_side(struct eviction *run)
{
    pool_open_side(run);
    run->staged = calloc(run->batch, sizeof *run->staged);
    if (run->staged == NULL) {
        abort();
    }
}

static void staged_close_side(struct eviction *run)
{
    must(bufpool_unstage(run->pool, run->staged_count, run->staged));
    free(run->staged);
    pool_close_side(run);
}

/* All slots are taken, so all frames that were withdrawn are published. */
static void staged_evict(struct eviction *run, const uint64_t *pages, uint64_t count)
{
    must(bufpool_withdraw(run->pool, count, pages, run->staged));
    run->staged_count = count;
}

static void staged_load(struct eviction *run, uint64_t page, uint64_t slot)
{
    (void)slot;
    void *frame;
    if (run->staged_count > 0) {
        frame = run->staged[--run->staged_count];
    } else {
        must(bufpool_stage(run->pool, 1, &frame));
    }
    read_pages(run, frame, page, 1);
    must(bufpool_publish(run->pool, 1, &frame, &page));
}

static void staged_scan(struct eviction *run, uint64_t first, uint64_t before, uint64_t count)
{
    uint64_t pages[BUFFERED] = {0};
    void *frames[BUFFERED];
    struct iovec parts[BUFFERED];
    for (uint64_t i = 0; i < count; i++) {
        pages[i] = before + i;
    }
    must(bufpool_withdraw(run->pool, count, pages, frames));
    for (uint64_t i = 0; i < count; i++) {
        pages[i] = first + i;
        parts[i] = (struct iovec){frames[i], PAGE};
    }
    if (preadv(run->fd, parts, (int)count, (off_t)(first * PAGE)) != (ssize_t)(count * PAGE)) {
        perror("preadv");
        abort();
    }
    must(bufpool_publish(run->pool, count, frames, pages));
}

/* ---- bufpool, the victim's frame is the new page's at once, and read into in place ---- */

static void pool_exchange(struct eviction *run, uint64_t victim, uint64_t page)
{
    must(bufpool_replace(run->pool, victim, page));
    read_pages(run, at(run, page), page, 1);
}

static const struct eviction_side sides[] = {
    {"plain", false, plain_open_side, plain_close_side, plain_evict, plain_load, NULL, plain_scan},
    {"batched", false, batched_open_side, plain_close_side, batched_evict, plain_load, NULL, plain_scan},
    {"recycled", true, recycled_open_side, recycled_close_side, recycled_evict, recycled_load, NULL, recycled_scan},
    {"file", false, file_open_side, plain_close_side, NULL, NULL, NULL, NULL},
    {"file, random", false, file_random_open_side, plain_close_side, NULL, NULL, NULL, NULL},
    {"file, sequential", false, file_sequential_open_side, plain_close_side, NULL, NULL, NULL, NULL},
    {"populate", false, pool_open_side, pool_close_side, pool_evict, pool_load, NULL, pool_scan},
    {"publish", false, staged_open_side, staged_close_side, staged_evict, staged_load, NULL, staged_scan},
    {"replace", false, pool_open_side, pool_close_side, pool_evict, pool_load, pool_exchange, NULL},
};

const struct eviction_side *eviction_side_named(const char *name)
{
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        if (strcmp(sides[i].name, name) == 0) {
            return &sides[i];
        }
    }
    fprintf(stderr, "bench: no side \"%s\"\n", name);
    abort();
}
