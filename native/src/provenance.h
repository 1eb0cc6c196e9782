/*
 * provenance.h: what is kept of each page's last allocate (or populate) and last free (or evict).
 *
 * Records lie outside the pool's memory, in tables that take memory only where a page was ever touched: 24 bytes a page
 * for when and who, 8 more for the stacks. They are written by who has the page BUSY, a free's before its frame goes, so
 * that an access that strays meanwhile finds it. A reader (the handler) needs no lock: the sequence number of an event
 * is written while `when` is 0, and nobody else's event has it.
 *
 * The layout is read from outside, too (a core dump):
 *   when      bits 24-63: the tick (see interned.h), modulo 2^40; bits 8-23: the thread's number; bits 0-7: the sequence
 *             number's bits 31-38. 0: nothing, or being written
 *   sequence  bits 1-31: the sequence number's bits 0-30; bit 0: populate in place of allocate, evict in place of free
 */
#ifndef BP_PROVENANCE_H
#define BP_PROVENANCE_H

#include <bufpool/bufpool.h>
#include <stdatomic.h>
#include <stdbool.h>

enum bp_provenance_mode { BP_PROVENANCE_OFF, BP_PROVENANCE_LAST, BP_PROVENANCE_STACKS };

/* The two events of a record. */
enum { BP_GIVEN, BP_TAKEN };

struct bp_record {
    _Atomic uint64_t when[2];
    _Atomic uint32_t sequence[2];
};
_Static_assert(sizeof(struct bp_record) == 24, "24 bytes a touched page");

struct bp_record_stacks {
    _Atomic uint32_t id[2]; /* in the depot, or 0 */
};

struct bp_provenance {
    uint32_t mode; /* enum bp_provenance_mode */
    uint32_t depth;
    uint64_t pages;
    uint64_t opened; /* tick: events' ticks count from here on, so that 40 bits are enough for two years */
    struct bp_record *records;
    struct bp_record_stacks *stacks; /* NULL unless mode is STACKS */
    struct bp_record closed;         /* who closed the pool: BP_TAKEN */
    struct bp_record_stacks closed_stacks;
    _Atomic uint64_t sequence;
    _Atomic uint64_t lost;
};

/* Who called the library: to be taken in a public function. */
#define BP_CALLER() __builtin_extract_return_addr(__builtin_return_address(0))

const char *bp_provenance_name(enum bp_provenance_mode mode);

/* Errors: -ENOMEM. */
int bp_provenance_open(struct bp_provenance *provenance, enum bp_provenance_mode mode, uint32_t depth, uint64_t pages);
void bp_provenance_close(struct bp_provenance *provenance);

void bp_provenance_write(struct bp_provenance *provenance, const uint64_t *pages, size_t count, bufpool_event event,
                         const void *caller);
void bp_provenance_erase(struct bp_provenance *provenance, const uint64_t *pages, size_t count);

/* Records one event of all the pages, which the caller has BUSY. */
static inline void bp_record(struct bp_provenance *provenance, const uint64_t *pages, size_t count, bufpool_event event,
                             const void *caller)
{
    if (provenance->mode != BP_PROVENANCE_OFF) {
        bp_provenance_write(provenance, pages, count, event, caller);
    }
}

/* The taking that was recorded did not come about. What was recorded before it is gone. */
static inline void bp_record_failed(struct bp_provenance *provenance, const uint64_t *pages, size_t count)
{
    if (provenance->mode != BP_PROVENANCE_OFF) {
        bp_provenance_erase(provenance, pages, count);
    }
}

/* Records who closes the pool. */
void bp_record_close(struct bp_provenance *provenance, const void *caller);

/* Sequence numbers in records are modulo 2^39. Is the first later than the second? */
static inline bool bp_provenance_is_later(uint64_t first, uint64_t second)
{
    return ((second - first) & ((UINT64_C(1) << 39) - 1)) > (UINT64_C(1) << 38);
}

/* Reads a page's two events; sequence 0: not recorded, or just being written. Async-signal-safe. */
void bp_provenance_read(const struct bp_provenance *provenance, uint64_t page, bufpool_origin *allocated,
                        bufpool_origin *freed);

#endif
