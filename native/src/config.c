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
     BUFPOOL_MONITOR | BUFPOOL_TELL | BUFPOOL_FIXED_ADDRESS | BUFPOOL_RED_ZONES | BUFPOOL_SCRUB | BUFPOOL_PIN_KEYS | \
     BUFPOOL_CHECK_HEADROOM)
#define OF_THE_POOL \
    (BUFPOOL_LAZY_ZERO | BUFPOOL_RESERVE | BUFPOOL_DISCARD | BUFPOOL_RED_ZONES | \
     BUFPOOL_SCRUB) /* not of who attaches */

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

static const char *pins_at(size_t n)
{
    return bp_pins_name((enum bp_pins_mode)n);
}

static int check_keys(const bufpool_config *known, const struct bp_config *config)
{
    const char *flag = "flags has BUFPOOL_PIN_KEYS (in Python pin_keys), which";
    if (config->pins == BP_PINS_OFF) {
        return bp_error(BUFPOOL_EARGUMENT, "%s goes with pins \"count\", \"write\" or \"all\", and pins is \"off\"",
                        flag);
    }
    if (config->trap == &bp_trap_none) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "%s does not go with trap \"none\", which traps nothing: take another",
                        flag);
    }
    if (config->memory->thp) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "%s does not go with transparent huge pages: take memory \"hugetlb\" or \"anon\"", flag);
    }
    if (config->flags & BUFPOOL_MONITOR) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "%s does not go with BUFPOOL_MONITOR (in Python monitor): the kernel tells nobody of a system "
                        "call that meets a key",
                        flag);
    }
    bool audited = known->audit != NULL && strcmp(known->audit, "off") != 0;
    if (audited || known->sample != 0) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "%s does not go with %s: leave one of them out", flag,
                        audited ? "audit, since it traps what an audit would find" : "sample");
    }
    return 0;
}

static int check_pins(const bufpool_config *known, struct bp_config *config)
{
    const char *wanted = known->pins == NULL ? "off" : known->pins;
    size_t mode = 0;
    while (pins_at(mode) != NULL && strcmp(pins_at(mode), wanted) != 0) {
        mode++;
    }
    if (pins_at(mode) == NULL) {
        return unknown("pins", wanted, pins_at, NULL);
    }
    config->pins = (enum bp_pins_mode)mode;
    int code = config->flags & BUFPOOL_PIN_KEYS ? check_keys(known, config) : 0;
    if (code < 0) {
        return code;
    }
    if (bp_pins_unpinned(config->pins) == BP_OPEN_WRITE) {
        return 0;
    }
    if (config->trap == &bp_trap_none) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "pins is \"%s\", and trap \"none\" traps nothing: take another, or pins \"count\"", wanted);
    }
    if (config->flags & BUFPOOL_MONITOR) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "pins is \"%s\", and flags has BUFPOOL_MONITOR (in Python monitor): pages that are closed are not "
            "monitored; bufpool_explain() names those of a buffer",
            wanted);
    }
    return 0;
}

static const char *audit_at(size_t n)
{
    return bp_audit_name((enum bp_audit_mode)n);
}

static int check_audit(const bufpool_config *known, struct bp_config *config)
{
    const char *wanted = known->audit == NULL ? "off" : known->audit;
    size_t mode = 0;
    while (audit_at(mode) != NULL && strcmp(audit_at(mode), wanted) != 0) {
        mode++;
    }
    if (audit_at(mode) == NULL) {
        return unknown("audit", wanted, audit_at, NULL);
    }
    config->audit = (enum bp_audit_mode)mode;
    if (mode == BP_AUDIT_OFF) {
        return 0;
    }
    if (bp_pins_unpinned(config->pins) != BP_OPEN_WRITE) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "audit is \"%s\", and pins is \"%s\", by which a write without a pin traps, so that there is "
                        "nothing to find later: take audit \"off\", or pins \"count\" or \"off\"",
                        wanted, bp_pins_name(config->pins));
    }
    if (config->guest != NULL) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "audit is \"%s\", which goes with pools of one process: of what others may write nothing is "
                        "known here; attach with audit \"off\"",
                        wanted);
    }
    if (mode != BP_AUDIT_TRACK) {
        return 0;
    }
    if (config->memory->thp || config->flags & BUFPOOL_MONITOR) {
        return bp_error(BUFPOOL_EUNSUPPORTED, "audit is \"track\", which does not go with %s: take audit \"checksum\"",
                        config->memory->thp ? "memory \"thp\", whose huge pages would be split"
                                            : "BUFPOOL_MONITOR (in Python monitor)");
    }
    if (config->trap == NULL) {
        config->trap = &bp_trap_uffd; /* the only one, so its own reason tells */
    }
    if (config->trap != &bp_trap_uffd) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "audit is \"track\", and trap is \"%s\": only uffd tracks writes; audit \"checksum\" goes with "
                        "every trap",
                        config->trap->name);
    }
    return 0;
}

