/* A thousand random stray accesses: a thousand faults with the exact byte, page, offset, kind and state. And no false
 * alarm in ten million legal accesses while other threads allocate, evict and free. */
#include "harness.h"

#include <stdatomic.h>

#define PAGES 256
#define STRAYS 1000

static bufpool_pool *pool;
static uint64_t page_size;
static bufpool_state states[PAGES];

static void make_states(const char *memory, const char *trap, uint64_t size)
{
    page_size = size;
    pool = open_pool(memory, trap, "raise", PAGES * page_size, page_size);
    uint64_t pages[PAGES];
    CHECK_OK(bufpool_allocate_many(pool, 3 * PAGES / 4, pages));
    for (uint64_t page = 0; page < PAGES; page++) {
        states[page] = BUFPOOL_STATE_UNALLOCATED;
        if (page < 3 * PAGES / 4) {
            states[page] = page % 3 == 0   ? BUFPOOL_STATE_FREED
                           : page % 3 == 1 ? BUFPOOL_STATE_EVICTED
                                           : BUFPOOL_STATE_ALLOCATED;
        }
        if (states[page] == BUFPOOL_STATE_FREED) {
            CHECK_OK(bufpool_free(pool, page));
        } else if (states[page] == BUFPOOL_STATE_EVICTED) {
            CHECK_OK(bufpool_evict(pool, page));
        }
    }
}

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
    for (int i = 0; i < share.strays; i++) {
        uint64_t page = share.first + next_random(&share.seed) % share.count;
        uint64_t offset = next_random(&share.seed) % page_size;
        bool write = next_random(&share.seed) % 2;
        bool guarded = next_random(&share.seed) % 2;
        char *at = (char *)bufpool_address(pool, page) + offset;
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char byte = 1;
        if (states[page] == BUFPOOL_STATE_ALLOCATED) { /* legal, so no stray access: once more */
            write ? write_byte(at, 1) : (void)read_byte(at);
            CHECK_OK(bufpool_check(&fault));
            i--;
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
    }
    return NULL;
}

static void thousand(const char *memory, const char *trap, uint64_t size)
{
    make_states(memory, trap, size);
    struct share all = {1, STRAYS, 0, PAGES};
    campaign(&all);
    CHECK_IS(stats_of(pool).faults, ==, STRAYS);
    struct share shares[8];
    for (uint64_t i = 0; i < 8; i++) {
        shares[i] = (struct share){i + 2, STRAYS / 8, i * PAGES / 8, PAGES / 8};
    }
    run_threads(8, campaign, shares, sizeof *shares);
    CHECK_IS(stats_of(pool).faults, ==, 2 * STRAYS);
    CHECK_IS(stats_of(pool).reports_lost, ==, 0);
    CHECK_OK(bufpool_close(pool));
    for (uint64_t page = 0; page < PAGES; page++) {
        states[page] = BUFPOOL_STATE_CLOSED;
    }
    all.strays = 300;
    campaign(&all);
    run_threads(8, campaign, shares, sizeof *shares);
    CHECK_IS(stats_of(pool).faults, ==, 3 * STRAYS + 300);
    CHECK_IS(stats_of(pool).repeats, ==, 0);
}

/* ---- No false alarm ---- */

#define LEGAL (SANITIZED ? 100000 : 1700000) /* per thread and cell: ten million over two threads and three traps */
#define HELD 64

static atomic_int readers;

static void *legal(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t held[HELD];
    char *at[HELD];
    for (int i = 0; i < HELD; i++) {
        CHECK_OK(bufpool_allocate(pool, NULL, 0, &held[i]));
        at[i] = bufpool_address(pool, held[i]);
    }
    for (uint64_t i = 0; i < LEGAL; i++) {
        uint64_t random = next_random(&seed);
        char *byte = at[random % HELD] + (random >> 8) % page_size;
        if (random & 64) {
            *(volatile char *)byte = (char)i;
        } else {
            (void)*(volatile char *)byte;
        }
    }
    CHECK_OK(bufpool_free_many(pool, HELD, held));
    atomic_fetch_sub(&readers, 1);
    return NULL;
}

static void *busy(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    while (atomic_load(&readers) > 0) {
        uint64_t pages[8];
        CHECK_OK(bufpool_allocate_many(pool, 8, pages));
        uint64_t some = next_random(&seed) % 8;
        CHECK_OK(bufpool_evict_many(pool, some, pages));
        CHECK_OK(bufpool_populate_many(pool, some / 2, pages, NULL));
        CHECK_OK(bufpool_free_many(pool, 8, pages));
    }
    return NULL;
}

static void *either(void *argument)
{
    return *(uint64_t *)argument < 2 ? legal(argument) : busy(argument);
}

static void no_false_alarm(const char *memory, const char *trap)
{
    page_size = GRANULE;
    pool = open_pool(memory, trap, "abort", PAGES * page_size, page_size);
    atomic_store(&readers, 2);
    uint64_t numbers[4] = {0, 1, 2, 3};
    run_threads(4, either, numbers, sizeof *numbers);
    CHECK_IS(stats_of(pool).faults, ==, 0);
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *memory, const char *trap)
{
    thousand(memory, trap, GRANULE);
    thousand(memory, trap, 12 * KIB);
    no_false_alarm(memory, trap);
}

int main(void)
{
    harness_begin();
    return for_each_cell(cell, false);
}
