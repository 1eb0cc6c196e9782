/* lazy.h: large tables of which only what is touched takes memory. */
#ifndef BP_LAZY_H
#define BP_LAZY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Maps size bytes of zeros. Errors: -ENOMEM. */
int bp_lazy_map(size_t size, void **place);

/* The same once: *own is what the first call made. Thread-safe. */
int bp_lazy_once(_Atomic(void *) *own, size_t size, void **place);

/* The same of a file, from an offset on, which others may map, too. */
int bp_lazy_map_file(int fd, uint64_t offset, size_t size, void **place);

#endif
