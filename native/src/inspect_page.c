/* inspect_page.c: is a page what its state says? See inspect.h. */
#include "inspect.h"

#include "recover.h"
#include "rest.h"
#include "roster.h"

#include <errno.h>

#define BIT(what) (1u << (what))

/* Is the page, which somebody has BUSY, left so by a process that is gone? */
static bool is_abandoned(bufpool_pool *pool, uint64_t page)
{
    struct bp_pages *pages = &pool->pages;
    uint16_t word = bp_pages_load(pages, page);
    uint32_t member = BP_MEMBER_OF(word);
    if (member == 0 || BP_BUSY_OF(member) == pages->busy) {
        return false;
    }
    if (pages->members == NULL) {
        return true;
    }
    bool gone =
        bp_roster_has(pages, member) ? bp_roster_take_over(pages, member) : bp_roster_hold_vacant(pages, member);
    if (gone) {
        gone = BP_MEMBER_OF(bp_pages_load(pages, page)) == member;
        bp_roster_put_down(pages, member);
    }
    return gone;
}

/* Does anybody who lives show the scratch pattern there? */
static bool is_held(bufpool_pool *pool, uint64_t page)
{
    struct bp_pages *pages = &pool->pages;
    for (int i = 0; i < BP_SCRATCH_SLOTS; i++) {
        uint64_t seen = atomic_load(&pool->scratch[i].page);
        if (seen == 1 || (seen == page + 2 && !atomic_load(&pool->scratch[i].pasted))) {
            return true; /* 1: it is just being changed, which page ever that is */
        }
    }
    for (uint32_t member = 0; pages->members != NULL;) {
        member = bp_roster_next_shower(pages, member + 1, page);
        if (member == 0) {
            return false;
        }
        if (BP_BUSY_OF(member) == pages->busy) {
            continue; /* this process shows it no more */
        }
        if (!bp_roster_take_over(pages, member)) {
            return true;
        }
        bp_roster_put_down(pages, member);
    }
    return false;
}

/* Pages that are allocated and get their frames with the first touch, if any: see the traps. */
static bool fills_late(const struct bp_space *space)
{
    return !space->memory->hugetlb &&
           (!space->trap->traps || (space->trap->needs_file && space->flags & BUFPOOL_LAZY_ZERO));
}

/* How much of the page has frames: bytes, or -errno. */
static int64_t frames_of(struct bp_look *look, uint64_t page)
{
    uint64_t begin = bp_page_offset(look->pool, page);
    uint64_t end = begin + look->pool->page_size;
    uint64_t start;
    uint64_t stop;
    int64_t covered = 0;
    for (uint64_t at = begin; at < end; at = stop) {
        int code = bp_frames_next(&look->frames, at, end, &start, &stop);
        if (code < 0) {
            return code == -ENXIO ? covered : code;
        }
        covered += (int64_t)(stop - start);
    }
    return covered;
}

static bool is_nonsense(uint16_t word)
{
    uint16_t state = word & BP_STATE_MASK;
    return (word & (BP_FREEING | BP_EVICTING)) != 0 || state > BUFPOOL_STATE_EVICTED ||
           (word & BP_SCRATCH && state == BUFPOOL_STATE_ALLOCATED);
}

/* What is wrong with a page of this word, not BUSY, that has some frames, or all. */
static unsigned examine(struct bp_look *look, uint64_t page, uint16_t word, bool some, bool all)
{
    const struct bp_pages *pages = &look->pool->pages;
    bool scratch = word & BP_SCRATCH;
    unsigned wrong = 0;
    bool lags = bp_lag_is(&look->pool->lag, word);
    if (!lags && is_nonsense(word)) {
        wrong |= BIT(BUFPOOL_WRONG_STATE);
    } else if (scratch && !is_held(look->pool, page)) {
        wrong |= BIT(BUFPOOL_WRONG_SCRATCH);
    }
    if ((word & BP_STATE_MASK) == BUFPOOL_STATE_ALLOCATED || lags) {
        wrong |= all || fills_late(&look->pool->space) ? 0 : BIT(BUFPOOL_WRONG_LOST_FRAME);
    } else if (some && !(scratch && bp_frames_see_scratch(&look->frames))) {
        wrong |= BIT(BUFPOOL_WRONG_STRAY_FRAME);
    }
    bool taken = atomic_load(&pages->levels[0][page / 64]) >> (page % 64) & 1;
    if (taken && bp_state_is_free(word) && pages->rest.length > 0) {
        return wrong; /* it rests, or its rest is just being ended */
    }
    return wrong | (taken == bp_state_is_free(word) ? BIT(BUFPOOL_WRONG_INDEX) : 0);
}

/* The same, of what there is now. Its frames cannot be looked at: nothing, and *known is false. */
static unsigned examine_now(struct bp_look *look, uint64_t page, uint16_t word, bool *known)
{
    int64_t covered = frames_of(look, page);
    *known = covered >= 0;
    return *known ? examine(look, page, word, covered > 0, (uint64_t)covered == look->pool->page_size) : 0;
}

