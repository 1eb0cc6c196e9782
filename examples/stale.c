/* A cursor keeps a pointer into a page, the page is given back, and the cursor writes: who gave it back, and where? */
#include <bufpool/bufpool.h>
#include <stdint.h>
#include <stdio.h>

struct cursor {
    char *row;
    uint64_t page;
};

__attribute__((noinline)) static int open_cursor(bufpool_pool *pool, struct cursor *cursor)
{
    int result = bufpool_allocate(pool, "a row", 6, &cursor->page);
    cursor->row = bufpool_address(pool, cursor->page);
    return result;
}

__attribute__((noinline)) static int end_transaction(bufpool_pool *pool, const struct cursor *cursor)
{
    int result = bufpool_free(pool, cursor->page);
    return result;
}

__attribute__((noinline)) static void update(struct cursor *cursor)
{
    cursor->row[2] = 'R'; /* the bug: the transaction is over */
}

int main(void)
{
    bufpool_config config = BUFPOOL_CONFIG_INIT;
    bufpool_pool *pool;
    struct cursor cursor;

    config.capacity = UINT64_C(1) << 30;
    config.name = "buffers";
    config.log = "stale.jsonl";
    config.provenance = "stacks";
    if (bufpool_open(&config, &pool) < 0 || open_cursor(pool, &cursor) < 0 || end_transaction(pool, &cursor) < 0) {
        char sentence[512];
        bufpool_last_error(sentence, sizeof sentence);
        fprintf(stderr, "%s\n", sentence);
        return 1;
    }
    update(&cursor);
    return 0;
}
