/* config.c: checking what a caller asks for, see config.h. */
#include "config.h"

#include "error.h"
#include "limit.h"

#include <stdio.h>
#include <string.h>

#define MAX_CAPACITY (UINT64_C(16) << 40)
#define MIN_PAGE UINT64_C(4096)
#define MAX_PAGE (UINT64_C(1) << 30)
#define DEFAULT_DEPTH 8
#define ALL_FLAGS \
    (BUFPOOL_LAZY_ZERO | BUFPOOL_HOST_HANDLER | BUFPOOL_LOCK | BUFPOOL_DUMP | BUFPOOL_RESERVE | BUFPOOL_DISCARD | \
     BUFPOOL_MONITOR | BUFPOOL_TELL | BUFPOOL_FIXED_ADDRESS)
#define OF_THE_POOL (BUFPOOL_LAZY_ZERO | BUFPOOL_RESERVE | BUFPOOL_DISCARD) /* not of who attaches */

static const char *const policies[] = {
    [BP_ABORT] = "abort", [BP_RAISE] = "raise", [BP_RESUME] = "resume", [BP_FREEZE] = "freeze"};

const char *bp_policy_name(enum bp_policy policy)
{
    return policies[policy];
}

/* "unknown KIND "x": valid are "a", "b"", the names taken from name_at(0...) */
static int unknown(const char *kind, const char *given, const char *(*name_at)(size_t), const char *first)
{
    char list[256] = "";
    size_t length = 0;
    if (first != NULL) {
        length = (size_t)snprintf(list, sizeof list, "\"%s\"", first);
    }
    for (size_t i = 0; name_at(i) != NULL && length < sizeof list; i++) {
        length += (size_t)snprintf(list + length, sizeof list - length, "%s\"%s\"", length > 0 ? ", " : "", name_at(i));
    }
    return bp_error(BUFPOOL_EARGUMENT, "unknown %s \"%s\": valid are %s", kind, given, list);
}

static const char *policy_at(size_t n)
{
    return n < sizeof policies / sizeof *policies ? policies[n] : NULL;
}

static const char *provenance_at(size_t n)
{
    return bp_provenance_name((enum bp_provenance_mode)n);
}

static int check_provenance(const bufpool_config *known, struct bp_config *config)
{
    const char *wanted = known->provenance == NULL ? "off" : known->provenance;
    size_t mode = 0;
    while (provenance_at(mode) != NULL && strcmp(provenance_at(mode), wanted) != 0) {
        mode++;
    }
    if (provenance_at(mode) == NULL) {
        return unknown("provenance", wanted, provenance_at, NULL);
    }
    uint32_t depth = known->provenance_depth;
    if (depth > BUFPOOL_ORIGIN_DEPTH) {
        return bp_error(BUFPOOL_EARGUMENT, "provenance_depth is %u: it has to be from 1 to %d, or 0 for %d", depth,
                        BUFPOOL_ORIGIN_DEPTH, DEFAULT_DEPTH);
    }
    if (depth > 0 && mode != BP_PROVENANCE_STACKS) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "provenance_depth is %u, which goes with provenance \"stacks\", and provenance is \"%s\"",
                        depth, wanted);
    }
    config->provenance = (enum bp_provenance_mode)mode;
    config->provenance_depth = depth == 0 ? DEFAULT_DEPTH : depth;
    return 0;
}

