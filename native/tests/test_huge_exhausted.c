/* Huge pages run out: before a pool opens, while it fills, while it populates, to another process, to a stray access.
 * It is always an error that keeps what was there, never a signal. And BUFPOOL_RESERVE, which runs out at open only.
 *
 * The lock of with_huge_pages() keeps out who counts huge pages. Other programs, which only look whether they get one, have
 * it for a moment: what is there is waited for. */
#include "cells.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define FREE 8
#define PAGES 32
#define RESERVED "/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"

static const char *memory, *trap;
static bool trapped;
static unsigned char *data; /* of PAGES pages, each with a content of its own */

/* ---- Somebody else, who takes huge pages ---- */

static long unclaimed(void)
{
    return read_setting(FREE_HUGEPAGES) - read_setting(RESERVED);
}

/* Takes huge pages; a descriptor, or -1. */
static int take(long count)
{
    int fd = memfd_create("somebody else", MFD_HUGETLB | MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_OK(ftruncate(fd, count * (off_t)HUGE_PAGE));
    if (count > 0 && fallocate(fd, 0, 0, count * (off_t)HUGE_PAGE) < 0) {
        CHECK_IS(errno, ==, ENOSPC);
        close(fd);
        return -1;
    }
    return fd;
}

/* And at some more looks, when who has just been looking has given back his. */
static bool is_left(long count)
{
    bool left = unclaimed() == count;
    for (int look = 0; look < 5 && left; look++) {
        sleep_ms(5);
        left = unclaimed() == count;
    }
    return left;
}

/* Takes all but so many. */
static int leave(long count)
{
    int fd;
    while ((fd = take(unclaimed() - count)) < 0 || !is_left(count)) {
        close(fd);
        sleep_ms(10);
    }
    return fd;
}

/* A call that takes huge pages of which there are enough. */
#define CHECK_GETS(call) \
    do { \
        int exhausted_code; \
        WAIT_FOR((exhausted_code = (call)) != BUFPOOL_EEXHAUSTED); \
        CHECK_OK(exhausted_code); \
    } while (0)

/* ---- Pools ---- */

static int open_code(const char *on_fault, uint64_t pages, uint32_t flags, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.page_size = 0;
    config.capacity = pages * HUGE_PAGE;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = on_fault;
    config.flags = flags;
    return bufpool_open(&config, pool);
}

static bufpool_pool *open_huge(const char *on_fault, uint64_t pages, uint32_t flags)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(open_code(on_fault, pages, flags, &pool));
    return pool;
}

static const unsigned char *content_of(uint64_t page)
{
    return data + page * HUGE_PAGE;
}

static void check_pages(const bufpool_pool *pool, const uint64_t *pages, int count)
{
    for (int i = 0; i < count; i++) {
        CHECK(memcmp(bufpool_address(pool, pages[i]), content_of(pages[i]), HUGE_PAGE) == 0);
    }
}

/* Every other one filled at once, the others with zeros first: both ways can run out. */
static int fill_one(bufpool_pool *pool, int number, uint64_t *page)
{
    *page = 99;
    int code = bufpool_allocate(pool, number % 2 ? content_of(0) : NULL, number % 2 ? HUGE_PAGE : 0, page);
    if (code != 0) {
        CHECK_IS(code, ==, BUFPOOL_EEXHAUSTED);
        CHECK_HAS(last_error(), "no huge page is free");
        CHECK_IS(*page, ==, 99);
    }
    return code;
}

/* Allocates so many, and there is no more. */
static void fill_up(bufpool_pool *pool, uint64_t *pages, int count)
{
    for (int i = 0; i < count; i++) {
        CHECK_GETS(fill_one(pool, i, &pages[i]));
        memcpy(bufpool_address(pool, pages[i]), content_of(pages[i]), HUGE_PAGE);
    }
    for (int i = count; i < count + 2; i++) {
        uint64_t page;
        CHECK_IS(fill_one(pool, i, &page), ==, BUFPOOL_EEXHAUSTED);
    }
}

static void check_counts(const bufpool_pool *pool, uint64_t allocated, uint64_t evicted, long unclaimed_now)
{
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, allocated);
    CHECK_IS(s.evicted, ==, evicted);
    CHECK_IS(s.faults, ==, 0);
    CHECK_IS(s.small_fills, ==, 0);
    WAIT_FOR(unclaimed() == unclaimed_now);
    uint64_t taken = 0;
    for (uint64_t page = 0; page < s.pages; page++) {
        taken += state_of(pool, page) == BUFPOOL_STATE_ALLOCATED;
    }
    CHECK_IS(taken, ==, allocated);
}

