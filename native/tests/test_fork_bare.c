/* Children that are made past the fork handlers: nothing is mapped in one made by clone, and it is noticed at its first
 * call; one made by vfork runs in its parent's memory, and traps there. */
#include "harness.h"

static const char *memory, *trap;
static bufpool_pool *pool;

static struct child run_bare(void (*function)(void *))
{
    return run_child_of(bare_fork, function, NULL);
}

static void touch(void *argument)
{
    (void)argument;
    read_byte((char *)bufpool_address(pool, 0) + 17);
}

static void call(void *argument)
{
    (void)argument;
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_HAS(last_error(), "past the fork handlers");
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_IS(bufpool_close(pool), ==, BUFPOOL_EUNSUPPORTED);
    CHECK_IS(state_of(pool, 0), ==, BUFPOOL_STATE_ALLOCATED);
    bufpool_fault fault = BUFPOOL_FAULT_INIT;
    for (page = 0; page < 8; page++) {
        CHECK(traps_at((char *)bufpool_address(pool, page) + 3, &fault));
        CHECK_IS(fault.flags, ==, BUFPOOL_FAULT_FORKED);
        CHECK_IS(fault.signal, ==, SIGSEGV);
        CHECK_HAS(fault.fork_note, "past the fork handlers");
    }
}

static void grandchild(void *argument)
{
    bufpool_pool *own = argument;
    uint64_t page;
    CHECK_STRING(bufpool_address(own, 0), "own"); /* inherited, from here on */
    CHECK(traps_at(bufpool_address(own, 5), NULL));
    CHECK_OK(bufpool_allocate(own, NULL, 0, &page));
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
}

/* Once it has been noticed, such a child is a process like any other. */
static void go_on(void *argument)
{
    (void)argument;
    bufpool_pool *own = open_pool("anon", trap, "resume", 8 * GRANULE, GRANULE);
    uint64_t page;
    CHECK_OK(bufpool_allocate(own, "own", 4, &page));
    CHECK(traps_at(bufpool_address(own, 5), NULL));
    struct child child = run_child(grandchild, own);
    CHECK_PASSED(child);
    CHECK_OK(bufpool_close(own));
    CHECK_IS(bufpool_free(pool, 0), ==, BUFPOOL_EUNSUPPORTED);
}

static void fork_first(void *unused)
{
    (void)unused;
    uint64_t page;
    CHECK_IS(bufpool_allocate(pool, NULL, 0, &page), ==, BUFPOOL_EUNSUPPORTED);
}

static void fork_at_once(void *argument)
{
    (void)argument;
    struct child child = run_child(fork_first, NULL);
    CHECK_PASSED(child);
}

static void check_parent(void)
{
    CHECK_STRING(bufpool_address(pool, 0), "parent");
    for (uint64_t page = 1; page < 8; page++) {
        CHECK(traps_at(bufpool_address(pool, page), NULL));
    }
}

/* The child has the parent's memory, and its own handlers: the default action ends it, not the parent. */
static void in_parents_memory(void)
{
    int ends[2];
    CHECK_OK(pipe2(ends, O_CLOEXEC));
    int keep = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    pid_t pid = vfork();
    CHECK(pid >= 0);
    if (pid == 0) {
        read_byte((char *)bufpool_address(pool, 5) + 9);
        _exit(3);
    }
    dup2(keep, STDERR_FILENO);
    close(keep);
    close(ends[1]);
    char text[8192] = "";
    CHECK_IS(read(ends[0], text, sizeof text - 1), >, 0);
    close(ends[0]);
    int status;
    CHECK_IS(waitpid(pid, &status, 0), ==, pid);
    CHECK(WIFSIGNALED(status));
    CHECK_IS(WTERMSIG(status), ==, signal_of(trap));
    char headline[80];
    snprintf(headline, sizeof headline, "==%d==ERROR: bufpool: stray read of an unallocated page", (int)pid);
    CHECK_HAS(text, headline);
    CHECK(strstr(text, "note:") == NULL);
    check_parent();
}

static void cell(const char *of_memory, const char *by_trap)
{
    memory = of_memory;
    trap = by_trap;
    pool = open_pool(memory, trap, "abort", 8 * GRANULE, GRANULE);
    uint64_t page;
    CHECK_OK(bufpool_allocate(pool, "parent", 7, &page));
    struct child child = run_bare(touch);
    CHECK_DIED(child, SIGSEGV);
    CHECK_CHILD(count_in(child.text, "stray read of a page of the parent's pool") == 1, child);
    CHECK_CHILD(strstr(child.text, "past the fork handlers, as by _Fork or clone") != NULL, child);
    child = run_bare(call);
    CHECK_PASSED(child);
    child = run_bare(go_on);
    CHECK_PASSED(child);
    child = run_bare(fork_at_once);
    CHECK_PASSED(child);
    check_parent();
    in_parents_memory();
    CHECK_OK(bufpool_close(pool));
}

int main(void)
{
    harness_begin();
    if (SANITIZED) {
        printf("the sanitizers' runtimes do not bear children made by clone\n");
        return HARNESS_SKIP;
    }
    return for_each_cell(cell, false);
}
