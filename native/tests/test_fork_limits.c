/* Forks at the limits of descriptors and addresses: a child has the pool, or its addresses are inaccessible and it says
 * why; nothing in between. */
#include "harness.h"

#include <sys/resource.h>

#define DESCRIPTORS 64

static const char *memory, *trap;
static bufpool_pool *pool;
static const char *reason; /* why the child has not got the pool; NULL: it has */

static void look(void *unused)
{
    (void)unused;
    uint64_t page;
    int code = bufpool_allocate(pool, "child", 6, &page);
    if (reason == NULL) {
        CHECK_OK(code);
        CHECK_STRING(bufpool_address(pool, 0), "parent");
        CHECK_STRING(bufpool_address(pool, page), "child");
        CHECK_OK(bufpool_free(pool, page));
        CHECK(traps_at(bufpool_address(pool, page), NULL));
        CHECK(traps_at(bufpool_address(pool, 7), NULL));
        return;
    }
    CHECK_IS(code, ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), reason);
    for (page = 0; page < 8; page++) {
        bufpool_fault fault = BUFPOOL_FAULT_INIT;
        CHECK(traps_at(bufpool_address(pool, page), &fault));
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
        CHECK_IS(fault.signal, ==, SIGSEGV);
        CHECK_HAS(fault.fork_note, reason);
    }
}

static int limited; /* the resource */
static rlim_t least;

static pid_t fork_limited(void)
{
    struct rlimit before;
    CHECK_OK(getrlimit(limited, &before));
    struct rlimit limit = {least, before.rlim_max};
    CHECK_OK(setrlimit(limited, &limit));
    pid_t pid = fork();
    CHECK_OK(setrlimit(limited, &before));
    return pid;
}

/* Forks with the limit set so, and puts it back. */
static void fork_with(int resource, rlim_t value, const char *why)
{
    limited = resource;
    least = value;
    reason = why;
    struct child child = run_child_of(fork_limited, look, NULL);
    CHECK_PASSED(child);
    CHECK_STRING(bufpool_address(pool, 0), "parent");
    CHECK(traps_at(bufpool_address(pool, 7), NULL));
}

static uint64_t mapped_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0;
    CHECK(file != NULL && fscanf(file, "%llu", &pages) == 1);
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    bool closes = strcmp(trap, "uffd") != 0;
    bool shared = strcmp(memory, "shared") == 0;
    if (closes && shared) {
        printf("not inherited: nothing to see of limits\n");
        return;
    }
    pool = open_pool(memory, trap, "raise", 8 * GRANULE, GRANULE);
    CHECK_OK(bufpool_allocate_at(pool, 0, "parent", 7));
    /* No descriptor is left: the child closes the parent's before it opens its own, a copy takes one more. */
    int taken[DESCRIPTORS];
    int count = 0;
    while ((taken[count] = dup(0)) >= 0) {
        count++;
    }
    close(taken[--count]); /* for the pipe in fork_with() */
    close(taken[--count]);
    fork_with(RLIMIT_NOFILE, DESCRIPTORS, closes ? "EMFILE" : NULL);
    while (count > 0) {
        close(taken[--count]);
    }
    fork_with(RLIMIT_NOFILE, 3, "EMFILE");
    /* No address is left: the child takes back what its parent has. */
    if (!SANITIZED) {
        fork_with(RLIMIT_AS, mapped_bytes(), NULL);
    }
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    struct rlimit limit;
    CHECK_OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = DESCRIPTORS;
    CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));
    return for_each_cell(cell, false);
}
