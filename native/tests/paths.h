/* paths.h: what the tests of memory on a path share: names on the hugetlbfs mount, opening, looking at the file. */
#ifndef PATHS_H
#define PATHS_H

#include "cells.h"

#include <sys/mman.h>
#include <sys/stat.h>

/* A name in huge_directory of this process alone. Four at a time. */
MAYBE_UNUSED static const char *path_of(const char *name)
{
    static char paths[4][400];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/bufpool-test-%d-%s", huge_directory, (int)getpid(), name);
    return path;
}

MAYBE_UNUSED static bufpool_config path_config(const char *path, uint64_t granules, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = granules * HUGE_PAGE;
    config.page_size = 0;
    config.memory = path;
    config.flags = flags;
    return config;
}

MAYBE_UNUSED static int try_path(const char *path, uint64_t granules, uint32_t flags, bufpool_pool **pool)
{
    bufpool_config config = path_config(path, granules, flags);
    return bufpool_open(&config, pool);
}

MAYBE_UNUSED static bufpool_pool *open_path(const char *path, uint64_t granules, uint32_t flags)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(try_path(path, granules, flags, &pool));
    return pool;
}

MAYBE_UNUSED static struct stat look_at(const char *path)
{
    struct stat file;
    CHECK_OK(lstat(path, &file));
    return file;
}

MAYBE_UNUSED static bool is_there(const char *path)
{
    struct stat file;
    return lstat(path, &file) == 0;
}

/* As another program would: maps the file and writes the first byte of each of its huge pages. */
MAYBE_UNUSED static void write_frames(const char *path, uint64_t granules, char value)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_IS(fd, >=, 0);
    CHECK_OK(ftruncate(fd, (off_t)(granules * HUGE_PAGE)));
    char *at = mmap(NULL, granules * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    for (uint64_t i = 0; i < granules; i++) {
        at[i * HUGE_PAGE] = value;
    }
    CHECK_OK(munmap(at, granules * HUGE_PAGE));
    CHECK_OK(close(fd));
}

/* Is what write_frames() wrote still there? */
MAYBE_UNUSED static void check_frames(const char *path, uint64_t granules, char value)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_IS(fd, >=, 0);
    CHECK_IS(look_at(path).st_size, ==, granules * HUGE_PAGE);
    CHECK_IS(look_at(path).st_blocks, ==, granules * HUGE_PAGE / 512);
    const char *at = mmap(NULL, granules * HUGE_PAGE, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    for (uint64_t i = 0; i < granules; i++) {
        CHECK_IS(at[i * HUGE_PAGE], ==, value);
    }
    CHECK_OK(munmap((void *)at, granules * HUGE_PAGE));
    CHECK_OK(close(fd));
}

/* Allocates, writes, evicts and frees; every hole traps. */
MAYBE_UNUSED static void use_pool(bufpool_pool *pool)
{
    uint64_t pages[2];
    CHECK_OK(bufpool_allocate_many(pool, 2, pages));
    char *at = bufpool_address(pool, pages[0]);
    CHECK_IS(at[HUGE_PAGE - 1], ==, 0);
    at[HUGE_PAGE - 1] = 7;
    CHECK_OK(bufpool_evict(pool, pages[1]));
    CHECK(traps_at(bufpool_address(pool, pages[1]), NULL));
    CHECK_OK(bufpool_populate(pool, pages[1], "back", 5));
    CHECK_STRING(bufpool_address(pool, pages[1]), "back");
    CHECK_OK(bufpool_free_many(pool, 2, pages));
    CHECK(traps_at(at + HUGE_PAGE - 1, NULL));
}

/* Without a mount there is nothing to test; says so last, for the skip. */
MAYBE_UNUSED static bool no_huge_directory(void)
{
    if (huge_directory[0] == 0 || read_setting(FREE_HUGEPAGES) < 1) {
        printf("no hugetlbfs mount with free huge pages to test a path on\n");
        return true;
    }
    return false;
}

#endif