static int check_sample(const bufpool_config *known, struct bp_config *config)
{
    config->sample = known->sample;
    config->seed = known->seed;
    if (known->sample == 0) {
        return known->seed == 0 ? 0
                                : bp_error(BUFPOOL_EARGUMENT,
                                           "seed is %llu, which goes with sample, and sample is 0: take both, or none",
                                           (unsigned long long)known->seed);
    }
    if (bp_pins_unpinned(config->pins) != BP_OPEN_WRITE) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "sample is %u, and pins is \"%s\", by which every page is guarded: take pins \"off\" or \"count\", "
            "or sample 0",
            known->sample, bp_pins_name(config->pins));
    }
    if (config->audit == BP_AUDIT_CHECKSUM) {
        return bp_error(
            BUFPOOL_EUNSUPPORTED,
            "sample is %u, and audit is \"checksum\", which cannot read the pages that sampling closes: take "
            "audit \"track\", or sample 0",
            known->sample);
    }
    if (config->trap == &bp_trap_none) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "sample is %u, and trap \"none\" traps nothing: take another, or sample 0", known->sample);
    }
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

/* How many pages rest at most: part of one counts as one. */
static uint64_t pages_to_rest(const struct bp_config *config, uint64_t quarantine)
{
    uint64_t most = config->capacity / config->page_size;
    uint64_t pages = quarantine / config->page_size + (quarantine % config->page_size != 0);
    most = most < BP_MAX_REST ? most : BP_MAX_REST;
    return pages < most ? pages : most;
}

/* Freed pages that are accessible for a while go with nothing that looks for touches of them, or rests their numbers; and the
 * words and the ring are this process's alone. */
static int check_lag(const bufpool_config *known, struct bp_config *config)
{
    const char *against = NULL;
    if (known->free_lag == 0) {
        return 0;
    }
    if (config->guest != NULL || config->adoption != NULL) {
        against = config->guest != NULL
                      ? "a pool that other processes have, too, which would touch such a page: attach with free_lag 0"
                      : "memory that is adopted, where a freed page is a hole for all who have it: take free_lag 0";
    } else if (config->memory->file) {
        against = "memory that other processes may have, too, and would touch: take memory \"anon\" or \"thp\", or "
                  "free_lag 0";
    } else if (config->pins != BP_PINS_OFF) {
        against = "pins, by which touches of pages that nobody uses are found: take pins \"off\", or free_lag 0";
    } else if (config->audit != BP_AUDIT_OFF) {
        against = "audit, by which late writes are found: take audit \"off\", or free_lag 0";
    } else if (known->sample != 0) {
        against = "sample, by which touches of pages that nobody uses are found: take sample 0, or free_lag 0";
    } else if (known->quarantine != 0) {
        against =
            "quarantine, in which a freed number rests, while one that lags is used again first: take one of them";
    } else if (config->flags & BUFPOOL_LAZY_ZERO) {
        against =
            "BUFPOOL_LAZY_ZERO (in Python lazy_zero), by which a page may have no frame to keep: take one of them";
    }
    config->lag = known->free_lag;
    return against == NULL
               ? 0
               : bp_error(BUFPOOL_EUNSUPPORTED,
                          "free_lag is %llu pages, which stay accessible for a while after they are freed: that does "
                          "not go with %s",
                          (unsigned long long)known->free_lag, against);
}

/* What is the program's affair, of a mapping that it has made, or needs a mapping that the pool has made. */
#define NOT_OF_ADOPTION \
    (BUFPOOL_LAZY_ZERO | BUFPOOL_LOCK | BUFPOOL_DUMP | BUFPOOL_RESERVE | BUFPOOL_DISCARD | BUFPOOL_MONITOR | \
     BUFPOOL_FIXED_ADDRESS | BUFPOOL_RED_ZONES | BUFPOOL_PIN_KEYS)

static int check_adoption(const bufpool_config *known)
{
    const char *trap = known->trap == NULL ? "auto" : known->trap;
    if (strcmp(trap, "auto") != 0 && strcmp(trap, bp_trap_uffd.name) != 0 && strcmp(trap, bp_trap_mprotect.name) != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "trap is \"%s\": a mapping is adopted by \"auto\", \"uffd\" or \"mprotect\"",
                        trap);
    }
    if (known->flags & NOT_OF_ADOPTION) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "flags is 0x%x: LAZY_ZERO, LOCK, DUMP, RESERVE, DISCARD, MONITOR, FIXED_ADDRESS, RED_ZONES and PIN_KEYS do "
            "not go with a mapping that is adopted, whose layout, advice and key are the program's",
            known->flags);
    }
    if (known->sample != 0 || (known->audit != NULL && strcmp(known->audit, "off") != 0)) {
        return bp_error(BUFPOOL_EUNSUPPORTED,
                        "sample is %u, and audit is \"%s\": neither goes with a mapping that is adopted", known->sample,
                        known->audit == NULL ? "off" : known->audit);
    }
    return known->numa == NULL
               ? 0
               : bp_error(BUFPOOL_EARGUMENT,
                          "numa is \"%s\": of a mapping that is adopted the program says that by mbind()", known->numa);
}

