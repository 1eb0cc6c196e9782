/* Stray accesses to huge granules: a thousand at random with the exact byte, page, offset, kind and state; while
 * others allocate and free on the same pool; on closed pools; in forked children; more than there are slots. */
#define PAGES 24
#define STRAYS (SANITIZED ? 80 : 1000)
#include "campaign.h"
#include "cells.h"

#include <stdatomic.h>

#define ALLOCATED 6 /* pages, at most, in one pool */

static const char *memory, *trap;

static bufpool_pool *open_huge(const char *on_fault, uint64_t pages, uint64_t granules)
{
    page_size = granules * HUGE_PAGE;
    return open_pool(memory, trap, on_fault, pages * page_size, page_size);
}

/* ---- One access, one exact fault ---- */

static void make_states(const char *on_fault, uint64_t granules)
{
    pool = open_huge(on_fault, PAGES, granules);
    for (uint64_t page = 0; page < PAGES; page++) {
        states[page] = page % 4 == 0   ? BUFPOOL_STATE_FREED
                       : page % 4 == 1 ? BUFPOOL_STATE_EVICTED
                       : page % 4 == 2 ? BUFPOOL_STATE_ALLOCATED
                                       : BUFPOOL_STATE_UNALLOCATED;
        if (states[page] == BUFPOOL_STATE_UNALLOCATED || page >= ALLOCATED * 4 / granules) {
            states[page] = BUFPOOL_STATE_UNALLOCATED;
            continue;
        }
        CHECK_OK(bufpool_allocate_at(pool, page, NULL, 0));
        if (states[page] == BUFPOOL_STATE_FREED) {
            CHECK_OK(bufpool_free(pool, page));
        } else if (states[page] == BUFPOOL_STATE_EVICTED) {
            CHECK_OK(bufpool_evict(pool, page));
        }
    }
}

/* ---- on_fault "resume": each access ends, on the pattern, with one report ---- */

#define REPORTS (SANITIZED ? 20 : 100)

static void resumed(void *argument)
{
    (void)argument;
    make_states("resume", 1);
    uint64_t seed = 5;
    uint64_t last = 0;
    for (int i = 0; i < REPORTS;) {
        uint64_t page = next_random(&seed) % PAGES;
        uint64_t offset = next_random(&seed) % (page_size - 1);
        char *at = (char *)bufpool_address(pool, page) + offset;
        if (states[page] == BUFPOOL_STATE_ALLOCATED) {
            continue;
        }
        bool write = i % 2 == 1;
        if (write) {
            write_byte(at, 1);
            CHECK_IS(read_byte(at), ==, 1);
        } else {
            CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON);
        }
        CHECK_IS((unsigned char)read_byte(at + 1), ==, BUFPOOL_POISON); /* not seen */
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        size_t found;
        CHECK_OK(bufpool_faults(pool, last, 1, &fault, &found));
        CHECK_IS(found, ==, 1);
        check_fault(&fault, page, offset, write);
        last = fault.sequence;
        CHECK_OK(bufpool_check(NULL));
        i++;
    }
    CHECK_IS(stats_of(pool).faults, ==, REPORTS);
    CHECK_OK(bufpool_close(pool));
}

static void resume(void)
{
    struct child child = run_child(resumed, NULL);
    CHECK_PASSED(child);
    CHECK_CHILD(count_in(child.text, "==ERROR") == REPORTS, child);
}

/* ---- While others allocate and free: no live page is ever replaced, and no access to one is reported ---- */

#define FEW 12 /* each of two threads has a page, and each of three has opened three at most */
#define STEPS (SANITIZED ? 20 : 250)

static atomic_bool stop;

static void *allocator(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    uint64_t *content = malloc(page_size);
    for (int i = 0; i < STEPS || stats_of(pool).faults == 0; i++) {
        uint64_t stamp = next_random(&seed) | 1;
        for (size_t word = 0; word < page_size / 8; word += 64) {
            content[word] = stamp + word;
        }
        uint64_t page;
        CHECK_OK(bufpool_allocate(pool, content, page_size, &page));
        CHECK(memcmp(bufpool_address(pool, page), content, page_size) == 0);
        if (i % 3 == 0) {
            CHECK_OK(bufpool_evict(pool, page));
            CHECK_OK(bufpool_populate(pool, page, content, page_size));
        }
        CHECK(memcmp(bufpool_address(pool, page), content, page_size) == 0);
        CHECK_OK(bufpool_free(pool, page));
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK_OK(bufpool_check(&fault)); /* nothing that this thread did was stray */
    }
    free(content);
    return NULL;
}

static void look(void *at)
{
    read_byte(at);
}

/* Reads only: a stray write may hit a live page, as in life. */
static void *strayer(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    char *base = bufpool_address(pool, 0);
    while (!atomic_load(&stop)) {
        for (int i = 0; i < 3; i++) {
            char *at = base + next_random(&seed) % (FEW * page_size);
            if (seed % 4 == 0) {
                bufpool_guarded_call(look, at, NULL);
            } else {
                read_byte(at);
            }
        }
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        while (bufpool_check(&fault) != 0) {
            CHECK_IS(fault.thread_id, ==, gettid());
            CHECK_IS(fault.access, ==, BUFPOOL_READ);
        }
    }
    return NULL;
}

static void *either(void *argument)
{
    uint64_t self = *(uint64_t *)argument;
    if (self >= 2) {
        return strayer(argument);
    }
    allocator(argument);
    atomic_store(&stop, true);
    return NULL;
}

