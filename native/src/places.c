/* places.c: native stacks that other processes can read, see places.h. */
#include "places.h"

#include "modules.h"
#include "text.h"

#include <bufpool/bufpool.h>
#include <string.h>

#define OFFSET_MASK ((UINT64_C(1) << BP_PLACE_BITS) - 1)

_Static_assert(BP_DEPOT_BYTES / 8 <= UINT64_C(1) << (64 - BP_PLACE_BITS), "ids fit above the offset");

#define TEXT 320 /* bytes: a longer path is not kept */

/* A module as text: its size, then its path. */
static uint32_t keep_module(struct bp_depot *depot, const struct bp_module_range *module)
{
    char buffer[TEXT];
    struct bp_text text = {buffer, sizeof buffer, 0};
    bp_text_hex(&text, module->size);
    bp_text_put(&text, " ");
    bp_text_put(&text, module->path);
    size_t length = bp_text_end(&text);
    return length < sizeof buffer ? bp_depot_text(depot, buffer, length + 1) : 0;
}

uint32_t bp_places_keep(struct bp_depot *depot, const uint64_t *frames, uint32_t count, uint32_t caller)
{
    uint64_t kept[2 * BUFPOOL_ORIGIN_DEPTH];
    struct bp_module_range module = {0};
    uint32_t id = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (frames[i] - module.start >= module.size) {
            module = bp_module_range_at(frames[i]);
            id = module.size > 0 ? keep_module(depot, &module) : 0;
        }
        uint64_t offset = frames[i] - module.start;
        kept[i] = frames[i];
        kept[count + i] = id != 0 && offset <= OFFSET_MASK ? (uint64_t)id << BP_PLACE_BITS | offset : 0;
    }
    return bp_depot_stack(depot, kept, 2 * count, caller);
}

/* The same place in this process; 0: there is none. */
static uint64_t find(struct bp_depot *depot, uint64_t address, uint64_t place)
{
    char text[TEXT];
    uint64_t offset = place & OFFSET_MASK;
    if (place == 0 || bp_depot_read_text(depot, (uint32_t)(place >> BP_PLACE_BITS), text, sizeof text) == 0) {
        return 0;
    }
    const char *at = text + 2; /* "0x" */
    uint64_t size = text[0] == '0' && text[1] == 'x' ? bp_module_hexadecimal(&at) : 0;
    if (*at != ' ' || offset >= size) {
        return 0;
    }
    struct bp_module_range here = bp_module_range_at(address); /* in a forked relative it is where it was */
    if (here.size == size && address - here.start == offset && strcmp(here.path, at + 1) == 0) {
        return address;
    }
    uint64_t start = bp_module_start(at + 1, size);
    return start == 0 ? 0 : start + offset;
}

uint32_t bp_places_read(struct bp_depot *depot, uint32_t id, bool own, uint64_t *frames, uint32_t *caller,
                        uint32_t *foreign)
{
    uint64_t kept[2 * BUFPOOL_ORIGIN_DEPTH];
    uint32_t count = bp_depot_read_stack(depot, id, kept, 2 * BUFPOOL_ORIGIN_DEPTH, caller) / 2;
    *foreign = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t found = own ? kept[i] : find(depot, kept[i], kept[count + i]);
        frames[i] = found == 0 ? kept[i] : found;
        *foreign |= (uint32_t)(found == 0) << i;
    }
    return count;
}
