double open_close(const char *memory, uint64_t capacity, uint64_t page);
double state_bytes(uint64_t pages);
bool open_memory(const char *memory, uint64_t capacity, uint64_t page, uint64_t spread, double *found);