static int check(const bufpool_config *given, const struct bp_guest *guest, const struct bp_adoption *adoption,
                 struct bp_config *config)
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
        known.flags = (known.flags & ~OF_THE_POOL) | (guest->constants.flags & ~BP_TABLES_FRESH);
        known.fill = guest->constants.flags & BP_TABLES_FRESH ? "pattern" : NULL;
    }
    if (adoption != NULL) {
        known.capacity = adoption->length;
        known.granule = 0;
        known.memory = "anon";
    }
    *config = (struct bp_config){.guest = guest,
                                 .adoption = adoption,
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
    config->memory = adoption != NULL ? adoption->memory : bp_memory_find(memory);
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
    if (adoption != NULL) {
        code = check_adoption(&known);
        if (code < 0) {
            return code;
        }
    }
    config->inherit = strcmp(fork, "inherit") == 0;
    if (!config->inherit && strcmp(fork, "exclude") != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "unknown fork \"%s\": valid are \"inherit\", \"exclude\"", fork);
    }
    if (config->flags & ~ALL_FLAGS) {
        return bp_error(BUFPOOL_EARGUMENT, "flags is 0x%x: only those in 0x%x (BUFPOOL_LAZY_ZERO, ...) are known",
                        config->flags, ALL_FLAGS);
    }
    const char *fill = known.fill == NULL ? "zeros" : known.fill;
    config->fresh = strcmp(fill, "pattern") == 0;
    if (!config->fresh && strcmp(fill, "zeros") != 0) {
        return bp_error(BUFPOOL_EARGUMENT, "unknown fill \"%s\": valid are \"zeros\", \"pattern\"", fill);
    }
    if (config->fresh && config->flags & BUFPOOL_LAZY_ZERO) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "fill is \"pattern\", and flags has BUFPOOL_LAZY_ZERO (in Python lazy_zero), "
                        "by which pages have no frame to be filled: leave one of them");
    }
    if (config->flags & BUFPOOL_RESERVE && !config->memory->hugetlb) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "flags has BUFPOOL_RESERVE (in Python reserve), which goes with memory \"hugetlb\" or a path, and "
            "memory is \"%s\"",
            memory);
    }
    if (config->flags & BUFPOOL_RESERVE && config->flags & BUFPOOL_RED_ZONES) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "flags has BUFPOOL_RESERVE and BUFPOOL_RED_ZONES (in Python reserve, red_zones): "
                        "huge pages would be reserved for zones that never have one; leave one of them");
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
        code = check_pins(&known, config);
    }
    if (code == 0) {
        code = check_audit(&known, config);
    }
    if (code == 0) {
        code = check_sample(&known, config);
    }
    if (code == 0) {
        code = check_lag(&known, config);
    }
    if (code == 0) {
        code = bp_numa_parse(known.numa, &config->numa);
    }
    if (code == 0) {
        code = check_cell(config);
    }
    if (code == 0 && adoption != NULL) {
        config->granule = adoption->granule;
        config->page_size = config->page_size == 0 ? config->granule : config->page_size;
        code = check_sizes(config);
        config->rest = code == 0 ? pages_to_rest(config, known.quarantine) : 0;
        return code;
    }
    if (code == 0 && guest != NULL) {
        config->granule = guest->constants.granule;
        return check_sizes(config);
    }
    code = code == 0 ? check_granule(config, known.granule) : code;
    if (code == 0) {
        config->rest = pages_to_rest(config, known.quarantine);
        uint64_t pages = config->capacity / config->page_size;
        config->lag = config->lag < pages ? config->lag : pages;
    }
    return code;
}

int bp_config_check(const bufpool_config *given, struct bp_config *config)
{
    int code = check(given, NULL, NULL, config);
    if (code == 0 && config->flags & BUFPOOL_FIXED_ADDRESS) {
        return bp_error(BUFPOOL_EARGUMENT, "flags has BUFPOOL_FIXED_ADDRESS (in Python fixed_address), which is for "
                                           "bufpool_attach(): a pool that is opened has the address that it gets");
    }
    return code;
}

int bp_config_check_guest(const bufpool_config *given, const struct bp_guest *guest, struct bp_config *config)
{
    return check(given, guest, NULL, config);
}

int bp_config_check_adoption(const bufpool_config *given, const struct bp_adoption *adoption, struct bp_config *config)
{
    return check(given, NULL, adoption, config);
}
