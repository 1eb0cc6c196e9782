/*
 * pool.h: the pool's descriptor, and how calls and handlers get in and out of it.
 *
 * Descriptors live in memory that is never unmapped and is used again for descriptors only, so that a handler or a late
 * call that still has the pointer reads a closed pool, never foreign memory. Everything else a pool has (its space, its
 * tables) goes when it is closed; `users` counts who is inside, and close waits for them.
 */
#ifndef BP_POOL_H
#define BP_POOL_H

#include "audit.h"
#include "lag.h"
#include "limit.h"
#include "numbers.h"
#include "pages.h"
#include "pins.h"
#include "provenance.h"
#include "space.h"

enum bp_policy { BP_ABORT, BP_RAISE, BP_RESUME, BP_FREEZE };

#define BP_FAULT_RING 256
#define BP_SCRATCH_SLOTS 64 /* BP_MEMBER_SCRATCH */

/* One remembered fault, word by word, since it may be read while it is written; serial is odd meanwhile. The number is its own
 * among those of the pool, from 1; it only grows. */
#define BP_FAULT_WORDS (sizeof(bufpool_fault) / 8)
_Static_assert(sizeof(bufpool_fault) % 8 == 0, "a fault is a whole number of words");
struct bp_ring_entry {
    _Atomic uint64_t serial;
    _Atomic uint64_t fault[BP_FAULT_WORDS];
    _Atomic uint64_t number;
};

/* One page that shows the scratch pattern; see scratch.h. */
struct bp_scratch_slot {
    _Atomic uint64_t page; /* page (if pasted, granule) + 2; 1 while being changed; 0 empty */
    atomic_bool pinned;    /* an allocated page, see pins.h */
    atomic_bool pasted;    /* a mapping of its own over one granule, not a frame of the pool */
    _Atomic int32_t thread;
    _Atomic int64_t since_ns;
};

/* What a fork makes of the pool; see inherit.h. */
struct bp_heritage {
    enum bp_heritage_step {
        BP_HERITAGE_NONE,  /* no fork is under way */
        BP_HERITAGE_READY, /* prepared for the child; what follows is why it has not got the pool */
        BP_HERITAGE_BUSY,  /* in the parent */
        BP_HERITAGE_LATE,
        BP_HERITAGE_SCRATCH,
        BP_HERITAGE_LIFT,
        BP_HERITAGE_COPY,
        BP_HERITAGE_ALONE,
        BP_HERITAGE_HIDDEN,
        BP_HERITAGE_CHANGED, /* in the child */
        BP_HERITAGE_JOIN,
        BP_HERITAGE_MAP,
        BP_HERITAGE_ARM
    } step;
    int code;         /* of the kernel, or 0 */
    int fd;           /* the copy of the pages, or -1 */
    uint64_t changes; /* of page states, when it was made */
    void *readable;   /* while it is being made */
    bool sealed;      /* in a child that has not got the pool: its range is mapped, inaccessible */
    bool gone;        /* since an earlier fork */
};

struct bufpool_pool {
    struct bufpool_pool *next; /* all descriptors, for the handler's search; set once */
    struct bp_users {
        _Alignas(BP_CACHE_LINE) atomic_uint inside;
    } users[BP_STRIPES]; /* by stripe.h, since every call writes it */
    /* Everything from here on is rarely written. */
    _Alignas(BP_CACHE_LINE) _Atomic uintptr_t first; /* the range; 0: not in use. Published last, withdrawn first. */

    /* What follows is cleared before the descriptor is used again. Written at open, read without a lock. */
    _Atomic uintptr_t end;
    uint64_t page_size;
    uint64_t capacity; /* of the pages; the range is space.capacity */
    uint64_t lead;     /* bytes of the red zone before each page, and behind the last; 0: there are none */
    int32_t process;   /* that has the pool; see bp_process() */
    int32_t pid;       /* its id */
    int32_t opener;    /* of an inherited pool: the id of the process that it came from; else 0 */
    bool inherit;      /* fork = "inherit" */
    bool guest;        /* another process has opened it */
    struct bp_heritage heritage;
    enum bp_policy policy;
    bool tell;             /* BUFPOOL_TELL */
    int log;               /* descriptor, or -1 */
    uint64_t log_id[2];    /* its file, see bp_kernel_identify() */
    atomic_bool log_torn;  /* our last line in it was cut short */
    uint32_t report_limit; /* see limit.h */
    const char *fresh;     /* with fill "pattern": whole granules of it; else NULL */
    size_t fresh_size;
    const char *scrubbed; /* with BUFPOOL_SCRUB: BP_FILL_SIZE bytes; else NULL */
    char name[64];
    char memory[64]; /* its name, or the path, cut */
    char trap_note[768];
    struct bp_space space;
    struct bp_pages pages;
    struct bp_lag lag;
    struct bp_pins pins;
    struct bp_audit audit;
    struct bp_provenance provenance; /* stays, with its tables, while the descriptor is in use */

    atomic_bool emptied; /* by this process, when another one had closed the pool for all */
    atomic_bool closed;  /* set first at close; what `users` protects is gone after it */
    atomic_int kept;
    uint64_t closed_at; /* order of closing; 0: open */

