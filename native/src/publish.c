/*
 * publish.c: frames that the program fills, or gets: stage, publish, withdraw, unstage, replace.
 *
 * As everywhere, all arguments of a batch are checked and claimed first, and it is refused whole if one does not fit. Then
 * runs of neighbours, whose frames are neighbours, too, are carried with one request each (carry.c). If the kernel fails
 * midway, the pages before are done, and say so; the others, and their frames, are as they were.
 */
#include "carry.h"
#include "claim.h"
#include "error.h"
#include "fill.h"
#include "numbers.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct batch {
    struct bp_numbers pages;
    struct bp_numbers frames;
    size_t count;
};

static int check_array(size_t count, const void *array, const char *name, const char *of)
{
    return count > 0 && array == NULL ? bp_error(BUFPOOL_EARGUMENT, "%s is NULL: pass %zu %s", name, count, of) : 0;
}

static int not_staged(const bufpool_pool *pool, uint64_t frame, size_t i, int code)
{
    if (code == -EBUSY) {
        return bp_error(
            BUFPOOL_EARGUMENT,
            "frames[%zu], %#llx, comes twice in this batch, or another thread is publishing or unstaging it", i,
            (unsigned long long)frame);
    }
    return bp_error(BUFPOOL_EARGUMENT,
                    "frames[%zu], %#llx, is no staged frame of pool \"%s\"%s: pass what bufpool_stage() or "
                    "bufpool_withdraw() gave, once",
                    i, (unsigned long long)frame, pool->name,
                    pool->opener != 0 ? " in this process (a forked child has not got its parent's)" : "");
}

static int claim_frames(bufpool_pool *pool, const uint64_t *frames, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int code = bp_staging_claim(&pool->space, frames[i]);
        if (code < 0) {
            bp_staging_hand_out(&pool->space, frames, i, true);
            return not_staged(pool, frames[i], i, code);
        }
    }
    return 0;
}

/* How many pages from i on are one run: neighbours in the pool and in the staging area. */
static size_t run(const bufpool_pool *pool, const struct batch *batch, size_t i)
{
    size_t end = i + 1;
    while (pool->lead == 0 && end < batch->count && batch->pages.at[end] == batch->pages.at[end - 1] + 1 &&
           batch->frames.at[end] == batch->frames.at[end - 1] + pool->page_size) {
        end++;
    }
    return end - i;
}

/* Says why the kernel has refused so many pages. */
static int name_reason(const bufpool_pool *pool, int code, size_t count)
{
    static const struct bp_source none;
    return code == -ENODATA ? bp_error(code,
                                       "the frame of a page of pool \"%s\" could be taken only in part, and not be put "
                                       "back: what was in that part is lost",
                                       pool->name)
                            : bp_fill_error(pool, code, &none, count);
}

/* Says that the kernel has stopped a batch, and where. */
static int stopped(const bufpool_pool *pool, int code, size_t done, const struct batch *batch, const char *what)
{
    char why[512];
    code = code == -EFAULT && !bp_pool_is_closed(pool) && strcmp(what, "publish") == 0
               ? bp_error(code, "frame %#llx of pool \"%s\" has no memory: was it unmapped, or dropped by madvise?",
                          (unsigned long long)batch->frames.at[done], pool->name)
               : name_reason(pool, code, batch->count - done);
    snprintf(why, sizeof why, "%s", bp_error_text());
    bp_error(code, "cannot %s page %llu: %s; %zu of %zu pages of this call are done", what,
             (unsigned long long)batch->pages.at[done], why, done, batch->count);
    bp_error_set_done(done);
    return code;
}

static int open_batch(struct batch *batch, size_t count, const uint64_t *pages, void *const *frames)
{
    batch->count = count;
    int code = bp_numbers_copy(&batch->pages, count, pages);
    if (code < 0) {
        return code;
    }
    code = bp_numbers_open(&batch->frames, count);
    if (code < 0) {
        bp_numbers_close(&batch->pages);
        return code;
    }
    for (size_t i = 0; frames != NULL && i < count; i++) {
        batch->frames.at[i] = (uintptr_t)frames[i];
    }
    return 0;
}

static void close_batch(struct batch *batch)
{
    bp_numbers_close(&batch->pages);
    bp_numbers_close(&batch->frames);
}

/* ---- stage and unstage ---- */

static int cannot_stage(const bufpool_pool *pool, int code, size_t count)
{
    if (code == -EAGAIN) {
        return bp_error(
            code,
            "cannot stage %zu frames for pool \"%s\": another thread has begun to map more of them, and has not "
            "come to an end for a second (is it stopped?)",
            count, pool->name);
    }
    return bp_error(code == -ENOMEM ? BUFPOOL_EEXHAUSTED : code,
                    "cannot stage %zu frames of %llu bytes for pool \"%s\": %s (memory, or RLIMIT_AS, ulimit -v)",
                    count, (unsigned long long)pool->page_size, pool->name, strerror(-code));
}

