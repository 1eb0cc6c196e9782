/* The kernel refuses, one after the other, each request that a fork makes of it: in the child a pool is whole and armed,
 * or inaccessible and says why; the parent's is as it was. */
#include "cells.h"

#include <sys/mman.h>

static int countdown; /* requests until one is refused; 0: none is */
static int refusal;
static bool refused; /* in this process */

static bool refuse(void)
{
    if (countdown == 0 || --countdown > 0) {
        return false;
    }
    refused = true;
    return true;
}

#define WRAP(name, parameters, arguments) \
    int __real_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters; \
    int __wrap_bp_kernel_##name parameters \
    { \
        return refuse() ? refusal : __real_bp_kernel_##name arguments; \
    }

WRAP(mmap, (void *hint, size_t length, int protection, int flags, int fd, void **address),
     (hint, length, protection, flags, fd, address))
WRAP(mmap_file, (void *hint, size_t length, int protection, int flags, int fd, uint64_t offset, void **address),
     (hint, length, protection, flags, fd, offset, address))
WRAP(mprotect, (void *address, size_t length, int protection), (address, length, protection))
WRAP(madvise, (void *address, size_t length, int advice), (address, length, advice))
WRAP(memfd, (const char *name, uint64_t length, uint64_t granule), (name, length, granule))
WRAP(uffd_open, (void), ())
WRAP(uffd_register, (int uffd, uintptr_t address, size_t length), (uffd, address, length))
WRAP(pwrite, (int fd, const void *data, size_t size, uint64_t offset), (fd, data, size, offset))
WRAP(open_pagemap, (void), ())

static bufpool_pool *pool;
static uint64_t granule;
static int tally[2]; /* how often a child had the pool all the same, or had it not */

static char *at(uint64_t page)
{
    return bufpool_address(pool, page);
}

/* The exit code: 0: nothing was refused any more; 2: it was, and the child has the pool; 3: it has it not. */
static int look(void)
{
    int after = countdown;
    countdown = 0;
    CHECK_IS(bufpool_check(NULL), ==, 0);
    uint64_t page;
    int code = bufpool_allocate(pool, "child", 6, &page);
    if (code == 0) {
        CHECK_STRING(at(0), "parent");
        CHECK_STRING(at(page), "child");
        CHECK_OK(bufpool_free(pool, page));
        for (page = 1; page < 8; page++) {
            CHECK(traps_at(at(page) + granule - 1, NULL));
        }
        CHECK_OK(bufpool_close(pool));
        CHECK(traps_at(at(0), NULL));
        return refused ? 2 : after == 0 ? 2 : 0;
    }
    CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "not inherited: ");
    CHECK_HAS(last_error(), refusal == -EMFILE ? "EMFILE, too many" : "ENOMEM, no memory");
    for (page = 0; page < 8; page++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(at(page) + granule - 1, &fault));
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
        CHECK_HAS(fault.fork_note, "not inherited: ");
    }
    CHECK_IS(bufpool_close(pool), ==, BUFPOOL_EUNSUPPORTED);
    bufpool_pool *own = open_pool("anon", "auto", "abort", 8 * GRANULE, GRANULE);
    CHECK_OK(bufpool_close(own));
    return 3;
}

static void check_parent(void)
{
    CHECK_STRING(at(0), "parent");
    for (uint64_t page = 1; page < 8; page++) {
        CHECK(traps_at(at(page) + granule - 1, NULL));
    }
    CHECK_IS(stats_of(pool).allocated, ==, 1);
}

static void cell(const char *memory, const char *trap)
{
    static const int refusals[] = {-ENOMEM, -EMFILE};
    pool = open_pool(memory, trap, "raise", 4 * MIB, 0);
    granule = stats_of(pool).granule;
    CHECK_OK(bufpool_close(pool));
    for (int kind = 0; kind < 2; kind++) {
        refusal = refusals[kind];
        tally[0] = tally[1] = 0;
        int result = -1;
        for (int n = 1; result != 0; n++) {
            CHECK(n < 200);
            pool = open_pool(memory, trap, "raise", 8 * granule, granule);
            CHECK_OK(bufpool_allocate_at(pool, 0, "parent", 7));
            fflush(NULL);
            countdown = n;
            refused = false;
            pid_t pid = fork();
            CHECK(pid >= 0);
            if (pid == 0) {
                alarm(CHILD_LIMIT);
                _exit(look());
            }
            countdown = 0;
            int status;
            CHECK_IS(waitpid(pid, &status, 0), ==, pid);
            CHECK(WIFEXITED(status));
            result = WEXITSTATUS(status);
            CHECK(result == 0 || result == 2 || result == 3);
            tally[0] += result == 2;
            tally[1] += result == 3;
            check_parent();
            CHECK_OK(bufpool_close(pool));
        }
        printf("  refused %s: %d times the child had the pool all the same, %d times it had it not\n",
               strerror(-refusal), tally[0], tally[1]);
        CHECK(tally[1] > 0);
    }
}

static void inherited_cell(const char *memory, const char *trap)
{
    bool closes = strcmp(trap, "guard") == 0 || strcmp(trap, "mprotect") == 0;
    if (!closes || strcmp(memory, "anon") == 0) {
        cell(memory, trap);
    }
}

static int body(void)
{
    int small = for_each_cell(inherited_cell, false);
    int huge = for_each_huge_cell(inherited_cell, false);
    return small == HARNESS_SKIP ? huge : small;
}

int main(void)
{
    return with_huge_pages(8, body);
}
