/* Pages locked in memory, pages in core dumps, seals of the memfds, and a host that locks all its memory. */
#include "cells.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define PAGES 8

static const char *memory, *trap;

/* What /proc/self/smaps says of a range: in how many of its mappings a flag is. */
struct view {
    int mappings;
    int locked;   /* lo */
    int undumped; /* dd */
};

static struct view look(const bufpool_pool *pool)
{
    struct view view = {0, 0, 0};
    bufpool_statistics statistics = stats_of(pool);
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    char line[512];
    bool inside = false;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            inside = start < statistics.address + statistics.capacity && end > statistics.address;
            view.mappings += inside;
        } else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            view.locked += strstr(line, " lo") != NULL;
            view.undumped += strstr(line, " dd") != NULL;
        }
    }
    fclose(file);
    CHECK_IS(view.mappings, >, 0);
    return view;
}

/* Bytes of the pool that have a frame in this process. Not from smaps: a neighbour may have joined the mapping. */
static uint64_t resident(const bufpool_pool *pool)
{
    bufpool_statistics statistics = stats_of(pool);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    CHECK_IS(fd, >=, 0);
    uint64_t bytes = 0;
    for (uint64_t at = statistics.address; at < statistics.address + statistics.capacity; at += GRANULE) {
        uint64_t entry;
        CHECK_IS(pread(fd, &entry, 8, (off_t)(at / GRANULE * 8)), ==, 8);
        bytes += entry >> 63 ? GRANULE : 0;
    }
    close(fd);
    return bytes;
}

static uint64_t locked_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file != NULL);
    char line[256];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "VmLck: %llu kB", &kib) != 1) {
    }
    fclose(file);
    return kib * KIB;
}

static int try_open(uint32_t flags, uint64_t pages, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    uint64_t page = is_huge_memory(memory) ? HUGE_PAGE : GRANULE;
    config.capacity = pages * page;
    config.page_size = page;
    config.memory = memory;
    config.trap = trap;
    config.flags = flags;
    return bufpool_open(&config, pool);
}

/* Opening fills nothing; each page comes and goes by itself; what is not allocated traps. */
static void exercise(bufpool_pool *pool)
{
    bool traps = strcmp(trap, "none") != 0;
    uint64_t size = stats_of(pool).page_size;
    CHECK_IS(resident(pool), ==, 0);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_allocate(pool, "data", 5, &pages[4]));
    for (int i = 0; i < 5; i++) {
        memset((char *)bufpool_address(pool, pages[i]) + 8, i + 1, size - 8);
    }
    CHECK_STRING(bufpool_address(pool, pages[4]), "data");
    CHECK_IS(resident(pool), ==, 5 * size);
    CHECK_OK(bufpool_evict_many(pool, 2, pages));
    CHECK_OK(bufpool_free(pool, pages[2]));
    CHECK_IS(resident(pool), ==, 2 * size);
    CHECK_OK(bufpool_populate(pool, pages[0], "back", 5));
    CHECK_STRING(bufpool_address(pool, pages[0]), "back"); /* some traps leave it to the touch to map the frame */
    CHECK_IS(resident(pool), ==, 3 * size);
    for (int i = 0; i < 5 && traps; i++) {
        bool there = state_of(pool, pages[i]) == BUFPOOL_STATE_ALLOCATED;
        CHECK_IS(traps_at(bufpool_address(pool, pages[i]), NULL), ==, !there);
    }
    CHECK_IS(*((char *)bufpool_address(pool, pages[3]) + 9), ==, 4);
}

static void locked(void)
{
    bufpool_pool *pool = NULL;
    bool hugetlb = is_huge_memory(memory) && strcmp(memory, "thp") != 0;
    uint64_t before = locked_bytes();
    int code = try_open(BUFPOOL_LOCK, PAGES, &pool);
    if (strcmp(trap, "guard") == 0) {
        CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
        CHECK_HAS(last_error(), "locked memory");
        CHECK_IS(locked_bytes(), ==, before);
        return;
    }
    if (code == BUFPOOL_EUNSUPPORTED && geteuid() != 0) {
        CHECK_HAS(last_error(), "RLIMIT_MEMLOCK");
        printf("skipped lock on %s/%s: %s\n", memory, trap, last_error());
        return;
    }
    CHECK_OK(code);
    exercise(pool);
    struct view view = look(pool);
    /* Huge pages of hugetlbfs are never swapped, so that the kernel does not mark them. */
    CHECK_IS(view.locked, ==, hugetlb ? 0 : view.mappings);
    bufpool_statistics statistics = stats_of(pool);
    uint64_t capacity = statistics.capacity;
    if (strcmp(memory, "thp") == 0 && strcmp(trap, "none") != 0) { /* small pages are said, never silent */
        CHECK_IS(statistics.huge_fills + statistics.small_fills, ==, 6);
    }
    CHECK_IS(locked_bytes() - before, >=, hugetlb ? 0 : capacity);
    if (strcmp(memory, "anon") == 0 && strcmp(trap, "uffd") != 0) { /* without a stash, nothing else */
        CHECK_IS(locked_bytes() - before, ==, capacity);
    }
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(locked_bytes(), ==, before);
}