static int stage(bufpool_pool *pool, size_t count, uint64_t *frames)
{
    bool fits = count <= PTRDIFF_MAX / pool->page_size;
    int code = fits ? bp_headroom_take(&pool->space.headroom, count * pool->page_size) : 0;
    if (code < 0) {
        return bp_fill_error(pool, code, NULL, count);
    }
    code = fits ? bp_staging_take(&pool->space, pool->page_size, count, frames) : -ENOMEM;
    if (code == 0) {
        code = bp_staging_fill(&pool->space, frames, count);
        if (code < 0) {
            bp_staging_drop(&pool->space, frames, count, false, false);
        }
    }
    if (fits) {
        bp_headroom_settle(&pool->space.headroom, count * pool->page_size);
    }
    if (code < 0) {
        return cannot_stage(pool, code, count);
    }
    bp_staging_hand_out(&pool->space, frames, count, false);
    return 0;
}

int bufpool_stage(bufpool_pool *pool, size_t count, void **frames)
{
    int code = check_array(count, frames, "frames", "pointers' room");
    struct bp_numbers numbers;
    code = code < 0 ? code : bp_numbers_open(&numbers, count);
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code == 0) {
        code = stage(pool, count, numbers.at);
        bp_pool_leave(pool);
    }
    for (size_t i = 0; code == 0 && i < count; i++) {
        frames[i] = (void *)(uintptr_t)numbers.at[i];
    }
    bp_numbers_close(&numbers);
    return code;
}

int bufpool_unstage(bufpool_pool *pool, size_t count, void **frames)
{
    struct bp_numbers numbers;
    int code = check_array(count, frames, "frames", "staged frames");
    code = code < 0 ? code : bp_numbers_open(&numbers, count);
    if (code < 0) {
        return code;
    }
    for (size_t i = 0; i < count; i++) {
        numbers.at[i] = (uintptr_t)frames[i];
    }
    code = bp_pool_enter(pool);
    if (code == 0) {
        code = claim_frames(pool, numbers.at, count);
        if (code == 0) {
            bp_staging_drop(&pool->space, numbers.at, count, true, false);
        }
        bp_pool_leave(pool);
    }
    bp_numbers_close(&numbers);
    return code;
}

/* ---- publish ---- */

/* Carries run after run and settles each. *done: pages, from the front. */
static int publish_runs(bufpool_pool *pool, struct batch *batch, size_t *done, const void *caller)
{
    for (*done = 0; *done < batch->count;) {
        const uint64_t *pages = batch->pages.at + *done;
        const uint64_t *frames = batch->frames.at + *done;
        size_t count = run(pool, batch, *done);
        size_t filled;
        bool moved;
        int code =
            bp_carry_in(pool, bp_page_address(pool, pages[0]), frames[0], count * pool->page_size, &filled, &moved);
        if (code < 0) {
            bp_fill_undo(pool, pages, count, filled, caller);
            return code;
        }
        bp_fill_settle(pool, pages, count, caller);
        bp_staging_drop(&pool->space, frames, count, true, moved);
        *done += count;
    }
    return 0;
}

static int publish(bufpool_pool *pool, struct batch *batch, const void *caller)
{
    int code = claim_frames(pool, batch->frames.at, batch->count);
    for (size_t i = 0; code == 0 && i < batch->count; i++) {
        code = bp_claim_hole(pool, batch->pages.at[i], BP_HOLE_FREE | BP_HOLE_EVICTED, "publish");
        if (code < 0) {
            bp_claim_drop_holes(pool, batch->pages.at, i);
            bp_staging_hand_out(&pool->space, batch->frames.at, batch->count, true);
        }
    }
    if (code < 0) {
        return code;
    }
    size_t done;
    code = publish_runs(pool, batch, &done, caller);
    bp_claim_drop_holes(pool, batch->pages.at + done, batch->count - done);
    bp_staging_hand_out(&pool->space, batch->frames.at + done, batch->count - done, true);
    return code < 0 ? stopped(pool, code, done, batch, "publish") : 0;
}

int bufpool_publish(bufpool_pool *pool, size_t count, void **frames, const uint64_t *pages)
{
    struct batch batch;
    int code = check_array(count, frames, "frames", "staged frames");
    code = code < 0 ? code : open_batch(&batch, count, pages, frames);
    if (code < 0) {
        return code;
    }
    code = bp_pool_enter(pool);
    if (code == 0) {
        code = publish(pool, &batch, BP_CALLER());
        bp_pool_leave(pool);
    }
    close_batch(&batch);
    return code;
}

