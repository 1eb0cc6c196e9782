/* The system's huge pages, nodes and mounts as the library reads them: counts, texts, malformed ones. */
#include "cells.h"
#include "mounts.h"
#include "numa.h"
#include "reserve.h"

#include <sys/mman.h>
#include <sys/stat.h>

static void units(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{1, "1 bytes"},           {1023, "1023 bytes"}, {1024, "1 KiB"},      {4096, "4 KiB"},
                 {64 * KIB, "64 KiB"},     {MIB, "1 MiB"},       {2 * MIB, "2 MiB"},   {3 * MIB / 2, "1536 KiB"},
                 {32 * MIB, "32 MiB"},     {GIB, "1 GiB"},       {16 * GIB, "16 GiB"}, {TIB, "1 TiB"},
                 {4096 * TIB, "4096 TiB"}, {0, "0 bytes"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        bp_reserve_unit(cases[i].bytes, text, sizeof text);
        CHECK_STRING(text, cases[i].text);
    }
    char cut[4];
    bp_reserve_unit(16 * GIB, cut, sizeof cut);
    CHECK_STRING(cut, "16 ");
}

static void absent_sizes(void)
{
    static const uint64_t sizes[] = {0, 1, 4096, 3 * MIB, 2 * MIB + 4096, 2 * MIB - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct bp_reserve reserve;
        CHECK_IS(bp_reserve_read(sizes[i], &reserve), ==, -ENOENT);
    }
    char text[400];
    bp_reserve_explain(3 * MIB, 7, -1, text, sizeof text);
    CHECK_STRING(text, "7 huge pages of 3 MiB are needed for the whole pool");
    char small[3];
    bp_reserve_sizes(small, sizeof small);
    CHECK_IS(strlen(small), <, sizeof small);
}

static void counts(void)
{
    uint64_t size;
    char sizes[128];
    char unit[32];
    bp_reserve_sizes(sizes, sizeof sizes);
    if (bp_reserve_default(&size) != 0) {
        CHECK_STRING(sizes, "no size");
        printf("this kernel has no huge pages (CONFIG_HUGETLBFS)\n");
        return;
    }
    bp_reserve_unit(size, unit, sizeof unit);
    CHECK_HAS(sizes, unit);
    struct bp_reserve reserve;
    CHECK_OK(bp_reserve_read(size, &reserve));
    CHECK_IS(reserve.free, <=, reserve.total);
    CHECK_IS(reserve.reserved, <=, reserve.free);

    char text[400];
    char expected[128];
    bp_reserve_explain(size, 500000, -1, text, sizeof text);
    snprintf(expected, sizeof expected,
             "huge pages of %s: %llu there, %llu free, %llu of those reserved, 500000 needed", unit,
             (unsigned long long)reserve.total, (unsigned long long)reserve.free, (unsigned long long)reserve.reserved);
    CHECK_HAS(text, expected);
    unsigned long long used = reserve.total - (reserve.free - reserve.reserved);
    snprintf(expected, sizeof expected, "echo %llu > /sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages",
             used + 500000, (unsigned long long)size / 1024);
    CHECK_HAS(text, expected);
    bp_reserve_explain(size, reserve.free - reserve.reserved, -1, text, sizeof text);
    CHECK(strstr(text, "echo") == NULL); /* what is there already needs no command */
    char cut[16];
    bp_reserve_explain(size, 5, -1, cut, sizeof cut);
    CHECK_IS(strlen(cut), ==, sizeof cut - 1);
}

static void check_reserve(const struct bp_reserve *before, int64_t used, int64_t reserved)
{
    struct bp_reserve now;
    CHECK_OK(bp_reserve_read(HUGE_PAGE, &now));
    CHECK_IS((int64_t)now.free, ==, (int64_t)before->free - used);
    CHECK_IS((int64_t)now.reserved, ==, (int64_t)before->reserved + reserved);
}

