/* The kill campaign of test_killed_pool.c on huge pages. */
#include "cells.h"

#define MEMORY "hugetlb"
#define PAGE_SIZE HUGE_PAGE
#define PAGES 40
#define LEAST 2
#define MOST 8
#define BATCH 3
#define OTHER_MAIN
#include "test_killed_pool.c"

static int body(void)
{
    if (read_setting(FREE_HUGEPAGES) < PAGES + 8) {
        printf("%d huge pages of 2 MiB are needed, and setting them aside takes root\n", PAGES + 8);
        return HARNESS_SKIP;
    }
    return run();
}

int main(void)
{
    return with_huge_pages(PAGES + 8, body);
}
