/* A callback that decides about each stray access: count it, and let the program go on. */
#include <bufpool/bufpool.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_int strays;

/* Runs in the signal handler, on the thread that strayed: async-signal-safe functions only. */
static bufpool_verdict count(const bufpool_fault *fault, void *context)
{
    (void)context;
    if (fault->state != BUFPOOL_STATE_EVICTED)
        return BUFPOOL_VERDICT_REPORT; /* do what on_fault says */
    atomic_fetch_add(&strays, 1);
    return BUFPOOL_VERDICT_RESUME; /* complete on the scratch pattern, without a report */
}

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    uint64_t page;

    config.capacity = UINT64_C(1) << 30;
    if (bufpool_open(&config, &pool) < 0 || bufpool_set_fault_callback(pool, count, NULL) < 0 ||
        bufpool_allocate(pool, "a row", 6, &page) < 0 || bufpool_evict(pool, page) < 0)
        return 1;
    const unsigned char *row = bufpool_address(pool, page);
    int byte = row[2];
    printf("%d stray access, which has read 0x%02x\n", atomic_load(&strays), (unsigned)byte);
    return bufpool_close(pool) < 0;
}
