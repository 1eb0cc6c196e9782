bool pool_on(const char *memory, const char *trap, const char *pins, uint64_t pages, uint64_t size,
             bufpool_pool **pool);
size_t error_text(char *buffer, int size);
uint64_t pool_huge_fills(const bufpool_pool *pool);
uint64_t pool_small_fills(const bufpool_pool *pool);
void pool_copy(bufpool_pool *pool, uint64_t pages, uint64_t size, const void *source, uint64_t batch,
               uint64_t *numbers);
void publish(bufpool_pool *pool, uint64_t pages, uint64_t size, const void *source, uint64_t *numbers, uint64_t *times);
void *plain_on(const char *memory, uint64_t length, int *fd);
void plain_off(void *base, uint64_t length, int fd);
void plain_copy(void *base, uint64_t pages, uint64_t size, const void *source, uint64_t batch);
void plain_release(void *base, int fd, uint64_t first, uint64_t pages, uint64_t size);
int copier_open(void *base, uint64_t length);
void copier_close(int uffd);
void copier_copy(int uffd, void *base, uint64_t pages, uint64_t size, const void *source, uint64_t batch);
void fallocate_copy(void *base, int fd, uint64_t pages, uint64_t size, const void *source, uint64_t batch);
