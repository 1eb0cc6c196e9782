/* The kill points of test_killed_points.c on huge pages. */
#include "cells.h"

#define MEMORY "hugetlb"
#define PAGE_SIZE HUGE_PAGE
#define FILLED 16
#define EVERY false /* it takes its time to fill huge pages */
#define UNMET "frame of zeros", "closed for all by the last"
#define OTHER_MAIN
#include "test_killed_points.c"

#define HUGE_PAGES 128 /* the parent's, all that are free in the pool, and the small pools beside it */

static int body(void)
{
    if (read_setting(FREE_HUGEPAGES) < HUGE_PAGES) {
        printf("%d huge pages of 2 MiB are needed, and setting them aside takes root\n", HUGE_PAGES);
        return HARNESS_SKIP;
    }
    return run();
}

int main(void)
{
    return with_huge_pages(HUGE_PAGES, body);
}
