/* A shared object with a copy of the library of its own, hidden: two_copies.c loads two of these. */
#include "copy.h"
#include <bufpool/bufpool.h>

static bufpool_pool *pool;
static char *byte;

static void stray(void *inside)
{
    if (inside)
        ((void (*)(void))inside)();
    *(volatile char *)byte = 1;
}

static int copy_open(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    uint64_t page;
    config.capacity = 1 << 20;
    if (bufpool_open(&config, &pool) || bufpool_allocate(pool, NULL, 0, &page))
        return 1;
    byte = (char *)bufpool_address(pool, page) + 7;
    return bufpool_free(pool, page);
}

static int copy_stray(void (*inside)(void))
{
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    if (bufpool_guarded_call(stray, (void *)inside, &fault) != BUFPOOL_ESTRAY)
        return 1;
    return fault.address != (uint64_t)(uintptr_t)byte || fault.offset != 7;
}

static int copy_faults(void)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    return bufpool_stats(pool, &statistics) ? -1 : (int)statistics.faults;
}

static int copy_close(void)
{
    return bufpool_close(pool);
}

__attribute__((visibility("default")))
const struct copy bufpool_copy = {copy_open, copy_stray, copy_faults, copy_close};
