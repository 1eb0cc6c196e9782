/*
 * ledger.h: what each worker does, in memory that outlives it: a memfd that the driver and the workers map.
 *
 * An operation is entered before it begins, and its version after it has ended: so what was acknowledged is known exactly,
 * and of a worker that was killed one operation may be open, which must be wholly there or wholly not.
 */
#ifndef KV_LEDGER_H
#define KV_LEDGER_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#define KV_MAX_WORKERS 16
#define KV_MAX_OPERATIONS (UINT64_C(1) << 22) /* of one slot; pages of the memfd come as they are written */
#define KV_NO_CHANGE UINT64_MAX               /* in place of a version: it changed nothing */

struct kv_operation {
    uint32_t word;
    uint32_t is_delete;
    _Atomic uint64_t version; /* 0: open */
};

/* Of one worker, and of its successors. */
struct kv_slot {
    _Atomic uint64_t count; /* of operations */
    _Atomic uint64_t puts;
    _Atomic uint64_t deletes;
    _Atomic uint64_t gets;
    _Atomic uint64_t restarts; /* of gets, by pages that were freed under them */
    _Atomic uint64_t refused;  /* changes for which there was no page, or no frame */
    _Atomic uint64_t starts;   /* workers that came to work */
    char wrong[240];           /* what a worker has found wrong */
    struct kv_operation operations[KV_MAX_OPERATIONS];
};

struct kv_ledger {
    _Atomic uint32_t stop;
    int32_t driver;                           /* its pid */
    struct kv_slot slots[KV_MAX_WORKERS + 1]; /* the last one is the driver's */
};

/* The id of a write: who made it, and its place among his. */
static inline uint64_t kv_id(uint32_t slot, uint64_t index)
{
    return (uint64_t)slot << 32 | index;
}

#endif
