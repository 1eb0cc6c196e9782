/* trial.c: bufpool_probe(): whether a memory and a trap can be had here, told by a small pool. */
#include "memory.h"
#include "registry.h"

#include <stdio.h>
#include <string.h>

/* A small pool: two granules, so that a range of them is tried too; of huge pages one, which may be all there is. */
static int open_probe(const char *memory, const char *trap, bufpool_pool **pool)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    const struct bp_memory *found = memory == NULL ? NULL : bp_memory_find(memory);
    config.capacity = 2 * BP_GRANULE;
    config.page_size = 0;
    config.memory = memory;
    config.trap = trap;
    config.name = "probe";
    config.flags = BUFPOOL_HOST_HANDLER; /* nothing strays here, so leave the host's signals alone */
    if (found != NULL && (found->hugetlb || found->thp) && (!found->path || strchr(memory, '/') != NULL)) {
        int code = bp_memory_granule(found, memory, 0, &config.capacity);
        if (code < 0) {
            return code;
        }
    }
    return bufpool_open(&config, pool);
}

int bufpool_probe(const char *memory, const char *trap, char *trap_found, size_t size)
{
    bufpool_pool *pool;
    int code = open_probe(memory, trap, &pool);
    if (code < 0) {
        return code;
    }
    uint64_t page;
    code = bufpool_allocate(pool, "x", 1, &page);
    if (code == 0) {
        code = bufpool_free(pool, page);
    }
    const char *found = pool->space.trap->name;
    if (pool->space.created) {
        bp_kernel_unlink(memory); /* a directory stays; while the file is locked, so that it is nobody else's */
    }
    if (bufpool_close(pool) == 0) {
        bp_registry_lock();
        if (pool->closed_at != 0) { /* not retired already: nobody else had its address, so it need not rest */
            bp_registry_retire(pool);
        }
        bp_registry_unlock();
    }
    if (trap_found != NULL && size > 0) {
        snprintf(trap_found, size, "%s", found);
    }
    return code;
}
