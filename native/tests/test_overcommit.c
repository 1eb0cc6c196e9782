/*
 * Strict accounting of memory (vm.overcommit_memory=2): a pool far larger than what may be committed opens, traps, and
 * gives pages. The setting is the system's own: it is changed for as long as a child runs, and put back when that ends.
 */
#include "cells.h"

#include <signal.h>

#define CAPACITY (64 * GIB)

static void cell(const char *memory, const char *trap)
{
    bool huge = is_huge_memory(memory);
    bool trapped = strcmp(trap, "none") != 0;
    uint64_t size = huge ? HUGE_PAGE : GRANULE;
    bufpool_pool *pool = open_pool(memory, trap, "abort", CAPACITY, size);
    uint64_t last = CAPACITY / size - 1;
    CHECK(!trapped || traps_at(bufpool_address(pool, 0), NULL));
    CHECK(!trapped || traps_at((char *)bufpool_address(pool, last) + size - 1, NULL));
    uint64_t pages[3];
    CHECK_OK(bufpool_allocate_many(pool, 3, pages));
    CHECK_OK(bufpool_allocate_at(pool, last, "far", 4));
    CHECK_STRING(bufpool_address(pool, last), "far");
    for (int i = 0; i < 3; i++) {
        char *at = bufpool_address(pool, pages[i]);
        CHECK_IS(at[size - 1], ==, 0);
        at[size - 1] = 1;
    }
    CHECK_OK(bufpool_evict(pool, pages[1]));
    CHECK_OK(bufpool_populate(pool, pages[1], "back", 5));
    CHECK_STRING(bufpool_address(pool, pages[1]), "back");
    CHECK_OK(bufpool_free_many(pool, 3, pages));
    CHECK_OK(bufpool_free(pool, last));
    for (int i = 0; i < 3 && trapped; i++) {
        CHECK(traps_at((char *)bufpool_address(pool, pages[i]) + size - 1, NULL));
    }
    CHECK(!trapped || traps_at(bufpool_address(pool, last), NULL));
    CHECK(!trapped || traps_at(bufpool_address(pool, last / 2), NULL)); /* in a part that was never opened */
    bufpool_statistics statistics = stats_of(pool);
    CHECK_IS(statistics.allocated, ==, 0);
    if (statistics.small_fills > 0) {
        CHECK(statistics.memory_note[0] != 0); /* small pages in place of huge ones are said */
        printf("%s/%s: %s\n", memory, trap, statistics.memory_note);
    }
    CHECK_OK(bufpool_close(pool));
}

/* A stray access, diverted: what it lands on takes memory, too. */
static void diverted(const char *memory, const char *trap)
{
    uint64_t size = is_huge_memory(memory) ? HUGE_PAGE : GRANULE;
    bufpool_pool *pool = open_pool(memory, trap, "raise", CAPACITY, size);
    CHECK_IS((unsigned char)read_byte(bufpool_address(pool, 5)), ==, BUFPOOL_POISON);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    CHECK_IS(bufpool_check(&fault), ==, BUFPOOL_ESTRAY);
    CHECK_IS(fault.page, ==, 5);
    CHECK(traps_at(bufpool_address(pool, 5), NULL));
    CHECK_OK(bufpool_close(pool));
}

static int all_cells(void)
{
    int code = for_each_cell(cell, true);
    for_each_huge_cell(cell, true);
    for_each_cell(diverted, false);
    for_each_huge_cell(diverted, false);
    return code;
}

static int body(void)
{
    queue_for_setting(overcommit_lock, LOCK_EX, 30); /* other tests may find no memory meanwhile */
    long before = read_setting(OVERCOMMIT);
    /* What would end this process early has to wait until the setting is put back. */
    sigset_t wait_for;
    sigset_t mask;
    sigemptyset(&wait_for);
    sigaddset(&wait_for, SIGINT);
    sigaddset(&wait_for, SIGTERM);
    sigaddset(&wait_for, SIGHUP);
    sigaddset(&wait_for, SIGALRM);
    sigprocmask(SIG_BLOCK, &wait_for, &mask);
    if (before < 0 || (before != 2 && !write_setting(OVERCOMMIT, 2))) {
        printf("setting vm.overcommit_memory needs root\n");
        return HARNESS_SKIP;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &mask, NULL);
        alarm(CHILD_LIMIT);
        exit(all_cells());
    }
    int status = -1;
    bool ended = pid > 0 && waitpid(pid, &status, 0) == pid;
    if (before != 2) {
        write_setting(OVERCOMMIT, before);
    }
    sigprocmask(SIG_SETMASK, &mask, NULL);
    CHECK(ended);
    CHECK_IS(read_setting(OVERCOMMIT), ==, before);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

int main(void)
{
    if (SANITIZED) {
        printf("sanitizers take more address space than strict accounting of memory allows\n");
        return HARNESS_SKIP;
    }
    return with_huge_pages(8, body);
}