/* A free page is taken for the look, so that nobody fills and empties it meanwhile. false: it is another state by now, or
 * its frames cannot be looked at. */
static bool examine_free(struct bp_look *look, uint64_t page, uint16_t word, unsigned *wrong)
{
    if (!bp_pages_claim(&look->pool->pages, page, word, 0)) {
        return false;
    }
    bool known;
    *wrong = examine_now(look, page, word, &known);
    bp_pages_settle(&look->pool->pages, page, word);
    bp_rest_end(&look->pool->pages, page);
    return known;
}

/* What is found wrong at every look. */
static unsigned confirm(struct bp_look *look, uint64_t page)
{
    const struct bp_pages *pages = &look->pool->pages;
    unsigned found;
    unsigned agreed = ~0u;
    int votes = 0;
    for (int patience = 0; patience < 64; patience++) {
        uint64_t before = bp_pages_changes(pages);
        uint16_t word = bp_pages_load(pages, page);
        if (bp_state_is_free(word) && examine_free(look, page, word, &found)) {
            return found;
        }
        bool known = false;
        unsigned wrong = word & BP_BUSY ? 0 : examine_now(look, page, word, &known);
        if (!known || bp_pages_load(pages, page) != word) {
            bp_kernel_sleep_ns(20000);
            continue;
        }
        agreed &= wrong;
        if (agreed == 0 || bp_look_vote(look, &votes, before)) {
            return agreed;
        }
    }
    look->disturbed = true;
    return 0;
}

/* Puts right what can be, of a page that nobody is changing. */
static void mend(struct bp_look *look, uint64_t page, unsigned wrong)
{
    bufpool_pool *pool = look->pool;
    uint16_t word = bp_pages_load(&pool->pages, page);
    if ((wrong & ~BIT(BUFPOOL_WRONG_LOST_FRAME)) == 0 || word & BP_BUSY ||
        !bp_pages_claim(&pool->pages, page, word, 0)) {
        return;
    }
    uint16_t state = word & BP_STATE_MASK;
    if (state > BUFPOOL_STATE_EVICTED) {
        state = BUFPOOL_STATE_FREED;
    }
    bool lagged = bp_lag_is(&pool->lag, word);
    if (lagged) {
        atomic_fetch_sub(&pool->lag.lagging, 1); /* it is made a free one, if its frame can be taken */
    }
    bool held = word & BP_SCRATCH && state != BUFPOOL_STATE_ALLOCATED && is_held(pool, page);
    if (state != BUFPOOL_STATE_ALLOCATED && !held && frames_of(look, page) != 0) {
        struct bp_range range = {bp_page_address(pool, page), pool->page_size};
        size_t done;
        if (bp_space_zap(&pool->space, &range, 1, &done) < 0) {
            if (lagged) {
                bp_lag_put_back(pool, page);
                return;
            }
            bp_pages_settle(&pool->pages, page, word);
            bp_rest_end(&pool->pages, page);
            return;
        }
    }
    bp_pages_mend(&pool->pages, page, held || bp_rest_is_taken(&pool->pages, page, state));
    bp_pages_settle(&pool->pages, page, held ? state | BP_SCRATCH : state);
    bp_rest_end(&pool->pages, page);
}

static void count(struct bp_look *look, uint64_t page, uint16_t word)
{
    bufpool_findings *found = &look->found;
    uint16_t state = word & BP_STATE_MASK;
    *(state == BUFPOOL_STATE_ALLOCATED ? &found->allocated
      : state == BUFPOOL_STATE_EVICTED ? &found->evicted
                                       : &found->free) += 1;
    found->lagging += bp_lag_is(&look->pool->lag, word);
    found->scratched += (word & BP_SCRATCH) != 0;
    if (state != BUFPOOL_STATE_UNALLOCATED) {
        look->high = page + 1;
    }
}

void bp_look_page(struct bp_look *look, uint64_t page)
{
    uint16_t word = bp_pages_load(&look->pool->pages, page);
    if (word & BP_BUSY) {
        if (is_abandoned(look->pool, page)) {
            bp_look_note(look, page, BUFPOOL_WRONG_ABANDONED);
            if (look->mend) {
                bp_recover_stranded(look->pool, page);
            }
        } else {
            look->found.busy++;
        }
        return;
    }
    count(look, page, word);
    uint64_t begin = bp_page_offset(look->pool, page);
    uint64_t end = begin + look->pool->page_size;
    bool some = look->memory.start < end && look->memory.end > begin;
    bool all = look->memory.start <= begin && look->memory.end >= end;
    if (examine(look, page, word, some, all) != 0) {
        unsigned wrong = confirm(look, page);
        for (unsigned what = BUFPOOL_WRONG_ABANDONED; what <= BUFPOOL_WRONG_STATE; what++) {
            if (wrong & BIT(what)) {
                bp_look_note(look, page, (bufpool_wrong)what);
            }
        }
        if (look->mend) {
            mend(look, page, wrong);
        }
    }
}
