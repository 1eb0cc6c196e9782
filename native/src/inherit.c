/* inherit.c: getting a pool into a forked child, see inherit.h. */
#include "inherit.h"

#include "keys.h"
#include "roster.h"
#include "thread.h"
#include "trap_adopted.h"

#include <errno.h>
#include <sys/mman.h>

enum way { COPIED_ON_WRITE, COPIED, SHARED, ALONE, HIDDEN };

static enum way way_of(const struct bp_space *space)
{
    if (space->adopted) {
        return !space->memory->file ? COPIED_ON_WRITE : space->trap->needs_file ? ALONE : SHARED;
    }
    return space->vault.base != 0       ? HIDDEN
           : space->fd < 0              ? COPIED_ON_WRITE
           : space->memory->hidden_file ? COPIED
           : space->trap->needs_file    ? ALONE
                                        : SHARED;
}

/* Counts what changes page states. */
static uint64_t changes(const bufpool_pool *pool)
{
    return BP_COUNT(pool->pages.counts, allocations) + BP_COUNT(pool->pages.counts, frees) +
           BP_COUNT(pool->pages.counts, evictions) + BP_COUNT(pool->pages.counts, populates);
}

/* Has the page a frame that is not to be lost? One of those that lag, where the kernel did not take it before the fork, would be
 * a hole in the child, and not known as one. */
static bool is_kept(const bufpool_pool *pool, uint64_t page)
{
    uint16_t word = bp_pages_load(&pool->pages, page);
    return word == BUFPOOL_STATE_ALLOCATED || bp_lag_is(&pool->lag, word);
}

/* Calls function for each run of allocated pages; ends with the first code below 0. */
static int for_each_run(bufpool_pool *pool, int (*function)(bufpool_pool *, uintptr_t, size_t))
{
    uint64_t high = atomic_load(&pool->pages.counts->high_water);
    int code = 0;
    for (uint64_t page = 0; page < high && code == 0;) {
        uint64_t end = page;
        while (end < high && (pool->lead == 0 || end == page) && is_kept(pool, end)) {
            end++;
        }
        code = end == page ? 0 : function(pool, bp_page_address(pool, page), (end - page) * pool->page_size);
        page = pool->lead > 0 && end > page ? end : end + 1;
    }
    return code;
}

/* ---- In the parent ---- */

static int copy_run(bufpool_pool *pool, uintptr_t address, size_t length)
{
    uintptr_t offset = address - pool->space.base;
    return bp_kernel_pwrite(pool->heritage.fd, (const char *)pool->heritage.readable + offset, length, offset);
}

/* Where all pages can be read: hidden ones by another mapping of the file. */
static int find_readable(bufpool_pool *pool)
{
    struct bp_space *space = &pool->space;
    pool->heritage.readable = (void *)space->base;
    if (space->unpinned != BP_OPEN_NONE && pool->pins.sample.one_in == 0) {
        return 0;
    }
    int code = bp_kernel_is_kept(space->fd) ? 0 : -EBADF;
    return code < 0 ? code
                    : bp_kernel_mmap_file(NULL, space->capacity, PROT_READ, MAP_SHARED | MAP_NORESERVE, space->fd, 0,
                                          &pool->heritage.readable);
}

static int copy(bufpool_pool *pool)
{
    pool->heritage.changes = changes(pool);
    pool->heritage.fd = bp_kernel_memfd(pool->name, pool->space.capacity, 0);
    int code = pool->heritage.fd < 0 ? pool->heritage.fd : find_readable(pool);
    if (code == 0) {
        code = for_each_run(pool, copy_run);
        if (pool->heritage.readable != (void *)pool->space.base) {
            bp_kernel_munmap(pool->heritage.readable, pool->space.capacity);
        }
    }
    if (code < 0 && pool->heritage.fd >= 0) {
        bp_kernel_close(pool->heritage.fd);
        pool->heritage.fd = -1;
    }
    return code == -ENOSPC ? -ENOMEM : code;
}

