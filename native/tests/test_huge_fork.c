/* What a forked child inherits of a pool: the suite of heirs.h on every memory of huge granules. */
#include "cells.h"
#include "heirs.h"

static int body(void)
{
    return for_each_huge_cell(inherit_cell, false);
}

int main(void)
{
    return with_huge_pages(24, body);
}
