/* pins.h: what the tests of enforced pins share: pools that have them, and what a touch of a page comes to. */
#ifndef PINS_H
#define PINS_H

#include "cells.h"

MAYBE_UNUSED static uint64_t granule_of(const char *memory)
{
    return is_huge_memory(memory) ? HUGE_PAGE : GRANULE;
}

/* Does the cell have enforced pins, as the header says? */
MAYBE_UNUSED static bool can_close(const char *memory, const char *trap)
{
    (void)memory;
    return strcmp(trap, "none") != 0;
}

MAYBE_UNUSED static bufpool_config pins_config(const char *memory, const char *trap, const char *pins)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.page_size = granule_of(memory);
    config.capacity = 8 * config.page_size;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = "abort";
    config.report_limit = UINT32_MAX;
    config.pins = pins;
    return config;
}

MAYBE_UNUSED static bufpool_pool *open_config(const bufpool_config *config)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(bufpool_open(config, &pool));
    return pool;
}

MAYBE_UNUSED static bool reads_at(const void *address, bufpool_fault *fault)
{
    return !traps_at(address, fault);
}

MAYBE_UNUSED static bool writes_at(void *address, char value, bufpool_fault *fault)
{
    int code = bufpool_guarded_copy(address, &value, 1, fault);
    CHECK(code == 0 || code == BUFPOOL_ESTRAY);
    return code == 0;
}

/* Is the page open for reading, for writing, as expected, with its content (a byte) where it can be seen? */
#define CHECK_OPEN(pool, page, reading, writing, content) \
    do { \
        char *pins_at = bufpool_address(pool, page); \
        CHECK_IS(reads_at(pins_at + 17, NULL), ==, reading); \
        CHECK_IS(writes_at(pins_at + 18, 1, NULL), ==, writing); \
        CHECK(!(reading) || read_byte(pins_at) == (content)); \
    } while (0)

#endif
