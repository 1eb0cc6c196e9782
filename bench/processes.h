bufpool_pool *pool_shared(uint64_t pages, int fds[2]);
bufpool_pool *pool_attach(const int fds[2]);
double pool_together(const int fds[2], unsigned processes, uint64_t count);
double plain_together(int fd, uint64_t pages, unsigned processes, uint64_t count);
double attach_ns(const int fds[2]);
double map_ns(int fd, uint64_t pages);