/* What a pool reserves shows there, and goes with it. */
static void pool_reserves(const char *memory, const char *trap)
{
    if (strcmp(memory, "thp") == 0) {
        return;
    }
    struct bp_reserve before;
    CHECK_OK(bp_reserve_read(HUGE_PAGE, &before));
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 4 * HUGE_PAGE;
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.flags = BUFPOOL_RESERVE;
    bufpool_pool *pool;
    CHECK_OK(bufpool_open(&config, &pool));
    check_reserve(&before, 0, 4);
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    check_reserve(&before, 3, 1);
    CHECK_OK(bufpool_free(pool, pages[1]));
    check_reserve(&before, 2, 2);
    CHECK_OK(bufpool_allocate(pool, "x", 2, &pages[1]));
    check_reserve(&before, 3, 1);
    CHECK_OK(bufpool_evict(pool, pages[1]));
    check_reserve(&before, 2, 2);
    CHECK_IS(stats_of(pool).reserve_lost, ==, 0);
    CHECK_OK(bufpool_close(pool));
    check_reserve(&before, 0, 0);

    config.flags = 0; /* without it, nothing is promised */
    CHECK_OK(bufpool_open(&config, &pool));
    check_reserve(&before, 0, 0);
    CHECK_OK(bufpool_allocate(pool, "x", 2, &pages[0]));
    check_reserve(&before, 1, 0);
    CHECK_OK(bufpool_close(pool));
    check_reserve(&before, 0, 0);
}

static bool has_node(const struct bp_numa *numa, unsigned node)
{
    return numa->nodes[node / 64] >> (node % 64) & 1;
}

static unsigned count_nodes(const struct bp_numa *numa)
{
    unsigned count = 0;
    for (unsigned node = 0; node < BP_NODES; node++) {
        count += has_node(numa, node);
    }
    return count;
}

static void numa(void)
{
    struct bp_numa numa;
    CHECK_OK(bp_numa_parse(NULL, &numa));
    CHECK_IS(numa.mode, ==, BP_NUMA_NONE);
    CHECK_OK(bp_numa_parse("interleave", &numa));
    CHECK_IS(numa.mode, ==, BP_NUMA_INTERLEAVE);
    CHECK_IS(count_nodes(&numa), ==, 0); /* all, which bp_numa_resolve() finds out */
    CHECK_OK(bp_numa_parse("local", &numa));
    CHECK_IS(numa.mode, ==, BP_NUMA_LOCAL);
    CHECK_IS(count_nodes(&numa), ==, 0);
    CHECK_OK(bp_numa_parse("0,2-3,1023,62-65", &numa));
    CHECK_IS(numa.mode, ==, BP_NUMA_BIND);
    CHECK_IS(count_nodes(&numa), ==, 8);
    static const unsigned nodes[] = {0, 2, 3, 62, 63, 64, 65, 1023};
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        CHECK(has_node(&numa, nodes[i]));
    }
    CHECK_OK(bp_numa_parse("3,1,3,1-2", &numa)); /* in any order, and twice */
    CHECK_IS(count_nodes(&numa), ==, 3);
    CHECK_OK(bp_numa_parse("0-1023", &numa));
    CHECK_IS(count_nodes(&numa), ==, 1024);

    static const char *const bad[] = {"",
                                      " ",
                                      ",",
                                      "0,",
                                      ",0",
                                      "0,,1",
                                      "0-",
                                      "-0",
                                      "1-0",
                                      "0--1",
                                      "x",
                                      "0x",
                                      "0x1",
                                      "+1",
                                      "1 ",
                                      " 1",
                                      "1.5",
                                      "all",
                                      "1024",
                                      "0-1024",
                                      "18446744073709551616",
                                      "0-18446744073709551617",
                                      "Local",
                                      "local,0",
                                      "interleave "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_IS(bp_numa_parse(bad[i], &numa), ==, BUFPOOL_EARGUMENT);
        char expected[64];
        snprintf(expected, sizeof expected, "numa is \"%s\"", bad[i]);
        CHECK_HAS(last_error(), expected);
        CHECK_HAS(last_error(), "below 1024");
    }
    uint64_t random = 1;
    for (int round = 0; round < 200000; round++) { /* any text: an answer, and nothing out of bounds */
        static const char letters[] = "0123456789,,--x ";
        char text[12];
        size_t length = next_random(&random) % sizeof text;
        for (size_t i = 0; i < length; i++) {
            text[i] = letters[next_random(&random) % (sizeof letters - 1)];
        }
        text[length] = 0;
        int code = bp_numa_parse(text, &numa);
        CHECK(code == 0 ? count_nodes(&numa) > 0 : code == BUFPOOL_EARGUMENT);
        round += code == 0 ? 50 : 0; /* counting the nodes is what takes time */
    }
}

