/*
 * The kernel does less than it was asked for: short counts of every length, EIO of one page amid a run, no frames. Only the
 * pages fail that have to, and they are what they were.
 *
 * Linked with --wrap, so that the library's calls of bp_kernel_preadv and bp_kernel_pwritev arrive here.
 */
#include "harness.h"
#include "kernel.h"
#include "ways.h"

#include <sys/uio.h>

#define PAGES 24

static size_t most = SIZE_MAX;     /* bytes that a request moves */
static uint64_t bad_from, bad_end; /* bytes of the file that cannot be had */
static int looks;                  /* requests that do not wait */
static int no_frames;              /* UFFDIO_COPY fails, */
static uintptr_t no_frame_at;      /* or here only */

int64_t __real_bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t __wrap_bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t __wrap_bp_kernel_preadv_ahead(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t __real_bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int64_t __wrap_bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset);
int __real_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done);

int __wrap_bp_kernel_uffd_copy(int uffd, uintptr_t to, const void *from, size_t length, size_t *done)
{
    if (no_frames || (no_frame_at >= to && no_frame_at < to + length)) {
        *done = 0;
        return -ENOMEM;
    }
    return __real_bp_kernel_uffd_copy(uffd, to, from, length, done);
}

/* Cuts a request to what it may do. Returns the bytes, 0 if it fails. */
static size_t cut(struct iovec *cut_parts, const struct iovec *parts, size_t *count, uint64_t offset)
{
    size_t left = most;
    if (bad_from < bad_end && offset < bad_end && (offset >= bad_from || left > bad_from - offset)) {
        left = offset < bad_from ? bad_from - offset : 0;
    }
    size_t used = 0, total = 0;
    for (size_t i = 0; i < *count && left > 0; i++) {
        cut_parts[used] = parts[i];
        if (cut_parts[used].iov_len > left) {
            cut_parts[used].iov_len = left;
        }
        left -= cut_parts[used].iov_len;
        total += cut_parts[used++].iov_len;
    }
    *count = used;
    return total;
}

int64_t __wrap_bp_kernel_preadv(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    struct iovec less[PAGES];
    CHECK_IS(count, <=, PAGES);
    return cut(less, parts, &count, offset) == 0 ? -EIO : __real_bp_kernel_preadv(fd, less, count, offset);
}

/* Every third run is not in the page cache; the others are there, in a file system that can tell (a memfd is in none). */
int64_t __wrap_bp_kernel_preadv_ahead(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    struct iovec less[PAGES];
    CHECK_IS(count, <=, PAGES);
    return looks++ % 3 == 0                        ? -EAGAIN
           : cut(less, parts, &count, offset) == 0 ? -EIO
                                                   : __real_bp_kernel_preadv(fd, less, count, offset);
}

int64_t __wrap_bp_kernel_pwritev(int fd, const struct iovec *parts, size_t count, uint64_t offset)
{
    struct iovec less[PAGES];
    CHECK_IS(count, <=, PAGES);
    return cut(less, parts, &count, offset) == 0 ? -EIO : __real_bp_kernel_pwritev(fd, less, count, offset);
}

static int fd;
static uint64_t pages[PAGES], offsets[PAGES];
static int results[PAGES];

static void check_content(bufpool_pool *pool, size_t i)
{
    const uint64_t *words = bufpool_address(pool, pages[i]);
    for (size_t n = 0; n < GRANULE / 8; n++) {
        CHECK_IS(words[n], ==, i * 1000 + n);
    }
}

static void check_short(bufpool_pool *pool, int to)
{
    static const size_t lengths[] = {1000, 4095, 4096, 4097, 9000, 50000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        most = lengths[i];
        CHECK_OK(bufpool_read_from(pool, fd, PAGES, offsets, pages, results));
        CHECK_OK(bufpool_write_to(pool, to, PAGES, offsets, pages, results));
        CHECK_OK(bufpool_evict_many(pool, PAGES, pages));
        most = SIZE_MAX;
        CHECK_OK(bufpool_read_from(pool, to, PAGES, offsets, pages, NULL));
        for (size_t n = 0; n < PAGES; n++) {
            check_content(pool, n);
        }
        CHECK_OK(bufpool_free_many(pool, PAGES, pages));
        CHECK_OK(ftruncate(to, 0));
    }
}