void bp_inherit_prepare(bufpool_pool *pool)
{
    struct bp_space *space = &pool->space;
    struct bp_heritage *heritage = &pool->heritage;
    if (space->key > 0) { /* a copy is made by this thread, which has made no call on the pool */
        bp_keys_follow(pool);
    }
    switch (way_of(space)) {
    case COPIED_ON_WRITE:
        heritage->step = BP_HERITAGE_LIFT;
        heritage->code = space->adopted ? 0 : bp_kernel_madvise((void *)space->base, space->capacity, MADV_DOFORK);
        break;
    case COPIED:
        heritage->step = BP_HERITAGE_COPY;
        heritage->code = copy(pool);
        break;
    case SHARED:
        space->forked = true;
        break;
    case ALONE:
        heritage->step = BP_HERITAGE_ALONE;
        return;
    case HIDDEN: /* a frame that a fork has shared cannot be moved, neither here nor there */
        heritage->step = BP_HERITAGE_HIDDEN;
        return;
    }
    if (heritage->code == 0) {
        heritage->step = BP_HERITAGE_READY;
    }
}

void bp_inherit_parent(bufpool_pool *pool)
{
    if (pool->heritage.fd >= 0) {
        bp_kernel_close(pool->heritage.fd);
    } else if (way_of(&pool->space) == COPIED_ON_WRITE && !pool->space.adopted) { /* or closed meanwhile */
        bp_kernel_madvise((void *)pool->space.base, pool->space.capacity, MADV_DONTFORK);
    }
}

/* ---- In the child ---- */

/* Takes the range, inaccessible, if nobody else has taken it. */
static int take_place(const struct bp_space *space)
{
    void *place;
    int code = bp_kernel_mmap((void *)space->base, space->capacity, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, &place);
    if (code == 0 && (uintptr_t)place != space->base) { /* before Linux 4.17 the flag is not known */
        bp_kernel_munmap(place, space->capacity);
        code = -EEXIST;
    }
    if (code == 0) {
        bp_kernel_madvise(place, space->capacity, MADV_DONTDUMP);
        bp_kernel_madvise(place, space->capacity, MADV_DONTFORK);
    }
    return code;
}

void bp_inherit_place(bufpool_pool *pool)
{
    struct bp_heritage *heritage = &pool->heritage;
    bool ready = heritage->step == BP_HERITAGE_READY;
    bool there = pool->space.adopted || (ready && way_of(&pool->space) == COPIED_ON_WRITE);
    if (heritage->step == BP_HERITAGE_NONE || atomic_load(&pool->closed) || there) {
        return;
    }
    int code = take_place(&pool->space);
    heritage->sealed = code == 0;
    if (code < 0 && ready) {
        heritage->step = BP_HERITAGE_MAP;
        heritage->code = code;
    }
}

static int keep_private(bufpool_pool *pool)
{
    struct bp_space *space = &pool->space;
    pool->heritage.step = BP_HERITAGE_ARM;
    int code = space->trap->inherit == NULL ? 0 : space->trap->inherit(space);
    if (code == 0 && space->adopted) {
        return 0;
    }
    if (code == 0) {
        code = bp_kernel_madvise((void *)space->base, space->capacity, MADV_DONTFORK);
    }
    if (code == 0 && space->flags & BUFPOOL_LOCK && bp_kernel_lock((void *)space->base, space->capacity) < 0) {
        bp_space_note(space, "not locked in memory in this forked child");
    }
    if (code == 0) {
        bp_space_stage_again(space);
    }
    return code;
}

static int open_run(bufpool_pool *pool, uintptr_t address, size_t length)
{
    return pool->space.trap->open_range(&pool->space, address, length);
}

/* Of a userfaultfd's: private pages have lost their protection, those of a file are hidden. */
static int close_run(bufpool_pool *pool, uintptr_t address, size_t length)
{
    return bp_space_protect(&pool->space, address, length, pool->space.memory->file ? BP_OPEN_NONE : BP_OPEN_WRITE,
                            BP_OPEN_READ);
}

static int pin_pages(bufpool_pool *pool)
{
    if (pool->space.key > 0) {
        bp_keys_inherit(pool);
    }
    int code = pool->space.uffd >= 0 && pool->space.unpinned == BP_OPEN_READ ? for_each_run(pool, close_run) : 0;
    return code == 0 ? bp_pins_inherit(pool) : code;
}

/* Maps the file over the range, with nothing accessible but what was. */
static int map_file(bufpool_pool *pool)
{
    pool->heritage.step = BP_HERITAGE_MAP;
    return bp_space_map_again(&pool->space);
}

static int map_copy(bufpool_pool *pool)
{
    struct bp_space *space = &pool->space;
    bp_kernel_close_kept(space->fd);
    space->fd = pool->heritage.fd;
    pool->heritage.fd = -1;
    pool->heritage.step = BP_HERITAGE_CHANGED;
    if (pool->heritage.changes != changes(pool)) {
        return -ESTALE;
    }
    int code = map_file(pool);
    return code == 0 && space->trap->open_range != NULL ? for_each_run(pool, open_run) : code;
}