static void during(void)
{
    int other = leave(FREE);
    bufpool_pool *pool = open_huge("abort", PAGES, 0);
    uint64_t pages[PAGES];
    fill_up(pool, pages, FREE);
    check_pages(pool, pages, FREE);
    check_counts(pool, FREE, 0, 0);
    CHECK_IS(stats_of(pool).huge_fills, ==, FREE);
    uint64_t more[PAGES];
    CHECK_IS(bufpool_allocate_many(pool, 1, more), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_allocate_at(pool, 20, "short", 5), ==, BUFPOOL_EEXHAUSTED);

    /* A batch larger than what is left is undone whole; one that fits goes well. */
    CHECK_OK(bufpool_free_many(pool, 3, pages + 2));
    check_counts(pool, FREE - 3, 0, 3);
    CHECK_IS(bufpool_allocate_many(pool, 4, more), ==, BUFPOOL_EEXHAUSTED);
    check_counts(pool, FREE - 3, 0, 3);
    CHECK_IS(bufpool_allocate_filled(pool, 5, data, more), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "no huge page is free");
    check_counts(pool, FREE - 3, 0, 3);
    check_pages(pool, pages, 2);
    check_pages(pool, pages + 5, FREE - 5);
    CHECK_GETS(bufpool_allocate_filled(pool, 3, data, more));
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(memcmp(bufpool_address(pool, more[i]), content_of(i), HUGE_PAGE) == 0);
    }
    check_counts(pool, FREE, 0, 0);

    /* Evicted pages whose frames somebody else took meanwhile stay evicted. */
    CHECK_OK(bufpool_evict_many(pool, 2, more));
    int thief;
    WAIT_FOR((thief = take(1)) >= 0);
    CHECK_IS(bufpool_populate_many(pool, 2, more, data), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_populate_many(pool, 2, more, NULL), ==, BUFPOOL_EEXHAUSTED);
    check_counts(pool, FREE - 2, 2, 1);
    CHECK_GETS(bufpool_populate(pool, more[0], "short", 5));
    CHECK_STRING(bufpool_address(pool, more[0]), "short");
    CHECK_IS(bufpool_populate(pool, more[1], data, HUGE_PAGE), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(bufpool_populate(pool, more[1], NULL, 0), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(state_of(pool, more[1]), ==, BUFPOOL_STATE_EVICTED);
    close(thief);
    CHECK_GETS(bufpool_populate(pool, more[1], data, HUGE_PAGE));
    check_counts(pool, FREE, 0, 0);
    CHECK_OK(bufpool_close(pool));
    WAIT_FOR(unclaimed() == FREE);
    close(other);
}

/* The frame of data that has none itself must not cost a second huge page. */
static void last_page(void)
{
    int other = leave(1);
    bufpool_pool *pool = NULL;
    WAIT_FOR(open_code("abort", PAGES, 0, &pool) == 0);
    char *lazy = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(lazy != MAP_FAILED);
    CHECK_OK(madvise(lazy, HUGE_PAGE, MADV_NOHUGEPAGE));
    lazy[HUGE_PAGE - 1] = 5;
    uint64_t page;
    CHECK_GETS(bufpool_allocate(pool, lazy, HUGE_PAGE, &page));
    CHECK(memcmp(bufpool_address(pool, page), lazy, HUGE_PAGE) == 0);
    CHECK_OK(bufpool_evict(pool, page));
    CHECK_GETS(bufpool_populate(pool, page, "short", 5));
    CHECK_STRING(bufpool_address(pool, page), "short");
    munmap(lazy, HUGE_PAGE);
    CHECK_OK(bufpool_close(pool));
    close(other);
}

/* Opening says what is there, what is needed, and how to get it. */
static void before(void)
{
    int other = leave(0);
    bufpool_pool *pool = NULL;
    CHECK_IS(open_code("abort", PAGES, 0, &pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK(pool == NULL);
    char part[200];
    CHECK_HAS(last_error(), "finds no huge page");
    CHECK_HAS(last_error(), "32 needed");
    snprintf(part, sizeof part, "%ld free", read_setting(FREE_HUGEPAGES));
    CHECK_HAS(last_error(), part);
    snprintf(part, sizeof part, "echo %ld > " NR_HUGEPAGES, read_setting(NR_HUGEPAGES) + PAGES);
    CHECK_HAS(last_error(), part);
    CHECK_IS(open_code("abort", PAGES, BUFPOOL_RESERVE, &pool), <, 0);
    close(other);
}

/* ---- Stray accesses, for which no huge page is left either ---- */

static void stray_twice(bufpool_pool *pool)
{
    uint64_t pages[PAGES];
    fill_up(pool, pages, FREE);
    for (int round = 0; round < 3; round++) {
        char *hole = (char *)bufpool_address(pool, 20) + 1000 * round;
        CHECK_IS((unsigned char)read_byte(hole + 5), ==, BUFPOOL_POISON);
        write_byte(hole + HUGE_PAGE / 2, 1); /* the granule is open: not seen */
        CHECK_IS(read_byte(hole + HUGE_PAGE / 2), ==, 1);
        CHECK_IS(stats_of(pool).scratched, ==, 1);
        CHECK_IS(stats_of(pool).faults, ==, round + 1);
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        if (strcmp(stats_of(pool).on_fault, "raise") == 0) {
            CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
            CHECK_IS(fault.page, ==, 20);
            CHECK_IS(fault.offset, ==, 1000 * round + 5);
        }
        CHECK_OK(bufpool_check(&fault)); /* and armed again */
        CHECK_IS(stats_of(pool).scratched, ==, 0);
    }
    check_pages(pool, pages, FREE);
    CHECK(traps_at((char *)bufpool_address(pool, 20) + HUGE_PAGE - 1, NULL));
    WAIT_FOR(unclaimed() == 0);
    CHECK_OK(bufpool_free(pool, pages[0]));
    write_byte(bufpool_address(pool, 20), 1);
    CHECK_GETS(bufpool_allocate_at(pool, 20, content_of(20), HUGE_PAGE)); /* wanted, so armed, then filled */
    CHECK(memcmp(bufpool_address(pool, 20), content_of(20), HUGE_PAGE) == 0);
    bufpool_check(NULL);
    CHECK_OK(bufpool_close(pool));
}

static void stray(void *on_fault)
{
    stray_twice(open_huge(on_fault, PAGES, 0));
}

static void strays(void)
{
    int other = leave(FREE);
    struct child child = run_child(stray, "resume");
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==ERROR") == 4, child);
    child = run_child(stray, "raise");
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==ERROR") == 0, child);
    close(other);
}

/* ---- Another process ---- */

static void hold_six(int ready)
{
    alarm(CHILD_LIMIT);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bufpool_pool *pool = open_huge("abort", PAGES, 0);
    uint64_t pages[6];
    CHECK_GETS(bufpool_allocate_many(pool, 6, pages));
    CHECK_IS(write(ready, "r", 1), ==, 1);
    for (;;) {
        pause();
    }
}

static void other_process(void)
{
    int other = leave(FREE);
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        hold_six(ends[1]);
    }
    close(ends[1]);
    char byte;
    CHECK_IS(read(ends[0], &byte, 1), ==, 1);
    close(ends[0]);
    bufpool_pool *pool = open_huge("abort", PAGES, 0);
    uint64_t pages[PAGES];
    fill_up(pool, pages, FREE - 6);
    CHECK_OK(kill(pid, SIGKILL)); /* it does not close its pool */
    CHECK_IS(waitpid(pid, NULL, 0), ==, pid);
    fill_up(pool, pages + FREE - 6, 6);
    check_pages(pool, pages, FREE);
    CHECK_OK(bufpool_close(pool));
    close(other);
}

/* ---- BUFPOOL_RESERVE ---- */

static void reserve(void)
{
    int other = leave(FREE);
    long held = read_setting(RESERVED);
    bufpool_pool *pool = NULL;
    CHECK_IS(open_code("abort", PAGES, BUFPOOL_RESERVE, &pool), ==, BUFPOOL_EEXHAUSTED);
    CHECK_HAS(last_error(), "32 needed");
    WAIT_FOR(unclaimed() == FREE); /* nothing of a refused open stays */
    CHECK_GETS(open_code("abort", FREE, BUFPOOL_RESERVE, &pool));
    WAIT_FOR(read_setting(RESERVED) == held + FREE);
    CHECK_IS(take(1), ==, -1);
    uint64_t pages[FREE];
    CHECK_OK(bufpool_allocate_filled(pool, FREE / 2, data, pages));
    CHECK_OK(bufpool_allocate_many(pool, FREE / 2, pages + FREE / 2));
    WAIT_FOR(read_setting(RESERVED) == held);
    CHECK_OK(bufpool_free(pool, pages[3])); /* and each page that is given back is reserved again */
    CHECK_OK(bufpool_evict_many(pool, 2, pages + FREE / 2));
    WAIT_FOR(read_setting(RESERVED) == held + 3);
    CHECK_IS(take(1), ==, -1);
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &pages[3]));
    CHECK_OK(bufpool_populate(pool, pages[FREE / 2], NULL, 0));
    CHECK_OK(bufpool_populate(pool, pages[FREE / 2 + 1], data, 10));
    WAIT_FOR(read_setting(RESERVED) == held);
    CHECK_IS(stats_of(pool).reserve_lost, ==, 0);
    if (trapped) {
        char *at = bufpool_address(pool, pages[3]);
        CHECK_OK(bufpool_evict(pool, pages[3]));
        CHECK(traps_at(at, NULL));
        WAIT_FOR(read_setting(RESERVED) == held + 1);
        CHECK_OK(bufpool_populate(pool, pages[3], data, HUGE_PAGE));
    }
    CHECK_OK(bufpool_close(pool));
    WAIT_FOR(read_setting(RESERVED) == held);
    WAIT_FOR(unclaimed() == FREE);
    close(other);
}

