/*
 * test_pins_thp.c: enforced pins on memory thp: pages stay huge through all of it, or small ones do as well; what the kernel
 * refuses in the middle leaves a page as it was.
 *
 * Linked with --wrap, so that moves, protection and mappings can be made to fail.
 */
#include "kernel.h"
#include "pins_life.h"

#include <bufpool/bufpool.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif

#define PAGES 4

/* ---- Failing ---- */

static int move_fails;     /* with this -errno, */
static int moves_before;   /* after so many that work */
static int move_lies;      /* of the next so many that work half is told, */
static bool move_denies;   /* or nothing */
static int protect_fails;  /* for good */
static uint64_t too_large; /* mappings of more bytes */

int __real_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done);
int __wrap_bp_kernel_uffd_move(int uffd, uintptr_t to, uintptr_t from, size_t length, size_t *done)
{
    if (move_fails != 0 && moves_before-- == 0) {
        int code = move_fails;
        *done = 0;
        move_fails = code == -EBUSY ? code : 0; /* busy it stays */
        moves_before = 0;
        return code;
    }
    int code = __real_bp_kernel_uffd_move(uffd, to, from, length, done);
    if (code == 0 && length == HUGE_PAGE && move_lies > 0) {
        move_lies--;
        *done = move_denies ? 0 : length / 2;
        return move_denies ? -EEXIST : -EAGAIN;
    }
    return code;
}

int __real_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on);
int __wrap_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on);
int __wrap_bp_kernel_uffd_protect(int uffd, uintptr_t address, size_t length, int on)
{
    return protect_fails != 0 ? protect_fails : __real_bp_kernel_uffd_protect(uffd, address, length, on);
}

int __real_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address);
int __wrap_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address);
int __wrap_bp_kernel_mmap(void *hint, size_t length, int protection, int flags, int fd, void **address)
{
    return too_large != 0 && length > too_large ? -ENOMEM
                                                : __real_bp_kernel_mmap(hint, length, protection, flags, fd, address);
}

/* ---- Huge pages ---- */

static bool is_huge(const bufpool_pool *pool, uint64_t page)
{
    int pagemap = bp_kernel_open_pagemap();
    CHECK(pagemap >= 0);
    int huge = bp_kernel_is_huge(pagemap, (uintptr_t)bufpool_address(pool, page), HUGE_PAGE);
    bp_kernel_close_kept(pagemap);
    CHECK(huge >= 0);
    return huge;
}

static bufpool_pool *open_thp(const char *pins, uint64_t granules)
{
    bufpool_config config = pins_config("thp", "uffd", pins);
    config.page_size *= granules;
    config.capacity = PAGES * config.page_size;
    return open_config(&config);
}

static void fill_all(bufpool_pool *pool)
{
    for (uint64_t page = 0; page < PAGES; page++) {
        char *data = malloc(HUGE_PAGE);
        CHECK(data != NULL);
        memset(data, 'a' + (int)page, HUGE_PAGE);
        CHECK_OK(bufpool_allocate_at(pool, page, data, HUGE_PAGE));
        free(data);
    }
}

