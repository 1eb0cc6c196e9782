void pin_cycles(bufpool_pool *pool, uint64_t pages, uint64_t size, uint64_t count, int write);
void mprotect_cycles(void *base, uint64_t pages, uint64_t size, uint64_t count, int write);
void *reader_start(void);
void reader_stop(void *reader);
uint64_t sum_pinned(bufpool_pool *pool, uint64_t words, uint64_t count);
bufpool_pool *pool_sampled(uint32_t one_in, uint64_t pages);
uint64_t search_pinned(bufpool_pool *pool, uint64_t pages, uint64_t count);
uint64_t sum_plainly(bufpool_pool *pool, uint64_t words, uint64_t count);
