/* Every kind of damage is found by its name and repaired, on every memory of huge pages under every trap. */
#include "cells.h"
#include "damage.h"

static void cell(const char *memory, const char *trap)
{
    damage_all(memory, trap, HUGE_PAGE);
}

static int body(void)
{
    return for_each_huge_cell(cell, true);
}

int main(void)
{
    return with_huge_pages(8, body);
}