static void test_huge(const char *pins)
{
    bufpool_pool *pool = open_thp(pins, 1);
    fill_all(pool);
    for (uint64_t i = 0; i < 4 * PAGES; i++) {
        uint64_t page = i % PAGES;
        char *at = bufpool_address(pool, page);
        CHECK_OK(bufpool_pin(pool, page, false));
        CHECK(is_huge(pool, page));
        CHECK_OK(bufpool_pin(pool, page, true));
        CHECK(is_huge(pool, page));
        CHECK(at[4096] == 'a' + (int)page && at[HUGE_PAGE - 1] == 'a' + (int)page);
        at[i + 1] = 0;
        CHECK_OK(bufpool_unpin_for(pool, page, true));
        CHECK_OK(bufpool_unpin(pool, page));
        if (i == PAGES) { /* recycled frames, too */
            CHECK_OK(bufpool_free(pool, page));
            CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
            CHECK_OK(bufpool_free(pool, page));
            char text[HUGE_PAGE / 512];
            memset(text, 'a' + (int)page, sizeof text);
            CHECK_OK(bufpool_allocate_at(pool, page, text, sizeof text));
            CHECK_OK(bufpool_pin(pool, page, true));
            memset(at, 'a' + (int)page, HUGE_PAGE);
            CHECK_OK(bufpool_unpin(pool, page));
        }
    }
    CHECK_IS(stats_of(pool).small_fills, ==, 0);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* The kernel has split the huge page: its rights and its content are the same, and the next one is huge again. */
static void test_split(const char *pins)
{
    bool all = strcmp(pins, "all") == 0;
    bufpool_pool *pool = open_thp(pins, 1);
    fill_all(pool);
    char *at = bufpool_address(pool, 1);
    CHECK_OK(bufpool_pin(pool, 1, false));
    if (madvise(at + 32768, 16384, MADV_COLD) != 0 || is_huge(pool, 1)) {
        printf("a huge page is not split here by MADV_COLD of a part\n");
    }
    for (size_t offset = 0; offset < HUGE_PAGE; offset += 4096) {
        CHECK(reads_at(at + offset, NULL) && !writes_at(at + offset, 1, NULL));
        CHECK_IS(read_byte(at + offset), ==, 'b');
    }
    CHECK_OK(bufpool_unpin(pool, 1));
    for (size_t offset = 0; offset < HUGE_PAGE; offset += 4096) {
        CHECK_IS(reads_at(at + offset, NULL), ==, !all);
        CHECK(!writes_at(at + offset, 1, NULL));
    }
    check_life(pool, 1, all, 'b');
    CHECK_OK(bufpool_free(pool, 1));
    CHECK(!reads_at(at, NULL));
    CHECK_OK(bufpool_allocate_at(pool, 1, "n", 1));
    check_life(pool, 1, all, 'n');
    CHECK_OK(bufpool_pin(pool, 1, false));
    CHECK(is_huge(pool, 1));
    CHECK_OK(bufpool_close(pool));
}

static void small_pages(void *pins)
{
    CHECK_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    check_mode("thp", "uffd", pins, 0, 1);
    check_mode("thp", "uffd", pins, BUFPOOL_SCRUB, 2);
}

/* A pool with an option that it may not have here. */
static void check_flags(const char *pins, uint32_t flags)
{
    bufpool_config config = pins_config("thp", "uffd", pins);
    config.flags = flags;
    config.capacity = 32 * config.page_size;
    bufpool_pool *pool = NULL;
    if (bufpool_open(&config, &pool) < 0) {
        printf("not here: %s\n", last_error());
        return;
    }
    CHECK_OK(bufpool_close(pool));
    check_mode("thp", "uffd", pins, flags, 2);
}

/* ---- What the kernel refuses ---- */

static void test_busy(void)
{
    bufpool_pool *pool = open_thp("all", 2);
    fill_all(pool);
    for (int before = 0; before < 2; before++) { /* the first granule of the page, or the second */
        moves_before = before;
        move_fails = before == 0 ? -EBUSY : -ENOMEM;
        CHECK_IS(bufpool_pin(pool, 0, true), ==, before == 0 ? -EBUSY : -ENOMEM);
        CHECK_HAS(last_error(), "cannot pin page 0");
        CHECK(before > 0 || strstr(last_error(), "a device has a frame of it") != NULL);
        move_fails = 0;
        CHECK_IS(stats_of(pool).pins, ==, 0);
        check_life(pool, 0, true, 'a');
        CHECK_OK(bufpool_pin(pool, 0, false));
        moves_before = before;
        move_fails = before == 0 ? -EBUSY : -ENOMEM;
        CHECK_IS(bufpool_unpin(pool, 0), ==, before == 0 ? -EBUSY : -ENOMEM);
        CHECK_HAS(last_error(), "cannot unpin page 0");
        move_fails = 0;
        CHECK_IS(stats_of(pool).pins, ==, 1); /* open as it was */
        CHECK(reads_at(bufpool_address(pool, 0), NULL));
        CHECK(reads_at((char *)bufpool_address(pool, 0) + HUGE_PAGE, NULL));
        CHECK_OK(bufpool_unpin(pool, 0));
        check_life(pool, 0, true, 'a');
    }
    protect_fails = -ENOMEM;
    CHECK_IS(bufpool_pin(pool, 0, false), ==, -ENOMEM);
    protect_fails = 0;
    check_life(pool, 0, true, 'a');
    CHECK_OK(bufpool_close(pool));
}

/* Filled, and then not protected: not left open. */
static void test_unprotected(void)
{
    bufpool_pool *pool = open_thp("write", 1);
    protect_fails = -ENOMEM;
    CHECK_IS(bufpool_allocate_at(pool, 2, "x", 1), <, 0);
    protect_fails = 0;
    CHECK(!reads_at(bufpool_address(pool, 2), NULL));
    CHECK_IS(stats_of(pool).allocated, ==, 0);
    CHECK_OK(bufpool_allocate_at(pool, 2, "x", 1));
    check_life(pool, 2, false, 'x');
    CHECK_OK(bufpool_close(pool));
}

/* The kernel may have moved more than it tells: nothing is lost, and what then fails is undone whole. */
static void test_told_less(void)
{
    bufpool_pool *pool = open_thp("all", 2);
    fill_all(pool);
    char *at = bufpool_address(pool, 1);
    for (int round = 0; round < 4; round++) {
        move_denies = round > 1;
        move_lies = 2;
        CHECK_OK(bufpool_pin(pool, 1, round % 2));
        CHECK_IS(move_lies, ==, 0);
        for (size_t offset = 0; offset < HUGE_PAGE; offset += 4096) {
            CHECK_IS(read_byte(at + offset), ==, 'b');
            CHECK(reads_at(at + HUGE_PAGE + offset, NULL));
        }
        CHECK_OPEN(pool, 1, true, round % 2, 'b');
        move_lies = 2;
        CHECK_OK(bufpool_unpin_for(pool, 1, round % 2));
        CHECK_IS(move_lies, ==, 0);
        CHECK_OPEN(pool, 1, false, false, 'b');
        move_lies = 1; /* then the second granule */
        moves_before = 1;
        move_fails = -ENOMEM;
        CHECK_IS(bufpool_pin(pool, 1, true), <, 0);
        move_fails = 0;
        move_lies = 0;
        for (size_t offset = 0; offset < 2 * HUGE_PAGE; offset += 4096) {
            CHECK(!reads_at(at + offset, NULL));
        }
        check_life(pool, 1, true, 'b');
        check_life(pool, 0, true, 'a');
    }
    CHECK_OK(bufpool_close(pool));
}

static void test_open_refused(void)
{
    bufpool_config config = pins_config("thp", "uffd", "all");
    bufpool_pool *pool;
    int fds = count_fds();
    move_fails = -EINVAL;
    CHECK_IS(bufpool_open(&config, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "UFFDIO_MOVE");
    CHECK_HAS(last_error(), "pins \"write\" or \"count\"");
    move_fails = 0;
    config.capacity = 64 * HUGE_PAGE;
    too_large = config.capacity + HUGE_PAGE / 2; /* with the room for alignment both are */
    CHECK_IS(bufpool_open(&config, &pool), <, 0);
    too_large = 0;
    CHECK_IS(count_fds(), ==, fds);
}

/* io_uring has the frames: they cannot be moved until it has them no more. */
static void test_fixed_buffers(void)
{
    struct io_uring_params parameters = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
    bufpool_pool *pool = open_thp("all", 1);
    fill_all(pool);
    CHECK_OK(bufpool_pin(pool, 3, true));
    struct iovec buffer = {bufpool_address(pool, 3), 8192};
    if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) != 0) {
        printf("no fixed buffers of io_uring here: %s\n", strerror(errno));
    } else {
        CHECK_IS(bufpool_unpin(pool, 3), ==, -EBUSY);
        CHECK_HAS(last_error(), "io_uring");
        CHECK_OPEN(pool, 3, true, true, 'd');
        CHECK_OK((int)syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
    }
    WAIT_FOR(bufpool_unpin(pool, 3) == 0); /* they are given back a while later */
    check_life(pool, 3, true, 'd');
    close(ring);
    CHECK_OK(bufpool_close(pool));
}

/* ---- fork ---- */

static void has_no_pool(void *argument)
{
    bufpool_pool *pool = argument;
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "huge pages of memory thp that pins \"all\" closes cannot be shared with a child");
    CHECK_IS(bufpool_pin(pool, 0, true), ==, BUFPOOL_EUNSUPPORTED);
    CHECK(!reads_at(bufpool_address(pool, 0), NULL));
    CHECK(!reads_at(bufpool_address(pool, 1), NULL));
}

