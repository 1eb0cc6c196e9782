bufpool_pool *lag_open(uint64_t pages, uint64_t lag);
void lag_recycle(bufpool_pool *pool, uint64_t count, const void *source, uint64_t batch, uint64_t *numbers);
void lag_plain(void *base, uint64_t count, const void *source, uint64_t batch);
