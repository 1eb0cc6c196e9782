/* Memory thp: every way to a frame gives one whole huge page, which /proc/self/smaps proves; frames that serve again
 * are cleared; and where there are no huge pages, small ones take their place, counted, and trap as ever. */
#include "harness.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define HUGE_PAGE (2 * MIB)
#define PAGES 24

/* ---- /proc/self/smaps ---- */

/* The KiB of a field, of the mappings in a range. */
static long smaps_kib(const void *from, size_t length, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    char line[512];
    unsigned long start = 0;
    unsigned long end = 0;
    long sum = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long a, b;
        long kib;
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            start = a;
            end = b;
        } else if (start >= (uintptr_t)from && end <= (uintptr_t)from + length &&
                   strncmp(line, field, strlen(field)) == 0 && sscanf(line + strlen(field), ": %ld", &kib) == 1) {
            sum += kib;
        }
    }
    fclose(file);
    return sum;
}

static void check_huge(const bufpool_pool *pool, uint64_t huge_granules)
{
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(smaps_kib((void *)s.address, s.capacity, "AnonHugePages"), ==, huge_granules * (HUGE_PAGE / KIB));
    CHECK_IS(smaps_kib((void *)s.address, s.capacity, "Rss"), ==, huge_granules * (HUGE_PAGE / KIB));
}

/* ---- Content ---- */

static unsigned char *data; /* four huge pages */