static void test_fork(void)
{
    bufpool_pool *pool = open_thp("all", 1);
    fill_all(pool);
    CHECK_OK(bufpool_pin(pool, 1, false));
    passes(has_no_pool, pool);
    CHECK(is_huge(pool, 1));
    CHECK_OPEN(pool, 1, true, false, 'b');
    CHECK_OK(bufpool_unpin(pool, 1));
    check_life(pool, 1, true, 'b');
    check_life(pool, 0, true, 'a');
    CHECK_OK(bufpool_pin(pool, 0, true));
    CHECK(is_huge(pool, 0));
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("thp", "uffd", NULL, 0) != 0) {
        printf("thp/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    test_open_refused();
    static char modes[][6] = {"write", "all"};
    for (int i = 0; i < 2; i++) {
        passes(small_pages, modes[i]);
        check_flags(modes[i], BUFPOOL_RED_ZONES | BUFPOOL_SCRUB);
        check_flags(modes[i], BUFPOOL_LOCK);
    }
    bufpool_pool *pool = open_thp("all", 1);
    bool huge = stats_of(pool).memory_note[0] == 0;
    if (!huge) {
        printf("huge pages cannot be had here: %s\n", stats_of(pool).memory_note);
        return HARNESS_SKIP;
    }
    CHECK_OK(bufpool_close(pool));
    for (int i = 0; i < 2; i++) {
        test_huge(modes[i]);
        test_split(modes[i]);
    }
    test_busy();
    test_told_less();
    test_unprotected();
    test_fixed_buffers();
    test_fork();
    return 0;
}
