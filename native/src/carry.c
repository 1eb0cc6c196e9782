/* carry.c: moving or copying content in and out of pages, see carry.h. */
#include "carry.h"

#include "fillers.h"
#include "keys.h"
#include "moving.h"
#include "probe.h"
#include "trap_adopted.h"
#include "trap_uffd.h"

#include <errno.h>
#include <string.h>

#define PATIENCE 100000 /* times 100 us: threads of ours that are amid a page may have lost the processor */

/* ---- Moving ---- */

/* Small pages in place of a huge one leave a page table behind, which would keep every later frame there small: they are
 * copied, and their place is mapped anew (thp.c). */
static bool is_whole(const struct bp_space *space, uintptr_t from, size_t length)
{
    for (size_t at = 0; space->memory->thp && at < length; at += space->granule) {
        if (bp_kernel_is_huge(space->thp.pagemap, from + at, space->granule) != 1) {
            return false;
        }
    }
    return true;
}

static int move(struct bp_space *space, uintptr_t to, uintptr_t from, size_t length)
{
    bool usual = !space->stepwise && !atomic_load_explicit(&space->torn, memory_order_relaxed) &&
                 atomic_load_explicit(&space->poisoned, memory_order_relaxed) == 0;
    if (!usual || !is_whole(space, from, length)) {
        return -EINVAL;
    }
    struct bp_moving how = {.uffd = space->uffd, .step = space->memory->thp ? space->granule : length, .patience = 20};
    int code = bp_move_whole(&how, to, from, length);
    if (code < 0) {
        bp_way_lost(&space->ways, code);
    }
    return code;
}

/* ---- Copying out of a page ---- */

/* Readable, and for nobody in this process writable. */
static int close_to_writes(struct bp_space *space, uintptr_t page, size_t length)
{
    if (space->unpinned == BP_OPEN_WRITE) {
        return bp_space_mprotect(page, length, BP_OPEN_READ);
    }
    return space->unpinned == BP_OPEN_NONE ? bp_space_protect(space, page, length, BP_OPEN_NONE, BP_OPEN_READ) : 0;
}

/* As it was. */
static void open_again(struct bp_space *space, uintptr_t page, size_t length)
{
    if (space->unpinned == BP_OPEN_WRITE) {
        /* It gives mappings back, unless other threads have closed the neighbours on both sides: then, where mappings are
         * short, it takes one, until one of them has opened its page, which takes none. */
        for (int patience = 0; bp_space_mprotect(page, length, BP_OPEN_WRITE) == -ENOMEM && patience < PATIENCE;
             patience++) {
            bp_kernel_sleep_ns(100000);
        }
    } else if (space->unpinned == BP_OPEN_NONE) {
        bp_space_protect(space, page, length, BP_OPEN_READ, BP_OPEN_NONE);
    }
}

/* Is what is open there gone, of which this is the content? Of zeros nothing can be gone that does not trap. */
static bool lacks(const struct bp_space *space, uintptr_t granule, const char *copy)
{
    for (size_t at = 0; at < space->granule; at += BP_GRANULE) {
        char now[BP_GRANULE];
        if (!bp_probe_copy(now, (const void *)(granule + at), sizeof now)) {
            return true;
        }
        if (memcmp(now, copy + at, sizeof now) != 0) {
            return memcmp(now, bp_fill_zeros, sizeof now) == 0;
        }
        if (memcmp(now, bp_fill_zeros, sizeof now) != 0) {
            return false;
        }
    }
    return false;
}

static bool is_gone(struct bp_space *space, uintptr_t granule, const char *copy)
{
    if (space->unpinned != BP_OPEN_NONE) {
        return lacks(space, granule, copy);
    }
    bool gone = bp_space_protect(space, granule, space->granule, BP_OPEN_NONE, BP_OPEN_READ) < 0;
    if (!gone) {
        gone = lacks(space, granule, copy);
        bp_space_protect(space, granule, space->granule, BP_OPEN_READ, BP_OPEN_NONE);
    }
    return gone;
}