static void dumped(void)
{
    for (int dump = 0; dump < 2; dump++) {
        bufpool_pool *pool;
        CHECK_OK(try_open(dump ? BUFPOOL_DUMP : 0, PAGES, &pool));
        exercise(pool);
        struct view view = look(pool);
        CHECK_IS(view.undumped, ==, dump ? 0 : view.mappings);
        CHECK_IS(view.locked, ==, 0);
        CHECK_OK(bufpool_close(pool));
    }
}

/* Nobody can shrink what the pool stands on; punching, which zapping needs, is not sealed away. */
static void sealed(void)
{
    bufpool_pool *pool;
    CHECK_OK(try_open(0, PAGES, &pool));
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    int memfds = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char target[256] = "";
        if (readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1) < 0 ||
            strncmp(target, "/memfd:", 7) != 0) {
            continue;
        }
        int fd = atoi(entry->d_name);
        memfds++;
        CHECK_IS(fcntl(fd, F_GET_SEALS), ==, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW);
        CHECK(ftruncate(fd, 0) == -1 && errno == EPERM);
        CHECK(ftruncate(fd, (off_t)GIB) == -1 && errno == EPERM);
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    closedir(directory);
    bool needed = strcmp(memory, "shared") == 0 || strcmp(memory, "hugetlb") == 0 || strcmp(trap, "guard") == 0 ||
                  strcmp(trap, "mprotect") == 0;
    CHECK(memfds > 0 || !needed || memory == huge_directory);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    locked();
    dumped();
    sealed();
}

/* An ordinary user with little memory to lock: the whole capacity counts. */
static void little_to_lock(void *argument)
{
    (void)argument;
    if (geteuid() == 0) {
        CHECK_OK(setresuid(65534, 65534, 65534));
    }
    struct rlimit limit = {256 * KIB, 256 * KIB};
    CHECK_OK(setrlimit(RLIMIT_MEMLOCK, &limit));
    memory = "shared";
    trap = "mprotect";
    bufpool_pool *pool;
    CHECK_IS(try_open(BUFPOOL_LOCK, 256, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "1048576 bytes");
    CHECK_HAS(last_error(), "RLIMIT_MEMLOCK");
    trap = "auto"; /* no other trap would help */
    CHECK_IS(try_open(BUFPOOL_LOCK, 256, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "RLIMIT_MEMLOCK");
    CHECK_OK(try_open(BUFPOOL_LOCK, 32, &pool));
    CHECK_IS(look(pool).locked, ==, look(pool).mappings);
    CHECK(stats_of(pool).trap[0] != 'g'); /* no guard on locked memory */
    CHECK_OK(bufpool_close(pool));
    CHECK_OK(try_open(0, 256, &pool)); /* without locking, as large as one likes */
    CHECK_OK(bufpool_close(pool));
}

/* The host has locked its memory, now and in future: see test_mlock.c for small pages. */
static void all_locked(void *argument)
{
    if (mlockall(*(int *)argument) != 0) {
        _exit(HARNESS_SKIP);
    }
    bufpool_pool *pool;
    int code = try_open(0, PAGES, &pool);
    if (code == -EAGAIN) {
        CHECK_HAS(last_error(), "RLIMIT_MEMLOCK");
        _exit(HARNESS_SKIP);
    }
    CHECK_OK(code);
    for (uint64_t page = 0; page < PAGES; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
    exercise(pool);
    CHECK_OK(bufpool_close(pool));
}

static void host_locks(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    static int modes[] = {MCL_FUTURE, MCL_CURRENT | MCL_FUTURE};
    for (int i = 0; i < 2; i++) {
        struct child child = run_child(all_locked, &modes[i]);
        if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == HARNESS_SKIP) {
            printf("skipped mlockall on %s/%s: it is not allowed here\n", memory, trap);
        } else {
            CHECK_PASSED(child);
        }
    }
}

static int body(void)
{
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_MEMLOCK, &limit));
    limit.rlim_cur = limit.rlim_max;
    CHECK_OK(setrlimit(RLIMIT_MEMLOCK, &limit));
    struct child child = run_child(little_to_lock, NULL);
    CHECK_PASSED(child);
    int code = for_each_cell(cell, true);
    for_each_huge_cell(cell, true);
    if (!SANITIZED) {                          /* their shadow cannot be locked */
        for_each_huge_cell(host_locks, false); /* what is not trapped is filled */
    }
    return code;
}

int main(void)
{
    return with_huge_pages(12, body);
}
