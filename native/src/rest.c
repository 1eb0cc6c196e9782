/* rest.c: the quarantine of freed numbers, see rest.h. */
#include "rest.h"

#define TRIES 1000 /* a peer may be mad */

static bool is_taken(const struct bp_pages *pages, uint64_t page)
{
    return atomic_load(&pages->levels[0][page / 64]) >> (page % 64) & 1;
}

/* The page's state, which others see before this thread looks at the ring. Without that the one that settles the page as
 * freed could still see it in the ring, and the one that takes its slot could still see it BUSY: neither would end its rest,
 * and the number be lost. */
static uint16_t settled(struct bp_pages *pages, uint64_t page)
{
    return atomic_fetch_or(&pages->states[page], 0);
}

void bp_rest_end(struct bp_pages *pages, uint64_t page)
{
    for (int tries = 0; pages->rest.length > 0 && tries < TRIES; tries++) {
        uint16_t state = settled(pages, page);
        if (!bp_state_is_free(state) || !is_taken(pages, page) || bp_rests(pages, page)) {
            return; /* who has it BUSY, or shows the pattern there, comes here afterwards */
        }
        if (bp_pages_claim(pages, page, state, 0)) {
            if (!bp_rests(pages, page)) {
                bp_pages_mark_free(pages, page);
            }
            bp_pages_settle(pages, page, state);
        }
    }
}

void bp_rest_begin(struct bp_pages *pages, uint64_t page)
{
    uint64_t slot = atomic_fetch_add(&pages->counts->rests, 1) % pages->rest.length;
    atomic_store(&pages->rest.tickets[page], (uint32_t)slot + 1);
    BP_STORED("ticket");
    uint64_t before = atomic_exchange(&pages->rest.slots[slot], page + 1);
    BP_STORED("rest begun");
    if (before == 0) {
        atomic_fetch_add_explicit(&pages->counts->resting, 1, memory_order_relaxed);
        BP_STORED("resting counted");
    } else if (before <= pages->count) {
        bp_rest_end(pages, before - 1);
    }
}

void bp_rest_leave(struct bp_pages *pages, uint64_t page)
{
    if (pages->rest.length == 0) {
        return;
    }
    uint64_t ticket = atomic_load(&pages->rest.tickets[page]);
    if (ticket == 0 || ticket > pages->rest.length) {
        return;
    }
    uint64_t own = page + 1;
    if (atomic_compare_exchange_strong(&pages->rest.slots[ticket - 1], &own, 0)) {
        BP_STORED("rest left");
        atomic_fetch_sub_explicit(&pages->counts->resting, 1, memory_order_relaxed);
        BP_STORED("resting uncounted");
    }
    atomic_store(&pages->rest.tickets[page], 0);
    BP_STORED("no ticket");
}

/* Empties the first slot with a page in it, of those for the rests from `from` to `to`. */
static bool cut(struct bp_pages *pages, uint64_t from, uint64_t to)
{
    for (uint64_t at = from; at < to; at++) {
        uint64_t page = atomic_exchange(&pages->rest.slots[at % pages->rest.length], 0);
        if (page != 0) {
            BP_STORED("rest cut");
            atomic_fetch_sub_explicit(&pages->counts->resting, 1, memory_order_relaxed);
            atomic_store_explicit(&pages->counts->cut, at + 1, memory_order_relaxed); /* says where to look, no more */
            BP_STORED("resting uncounted");
            if (page <= pages->count) {
                bp_rest_end(pages, page - 1);
            }
            return true;
        }
    }
    return false;
}

bool bp_rest_cut(struct bp_pages *pages)
{
    if (pages->rest.length == 0 || atomic_load(&pages->counts->resting) == 0) {
        return false;
    }
    uint64_t end = atomic_load(&pages->counts->rests);
    uint64_t oldest = end > pages->rest.length ? end - pages->rest.length : 0;
    uint64_t from = atomic_load_explicit(&pages->counts->cut, memory_order_relaxed);
    if (from < oldest || from > end) {
        from = oldest;
    }
    /* Then all: one that was taking its slot at an earlier cut is behind it by now. */
    return cut(pages, from, end) || cut(pages, oldest, end);
}
