bufpool_pool *pool_recording(uint64_t pages, const char *provenance);
bufpool_pool *pool_straying(const char *provenance);
void pool_strays(bufpool_pool *pool, uint64_t count);
void plain_strays(uint64_t count);
