/* A plugin with a copy of the library of its own, linked in statically and hidden: test_two_copies loads it. */
#include "plugin.h"

static int stray(void *argument)
{
    return *(volatile char *)argument;
}

static void guarded(void *argument)
{
    stray(argument);
}

static int open_pool(const char *memory, const char *trap, const char *on_fault)
{
    static bufpool_pool *pool;
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = 64 * 4096;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = on_fault;
    config.name = "plugin";
    int code = bufpool_open(&config, &pool);
    plugin_table.pool = pool;
    return code;
}

static unsigned long long count_faults(void)
{
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    return bufpool_stats(plugin_table.pool, &statistics) == 0 ? statistics.faults : ~0ULL;
}

static int guard(void *address)
{
    return bufpool_guarded_call(guarded, address, NULL);
}

struct plugin_table plugin_table = {
    .open = open_pool,
    .address = bufpool_address,
    .count_faults = count_faults,
    .stray = stray,
    .guard = guard,
    .check = bufpool_check,
    .install = bufpool_install_handlers,
};
