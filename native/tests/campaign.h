/* campaign.h: random stray accesses to pages of every state, each of which has to give one fault, exact in all it says. Who
 * includes it says how many PAGES and STRAYS, opens the pool, and notes the pages' states. */
#ifndef CAMPAIGN_H
#define CAMPAIGN_H

#include "harness.h"

#define CAMPAIGN_THREADS 8

static bufpool_pool *pool;
static uint64_t page_size;
static bufpool_state states[PAGES];

static void check_fault(const bufpool_fault *fault, uint64_t page, uint64_t offset, bool write)
{
    CHECK_IS(fault->address, ==, (uintptr_t)bufpool_address(pool, page) + offset);
    CHECK_IS(fault->page, ==, page);
    CHECK_IS(fault->offset, ==, offset);
    CHECK_IS(fault->access, ==, write ? BUFPOOL_WRITE : BUFPOOL_READ);
    CHECK_IS(fault->state, ==, states[page]);
    CHECK_IS(fault->thread_id, ==, gettid());
    CHECK_IS(fault->pid, ==, getpid());
    CHECK_IS(fault->flags, ==, 0);
}

struct share {
    uint64_t seed;
    int strays;
    uint64_t first, count; /* the pages of this thread: a page that another one has open would not trap */
};

static void *campaign(void *argument)
{
    struct share share = *(struct share *)argument;
    for (int i = 0; i < share.strays;) {
        uint64_t page = share.first + next_random(&share.seed) % share.count;
        uint64_t offset = next_random(&share.seed) % page_size;
        bool write = next_random(&share.seed) % 2;
        bool guarded = next_random(&share.seed) % 2;
        char *at = (char *)bufpool_address(pool, page) + offset;
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char byte = 1;
        if (states[page] == BUFPOOL_STATE_ALLOCATED) { /* legal, so no stray access */
            write ? write_byte(at, 1) : (void)read_byte(at);
            CHECK_OK(bufpool_check(&fault));
            continue;
        }
        if (guarded) {
            CHECK_IS(write ? bufpool_guarded_copy(at, &byte, 1, &fault) : bufpool_guarded_copy(&byte, at, 1, &fault),
                     ==, BUFPOOL_ESTRAY);
        } else {
            write ? write_byte(at, 1) : (void)read_byte(at);
            CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        }
        check_fault(&fault, page, offset, write);
        CHECK_OK(bufpool_check(&fault)); /* one access, one fault */
        i++;
    }
    return NULL;
}

/* By one thread and by many, each in a part of the pages; and again when the pool is closed, which it is at the end. */
static void one_access_one_fault(void)
{
    struct share all = {1, STRAYS, 0, PAGES};
    struct share shares[CAMPAIGN_THREADS];
    for (uint64_t i = 0; i < CAMPAIGN_THREADS; i++) {
        uint64_t part = PAGES / CAMPAIGN_THREADS;
        shares[i] = (struct share){i + 2, STRAYS / CAMPAIGN_THREADS, i * part, part};
    }
    campaign(&all);
    CHECK_IS(stats_of(pool).faults, ==, STRAYS);
    run_threads(CAMPAIGN_THREADS, campaign, shares, sizeof *shares);
    CHECK_IS(stats_of(pool).faults, ==, 2 * STRAYS);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    CHECK_OK(bufpool_close(pool));
    for (uint64_t page = 0; page < PAGES; page++) {
        states[page] = BUFPOOL_STATE_CLOSED;
    }
    campaign(&all);
    run_threads(CAMPAIGN_THREADS, campaign, shares, sizeof *shares);
    CHECK_IS(stats_of(pool).faults, ==, 4 * STRAYS);
    CHECK_IS(stats_of(pool).repeats, ==, 0);
}

#endif
