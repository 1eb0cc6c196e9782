/*
 * Requests past the page cache are in flight together, by a ring: in a process and in its forked child, whose ring is its
 * own; after the host has closed every descriptor; and no descriptor is left when the pools are closed. What the page
 * cache serves goes without.
 */
#include "direct.h"

static int fd;

static bufpool_pool *open_here(void)
{
    return open_pool("anon", NULL, "abort", DIRECT_PAGES * GRANULE, GRANULE);
}

static void in_child(void *argument)
{
    bufpool_pool *pool = argument;
    for (int round = 0; round < 3; round++) {
        CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    }
    CHECK_OK(bufpool_close(pool));
}

/* As a daemon does. The numbers are used again, for what must not come to harm. */
static void close_all(void *argument)
{
    (void)argument;
    bufpool_pool *pool = open_here();
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    int before = fd;
    fd = dup2(fd, 20);
    CHECK(fd >= 0 && before >= 0);
    char name[64];
    for (int i = 0; i < 8192; i++) {
        ssize_t length = snprintf(name, sizeof name, "/proc/self/fd/%d", i);
        char to[64];
        length = readlink(name, to, sizeof to - 1);
        to[length > 0 ? length : 0] = 0;
        if (strstr(to, "io_uring") != NULL) {
            int null = open("/proc/self/stat", O_RDONLY);
            CHECK(dup2(null, i) == i);
            close(null);
        }
    }
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    skip_without_uring();
    fd = open_direct();
    int descriptors = count_fds();
    bufpool_pool *pool = open_here();
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    int with_ring = count_fds();
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    CHECK_IS(count_fds(), ==, with_ring);

    /* Out, elsewhere, and in again; one page alone has nothing to be in flight with. */
    CHECK_OK(bufpool_read_from(pool, fd, DIRECT_PAGES, offsets, pages, NULL));
    int copy = open_direct();
    CHECK_OK(ftruncate(copy, 0));
    uint64_t before = stats_of(pool).io_queued;
    CHECK_OK(bufpool_write_to(pool, copy, DIRECT_PAGES, offsets, pages, results));
    CHECK_IS(stats_of(pool).io_queued, ==, before + DIRECT_PAGES);
    CHECK_OK(bufpool_write_to(pool, copy, 1, offsets, pages, results));
    CHECK_IS(stats_of(pool).io_queued, ==, before + DIRECT_PAGES);
    CHECK_OK(bufpool_evict_many(pool, DIRECT_PAGES, pages));
    CHECK_IS(read_all(pool, copy), ==, DIRECT_PAGES);
    CHECK_OK(close(copy));

    /* By way of the page cache. */
    int flags = fcntl(fd, F_GETFL);
    CHECK_OK(fcntl(fd, F_SETFL, flags & ~O_DIRECT));
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_OK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
    CHECK_IS(read_all(pool, fd), ==, 0);
    CHECK_OK(fcntl(fd, F_SETFL, flags));

    struct child child = run_child(in_child, pool);
    CHECK_PASSED(child);
    CHECK_IS(read_all(pool, fd), ==, DIRECT_PAGES);
    bufpool_pool *second = open_here();
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(read_all(second, fd), ==, DIRECT_PAGES);
    CHECK_OK(bufpool_close(second));
    CHECK_IS(count_fds(), ==, descriptors);
    child = run_child(close_all, NULL);
    CHECK_PASSED(child);
    return 0;
}
