/*
 * interned.h: threads by a number of 16 bits, for the records of provenance.
 *
 * One table per process, made with the first pool that records; a thread enters it with its first call that is recorded.
 * A pool whose tables are shared (tables.h) has one for the threads of all its processes, and each process notes which
 * number there a number of its own table stands for (provenance.c).
 * When the table is full, entries of threads that have ended are used again, and what the earlier thread did is then by
 * "a thread that is not known any more": each entry knows since when it has been its thread's.
 * A forked child inherits the process's table; its threads get entries of their own, with its pid.
 *
 * Whoever writes an entry has first put its member number (roster.h) into the serial, so that what a killed process has
 * left half written is nobody's until it is cleared; nobody waits for it.
 *
 * The layout is read from outside, too (a core dump): plain words.
 */
#ifndef BP_INTERNED_H
#define BP_INTERNED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BP_INTERNED_THREADS 65536 /* entry 0: no thread */

/* Time is counted in ticks of 65.536 microseconds of CLOCK_MONOTONIC. */
#define BP_TICK_BITS 16

/* A serial: who writes the entry, or 0; above that it counts the entry's threads, from 1. */
#define BP_INTERNED_WRITER 1023u
#define BP_INTERNED_ONE 1024u

struct bp_interned {
    _Atomic uint32_t serial; /* 0: never used */
    _Atomic int32_t thread;  /* 0: cleared */
    _Atomic int32_t pid;
    uint32_t unused;
    _Atomic uint64_t since; /* tick */
    _Atomic uint64_t space; /* inode of the pid namespace in which the ids are meant, or 0 */
    _Atomic uint64_t name[2];
    _Atomic uint64_t process_name[2];
};
_Static_assert(sizeof(struct bp_interned) == 64, "read from core dumps");

struct bp_threads {
    _Atomic uint32_t used; /* entries, but for entry 0 */
    _Atomic uint32_t cursor;
    uint64_t unused[7];
    struct bp_interned entries[BP_INTERNED_THREADS];
};

/* Who a number stood for. */
struct bp_interned_who {
    int32_t thread;
    int32_t pid;
    char name[16];
    char process_name[16];
};

/* The process's own table, made once. Errors: -ENOMEM. */
int bp_interned_prepare(struct bp_threads **threads);

/* The running thread's number in it; 0 when it is full of threads that live. now: a tick. *serial tells the thread from
 * an earlier one with that number. */
uint16_t bp_interned_self(uint64_t now, uint32_t *serial);

/* Enters a thread into a table that is shared, as this member: NULL: the running one. 0: it is full. */
uint16_t bp_interned_enter(struct bp_threads *threads, uint32_t member, uint64_t now,
                           const struct bp_interned_who *who);

/* Clears what a member has left that was killed amid it. */
void bp_interned_release(struct bp_threads *threads, uint32_t member);

/* Who had the number at a tick; false: not known. Async-signal-safe. */
bool bp_interned_find(struct bp_threads *threads, uint16_t number, uint64_t tick, struct bp_interned_who *who);

#endif
