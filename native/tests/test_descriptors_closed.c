/* A program that closes descriptors that it did not open, as a daemon does (closefrom): what takes their numbers is the
 * program's, and stays open. */
#include "harness.h"

#include <sys/stat.h>

#define FILES 24

/* close_range() takes Linux 5.9. */
static void close_from(int first)
{
    for (int fd = first; fd < 8192; fd++) {
        close(fd);
    }
}

/* Files of the program, at whatever numbers are free; the lowest are. */
static void open_files(int files[FILES])
{
    for (int i = 0; i < FILES; i++) {
        files[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
        CHECK(files[i] >= 0);
    }
}

static void check_files(const int files[FILES])
{
    struct stat null, file;
    CHECK_OK(stat("/dev/null", &null));
    for (int i = 0; i < FILES; i++) {
        CHECK_OK(fstat(files[i], &file));
        CHECK_IS(file.st_rdev, ==, null.st_rdev);
        CHECK_OK(close(files[i]));
    }
}

/* ---- The record of frozen threads, which a child makes anew ---- */

static void frozen_in_child(void *unused)
{
    (void)unused;
    int files[FILES];
    close_from(3);
    open_files(files);
    CHECK_OK(bufpool_close(open_pool("anon", "mprotect", "freeze", 16 * GRANULE, GRANULE)));
    check_files(files);
}

static void frozen(void)
{
    bufpool_pool *pool = open_pool_fork("anon", "mprotect", "freeze", 16 * GRANULE, GRANULE, "exclude");
    struct child child = run_child(frozen_in_child, NULL);
    CHECK_PASSED(child);
    CHECK_OK(bufpool_close(pool));
}

/* ---- A pool's own ---- */

static const char *memory, *trap;
static bufpool_pool *inherited;

enum { ALLOCATE, FREE, FREE_MANY, EVICT, CLOSE, CALLS };

static int call(bufpool_pool *pool, int which, const uint64_t *pages)
{
    uint64_t page;
    switch (which) {
    case ALLOCATE:
        return bufpool_allocate(pool, "more", 5, &page);
    case FREE:
        return bufpool_free(pool, pages[0]);
    case FREE_MANY:
        return bufpool_free_many(pool, 3, pages);
    case EVICT:
        return bufpool_evict(pool, pages[1]);
    default:
        return bufpool_close(pool);
    }
}

/* The first call finds out; from there on every touch is reported, as of a closed pool. */
static void check_orphan(bufpool_pool *pool, int first, const uint64_t *pages)
{
    if (first == CLOSE) {
        CHECK_OK(bufpool_close(pool));
        CHECK(traps_at(bufpool_address(pool, 0), NULL));
        return;
    }
    CHECK_IS(call(pool, first, pages), ==, BUFPOOL_ECLOSED);
    CHECK_HAS(last_error(), "the program has closed the pool's descriptors");
    for (uint64_t page = 0; page < 8; page++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(bufpool_address(pool, page), &fault));
        CHECK_IS(fault.state, ==, BUFPOOL_STATE_CLOSED);
        CHECK_HAS(fault.fork_note, "the program has closed the pool's descriptors");
    }
    for (int which = ALLOCATE; which < CLOSE; which++) {
        CHECK_IS(call(pool, which, pages), ==, BUFPOOL_ECLOSED);
        CHECK_HAS(last_error(), "the program has closed the pool's descriptors");
    }
    CHECK_OK(bufpool_close(pool));
}

/* The daemon's way: everything is closed, and the next files take the lowest numbers. */
static void closes_own(void *argument)
{
    int files[FILES];
    uint64_t pages[4];
    close_from(3);
    bufpool_pool *pool = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
    int lowest = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK_IS(lowest, ==, 3); /* nothing of a pool is in the program's way */
    CHECK_OK(close(lowest));
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    close_from(3);
    open_files(files);
    check_orphan(pool, *(int *)argument, pages);
    check_files(files);
}