/* Of the parent's description the locks would be one with the parent's: the child takes one of its own, and a number. */
static int join(bufpool_pool *pool)
{
    struct bp_pages *pages = &pool->pages;
    if (pool->space.uffd >= 0) { /* the parent's; first, since the limit of descriptors may be reached */
        bp_kernel_close_kept(pool->space.uffd);
        pool->space.uffd = -1;
    }
    int fd = bp_kernel_reopen(pages->fd);
    bp_kernel_close_kept(pages->fd);
    pages->fd = fd;
    atomic_store(&pages->repairing, false);
    int code = fd < 0 ? fd : bp_roster_join(pages);
    pool->provenance.member = BP_MEMBER_OF(pages->busy);
    return code;
}

static int map_shared(bufpool_pool *pool)
{
    pool->space.ours = false; /* to close the pool here is not to drop what is the parent's */
    pool->space.created = false;
    pool->heritage.step = BP_HERITAGE_JOIN;
    int code = join(pool);
    return code == 0 ? map_file(pool) : code;
}

bool bp_inherit_child(bufpool_pool *pool)
{
    enum way way = way_of(&pool->space);
    bp_staging_forget(&pool->space.staging); /* not mapped here */
    pool->heritage.code = way == COPIED_ON_WRITE ? keep_private(pool)
                          : way == COPIED        ? map_copy(pool)
                                                 : map_shared(pool);
    if (pool->heritage.code == 0) {
        pool->heritage.code = pin_pages(pool);
    }
    bp_audit_inherit(pool);
    return pool->heritage.code == 0;
}

static void give_up(int *fd)
{
    if (*fd >= 0) {
        bp_kernel_close_kept(*fd);
        *fd = -1;
    }
}

void bp_inherit_refuse(bufpool_pool *pool)
{
    struct bp_space *space = &pool->space;
    struct bp_heritage *heritage = &pool->heritage;
    heritage->gone = true;
    give_up(&heritage->fd);
    if (atomic_load(&pool->closed)) {
        return; /* no descriptors any more, or another thread of the parent is closing them */
    }
    if (bp_thread.inside > 0) { /* perhaps of this pool: the fork interrupted a call, which goes on here */
        if (pool->pages.header != NULL) {
            bp_provenance_part(&pool->provenance, pool->pages.fd, pool->pages.mapped);
        }
        bp_pages_part(&pool->pages);
    }
    bool lifted =
        !space->adopted && space->fd < 0 && (heritage->step == BP_HERITAGE_ARM || heritage->step == BP_HERITAGE_READY);
    if (lifted || heritage->sealed) {
        bp_space_seal(space);
        heritage->sealed = true;
    }
    if (space->adopted) {
        bp_adopted_refuse(space, pool->inherit);
        heritage->sealed = pool->inherit;
    }
    bp_space_unstage(space);
    give_up(&space->uffd);
    give_up(&space->fd);
    give_up(&space->gauge);
    bp_headroom_close(&space->headroom);
    give_up(&pool->pages.fd);
}

const char *bp_heritage_reason(const bufpool_pool *pool)
{
    static const char *const reasons[] = {
        [BP_HERITAGE_NONE] = "it came past the fork handlers, as by _Fork or clone",
        [BP_HERITAGE_READY] = "the fork was not finished",
        [BP_HERITAGE_BUSY] = "a call on it did not end in time, or the fork interrupted one",
        [BP_HERITAGE_LATE] = "a fork handler opened it when the fork had been prepared",
        [BP_HERITAGE_SCRATCH] = "a granule that shows the scratch pattern could not be armed again",
        [BP_HERITAGE_LIFT] = "its addresses could not be shared with the child",
        [BP_HERITAGE_COPY] = "its pages could not be copied for the child",
        [BP_HERITAGE_ALONE] = "its trap closes pages in one process only, and its memory is shared",
        [BP_HERITAGE_HIDDEN] = "huge pages of memory thp that pins \"all\" closes cannot be shared with a child",
        [BP_HERITAGE_CHANGED] = "a fork handler changed it after its pages were copied",
        [BP_HERITAGE_JOIN] = "it could not be entered among those who have the pool",
        [BP_HERITAGE_MAP] = "it could not be mapped in the child",
        [BP_HERITAGE_ARM] = "its trap could not be armed in the child",
    };
    return pool->inherit ? reasons[pool->heritage.step] : "it was opened with fork \"exclude\"";
}