static bool is_zero(const unsigned char *at, size_t size)
{
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

static void dirty(bufpool_pool *pool, uint64_t page)
{
    memset(bufpool_address(pool, page), 0xEE, HUGE_PAGE);
}

static bufpool_pool *open_thp(const char *on_fault, uint64_t granules, uint32_t flags)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.memory = "thp";
    config.page_size = granules * HUGE_PAGE;
    config.capacity = PAGES * config.page_size;
    config.on_fault = on_fault;
    config.flags = flags;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* ---- Every way to a frame ---- */

static void fills(uint32_t flags)
{
    bufpool_pool *pool = open_thp("raise", 1, flags);
    CHECK_STRING(stats_of(pool).trap, "uffd");
    CHECK_STRING(stats_of(pool).memory_note, "");
    CHECK_STRING(stats_of(pool).backing, "transparent huge pages");
    check_huge(pool, 0);
    uint64_t pages[6];
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &pages[0]));
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &pages[1]));
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE / 2 + 77, &pages[2]));
    CHECK_OK(bufpool_allocate_filled(pool, 3, data, pages + 3));
    check_huge(pool, 6);
    CHECK(memcmp(bufpool_address(pool, pages[0]), data, HUGE_PAGE) == 0);
    CHECK(is_zero(bufpool_address(pool, pages[1]), HUGE_PAGE));
    CHECK(memcmp(bufpool_address(pool, pages[2]), data, HUGE_PAGE / 2 + 77) == 0);
    CHECK(is_zero((unsigned char *)bufpool_address(pool, pages[2]) + HUGE_PAGE / 2 + 77, HUGE_PAGE / 2 - 77));
    CHECK(memcmp(bufpool_address(pool, pages[5]), data + 2 * HUGE_PAGE, HUGE_PAGE) == 0);
    CHECK_IS(stats_of(pool).huge_fills, ==, 6);
    CHECK_IS(stats_of(pool).small_fills, ==, 0);

    /* Freed and used again: frames are kept, and cleared where zeros are wanted. */
    for (int i = 0; i < 6; i++) {
        dirty(pool, pages[i]);
    }
    CHECK_OK(bufpool_free_many(pool, 6, pages));
    check_huge(pool, 0);
    CHECK_IS(stats_of(pool).frames_kept, ==, 6);
    uint64_t recycled = stats_of(pool).recycled; /* the frame of the trial at open serves, too */
    uint64_t again[6];
    CHECK_OK(bufpool_allocate_many(pool, 4, again));
    CHECK_OK(bufpool_allocate(pool, "short", 5, &again[4]));
    CHECK_OK(bufpool_allocate(pool, data + 1, HUGE_PAGE, &again[5]));
    check_huge(pool, 6);
    CHECK_IS(stats_of(pool).recycled, ==, recycled + 6);
    CHECK_IS(stats_of(pool).huge_fills, ==, 12);
    for (int i = 0; i < 4; i++) {
        CHECK(is_zero(bufpool_address(pool, again[i]), HUGE_PAGE));
    }
    CHECK_STRING(bufpool_address(pool, again[4]), "short");
    CHECK(is_zero((unsigned char *)bufpool_address(pool, again[4]) + 5, HUGE_PAGE - 5));
    CHECK(memcmp(bufpool_address(pool, again[5]), data + 1, HUGE_PAGE) == 0);

    /* Evicted and populated. */
    dirty(pool, again[1]);
    CHECK_OK(bufpool_evict_many(pool, 2, again));
    check_huge(pool, 4);
    CHECK_OK(bufpool_populate(pool, again[0], data, HUGE_PAGE));
    CHECK_OK(bufpool_populate(pool, again[1], NULL, 0));
    check_huge(pool, 6);
    CHECK(memcmp(bufpool_address(pool, again[0]), data, HUGE_PAGE) == 0);
    CHECK(is_zero(bufpool_address(pool, again[1]), HUGE_PAGE));
    CHECK_IS(stats_of(pool).small_fills, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* A granule that a stray access diverted is mapped anew, and takes huge frames as before. */
static void after_stray(uint32_t flags)
{
    bufpool_pool *pool = open_thp("raise", 1, flags);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &page));
    CHECK_OK(bufpool_free(pool, page));
    uint64_t holes[] = {page, 7, PAGES - 1};
    for (int i = 0; i < 3; i++) {
        char *at = bufpool_address(pool, holes[i]);
        write_byte(at + HUGE_PAGE - 1, 3);
        CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON);
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.page, ==, holes[i]);
        CHECK_IS(fault.offset, ==, HUGE_PAGE - 1);
        CHECK_IS(fault.access, ==, BUFPOOL_WRITE);
        CHECK(traps_at(at + 4096, NULL));
        CHECK_OK(bufpool_allocate_at(pool, holes[i], i == 1 ? NULL : data, i == 1 ? 0 : HUGE_PAGE));
        CHECK(i == 1 ? is_zero((unsigned char *)at, HUGE_PAGE) : memcmp(at, data, HUGE_PAGE) == 0);
        check_huge(pool, (uint64_t)i + 1);
    }
    CHECK_IS(stats_of(pool).small_fills, ==, 0);
    CHECK_IS(stats_of(pool).faults, ==, 6);
    CHECK_OK(bufpool_close(pool));
}

/* A page of several granules, and more frees than the stash has room for. */
static void many(void)
{
    bufpool_pool *pool = open_thp("abort", 2, 0);
    uint64_t pages[PAGES];
    for (int round = 0; round < 3; round++) {
        CHECK_OK(bufpool_allocate_many(pool, PAGES, pages));
        check_huge(pool, 2 * PAGES);
        for (int i = 0; i < PAGES; i++) {
            unsigned char *at = bufpool_address(pool, pages[i]);
            CHECK(is_zero(at, 2 * HUGE_PAGE));
            memset(at, 0xEE, 2 * HUGE_PAGE);
        }
        CHECK_OK(bufpool_free_many(pool, PAGES, pages));
        check_huge(pool, 0);
    }
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.recycled, >, 0);
    CHECK_IS(s.recycled, <, s.huge_fills);
    CHECK_IS(s.huge_fills, ==, 3 * 2 * PAGES);
    CHECK_IS(s.small_fills, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

/* Data that strays or cannot be read leaves a hole, and the next fill is huge. */
static void unreadable(void)
{
    bufpool_pool *pool = open_thp("raise", 1, 0);
    char *closed = mmap(NULL, HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(closed != MAP_FAILED);
    uint64_t page;
    for (int i = 0; i < 2 * 16; i++) { /* more often than there are slots to lose */
        CHECK_IS(bufpool_allocate(pool, closed, HUGE_PAGE, &page), ==, -EFAULT);
        CHECK_IS(bufpool_allocate(pool, bufpool_address(pool, 20), HUGE_PAGE, &page), ==, BUFPOOL_ESTRAY);
    }
    check_huge(pool, 0);
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK(traps_at((char *)bufpool_address(pool, i) + i * 1000, NULL));
    }
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &page));
    check_huge(pool, 1);
    CHECK_OK(bufpool_free(pool, page));
    CHECK_IS(bufpool_allocate(pool, closed, HUGE_PAGE, &page), ==, -EFAULT); /* with a kept frame */
    CHECK_OK(bufpool_allocate(pool, NULL, 0, &page));
    CHECK(is_zero(bufpool_address(pool, page), HUGE_PAGE));
    check_huge(pool, 1);
    CHECK_OK(bufpool_close(pool));
    munmap(closed, HUGE_PAGE);
}