static void live_pages(uint64_t granules)
{
    pool = open_huge("raise", FEW, granules);
    atomic_store(&stop, false);
    uint64_t numbers[] = {0, 1, 2, 3, 4};
    run_threads(5, either, numbers, sizeof *numbers);
    bufpool_statistics s = stats_of(pool);
    CHECK_IS(s.allocated, ==, 0);
    CHECK_IS(s.reports_lost, ==, 0);
    uint64_t pages[FEW];
    CHECK_OK(bufpool_allocate_many(pool, FEW, pages)); /* no number got lost */
    CHECK_OK(bufpool_free_many(pool, FEW, pages));
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    for (uint64_t at = 0; at < FEW * page_size; at += page_size / 8 + 1) {
        CHECK(traps_at((char *)bufpool_address(pool, 0) + at, NULL)); /* nothing stayed open */
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- More diverted granules than slots ---- */

static pthread_barrier_t barrier;

static void *stray_and_wait(void *argument)
{
    (void)argument;
    for (uint64_t page = 0; page < 80; page++) {
        write_byte((char *)bufpool_address(pool, page) + 100 + page, 7);
    }
    pthread_barrier_wait(&barrier); /* strayed */
    pthread_barrier_wait(&barrier); /* may end */
    return NULL;
}

static void slots(void)
{
    pool = open_huge("raise", 100, 1);
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t thread;
    CHECK_OK(pthread_create(&thread, NULL, stray_and_wait, NULL));
    pthread_barrier_wait(&barrier);
    CHECK_IS(stats_of(pool).faults, ==, 80);
    CHECK_IS(stats_of(pool).scratch_maps, ==, 80);
    CHECK_IS(stats_of(pool).scratched, ==, 64);
    CHECK_OK(bufpool_allocate_at(pool, 79, "wanted", 6)); /* the newest: armed, then filled */
    const unsigned char *at = bufpool_address(pool, 79);
    CHECK(memcmp(at, "wanted", 7) == 0 && at[179] == 0);
    sleep_ms(15); /* then anybody's call arms the others */
    uint64_t page;
    size_t found;
    CHECK_OK(bufpool_list(pool, BUFPOOL_STATE_ALLOCATED, 0, 1, &page, &found));
    CHECK_IS(stats_of(pool).scratched, ==, 0);
    for (uint64_t hole = 0; hole < 79; hole++) {
        CHECK(traps_at((char *)bufpool_address(pool, hole) + HUGE_PAGE - 1, NULL));
    }
    pthread_barrier_wait(&barrier);
    CHECK_OK(pthread_join(thread, NULL));
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    int owed = 0;
    while (owed < 80) { /* joined, it may yet be ending */
        WAIT_FOR(bufpool_check_ended(pool, &fault) == BUFPOOL_ESTRAY);
        owed++;
    }
    CHECK_OK(bufpool_close(pool));
}

/* ---- Forked children ---- */

static void touch(void *argument)
{
    (void)argument;
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
#if !defined(__SANITIZE_THREAD__)      /* its runtime maps memory of its own where a child's holes are */
    for (uint64_t i = 0; i < 4; i++) { /* allocated, diverted, evicted, a hole: none is mapped here */
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        char *at = (char *)bufpool_address(pool, i) + HUGE_PAGE / 2 + i;
        CHECK(traps_at(at, &fault));
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
        CHECK_IS(fault.signal, ==, SIGSEGV);
        CHECK_IS(fault.page, ==, i);
        CHECK_IS(fault.offset, ==, HUGE_PAGE / 2 + i);
        CHECK_IS((unsigned char)read_byte(at), ==, BUFPOOL_POISON); /* and it is diverted here, too */
        CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
        CHECK(traps_at(at, &fault));
    }
#endif
}

static void forked(void)
{
    pool = open_pool_fork(memory, trap, "raise", 8 * HUGE_PAGE, HUGE_PAGE, "exclude");
    CHECK_OK(bufpool_allocate_at(pool, 0, "parent", 6));
    CHECK_OK(bufpool_allocate_at(pool, 2, NULL, 0));
    CHECK_OK(bufpool_evict(pool, 2));
    char *diverted = (char *)bufpool_address(pool, 1) + HUGE_PAGE / 2;
    write_byte(diverted, 1);
    CHECK_IS(stats_of(pool).scratched, ==, 1);
    struct child child = run_child(touch, NULL);
    CHECK_PASSED(child);
    CHECK_STRING(bufpool_address(pool, 0), "parent");
    CHECK_IS(read_byte(diverted), ==, 1);
    CHECK_IS(stats_of(pool).faults, ==, 1);
    CHECK_IS(bufpool_check(NULL), ==, BUFPOOL_ESTRAY);
    for (uint64_t page = 1; page < 8; page++) {
        CHECK(traps_at((char *)bufpool_address(pool, page) + HUGE_PAGE / 2 + page, NULL));
    }
    CHECK_OK(bufpool_populate(pool, 2, "parent", 6));
    CHECK_OK(bufpool_allocate_at(pool, 1, "parent", 6)); /* its frames can still be had and moved */
    CHECK_STRING(bufpool_address(pool, 1), "parent");
    CHECK_OK(bufpool_close(pool));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    make_states("raise", 1);
    one_access_one_fault();
    make_states("raise", 3);
    one_access_one_fault();
    resume();
    live_pages(1);
    live_pages(2);
    slots();
    forked();
}

static int body(void)
{
    return for_each_huge_cell(cell, false);
}

int main(void)
{
    return with_huge_pages(24, body);
}
