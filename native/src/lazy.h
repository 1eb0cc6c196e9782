/* lazy.h: large tables of which only what is touched takes memory. */
#ifndef BP_LAZY_H
#define BP_LAZY_H

#include <stddef.h>

/* Maps size bytes of zeros. Errors: -ENOMEM. */
int bp_lazy_map(size_t size, void **place);

/* The same, one with the children that this process forks. */
int bp_lazy_map_shared(size_t size, void **place);

#endif
