/* reserve.h: the system's huge pages: which sizes there are, how many are free, and how to get more. */
#ifndef BP_RESERVE_H
#define BP_RESERVE_H

#include <stddef.h>
#include <stdint.h>

/* Pages of one size, from /sys/kernel/mm/hugepages. */
struct bp_reserve {
    uint64_t total;
    uint64_t free;
    uint64_t reserved; /* of the free ones, promised to somebody */
    uint64_t more;     /* that may be made on demand (nr_overcommit_hugepages) */
};

/* Errors: -errno; -ENOENT: this machine has no such size. */
int bp_reserve_read(uint64_t page_size, struct bp_reserve *reserve);

/* The default size, from /proc/meminfo. Errors: -errno. */
int bp_reserve_default(uint64_t *page_size);

/* "2 MiB, 1 GiB": those that this machine has; "no size". */
void bp_reserve_sizes(char *buffer, size_t size);

/* "2 MiB": a power of two in words. */
void bp_reserve_unit(uint64_t bytes, char *buffer, size_t size);

/* A sentence about what is free, what is needed and how to get it. fd: a file on the mount that is to hold them, or -1. */
void bp_reserve_explain(uint64_t page_size, uint64_t needed, int fd, char *buffer, size_t size);

/* A descriptor by which bp_reserve_free() reads how many pages are free; -1 where more may be made on demand, or where it
 * cannot be had. */
int bp_reserve_gauge(uint64_t page_size);

/* How many are free; UINT64_MAX if that cannot be read. Async-signal-safe. */
uint64_t bp_reserve_free(int gauge);

#endif
