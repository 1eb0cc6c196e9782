uint64_t read_in_sections(const volatile uint64_t *word, uint64_t count);
uint64_t read_plainly(const volatile uint64_t *word, uint64_t count);
void *tree_open(bufpool_pool *pool, uint64_t keys);
void tree_close(void *tree);
void tree_lookups(void *tree, uint64_t keys, uint64_t count, uint64_t seed, int sections);
