void *mapping_open(void);
void mapping_close(void *floor);
int mapping_count(void);
const char *mapping_name(int operation);
bool mapping_takes(int operation, uint64_t batch);
uint64_t mapping_size(int operation);
double mapping_measure(void *floor, int operation, uint64_t batch);
void *mapping_huge(void *floor);
