bufpool_pool *frames_open(uint64_t pages);
void frames_withdraw_publish(bufpool_pool *pool, uint64_t count, const uint64_t *order, uint64_t batch,
                             const void *source, double *taken);
void frames_evict(bufpool_pool *pool, uint64_t count, const uint64_t *order, uint64_t batch, const void *source,
                  double *taken);
void frames_replace(bufpool_pool *pool, uint64_t count, uint64_t first, double *taken);
void frames_plain(void *base, uint64_t count, const uint64_t *order, uint64_t batch, const void *source, bool whole,
                  double *taken);