/* The administrator takes pages away that are in use: they are gone when they are freed. */
static void reserve_lost(void)
{
    int other = leave(FREE);
    long total = read_setting(NR_HUGEPAGES);
    bufpool_pool *pool = NULL;
    CHECK_GETS(open_code("abort", FREE, BUFPOOL_RESERVE, &pool));
    uint64_t pages[FREE];
    CHECK_OK(bufpool_allocate_many(pool, FREE, pages));
    if (!write_setting(NR_HUGEPAGES, total - 2)) {
        printf("skipped reserve_lost: the number of huge pages cannot be set here\n");
    } else {
        int code = bufpool_free_many(pool, FREE, pages);
        uint64_t lost = stats_of(pool).reserve_lost;
        uint64_t page;
        int allocated = 0;
        int last = 0;
        while (allocated < FREE && last == 0) {
            last = bufpool_allocate(pool, NULL, 0, &page);
            allocated += last == 0;
        }
        bool restored = write_setting(NR_HUGEPAGES, total);
        CHECK_OK(code);
        CHECK(restored);
        CHECK_IS(lost, >=, 2);
        CHECK_IS(last, ==, BUFPOOL_EEXHAUSTED);
        CHECK_IS(allocated, ==, FREE - 2);
        CHECK_GETS(bufpool_allocate(pool, data, HUGE_PAGE, &page));
        CHECK_GETS(bufpool_allocate(pool, NULL, 0, &page));
    }
    CHECK_OK(bufpool_close(pool));
    close(other);
}

/* ---- */

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    trapped = strcmp(trap, "none") != 0;
    during();
    last_page();
    before();
    other_process();
    reserve();
    reserve_lost();
    if (trapped) {
        strays();
    }
}

static int body(void)
{
    if (unclaimed() < FREE) {
        printf("%ld huge pages of 2 MiB can be had, and the test takes %d\n", unclaimed(), FREE);
        return HARNESS_SKIP;
    }
    data = malloc(PAGES * HUGE_PAGE);
    for (uint64_t page = 0; page < PAGES; page++) {
        memset(data + page * HUGE_PAGE, (int)page + 1, HUGE_PAGE);
        data[page * HUGE_PAGE + page * 1000] = 0xAA;
    }
    int run = for_each_trap("hugetlb", cell, true);
    if (huge_directory[0] != 0) {
        run += for_each_trap(huge_directory, cell, true);
    }
    free(data);
    if (run == 0) {
        printf("no cell of hugetlbfs can be had here (reasons above)\n");
    }
    return run == 0 ? HARNESS_SKIP : 0;
}

int main(void)
{
    return with_huge_pages(FREE, body);
}