/* ---- withdraw ---- */

static int withdraw_runs(bufpool_pool *pool, struct batch *batch, size_t *done)
{
    for (*done = 0; *done < batch->count;) {
        const uint64_t *pages = batch->pages.at + *done;
        const uint64_t *frames = batch->frames.at + *done;
        size_t count = run(pool, batch, *done);
        bool moved;
        int code = bp_carry_out(pool, bp_page_address(pool, pages[0]), frames[0], count * pool->page_size, &moved);
        if (code < 0) {
            return code;
        }
        bp_claim_settle_taken(pool, pages, count, true);
        bp_staging_hand_out(&pool->space, frames, count, false);
        *done += count;
    }
    return 0;
}

static int withdraw(bufpool_pool *pool, struct batch *batch, size_t *done, const void *caller)
{
    *done = 0;
    for (size_t i = 0; i < batch->count; i++) {
        int code = bp_claim_frame(pool, batch->pages.at[i], BP_EVICTING, "withdraw");
        if (code < 0) {
            bp_claim_drop_frames(pool, batch->pages.at, i);
            return code;
        }
    }
    int code = bp_staging_take(&pool->space, pool->page_size, batch->count, batch->frames.at);
    if (code < 0) {
        bp_claim_drop_frames(pool, batch->pages.at, batch->count);
        return cannot_stage(pool, code, batch->count);
    }
    bp_record(&pool->provenance, batch->pages.at, batch->count, BUFPOOL_EVENT_EVICT, caller);
    code = withdraw_runs(pool, batch, done);
    size_t left = batch->count - *done;
    bp_record_failed(&pool->provenance, batch->pages.at + *done, left);
    bp_claim_drop_frames(pool, batch->pages.at + *done, left);
    bp_staging_drop(&pool->space, batch->frames.at + *done, left, false, pool->space.staging.moves);
    return code < 0 ? stopped(pool, code, *done, batch, "withdraw") : 0;
}

int bufpool_withdraw(bufpool_pool *pool, size_t count, const uint64_t *pages, void **frames)
{
    struct batch batch;
    int code = check_array(count, frames, "frames", "pointers' room");
    code = code < 0 ? code : open_batch(&batch, count, pages, NULL);
    if (code < 0) {
        return code;
    }
    size_t done = 0;
    code = bp_pool_enter(pool);
    if (code == 0) {
        code = withdraw(pool, &batch, &done, BP_CALLER());
        bp_pool_leave(pool);
    }
    for (size_t i = 0; i < done; i++) {
        frames[i] = (void *)(uintptr_t)batch.frames.at[i];
    }
    close_batch(&batch);
    return code;
}

/* ---- replace ---- */

static int replace(bufpool_pool *pool, uint64_t victim, uint64_t page, const void *caller)
{
    int code = bp_claim_frame(pool, victim, BP_EVICTING, "replace");
    if (code < 0) {
        return code;
    }
    code = bp_claim_hole(pool, page, BP_HOLE_FREE | BP_HOLE_EVICTED, "replace another page by");
    if (code < 0) {
        bp_claim_drop_frames(pool, &victim, 1);
        return code;
    }
    bp_record(&pool->provenance, &victim, 1, BUFPOOL_EVENT_EVICT, caller);
    size_t filled;
    bool moved;
    code = bp_carry_across(pool, bp_page_address(pool, victim), bp_page_address(pool, page), &filled, &moved);
    if (code < 0) {
        bp_fill_undo(pool, &page, 1, filled, caller);
        bp_claim_drop_holes(pool, &page, 1);
        bp_record_failed(&pool->provenance, &victim, 1);
        bp_claim_drop_frames(pool, &victim, 1);
        char why[512];
        code = name_reason(pool, code, 1);
        snprintf(why, sizeof why, "%s", bp_error_text());
        return bp_error(code, "cannot replace page %llu by page %llu: %s%s", (unsigned long long)victim,
                        (unsigned long long)page, why, code == -ENODATA ? "" : "; both are as they were");
    }
    bp_claim_settle_taken(pool, &victim, 1, true);
    bp_fill_settle(pool, &page, 1, caller);
    return 0;
}

int bufpool_replace(bufpool_pool *pool, uint64_t victim, uint64_t page)
{
    int code = bp_pool_enter(pool);
    if (code == 0) {
        code = replace(pool, victim, page, BP_CALLER());
        bp_pool_leave(pool);
    }
    return code;
}
