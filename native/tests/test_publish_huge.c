/* The same as test_publish.c of huge granules. */
#include "cells.h"
#include "publish.h"

#define HUGE_PAGES 32

static void cell(const char *memory, const char *trap)
{
    publish_with_pins(memory, trap, HUGE_PAGE);
}

static int body(void)
{
    return for_each_huge_cell(cell, true);
}

int main(void)
{
    return with_huge_pages(HUGE_PAGES, body);
}
