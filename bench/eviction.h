struct eviction {
    const struct eviction_side *side;
    uint64_t pages;
    uint64_t frames;
    uint64_t batch;
    int fd;
    void *base;
    bufpool_pool *pool;
    void *buffer;
    void **staged;
    uint64_t staged_count;
    uint32_t *slot_of;
    uint32_t *page_of;
    uint8_t *used;
    uint32_t *empty;
    uint64_t empty_count;
    uint64_t hand;
    uint64_t hits;
    uint64_t misses;
    uint64_t sum;
};
struct eviction_side {
    const char *name;
    bool by_slot;
    void (*open)(struct eviction *run);
    void (*close)(struct eviction *run);
    void (*evict)(struct eviction *run, const uint64_t *pages, uint64_t count);
    void (*load)(struct eviction *run, uint64_t page, uint64_t slot);
    void (*exchange)(struct eviction *run, uint64_t victim, uint64_t page);
    void (*scan)(struct eviction *run, uint64_t first, uint64_t before, uint64_t count);
};
const struct eviction_side *eviction_side_named(const char *name);
void eviction_zipf(uint32_t *keys, uint64_t count, uint64_t pages, double theta, uint64_t seed);
void eviction_uniform(uint32_t *keys, uint64_t count, uint64_t pages, uint64_t seed);
void eviction_write_file(const char *path, uint64_t pages);
struct eviction *eviction_open(const char *side, uint64_t pages, uint64_t frames, uint64_t batch, const char *path,
                               bool direct);
void eviction_close(struct eviction *run);
void eviction_accesses(struct eviction *run, const uint32_t *keys, uint64_t count);
void eviction_scan(struct eviction *run, uint64_t batch);
uint64_t eviction_misses(const struct eviction *run);
struct limited *limited_open(const char *procs, const char *side, uint64_t pages, uint64_t frames, uint64_t batch,
                             const char *path, const uint32_t *keys);
int64_t limited_accesses(struct limited *child, uint64_t first, uint64_t count, int seconds);
void limited_close(struct limited *child);