/* ---- Threads ---- */

#define STEPS (SANITIZED ? 40 : 300)

static bufpool_pool *shared;

static void *turnover(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t *content = malloc(HUGE_PAGE);
    for (int i = 0; i < STEPS; i++) {
        uint64_t stamp = next_random(&seed) | 1;
        for (size_t word = 0; word < HUGE_PAGE / 8; word += 512) { /* one word of each small page */
            content[word] = stamp + word;
        }
        bool zeros = i % 4 == 0;
        uint64_t page;
        CHECK_OK(bufpool_allocate(shared, zeros ? NULL : content, zeros ? 0 : HUGE_PAGE, &page));
        volatile uint64_t *at = bufpool_address(shared, page);
        for (size_t word = 0; word < HUGE_PAGE / 8; word += 512) {
            CHECK_IS(at[word], ==, zeros ? 0 : stamp + word);
            at[word] = ~stamp;
        }
        if (i % 3 == 0) {
            CHECK_OK(bufpool_evict(shared, page));
            CHECK_OK(bufpool_populate(shared, page, NULL, 0));
            for (size_t word = 0; word < HUGE_PAGE / 8; word += 512) {
                CHECK_IS(at[word], ==, 0);
            }
        }
        CHECK_OK(bufpool_free(shared, page));
    }
    free(content);
    return NULL;
}

static void threads(void)
{
    shared = open_thp("abort", 1, 0);
    uint64_t seeds[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    run_threads(8, turnover, seeds, sizeof *seeds);
    bufpool_statistics s = stats_of(shared);
    CHECK_IS(s.allocated, ==, 0);
    CHECK_IS(s.faults, ==, 0);
    CHECK_IS(s.huge_fills + s.small_fills, ==, s.allocations + s.populates);
    CHECK_IS(s.recycled, >, 0);
    CHECK_IS(s.huge_fills, >, 9 * s.small_fills);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(shared, PAGES, pages)); /* no number, and no slot, got lost */
    check_huge(shared, PAGES);
    CHECK_OK(bufpool_close(shared));
}

/* ---- Without huge pages ---- */

