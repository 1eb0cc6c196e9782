/*
 * depot.h: stacks and texts that are kept once each, by a number of 32 bits.
 *
 * One depot per process, and one per pool whose tables are shared, of fixed size; only what is used takes memory, and
 * nothing is ever given back. Lock-free: what is kept is written, then published, so that a killed process leaves nothing
 * but some bytes that are nobody's. When it is full the answer is 0, "none", and who asked goes on without. A peer may
 * have written anything to a shared one: no value in it leads out of it, and what is read is copied before it is checked.
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
    _Atomic uint64_t used; /* units of 8 bytes, but for unit 0, which is never given out */
    uint64_t unused[7];
    _Atomic uint32_t slots[BP_DEPOT_SLOTS]; /* ids, by hash */
    uint64_t arena[BP_DEPOT_BYTES / 8];
};

/* The process's own depot, made once. Errors: -ENOMEM. */
int bp_depot_prepare(struct bp_depot **depot);

/* The id of a stack, or of a text; 0: the depot is full. */
uint32_t bp_depot_stack(struct bp_depot *depot, const uint64_t *frames, uint32_t count, uint32_t caller);
uint32_t bp_depot_text(struct bp_depot *depot, const char *text, size_t length);

/* Copies a stack, of at most size frames: returns how many; *caller receives its caller's text or 0. 0 for what is no
 * stack. Async-signal-safe. */
uint32_t bp_depot_read_stack(struct bp_depot *depot, uint32_t id, uint64_t *frames, uint32_t size, uint32_t *caller);

/* Copies a text, at most size bytes, terminated: returns its length. 0 for what is no text. Async-signal-safe. */
size_t bp_depot_read_text(struct bp_depot *depot, uint32_t id, char *text, size_t size);

#endif
