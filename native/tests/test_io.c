/* Pages are read from a file and written to one, on every memory of small granules, with pages of several sizes and pins. */
#include "harness.h"

#define PAGES 300

static const char *pins_of; /* the pins of the pools */
static uint64_t page_size;

static bufpool_pool *open_io(const char *memory, const char *trap, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = memory;
    config.trap = trap;
    config.pins = pins_of;
    config.flags = flags;
    config.page_size = page_size;
    config.capacity = PAGES * page_size;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* Byte n of page i of the file. */
static unsigned char expected(uint64_t i, uint64_t n)
{
    return (unsigned char)(i * 7 + n / 512 + 1);
}

static int make_file(uint64_t pages)
{
    int fd = memfd_create("data", MFD_CLOEXEC);
    CHECK(fd >= 0);
    unsigned char *page = malloc(page_size);
    CHECK(page != NULL);
    for (uint64_t i = 0; i < pages; i++) {
        for (uint64_t n = 0; n < page_size; n++) {
            page[n] = expected(i, n);
        }
        CHECK_IS(pwrite(fd, page, page_size, (off_t)(i * page_size)), ==, (ssize_t)page_size);
    }
    free(page);
    return fd;
}

static void check_page(bufpool_pool *pool, uint64_t page, uint64_t from)
{
    const unsigned char *bytes = bufpool_address(pool, page);
    CHECK_OK(bufpool_pin(pool, page, false));
    for (uint64_t n = 0; n < page_size; n += 256) {
        CHECK_IS(bytes[n], ==, expected(from, n));
    }
    CHECK_IS(bytes[page_size - 1], ==, expected(from, page_size - 1));
    CHECK_OK(bufpool_unpin_for(pool, page, false));
}

static void check_cell(const char *memory, const char *trap, uint32_t flags)
{
    bufpool_pool *pool = open_io(memory, trap, flags);
    int fd = make_file(PAGES);
    uint64_t pages[PAGES], offsets[PAGES];
    int results[PAGES];
    /* Runs of 3 with gaps, pages backwards, half of them evicted before. */
    size_t count = 0;
    for (uint64_t i = 0; i < PAGES; i++) {
        if (i % 4 != 3) {
            pages[count] = PAGES - 1 - i;
            offsets[count] = i * page_size;
            if (i % 2 == 0) {
                CHECK_OK(bufpool_allocate_at(pool, pages[count], NULL, 0));
                CHECK_OK(bufpool_evict(pool, pages[count]));
            }
            count++;
        }
    }
    CHECK_OK(bufpool_read_from(pool, fd, count, offsets, pages, results));
    for (size_t i = 0; i < count; i++) {
        CHECK_IS(results[i], ==, 0);
        check_page(pool, pages[i], offsets[i] / page_size);
    }
    CHECK_IS(state_of(pool, PAGES - 4), ==, BUFPOOL_STATE_UNALLOCATED);

    /* Out again, elsewhere, and in again. */
    int copy = memfd_create("copy", MFD_CLOEXEC);
    CHECK(copy >= 0);
    CHECK_OK(bufpool_write_to(pool, copy, count, offsets, pages, NULL));
    CHECK_OK(bufpool_evict_many(pool, count, pages));
    CHECK_OK(bufpool_read_from(pool, copy, count, offsets, pages, NULL));
    for (size_t i = 0; i < count; i++) {
        check_page(pool, pages[i], offsets[i] / page_size);
    }
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    CHECK_OK(bufpool_stats(pool, &statistics));
    CHECK_IS(statistics.pages_read, ==, 2 * count);
    CHECK_IS(statistics.pages_written, ==, count);
    CHECK_IS(statistics.io_requests, <=, 3 * count);

    /* The file ends amid a page; one page is allocated; the others are done. */
    CHECK_OK(bufpool_free_many(pool, count, pages));
    CHECK_OK(ftruncate(fd, (off_t)(5 * page_size + 100)));
    CHECK_OK(bufpool_allocate_at(pool, 2, NULL, 0));
    uint64_t where[] = {3, 4, 5, 6, 1}, into[] = {9, 2, 11, 12, 13};
    for (int i = 0; i < 5; i++) {
        where[i] *= page_size;
    }
    CHECK_IS(bufpool_read_from(pool, fd, 5, where, into, results), ==, BUFPOOL_ESTATE);
    CHECK_HAS(last_error(), "page 2");
    CHECK_HAS(last_error(), "2 of 5 pages");
    CHECK_IS(bufpool_last_done(), ==, 2);
    int codes[] = {0, BUFPOOL_ESTATE, -ENODATA, -ENODATA, 0};
    CHECK(memcmp(results, codes, sizeof codes) == 0);
    check_page(pool, 9, 3);
    check_page(pool, 13, 1);
    CHECK(state_of(pool, 11) != BUFPOOL_STATE_ALLOCATED && state_of(pool, 12) != BUFPOOL_STATE_ALLOCATED);
    CHECK_IS(bufpool_read_from(pool, fd, 1, where + 2, into + 2, NULL), ==, -ENODATA);
    CHECK_HAS(last_error(), "the file ends 100 bytes after offset");
    CHECK_OK(bufpool_allocate_at(pool, 11, NULL, 0));

    /* What is not allocated is not written; the neighbours are. */
    CHECK_IS(bufpool_write_to(pool, copy, 5, where, into, results), ==, BUFPOOL_ESTATE);
    int written[] = {0, 0, 0, BUFPOOL_ESTATE, 0};
    CHECK(memcmp(results, written, sizeof written) == 0);
    CHECK_OK(close(fd));
    CHECK_OK(close(copy));
    CHECK_OK(bufpool_close(pool));
}

static void check_refused(void)
{
    page_size = GRANULE;
    bufpool_pool *pool = open_io(NULL, NULL, 0);
    int fd = make_file(4);
    uint64_t zero[2] = {0, GRANULE}, pages[2] = {1, 1}, far[2] = {0, PAGES},
             high[1] = {(uint64_t)INT64_MAX - GRANULE + 1};
    int results[2] = {77, 77};
    CHECK_IS(bufpool_read_from(NULL, fd, 1, zero, zero, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_read_from(pool, fd, 1, NULL, zero, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_read_from(pool, fd, 1, zero, NULL, NULL), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_read_from(pool, fd, 2, zero, pages, results), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "page 1 comes twice");
    CHECK_IS(bufpool_read_from(pool, fd, 2, zero, far, results), ==, BUFPOOL_EARGUMENT);
    CHECK_IS(bufpool_read_from(pool, fd, 1, high, far, results), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "too large");
    CHECK_IS(bufpool_read_from(pool, -1, 1, zero, far, results), ==, -EBADF);
    CHECK_IS(bufpool_read_from(pool, fd, SIZE_MAX / 8, zero, far, results), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "each can come once");
    int reader = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK_OK(bufpool_allocate_at(pool, 0, NULL, 0));
    CHECK_IS(bufpool_write_to(pool, reader, 1, zero, zero, results), ==, -EBADF);
    CHECK_HAS(last_error(), "not open for writing");
    int flags = fcntl(fd, F_GETFL);
    CHECK_OK(fcntl(fd, F_SETFL, flags | O_APPEND));
    CHECK_IS(bufpool_write_to(pool, fd, 1, zero, zero, results), ==, BUFPOOL_EARGUMENT);
    CHECK_HAS(last_error(), "O_APPEND");
    CHECK_IS(lseek(fd, 0, SEEK_END), ==, 4 * GRANULE);
    CHECK_OK(fcntl(fd, F_SETFL, flags));
    CHECK_OK(bufpool_read_from(pool, fd, 0, NULL, NULL, NULL));
    CHECK(results[0] == 77 && results[1] == 77);
    CHECK_IS(state_of(pool, 1), ==, BUFPOOL_STATE_UNALLOCATED);
    close(reader);
    close(fd);
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(bufpool_read_from(pool, 0, 1, zero, zero, NULL), ==, BUFPOOL_ECLOSED);
}

static void cell(const char *memory, const char *trap)
{
    page_size = GRANULE;
    check_cell(memory, trap, 0);
    check_cell(memory, trap, BUFPOOL_RED_ZONES);
    page_size = 16 * GRANULE;
    check_cell(memory, trap, 0);
}

static void in_child(void *argument)
{
    bufpool_pool *pool = argument;
    uint64_t page = 5, offset = 0;
    int fd = make_file(1);
    CHECK_OK(bufpool_read_from(pool, fd, 1, &offset, &page, NULL));
    check_page(pool, page, 0);
    _exit(0);
}

static void check_fork(void)
{
    page_size = GRANULE;
    bufpool_pool *pool = open_io(NULL, NULL, 0);
    uint64_t page = 5, offset = GRANULE;
    int fd = make_file(2);
    CHECK_OK(bufpool_read_from(pool, fd, 1, &offset, &page, NULL));
    CHECK_OK(bufpool_evict(pool, page));
    struct child child = run_child(in_child, pool);
    CHECK_PASSED(child);
    CHECK_IS(state_of(pool, page), ==, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_read_from(pool, fd, 1, &offset, &page, NULL));
    check_page(pool, page, 1);
    close(fd);
    CHECK_OK(bufpool_close(pool));
}

/* Pages that are closed while nobody has pinned them. */
static void check_pins(void)
{
    pins_of = "all";
    page_size = GRANULE;
    bufpool_pool *pool = NULL;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.pins = pins_of;
    config.capacity = GRANULE;
    bool here = bufpool_open(&config, &pool) == 0;
    if (here) {
        CHECK_OK(bufpool_close(pool));
        check_cell(NULL, NULL, 0);
    }
    pins_of = NULL;
}

int main(void)
{
    harness_begin();
    int code = for_each_cell(cell, true);
    check_refused();
    check_fork();
    check_pins();
    return code;
}