static int put_back_one(struct bp_space *space, uintptr_t granule, const char *copy)
{
    if (atomic_load(&space->orphaned)) { /* and adopted, so that the program has it again, and goes on */
        return space->adopted && bp_probe_copy((void *)granule, copy, space->granule) ? 0 : -EBADF;
    }
    size_t done;
    int code = bp_space_populate(space, granule, space->granule, copy, &done);
    for (int patience = 100; code < 0 && patience > 0; patience--) {
        bp_kernel_sleep_ns(100000);
        code = bp_space_populate(space, granule, space->granule, copy, &done);
    }
    return code;
}

/* The kernel has refused to take the frames, perhaps when some were gone (where the program has split the mapping): what is
 * gone comes from the copy, which may be a page. */
static int put_back(bufpool_pool *pool, uintptr_t page, size_t length, uintptr_t copy, int refused)
{
    struct bp_space *space = &pool->space;
    int code = refused;
    if (space->unpinned == BP_OPEN_NONE && copy - space->base < space->capacity) {
        bp_space_protect(space, copy, length, BP_OPEN_NONE, BP_OPEN_READ);
    }
    if (space->key > 0) {
        bp_keys_lend(pool);
    }
    for (size_t at = 0; at < length; at += space->granule) {
        const char *content = (const char *)(copy + at);
        if (is_gone(space, page + at, content) && put_back_one(space, page + at, content) < 0) {
            code = -ENODATA;
        }
    }
    if (space->key > 0) {
        bp_keys_follow(pool);
    }
    return code;
}

/* A page closed to writes, whose content has been copied: takes its frame away. -ENODATA: a part of it, which cannot be put
 * back. */
static int take_frame(bufpool_pool *pool, uintptr_t page, size_t length, uintptr_t copy)
{
    struct bp_space *space = &pool->space;
    struct bp_range range = {page, length};
    size_t done;
    if (space->unpinned == BP_OPEN_NONE) {
        open_again(space, page, length);
    }
    int code = bp_space_zap(space, &range, 1, &done);
    /* Traps by protection keep holes inaccessible, and have opened what they could not take. */
    bool shut = space->trap == &bp_trap_mprotect || space->trap == &bp_trap_adopted_mprotect;
    bool armed = space->uffd >= 0 && !atomic_load(&space->orphaned);
    if (code < 0 && armed) { /* while it is closed to writes */
        code = put_back(pool, page, length, copy, code);
    }
    if (space->unpinned == BP_OPEN_WRITE && (code < 0 || !shut)) {
        open_again(space, page, length);
    }
    if (code < 0 && !armed) {
        code = put_back(pool, page, length, copy, code);
    }
    return code;
}

/* The kernel may unmap a file's page to reclaim memory where hidden pages trap: then it is shown again. */
static bool copy_shown(struct bp_space *space, char *frame, uintptr_t page, size_t length)
{
    int shown = 0;
    for (size_t at = 0; at < length;) {
        size_t step = space->granule - at % space->granule;
        if (bp_probe_copy(frame + at, (const void *)(page + at), step < length - at ? step : length - at)) {
            at += step;
            shown = 0;
        } else if (!bp_space_forgets(space) || ++shown > 100 ||
                   bp_space_protect(space, page + at, step, BP_OPEN_NONE, BP_OPEN_READ) < 0) {
            return false;
        }
    }
    return true;
}

/* Into a slot without memory that the userfaultfd has. */
static int copy_to_hole(struct bp_space *space, uintptr_t frame, uintptr_t page, size_t length)
{
    int code = 0;
    for (size_t at = 0; at < length && code == 0;) {
        const void *data = (const void *)(page + at);
        size_t filled = 0;
        if (space->memory->thp) {
            code = bp_thp_populate(space, frame + at, data);
            filled = code == 0 ? space->granule : 0;
        }
        if (!space->memory->thp || code == -ENOENT) {
            code = bp_uffd_copy_in(space, frame + at, space->memory->thp ? space->granule : length, data, &filled);
        }
        at += filled;
    }
    if (code < 0) {
        bp_kernel_discard((void *)frame, length);
    }
    return code;
}