static int check_sizes(const struct bp_config *config)
{
    unsigned long long capacity = config->capacity;
    unsigned long long page_size = config->page_size;
    if (page_size < MIN_PAGE || page_size > MAX_PAGE) {
        return bp_error(BUFPOOL_EARGUMENT, "page_size is %llu bytes: it has to be from %llu to %llu", page_size,
                        (unsigned long long)MIN_PAGE, (unsigned long long)MAX_PAGE);
    }
    unsigned long long granule = config->granule;
    if (page_size % granule != 0) {
        unsigned long long below = page_size / granule * granule;
        return bp_error(
            BUFPOOL_EARGUMENT,
            "page_size is %llu bytes: it has to be a whole number of granules, which have %llu bytes in memory "
            "\"%s\": 0 (in Python None) gives one of them, and the nearest are %llu and %llu",
            page_size, granule, config->path != NULL ? config->path : config->memory->name,
            below == 0 ? granule : below, (below == 0 ? granule : below) + granule);
    }
    if (capacity == 0 || capacity > MAX_CAPACITY) {
        return bp_error(BUFPOOL_EARGUMENT, "capacity is %llu bytes: it has to be from one page (%llu) to %llu (16 TiB)",
                        capacity, page_size, (unsigned long long)MAX_CAPACITY);
    }
    if (capacity % page_size != 0) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "capacity is %llu bytes: it has to be a whole number of pages of %llu bytes; the nearest are %llu "
            "and %llu",
            capacity, page_size, capacity / page_size * page_size, (capacity / page_size + 1) * page_size);
    }
    return 0;
}

static int check_name(const char *name)
{
    size_t length = strlen(name);
    size_t room = sizeof((bufpool_pool *)NULL)->name - 1;
    if (length == 0 || length > room) {
        return bp_error(BUFPOOL_EARGUMENT, "name has %zu bytes: it has to have from 1 to %zu, or be NULL", length,
                        room);
    }
    return 0;
}

/* Before the system is asked for anything: a pair that never goes together is refused by name. */
static int check_cell(const struct bp_config *config)
{
    const char *reason = config->trap == NULL ? NULL : bp_cell(config->memory, config->trap, NULL);
    return reason == NULL
               ? 0
               : bp_error(BUFPOOL_EUNSUPPORTED, "memory \"%s\" does not go with trap %s: %s",
                          config->path != NULL ? config->path : config->memory->name, config->trap->name, reason);
}

/* What the sizes are measured by; needs the system for huge pages. */
static int check_granule(struct bp_config *config, uint64_t asked)
{
    int code = bp_memory_granule(config->memory, config->path, asked, &config->granule);
    if (code == 0 && config->page_size == 0) {
        config->page_size = config->granule;
    }
    return code == 0 ? check_sizes(config) : code;
}