static void disabled(void *argument)
{
    (void)argument;
    CHECK_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    bufpool_pool *pool = open_thp("raise", 1, 0);
    CHECK_HAS(stats_of(pool).memory_note, "small pages take the place of huge ones");
    CHECK_HAS(stats_of(pool).memory_note, "PR_SET_THP_DISABLE");
    for (int round = 0; round < 2; round++) {
        uint64_t pages[3];
        CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &pages[0]));
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &pages[1]));
        CHECK_OK(bufpool_allocate(pool, data, 4097, &pages[2]));
        CHECK(memcmp(bufpool_address(pool, pages[0]), data, HUGE_PAGE) == 0);
        CHECK(is_zero(bufpool_address(pool, pages[1]), HUGE_PAGE));
        CHECK(memcmp(bufpool_address(pool, pages[2]), data, 4097) == 0);
        CHECK(is_zero((unsigned char *)bufpool_address(pool, pages[2]) + 4097, HUGE_PAGE - 4097));
        bufpool_statistics s = stats_of(pool);
        CHECK_IS(smaps_kib((void *)s.address, s.capacity, "AnonHugePages"), ==, 0);
        CHECK_IS(smaps_kib((void *)s.address, s.capacity, "Rss"), ==, 3 * HUGE_PAGE / KIB);
        CHECK_IS(s.huge_fills, ==, 0);
        CHECK_IS(s.small_fills, ==, 3 * (round + 1));
        for (int i = 0; i < 3; i++) {
            dirty(pool, pages[i]);
        }
        CHECK_OK(bufpool_evict(pool, pages[0]));
        CHECK_OK(bufpool_free_many(pool, 3, pages));
        for (int i = 0; i < 3; i++) {
            char *at = bufpool_address(pool, pages[i]);
            for (size_t offset = 0; offset < HUGE_PAGE; offset += 4096 * 37 + 1) {
                bufpool_fault fault = BUFPOOL_FAULT_INIT;
                CHECK(traps_at(at + offset, &fault));
                CHECK_IS(fault.offset, ==, offset);
            }
        }
        write_byte(bufpool_address(pool, pages[0]), 1);
        CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
        CHECK(traps_at(bufpool_address(pool, pages[0]), NULL));
        CHECK_IS(smaps_kib((void *)s.address, s.capacity, "Rss"), ==, 0);
    }
    CHECK_OK(bufpool_close(pool));
}

/* A mapping that had small frames takes huge ones again once it may. */
static void enabled_later(void *argument)
{
    (void)argument;
    CHECK_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    bufpool_pool *pool = open_thp("raise", 1, 0);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &page));
    CHECK_OK(bufpool_free(pool, page));
    CHECK_OK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
    CHECK_OK(bufpool_allocate_at(pool, page, data, HUGE_PAGE));
    check_huge(pool, 1);
    CHECK_IS(stats_of(pool).huge_fills, ==, 1);
    CHECK_IS(stats_of(pool).small_fills, ==, 1);
    CHECK_OK(bufpool_close(pool));
}

static void without(void)
{
    struct child child = run_child(disabled, NULL);
    CHECK_PASSED(child);
    child = run_child(enabled_later, NULL);
    CHECK_PASSED(child);
}

/* ---- */

/* Only where the whole capacity may be locked. */
static void locked(void)
{
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_MEMLOCK, &limit));
    if (geteuid() != 0 && limit.rlim_cur < 4 * PAGES * HUGE_PAGE) {
        printf("skipped locked pools: RLIMIT_MEMLOCK is %llu bytes\n", (unsigned long long)limit.rlim_cur);
        return;
    }
    fills(BUFPOOL_LOCK);
    after_stray(BUFPOOL_LOCK);
    bufpool_pool *pool = open_thp("abort", 1, BUFPOOL_LOCK);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, data, HUGE_PAGE, &page));
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(smaps_kib((void *)s.address, s.capacity, "Locked"), ==, HUGE_PAGE / KIB);
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (bufpool_probe("thp", "uffd", NULL, 0) != 0) {
        printf("thp/uffd cannot be had here: %s\n", last_error());
        return HARNESS_SKIP;
    }
    data = malloc(4 * HUGE_PAGE);
    for (size_t i = 0; i < 4 * HUGE_PAGE; i++) {
        data[i] = (unsigned char)(1 + (i * 7 + i / 4096) % 251);
    }
    without();
    bufpool_pool *pool = open_thp("abort", 1, 0);
    char note[256];
    snprintf(note, sizeof note, "%s", stats_of(pool).memory_note);
    CHECK_OK(bufpool_close(pool));
    if (note[0] != 0) {
        printf("huge pages cannot be had here: %s\n", note);
        free(data);
        return 0; /* without() has passed */
    }
    fills(0);
    fills(BUFPOOL_LAZY_ZERO);
    after_stray(0);
    many();
    unreadable();
    locked();
    threads();
    free(data);
    return 0;
}
