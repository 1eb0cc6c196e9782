/* monitor.h: pools with BUFPOOL_MONITOR, for the tests that need one, and the reason where there is none. */
#ifndef MONITOR_H
#define MONITOR_H

#include "harness.h"
#include "pool.h"

MAYBE_UNUSED static int try_monitored(const char *memory, const char *trap, const char *on_fault, uint64_t capacity,
                                      uint64_t page_size, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = capacity;
    config.page_size = page_size;
    config.memory = memory;
    config.trap = trap;
    config.on_fault = on_fault;
    config.flags = BUFPOOL_MONITOR;
    return bufpool_open(&config, pool);
}

MAYBE_UNUSED static bufpool_pool *open_monitored(const char *memory, const char *on_fault, uint64_t capacity,
                                                 uint64_t page_size)
{
    bufpool_pool *pool = NULL;
    CHECK_OK(try_monitored(memory, "auto", on_fault, capacity, page_size, &pool));
    return pool;
}

/* Can this process monitor at all? Prints the reason if not. */
MAYBE_UNUSED static bool can_monitor(void)
{
    bufpool_pool *pool;
    int code = try_monitored("anon", "auto", "resume", MIB, GRANULE, &pool);
    if (code == BUFPOOL_EUNSUPPORTED) {
        printf("no monitor here: %s\n", last_error());
        return false;
    }
    CHECK_OK(code);
    CHECK_OK(bufpool_close(pool));
    return true;
}

/* The pool's faults since the last call of it, waited for: a report may come from another thread. */
MAYBE_UNUSED static size_t new_faults(const bufpool_pool *pool, uint64_t *after, bufpool_fault *faults, size_t room)
{
    size_t found = 0;
    for (size_t i = 0; i < room; i++) {
        faults[i].size = sizeof *faults;
    }
    WAIT_FOR((bufpool_faults(pool, *after, room, faults, &found), found > 0));
    *after = faults[found - 1].sequence;
    return found;
}

/* Waits until system calls that stray are seen again: where the monitor has answered one itself, it has to find out when
 * that is over. */
#define WAIT_WATCHFUL(pool) WAIT_FOR(atomic_load(&(pool)->space.poisoned) == 0)

#endif