static int check(const bufpool_config *given, const struct bp_guest *guest, struct bp_config *config)
{
    if (given == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "config is NULL: pass a bufpool_config set to BUFPOOL_CONFIG_INIT");
    }
    bufpool_config known = BUFPOOL_CONFIG_INIT;
    if (given->size < offsetof(bufpool_config, page_size) || given->size > 4096) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "config.size is %zu: set it to sizeof(bufpool_config), %zu, as "
                        "BUFPOOL_CONFIG_INIT does",
                        given->size, sizeof known);
    }
    for (size_t i = sizeof known; i < given->size; i++) {
        if (((const char *)given)[i] != 0) {
            return bp_error(BUFPOOL_EARGUMENT,
                            "config has fields that this version (" BUFPOOL_VERSION ") does not know, and "
                            "byte %zu of them is set: use the header of this version",
                            i);
        }
    }
    memcpy(&known, given, given->size < sizeof known ? given->size : sizeof known);
    if (guest != NULL) {
        known.capacity = guest->constants.capacity;
        known.page_size = guest->constants.page_size;
        known.granule = 0;
        known.memory = guest->constants.memory;
        known.name = guest->constants.name;
        known.numa = NULL;
        known.provenance = bp_provenance_name((enum bp_provenance_mode)guest->constants.provenance.mode);
        known.provenance_depth = guest->constants.provenance.depth;
        known.flags = (known.flags & ~OF_THE_POOL) | guest->constants.flags;
    }
    *config = (struct bp_config){.guest = guest,
                                 .capacity = known.capacity,
                                 .page_size = known.page_size,
                                 .name = known.name,
                                 .log = known.log,
                                 .flags = known.flags,
                                 .numa_text = known.numa,
                                 .report_limit = known.report_limit == 0 ? BP_LIMIT_DEFAULT : known.report_limit};
    int code = 0;
    const char *fork = known.fork == NULL ? "inherit" : known.fork;
    const char *memory = known.memory == NULL ? "anon" : known.memory;
    const char *trap = known.trap == NULL ? "auto" : known.trap;
    const char *on_fault = known.on_fault == NULL ? "abort" : known.on_fault;
    config->memory = bp_memory_find(memory);
    if (guest != NULL && (config->memory == NULL || !config->memory->file)) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "the handle's tables cannot be used: memory \"%s\" is none that can be shared", memory);
    }
    if (config->memory == NULL) {
        return unknown("memory", memory, bufpool_memory_name, NULL);
    }
    if (config->memory->path && strchr(memory, '/') == NULL) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "memory is \"path\", which stands for any: pass one on a hugetlbfs mount, "
                        "with a slash in it");
    }
    config->path = config->memory->path ? memory : NULL;
    config->trap = bp_trap_find(trap);
    if (config->trap == NULL && strcmp(trap, "auto") != 0) {
        return unknown("trap", trap, bufpool_trap_name, "auto");
    }
    size_t policy = 0;
    while (policy_at(policy) != NULL && strcmp(policy_at(policy), on_fault) != 0) {
        policy++;
    }
    if (policy_at(policy) == NULL) {
        return unknown("on_fault", on_fault, policy_at, NULL);
    }
    config->policy = (enum bp_policy)policy;
    config->inherit = strcmp(fork, "inherit") == 0;
    if (!config->inherit && strcmp(fork, "exclude") != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "unknown fork \"%s\": valid are \"inherit\", \"exclude\"", fork);
    }
    if (config->flags & ~ALL_FLAGS) {
        return bp_error(BUFPOOL_EARGUMENT, "flags is 0x%x: only those in 0x%x (BUFPOOL_LAZY_ZERO, ...) are known",
                        config->flags, ALL_FLAGS);
    }
    if (config->flags & BUFPOOL_RESERVE && !config->memory->hugetlb) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "flags has BUFPOOL_RESERVE (in Python reserve), which goes with memory \"hugetlb\" or a path, and "
            "memory is \"%s\"",
            memory);
    }
    if (config->flags & BUFPOOL_DISCARD && !config->memory->path) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "flags has BUFPOOL_DISCARD (in Python discard), which goes with a path, and memory is \"%s\"",
                        memory);
    }
    if (config->flags & BUFPOOL_MONITOR && config->trap == NULL) {
        config->trap = &bp_trap_uffd; /* the only one, so its own reason tells */
    }
    if (config->flags & BUFPOOL_MONITOR && config->trap != &bp_trap_uffd) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "flags has BUFPOOL_MONITOR (in Python monitor), and trap is \"%s\": only uffd tells of system "
                        "calls; bufpool_explain() works with every trap",
                        trap);
    }
    if (known.name != NULL) {
        code = check_name(known.name);
    }
    if (code == 0) {
        code = check_provenance(&known, config);
    }
    if (code == 0) {
        code = bp_numa_parse(known.numa, &config->numa);
    }
    if (code == 0) {
        code = check_cell(config);
    }
    if (code == 0 && guest != NULL) {
        config->granule = guest->constants.granule;
        return check_sizes(config);
    }
    return code == 0 ? check_granule(config, known.granule) : code;
}

int bp_config_check(const bufpool_config *given, struct bp_config *config)
{
    int code = check(given, NULL, config);
    if (code == 0 && config->flags & BUFPOOL_FIXED_ADDRESS) {
        return bp_error(BUFPOOL_EARGUMENT, "flags has BUFPOOL_FIXED_ADDRESS (in Python fixed_address), which is for "
                                           "bufpool_attach(): a pool that is opened has the address that it gets");
    }
    return code;
}

int bp_config_check_guest(const bufpool_config *given, const struct bp_guest *guest, struct bp_config *config)
{
    return check(given, guest, config);
}
