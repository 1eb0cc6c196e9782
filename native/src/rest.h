/*
 * rest.h: the quarantine: numbers of freed pages that rest before they are used again, first in, first out.
 *
 * A ring of as many slots as pages may rest at most. A freed page takes the next slot, and thereby ends the rest of the page
 * that is there: so a number rests until that many others have been freed after it. One exchange does it; no lock, and no
 * list that a killed process could leave cut. Beside the ring each page has a ticket: its slot, so that one that is allocated
 * by its number leaves the ring. Only who has the page BUSY writes its ticket.
 *
 * A page that rests is FREED, and its bit in the index stays set. The bit is cleared by who ends the rest; or, if somebody
 * has the page BUSY just then, or shows the scratch pattern there, by that one, who calls bp_rest_end() after settling it.
 * Ring and tickets are part of the tables, so that of a pool that several processes have there is one quarantine. What a
 * process leaves that is killed between ending a rest and clearing the bit is found by bp_rest_end(), too (recover.c).
 *
 * All functions are thread-safe, lock-free and async-signal-safe.
 */
#ifndef BP_REST_H
#define BP_REST_H

#include "pages.h"

/* The page, which the caller has BUSY and is about to settle as FREED, begins its rest; the caller then settles it, and
 * calls bp_rest_end(). Ends the oldest rest where the quarantine is full. */
void bp_rest_begin(struct bp_pages *pages, uint64_t page);

/* If the page is free, and rests no longer, but is not in the index of free numbers: puts it there. */
void bp_rest_end(struct bp_pages *pages, uint64_t page);

/* The page, which the caller has BUSY, is being allocated: it leaves the ring, if it was there. */
void bp_rest_leave(struct bp_pages *pages, uint64_t page);

/* Cuts the oldest rest short, as no other number is free. false: none rests. */
bool bp_rest_cut(struct bp_pages *pages);

/* Does the page have a place in the ring? */
static inline bool bp_rests(const struct bp_pages *pages, uint64_t page)
{
    if (pages->rest.length == 0) {
        return false;
    }
    uint64_t ticket = atomic_load(&pages->rest.tickets[page]);
    return ticket != 0 && ticket <= pages->rest.length && atomic_load(&pages->rest.slots[ticket - 1]) == page + 1;
}

/* Should the page's bit in the index be set, as its state is? */
static inline bool bp_rest_is_taken(const struct bp_pages *pages, uint64_t page, uint16_t state)
{
    return !bp_state_is_free(state) || bp_rests(pages, page);
}

#endif
