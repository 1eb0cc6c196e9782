void pool_by_threads(bufpool_pool *pool, unsigned threads, uint64_t count);
void plain_by_threads(void *base, uint64_t part, unsigned threads, uint64_t count);
