/*
 * depot.h: stacks and texts that are kept once each, by a number of 32 bits.
 *
 * One depot per process, of fixed size; only what is used takes memory, and nothing is ever given back. Lock-free. When
 * it is full the answer is 0, "none", and who asked goes on without.
 *
 * The layout is read from outside, too (a core dump): an id counts 8 bytes from the arena's start; what is there never
 * changes again.
 */
#ifndef BP_DEPOT_H
#define BP_DEPOT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define BP_DEPOT_BYTES (UINT64_C(32) << 20)
#define BP_DEPOT_SLOTS (1u << 19)
#define BP_DEPOT_LOST UINT32_MAX /* no id: there was something, and no room for it */

struct bp_depot_entry {
    uint32_t hash;
    uint32_t caller; /* of a stack: the id of the text that names its caller, or 0 */
    uint32_t frames; /* of a stack: how many, in data; of a text 0 */
    uint32_t length; /* of a text: bytes, in data; of a stack 0 */
    uint64_t data[];
};

struct bp_depot {
    _Atomic uint64_t used; /* units of 8 bytes; unit 0 is never given out */
    uint64_t unused[7];
    _Atomic uint32_t slots[BP_DEPOT_SLOTS]; /* ids, by hash */
    uint64_t arena[BP_DEPOT_BYTES / 8];
};

extern _Atomic(struct bp_depot *) bp_depot; /* NULL until it is made */

/* Makes the depot, once. Errors: -ENOMEM. */
int bp_depot_prepare(void);

/* The id of a stack, or of a text; 0: the depot is full, or not made. */
uint32_t bp_depot_stack(const uint64_t *frames, uint32_t count, uint32_t caller);
uint32_t bp_depot_text(const char *text, size_t length);

/* NULL for 0 and for what is no id. Async-signal-safe. */
const struct bp_depot_entry *bp_depot_find(uint32_t id);

#endif
