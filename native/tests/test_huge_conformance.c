/* The suite of conformance.h on every memory of huge granules; and huge pages of 1 GiB, where one can be set aside. */
#include "cells.h"
#include "conformance.h"

#define HUGE_PAGES (3 * PAGES / 2) /* the suite takes PAGES at once */
#define GIB_DIRECTORY "/sys/kernel/mm/hugepages/hugepages-1048576kB/"

static void huge_cell(const char *memory, const char *trap)
{
    bool thp = strcmp(memory, "thp") == 0;
    bool none = strcmp(trap, "none") == 0;
    const char *backing = strcmp(memory, "hugetlb") == 0 ? "memfd of huge pages"
                          : !thp                         ? "file of huge pages"
                          : none                         ? "private anonymous"
                                                         : "transparent huge pages";
    conformance(memory, trap, backing, !(thp && none));
    CHECK_IS(cell.granule, ==, HUGE_PAGE);
    conformance_end();
}

/* ---- 1 GiB ---- */

static bufpool_pool *open_gib(const char *trap, const char *on_fault)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 2 * GIB;
    config.page_size = 0;
    config.granule = GIB;
    config.memory = "hugetlb";
    config.trap = trap;
    config.on_fault = on_fault;
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(&config, &pool));
    return pool;
}

/* Two pages, of which at least one can have a frame. */
static void gib_cell(const char *trap)
{
    cell.memory = "hugetlb";
    cell.trap = trap;
    cell.trapped = strcmp(trap, "none") != 0;
    cell.granule = GIB;
    bufpool_pool *pool = open_gib(trap, "raise");
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.granule, ==, GIB);
    CHECK_IS(s.page_size, ==, GIB);
    check_hole(pool, 1, GIB, BUFPOOL_STATE_UNALLOCATED);
    uint64_t page;
    static const char text[] = "a granule of one GiB";
    CHECK_OK(bufpool_allocate(pool, text, sizeof text, &page));
    unsigned char *at = bufpool_address(pool, page);
    CHECK(memcmp(at, text, sizeof text) == 0);
    check_zeros(at + sizeof text, 64 * KIB);
    check_zeros(at + GIB / 2, 64 * KIB);
    check_zeros(at + GIB - 64 * KIB, 64 * KIB);
    at[GIB - 1] = 9;
    uint64_t more[2];
    CHECK_IS(bufpool_allocate_many(pool, 2, more), ==, BUFPOOL_EEXHAUSTED);
    CHECK_IS(at[GIB - 1], ==, 9);
    CHECK_OK(bufpool_evict(pool, page));
    check_hole(pool, page, GIB, BUFPOOL_STATE_EVICTED);
    CHECK_OK(bufpool_populate(pool, page, NULL, 0));
    check_zeros(at, 64 * KIB);
    CHECK_IS(at[GIB - 1], ==, 0);
    CHECK_OK(bufpool_free(pool, page));
    check_hole(pool, page, GIB, BUFPOOL_STATE_FREED);
    if (cell.trapped) { /* the whole granule is diverted, and armed again */
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_IS((unsigned char)read_byte(at + GIB - 7), ==, BUFPOOL_POISON);
        CHECK_IS((unsigned char)read_byte(at + GIB / 2 + 1), ==, BUFPOOL_POISON);
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK_IS(fault.offset, ==, GIB - 7);
        CHECK_OK(bufpool_check(&fault));
        check_hole(pool, page, GIB, BUFPOOL_STATE_FREED);
    }
    CHECK_OK(bufpool_close(pool));
}

static void gib_cells(void)
{
#if defined(__SANITIZE_THREAD__)
    printf("skipped huge pages of 1 GiB: the thread sanitizer keeps several times that in shadows\n");
    return;
#endif
    long spare = read_setting(GIB_DIRECTORY "free_hugepages");
    if (spare < 1) {
        printf("skipped huge pages of 1 GiB: %s\n",
               spare < 0 ? "this machine has none" : "none is free, and none could be set aside");
        return;
    }
    for (size_t t = 0; bufpool_trap_name(t) != NULL; t++) {
        const char *trap = bufpool_trap_name(t);
        if (bufpool_cell("hugetlb", trap, NULL) != 0) {
            continue;
        }
        int code = bufpool_probe("hugetlb", trap, NULL, 0);
        if (code == BUFPOOL_EUNSUPPORTED) {
            printf("skipped cell hugetlb of 1 GiB/%s: %s\n", trap, last_error());
            continue;
        }
        CHECK_OK(code);
        printf("cell hugetlb of 1 GiB/%s\n", trap);
        gib_cell(trap);
    }
}

static int body(void)
{
    int code = for_each_huge_cell(huge_cell, true);
    if (code == 0) {
        gib_cells();
    }
    return code;
}

int main(void)
{
    /* The setting is put back here, after the child that with_huge_pages() runs has ended, however it did. */
    long before = read_setting(GIB_DIRECTORY "nr_hugepages");
    bool changed = before >= 0 && read_setting(GIB_DIRECTORY "free_hugepages") == 0 &&
                   write_setting(GIB_DIRECTORY "nr_hugepages", before + 1);
    int code = with_huge_pages(HUGE_PAGES, body);
    if (changed) {
        write_setting(GIB_DIRECTORY "nr_hugepages", before);
    }
    return code;
}
