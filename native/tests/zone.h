/* zone.h: what the tests of quarantine, fill patterns and red zones share: pools of a few granules on every cell. */
#ifndef ZONE_H
#define ZONE_H

#include "cells.h"

#define ZONE_PAGES 12

MAYBE_UNUSED static uint64_t granule_of(const char *memory)
{
    return is_huge_memory(memory) ? HUGE_PAGE : GRANULE;
}

/* A config of so many pages of one granule, under "resume", which a test changes as it likes. */
MAYBE_UNUSED static bufpool_config zone_config(const char *memory, const char *trap, uint64_t pages)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * granule_of(memory);
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "resume";
    config.fork = "exclude";
    config.report_limit = UINT32_MAX;
    return config;
}

MAYBE_UNUSED static bufpool_pool *zone_open(const bufpool_config *config)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(config, &pool));
    return pool;
}

static cell_function zone_cell;
static bool zone_untrapped;

static int zone_all(void)
{
    int small = getenv("BUFPOOL_TEST_NOAUTOFILL") != NULL ? HARNESS_SKIP : for_each_cell(zone_cell, zone_untrapped);
    int huge = for_each_huge_cell(zone_cell, zone_untrapped);
    return small == HARNESS_SKIP ? huge : small;
}

/* Calls function for every cell of this machine, of small granules and of huge ones. Returns the exit code. */
MAYBE_UNUSED static int for_every_cell(cell_function function, bool untrapped_too)
{
    zone_cell = function;
    zone_untrapped = untrapped_too;
    return with_huge_pages(ZONE_PAGES, zone_all);
}

#endif
