/* A stray access while bufpool_close() still waits for another thread's call, under "resume": reported once, and the
 * access completes. */
#include "cells.h"

#include <stdatomic.h>

#define PAGES 24  /* to be filled */
#define STRAYS 40 /* to be touched, each by one access */

static const char *memory, *trap;
static bufpool_pool *pool;
static atomic_int stage;

static void *fill(void *unused)
{
    uint64_t pages[PAGES];
    (void)unused;
    atomic_store(&stage, 1);
    bufpool_allocate_many(pool, PAGES, pages);
    return NULL;
}

static void *closer(void *unused)
{
    (void)unused;
    sleep_ms(1);
    CHECK_OK(bufpool_close(pool));
    return NULL;
}

static void stray(void *unused)
{
    (void)unused;
    pool = open_pool(memory, trap, "resume", (PAGES + STRAYS) * HUGE_PAGE, 0);
    const char *at = bufpool_address(pool, PAGES);
    pthread_t filler;
    pthread_t ender;
    CHECK_OK(pthread_create(&filler, NULL, fill, NULL));
    while (atomic_load(&stage) == 0) {
    }
    CHECK_OK(pthread_create(&ender, NULL, closer, NULL));
    for (uint64_t i = 0; i < STRAYS; i++) { /* before, amid and after */
        CHECK_IS((unsigned char)read_byte(at + i * HUGE_PAGE + i), ==, BUFPOOL_POISON);
        struct timespec moment = {0, 100000};
        nanosleep(&moment, NULL);
    }
    CHECK_OK(pthread_join(filler, NULL));
    CHECK_OK(pthread_join(ender, NULL));
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    for (int round = 0; round < 4; round++) {
        struct child child = run_child(stray, NULL);
        CHECK_PASSED(child);
        CHECK_CHILD(count_in(child.text, "==ERROR") >= 1, child);
    }
}

static int body(void)
{
    return for_each_huge_cell(cell, false);
}

int main(void)
{
    return with_huge_pages(PAGES + 2, body);
}