/* A file of the program at the very number of each descriptor of a pool. */
static void replaces_own(void *argument)
{
    static const char text[] = "the program's own data";
    char path[] = "/tmp/bufpool-own-XXXXXX";
    char now[sizeof text];
    struct stat own, file;
    uint64_t pages[4];
    close_from(3);
    bufpool_pool *pool = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    int data = mkstemp(path);
    CHECK_IS(data, ==, 3);
    CHECK_OK(unlink(path));
    CHECK_IS(write(data, text, sizeof text), ==, sizeof text);
    CHECK_OK(fstat(data, &own));
    int replaced = 0;
    for (int fd = 4; fd < 8192; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            CHECK_IS(dup2(data, fd), ==, fd);
            replaced++;
        }
    }
    CHECK(replaced > 0);
    check_orphan(pool, *(int *)argument, pages);
    for (int fd = 4; fd < 8192; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) {
            CHECK_OK(fstat(fd, &file));
            CHECK_IS(file.st_ino, ==, own.st_ino);
            replaced--;
        }
    }
    CHECK_IS(replaced, ==, 0);
    CHECK_OK(fstat(data, &file));
    CHECK_IS(file.st_size, ==, sizeof text);
    CHECK_IS(pread(data, now, sizeof now, 0), ==, sizeof now);
    CHECK_STRING(now, text);
}

static void closes_inherited(void *argument)
{
    int files[FILES];
    const uint64_t pages[] = {0, 1, 2, 3};
    close_from(3);
    open_files(files);
    check_orphan(inherited, *(int *)argument, pages);
    check_files(files);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    for (int first = ALLOCATE; first < CALLS; first++) {
        struct child child = run_child(closes_own, &first);
        CHECK_PASSED(child);
        child = run_child(replaces_own, &first);
        CHECK_PASSED(child);
        if (strcmp(memory, "anon") == 0 || strcmp(trap, "uffd") == 0) {
            uint64_t pages[4];
            inherited = open_pool(memory, trap, "raise", 16 * GRANULE, GRANULE);
            CHECK_OK(bufpool_allocate_many(inherited, 4, pages));
            child = run_child(closes_inherited, &first);
            CHECK_PASSED(child);
            CHECK(traps_at(bufpool_address(inherited, 9), NULL)); /* here nothing has changed */
            CHECK_IS(read_byte(bufpool_address(inherited, 3)), ==, 0);
            CHECK_OK(bufpool_free_many(inherited, 4, pages));
            CHECK_OK(bufpool_close(inherited));
        }
    }
}

/* One with a thread of its own that polls them: what is the program's is not read, and close() ends. */
static void closes_monitored(void *unused)
{
    (void)unused;
    uint64_t page;
    close_from(3);
    bufpool_pool *pool = open_pool("anon", "auto", "freeze", 16 * GRANULE, GRANULE);
    close_from(3);
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_ECLOSED);
    CHECK(traps_at(bufpool_address(pool, 5), NULL));
    CHECK_OK(bufpool_close(pool));
    CHECK_IS(write(ends[1], "data", 4), ==, 4);
    CHECK_IS(read(ends[0], (char[4]){0}, 4), ==, 4);
}

/* A pool that closes pages by its descriptor: the first pin that needs it finds out. */
static void closes_pinned(void *pins)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 16 * GRANULE;
    config.trap = "uffd";
    config.on_fault = "raise";
    config.pins = pins;
    uint64_t pages[4];
    bufpool_pool *pool;
    close_from(3);
    CHECK_OK(bufpool_open(&config, &pool));
    CHECK_OK(bufpool_allocate_many(pool, 4, pages));
    CHECK_OK(bufpool_pin(pool, pages[0], true));
    close_from(3);
    bufpool_unpin(pool, pages[0]);
    CHECK_IS(bufpool_pin(pool, pages[1], true), ==, BUFPOOL_ECLOSED);
    CHECK_HAS(last_error(), "the program has closed the pool's descriptors");
    CHECK(traps_at(bufpool_address(pool, pages[0]), NULL));
    CHECK(traps_at(bufpool_address(pool, pages[1]), NULL));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    frozen();
    for (int all = 0; all < 2 && bufpool_probe("anon", "uffd", NULL, 0) == 0; all++) {
        struct child pinned = run_child(closes_pinned, all ? "all" : "write");
        CHECK_PASSED(pinned);
    }
    struct child child = run_child(closes_monitored, NULL);
    CHECK_PASSED(child);
    return for_each_cell(cell, false);
}
