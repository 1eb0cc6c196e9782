/*
 * choice.h: how a full cache lets its oldest page go: with others, in a batch, and each new page gets a fresh frame; or
 * replaced by the new page, which gets its frame.
 *
 * Which is cheaper depends on the kernel, the machine, the memory and the number of threads, and is not seen in the calls
 * alone: each replaced page has the kernel flush what the processor knows of addresses, which everything after it pays for.
 * So it is the thread's whole time that is compared, over some hundred new pages one way and as many the other, in turn, until
 * one way has been the cheaper one often enough. It holds for the cache's next pages, and for caches opened later.
 *
 * Under the cache's lock.
 */
#ifndef BUFPOOL_SQLITE_CHOICE_H
#define BUFPOOL_SQLITE_CHOICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SQ_TURN 512            /* new pages */
#define SQ_TURNS_WON 7         /* so often replacing has to be the cheaper way, before */
#define SQ_TURNS_LOST 3        /* it was the dearer one so often */
#define SQ_CHOICE_LASTS 200000 /* new pages, until it is measured again */

typedef enum sq_evict { SQ_AUTO, SQ_BY_BATCH, SQ_BY_REPLACE } sq_evict;

typedef struct sq_choice {
    enum { SQ_NEW, SQ_WARMING, SQ_MEASURING, SQ_SETTLED } phase;
    bool replaces;       /* now */
    uint32_t left;       /* new pages until the phase or its turn ends */
    uint32_t won, lost;  /* turns, by replacing */
    uint64_t start;      /* of this turn, ns of the thread's time */
    uint64_t batch_took; /* the turn before, ns; 0: unknown */
    pthread_t thread;
} sq_choice;

/* A full cache needs room for a page: is its oldest page to be replaced? way: what is known from other caches, or has been
 * found out now. */
bool sq_choice_replaces(sq_choice *choice, _Atomic sq_evict *way);

#endif