static void check_bad(bufpool_pool *pool, int to, uint64_t from, uint64_t end, size_t largest)
{
    bad_from = from;
    bad_end = end;
    most = largest;
    CHECK_IS(bufpool_read_from(pool, fd, PAGES, offsets, pages, results), ==, -EIO);
    CHECK_HAS(last_error(), "cannot be read from offset");
    size_t failed = 0;
    for (size_t i = 0; i < PAGES; i++) {
        bool bad = i * GRANULE < end && (i + 1) * GRANULE > from;
        bufpool_state state;
        CHECK_IS(results[i], ==, bad ? -EIO : 0);
        CHECK_OK(bufpool_page_state(pool, pages[i], &state));
        CHECK_IS(state == BUFPOOL_STATE_ALLOCATED, ==, !bad);
        if (bad) {
            failed++;
            CHECK_OK(bufpool_allocate_at(pool, pages[i], NULL, 0));
        } else {
            check_content(pool, i);
        }
    }
    CHECK_IS(bufpool_write_to(pool, to, PAGES, offsets, pages, results), ==, -EIO);
    for (size_t i = 0; i < PAGES; i++) {
        CHECK_IS(results[i], ==, i * GRANULE < end && (i + 1) * GRANULE > from ? -EIO : 0);
    }
    CHECK_IS(bufpool_last_done(), ==, PAGES - failed);
    bad_from = bad_end = 0;
    most = SIZE_MAX;
    CHECK_OK(bufpool_free_many(pool, PAGES, pages));
}

int main(void)
{
    harness_begin();
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 64 * GRANULE;
    bufpool_pool *pool = NULL;
    bp_ways_choice = BP_CHOSEN; /* no frame is kept and used again, whatever is quicker here */
    CHECK_OK(bufpool_open(&config, &pool));
    fd = memfd_create("data", MFD_CLOEXEC);
    int to = memfd_create("copy", MFD_CLOEXEC);
    CHECK(fd >= 0 && to >= 0);
    for (uint64_t i = 0; i < PAGES; i++) {
        uint64_t words[GRANULE / 8];
        for (uint64_t n = 0; n < GRANULE / 8; n++) {
            words[n] = i * 1000 + n;
        }
        CHECK_IS(pwrite(fd, words, GRANULE, (off_t)(i * GRANULE)), ==, GRANULE);
        pages[i] = 60 - 2 * i;
        offsets[i] = i * GRANULE;
    }
    check_short(pool, to);
    check_bad(pool, to, 0, 1, SIZE_MAX);
    check_bad(pool, to, 5 * GRANULE + 100, 5 * GRANULE + 101, SIZE_MAX);
    check_bad(pool, to, 5 * GRANULE + 100, 8 * GRANULE, 3000);
    check_bad(pool, to, (PAGES - 1) * GRANULE, PAGES * GRANULE, SIZE_MAX);
    check_bad(pool, to, 0, PAGES * GRANULE, SIZE_MAX);
    /* Pages past the end of the file do not keep the others from being read ahead. */
    uint64_t far[] = {100 * GRANULE, 102 * GRANULE, 2 * GRANULE, 104 * GRANULE, 4 * GRANULE};
    looks = 1;
    CHECK_IS(bufpool_read_from(pool, fd, 5, far, pages, results), ==, -ENODATA);
    CHECK_IS(looks, ==, 6);
    CHECK(results[0] == -ENODATA && results[2] == 0 && results[4] == 0);
    CHECK_OK(bufpool_free(pool, pages[2]));
    CHECK_OK(bufpool_free(pool, pages[4]));
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &statistics));
    if (strcmp(statistics.trap, "uffd") == 0) {
        no_frames = 1;
        CHECK_IS(bufpool_read_from(pool, fd, 1, offsets, pages, results), ==, BUFPOOL_EEXHAUSTED);
        CHECK_IS(results[0], ==, BUFPOOL_EEXHAUSTED);
        no_frames = 0;
        CHECK_OK(bufpool_read_from(pool, fd, 1, offsets, pages, results));
        check_content(pool, 0);
        CHECK_OK(bufpool_free(pool, pages[0]));
        /* Half of them evicted before: all that has a frame is there. */
        for (size_t i = 1; i < PAGES; i += 2) {
            CHECK_OK(bufpool_allocate_at(pool, pages[i], NULL, 0));
            CHECK_OK(bufpool_evict(pool, pages[i]));
        }
        no_frame_at = (uintptr_t)bufpool_address(pool, pages[10]);
        CHECK_IS(bufpool_read_from(pool, fd, PAGES, offsets, pages, results), ==, BUFPOOL_EEXHAUSTED);
        CHECK_IS(bufpool_last_done(), ==, PAGES - 1);
        for (size_t i = 0; i < PAGES; i++) {
            CHECK_IS(results[i], ==, i == 10 ? BUFPOOL_EEXHAUSTED : 0);
            if (i != 10) {
                check_content(pool, i);
            }
        }
        CHECK_IS(state_of(pool, pages[10]), !=, BUFPOOL_STATE_ALLOCATED);
        no_frame_at = 0;
        CHECK_OK(bufpool_read_from(pool, fd, 1, offsets + 10, pages + 10, results));
    }
    CHECK_OK(bufpool_close(pool));
    return 0;
}
