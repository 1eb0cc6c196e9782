/* O_DIRECT, on the file system of the build: pages come and go past the page cache; what is not aligned says so. */
#include "harness.h"

#define PAGES 16

int main(void)
{
    harness_begin();
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (fd < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
        printf("no O_DIRECT on this file system: %s\n", strerror(errno));
        return HARNESS_SKIP;
    }
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 2 * PAGES * GRANULE;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    uint64_t pages[PAGES], offsets[PAGES];
    int results[PAGES];
    for (uint64_t i = 0; i < PAGES; i++) {
        pages[i] = 2 * i;
        offsets[i] = (i + i / 4) * GRANULE;
        CHECK_OK(bufpool_allocate_at(pool, pages[i], &i, sizeof i));
    }
    CHECK_OK(bufpool_write_to(pool, fd, PAGES, offsets, pages, results));
    CHECK_OK(bufpool_evict_many(pool, PAGES, pages));
    CHECK_OK(bufpool_read_from(pool, fd, PAGES, offsets, pages, results));
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK_IS(*(uint64_t *)bufpool_address(pool, pages[i]), ==, i);
    }
    CHECK_OK(bufpool_evict_many(pool, PAGES, pages));

    /* The file ends amid a page. */
    CHECK_OK(ftruncate(fd, 2 * GRANULE + 1000));
    CHECK_IS(bufpool_read_from(pool, fd, PAGES, offsets, pages, results), ==, -ENODATA);
    CHECK(results[0] == 0 && results[1] == 0 && results[2] == -ENODATA && results[PAGES - 1] == -ENODATA);

    uint64_t odd = 100;
    int code = bufpool_read_from(pool, fd, 1, &odd, pages + 4, results);
    CHECK(code == -EINVAL || code == 0); /* some file systems read it by way of the page cache */
    if (code == -EINVAL) {
        CHECK_HAS(last_error(), "O_DIRECT every offset has to be a multiple");
    }
    CHECK_OK(bufpool_close(pool));
    close(fd);
    return 0;
}
