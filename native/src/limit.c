/* limit.c: counting the reports of each place, see limit.h. */
#include "limit.h"

#include "thread.h"

#include <string.h>

#define PROBES 16
#define CALLERS 3

static uint64_t mix(uint64_t key, uint64_t value)
{
    return (key ^ key >> 32) * UINT64_C(0x9E3779B97F4A7C15) + value;
}

static uint64_t key_of(const bufpool_fault *fault)
{
    uint64_t key = fault->pc;
    for (uint32_t i = 1; i <= CALLERS && i < fault->stack_depth; i++) {
        key = mix(key, fault->stack[i]);
    }
    key = mix(mix(key, bp_thread.place), bp_thread.caller);
    for (uint32_t i = 0; i <= CALLERS && i < fault->freed.stack_depth; i++) {
        key = mix(key, fault->freed.stack[i]);
    }
    for (const char *at = fault->freed.caller; *at != 0; at++) {
        key = mix(key, (unsigned char)*at);
    }
    return key == 0 ? 1 : key;
}

void bufpool_set_place(uint64_t place)
{
    bp_thread.place = place;
}

static struct bp_limit_entry *entry_of(struct bp_limits *limits, const bufpool_fault *fault)
{
    uint64_t key = key_of(fault);
    uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15) >> 32;
    for (uint64_t i = 0; i < PROBES; i++) {
        struct bp_limit_entry *entry = &limits->entries[(hash + i) % BP_LIMIT_ENTRIES];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&entry->key, &found, key) || found == key) {
            atomic_store(&entry->pc, fault->pc);
            return entry;
        }
    }
    return &limits->others;
}

/* After a fork: the counts are the parent's. */
static void forget(struct bp_limits *limits)
{
    for (size_t n = 0; n <= BP_LIMIT_ENTRIES; n++) {
        struct bp_limit_entry *entry = n < BP_LIMIT_ENTRIES ? &limits->entries[n] : &limits->others;
        atomic_store(&entry->faults, 0);
        atomic_store(&entry->first, 0);
        atomic_store(&entry->told, 0);
    }
}

static void describe(struct bp_limit_entry *entry, uint64_t count, uint32_t limit, struct bp_more *more)
{
    more->count = count;
    more->first = atomic_load(&entry->first);
    more->pc = atomic_load(&entry->pc);
    more->limit = limit;
    more->on_stderr = atomic_load(&entry->on_stderr);
}

bool bp_limits_pass(struct bp_limits *limits, uint32_t limit, const bufpool_fault *fault, bool on_stderr,
                    struct bp_more *more)
{
    int32_t process = atomic_load(&limits->process);
    if (process != fault->pid && atomic_compare_exchange_strong(&limits->process, &process, fault->pid) &&
        process != 0) {
        forget(limits);
    }
    struct bp_limit_entry *entry = entry_of(limits, fault);
    uint64_t none = 0;
    atomic_compare_exchange_strong(&entry->first, &none, fault->sequence);
    uint64_t count = atomic_fetch_add(&entry->faults, 1) + 1;
    more->count = 0;
    if (limit == UINT32_MAX || count <= limit) {
        return true;
    }
    if (on_stderr) {
        atomic_store(&entry->on_stderr, true);
    }
    uint64_t over = count - limit;
    if ((over & (over - 1)) == 0) {
        uint64_t told = atomic_load(&entry->told);
        while (told < over && !atomic_compare_exchange_weak(&entry->told, &told, over)) {
        }
        describe(entry, over, limit, more);
        more->time_ns = fault->time_ns;
        more->pid = fault->pid;
        memcpy(more->pool, fault->pool_name, sizeof more->pool);
    }
    return false;
}

bool bp_limits_entry(struct bp_limits *limits, size_t n, uint32_t limit, bool all, struct bp_more *more)
{
    if (n > BP_LIMIT_ENTRIES) {
        return false;
    }
    struct bp_limit_entry *entry = n < BP_LIMIT_ENTRIES ? &limits->entries[n] : &limits->others;
    uint64_t faults = atomic_load(&entry->faults);
    uint64_t over = faults > limit ? faults - limit : 0;
    uint64_t told = atomic_exchange(&entry->told, over);
    describe(entry, over > told || all ? over : 0, limit, more);
    return true;
}
