/* lag.c: a frame goes from one page to the next: with free_lag, without, and as an engine does that keeps its frames. */
#include "must.h"

#include "lag.h"

#include <string.h>

#define PAGE 4096

bufpool_pool *lag_open(uint64_t pages, uint64_t lag)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    config.capacity = pages * PAGE;
    config.free_lag = lag;
    bufpool_pool *pool;
    must(bufpool_open(&config, &pool));
    return pool;
}

/* The oldest page is freed, and the next is allocated and filled: the pool holds `batch` pages throughout. */
void lag_recycle(bufpool_pool *pool, uint64_t count, const void *source, uint64_t batch, uint64_t *numbers)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = i % batch;
        must(bufpool_free(pool, numbers[at]));
        must(bufpool_allocate(pool, (const char *)source + at * PAGE, PAGE, &numbers[at]));
    }
}

/* The same frames, in the same order, overwritten. */
void lag_plain(void *base, uint64_t count, const void *source, uint64_t batch)
{
    for (uint64_t i = 0; i < count; i++) {
        memcpy((char *)base + i % batch * PAGE, (const char *)source + i % batch * PAGE, PAGE);
    }
}
