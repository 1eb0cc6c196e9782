/* config.h: checking what a caller asks for. */
#ifndef BP_CONFIG_H
#define BP_CONFIG_H

#include "pool.h"

struct bp_config {
    uint64_t capacity;
    uint64_t page_size;
    uint64_t granule;
    const struct bp_memory *memory;
    const char *path;           /* of memory "path" */
    const struct bp_trap *trap; /* NULL: auto */
    enum bp_policy policy;
    const char *name; /* NULL: none given */
    const char *log;  /* NULL: none */
    uint32_t flags;
    uint32_t report_limit;
    struct bp_numa numa;
    const char *numa_text; /* NULL: none */
    enum bp_provenance_mode provenance;
    uint32_t provenance_depth;
    bool inherit; /* by forked children */
};

/* Checks every field and resolves the names. Errors: EARGUMENT, and those of bp_memory_granule(), with a sentence that
 * names the value and what is valid. */
int bp_config_check(const bufpool_config *given, struct bp_config *config);

const char *bp_policy_name(enum bp_policy policy);

#endif
