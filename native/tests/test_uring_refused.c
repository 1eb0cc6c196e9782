/* io_uring is refused, or wanting: everything works without it, the reason is named, and what can change is tried again.
 *
 * Linked with --wrap, so that what liburing does arrives here. */
#include "direct.h"

#ifdef BP_HAVE_URING

#include <liburing.h>
#include <sys/resource.h>

static int fd;
static int setup_fails, enter_fails; /* -errno */
static int setups, enters;

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    setups++;
    return setup_fails < 0 ? setup_fails : __real_io_uring_queue_init(entries, ring, flags);
}

int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
    enters++;
    return enter_fails < 0 ? enter_fails : __real_io_uring_submit_and_wait(ring, wait);
}

static bufpool_pool *open_here(void)
{
    return open_pool("anon", NULL, "abort", DIRECT_PAGES * GRANULE, GRANULE);
}

/* For good: not asked for again. */
static void refused(void *argument)
{
    setup_fails = *(const int *)argument;
    bufpool_pool *pool = open_here();
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_IS(setups, ==, 1);
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_IS(setups, ==, 1);
    CHECK_IS(stats_of(pool).io_requests, ==, 2 * DIRECT_PAGES);
    CHECK_IS(bufpool_probe_uring(), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), setup_fails == -EPERM ? "seccomp filter" : "this kernel");
    CHECK_OK(bufpool_close(pool));
}

/* A filter lets it be set up and not be used, from the start or later. */
static void not_entered(void *argument)
{
    int descriptors = count_fds();
    bufpool_pool *pool = open_here();
    if (*(const int *)argument != 0) {
        CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    }
    enter_fails = -EPERM;
    CHECK_IS(read_all(pool, fd), ==, 0);
    int before = setups;
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_IS(setups, ==, before);
    CHECK_IS(bufpool_probe_uring(), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(count_fds(), ==, descriptors);
}

/* Once there are descriptors again, it serves. */
static void no_descriptors(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_here();
    struct rlimit limit, none;
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    none = limit;
    none.rlim_cur = 0;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &none));
    CHECK_OK(bufpool_read_from(pool, fd, DIRECT_PAGES, offsets, pages, results));
    CHECK_IS(stats_of(pool).io_queued, ==, 0);
    CHECK_OK(bufpool_evict_many(pool, DIRECT_PAGES, pages));
    CHECK_IS(bufpool_probe_uring(), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "RLIMIT_NOFILE");
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    WAIT_FOR(read_all(pool, fd) == DIRECT_PAGES);
    CHECK_OK(bufpool_close(pool));
}

static void no_memory(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_here();
    setup_fails = -ENOMEM;
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_IS(bufpool_probe_uring(), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "RLIMIT_MEMLOCK");
    setup_fails = 0;
    WAIT_FOR(read_all(pool, fd) == DIRECT_PAGES);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    fd = open_direct();
    int code = -EPERM, no = -ENOSYS, later = 1, first = 0;
    struct child child = run_child(refused, &code);
    CHECK_PASSED(child);
    child = run_child(refused, &no);
    CHECK_PASSED(child);
    skip_without_uring();
    child = run_child(not_entered, &first);
    CHECK_PASSED(child);
    child = run_child(not_entered, &later);
    CHECK_PASSED(child);
    child = run_child(no_descriptors, NULL);
    CHECK_PASSED(child);
    child = run_child(no_memory, NULL);
    CHECK_PASSED(child);
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
