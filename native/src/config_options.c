/* config_options.c: BUFPOOL_OPTIONS and its like into a bufpool_config, see config_options.h. */
#include "config_options.h"

#include "error.h"

#include <bufpool/bufpool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#define TEXT(key, unset, valid, help) {#key, BP_OPTION_TEXT, offsetof(bufpool_config, key), 0, unset, valid, help}
#define SIZE(key, unset, help) {#key, BP_OPTION_SIZE, offsetof(bufpool_config, key), 0, unset, NULL, help}
#define NUMBER(key, unset, help) {#key, BP_OPTION_NUMBER, offsetof(bufpool_config, key), 0, unset, NULL, help}
#define FLAG(key, bits, help) {key, BP_OPTION_FLAG, offsetof(bufpool_config, flags), bits, NULL, NULL, help}

/* Not here: what the program is built around (capacity, page_size, HOST_HANDLER, TELL, FIXED_ADDRESS), and DISCARD, which
 * drops data. A key is a line: help=1, bufpool.configure() and the pytest plugin have it by that. */
const struct bp_option bp_config_options[] = {
    TEXT(memory, "anon", NULL, "where frames come from: anon, thp, shared, hugetlb, or a path on a hugetlbfs mount"),
    SIZE(granule, "the memory's own", "size of the huge pages of memory hugetlb"),
    TEXT(trap, "auto", "auto noautofill uffd guard mprotect none", "what makes a hole trap"),
    TEXT(on_fault, "abort", "abort raise resume freeze", "what a stray access does beyond its report"),
    TEXT(name, "pool-N", NULL, "shown in reports"),
    TEXT(log, "none", NULL, "file that receives each report as a line of JSON"),
    NUMBER(report_limit, "16", "reports of one place that are written in full"),
    TEXT(provenance, "off", "off last stacks", "what reports say of who allocated and who freed the page"),
    NUMBER(provenance_depth, "8", "native frames kept with provenance=stacks, 1 to 16"),
    SIZE(free_lag, "0", "freed pages that keep their frames for the next allocation, and do not trap until then"),
    SIZE(quarantine, "0", "bytes of freed pages whose numbers rest before they are used again"),
    TEXT(fill, "zeros", "zeros pattern", "what a page holds that is allocated without data"),
    FLAG("red_zones", BUFPOOL_RED_ZONES, "1: an inaccessible granule before and after each page"),
    FLAG("scrub", BUFPOOL_SCRUB, "1: frames are overwritten before they go back"),
    TEXT(pins, "off", "off count write all", "what is made of pins: all closes the pages that nobody has pinned"),
    TEXT(audit, "off", "off track checksum", "how changes of clean pages are found: by writes, or by content"),
    NUMBER(sample, "0", "one allocation in so many is guarded as by pins=all, once it is pinned"),
    SIZE(seed, "by chance", "chooses the pages of sample: that of a report, to guard the same ones again"),
    FLAG("pin_keys", BUFPOOL_PIN_KEYS,
         "1: only threads with a write pin may write, by protection keys of the processor"),
    TEXT(fork, "inherit", "inherit exclude", "whether forked children have the pool"),
    TEXT(numa, "as the thread's", NULL, "nodes of the frames: interleave, local, or a list as 0,2-3"),
    FLAG("monitor", BUFPOOL_MONITOR, "1: report stray accesses of system calls, too"),
    FLAG("lazy_zero", BUFPOOL_LAZY_ZERO, "1: a page gets its frame with the first write"),
    FLAG("lock", BUFPOOL_LOCK, "1: frames are locked in memory"),
    FLAG("dump", BUFPOOL_DUMP, "1: pages go into core dumps"),
    FLAG("check_headroom", BUFPOOL_CHECK_HEADROOM, "1: a fill fails where a memory cgroup's limit would kill"),
    FLAG("reserve", BUFPOOL_RESERVE, "1: huge pages are reserved at open"),
};
const size_t bp_config_options_count = sizeof bp_config_options / sizeof *bp_config_options;

const struct bp_preset bp_config_presets[] = {
    {"test", "provenance=stacks:red_zones=1:quarantine=64MiB:fill=pattern"},
    {"production", "provenance=last:quarantine=64MiB:sample=1000"},
    {NULL, NULL},
};

static bool is(const char *text, const char *word)
{
    return text != NULL && strcmp(text, word) == 0;
}

/* What bufpool_open() would refuse, though only a preset has asked for it. */
bool bp_config_options_fit(const void *values, const char *key)
{
    const bufpool_config *config = values;
    if (is(key, "fill")) {
        return !(config->flags & BUFPOOL_LAZY_ZERO);
    }
    if (is(key, "red_zones")) {
        return !(config->flags & BUFPOOL_RESERVE);
    }
    if (is(key, "quarantine")) {
        return config->free_lag == 0;
    }
    if (is(key, "sample")) {
        return config->free_lag == 0 && !is(config->pins, "write") && !is(config->pins, "all") &&
               !(config->flags & BUFPOOL_PIN_KEYS) && !is(config->audit, "checksum") && !is(config->trap, "none");
    }
    return true;
}

const char *bp_options_environment(void)
{
    return getauxval(AT_SECURE) != 0 ? NULL : getenv("BUFPOOL_OPTIONS");
}

/* config->size may be that of an older program, whose config ends earlier. */
static int read_config(const char *what, const char *text, bufpool_config *config)
{
    if (config == NULL) {
        return bp_error(BUFPOOL_EARGUMENT, "config is NULL: pass a bufpool_config set to BUFPOOL_CONFIG_INIT");
    }
    size_t size = config->size;
    if (size < offsetof(bufpool_config, page_size) || size > 4096) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "config.size is %zu: set it to sizeof(bufpool_config), %zu, as BUFPOOL_CONFIG_INIT does", size,
                        sizeof *config);
    }
    bufpool_config known = BUFPOOL_CONFIG_INIT;
    bufpool_config before;
    memcpy(&known, config, size < sizeof known ? size : sizeof known);
    before = known;
    struct bp_option_set set = {bp_config_options, bp_config_options_count, &known, NULL, bp_config_options_fit};
    int code = bp_options_read(what, text, &set, 1, bp_config_presets);
    if (code < 0) {
        return code;
    }
    if (size < sizeof known && memcmp((char *)&known + size, (char *)&before + size, sizeof known - size) != 0) {
        return bp_error(BUFPOOL_EARGUMENT,
                        "%s: it names a key for which config (config.size is %zu) has no field: the program was built "
                        "with the header of an older version",
                        what, size);
    }
    memcpy(config, &known, size < sizeof known ? size : sizeof known);
    return 0;
}

int bufpool_config_from_options(bufpool_config *config, const char *options)
{
    return read_config("options", options, config);
}

int bufpool_config_from_environment(bufpool_config *config)
{
    return read_config("BUFPOOL_OPTIONS", bp_options_environment(), config);
}
