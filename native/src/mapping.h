/* mapping.h: what is mapped at addresses that the program says are its own. Not async-signal-safe. */
#ifndef BP_MAPPING_H
#define BP_MAPPING_H

#include <stdbool.h>
#include <stdint.h>

struct bp_mapping {
    uint64_t granule;    /* bytes of a page of it */
    bool shared;         /* others may have it mapped, too; else it is private */
    bool hugetlb;        /* huge pages of hugetlbfs */
    uint64_t id[2];      /* device and inode; 0 of private memory */
    const char *backing; /* as the statistics have it */
};

/* [base, base + length) has to be mapped throughout, readable and writable, and all of it one memory of a kind whose pages
 * can be trapped. Errors, with a sentence that names the place and the reason: EARGUMENT; EUNSUPPORTED (a kind that the
 * kernel cannot do it for); -errno of reading /proc/thread-self/smaps. */
int bp_mapping_look(uintptr_t base, uint64_t length, struct bp_mapping *mapping);

#endif