    _Atomic(bufpool_fault_callback) callback;
    _Atomic(void *) callback_context;

    _Atomic uint64_t pages_read, pages_written, io_requests, io_queued; /* see transfer.c */
    _Atomic uint64_t faults, repeats, restarts, scratch_maps, scratch_ns, reports_lost, reports_limited;
    _Atomic uint32_t scratched;
    struct bp_scratch_slot scratch[BP_SCRATCH_SLOTS];
    struct bp_limits limits;
    struct bp_monitor *monitor; /* or NULL */
    struct bp_ring_entry *ring; /* BP_FAULT_RING entries; stays while the descriptor is in use */
};

/* Begins a call on an open pool: 0, or an error with its sentence: EARGUMENT (NULL), ECLOSED, EUNSUPPORTED (forked
 * child). Re-arms what this thread's earlier stray accesses diverted. Every 0 has to be followed by bp_pool_leave(). */
int bp_pool_enter(bufpool_pool *pool);
int bp_pool_enter_to_close(bufpool_pool *pool); /* also if the process that opened it has closed it for all */
void bp_pool_leave(bufpool_pool *pool);

/* Begins a call on a batch, with the numbers copied first. Errors: as bp_pool_enter(), EARGUMENT (pages is NULL),
 * -ENOMEM; then there is nothing to leave. */
int bp_pool_enter_batch(bufpool_pool *pool, struct bp_numbers *numbers, size_t count, const uint64_t *pages);
void bp_pool_leave_batch(bufpool_pool *pool, struct bp_numbers *numbers);

/* EARGUMENT, with a sentence, if the pool has no page of this number. */
int bp_pool_check_page(const bufpool_pool *pool, uint64_t page);

/* The same for the handler, for closed pools too: no sentence, no re-arming. Inside, what belongs to an open pool may
 * be used if `closed` is still false and `process` is this process. false: the descriptor is not in use. */
bool bp_pool_visit(bufpool_pool *pool);

/* The pool at an address, visited, and still there. NULL: none. Async-signal-safe. */
bufpool_pool *bp_pool_visit_at(uintptr_t address);

/* For who counts itself by other means than bp_pool_visit(). */
static inline atomic_uint *bp_pool_users(bufpool_pool *pool)
{
    return &pool->users[bp_stripe(0)].inside;
}

/* Is anybody inside? Each thread counts in one place: so who was inside at the beginning of the call is seen. */
static inline bool bp_pool_is_used(const bufpool_pool *pool)
{
    for (int i = 0; i < BP_STRIPES; i++) {
        if (atomic_load(&pool->users[i].inside) > 0) {
            return true;
        }
    }
    return false;
}

/* Closed; or, memory and all, by the process that opened it; or without its descriptors, which the program has closed.
 * Async-signal-safe. */
static inline bool bp_pool_is_closed(const bufpool_pool *pool)
{
    return atomic_load(&pool->closed) || atomic_load(&pool->space.orphaned) || atomic_load(&pool->pages.counts->gone);
}

/* Says so: ECLOSED, and why. */
int bp_pool_closed_error(const bufpool_pool *pool);

/* Open, and this process's own. Async-signal-safe. */
bool bp_pool_has_frames(const bufpool_pool *pool);

/* And the page is allocated. Async-signal-safe. */
bool bp_pool_has_page(const bufpool_pool *pool, uint64_t page);

/* The pool in whose range the address lies, open or closed, or NULL. Lock-free, async-signal-safe. */
bufpool_pool *bp_pool_at(uintptr_t address);

/* The first descriptor of the list of all; then ->next. Those not in use have first == 0. */
bufpool_pool *bp_pool_first(void);

/* ---- Where pages lie: the one place that knows ----
 *
 * Without red zones page after page. With them a granule that is never filled lies before each page, and one behind the
 * last; neighbours are no longer contiguous, in addresses or in the file. */

/* From the beginning of the range, and of the file. */
static inline uint64_t bp_page_offset(const bufpool_pool *pool, uint64_t page)
{
    return pool->lead + page * (pool->lead + pool->page_size);
}

static inline uintptr_t bp_page_address(const bufpool_pool *pool, uint64_t page)
{
    return pool->space.base + bp_page_offset(pool, page);
}

/* Does an address within the range lie in a red zone? */
static inline bool bp_in_zone(const bufpool_pool *pool, uintptr_t address)
{
    return pool->lead != 0 && (address - pool->space.base) % (pool->lead + pool->page_size) < pool->lead;
}

/* The page that begins at or after an offset of the range, or has it. */
static inline uint64_t bp_page_from(const bufpool_pool *pool, uint64_t offset)
{
    return offset / (pool->lead + pool->page_size);
}

/* The page of an address within the range; of one in a red zone the nearer page. */
static inline uint64_t bp_page_at(const bufpool_pool *pool, uintptr_t address)
{
    uint64_t stride = pool->lead + pool->page_size;
    uint64_t page = (address - pool->space.base) / stride;
    uint64_t within = (address - pool->space.base) % stride;
    bool after = page > 0 && (within < pool->lead / 2 || page == pool->capacity / pool->page_size);
    return within < pool->lead && after ? page - 1 : page;
}

#endif
