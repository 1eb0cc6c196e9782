/* slots.c: from frames to page buffers, where a frame holds one SQLite page or several. All under the cache's lock. */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

/* A frame shared by several pages of one cache. The slot of a page that left is not used again while the cache has
 * fewer such slots than half its pages, and then the one whose frame has waited longest: as long as it rests it holds
 * poison, and if the whole frame empties first, it traps. */
typedef struct sq_granule {
    struct sq_granule *next, *previous; /* among the partial ones */
    uint32_t frame;
    uint32_t used;     /* slots in use */
    uint32_t fresh;    /* slots below were used at least once */
    uint32_t left;     /* slots whose page left: fresh - used */
    uint64_t rested[]; /* one bit for each such slot */
} sq_granule;

void sq_drops_flush(sqlite3_pcache *cache, sq_drops *drops)
{
    sq_frame_drop(cache->group, drops->frames, drops->count);
    drops->count = 0;
}

static void drop(sqlite3_pcache *cache, uint32_t frame, sq_drops *drops)
{
    drops->frames[drops->count++] = frame;
    if (drops->count == SQ_BATCH)
        sq_drops_flush(cache, drops);
}

/* ---- The list of partial granules ---- */

static void partial_append(sqlite3_pcache *cache, sq_granule *granule)
{
    granule->next = NULL;
    granule->previous = cache->partial_last;
    *(granule->previous != NULL ? &granule->previous->next : &cache->partial_first) = granule;
    cache->partial_last = granule;
}

static void partial_unlink(sqlite3_pcache *cache, sq_granule *granule)
{
    *(granule->previous != NULL ? &granule->previous->next : &cache->partial_first) = granule->next;
    *(granule->next != NULL ? &granule->next->previous : &cache->partial_last) = granule->previous;
}

/* ---- Pins: a pool page has one for each of its SQLite pages that is pinned ---- */

bool sq_slot_pin(sqlite3_pcache *cache, sq_page *page)
{
    if (!cache->group->counted)
        return true;
    if (sq_inherited(cache))
        return false;
    if (!page->pinned) {
        page->pinned = bufpool_pin(cache->group->pool, (uint64_t)page->frame * 2, true) == 0;
        sq_count(&cache->counters[SQ_PINS], page->pinned);
    }
    return page->pinned;
}

void sq_slot_unpin(sqlite3_pcache *cache, sq_page *page)
{
    if (!page->pinned || sq_inherited(cache))
        return;
    page->pinned = bufpool_unpin_for(cache->group->pool, (uint64_t)page->frame * 2, true) < 0;
    sq_count(&cache->counters[SQ_LEFT_OPEN], page->pinned);
}

/* ---- Taking ---- */

static uint32_t take_rested(sqlite3_pcache *cache, sq_granule *granule)
{
    size_t word = 0;
    while (granule->rested[word] == 0)
        word++;
    unsigned bit = (unsigned)__builtin_ctzll(granule->rested[word]);
    granule->rested[word] &= granule->rested[word] - 1;
    cache->left_slots--;
    if (--granule->left == 0)
        partial_unlink(cache, granule);
    return (uint32_t)(word * 64 + bit);
}

static sq_granule *granule_new(sqlite3_pcache *cache, bool *exhausted)
{
    sq_group *group = cache->group;
    if (!sq_reserve(group->page))
        return NULL;
    sq_granule *granule = calloc(1, sizeof *granule + (group->slots + 63) / 64 * sizeof granule->rested[0]);
    uint32_t frame = granule != NULL ? sq_frame_take(group) : SQ_NONE;
    if (frame == SQ_NONE) {
        *exhausted = true;
        if (granule == NULL)
            sq_unreserve(group->page);
        free(granule);
        return NULL;
    }
    granule->frame = frame;
    return granule;
}

static bool take_shared(sqlite3_pcache *cache, sq_page *page, bool *exhausted)
{
    sq_group *group = cache->group;
    sq_granule *granule = cache->filling;
    bool reuse = cache->left_slots > sq_read(&cache->pages) / 2 + group->slots;
    if (granule == NULL && !reuse)
        granule = granule_new(cache, exhausted);
    if (granule == NULL)
        granule = cache->partial_first;
    if (granule == NULL)
        return false;
    if (granule->fresh < group->slots) {
        page->slot = granule->fresh++;
        cache->filling = granule->fresh < group->slots ? granule : NULL;
    } else {
        page->slot = take_rested(cache, granule);
    }
    granule->used++;
    page->granule = granule;
    page->frame = granule->frame;
    return true;
}

static bool take_whole(sqlite3_pcache *cache, sq_page *page, bool *exhausted)
{
    if (!sq_reserve(cache->group->page))
        return false;
    page->granule = NULL;
    page->slot = 0;
    page->frame = sq_frame_take(cache->group);
    *exhausted = page->frame == SQ_NONE;
    return !*exhausted;
}

bool sq_slot_take(sqlite3_pcache *cache, sq_page *page, bool *exhausted)
{
    sq_group *group = cache->group;
    *exhausted = false;
    if (!(group->slots == 1 ? take_whole(cache, page, exhausted) : take_shared(cache, page, exhausted)))
        return false;
    page->base.pBuf = sq_frame_address(group, page->frame) + (size_t)page->slot * group->sqlite_page;
    if (sq_slot_pin(cache, page)) {
        if (group->fresh)
            memset(page->base.pBuf, BUFPOOL_FRESH, group->sqlite_page);
        return true;
    }
    sq_drops drops = {.count = 0};
    sq_slot_give(cache, page, &drops);
    sq_drops_flush(cache, &drops);
    *exhausted = true;
    return false;
}

bool sq_slot_replace(sqlite3_pcache *cache, sq_page *page)
{
    sq_group *group = cache->group;
    uint32_t frame = sq_frame_replace(group, page->frame);
    if (frame == SQ_NONE)
        return false;
    page->frame = frame;
    page->base.pBuf = sq_frame_address(group, frame);
    if (group->fresh)
        memset(page->base.pBuf, BUFPOOL_FRESH, group->sqlite_page);
    return true;
}

/* ---- Giving back ---- */

/* In a forked child: the frame is the parent's, and not there. */
static void forget(sq_page *page)
{
    if (page->granule != NULL && --page->granule->used == 0)
        free(page->granule);
}

void sq_slot_give(sqlite3_pcache *cache, sq_page *page, sq_drops *drops)
{
    sq_granule *granule = page->granule;
    if (sq_inherited(cache)) {
        forget(page);
        return;
    }
    if (granule == NULL) {
        sq_slot_unpin(cache, page);
        drop(cache, page->frame, drops);
        return;
    }
    if (--granule->used == 0) {
        if (granule->left > 0)
            partial_unlink(cache, granule);
        cache->left_slots -= granule->left;
        if (cache->filling == granule)
            cache->filling = NULL;
        sq_slot_unpin(cache, page);
        drop(cache, granule->frame, drops);
        free(granule);
        return;
    }
    if (sq_slot_pin(cache, page))
        memset(page->base.pBuf, BUFPOOL_POISON, cache->group->sqlite_page);
    sq_slot_unpin(cache, page);
    granule->rested[page->slot / 64] |= UINT64_C(1) << page->slot % 64;
    cache->left_slots++;
    if (granule->left++ == 0)
        partial_append(cache, granule);
}