static int copy_out(bufpool_pool *pool, uintptr_t page, uintptr_t frame, size_t length)
{
    struct bp_space *space = &pool->space;
    int code = close_to_writes(space, page, length);
    if (code < 0) {
        return code;
    }
    if (space->staging.moves) {
        code = copy_to_hole(space, frame, page, length);
    } else {
        if (space->key > 0) {
            bp_keys_lend(pool);
        }
        code = copy_shown(space, (char *)frame, page, length) ? 0 : -EFAULT;
        if (space->key > 0) {
            bp_keys_follow(pool);
        }
    }
    if (code < 0) {
        open_again(space, page, length);
        return code;
    }
    code = take_frame(pool, page, length, frame);
    if (code < 0 && space->staging.moves) {
        bp_kernel_discard((void *)frame, length);
    }
    return code;
}

/* ---- The three ---- */

static void count(bufpool_pool *pool, bool moved, size_t length)
{
    struct bp_space *space = &pool->space;
    atomic_fetch_add_explicit(moved ? &space->staging.moved : &space->staging.copied, length / pool->page_size,
                              memory_order_relaxed);
    bp_way_took(&space->ways, moved ? BUFPOOL_WAY_FRAME_MOVE : BUFPOOL_WAY_FRAME_COPY, length / space->granule);
}

int bp_carry_in(bufpool_pool *pool, uintptr_t page, uintptr_t frame, size_t length, size_t *done, bool *moved)
{
    struct bp_space *space = &pool->space;
    *done = 0;
    *moved = space->staging.moves && move(space, bp_vault_home(space, page), frame, length) == 0;
    int code = *moved ? 0 : bp_space_populate(space, page, length, (const void *)frame, done);
    if (code == 0) {
        count(pool, *moved, length);
    } else if (space->staging.moves) {
        *done = length; /* more may be there, which a move could neither finish nor undo */
    }
    return code;
}

int bp_carry_out(bufpool_pool *pool, uintptr_t page, uintptr_t frame, size_t length, bool *moved)
{
    struct bp_space *space = &pool->space;
    *moved = space->staging.moves && move(space, frame, bp_vault_home(space, page), length) == 0;
    int code = *moved ? 0 : copy_out(pool, page, frame, length);
    if (code == 0) {
        count(pool, *moved, length);
    }
    return code;
}

/* By way of the page itself, so that the victim has its content until the page has it, too. */
static int copy_across(bufpool_pool *pool, uintptr_t victim, uintptr_t page, size_t *done)
{
    struct bp_space *space = &pool->space;
    int code = close_to_writes(space, victim, pool->page_size);
    if (code < 0) {
        return code;
    }
    if (space->key > 0) {
        bp_keys_lend(pool);
    }
    code = bp_space_populate(space, page, pool->page_size, (const void *)victim, done);
    if (space->key > 0) {
        bp_keys_follow(pool);
    }
    if (code < 0) {
        open_again(space, victim, pool->page_size);
    } else {
        code = take_frame(pool, victim, pool->page_size, page);
    }
    return code;
}

int bp_carry_across(bufpool_pool *pool, uintptr_t victim, uintptr_t page, size_t *done, bool *moved)
{
    struct bp_space *space = &pool->space;
    *done = 0;
    *moved = bp_staging_can_move(space) &&
             move(space, bp_vault_home(space, page), bp_vault_home(space, victim), pool->page_size) == 0;
    int code = *moved ? 0 : copy_across(pool, victim, page, done);
    if (code == 0) {
        count(pool, *moved, pool->page_size);
    } else {
        *done = pool->page_size; /* it may be shown, or be there as above */
    }
    return code;
}