static void words(void)
{
    static const struct {
        const char *options;
        const char *word;
        bool has;
    } cases[] = {{"rw,noautofill,pagesize=2M", "noautofill", true},
                 {"noautofill", "noautofill", true},
                 {"rw,noautofill", "noautofill", true},
                 {"noautofill,rw", "noautofill", true},
                 {"rw,noautofills", "noautofill", false},
                 {"rw,xnoautofill", "noautofill", false},
                 {"rw,noautofil", "noautofill", false},
                 {"", "noautofill", false},
                 {",", "noautofill", false},
                 {"rw,,noautofill", "noautofill", true},
                 {"rw,noautofill=1", "noautofill", false},
                 {"rw", "rw", true},
                 {"noautofillx,noautofill", "noautofill", true},
                 {"size=noautofill", "noautofill", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_IS(bp_mount_has(cases[i].options, cases[i].word), ==, cases[i].has);
    }
}

static void options_of(const char *path, const char *word)
{
    char options[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_IS(fd, >=, 0);
    CHECK_OK(bp_mount_options(fd, options, sizeof options));
    CHECK(bp_mount_has(options, "rw") || bp_mount_has(options, "ro"));
    CHECK(word == NULL || bp_mount_has(options, word));
    char cut[3];
    CHECK_OK(bp_mount_options(fd, cut, sizeof cut));
    CHECK_IS(strncmp(cut, options, 2), ==, 0);
    CHECK_OK(close(fd));
}

static void mounts(void)
{
    char options[64];
    options_of("/proc/self", NULL);
    int fd = memfd_create("unmounted", MFD_CLOEXEC);
    CHECK_IS(fd, >=, 0);
    CHECK_IS(bp_mount_options(fd, options, sizeof options), ==, -ENOENT);
    CHECK_OK(close(fd));
    CHECK_IS(bp_mount_options(-1, options, sizeof options), ==, -EBADF);
    if (huge_directory[0] == 0) {
        return;
    }
    options_of(huge_directory, "pagesize=2M");
    char place[300]; /* a name that mountinfo escapes, and options of its own */
    snprintf(place, sizeof place, "%s/bufpool a - b %d", huge_directory, (int)getpid());
    CHECK_OK(mkdir(place, 0700));
    if (mount("none - x", place, "hugetlbfs", MS_NOSUID | MS_NODEV, "pagesize=2M,size=64M,mode=0750") == 0) {
        options_of(place, "mode=750");
        options_of(place, "pagesize=2M");
        CHECK_OK(umount(place));
    }
    CHECK_OK(rmdir(place));
}

static int body(void)
{
    units();
    absent_sizes();
    counts();
    numa();
    words();
    mounts();
    if (read_setting(FREE_HUGEPAGES) >= 8) {
        for_each_huge_cell(pool_reserves, false);
    } else {
        printf("skipped what a pool reserves: it takes huge pages\n");
    }
    return 0;
}

int main(void)
{
    return with_huge_pages(8, body);
}
