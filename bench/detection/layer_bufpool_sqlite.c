/* layer_bufpool_sqlite.c: SQLite on bufpool's page cache, with what BUFPOOL_OPTIONS says of pools. */
#include "layer_sqlite.h"

#include <bufpool/bufpool.h>
#include <bufpool_sqlite.h>

void layer_sqlite_install(void *handle, int (*sqlite3_config)(int operation, ...))
{
    (void)sqlite3_config;
    bufpool_config pool = BUFPOOL_CONFIG_INIT;
    MUST(bufpool_config_from_environment(&pool) == 0);
    bufpool_sqlite_config config = BUFPOOL_SQLITE_CONFIG_INIT;
    config.handle = handle;
    config.memory = pool.memory;
    config.trap = pool.trap;
    config.provenance = pool.provenance;
    config.provenance_depth = pool.provenance_depth;
    config.pins = pool.pins;
    config.quarantine = pool.quarantine;
    config.fill = pool.fill;
    config.scrub = (pool.flags & BUFPOOL_SCRUB) != 0;
    config.sample = pool.sample;
    config.seed = pool.seed;
    if (bufpool_sqlite_install(&config) != 0) {
        char text[1024];
        bufpool_sqlite_last_error(text, sizeof text);
        lacking("%s", text);
    }
}

uint64_t layer_sqlite_page(const void *at, unsigned key)
{
    (void)key;
    bufpool_location location = BUFPOOL_LOCATION_INIT;
    MUST(bufpool_locate(at, &location) == 0);
    return location.page;
}
