/* depot.c: stacks and texts that are kept once each, see depot.h. */
#include "depot.h"

#include "kernel.h"
#include "lazy.h"

#include <stdbool.h>
#include <string.h>

#define PROBES 64
#define UNITS (BP_DEPOT_BYTES / 8)

_Atomic(struct bp_depot *) bp_depot;

int bp_depot_prepare(void)
{
    if (atomic_load(&bp_depot) != NULL) {
        return 0;
    }
    void *place;
    int code = bp_lazy_map(sizeof(struct bp_depot), &place);
    if (code < 0) {
        return code;
    }
    struct bp_depot *made = place;
    struct bp_depot *none = NULL;
    atomic_store(&made->used, 1);
    if (!atomic_compare_exchange_strong(&bp_depot, &none, made)) {
        bp_kernel_munmap(place, sizeof *made); /* another thread was first */
    }
    return 0;
}

static uint32_t hash_of(const struct bp_depot_entry *head, const void *data, size_t size)
{
    uint64_t hash = ((uint64_t)head->caller << 32 | head->frames) ^ (uint64_t)head->length << 8;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        memcpy(&word, (const char *)data + at, size - at < 8 ? size - at : 8);
        hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    return (uint32_t)(hash >> 32) ^ (uint32_t)hash;
}

static bool equal(const struct bp_depot_entry *entry, const struct bp_depot_entry *head, const void *data, size_t size)
{
    return memcmp(entry, head, sizeof *head) == 0 && memcmp(entry->data, data, size) == 0;
}

/* Units from the arena; 0: it is full. */
static uint32_t take(struct bp_depot *in, uint64_t units)
{
    uint64_t at = atomic_load(&in->used);
    while (at + units <= UNITS) {
        if (atomic_compare_exchange_weak(&in->used, &at, at + units)) {
            return (uint32_t)at;
        }
    }
    return 0;
}

static uint32_t keep(struct bp_depot_entry *head, const void *data, size_t size)
{
    struct bp_depot *in = atomic_load(&bp_depot);
    if (in == NULL) {
        return 0;
    }
    head->hash = hash_of(head, data, size);
    uint64_t units = (sizeof *head + size + 7) / 8;
    uint32_t mine = 0;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        _Atomic uint32_t *slot = &in->slots[(head->hash + probe) % BP_DEPOT_SLOTS];
        uint32_t id = atomic_load_explicit(slot, memory_order_acquire);
        if (id == 0) {
            if (mine == 0) {
                mine = take(in, units);
                if (mine == 0) {
                    return 0;
                }
                struct bp_depot_entry *entry = (struct bp_depot_entry *)&in->arena[mine];
                memcpy(entry, head, sizeof *head);
                memcpy(entry->data, data, size);
            }
            if (atomic_compare_exchange_strong(slot, &id, mine)) {
                return mine;
            }
        }
        /* Another thread's by now, perhaps of the same: then ours stays unused. */
        if (equal((const struct bp_depot_entry *)&in->arena[id], head, data, size)) {
            return id;
        }
    }
    return 0;
}

uint32_t bp_depot_stack(const uint64_t *frames, uint32_t count, uint32_t caller)
{
    struct bp_depot_entry head = {.caller = caller, .frames = count};
    return keep(&head, frames, count * sizeof *frames);
}

uint32_t bp_depot_text(const char *text, size_t length)
{
    struct bp_depot_entry head = {.length = (uint32_t)length};
    return keep(&head, text, length);
}

const struct bp_depot_entry *bp_depot_find(uint32_t id)
{
    struct bp_depot *in = atomic_load(&bp_depot);
    if (in == NULL || id == 0 || id >= atomic_load(&in->used)) {
        return NULL;
    }
    return (const struct bp_depot_entry *)&in->arena[id];
}
