/*
 * provenance.h: what is kept of each page's last allocate (or populate) and last free (or evict).
 *
 * Records lie outside the pool's memory, in tables that take memory only where a page was ever touched: 24 bytes a page
 * for when and who, 8 more for the stacks. They are written by who has the page BUSY, a free's before its frame goes, so
 * that an access that strays meanwhile finds it. A reader (the handler) needs no lock: the sequence number of an event
 * is written while `when` is 0, and nobody else's event has it.
 *
 * The records of a pool whose tables are shared (tables.h) are shared, with the threads and stacks that they name: they
 * lie in the same file, behind the rest, and any process reads who did it. A process that is killed amid a record leaves
 * `when` 0. Whatever a peer has written there, no value in it leads out of them.
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

/* Who closed the pool: BP_TAKEN. */
struct bp_closing {
    struct bp_record record;
    struct bp_record_stacks stacks;
};

/* What of it changes with every call, and the head of what is shared. */
struct bp_provenance_counts {
    _Atomic uint64_t sequence;
    _Atomic uint64_t lost;
    struct bp_closing closing; /* for all processes */
};

/* What is fixed when the pool is opened: of shared records in the tables' header. */
struct bp_provenance_terms {
    uint32_t mode; /* enum bp_provenance_mode */
    uint32_t depth;
    uint64_t opened; /* tick: events' ticks count from here on, so that 40 bits are enough for two years */
};

struct bp_provenance {
    uint32_t mode;
    uint32_t depth;
    uint64_t pages;
    uint64_t opened;
    uint32_t member; /* this process's number among those who share the records, see roster.h */
    void *place;     /* the one mapping that holds the records, and all that is shared with them */
    size_t mapped;
    struct bp_record *records;
    struct bp_record_stacks *stacks; /* NULL unless mode is STACKS */
    struct bp_threads *threads;
    struct bp_depot *depot; /* NULL unless mode is STACKS */
    _Atomic uint64_t
        *numbers; /* of shared threads: what this process's own numbers stand for there, each with its serial */
    struct bp_record *pin_records; /* who pinned and who unpinned, of this process only; or NULL */
    struct bp_record_stacks *pin_stacks;
    size_t pin_mapped;
    struct bp_provenance_counts *counts; /* shared, or: */
    struct bp_provenance_counts own;
    struct bp_closing closing; /* by this process */
};

/* Who called the library: to be taken in a public function. */
#define BP_CALLER() __builtin_extract_return_addr(__builtin_return_address(0))

const char *bp_provenance_name(enum bp_provenance_mode mode);

/* Fixes the terms of a new pool. */
struct bp_provenance_terms bp_provenance_terms(enum bp_provenance_mode mode, uint32_t depth);

/* Could these be terms? A peer may have written them. */
bool bp_provenance_valid(const struct bp_provenance_terms *terms);

/* How many bytes shared records take of a file; 0: mode is OFF. */
uint64_t bp_provenance_size(enum bp_provenance_mode mode, uint64_t pages);

/* Records of this process's own, or (fd >= 0) shared ones, at an offset of a file; zeros are empty ones. Errors: -ENOMEM,
 * -errno. */
int bp_provenance_open(struct bp_provenance *provenance, const struct bp_provenance_terms *terms, uint64_t pages,
                       int fd, uint64_t offset);
void bp_provenance_close(struct bp_provenance *provenance);

/* Records for pins, too, where there are any: 24 bytes a page that was ever pinned, 8 for the stacks. Errors: -ENOMEM. */
int bp_provenance_open_pins(struct bp_provenance *provenance);

/* In a forked child that has not got the pool: see bp_pages_part(). */
void bp_provenance_part(struct bp_provenance *provenance, int fd, uint64_t offset);

/* A process was killed amid taking the page, which the caller has BUSY: if it had not recorded that yet, it is recorded now,
 * as done by *thread, or by `who` if that is 0: then *thread receives the number. */
struct bp_interned_who;
void bp_provenance_complete(struct bp_provenance *provenance, uint64_t page, bool evict,
                            const struct bp_interned_who *who, uint16_t *thread);

/* Clears what a member has left that was killed. */
void bp_provenance_release(struct bp_provenance *provenance, uint32_t member);

/* The latest sequence number. Async-signal-safe. */
static inline uint64_t bp_provenance_now(const struct bp_provenance *provenance)
{
    return atomic_load(&provenance->counts->sequence);
}

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

/* Records who closes the pool: for all processes, or for this one. */
void bp_record_close(struct bp_provenance *provenance, bool for_all, const void *caller);

/* Sequence numbers in records are modulo 2^39. Is the first later than the second? */
static inline bool bp_provenance_is_later(uint64_t first, uint64_t second)
{
    return ((second - first) & ((UINT64_C(1) << 39) - 1)) > (UINT64_C(1) << 38);
}

/* Reads a page's two events; sequence 0: not recorded, or just being written. Async-signal-safe. */
void bp_provenance_read(const struct bp_provenance *provenance, uint64_t page, bufpool_origin *allocated,
                        bufpool_origin *freed);

/* The same of its pins; NULL: not asked for. */
void bp_provenance_read_pins(const struct bp_provenance *provenance, uint64_t page, bufpool_origin *pinned,
                             bufpool_origin *unpinned);

#endif
