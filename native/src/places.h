/*
 * places.h: native stacks that other processes can read, in a shared depot.
 *
 * An address means nothing in a process that has its modules elsewhere. So each frame is kept with its place, as far as
 * the loader knows it without a lock: the module, by path and size, and the offset in it. Who reads it gets the address at
 * which that place is in his own process, or, if he has not got the module, the address as it was.
 */
#ifndef BP_PLACES_H
#define BP_PLACES_H

#include "depot.h"

#include <stdbool.h>

/* What is kept: the addresses, then of each its place, the id of the module's text ("0x5000 /usr/bin/engine") above the
 * offset; or 0. */
#define BP_PLACE_BITS 42

/* Keeps the running process's stack, at most BUFPOOL_ORIGIN_DEPTH frames, as bp_depot_stack() does. */
uint32_t bp_places_keep(struct bp_depot *depot, const uint64_t *frames, uint32_t count, uint32_t caller);

/* Reads one, of this process's own or another one: returns how many frames; *caller receives its caller's text or 0,
 * *foreign a bit for each frame that means nothing here. Async-signal-safe. */
uint32_t bp_places_read(struct bp_depot *depot, uint32_t id, bool own, uint64_t *frames, uint32_t *caller,
                        uint32_t *foreign);

#endif
