/*
 * The kernel fails amid a batch: a signal, no memory when some requests are taken, a descriptor that is gone, requests that
 * are cut short or cancelled, EIO of one page. What was taken is waited for, only the pages fail that have to, and the next
 * batch is served as ever.
 *
 * Linked with --wrap, so that what liburing does, and the library's requests, arrive here.
 */
#include "direct.h"
#include "uring.h"

#include "kernel.h"

#ifdef BP_HAVE_URING

#include <liburing.h>

static int fd;
static unsigned signals;  /* entries to come that a signal interrupts */
static unsigned taken;    /* requests that the kernel takes before it fails, */
static int then;          /* with this */
static size_t most;       /* bytes that a request of a ring moves; 0: all */
static int every_third;   /* what every third request of a ring ends with */
static uint64_t bad_page; /* of the file, that cannot be read; 0: none */

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);
void __real_bp_uring_run(struct bp_uring *ring, int file, bool write, struct bp_request *requests, size_t count);
void __wrap_bp_uring_run(struct bp_uring *ring, int file, bool write, struct bp_request *requests, size_t count);
int64_t __real_bp_kernel_preadv(int file, const struct iovec *parts, size_t count, uint64_t offset);
int64_t __wrap_bp_kernel_preadv(int file, const struct iovec *parts, size_t count, uint64_t offset);

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
    if (signals > 0) {
        signals--;
        return -EINTR;
    }
    if (then == 0 || wait < taken) {
        return __real_io_uring_submit_and_wait(ring, wait);
    }
    ring->sq.sqe_tail -= wait - taken; /* liburing hands over what is before */
    int code = taken == 0 ? 0 : io_uring_submit(ring);
    ring->sq.sqe_tail += wait - taken;
    CHECK_IS(code, ==, (int)taken);
    code = then;
    then = 0;
    return code;
}

void __wrap_bp_uring_run(struct bp_uring *ring, int file, bool write, struct bp_request *requests, size_t count)
{
    __real_bp_uring_run(ring, file, write, requests, count);
    for (size_t i = 0; i < count; i++) {
        if (most > 0 && requests[i].result > (int64_t)most) {
            requests[i].result = (int64_t)most;
        }
        if (every_third < 0 && i % 3 == 0) {
            requests[i].result = every_third;
        }
        if (bad_page > 0 && requests[i].offset == bad_page * GRANULE) {
            requests[i].result = -EIO;
        }
    }
}

int64_t __wrap_bp_kernel_preadv(int file, const struct iovec *parts, size_t count, uint64_t offset)
{
    return bad_page > 0 && offset == bad_page * GRANULE ? -EIO : __real_bp_kernel_preadv(file, parts, count, offset);
}

static void check_failing(bufpool_pool *pool, unsigned before, int code)
{
    for (int again = 0; again < 3; again++) {
        taken = before;
        then = code;
        CHECK_IS(read_all(pool, fd), ==, before);
        CHECK_IS(then, ==, 0);
        CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    }
}

int main(void)
{
    harness_begin();
    skip_without_uring();
    fd = open_direct();
    bufpool_pool *pool = open_pool("anon", NULL, "abort", DIRECT_PAGES * GRANULE, GRANULE);
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    int descriptors = count_fds();
    signals = 5;
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    CHECK_IS(signals, ==, 0);
    check_failing(pool, 0, -EAGAIN);
    check_failing(pool, 1, -ENOMEM);
    check_failing(pool, 77, -EBADF);
    check_failing(pool, DIRECT_PAGES, -ENOMEM);
    CHECK_IS(count_fds(), ==, descriptors);

    /* Pairs of neighbours, of which each request moves one page. */
    for (uint64_t i = 0; i < DIRECT_PAGES; i++) {
        offsets[i] = (i / 2 * 4 + i % 2 + 1) * GRANULE;
    }
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES / 2);
    most = GRANULE;
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES / 2);
    most = 0;
    static const int codes[] = {-EINTR, -ECANCELED, -EAGAIN, -EIO, -EOPNOTSUPP, -EINVAL};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        every_third = codes[i];
        CHECK_IS(read_all(pool, fd), <, DIRECT_PAGES / 2);
    }
    every_third = 0;

    bad_page = offsets[24] / GRANULE;
    CHECK_IS(bufpool_read_from(pool, fd, DIRECT_PAGES, offsets, pages, results), ==, -EIO);
    CHECK_IS(bufpool_last_done(), ==, DIRECT_PAGES - 1);
    for (size_t i = 0; i < DIRECT_PAGES; i++) {
        CHECK_IS(results[i], ==, i == 24 ? -EIO : 0);
        if (i != 24) {
            check_content(pool, i);
        }
    }
    CHECK(state_of(pool, pages[24]) != BUFPOOL_STATE_ALLOCATED);
    CHECK_OK(bufpool_close(pool));
    return 0;
}

#else

int main(void)
{
    harness_begin();
    skip_without_uring();
    return 0;
}

#endif
