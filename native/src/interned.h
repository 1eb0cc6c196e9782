/*
 * interned.h: threads by a number of 16 bits, for the records of provenance.
 *
 * One table per process, made with the first pool that records; a thread enters it with its first call that is recorded.
 * When the table is full, entries of threads that have ended are used again, and what the earlier thread did is then by
 * "a thread that is not known any more": each entry knows since when it has been its thread's.
 * A forked child inherits the table; its threads get entries of their own, with its pid.
 *
 * The layout is read from outside, too (a core dump): plain words, serial odd while an entry is being written.
 */
#ifndef BP_INTERNED_H
#define BP_INTERNED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BP_INTERNED_THREADS 65536 /* entry 0: no thread */

/* Time is counted in ticks of 65.536 microseconds of CLOCK_MONOTONIC. */
#define BP_TICK_BITS 16

struct bp_interned {
    _Atomic uint32_t serial; /* 0: never used; 2: of its first thread; then 2 more for each thread */
    _Atomic int32_t thread;
    _Atomic int32_t pid;
    uint32_t unused;
    _Atomic uint64_t since; /* tick */
    _Atomic uint64_t name[2];
};
_Static_assert(sizeof(struct bp_interned) == 40, "read from core dumps");

extern _Atomic(struct bp_interned *) bp_interned; /* NULL until it is made; BP_INTERNED_THREADS entries */

/* Makes the table, once. Errors: -ENOMEM. */
int bp_interned_prepare(void);

/* The running thread's number; 0 when the table is full of threads that live. now: a tick. */
uint16_t bp_interned_self(uint64_t now);

/* Who had the number at a tick; false: not known. name has 16 bytes. Async-signal-safe. */
bool bp_interned_find(uint16_t number, uint64_t tick, int32_t *thread, int32_t *pid, char *name);

#endif
