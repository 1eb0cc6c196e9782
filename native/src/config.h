/* config.h: checking what a caller asks for. */
#ifndef BP_CONFIG_H
#define BP_CONFIG_H

#include "pool.h"
#include "tables.h"

/* A pool that another process has opened: what its tables say, and two descriptors that the caller keeps. */
struct bp_guest {
    struct bp_constants constants;
    int memory;
    int tables;
};

/* A mapping of the program's own, looked at already. */
struct bp_adoption {
    uintptr_t base;
    uint64_t length;
    uint64_t granule;
    const struct bp_memory *memory;
    const char *backing;
};

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
    uint64_t rest; /* pages in quarantine at most */
    uint64_t lag;  /* pages that may lag at most */
    bool fresh;    /* fill is "pattern" */
    enum bp_pins_mode pins;
    enum bp_audit_mode audit;
    uint32_t sample; /* 0: none */
    uint64_t seed;
    bool inherit;                       /* by forked children */
    const struct bp_guest *guest;       /* NULL: a pool of its own */
    const struct bp_adoption *adoption; /* NULL: the same */
};

/* Checks every field and resolves the names. Errors: EARGUMENT, and those of bp_memory_granule(), with a sentence that
 * names the value and what is valid. */
int bp_config_check(const bufpool_config *given, struct bp_config *config);

/* The same for a pool that is there already: what makes it one pool for all is not the caller's choice. */
int bp_config_check_guest(const bufpool_config *given, const struct bp_guest *guest, struct bp_config *config);

/* The same for a mapping that is there: its size and memory are what they are. */
int bp_config_check_adoption(const bufpool_config *given, const struct bp_adoption *adoption, struct bp_config *config);

const char *bp_policy_name(enum bp_policy policy);

/* open.c: opens what was checked. Errors: as bufpool_open(). */
int bp_pool_open(const struct bp_config *config, bufpool_pool **pool);

#endif
