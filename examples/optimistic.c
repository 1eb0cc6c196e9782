/* A reader without a latch: it reads what may be evicted at any moment, and looks at the version afterwards. */
#include <bufpool/bufpool.h>
#include <bufpool/optimistic.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

static bufpool_pool *pool;
static atomic_uint version; /* of the page; who changes or evicts it latches it, and counts this up */

/* The number at the start of the page; whenever the page is not there it is brought in first. */
static uint64_t read_number(uint64_t page)
{
    const volatile uint64_t *at = bufpool_address(pool, page);
    for (;;) {
        bufpool_section section;
        if (bufpool_optimistic_enter(&section)) {
            unsigned before = atomic_load(&version);
            uint64_t number = *at; /* a hole jumps to the else */
            atomic_thread_fence(memory_order_acquire);
            bufpool_optimistic_leave(&section);
            if (atomic_load(&version) == before)
                return number;
        } else {
            uint64_t content = 42; /* as read from disk */
            atomic_fetch_add(&version, 1);
            bufpool_populate(pool, page, &content, sizeof content);
        }
    }
}

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_statistics statistics = BUFPOOL_STATISTICS_INIT;
    uint64_t page, sum = 0;

    config.capacity = UINT64_C(1) << 30;
    if (bufpool_open(&config, &pool) < 0 || bufpool_allocate(pool, NULL, 0, &page) < 0)
        return 1;
    for (int i = 0; i < 3; i++) {
        bufpool_evict(pool, page); /* usually another thread's doing */
        sum += read_number(page) + read_number(page);
    }
    bufpool_stats(pool, &statistics);
    printf("sum %" PRIu64 ", restarts %" PRIu64 ", faults %" PRIu64 "\n", sum, statistics.restarts, statistics.faults);
    return bufpool_close(pool) < 0;
}
