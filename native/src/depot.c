/* depot.c: stacks and texts that are kept once each, see depot.h. */
#include "depot.h"

#include "kernel.h"
#include "lazy.h"
#include "point.h"

#include <stdbool.h>
#include <string.h>

#define PROBES 64
#define UNITS (BP_DEPOT_BYTES / 8)
#define HEAD (sizeof(struct bp_depot_entry) / 8)

static _Atomic(void *) own;

int bp_depot_prepare(struct bp_depot **depot)
{
    void *place;
    int code = bp_lazy_once(&own, sizeof **depot, &place);
    if (code == 0) {
        *depot = place;
    }
    return code;
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

/* Copies the head of what is kept under an id, and says how many units of data may follow it; false: it is no id. */
static bool read_head(const struct bp_depot *depot, uint32_t id, struct bp_depot_entry *head, uint64_t *room)
{
    if (depot == NULL || id == 0 || id > UNITS - HEAD) {
        return false;
    }
    memcpy(head, &depot->arena[id], sizeof *head);
    atomic_signal_fence(memory_order_seq_cst); /* what is checked is the copy */
    *room = UNITS - HEAD - id;
    return true;
}

static bool is_kept(const struct bp_depot *depot, uint32_t id, const struct bp_depot_entry *head, const void *data,
                    size_t size)
{
    struct bp_depot_entry found;
    uint64_t room;
    return read_head(depot, id, &found, &room) && size <= room * 8 && memcmp(&found, head, sizeof found) == 0 &&
           memcmp(&depot->arena[id + HEAD], data, size) == 0;
}

/* Units from the arena; 0: it is full. Unit 0 is never given out. */
static uint32_t take(struct bp_depot *depot, uint64_t units)
{
    uint64_t used = atomic_load(&depot->used);
    while (used < UNITS - units) {
        if (atomic_compare_exchange_weak(&depot->used, &used, used + units)) {
            BP_STORED("depot: used");
            return (uint32_t)used + 1;
        }
    }
    return 0;
}

static uint32_t keep(struct bp_depot *depot, struct bp_depot_entry *head, const void *data, size_t size)
{
    head->hash = hash_of(head, data, size);
    uint64_t units = HEAD + (size + 7) / 8;
    uint32_t mine = 0;
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        _Atomic uint32_t *slot = &depot->slots[(head->hash + probe) % BP_DEPOT_SLOTS];
        uint32_t id = atomic_load_explicit(slot, memory_order_acquire);
        if (id == 0) {
            if (mine == 0) {
                mine = take(depot, units);
                if (mine == 0) {
                    return 0;
                }
                memcpy(&depot->arena[mine], head, sizeof *head);
                BP_STORED("depot: head");
                memcpy(&depot->arena[mine + HEAD], data, size);
                BP_STORED("depot: data");
            }
            if (atomic_compare_exchange_strong(slot, &id, mine)) {
                BP_STORED("depot: published");
                return mine;
            }
        }
        /* Another thread's by now, perhaps of the same: then ours stays unused. */
        if (is_kept(depot, id, head, data, size)) {
            return id;
        }
    }
    return 0;
}

uint32_t bp_depot_stack(struct bp_depot *depot, const uint64_t *frames, uint32_t count, uint32_t caller)
{
    struct bp_depot_entry head = {.caller = caller, .frames = count};
    return keep(depot, &head, frames, count * sizeof *frames);
}

uint32_t bp_depot_text(struct bp_depot *depot, const char *text, size_t length)
{
    struct bp_depot_entry head = {.length = (uint32_t)length};
    return keep(depot, &head, text, length);
}

uint32_t bp_depot_read_stack(struct bp_depot *depot, uint32_t id, uint64_t *frames, uint32_t size, uint32_t *caller)
{
    struct bp_depot_entry head;
    uint64_t room;
    *caller = 0;
    if (!read_head(depot, id, &head, &room) || head.length != 0) {
        return 0;
    }
    uint64_t count = head.frames < size ? head.frames : size;
    count = count < room ? count : room;
    memcpy(frames, &depot->arena[id + HEAD], count * sizeof *frames);
    *caller = head.caller;
    return (uint32_t)count;
}

size_t bp_depot_read_text(struct bp_depot *depot, uint32_t id, char *text, size_t size)
{
    struct bp_depot_entry head;
    uint64_t room;
    if (!read_head(depot, id, &head, &room) || head.frames != 0 || head.length == 0 || head.length > size ||
        head.length > room * 8) {
        return 0;
    }
    memcpy(text, &depot->arena[id + HEAD], head.length);
    text[head.length - 1] = 0; /* as it was kept, unless a peer has written there */
    return strlen(text);
}
