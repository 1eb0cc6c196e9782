/* direct.h: a file that is open with O_DIRECT, and a pool whose pages are read from it far apart, so that each is a request. */
#ifndef DIRECT_H
#define DIRECT_H

#include "harness.h"

#define FILE_PAGES 256
#define DIRECT_PAGES 100

static uint64_t pages[DIRECT_PAGES], offsets[DIRECT_PAGES];
static int results[DIRECT_PAGES];

/* Word n of page i of the file. */
MAYBE_UNUSED static uint64_t word_of(uint64_t i, uint64_t n)
{
    return i * 1000 + n;
}

/* On the file system of the build. Ends the program with a skip where that has no O_DIRECT. */
MAYBE_UNUSED static int open_direct(void)
{
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    static _Alignas(4096) uint64_t words[GRANULE / 8];
    if (fd < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
        printf("no O_DIRECT on this file system: %s\n", strerror(errno));
        exit(HARNESS_SKIP);
    }
    for (uint64_t i = 0; i < FILE_PAGES; i++) {
        for (uint64_t n = 0; n < GRANULE / 8; n++) {
            words[n] = word_of(i, n);
        }
        CHECK_IS(pwrite(fd, words, GRANULE, (off_t)(i * GRANULE)), ==, GRANULE);
    }
    for (uint64_t i = 0; i < DIRECT_PAGES; i++) {
        pages[i] = (i * 37) % DIRECT_PAGES;
        offsets[i] = ((i * 2 + 1) % FILE_PAGES) * GRANULE;
    }
    return fd;
}

MAYBE_UNUSED static void skip_without_uring(void)
{
    if (bufpool_probe_uring() < 0) {
        printf("%s\n", last_error());
        exit(HARNESS_SKIP);
    }
}

MAYBE_UNUSED static void check_content(bufpool_pool *pool, size_t i)
{
    const uint64_t *words = bufpool_address(pool, pages[i]);
    for (uint64_t n = 0; n < GRANULE / 8; n++) {
        CHECK_IS(words[n], ==, word_of(offsets[i] / GRANULE, n));
    }
}

/* Reads all pages, checks and evicts them. Returns how many requests have gone through a ring. */
MAYBE_UNUSED static uint64_t read_all(bufpool_pool *pool, int fd)
{
    uint64_t before = stats_of(pool).io_queued;
    CHECK_OK(bufpool_read_from(pool, fd, DIRECT_PAGES, offsets, pages, results));
    for (size_t i = 0; i < DIRECT_PAGES; i++) {
        CHECK_IS(results[i], ==, 0);
        check_content(pool, i);
    }
    uint64_t queued = stats_of(pool).io_queued - before;
    CHECK_OK(bufpool_evict_many(pool, DIRECT_PAGES, pages));
    return queued;
}

#endif
