/* A pool in a C program, and a pointer that is kept for too long. */
#include <bufpool/bufpool.h>
#include <stdio.h>

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT; /* 4 KiB pages, memory anon, trap auto, on_fault abort */
    bufpool_pool *pool;
    uint64_t page;

    config.capacity = UINT64_C(1) << 30; /* reserved, not committed */
    config.name = "buffers";
    if (bufpool_open(&config, &pool) < 0 || bufpool_allocate(pool, "a row", 6, &page) < 0) {
        char sentence[512];
        bufpool_last_error(sentence, sizeof sentence);
        fprintf(stderr, "%s\n", sentence);
        return 1;
    }
    char *row = bufpool_address(pool, page);
    row[0] = 'A'; /* ordinary memory, at full speed */
    bufpool_evict(pool, page);
    row[2] = 'R'; /* the bug: reported, and the process ends at this instruction */
    return 0;
}
